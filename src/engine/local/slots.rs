//! The limit on parallel steps over all hosts of a state.
//!
//! Owns one lock file for each slot. The kernel of the machine releases a lock when its holder
//! dies, so no slot is ever lost.

#![expect(clippy::disallowed_methods, reason = "opens lock files")]

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

/// The slots.
pub struct Slots {
    folder: PathBuf,
    count: usize,
}

/// A held slot; free again when dropped.
pub struct Slot(#[expect(dead_code, reason = "its lock is what counts")] File);

impl Slots {
    /// So many slots under a state's folder.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new(state: &Path, count: usize) -> std::io::Result<Self> {
        let folder = state.join("slots");
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder, count: count.max(1) })
    }

    /// A free slot, if there is one now.
    pub fn take(&self) -> Option<Slot> {
        (0..self.count).find_map(|number| {
            let file = File::create(self.folder.join(number.to_string())).ok()?;
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
            Some(Slot(file))
        })
    }
}
