//! A commit as a tree of files, read from the object database: no checkout is made.
//!
//! Owns what of a commit counts as a file. Blobs are read once, by their id, whatever commits have them.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use git2::{ObjectType, Oid, Repository};

use crate::source::named::{self, Found, Tree};
use crate::source::{PipelineFile, Snapshot};
use crate::spec::fingerprint::{InputMatcher, literal_prefix};
use crate::spec::{self, FILE_NAMES, FileState, Problem, RelativePath};
use crate::types::{Digest, Timestamp};

/// A larger blob is not read, in bytes.
const LARGEST: usize = 512 << 20;
/// What a pointer to a file in LFS begins with.
const LFS: &[u8] = b"version https://git-lfs.github.com/spec/";
const LINK: i32 = 0o120_000;
/// So many links are followed.
const MOST_LINKS: usize = 8;
/// A commit may have so many files; more are no source of notebooks.
const MOST_FILES: usize = 2_000_000;

/// What is known of blobs, over many commits.
#[derive(Default)]
pub struct Blobs {
    known: HashMap<(Oid, bool), Blob>,
    round: u64,
    /// Whether the repository lacked what it should have.
    pub damaged: Cell<bool>,
}

/// A blob as a file, and the round in which it was wanted last.
struct Blob {
    wanted: u64,
    state: Result<Arc<FileState>, String>,
}

/// The files of one commit.
pub struct CommitTree<'a> {
    repository: &'a Repository,
    blobs: &'a mut Blobs,
    /// Blobs and links by path, with their mode.
    files: BTreeMap<String, (Oid, i32)>,
    submodules: BTreeSet<String>,
}

impl<'a> CommitTree<'a> {
    /// The tree of a commit.
    pub fn new(
        repository: &'a Repository,
        blobs: &'a mut Blobs,
        commit: &str,
    ) -> Result<Self, git2::Error> {
        let commit = repository.find_commit(Oid::from_str(commit)?)?;
        let (mut files, mut submodules) = (BTreeMap::new(), BTreeSet::new());
        let mut folders = vec![(String::new(), commit.tree()?)];
        while let Some((folder, tree)) = folders.pop() {
            for entry in &tree {
                let Ok(name) = entry.name() else { continue };
                let path = if folder.is_empty() { name.into() } else { format!("{folder}/{name}") };
                match entry.kind() {
                    Some(ObjectType::Tree) if !named::is_skipped(name) => {
                        folders.push((path, repository.find_tree(entry.id())?));
                    }
                    Some(ObjectType::Blob) => {
                        files.insert(path, (entry.id(), entry.filemode()));
                    }
                    Some(ObjectType::Commit) => {
                        submodules.insert(path);
                    }
                    _ => {}
                }
            }
            if files.len() > MOST_FILES {
                return Err(git2::Error::from_str("the commit has too many files"));
            }
        }
        blobs.round += 1;
        Ok(Self { repository, blobs, files, submodules })
    }

    /// The pipeline files and all that they name.
    pub fn snapshot(mut self, commit: &str, max_points: usize, now: Timestamp) -> Snapshot {
        let mut snapshot = Snapshot { commit: Some(commit.to_owned()), ..Snapshot::default() };
        let folder_of =
            |path: &str| path.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        let is_pipeline =
            |path: &&String| FILE_NAMES.contains(&path.rsplit('/').next().unwrap_or_default());
        let paths: Vec<String> = self.files.keys().filter(is_pipeline).cloned().collect();
        for path in &paths {
            let folder = folder_of(path);
            let mut file = PipelineFile::new(path, &folder);
            let second = path.ends_with(FILE_NAMES[1])
                && self.files.contains_key(&path.replace(FILE_NAMES[1], FILE_NAMES[0]));
            if second {
                let message =
                    "a folder has one pipeline file: jupyterflow.yaml is used, this is not";
                file.documents.problems.push(Problem::of_file(path, message));
            } else {
                self.read_pipeline_file(&mut file, max_points, now);
            }
            snapshot.files.push(Arc::new(file));
        }
        self.forget();
        snapshot
    }

    fn read_pipeline_file(&mut self, file: &mut PipelineFile, max_points: usize, now: Timestamp) {
        let path = file.path.clone();
        let size = self.resolve(&path).and_then(|found| {
            let (oid, _) = found.ok_or("it is not there")?;
            let odb = self.repository.odb().map_err(|error| self.damage(&error))?;
            odb.read_header(oid).map(|header| header.0).map_err(|error| self.damage(&error))
        });
        let size = match size {
            Ok(size) => size,
            Err(reason) if self.blobs.damaged.get() => {
                file.broken.push((path, reason));
                return;
            }
            Err(reason) => {
                file.documents.problems.push(Problem::of_file(&path, &reason));
                return;
            }
        };
        if let Some(problem) = spec::problem_if_huge(&path, size as u64) {
            file.documents.problems.push(problem);
            return;
        }
        match self.content(&path).map(String::from_utf8) {
            Ok(Ok(text)) => {
                file.documents = spec::parse(&text, &path, &file.folder, max_points);
                file.text = Some(text);
                named::read_all(self, file, now);
            }
            Ok(Err(_)) => {
                let problem = Problem::of_file(&path, "the file is not UTF-8 text");
                file.documents.problems.push(problem);
            }
            Err(reason) => file.broken.push((path, reason)),
        }
    }

    /// What the repository lacks that the commit has: the mirror is damaged, whatever else it says.
    fn damage(&self, error: &git2::Error) -> String {
        self.blobs.damaged.set(true);
        format!("its objects cannot be read: {}", error.message())
    }

    /// The whole content of a file.
    pub fn content(&self, path: &str) -> Result<Vec<u8>, String> {
        let (oid, _) = self.resolve(path)?.ok_or("it is not there")?;
        let odb = self.repository.odb().map_err(|error| self.damage(&error))?;
        let (size, _) = odb.read_header(oid).map_err(|error| self.damage(&error))?;
        if size > LARGEST {
            return Err(format!("it has {size} bytes, more than {LARGEST}"));
        }
        let object = odb.read(oid).map_err(|error| self.damage(&error))?;
        if object.data().starts_with(LFS) && path.ends_with(".ipynb") {
            return Err("it is a pointer of Git LFS, whose files are not fetched".into());
        }
        Ok(object.data().to_vec())
    }

    /// The blob behind a path, through links that stay inside.
    fn resolve(&self, path: &str) -> Result<Option<(Oid, i32)>, String> {
        let mut path = path.to_owned();
        for _ in 0..MOST_LINKS {
            let Some(&(oid, mode)) = self.files.get(&path) else {
                let inside = |module: &String| Path::new(&path).starts_with(module);
                if self.submodules.iter().any(inside) {
                    return Err("it lies in a submodule, which is not fetched".into());
                }
                return Ok(None);
            };
            if mode != LINK {
                return Ok(Some((oid, mode)));
            }
            let out = || "it is a symbolic link out of the source".to_owned();
            let blob = self.repository.find_blob(oid).map_err(|error| self.damage(&error))?;
            let target = std::str::from_utf8(blob.content()).map_err(|_| out())?;
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            let behind = RelativePath::resolve(folder, target).map_err(|_| out())?;
            behind.as_str().clone_into(&mut path);
        }
        Err("too many symbolic links".into())
    }

    fn file_state(&mut self, path: &str) -> Result<Option<Arc<FileState>>, String> {
        let Some((oid, _)) = self.resolve(path)? else { return Ok(None) };
        let key = (oid, path.ends_with(".ipynb"));
        let round = self.blobs.round;
        if let Some(blob) = self.blobs.known.get_mut(&key) {
            blob.wanted = round;
            return blob.state.clone().map(Some);
        }
        let state = self.content(path).and_then(|bytes| {
            if key.1 {
                return named::notebook_state(bytes, None);
            }
            let digest = Digest::of_bytes(&bytes);
            Ok(FileState { digest, modified: None, outline: None, declared: None, manifest: None })
        });
        let state = state.map(Arc::new);
        if !self.blobs.damaged.get() {
            self.blobs.known.insert(key, Blob { wanted: round, state: state.clone() });
        }
        state.map(Some)
    }

    /// Forgets blobs that no commit had for a while.
    fn forget(&mut self) {
        let round = self.blobs.round;
        self.blobs.known.retain(|_, blob| blob.wanted + 10 >= round);
    }
}

impl Tree for CommitTree<'_> {
    fn inputs(
        &mut self,
        matcher: &InputMatcher,
        patterns: &[RelativePath],
        _broken: &mut Vec<(String, String)>,
    ) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for prefix in patterns.iter().map(literal_prefix) {
            let below = self.files.range(prefix.clone()..).map(|(path, _)| path);
            let below = below.take_while(|path| path.starts_with(&prefix));
            found.extend(below.filter(|path| matcher.matches(path)).cloned());
        }
        found
    }

    fn content(&mut self, path: &str) -> Result<Vec<u8>, String> {
        CommitTree::content(self, path)
    }

    fn state(&mut self, path: &str, _now: Timestamp) -> Found {
        Found { written: None, state: self.file_state(path) }
    }
}
