//! Signals to a command that waits.
//!
//! Owns counting them. What follows from one is the command's to say.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::error::CliError;
use crate::executor::is_ignored;

/// Signals that were received.
pub struct Signals {
    counts: [(i32, Arc<AtomicUsize>); 3],
}

impl Signals {
    /// Listens from now on.
    pub fn listen() -> Result<Self, CliError> {
        let counts =
            [SIGINT, SIGTERM, SIGHUP].map(|signal| (signal, Arc::new(AtomicUsize::new(0))));
        for (signal, count) in &counts {
            if is_ignored(*signal) {
                continue;
            }
            let count = Arc::clone(count);
            let raise = move || {
                count.fetch_add(1, Ordering::Relaxed);
            };
            register(*signal, raise).map_err(|error| CliError::bug(&error))?;
        }
        Ok(Self { counts })
    }

    /// How many were received.
    pub fn count(&self) -> usize {
        self.counts.iter().map(|(_, count)| count.load(Ordering::Relaxed)).sum()
    }

    /// The number of one that was received.
    pub fn received(&self) -> Option<u8> {
        let received = self.counts.iter().find(|(_, count)| count.load(Ordering::Relaxed) > 0);
        received.and_then(|(signal, _)| u8::try_from(*signal).ok())
    }
}

#[expect(unsafe_code, reason = "signal handlers may only touch atomics, which this one does")]
fn register(signal: i32, raise: impl Fn() + Sync + Send + 'static) -> std::io::Result<()> {
    // SAFETY: the action adds to an atomic, which is async-signal-safe.
    unsafe { signal_hook::low_level::register(signal, raise) }.map(|_| ())
}
