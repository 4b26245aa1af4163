//! The engine port: what executes runs.
//!
//! Owns the few things that the loop asks of an engine. Names are the store's; an engine finds all else
//! there, or is given the record.

pub mod argo;
pub mod local;
pub mod step;

use crate::plan::{Observed, Run};
use crate::spec::Pipeline;
use crate::store::{EngineName, StepState, StoredRun};
use crate::types::{PipelineId, RunName, Timestamp};

/// Why an engine did not do as asked.
#[derive(Debug, thiserror::Error)]
#[error("failed to {what} run {run}: {message}")]
pub struct EngineError {
    /// What was asked.
    pub what: &'static str,
    /// The run.
    pub run: RunName,
    /// Why not.
    pub message: String,
    /// Whether it may pass by itself, so that asking again is worth while.
    pub passing: bool,
}

impl EngineError {
    /// One that will not pass by itself.
    pub fn new(what: &'static str, run: &RunName, message: impl Into<String>) -> Self {
        Self { what, run: run.clone(), message: message.into(), passing: false }
    }
}

/// What an engine tells of a run that nobody else records.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// Nothing: what executes the run records it itself, or has not begun.
    Nothing,
    /// Where the run and its steps stand.
    Stands(Box<Run>, Vec<StepState>),
    /// What executed it is gone, and nobody saw its end.
    Vanished,
}

/// What executes runs.
pub trait Engine {
    /// Which engine new runs are for.
    fn name(&self) -> EngineName {
        EngineName::Local
    }
    /// Whether something is at work on a run.
    fn observe(&self, run: &StoredRun) -> Observed<()>;
    /// Whether a run that was started goes on without whoever started it. Else starting it again may be needed.
    fn took_up(&self, _run: &StoredRun) -> bool {
        true
    }
    /// Makes what will execute a claimed run without letting it begin, and gives what the store keeps
    /// of it: until it is kept, nothing begins. None where there is nothing to keep. Asking twice is
    /// harmless.
    ///
    /// # Errors
    /// It cannot be made.
    fn prepare(&mut self, _run: &StoredRun) -> Result<Option<String>, EngineError> {
        Ok(None)
    }
    /// Starts what executes a claimed run. Starting twice is harmless.
    ///
    /// # Errors
    /// It cannot be started.
    fn start(&mut self, run: &StoredRun) -> Result<(), EngineError>;
    /// What a person must provide before a pipeline can run here, in words; none if nothing.
    fn lacks(&self, id: &PipelineId, pipeline: &Pipeline) -> Option<String>;
    /// Hurries the end of a run whose stop is recorded.
    ///
    /// # Errors
    /// It cannot be reached.
    fn stop(&mut self, run: &StoredRun) -> Result<(), EngineError>;
    /// Where a run stands that is executed elsewhere.
    ///
    /// # Errors
    /// Nobody can say.
    fn report(&self, _run: &StoredRun, _now: Timestamp) -> Result<Report, EngineError> {
        Ok(Report::Nothing)
    }
}
