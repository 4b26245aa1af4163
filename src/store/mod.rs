//! The store port: the durable memory of pipelines, runs and steps.
//!
//! Owns the questions that the loop asks and the promises that an adapter keeps: a claim and its
//! cursor are written together or not at all, and against the version that was planned from.
//!
//! ```
//! use jupyterflow::plan::Ledger;
//! use jupyterflow::store::{Commit, SqliteStore, Store, StoreError};
//! use jupyterflow::types::PipelineId;
//!
//! let mut store = SqliteStore::in_memory()?;
//! let id = PipelineId { source: "local".into(), folder: String::new(), name: "p".parse().unwrap() };
//! let ledger = Ledger::default();
//! let commit = Commit { id: &id, version: None, ledger: &ledger, definition: None, claims: vec![], shown: None };
//! store.commit(&commit)?;
//! // Whoever planned from the same version comes too late, and looks again.
//! assert!(matches!(store.commit(&commit), Err(StoreError::Conflict)));
//! # Ok::<(), StoreError>(())
//! ```

mod journal;
pub mod lease;
mod sqlite;
mod tables;

pub use journal::Journal;
pub use lease::{Lease, Standing, Watch};
pub use sqlite::SqliteStore;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::plan::{Ledger, Reason, Run, StepRecord};
use crate::spec::{Fingerprint, Pipeline};
use crate::types::{PipelineId, PipelineName, RunName, Timestamp};

/// What the store knows of a pipeline.
#[derive(Clone, Debug)]
pub struct StoredPipeline {
    /// Which one.
    pub id: PipelineId,
    /// Raised by each write; a write names the version that it read.
    pub version: i64,
    /// The cursors.
    pub ledger: Ledger,
    /// The last good definition.
    pub definition: Option<FileText>,
}

/// A pipeline file's text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileText {
    /// Its path, relative to the source's root.
    pub file: String,
    /// Its folder, relative to the source's root.
    pub folder: String,
    /// Its content.
    pub text: String,
}

impl FileText {
    /// The pipeline of that name, as this version reads the text; none where it cannot.
    pub fn pipeline(&self, name: &PipelineName, max_points: usize) -> Option<Pipeline> {
        let documents = crate::spec::parse(&self.text, &self.file, &self.folder, max_points);
        documents.pipelines.into_iter().find(|pipeline| pipeline.name() == name)
    }
}

/// What a run executes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunSpec {
    /// The file as it was when the run was claimed.
    pub definition: FileText,
    /// The most points that a sweep may have.
    pub max_points: usize,
    /// What the pipeline was, down to its files, when the run was claimed.
    pub fingerprint: Option<Fingerprint>,
    /// Why the run exists, in words.
    #[serde(default)]
    pub because: Vec<String>,
    /// The step from which a run is wanted again; none where all of it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What a retry keeps of the run that it repeats: steps that count as done, with what they left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<StepState>,
    /// Whether `backfill` asked for it.
    #[serde(default)]
    pub backfill: bool,
    /// What executes it.
    #[serde(default)]
    pub engine: EngineName,
    /// What the engine made to execute it: of Argo the Workflow's uid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
}

impl RunSpec {
    /// Whether a step counts as done by an earlier run.
    pub fn keeps(&self, step: &str) -> bool {
        self.kept.iter().any(|state| state.record.name == step)
    }

    /// The pipeline as it was claimed; none where this version cannot read it.
    pub fn pipeline(&self, name: &PipelineName) -> Option<Pipeline> {
        let pipeline = self.definition.pipeline(name, self.max_points)?;
        Some(match &self.fingerprint {
            Some(fingerprint) => pipeline.with_manifests(|step, _| fingerprint.manifest(step)),
            None => pipeline,
        })
    }
}

/// What executes runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineName {
    /// Processes of this machine.
    #[default]
    Local,
    /// Argo Workflows.
    Argo,
}

/// A run with all that its host needs.
#[derive(Clone, Debug)]
pub struct StoredRun {
    /// The pipeline.
    pub pipeline: PipelineId,
    /// The document, without steps unless they were asked for.
    pub run: Run,
    /// What it executes.
    pub spec: RunSpec,
    /// Whether its end is wanted.
    pub stop_requested: bool,
    /// The newer run that takes its place; none where a person wants its end.
    pub stopped_by: Option<RunName>,
    /// Its place in the order in which runs ended.
    pub ended: Option<u64>,
}

impl StoredRun {
    /// The pipeline as it was claimed; none where this version cannot read it.
    pub fn definition(&self) -> Option<Pipeline> {
        self.spec.pipeline(&self.pipeline.name)
    }

    /// Why its end is wanted, in words.
    pub fn why_stopped(&self) -> String {
        match &self.stopped_by {
            Some(by) => format!("run {by} took its place"),
            None => "a person stopped it".into(),
        }
    }
}

/// A step with the counts that the document does not show.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepState {
    /// The document's record.
    pub record: StepRecord,
    /// Attempts that failed.
    pub failures: u64,
    /// Attempts that were lost.
    pub interruptions: u64,
}

/// A conditional write of one pipeline.
pub struct Commit<'a> {
    /// Which one.
    pub id: &'a PipelineId,
    /// The version that was planned from; none where the pipeline was not known.
    pub version: Option<i64>,
    /// The cursors after it.
    pub ledger: &'a Ledger,
    /// The newest good definition.
    pub definition: Option<&'a FileText>,
    /// Runs that are claimed.
    pub claims: Vec<StoredRun>,
    /// What people see of it.
    pub shown: Option<Shown>,
}

/// What people see of a pipeline beside its runs, where a store shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its triggers, in words.
    pub triggers: String,
    /// When the next run is due, where that is known.
    pub next_run: Option<Timestamp>,
    /// Whether its file, and all files it names, are good.
    pub ready: bool,
    /// What stands in the way or is next, as one word.
    pub reason: Reason,
    /// The same in words, without anything that changes by itself.
    pub message: String,
    /// When this was seen.
    pub at: Timestamp,
}

/// What cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A cluster refuses, or cannot be reached.
    #[error("failed to {what}: {message}")]
    Cluster {
        /// What was asked.
        what: String,
        /// Why not.
        message: String,
    },
    /// The database cannot be used.
    #[error("failed to use the state in {folder}: {message}")]
    Database {
        /// The state's folder.
        folder: String,
        /// Why.
        message: String,
    },
    /// The state was written by a newer version.
    #[error(
        "the state in {folder} has version {found}, newer than this jupyterflow knows ({known}); \
         use a newer jupyterflow"
    )]
    Newer {
        /// The state's folder.
        folder: String,
        /// Its version.
        found: i64,
        /// The newest version that is known here.
        known: i64,
    },
    /// The state belongs to another root.
    #[error("the state in {folder} belongs to {root}; a state serves one root only")]
    OtherRoot {
        /// The state's folder.
        folder: String,
        /// The root that it belongs to.
        root: String,
    },
    /// Somebody else wrote first: look again.
    #[error("the pipeline was changed by another process")]
    Conflict,
    /// The name belongs to a run with another identity.
    #[error("the run name {0} is taken by another run")]
    NameTaken(RunName),
}

/// The durable memory.
pub trait Store {
    /// All pipelines.
    fn pipelines(&self) -> Result<Vec<StoredPipeline>, StoreError>;
    /// Runs of a pipeline that have not ended, oldest first, and those that ended last.
    fn runs_of(&self, pipeline: &PipelineId) -> Result<Vec<StoredRun>, StoreError>;
    /// All runs, newest first, at most so many.
    fn runs(&self, limit: usize) -> Result<Vec<StoredRun>, StoreError>;
    /// Pipelines with a run that has not ended, whether they have a row or not.
    fn busy_pipelines(&self) -> Result<Vec<PipelineId>, StoreError>;
    /// Whether the state still lies where it was opened: it may have been moved or removed.
    fn is_in_place(&self) -> bool;
    /// Whether other machines may share the state, so that leases are kept.
    fn is_shared(&self) -> bool;
    /// A lease, where somebody holds it.
    fn lease(&self, name: &str) -> Result<Option<Lease>, StoreError>;
    /// Takes or renews a lease of this machine; one of another only at the beat that is given.
    /// False where another holds it.
    fn hold(&mut self, name: &str, over: Option<i64>) -> Result<bool, StoreError>;
    /// Gives a lease of this machine back.
    fn release(&mut self, name: &str) -> Result<(), StoreError>;
    /// Rises whenever another look could give another plan.
    fn pulse(&self) -> Result<i64, StoreError>;
    /// One run with its steps.
    fn run(&self, name: &str) -> Result<Option<StoredRun>, StoreError>;
    /// Whether records of claims stand before their cursor is written, since both cannot be written at
    /// once: what executes them is then made in between.
    fn announces(&self) -> bool {
        false
    }
    /// Makes all that must stand before the cursor is written, and takes note of it in the commit: its
    /// version, and of claims that somebody else announced before, what they are. Where one of these
    /// answers another change than the cursor says, this is the cursor to write.
    ///
    /// # Errors
    /// As [`Self::commit`].
    fn announce(&mut self, _commit: &mut Commit<'_>) -> Result<Option<Ledger>, StoreError> {
        Ok(None)
    }
    /// Whether people see this of a pipeline already.
    fn shows(&self, _pipeline: &PipelineId, _shown: &Shown) -> bool {
        true
    }
    /// Writes a pipeline and its claims in one durable step.
    fn commit(&mut self, commit: &Commit<'_>) -> Result<(), StoreError>;
    /// Inserts a run that a person asked for, with the steps that it keeps.
    fn request(&mut self, run: &StoredRun) -> Result<(), StoreError>;
    /// Asks for the end of a run, on behalf of a person or of a newer run.
    fn request_stop(&mut self, run: &RunName, by: Option<&RunName>) -> Result<(), StoreError>;
    /// Writes where a run stands; what ended stays as it ended.
    fn update_run(&mut self, run: &Run) -> Result<(), StoreError>;
    /// Writes what a run executes, where it was not as recorded when the run began, and the engine's
    /// handle. False, and nothing written, where the run has ended, its record is gone, or another
    /// handle is kept: whoever is late begins nothing.
    fn update_spec(&mut self, run: &Run, spec: &RunSpec) -> Result<bool, StoreError>;
    /// Writes where a run and its steps stand: a step's end first, so that whoever sees the run's end sees
    /// all of it.
    fn update_stand(&mut self, run: &Run, steps: &[&StepState]) -> Result<(), StoreError> {
        self.update_steps(&run.name, steps)?;
        self.update_run(run)
    }
    /// Whether a run's record holds all that its steps left, be it long or short.
    fn is_whole(&self, _run: &RunName) -> bool {
        true
    }
    /// The steps of a run.
    fn steps(&self, run: &RunName) -> Result<Vec<StepState>, StoreError>;
    /// Writes steps of a run.
    fn update_steps(&mut self, run: &RunName, steps: &[&StepState]) -> Result<(), StoreError>;
    /// Removes the records of runs that ended. Cursors stay.
    fn forget(&mut self, runs: &[RunName]) -> Result<(), StoreError>;
}

/// Parameters that a person or a trigger gave.
pub type Given = IndexMap<String, Value>;
