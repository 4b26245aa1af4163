//! The files of a simulated world: a folder, or the commits of a repository.
//!
//! Owns what a look finds, and what stands in its way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::source::named::{self, Found};
use crate::source::{PipelineFile, Snapshot, Source, SourceError};
use crate::spec::fingerprint::InputMatcher;
use crate::spec::{self, FILE_NAMES, FileState, Pipeline, RelativePath};
use crate::types::{Digest, Timestamp};

/// Files with their content and the instant at which each was written.
pub type Tree = BTreeMap<String, (String, Timestamp)>;

/// Files.
#[derive(Default)]
pub struct SimulatedSource {
    files: Tree,
    /// The commits, of a repository; what a folder shows is its files.
    commits: BTreeMap<String, Arc<Tree>>,
    head: Option<String>,
    /// Files of which nobody can tell what they hold, with the reason.
    pub broken: BTreeMap<String, String>,
    /// Why nothing at all can be read.
    pub unreadable: Option<String>,
}

impl SimulatedSource {
    /// Writes a file.
    pub fn save(&mut self, path: &str, text: &str, now: Timestamp) {
        self.files.insert(path.to_owned(), (text.to_owned(), now));
    }

    /// Removes what lies at or below a path.
    pub fn remove(&mut self, path: &str) {
        self.files.retain(|own, _| own != path && !own.starts_with(&format!("{path}/")));
    }

    /// Moves a folder.
    pub fn rename(&mut self, from: &str, to: &str) {
        let files = std::mem::take(&mut self.files);
        let moved = files.into_iter().map(|(path, file)| match path.strip_prefix(from) {
            Some(rest) if rest.starts_with('/') => (format!("{to}{rest}"), file),
            _ => (path, file),
        });
        self.files = moved.collect();
    }

    /// Makes a commit of the files as they stand; from the first one on the source is a repository.
    pub fn push(&mut self) -> String {
        let count = self.commits.len() + 1;
        let commit = Digest::of_bytes(format!("commit {count}").as_bytes()).hex()[..40].to_owned();
        self.commits.insert(commit.clone(), Arc::new(self.files.clone()));
        self.head = Some(commit.clone());
        commit
    }

    /// Whether steps work in the folder itself.
    pub fn is_folder(&self) -> bool {
        self.commits.is_empty()
    }

    /// What a run of a revision sees.
    pub fn tree(&self, revision: Option<&str>) -> Arc<Tree> {
        let commit = revision.and_then(|revision| self.commits.get(revision));
        commit.cloned().unwrap_or_else(|| Arc::new(self.files.clone()))
    }

    fn shown(&self) -> Arc<Tree> {
        self.tree(self.head.as_deref())
    }
}

/// A tree with what is broken of it.
struct Reading<'a> {
    tree: Arc<Tree>,
    broken: &'a BTreeMap<String, String>,
}

impl named::Tree for Reading<'_> {
    fn inputs(
        &mut self,
        matcher: &InputMatcher,
        _: &[RelativePath],
        _: &mut Vec<(String, String)>,
    ) -> BTreeSet<String> {
        self.tree.keys().filter(|path| matcher.matches(path)).cloned().collect()
    }

    fn content(&mut self, path: &str) -> Result<Vec<u8>, String> {
        let file = self.tree.get(path).ok_or("it is not there")?;
        Ok(file.0.clone().into_bytes())
    }

    fn state(&mut self, path: &str, _: Timestamp) -> Found {
        if let Some(why) = self.broken.get(path) {
            return Found { written: None, state: Err(why.clone()) };
        }
        let Some((text, written)) = self.tree.get(path) else {
            return Found { written: None, state: Ok(None) };
        };
        let bytes = text.clone().into_bytes();
        let state = if path.ends_with(".ipynb") {
            named::notebook_state(bytes, Some(*written))
        } else {
            let digest = Digest::of_bytes(&bytes);
            Ok(FileState {
                digest,
                modified: Some(*written),
                outline: None,
                declared: None,
                manifest: None,
            })
        };
        Found { written: Some(*written), state: state.map(|state| Some(Arc::new(state))) }
    }
}

impl Source for SimulatedSource {
    fn look(&mut self, now: Timestamp) -> Result<Snapshot, SourceError> {
        if let Some(message) = self.unreadable.clone() {
            return Err(SourceError { root: "the simulated source".into(), message });
        }
        let tree = self.shown();
        let mut snapshot = Snapshot { commit: self.head.clone(), ..Snapshot::default() };
        for (path, (text, written)) in tree.iter() {
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
            if !FILE_NAMES.contains(&name) {
                continue;
            }
            let mut file = PipelineFile::new(path, folder);
            if let Some(why) = self.broken.get(path) {
                file.broken.push((path.clone(), why.clone()));
            } else {
                file.documents = spec::parse(text, path, folder, 100);
                file.text = Some(text.clone());
                file.newest = Some(*written);
                let mut reading = Reading { tree: Arc::clone(&tree), broken: &self.broken };
                named::read_all(&mut reading, &mut file, now);
            }
            snapshot.files.push(Arc::new(file));
        }
        Ok(snapshot)
    }

    fn commit(&self) -> Option<String> {
        self.head.clone()
    }

    fn digest(&mut self, path: &str) -> Option<Digest> {
        self.shown().get(path).map(|(text, _)| Digest::of_bytes(text.as_bytes()))
    }

    fn named_files(&mut self, pipeline: &Pipeline, file: &str, now: Timestamp) -> PipelineFile {
        let mut found = PipelineFile::new(file, pipeline.folder());
        let mut reading = Reading { tree: self.shown(), broken: &self.broken };
        named::read(&mut reading, pipeline, &mut found, now);
        found
    }
}
