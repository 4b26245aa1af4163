//! The source port: where pipeline files come from.
//!
//! Owns the snapshot that a look gives. A look never waits for the next one and decides nothing.
//!
//! ```
//! use jupyterflow::source::{DirectorySource, Source};
//!
//! let folder = tempfile::tempdir()?;
//! std::fs::write(folder.path().join("jupyterflow.yaml"), "steps: {a: {run: echo a}}")?;
//! let root = folder.path().canonicalize()?;
//! let mut source = DirectorySource::new(&root, "".as_ref(), 100);
//! let snapshot = source.look(jiff::Timestamp::now()).unwrap();
//! assert_eq!(snapshot.files[0].path, "jupyterflow.yaml");
//! assert_eq!(snapshot.files[0].documents.pipelines[0].name().as_str(), "main");
//! # Ok::<(), std::io::Error>(())
//! ```

mod directory;
pub mod git;
pub(crate) mod named;
mod patient;

pub use directory::{DirectorySource, Hints};
pub use git::GitSource;
pub use patient::Patient;

use std::sync::Arc;

use crate::spec::{Documents, Pipeline, fingerprint::Files};
use crate::types::{Digest, Timestamp};

/// What a source shows at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The pipeline files, by path.
    pub files: Vec<Arc<PipelineFile>>,
    /// Folders that another state manages.
    pub elsewhere: Vec<String>,
    /// Folders that could not be read, with the reason: what lies there is unknown, not gone.
    pub unreadable: Vec<(String, String)>,
    /// The commit, of a git repository.
    pub commit: Option<String>,
}

/// A pipeline file and the files that its pipelines name.
#[derive(Clone, Debug)]
pub struct PipelineFile {
    /// Path of the file, relative to the root.
    pub path: String,
    /// Its folder, relative to the root; empty at the root.
    pub folder: String,
    /// Its text; none where it could not be read.
    pub text: Option<String>,
    /// What it holds, or its problems.
    pub documents: Documents,
    /// The named files that are there.
    pub files: Files,
    /// Named files that are not there or not whole, with the reason.
    pub broken: Vec<(String, String)>,
    /// When the newest of these files was last written or changed, by the file system.
    pub newest: Option<Timestamp>,
}

impl PipelineFile {
    /// What is wrong with the pipeline file itself, so that nothing of it may take effect.
    pub fn own_trouble(&self) -> Option<&str> {
        let own = self.broken.iter().find(|(path, _)| *path == self.path);
        own.map(|(_, reason)| reason.as_str())
    }

    /// A file of which nothing is known yet.
    pub fn new(path: &str, folder: &str) -> Self {
        Self {
            path: path.to_owned(),
            folder: folder.to_owned(),
            text: None,
            documents: Documents::default(),
            files: Files::new(),
            broken: Vec::new(),
            newest: None,
        }
    }
}

/// Why a source cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[error("failed to read {root}: {message}")]
pub struct SourceError {
    /// The root.
    pub root: String,
    /// Why.
    pub message: String,
}

/// Where pipeline files come from.
pub trait Source {
    /// Looks.
    ///
    /// # Errors
    /// The source as a whole cannot be read; nothing follows from that.
    fn look(&mut self, now: Timestamp) -> Result<Snapshot, SourceError>;

    /// Whether another look may show something else. Cheaper than a look, and true where in doubt.
    fn may_have_changed(&mut self) -> bool {
        true
    }

    /// The commit that it shows, of a git repository.
    fn commit(&self) -> Option<String> {
        None
    }

    /// Moves to another commit, of a git repository.
    fn show(&mut self, _commit: Option<String>) {}

    /// The digest of one file as it is now; none where it cannot be read.
    fn digest(&mut self, path: &str) -> Option<Digest>;

    /// The files that a pipeline names, as they are now, in a file that holds nothing else.
    fn named_files(&mut self, pipeline: &Pipeline, file: &str, now: Timestamp) -> PipelineFile;
}
