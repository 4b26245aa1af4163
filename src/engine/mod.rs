//! The engine port: what executes runs.
//!
//! Owns the three things that the loop asks of an engine. Names are the store's; an engine finds
//! all else there.
//!
//! ```
//! use jupyterflow::engine::{Engine, local::LocalEngine};
//! use jupyterflow::plan::Observed;
//! use jupyterflow::types::RunName;
//!
//! let engine = LocalEngine::new("/nowhere/.jupyterflow".as_ref(), "/nowhere".as_ref(), 2, false);
//! let run = RunName::from_stored("hello-0123456789abcdef").unwrap();
//! assert_eq!(engine.observe(&run), Observed::Absent);
//! ```

pub mod local;

use crate::plan::Observed;
use crate::spec::Pipeline;
use crate::types::RunName;

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
}

/// What executes runs.
pub trait Engine {
    /// Whether something is at work on a run.
    fn observe(&self, run: &RunName) -> Observed<()>;
    /// Starts what executes a claimed run. Starting twice is harmless.
    fn start(&mut self, run: &RunName) -> Result<(), EngineError>;
    /// What a person must provide before a pipeline can run here, in words; none if nothing.
    fn lacks(&self, pipeline: &Pipeline) -> Option<String>;
    /// Hurries the end of a run whose stop is recorded.
    fn stop(&mut self, run: &RunName) -> Result<(), EngineError>;
}
