//! The few things that are asked of an API server, and what is known of its objects without asking.
//!
//! Owns the port: `kubernetes` is a real server's, tests have one in memory. It decides nothing.

use std::sync::Arc;

use super::resources::{NotebookPipeline, NotebookRun};

/// An object's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl std::fmt::Display for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// Why a server did not do as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// An object of that name is there.
    #[error("it is there already")]
    Exists,
    /// The object is not as it was read.
    #[error("the object has been modified")]
    Conflict,
    /// There is no such object.
    #[error("it is not there")]
    Gone,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// The objects of an API server. What is known without asking may be old, but never older than what
/// this process read or wrote itself.
pub trait Objects {
    /// All pipelines, as far as known.
    fn pipelines(&self) -> Vec<Arc<NotebookPipeline>>;
    /// A pipeline, as far as known.
    fn pipeline(&self, key: &Key) -> Option<Arc<NotebookPipeline>>;
    /// The runs of a pipeline, as far as known.
    fn runs_of(&self, pipeline: &Key) -> Vec<Arc<NotebookRun>>;
    /// Runs of a name in whatever namespace, as far as known.
    fn runs_named(&self, name: &str) -> Vec<Arc<NotebookRun>>;
    /// All runs, as far as known.
    fn runs(&self) -> Vec<Arc<NotebookRun>>;
    /// Rises with whatever somebody else writes.
    fn pulse(&self) -> i64;

    /// A pipeline as the server has it now.
    fn read_pipeline(&self, key: &Key) -> Result<Option<Arc<NotebookPipeline>>, Refused>;
    /// Makes a pipeline.
    fn create_pipeline(&self, made: &NotebookPipeline) -> Result<Arc<NotebookPipeline>, Refused>;
    /// Applies our part of a pipeline's spec, against the version in it.
    fn apply_pipeline(&self, wanted: &NotebookPipeline) -> Result<Arc<NotebookPipeline>, Refused>;
    /// Writes a pipeline's status, against the version in it.
    fn write_pipeline(&self, wanted: &NotebookPipeline) -> Result<Arc<NotebookPipeline>, Refused>;
    /// Takes an annotation from a pipeline, against the version in it.
    fn clear_annotation(&self, of: &NotebookPipeline, name: &str) -> Result<(), Refused>;

    /// A run as the server has it now.
    fn read_run(&self, key: &Key) -> Result<Option<Arc<NotebookRun>>, Refused>;
    /// Makes a run.
    fn create_run(&self, made: &NotebookRun) -> Result<Arc<NotebookRun>, Refused>;
    /// Writes a run but for its status, against the version in it.
    fn replace_run(&self, wanted: &NotebookRun) -> Result<Arc<NotebookRun>, Refused>;
    /// Writes a run's status, against the version in it.
    fn write_run(&self, wanted: &NotebookRun) -> Result<Arc<NotebookRun>, Refused>;
    /// Removes a run that is as it was read.
    fn delete_run(&self, run: &NotebookRun) -> Result<(), Refused>;
}
