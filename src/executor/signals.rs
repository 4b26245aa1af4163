//! Signals to this process: which are heard, and which whoever started it wants ignored, as `nohup`
//! does for hang-ups.
//!
//! Owns the streams of signals. What a signal means is decided elsewhere.

#![expect(clippy::disallowed_methods, reason = "reads what the kernel says of this process")]

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Whether a signal is ignored, by its number.
pub fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0);
    signal > 0 && mask >> (signal - 1) & 1 == 1
}

/// The signals that end an execution.
pub struct Signals(Vec<(i32, Signal)>);

impl Signals {
    /// Begins to hear them.
    ///
    /// # Errors
    /// Those of the runtime.
    pub fn new() -> std::io::Result<Self> {
        let kinds = [
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::hangup(),
            SignalKind::quit(),
        ];
        let heard = kinds.into_iter().filter(|kind| !is_ignored(kind.as_raw_value()));
        let streams = heard.map(|kind| Ok((kind.as_raw_value(), signal(kind)?)));
        streams.collect::<std::io::Result<_>>().map(Self)
    }

    /// The number of the next signal.
    pub async fn next(&mut self) -> i32 {
        let waits = self.0.iter_mut().map(|(number, stream)| {
            Box::pin(async move {
                stream.recv().await;
                *number
            })
        });
        futures::future::select_all(waits).await.0
    }

    /// Waits for work that may hang. A signal ends the wait, and its number is the error.
    pub async fn unless<T>(&mut self, work: impl Future<Output = T>) -> Result<T, i32> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            number = self.next() => Err(number),
        }
    }
}
