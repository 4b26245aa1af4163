//! Polls many repositories in the background: each at its interval, backing off where it fails.
//!
//! Owns when each is asked, and by which of a few threads. A server that hangs costs one thread until
//! its time is up, and its own repositories their turn.

#![expect(clippy::disallowed_methods, reason = "waits, and takes the time of each poll")]

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Mirror;
use crate::types::{Digest, Period, Timestamp};

/// So many threads poll.
const THREADS: usize = 8;
/// A failing repository is asked this often at least.
const LONGEST: Duration = Duration::from_secs(900);
/// A wake-up from outside brings a poll no closer to the last than this.
const SPACING: Duration = Duration::from_secs(1);
/// A host is asked so often in a second, and so often at once.
const RATE: f64 = 20.0;
const BURST: f64 = 40.0;

/// A repository to poll.
pub struct Polled {
    /// Its source.
    pub name: String,
    /// How often.
    pub every: Period,
    /// Where it is mirrored.
    pub mirror: Mirror,
}

/// What is known of the polls of a repository.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// When it last answered.
    pub answered: Option<Timestamp>,
    /// Since when it fails, and why it did last.
    pub failing: Option<(Timestamp, String)>,
    /// Branches whose newest commit is not trusted, with the reason.
    pub refused: BTreeMap<String, String>,
    /// Rises with each poll that found something new.
    pub changes: u64,
    /// How often it was polled.
    pub polls: u64,
}

struct Slot {
    polled: Polled,
    due: Instant,
    last: Option<Instant>,
    busy: bool,
    failures: u32,
    health: Health,
}

struct Inner {
    slots: Vec<Slot>,
    buckets: HashMap<String, (f64, Instant)>,
    stopped: bool,
    /// How long a tip that goes back must stand.
    patience: Period,
}

struct Shared {
    inner: Mutex<Inner>,
    woken: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The threads that poll. They end with it.
pub struct Poller {
    shared: Arc<Shared>,
}

impl Poller {
    /// Begins to poll; the first polls are spread over a second. A tip that goes back counts once it stood
    /// for `patience`.
    pub fn start(polled: Vec<Polled>, patience: Period) -> Self {
        let now = Instant::now();
        let count = polled.len();
        let slots = polled.into_iter().map(|polled| Slot {
            due: now + Duration::from_secs(1).mul_f64(share(&polled.name, 0)),
            polled,
            last: None,
            busy: false,
            failures: 0,
            health: Health::default(),
        });
        let slots = slots.collect();
        let (buckets, stopped) = (HashMap::new(), false);
        let inner = Inner { slots, buckets, stopped, patience };
        let shared = Arc::new(Shared { inner: Mutex::new(inner), woken: Condvar::new() });
        for _ in 0..count.min(THREADS) {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || work(&shared));
        }
        Self { shared }
    }

    /// What is known of each, by the name of its source.
    pub fn health(&self) -> Vec<(String, Health)> {
        let inner = self.shared.lock();
        let each = inner.slots.iter().map(|slot| (slot.polled.name.clone(), slot.health.clone()));
        each.collect()
    }

    /// Rises with each poll that found something new or changed how a repository does.
    pub fn changes(&self) -> u64 {
        self.shared.lock().slots.iter().map(|slot| slot.health.changes).sum()
    }

    /// Brings the next poll of a source forward. Says whether there is such a source.
    pub fn nudge(&self, name: &str) -> bool {
        let mut inner = self.shared.lock();
        let slot = inner.slots.iter_mut().find(|slot| slot.polled.name == name);
        let found = slot.map(|slot| {
            let soonest = slot.last.map_or_else(Instant::now, |last| last + SPACING);
            slot.due = slot.due.min(soonest.max(Instant::now()));
        });
        drop(inner);
        self.shared.woken.notify_all();
        found.is_some()
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.woken.notify_all();
    }
}

fn work(shared: &Shared) {
    let mut inner = shared.lock();
    while !inner.stopped {
        let now = Instant::now();
        let next = inner.slots.iter().enumerate().filter(|(_, slot)| !slot.busy);
        let next = next.min_by_key(|(_, slot)| slot.due).map(|(at, slot)| (at, slot.due));
        let Some((at, due)) = next else {
            inner = shared.woken.wait(inner).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        if due > now {
            let waited = shared.woken.wait_timeout(inner, due - now);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
            continue;
        }
        if let Some(pause) = take_token(&mut inner, at, now) {
            inner.slots[at].due = now + pause;
            continue;
        }
        let slot = &mut inner.slots[at];
        (slot.busy, slot.last) = (true, Some(now));
        let mirror = slot.polled.mirror.clone();
        let patience = inner.patience;
        drop(inner);
        let before = mirror.known();
        // A bug in one repository's reading must not end the polling of all others.
        let poll = || mirror.poll(patience, Timestamp::now());
        let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(poll));
        let polled = polled.unwrap_or_else(|_| Err(super::GitError("this is a bug".into())));
        inner = shared.lock();
        let slot = &mut inner.slots[at];
        slot.busy = false;
        slot.health.polls += 1;
        let now = Timestamp::now();
        match polled {
            Ok(known) => {
                slot.failures = 0;
                let recovered = slot.health.failing.take().is_some();
                let told = known.refused != slot.health.refused;
                let news = known.branches != before.branches || recovered || told;
                slot.health.changes += u64::from(news);
                slot.health.refused = known.refused;
                slot.health.answered = Some(now);
            }
            Err(error) => {
                slot.failures += 1;
                let since = slot.health.failing.as_ref().map_or(now, |(since, _)| *since);
                let failing = Some((since, error.to_string()));
                slot.health.changes += u64::from(slot.health.failing != failing);
                slot.health.failing = failing;
            }
        }
        let every = slot.polled.every.duration();
        let pause = pause(every, slot.failures, share(&slot.polled.name, slot.health.polls));
        slot.due = Instant::now() + pause;
        shared.woken.notify_all();
    }
}

/// How long until a host may be asked again; none where it may now, which then counts.
fn take_token(inner: &mut Inner, at: usize, now: Instant) -> Option<Duration> {
    let host = inner.slots[at].polled.mirror.repository.address.host()?.to_owned();
    let (tokens, since) = inner.buckets.entry(host).or_insert((BURST, now));
    *tokens = (*tokens + now.duration_since(*since).as_secs_f64() * RATE).min(BURST);
    *since = now;
    if *tokens < 1.0 {
        return Some(Duration::from_secs_f64((1.0 - *tokens) / RATE));
    }
    *tokens -= 1.0;
    None
}

/// The pause after a poll: the interval, twice as long with each failure, a tenth more or less.
fn pause(every: Duration, failures: u32, share: f64) -> Duration {
    let longest = LONGEST.max(every);
    let doubled = every.saturating_mul(1 << failures.min(16)).min(longest);
    doubled.mul_f64(0.95 + 0.1 * share)
}

/// A number from 0 to 1 that is another for each source and poll, and the same each time.
fn share(name: &str, count: u64) -> f64 {
    let digest = Digest::of_bytes(format!("{name} {count}").as_bytes());
    let number = u32::from_str_radix(&digest.hex()[..8], 16).unwrap_or(0);
    f64::from(number) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_double_the_pause_up_to_a_quarter_of_an_hour() {
        let minute = Duration::from_secs(60);
        let pauses = (0..7).map(|failures| pause(minute, failures, 0.5).as_secs());
        assert_eq!(pauses.collect::<Vec<_>>(), [60, 120, 240, 480, 900, 900, 900]);
        assert_eq!(pause(Duration::from_secs(7200), 9, 0.5).as_secs(), 7200);
        let shares: Vec<f64> = (0..100).map(|count| share("a", count)).collect();
        assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)));
        assert!(shares.iter().any(|share| *share < 0.2) && shares.iter().any(|s| *s > 0.8));
    }
}
