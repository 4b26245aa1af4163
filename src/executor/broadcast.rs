//! The kernel's output channel, drained on a thread of its own.
//!
//! Owns the one socket that loses what is not read in time: a publisher keeps 1,000 messages for us
//! and drops the rest without a word. So this thread does nothing but read, and it watches itself:
//! where messages may have been dropped, it says so. It must not look into a message.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, MissedTickBehavior, interval};
use zeromq::{Socket, SocketEvent, SocketRecv, SubSocket, ZmqMessage};

/// So many messages a publisher keeps for a subscriber (`ZMQ_SNDHWM`'s default).
const SEND_LIMIT: u32 = 1_000;
/// How often the thread looks whether it ran all the time.
const TICK: Duration = Duration::from_millis(20);
/// Where two looks are further apart, the thread was stopped or starved.
const STALL: Duration = Duration::from_millis(80);
/// A channel that was empty for so long has nothing queued, and after a stall a full queue is read
/// within the second of these; both also where the machine has much else to do.
const LULL: Duration = Duration::from_millis(50);
const CATCH_UP: Duration = Duration::from_secs(4);
/// So many bytes may wait for the executor; then the thread reads no further, and memory is bounded.
const WAITING: usize = 4 << 20;

/// What the thread sends.
#[derive(Debug)]
pub enum Item {
    /// A message.
    Message(ZmqMessage),
    /// Messages before the next one may be missing.
    MayBeMissing,
    /// Nothing more comes, and why.
    Closed(String),
}

/// The receiving end.
#[derive(Debug)]
pub struct Broadcasts {
    items: UnboundedReceiver<Item>,
    room: Arc<Semaphore>,
}

impl Broadcasts {
    /// Connects to the socket and subscribes to everything. Returns once that is done.
    ///
    /// # Errors
    /// The connection fails, or no thread can be had.
    pub async fn connect(endpoint: String) -> Result<Self, String> {
        let (sender, items) = unbounded_channel();
        let room = Arc::new(Semaphore::new(WAITING));
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let shared = Arc::clone(&room);
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(async {
                    let mut socket = SubSocket::new();
                    let connected = match socket.connect(&endpoint).await {
                        Ok(()) => socket.subscribe("").await,
                        Err(error) => Err(error),
                    };
                    let failed = connected.as_ref().err().map(ToString::to_string);
                    if ready.send(failed).is_ok() && connected.is_ok() {
                        drain(socket, &sender, &shared).await;
                    }
                }),
                Err(error) => {
                    let _ = ready.send(Some(error.to_string()));
                }
            }
        };
        std::thread::Builder::new()
            .name("kernel-output".into())
            .spawn(work)
            .map_err(|error| error.to_string())?;
        match is_ready.await {
            Ok(None) => Ok(Self { items, room }),
            Ok(Some(error)) => Err(error),
            Err(_) => Err("the reading thread ended".into()),
        }
    }

    /// The next item; `Closed` again and again once nothing more comes.
    pub async fn next(&mut self) -> Item {
        match self.items.recv().await {
            Some(Item::Message(message)) => {
                self.room.add_permits(weight(&message));
                Item::Message(message)
            }
            Some(item) => item,
            None => Item::Closed("its output channel is closed".into()),
        }
    }
}

fn weight(message: &ZmqMessage) -> usize {
    message.iter().map(bytes::Bytes::len).sum::<usize>().clamp(1, WAITING)
}

/// Reads until the other end goes, on either side.
async fn drain(mut socket: SubSocket, sender: &UnboundedSender<Item>, room: &Semaphore) {
    let mut events = socket.monitor();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch::new(Instant::now());
    loop {
        let at_once = socket.recv().now_or_never();
        let received = if let Some(received) = at_once {
            received
        } else {
            watch.wait(Instant::now());
            tokio::select! {
                biased;
                received = socket.recv() => received,
                _ = ticks.tick() => {
                    watch.look(Instant::now());
                    if sender.is_closed() {
                        return;
                    }
                    continue;
                }
                event = events.next() => {
                    if matches!(event, Some(SocketEvent::Disconnected(_)) | None) {
                        let _ = sender.send(Item::Closed("it closed its output channel".into()));
                        return;
                    }
                    continue;
                }
            }
        };
        let item = match received {
            Ok(message) => {
                if watch.message(Instant::now()) && sender.send(Item::MayBeMissing).is_err() {
                    return;
                }
                let weight = u32::try_from(weight(&message)).unwrap_or(u32::MAX);
                if let Ok(permits) = room.acquire_many(weight).await {
                    permits.forget();
                }
                Item::Message(message)
            }
            Err(error) => Item::Closed(format!("its output channel broke: {error}")),
        };
        let last = matches!(item, Item::Closed(_));
        if sender.send(item).is_err() || last {
            return;
        }
    }
}

/// Tells from the times of our own looks whether a publisher may have dropped something: it keeps
/// [`SEND_LIMIT`] messages, so whatever was dropped, that many stand before us.
#[derive(Debug)]
struct Watch {
    last: Instant,
    /// When nothing was there to read.
    waits_since: Option<Instant>,
    /// Since when there was a stall, and the messages since then.
    stall: Option<(Instant, u32)>,
    /// Messages that were there without waiting, one after another.
    in_a_row: u32,
}

impl Watch {
    fn new(now: Instant) -> Self {
        Self { last: now, waits_since: None, stall: None, in_a_row: 0 }
    }

    /// Nothing is there to read.
    fn wait(&mut self, now: Instant) {
        self.waits_since.get_or_insert(now);
    }

    /// A look at the clock: a stall is a long time without one.
    fn look(&mut self, now: Instant) {
        if now.duration_since(self.last) > STALL {
            self.stall = Some((now, 0));
        }
        self.last = now;
    }

    /// A message came. Whether messages before it may be missing; said once for a stretch.
    fn message(&mut self, now: Instant) -> bool {
        self.look(now);
        let waited = self.waits_since.take();
        self.in_a_row = if waited.is_none() { self.in_a_row.saturating_add(1) } else { 0 };
        let mut full = self.in_a_row == SEND_LIMIT;
        if let Some((since, count)) = &mut self.stall {
            *count += 1;
            full |= *count == SEND_LIMIT;
            // Whatever had queued is read once the channel was empty for a while.
            let empty = waited.is_some_and(|from| from >= *since && now - from > LULL);
            if empty || now - *since > CATCH_UP || *count == SEND_LIMIT {
                self.stall = None;
            }
        }
        full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages at these milliseconds, which are waited for or not; how often a loss was suspected.
    fn suspicions(stretches: &[(u64, u32, u64)], waits: bool) -> usize {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut watch = Watch::new(start);
        let mut count = 0;
        for &(begin, messages, pause) in stretches {
            for index in 0..u64::from(messages) {
                let now = begin + index * pause;
                if waits {
                    watch.wait(at(now.saturating_sub(pause)));
                }
                count += usize::from(watch.message(at(now)));
            }
        }
        count
    }

    #[test]
    fn a_stall_with_a_full_queue_behind_it_is_suspect() {
        assert_eq!(suspicions(&[(0, 10, 1), (5_000, 1_200, 1)], true), 1);
        assert_eq!(suspicions(&[(0, 10, 1), (5_000, 900, 1)], true), 0);
        // Without a stall a steady stream is none, however long.
        assert_eq!(suspicions(&[(0, 20_000, 1)], true), 0);
        // A slow stream cannot have filled a queue.
        assert_eq!(suspicions(&[(0, 10, 1), (5_000, 5_000, 15)], true), 0);
        assert_eq!(suspicions(&[(0, 10, 1), (5_000, 5_000, 5)], true), 0);
        // We never caught up with a thousand.
        assert_eq!(suspicions(&[(0, 3_000, 0)], false), 1);
    }
}
