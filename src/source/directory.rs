//! A directory tree as a source, found by our own scan.
//!
//! Owns discovery, what is skipped, and when a file counts as whole. Files that did not change
//! (device, inode, size, times) are not read again.

#![expect(clippy::disallowed_methods, reason = "reads the source's files")]

use std::collections::{BTreeSet, HashMap};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::named::{self, Found, Tree};
use super::{PipelineFile, Snapshot, Source, SourceError};
use crate::spec::fingerprint::{InputMatcher, literal_prefix};
use crate::spec::{self, Documents, FILE_NAMES, FileState, Pipeline, Problem};
use crate::types::{Digest, Hasher, Timestamp};

/// An editor's temporary file that is older than this is a leftover.
const LEFTOVER: i64 = 600;

/// Identity of a file's content, as far as the file system tells.
type Stamp = (u64, u64, u64, i64, i64, i64, i64);

/// A directory tree.
pub struct DirectorySource {
    root: PathBuf,
    /// Only files at or below this folder, relative to the root, are looked at.
    below: PathBuf,
    max_points: usize,
    cache: HashMap<PathBuf, (Stamp, Result<FileState, String>)>,
}

impl DirectorySource {
    /// A source over a root. Only what lies below `below`, relative to it, is looked at.
    pub fn new(root: &Path, below: &Path, max_points: usize) -> Self {
        Self { root: root.to_owned(), below: below.to_owned(), max_points, cache: HashMap::new() }
    }

    fn relative(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).to_string_lossy().into_owned()
    }

    /// One pipeline file by its path from the root, whatever its name.
    pub fn pipeline_file(&mut self, path: &str, now: Timestamp) -> PipelineFile {
        self.read_pipeline_file(&self.root.join(path), now)
    }

    fn read_pipeline_file(&mut self, path: &Path, now: Timestamp) -> PipelineFile {
        let shown = self.relative(path);
        let folder = path.parent().map(|folder| self.relative(folder)).unwrap_or_default();
        let mut file = PipelineFile::new(&shown, &folder);
        let metadata = std::fs::metadata(path);
        file.newest = metadata.as_ref().ok().and_then(newest);
        let size = metadata.map_or(0, |metadata| metadata.len());
        if let Some(problem) = spec::problem_if_huge(&shown, size) {
            file.documents.problems.push(problem);
            return file;
        }
        let text = match std::fs::read(path).map(String::from_utf8) {
            Ok(Ok(text)) => text,
            Ok(Err(_)) => {
                let problem = Problem::of_file(&shown, "the file is not UTF-8 text");
                file.documents.problems.push(problem);
                return file;
            }
            Err(error) => {
                file.broken.push((shown, error.to_string()));
                return file;
            }
        };
        if let Some(reason) = being_saved(path, now) {
            file.broken.push((shown.clone(), reason));
        }
        file.documents = spec::parse(&text, &shown, &folder, self.max_points);
        file.text = Some(text);
        named::read_all(self, &mut file, now);
        file
    }

    /// A file's state; none where there is no such file.
    fn read_file(&mut self, path: &Path, now: Timestamp) -> Result<Option<FileState>, String> {
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            // Only these say that it is not there; all else says that nobody can tell.
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error.to_string()),
        };
        if !metadata.is_file() {
            return Err("it is not a file".into());
        }
        let real = path.canonicalize().map_err(|error| error.to_string())?;
        if !real.starts_with(&self.root) {
            return Err("it is a symbolic link out of the source".into());
        }
        if let Some(reason) = being_saved(path, now) {
            return Err(reason);
        }
        let stamp = (
            metadata.dev(),
            metadata.ino(),
            metadata.size(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        );
        if let Some((known, state)) = self.cache.get(path)
            && *known == stamp
        {
            return state.clone().map(Some);
        }
        let modified =
            Timestamp::new(metadata.mtime(), i32::try_from(metadata.mtime_nsec()).unwrap_or(0))
                .ok();
        let state = if path.extension().is_some_and(|ending| ending == "ipynb") {
            read_notebook(path, modified)
        } else {
            read_plain(path, modified)
        };
        self.cache.insert(path.to_owned(), (stamp, state.clone()));
        state.map(Some)
    }
}

impl Tree for DirectorySource {
    fn inputs(
        &mut self,
        matcher: &InputMatcher,
        patterns: &[spec::RelativePath],
        broken: &mut Vec<(String, String)>,
    ) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for pattern in patterns {
            let start = self.root.join(literal_prefix(pattern));
            let entries = walkdir::WalkDir::new(start).into_iter().filter_entry(|entry| {
                entry.depth() == 0 || !entry.file_type().is_dir() || !is_skipped(entry.path())
            });
            for entry in entries {
                let entry = match entry {
                    Ok(entry) => entry,
                    Err(error) => {
                        let io = error.io_error();
                        let gone = io.is_some_and(|error| error.kind() == ErrorKind::NotFound);
                        let path = error.path().filter(|_| !gone).map(|path| self.relative(path));
                        broken.extend(path.map(|path| (path, error.to_string())));
                        continue;
                    }
                };
                // A link counts as what it leads to; where that lies is judged when it is read.
                let link = entry.file_type().is_symlink() && !entry.path().is_dir();
                if entry.file_type().is_file() || link {
                    let path = self.relative(entry.path());
                    if matcher.matches(&path) {
                        found.insert(path);
                    }
                }
            }
        }
        found
    }

    fn state(&mut self, path: &str, now: Timestamp) -> Found {
        let full = self.root.join(path);
        let written = std::fs::metadata(&full).ok().as_ref().and_then(newest);
        Found { written, state: self.read_file(&full, now) }
    }
}

/// When a file was last written or changed in any other way.
fn newest(metadata: &std::fs::Metadata) -> Option<Timestamp> {
    let at = |seconds: i64, nanoseconds: i64| {
        Timestamp::new(seconds, i32::try_from(nanoseconds).unwrap_or(0)).ok()
    };
    at(metadata.mtime(), metadata.mtime_nsec()).max(at(metadata.ctime(), metadata.ctime_nsec()))
}

fn read_notebook(path: &Path, modified: Option<Timestamp>) -> Result<FileState, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    named::notebook_state(bytes, modified)
}

fn read_plain(path: &Path, modified: Option<Timestamp>) -> Result<FileState, String> {
    let mut file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(|error| error.to_string())? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    Ok(FileState { digest: hasher.finish(), modified, outline: None, declared: None })
}

/// Jupyter keeps `.~NAME` beside a file while it rewrites it in place.
fn being_saved(path: &Path, now: Timestamp) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let metadata = std::fs::metadata(path.with_file_name(format!(".~{name}"))).ok()?;
    (now.as_second() - metadata.mtime() < LEFTOVER)
        .then(|| format!("a save is under way (.~{name} lies beside it)"))
}

/// Folders that are never looked into.
fn is_skipped(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    named::is_skipped(name) || path.join("pyvenv.cfg").is_file() || path.join("conda-meta").is_dir()
}

impl Source for DirectorySource {
    fn look(&mut self, now: Timestamp) -> Result<Snapshot, SourceError> {
        let start = self.root.join(&self.below);
        let broken = |message: String| SourceError { root: start.display().to_string(), message };
        std::fs::read_dir(&start).map_err(|error| broken(error.to_string()))?;
        let mut snapshot = Snapshot::default();
        let mut paths = Vec::new();
        let mut walk = walkdir::WalkDir::new(&start).sort_by_file_name().into_iter();
        while let Some(entry) = walk.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    let folder = error.path().map(|path| self.relative(path));
                    let why =
                        error.io_error().map_or_else(|| "unreadable".into(), ToString::to_string);
                    snapshot.unreadable.extend(folder.map(|folder| (folder, why)));
                    continue;
                }
            };
            if entry.file_type().is_dir() && entry.depth() > 0 {
                if is_skipped(entry.path()) {
                    walk.skip_current_dir();
                } else if entry.path().join(".jupyterflow").is_dir() {
                    snapshot.elsewhere.push(self.relative(entry.path()));
                    walk.skip_current_dir();
                }
                continue;
            }
            let name = entry.file_name().to_str().unwrap_or_default();
            if !FILE_NAMES.contains(&name) {
                continue;
            }
            let path = entry.path();
            let inside = |real: PathBuf| real.starts_with(&self.root) && real.is_file();
            if entry.file_type().is_file() || path.canonicalize().is_ok_and(inside) {
                paths.push(path.to_owned());
            } else {
                let shown = self.relative(path);
                let folder = path.parent().map(|folder| self.relative(folder)).unwrap_or_default();
                let mut file = PipelineFile::new(&shown, &folder);
                let message = "it is no file, or a symbolic link out of the source";
                file.documents.problems.push(Problem::of_file(&shown, message));
                snapshot.files.push(file);
            }
        }
        for (index, path) in paths.iter().enumerate() {
            let mut file = self.read_pipeline_file(path, now);
            if index > 0 && paths[index - 1].parent() == path.parent() {
                let message =
                    "a folder has one pipeline file: jupyterflow.yaml is used, this is not";
                file.documents = Documents::default();
                file.documents.problems.push(Problem::of_file(&file.path, message));
            }
            snapshot.files.push(file);
        }
        Ok(snapshot)
    }

    fn digest(&mut self, path: &str) -> Option<Digest> {
        let full = self.root.join(path);
        self.read_file(&full, Timestamp::MAX).ok().flatten().map(|state| state.counted())
    }

    fn named_files(&mut self, pipeline: &Pipeline, file: &str, now: Timestamp) -> PipelineFile {
        let mut named = PipelineFile::new(file, pipeline.folder());
        named::read(self, pipeline, &mut named, now);
        named
    }
}
