//! Events of a file system, as hints that a look is worth while.
//!
//! Owns which folders are watched. What an event says is never believed, and none is needed: network
//! and overlay mounts send none, queues overflow, watches run out. The scan is the truth.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{AccessKind, AccessMode, EventKind, RemoveKind};
use notify::{ErrorKind, RecommendedWatcher, RecursiveMode, Watcher};

/// What a watched tree tells those who wait for it.
#[derive(Debug, Default)]
pub struct Hints {
    count: AtomicU64,
    trouble: Mutex<Option<String>>,
    /// Folders that went away, and their watches with them.
    gone: Mutex<Vec<PathBuf>>,
}

impl Hints {
    /// Rises whenever something below the root may have changed.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Why not all of it is watched, with the cure.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fail(&self, words: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = words;
    }
}

/// The folders of a tree, watched.
pub struct Watch {
    hints: Arc<Hints>,
    watcher: Option<RecommendedWatcher>,
    watched: HashSet<PathBuf>,
    /// How often the folders had changed when they were covered.
    covered: u64,
}

impl Watch {
    /// Watches nothing yet.
    pub fn new() -> Self {
        let hints = Arc::new(Hints::default());
        let told = Arc::clone(&hints);
        let made = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return };
            if tells(&event) {
                told.count.fetch_add(1, Ordering::Relaxed);
            }
            if matches!(event.kind, EventKind::Remove(kind) if kind != RemoveKind::File) {
                told.gone.lock().unwrap_or_else(PoisonError::into_inner).extend(event.paths);
            }
        });
        let watcher = match made {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                hints.fail(Some(format!(
                    "folders are not watched ({error}): changes are seen with the next poll; where \
                     fs.inotify.max_user_instances is used up, raise it by sysctl"
                )));
                None
            }
        };
        Self { hints, watcher, watched: HashSet::new(), covered: 0 }
    }

    /// What it tells.
    pub fn hints(&self) -> Arc<Hints> {
        Arc::clone(&self.hints)
    }

    /// Watches these folders and no others, which changed so often so far.
    pub fn cover<'a>(&mut self, changes: u64, folders: impl Iterator<Item = &'a Path> + Clone) {
        let Some(watcher) = self.watcher.as_mut().filter(|_| self.covered != changes) else {
            return;
        };
        self.covered = changes;
        // One that was made again at the same place needs a new watch.
        let gone =
            std::mem::take(&mut *self.hints.gone.lock().unwrap_or_else(PoisonError::into_inner));
        for path in gone {
            if self.watched.remove(&path) {
                let _ = watcher.unwatch(&path);
            }
        }
        let present: HashSet<&Path> = folders.clone().collect();
        self.watched.retain(|path| {
            let stays = present.contains(path.as_path());
            if !stays {
                // What is gone has no watch any more.
                let _ = watcher.unwatch(path);
            }
            stays
        });
        let mut trouble = None;
        for folder in folders {
            if self.watched.contains(folder) {
                continue;
            }
            match watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(folder.to_owned());
                }
                Err(error) if matches!(error.kind, ErrorKind::MaxFilesWatch) => {
                    trouble = Some(format!(
                        "{} of {} folders are watched, for fs.inotify.max_user_watches is used up: \
                         changes elsewhere are seen with the next poll; raise it by sysctl",
                        self.watched.len(),
                        present.len()
                    ));
                    break;
                }
                // It went away, or its file system knows no events.
                Err(_) => {}
            }
        }
        self.hints.fail(trouble);
    }
}

/// Whether an event may be a change: reading is none, and a queue that overflowed may hide many.
fn tells(event: &notify::Event) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => event.need_rescan(),
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}

#[cfg(test)]
mod tests {
    use notify::Event;
    use notify::event::{CreateKind, Flag};

    use super::*;

    #[test]
    fn reading_is_no_change_and_a_full_queue_is() {
        let read = Event::new(EventKind::Access(AccessKind::Open(AccessMode::Any)));
        let written = Event::new(EventKind::Access(AccessKind::Close(AccessMode::Write)));
        let overflow = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert!(!tells(&read));
        assert!(tells(&written) && tells(&overflow));
        assert!(tells(&Event::new(EventKind::Create(CreateKind::File))));
    }
}
