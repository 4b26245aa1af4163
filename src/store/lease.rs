//! Leases between machines that share a file system: who works on what, as long as it says so.
//!
//! Owns how a lease ages: by the clock of whoever looks, never by comparing two machines' clocks.
//! On one machine the kernel's locks say more; a lease of this machine never stands in the way.

#![expect(clippy::disallowed_methods, reason = "waits for another machine's next sign of life")]

use std::time::{Duration, Instant};

use super::{Store, StoreError};

/// A lease that was not renewed for so long is nobody's.
pub const LEASE: Duration = Duration::from_secs(60);
/// How often it is renewed.
pub const RENEWAL: Duration = Duration::from_secs(10);

/// A lease as it stands in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Whether a process of this machine, since its last start, wrote it.
    pub ours: bool,
    /// Rises with each renewal.
    pub beat: i64,
}

/// What is known of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody of another machine holds it.
    Free,
    /// Somebody did; whether it lives is not known yet.
    Unsure,
    /// Another machine renewed it since the last look.
    Elsewhere,
    /// Another machine did not renew it for the whole time. It may be taken over.
    Expired,
}

/// Looks at one lease again and again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    seen: Option<(i64, Instant)>,
}

impl Watch {
    /// What a look says. The clock is this machine's own, which nobody sets.
    pub fn look(&mut self, lease: Option<Lease>, now: Instant) -> Standing {
        let Some(lease) = lease.filter(|lease| !lease.ours) else {
            self.seen = None;
            return Standing::Free;
        };
        match self.seen {
            Some((beat, since)) if beat == lease.beat => {
                let age = now.saturating_duration_since(since);
                if age >= LEASE { Standing::Expired } else { Standing::Unsure }
            }
            Some(_) => {
                self.seen = Some((lease.beat, now));
                Standing::Elsewhere
            }
            None => {
                self.seen = Some((lease.beat, now));
                Standing::Unsure
            }
        }
    }
}

/// Takes a lease, waiting until it is certain that no other machine holds it. False where one does.
///
/// # Errors
/// The store.
pub fn acquire(store: &mut dyn Store, name: &str) -> Result<bool, StoreError> {
    let mut watch = Watch::default();
    loop {
        let lease = store.lease(name)?;
        let over = match watch.look(lease, Instant::now()) {
            Standing::Elsewhere => return Ok(false),
            Standing::Unsure => {
                std::thread::sleep(Duration::from_secs(1));
                continue;
            }
            Standing::Free => None,
            Standing::Expired => lease.map(|lease| lease.beat),
        };
        if store.hold(name, over)? {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ages_by_the_clock_of_whoever_looks() {
        let begin = Instant::now();
        let now = |second: u64| begin + Duration::from_secs(second);
        let foreign = |beat| Some(Lease { ours: false, beat });
        let mut watch = Watch::default();
        assert_eq!(watch.look(None, now(0)), Standing::Free);
        assert_eq!(watch.look(Some(Lease { ours: true, beat: 3 }), now(0)), Standing::Free);
        assert_eq!(watch.look(foreign(7), now(0)), Standing::Unsure);
        assert_eq!(watch.look(foreign(7), now(59)), Standing::Unsure);
        assert_eq!(watch.look(foreign(8), now(59)), Standing::Elsewhere);
        assert_eq!(watch.look(foreign(8), now(118)), Standing::Unsure);
        assert_eq!(watch.look(foreign(8), now(119)), Standing::Expired);
    }
}
