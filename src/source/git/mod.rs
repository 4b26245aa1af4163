//! A git repository as a source: what a branch names, fetched shallow into a mirror, and read from there.
//!
//! Owns the state of the mirror beside it: which commit is in force. A poll asks the server; a look
//! never does, so that a server that hangs holds up nobody.

#![expect(clippy::disallowed_methods, reason = "keeps the tips beside the mirror")]

mod address;
mod export;
mod known_hosts;
mod poller;
mod remote;
mod signature;
mod tips;
mod tree;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, RenameFlags};
use serde::{Deserialize, Serialize};

pub use self::address::{Address, InvalidAddress, Reference};
pub use self::export::export;
pub use self::poller::{Health, Polled, Poller};
pub use self::remote::{GitError, RemoteRepository, fetch_commit};
pub use self::tips::{Tip, Tips};
use self::tree::{Blobs, CommitTree};
use super::named;
use super::{PipelineFile, Snapshot, Source, SourceError};
use crate::spec::Pipeline;
use crate::types::{Digest, Period, Timestamp};

/// The file that tells the next poll to make the mirror anew: it holds the commit that cannot be read.
const DAMAGED: &str = "damaged";
/// The commit for which that was done last; it goes once the commit could be read.
const RENEWED: &str = "renewed";

/// A repository on this machine or elsewhere, with its mirror.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// The repository.
    pub repository: RemoteRepository,
    /// The folder of the mirror and its state.
    pub folder: PathBuf,
}

/// What is known of a repository's branches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Known {
    /// The tips, by branch.
    pub branches: BTreeMap<String, Tips>,
    /// Branches whose newest commit is not trusted, with the reason; of the last poll alone.
    #[serde(skip)]
    pub refused: BTreeMap<String, String>,
}

impl Known {
    /// Whether a commit is in force for some branch.
    fn has(&self, commit: &str) -> bool {
        let mut tips = self.branches.values().filter_map(|tips| tips.accepted.as_ref());
        tips.any(|tip| tip.commit == commit)
    }
}

impl Mirror {
    /// The bare repository with the objects.
    pub fn objects(&self) -> PathBuf {
        match &self.repository.address {
            Address::Path(path) => local_objects(path),
            Address::Url { .. } => self.folder.join("objects.git"),
        }
    }

    /// Asks the repository, fetches what is new, and keeps what is known. Waits where another process
    /// is at it.
    ///
    /// # Errors
    /// The repository cannot be reached or read; what was known stays.
    pub fn poll(&self, patience: Period, now: Timestamp) -> Result<Known, GitError> {
        let failed =
            |error: std::io::Error| GitError(format!("{}: {error}", self.folder.display()));
        std::fs::create_dir_all(&self.folder).map_err(failed)?;
        let lock = std::fs::File::create(self.folder.join("lock")).map_err(failed)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?;
        let found = self.fetch()?;
        let before = self.known();
        let mut known = Known::default();
        for (branch, tip) in found {
            let former = before.branches.get(&branch).cloned();
            // A branch whose commit nobody vouches for shows what it did; others go on.
            if self.repository.require_signed
                && let Err(why) = self.vouch(&tip)
            {
                known.refused.insert(branch.clone(), why);
                known.branches.extend(former.map(|tips| (branch, tips)));
                continue;
            }
            let mut tips = former.unwrap_or_default();
            tips.observe(tip, patience, now);
            known.branches.insert(branch, tips);
        }
        if known.branches != before.branches {
            let text =
                serde_json::to_string(&known).map_err(|error| GitError(error.to_string()))?;
            let mut file = tempfile::NamedTempFile::new_in(&self.folder).map_err(failed)?;
            file.write_all(text.as_bytes()).map_err(failed)?;
            file.persist(self.folder.join("tips.json")).map_err(|error| failed(error.error))?;
        }
        Ok(known)
    }

    /// Asks, and fetches what is new: into a mirror beside the old one where that is damaged. What of the
    /// old one can be read stays so, for the runs of earlier commits.
    fn fetch(&self) -> Result<Vec<remote::Branch>, GitError> {
        let at = |name: &str| self.folder.join(name);
        let (objects, new, old) = (at("objects.git"), at("new.git"), at("old.git"));
        let text = |name: &str| std::fs::read_to_string(at(name)).ok();
        // Once for each commit: what a fetch does not bring, the next one will not bring either.
        let lacks = text(DAMAGED).filter(|lacks| text(RENEWED).as_ref() != Some(lacks));
        let Some(lacks) = lacks else {
            let found = remote::poll(&self.repository, &objects);
            if found.is_err() && objects.exists() && !remote::is_sound(&objects) {
                let _ = std::fs::write(at(DAMAGED), "references");
            }
            return found;
        };
        let failed = |error: std::io::Error| GitError(format!("{}: {error}", objects.display()));
        let _ = std::fs::remove_dir_all(&new);
        let found = remote::poll(&self.repository, &new)?;
        let _ = std::fs::remove_dir_all(&old);
        // The old objects are at the second place from here on, at the first for a moment before.
        let places = [&new, &old].map(|place| format!("{}\n", place.join("objects").display()));
        std::fs::create_dir_all(new.join("objects/info")).map_err(failed)?;
        std::fs::write(new.join("objects/info/alternates"), places.concat()).map_err(failed)?;
        if objects.exists() {
            let here = rustix::fs::CWD;
            rustix::fs::renameat_with(here, &new, here, &objects, RenameFlags::EXCHANGE)
                .map_err(|error| failed(error.into()))?;
            std::fs::rename(&new, &old).map_err(failed)?;
        } else {
            std::fs::rename(&new, &objects).map_err(failed)?;
        }
        std::fs::write(at(RENEWED), lacks).map_err(failed)?;
        std::fs::remove_file(at(DAMAGED)).map_err(failed)?;
        Ok(found)
    }

    /// Says that somebody signed a commit whom the source knows.
    fn vouch(&self, tip: &Tip) -> Result<(), String> {
        let words = |error: git2::Error| error.message().to_owned();
        let keys = self.repository.credentials.as_ref();
        let keys = keys.ok_or("the source names no secret with the keys of those who may sign")?;
        let repository = remote::open(&self.objects()).map_err(words)?;
        signature::verify(&repository, git2::Oid::from_str(&tip.commit).map_err(words)?, keys)
    }

    /// Whether a commit can be read.
    pub fn holds(&self, commit: &str) -> bool {
        let found =
            || remote::open(&self.objects())?.find_commit(git2::Oid::from_str(commit)?).map(drop);
        found().is_ok()
    }

    /// The commit in force for a branch; without one, for the only branch that there is.
    pub fn in_force(&self, branch: Option<&str>) -> Option<String> {
        let known = self.known().branches;
        let tips = match branch {
            Some(branch) => known.get(branch),
            None => known.values().next(),
        };
        tips?.accepted.as_ref().map(|tip| tip.commit.clone())
    }

    /// What the last poll found.
    pub fn known(&self) -> Known {
        let text = std::fs::read_to_string(self.folder.join("tips.json")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }
}

/// The bare repository of a folder that git knows.
fn local_objects(path: &Path) -> PathBuf {
    let inner = path.join(".git");
    if inner.is_dir() { inner } else { path.to_owned() }
}

/// The content of a file of a commit.
///
/// # Errors
/// It is not there, or cannot be read.
pub fn content(objects: &Path, commit: &str, path: &str) -> Result<Vec<u8>, String> {
    let words = |error: git2::Error| error.message().to_owned();
    let repository = remote::open(objects).map_err(words)?;
    let mut blobs = Blobs::default();
    CommitTree::new(&repository, &mut blobs, commit).map_err(words)?.content(path)
}

/// A commit as a source, with the results of its runs beside.
pub struct GitSource {
    objects: PathBuf,
    /// The mirror; none where the repository is read in place.
    mirror: Option<Mirror>,
    results: PathBuf,
    shown: String,
    commit: Option<String>,
    max_points: usize,
    blobs: Blobs,
    last: Option<Snapshot>,
}

impl GitSource {
    /// A source over a commit of a bare repository that is only read.
    pub fn of_objects(objects: PathBuf, results: &Path, commit: String) -> Self {
        Self {
            shown: objects.display().to_string(),
            objects,
            mirror: None,
            results: results.to_owned(),
            commit: Some(commit),
            max_points: usize::MAX,
            blobs: Blobs::default(),
            last: None,
        }
    }

    /// A source over a commit of a mirror, whose results go below a folder. Without a commit it cannot
    /// be read yet.
    pub fn new(mirror: &Mirror, results: &Path, commit: Option<String>, max_points: usize) -> Self {
        Self {
            objects: mirror.objects(),
            mirror: match &mirror.repository.address {
                Address::Path(_) => None,
                Address::Url { .. } => Some(mirror.clone()),
            },
            results: results.to_owned(),
            shown: mirror.repository.address.to_string(),
            commit,
            max_points,
            blobs: Blobs::default(),
            last: None,
        }
    }

    fn with_tree<T>(
        &mut self,
        work: impl FnOnce(CommitTree<'_>, &str) -> T,
    ) -> Result<T, SourceError> {
        let failed = |message: String| SourceError { root: self.shown.clone(), message };
        let Some(commit) = &self.commit else {
            return Err(failed("nothing was fetched from it yet".into()));
        };
        self.blobs.damaged.set(false);
        let worked = remote::open(&self.objects).and_then(|repository| {
            let tree = CommitTree::new(&repository, &mut self.blobs, commit)?;
            Ok(work(tree, commit))
        });
        let damaged =
            self.blobs.damaged.get() || worked.as_ref().err().is_some_and(remote::is_damage);
        if let Some(mirror) = &self.mirror {
            if !damaged {
                let _ = std::fs::remove_file(mirror.folder.join(RENEWED));
            } else if mirror.known().has(commit) {
                // It is only a cache: the next poll makes it anew. Commits that no branch has any more
                // it cannot bring back.
                let _ = std::fs::write(mirror.folder.join(DAMAGED), commit);
            }
        }
        worked.map_err(|error| failed(format!("its objects cannot be read: {}", error.message())))
    }
}

impl Source for GitSource {
    fn look(&mut self, now: Timestamp) -> Result<Snapshot, SourceError> {
        if let Some(last) = self.last.as_ref().filter(|last| last.commit == self.commit) {
            return Ok(last.clone());
        }
        let max_points = self.max_points;
        let snapshot = self.with_tree(|tree, commit| tree.snapshot(commit, max_points, now))?;
        self.last = Some(snapshot.clone()).filter(|_| !self.blobs.damaged.get());
        Ok(snapshot)
    }

    fn may_have_changed(&mut self) -> bool {
        self.last.as_ref().is_none_or(|last| last.commit != self.commit)
    }

    fn commit(&self) -> Option<String> {
        self.commit.clone()
    }

    fn show(&mut self, commit: Option<String>) {
        self.commit = commit;
    }

    fn digest(&mut self, path: &str) -> Option<Digest> {
        let state =
            self.with_tree(|mut tree, _| named::Tree::state(&mut tree, path, Timestamp::MIN));
        let known = state.ok()?.state.ok().flatten().map(|state| state.counted());
        // What runs left is in no commit.
        let left = || std::fs::read(self.results.join(path)).ok();
        known.or_else(|| left().map(|bytes| Digest::of_bytes(&bytes)))
    }

    fn named_files(&mut self, pipeline: &Pipeline, file: &str, now: Timestamp) -> PipelineFile {
        let mut named = PipelineFile::new(file, pipeline.folder());
        let read = self.with_tree(|mut tree, _| named::read(&mut tree, pipeline, &mut named, now));
        if let Err(error) = read {
            named.broken.push((file.to_owned(), error.message));
        }
        named
    }
}
