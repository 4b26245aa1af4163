//! Which folders a tree has and which pipeline files lie in them, kept from one look to the next.
//!
//! Owns that a folder whose times did not change is not read again: a warm scan asks the file system
//! once for each folder. A folder that changed a moment ago is read again, since its times may not tell
//! a second change.

#![expect(clippy::disallowed_methods, reason = "reads the source's folders")]

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::super::named;
use crate::spec::FILE_NAMES;

/// Identity of a content, as far as a file system tells: device, inode, size, and the times of the
/// last write and the last change.
pub type Stamp = (u64, u64, u64, i64, i64, i64, i64);

/// Times that are nearer than this to the moment of a look may not tell the next change, in seconds.
const RACY: i64 = 2;
/// So many threads ask a file system that may be far away.
const THREADS: usize = 4;
/// Fewer paths than this are asked for by one thread.
const FEW: usize = 256;

/// The folders of a tree.
#[derive(Default)]
pub struct Scan {
    folders: HashMap<PathBuf, Folder>,
    /// What the last walk found, while nothing has changed since.
    last: Option<Found>,
    /// How many walks found something else than the one before.
    pub changes: u64,
}

#[derive(Clone, Default)]
struct Folder {
    stamp: Option<Stamp>,
    children: Vec<PathBuf>,
    /// Pipeline files, and whether each is no plain file.
    files: Vec<(PathBuf, bool)>,
    /// Whether a state of its own lies in it.
    managed: bool,
    unreadable: Option<String>,
}

/// What a scan found, in order.
#[derive(Clone, Default, PartialEq)]
pub struct Found {
    /// Pipeline files, and whether each is no plain file.
    pub files: Vec<(PathBuf, bool)>,
    /// Folders that another state manages.
    pub elsewhere: Vec<PathBuf>,
    /// Folders that could not be read.
    pub unreadable: Vec<(PathBuf, String)>,
}

/// The stamp of what stands at a path, through links.
pub fn stamp(path: &Path) -> std::io::Result<Stamp> {
    std::fs::metadata(path).map(|metadata| stamp_of(&metadata))
}

/// The stamp of what is open or was asked for.
pub fn stamp_of(metadata: &std::fs::Metadata) -> Stamp {
    (
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    )
}

/// Whether a stamp may be that of two contents: it was written a moment ago, or in the future.
pub fn is_racy(stamp: &Stamp, now: i64) -> bool {
    stamp.3.max(stamp.5) + RACY >= now
}

/// The time of this machine, in seconds since 1970.
pub fn seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The stamps of many paths, in their order; none where nobody can tell.
pub fn stamps(paths: &[&Path]) -> Vec<Option<Stamp>> {
    let ask = |paths: &[&Path]| paths.iter().map(|path| stamp(path).ok()).collect::<Vec<_>>();
    if paths.len() < FEW {
        return ask(paths);
    }
    let each = paths.len().div_ceil(THREADS);
    std::thread::scope(|scope| {
        let asked = paths.chunks(each).map(|part| scope.spawn(move || ask(part)));
        let asked: Vec<_> = asked.collect();
        asked.into_iter().flat_map(|part| part.join().unwrap_or_default()).collect()
    })
}

impl Scan {
    /// The folders that the last walk found, those that nobody looks into apart.
    pub fn folders(&self) -> impl Iterator<Item = &Path> + Clone {
        self.folders.keys().map(PathBuf::as_path)
    }

    /// Forgets all folders, so that each is read again.
    pub fn forget(&mut self) {
        *self = Self { changes: self.changes, ..Self::default() };
    }

    /// Whether a walk would find something else. Cheaper than a walk.
    pub fn changed(&mut self, start: &Path) -> bool {
        let known: Vec<&Path> = self.folders.keys().map(PathBuf::as_path).collect();
        let (present, now) = (stamps(&known), seconds());
        let mut folders = self.folders.values().zip(present);
        let still = self.last.is_some() && folders.all(|(folder, at)| folder.stands(at, now));
        !still && self.walk(start).1
    }

    /// Walks the tree below a folder, reading only folders that changed. Also says whether any did.
    pub fn walk(&mut self, start: &Path) -> (Found, bool) {
        let now = seconds();
        let before = std::mem::take(&mut self.folders);
        let known: Vec<&Path> = before.keys().map(PathBuf::as_path).collect();
        let stamps: HashMap<&Path, Option<Stamp>> =
            known.iter().copied().zip(stamps(&known)).collect();
        let mut changed = false;
        let mut found = Found::default();
        let mut stack = vec![start.to_owned()];
        while let Some(path) = stack.pop() {
            let present = stamps.get(path.as_path()).copied().unwrap_or_else(|| stamp(&path).ok());
            let known = before.get(&path).filter(|known| known.stands(present, now));
            let folder = if let Some(known) = known {
                known.clone()
            } else {
                let folder = read(&path, present);
                changed |= before.get(&path).is_none_or(|known| !known.is_like(&folder));
                folder
            };
            if folder.managed && path != start {
                found.elsewhere.push(path.clone());
            } else {
                stack.extend(folder.children.iter().rev().cloned());
                found.files.extend(folder.files.iter().cloned());
                found.unreadable.extend(folder.unreadable.clone().map(|why| (path.clone(), why)));
            }
            self.folders.insert(path, folder);
        }
        changed |= self.folders.len() != before.len();
        self.changes += u64::from(changed);
        self.last = Some(found.clone());
        (found, changed)
    }
}

impl Folder {
    /// Whether its times say that it holds what it did. What could not be read has nothing that stands: a
    /// volume may have failed just after it told the times.
    fn stands(&self, present: Option<Stamp>, now: i64) -> bool {
        self.stamp.is_some()
            && self.unreadable.is_none()
            && self.stamp == present
            && present.is_some_and(|stamp| !is_racy(&stamp, now))
    }

    /// Whether it holds the same and may not have been written to since.
    fn is_like(&self, other: &Self) -> bool {
        self.stamp == other.stamp
            && self.children == other.children
            && self.files == other.files
            && self.managed == other.managed
            && self.unreadable == other.unreadable
    }
}

fn read(path: &Path, stamp: Option<Stamp>) -> Folder {
    let mut folder = Folder { stamp, ..Folder::default() };
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => {
            folder.unreadable = Some(error.to_string());
            return folder;
        }
    };
    let mut environment = false;
    for entry in entries {
        let (name, kind) = match entry.and_then(|entry| Ok((entry.file_name(), entry.file_type()?)))
        {
            Ok(entry) => entry,
            Err(error) => {
                folder.unreadable = Some(error.to_string());
                continue;
            }
        };
        let Some(name) = name.to_str() else { continue };
        let full = path.join(name);
        if FILE_NAMES.contains(&name) {
            folder.files.push((full, !kind.is_file()));
        } else if kind.is_dir() {
            folder.managed |= name == ".jupyterflow";
            environment |= name == "conda-meta";
            if !named::is_skipped(name) {
                folder.children.push(full);
            }
        } else {
            environment |= name == "pyvenv.cfg";
        }
    }
    if environment {
        // A virtual environment has no pipelines of its user's.
        (folder.children, folder.files) = (Vec::new(), Vec::new());
    }
    folder.children.sort();
    folder.files.sort();
    folder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_could_not_be_read_is_read_again() {
        let stamp = Some((1, 2, 3, 4, 5, 6, 7));
        let read = Folder { stamp, ..Folder::default() };
        assert!(read.stands(stamp, 1000));
        assert!(!read.stands(None, 1000) && !read.stands(stamp, 6));
        let failed = Folder { unreadable: Some("Input/output error".into()), ..read };
        assert!(!failed.stands(stamp, 1000));
    }
}
