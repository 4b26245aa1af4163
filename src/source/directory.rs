//! A directory tree as a source, found by our own scan.
//!
//! Owns when a file counts as whole. What did not change (device, inode, size, times) is not read
//! again; now and then all is.

#![expect(clippy::disallowed_methods, reason = "reads the source's files")]

mod inside;
mod scan;
mod watch;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::inside::{OUT, is_absent, open_inside};
use self::scan::{Scan, Stamp, is_racy, seconds, stamp_of, stamps};
pub use self::watch::Hints;
use self::watch::Watch;
use super::named::{self, Found, Tree};
use super::{PipelineFile, Snapshot, Source, SourceError};
use crate::spec::fingerprint::{InputMatcher, literal_prefix};
use crate::spec::{self, FileState, Pipeline, Problem, Step};
use crate::types::{Digest, Hasher, Timestamp};

/// An editor's temporary file that is older than this is a leftover.
const LEFTOVER: i64 = 600;

/// All is read again this often, whatever the file system's times say.
const ALL_AGAIN: Duration = Duration::from_secs(3600);
/// A content that changes while it is read is read again so often.
const READS: usize = 3;

/// A directory tree.
pub struct DirectorySource {
    root: PathBuf,
    /// Only files at or below this folder, relative to the root, are looked at.
    below: PathBuf,
    max_points: usize,
    /// Whether each folder at the top is somebody else's: no link leads from one into another.
    apart: bool,
    scan: Scan,
    cache: HashMap<PathBuf, (Stamp, Result<Arc<FileState>, String>)>,
    /// Pipeline files as they were last read, with the stamps of all that they name.
    files: HashMap<PathBuf, Known>,
    /// What the file being read names, with the stamps that hold for what was read.
    reading: Vec<(PathBuf, Option<Stamp>)>,
    all_again: Instant,
    /// Who tells that a look is worth while.
    watch: Option<Watch>,
}

struct Known {
    file: Arc<PipelineFile>,
    stamps: Vec<(PathBuf, Option<Stamp>)>,
    inputs: Inputs,
}

/// Whether other files may match the patterns of a pipeline file by now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inputs {
    /// It has none.
    None,
    /// The scan sees their folders.
    Scanned,
    /// Some lie in folders that no scan looks into.
    Hidden,
}

impl Inputs {
    fn of(file: &PipelineFile) -> Self {
        let pipelines = file.documents.pipelines.iter();
        let steps = pipelines.flat_map(Pipeline::steps);
        steps.flat_map(Step::inputs).fold(Self::None, |worst, pattern| {
            let hidden = literal_prefix(pattern).split('/').any(named::is_skipped);
            if hidden || worst == Self::Hidden { Self::Hidden } else { Self::Scanned }
        })
    }
}

impl DirectorySource {
    /// A source over a root. Only what lies below `below`, relative to it, is looked at.
    pub fn new(root: &Path, below: &Path, max_points: usize) -> Self {
        Self {
            root: root.to_owned(),
            below: below.to_owned(),
            max_points,
            apart: false,
            scan: Scan::default(),
            cache: HashMap::new(),
            files: HashMap::new(),
            reading: Vec::new(),
            all_again: Instant::now() + ALL_AGAIN,
            watch: None,
        }
    }

    /// The same, where each folder at the top is somebody else's.
    #[must_use]
    pub fn apart(mut self) -> Self {
        self.apart = true;
        self
    }

    /// A path below the root as a root that links may not leave, and the rest.
    fn within<'a>(&self, relative: &'a Path) -> (PathBuf, &'a Path) {
        let mut parts = relative.components();
        match parts.next() {
            Some(first) if self.apart && !parts.as_path().as_os_str().is_empty() => {
                (self.root.join(first), parts.as_path())
            }
            _ => (self.root.clone(), relative),
        }
    }

    fn open(&self, relative: &Path) -> std::io::Result<std::fs::File> {
        let (root, rest) = self.within(relative);
        open_inside(&root, rest)
    }

    /// Whether a folder is where it seems to be, or at least below the root that it may not leave.
    fn stays_inside(&self, folder: &Path) -> bool {
        let relative = folder.strip_prefix(&self.root).unwrap_or(folder);
        let real = |path: &Path| path.canonicalize().ok();
        match (real(&self.within(relative).0), real(folder)) {
            (Some(root), Some(folder)) => folder.starts_with(root),
            // What is not there leads nowhere.
            _ => true,
        }
    }

    /// Also watches the folders that its scans find.
    pub fn watch(&mut self) -> Arc<Hints> {
        self.watch.get_or_insert_with(Watch::new).hints()
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
        let mut stamp = None;
        let opened = self.open(Path::new(&shown));
        let read = opened.and_then(|mut opened| {
            let metadata = opened.metadata()?;
            file.newest = newest(&metadata);
            stamp = Some(stamp_of(&metadata));
            if !metadata.is_file() {
                return Err(std::io::Error::other("it is not a file"));
            }
            if let Some(problem) = spec::problem_if_huge(&shown, metadata.len()) {
                file.documents.problems.push(problem);
                return Ok(None);
            }
            let mut bytes = Vec::new();
            opened.read_to_end(&mut bytes)?;
            if stamp_of(&opened.metadata()?) != stamp_of(&metadata) {
                return Err(std::io::Error::other("it changes while it is read"));
            }
            Ok(Some(bytes))
        });
        self.reading = vec![(path.to_owned(), stamp)];
        let text = match read.map(|bytes| bytes.map(String::from_utf8)) {
            Ok(None) => return file,
            Ok(Some(Ok(text))) => text,
            Ok(Some(Err(_))) => {
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

    /// A file's state; none where there is no such file. Also when it was last written.
    fn read_file(&mut self, relative: &str, now: Timestamp) -> Found {
        let path = self.root.join(relative);
        let at = self.reading.len();
        self.reading.push((path.clone(), None));
        let unknown = |written, why: String| Found { written, state: Err(why) };
        let mut written = None;
        for _ in 0..READS {
            let mut file = match self.open(Path::new(relative)) {
                Ok(file) => file,
                // Only this says that it is not there; all else says that nobody can tell.
                Err(error) if is_absent(&error) => return Found { written, state: Ok(None) },
                Err(error) => return unknown(written, error.to_string()),
            };
            let metadata = match file.metadata() {
                Ok(metadata) if metadata.is_file() => metadata,
                Ok(_) => return unknown(written, "it is not a file".into()),
                Err(error) => return unknown(written, error.to_string()),
            };
            written = newest(&metadata);
            if let Some(reason) = being_saved(&path, now) {
                return unknown(written, reason);
            }
            let stamp = stamp_of(&metadata);
            self.reading[at].1 = Some(stamp);
            if let Some((known, state)) = self.cache.get(&path)
                && *known == stamp
                && !is_racy(&stamp, seconds())
            {
                return Found { written, state: state.clone().map(Some) };
            }
            let modified = modified(&metadata);
            let state = if relative.ends_with(".ipynb") {
                read_notebook(&mut file, modified)
            } else {
                read_plain(&mut file, modified)
            };
            let state = state.map(Arc::new);
            // What was written meanwhile may be half of two contents.
            if file.metadata().is_ok_and(|after| stamp_of(&after) == stamp) {
                self.cache.insert(path, (stamp, state.clone()));
                return Found { written, state: state.map(Some) };
            }
        }
        unknown(written, "it changes while it is read".into())
    }

    /// Says that the tree can be read: a folder that is not there, or has nothing in it, may be a volume
    /// that is not mounted.
    fn is_there(&self, start: &Path) -> Result<(), SourceError> {
        let broken = |message: String| SourceError { root: start.display().to_string(), message };
        let entries = std::fs::read_dir(start).map_err(|error| broken(error.to_string()))?;
        let mut own = entries.filter(|entry| {
            entry.as_ref().map_or(true, |entry| entry.file_name() != ".jupyterflow")
        });
        if own.next().is_none() && !self.files.is_empty() {
            return Err(broken("it is empty all at once: is its volume mounted?".into()));
        }
        Ok(())
    }

    /// The pipeline file at a path: as it was last read, if nothing that it names has changed.
    fn remembered(&mut self, path: &Path, fresh: bool, now: Timestamp) -> Arc<PipelineFile> {
        if fresh
            && let Some(known) = self.files.get(path)
            && known.inputs == Inputs::None
        {
            return Arc::clone(&known.file);
        }
        let file = Arc::new(self.read_pipeline_file(path, now));
        // The stamps of what was read: those of a moment later may be of what came after it.
        let stamps = std::mem::take(&mut self.reading);
        let known = Known { inputs: Inputs::of(&file), file: Arc::clone(&file), stamps };
        self.files.insert(path.to_owned(), known);
        file
    }

    /// The pipeline files of which nothing that they name has changed.
    fn fresh(&self) -> HashSet<PathBuf> {
        let fresh = self.freshness().filter(|(_, fresh)| *fresh).map(|(path, _)| path.clone());
        fresh.collect()
    }

    fn are_all_fresh(&self) -> bool {
        self.freshness().all(|(_, fresh)| fresh)
    }

    /// Of each pipeline file whether it, and all that it names, is what was read.
    fn freshness(&self) -> impl Iterator<Item = (&PathBuf, bool)> {
        let now = seconds();
        let named = self.files.values().flat_map(|known| &known.stamps);
        let all: Vec<&Path> = named.map(|(path, _)| path.as_path()).collect();
        let mut present = stamps(&all).into_iter();
        self.files.iter().map(move |(path, known)| {
            let same = known.stamps.iter().fold(true, |same, (_, before)| {
                let present = present.next().flatten();
                let racy = present.is_some_and(|stamp| is_racy(&stamp, now));
                same && present == *before && !racy
            });
            // Half a file is looked at again.
            let whole = known.file.broken.is_empty() && known.inputs != Inputs::Hidden;
            (path, same && whole)
        })
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
            if !self.stays_inside(&start) {
                broken.push((self.relative(&start), OUT.to_owned()));
                continue;
            }
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

    fn content(&mut self, path: &str) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let opened = self.open(Path::new(path));
        let most = spec::MAX_BYTES as u64 + 1;
        opened
            .and_then(|file| file.take(most).read_to_end(&mut bytes))
            .map_err(|e| e.to_string())?;
        Ok(bytes)
    }

    fn state(&mut self, path: &str, now: Timestamp) -> Found {
        self.read_file(path, now)
    }
}

/// When a file was last written or changed in any other way.
fn newest(metadata: &std::fs::Metadata) -> Option<Timestamp> {
    let at = |seconds: i64, nanoseconds: i64| {
        Timestamp::new(seconds, i32::try_from(nanoseconds).unwrap_or(0)).ok()
    };
    at(metadata.mtime(), metadata.mtime_nsec()).max(at(metadata.ctime(), metadata.ctime_nsec()))
}

fn modified(metadata: &std::fs::Metadata) -> Option<Timestamp> {
    Timestamp::new(metadata.mtime(), i32::try_from(metadata.mtime_nsec()).unwrap_or(0)).ok()
}

fn read_notebook(
    file: &mut std::fs::File,
    modified: Option<Timestamp>,
) -> Result<FileState, String> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    named::notebook_state(bytes, modified)
}

fn read_plain(file: &mut std::fs::File, modified: Option<Timestamp>) -> Result<FileState, String> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(|error| error.to_string())? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    Ok(FileState {
        digest: hasher.finish(),
        modified,
        outline: None,
        declared: None,
        manifest: None,
    })
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
        self.is_there(&start)?;
        if Instant::now() > self.all_again {
            self.all_again = Instant::now() + ALL_AGAIN;
            self.scan.forget();
            (self.cache, self.files) = (HashMap::new(), HashMap::new());
        }
        let (found, _) = self.scan.walk(&start);
        if let Some(watch) = &mut self.watch {
            watch.cover(self.scan.changes, self.scan.folders());
        }
        let mut snapshot = Snapshot {
            elsewhere: found.elsewhere.iter().map(|path| self.relative(path)).collect(),
            unreadable: found
                .unreadable
                .into_iter()
                .map(|(path, why)| (self.relative(&path), why))
                .collect(),
            ..Snapshot::default()
        };
        let fresh = self.fresh();
        let there: HashSet<&Path> = found.files.iter().map(|(path, _)| path.as_path()).collect();
        self.files.retain(|path, _| there.contains(path.as_path()));
        let mut before: Option<PathBuf> = None;
        for (path, odd) in found.files {
            let shown = self.relative(&path);
            let folder = path.parent().map(Path::to_owned).unwrap_or_default();
            let refused = |message: &str, folder: String| {
                let mut file = PipelineFile::new(&shown, &folder);
                file.documents.problems.push(Problem::of_file(&shown, message));
                Arc::new(file)
            };
            let file = if odd && !(path.is_file() && self.stays_inside(&path)) {
                let message = "it is no file, or a symbolic link out of the source";
                refused(message, self.relative(&folder))
            } else if before.as_ref() == Some(&folder) {
                let message =
                    "a folder has one pipeline file: jupyterflow.yaml is used, this is not";
                refused(message, self.relative(&folder))
            } else {
                before = Some(folder);
                self.remembered(&path, fresh.contains(&path), now)
            };
            snapshot.files.push(file);
        }
        Ok(snapshot)
    }

    fn may_have_changed(&mut self) -> bool {
        if Instant::now() > self.all_again {
            return true;
        }
        let start = self.root.join(&self.below);
        self.scan.changed(&start) || !self.are_all_fresh()
    }

    fn digest(&mut self, path: &str) -> Option<Digest> {
        let state = self.read_file(path, Timestamp::MAX).state;
        self.reading.clear();
        state.ok().flatten().map(|state| state.counted())
    }

    fn named_files(&mut self, pipeline: &Pipeline, file: &str, now: Timestamp) -> PipelineFile {
        let mut named = PipelineFile::new(file, pipeline.folder());
        named::read(self, pipeline, &mut named, now);
        self.reading.clear();
        named
    }
}
