//! The log of a step as the pod's own.
//!
//! Owns that all that was written before the end is shown before the end.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::LOOK;

/// A log that is shown as it grows: the pod's own log is what `kubectl logs` shows.
pub struct Shown {
    over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Shown {
    /// Begins to show what is added to a file from here on.
    pub fn from(path: &Path) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (path, ends) = (path.to_owned(), Arc::clone(&over));
        let mut at = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        let thread = std::thread::spawn(move || {
            loop {
                // What was written before the end is shown before the end.
                let last = ends.load(Ordering::Relaxed);
                if let Ok(count) = show(&path, at) {
                    at += count;
                }
                if last {
                    return;
                }
                std::thread::sleep(LOOK);
            }
        });
        Self { over, thread }
    }

    /// Shows the rest, and ends.
    pub fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
    }
}

fn show(path: &Path, from: u64) -> std::io::Result<u64> {
    let mut file = std::fs::File::open(path)?;
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(from))?;
    let (mut buffer, mut shown, mut out) = (vec![0; 1 << 16], 0, std::io::stdout());
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            out.flush()?;
            return Ok(shown);
        }
        out.write_all(&buffer[..count])?;
        shown += count as u64;
    }
}
