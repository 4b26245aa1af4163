//! jupyterflow: a Git-driven reconciler for notebook pipelines.
//!
//! The rooms and who may import whom are in ARCHITECTURE.md; `tests/tidy.rs` holds them.
//!
//! From the text of a file to what would be done, without a clock, a file or a network:
//!
//! ```
//! use jupyterflow::plan::{Definition, Ledger, PipelineFacts, Seen, plan};
//! use jupyterflow::spec::{Fingerprint, fingerprint::Files, parse};
//! use jupyterflow::types::PipelineId;
//!
//! let documents = parse("name: hello\nsteps: {a: {run: echo hello}}", "jupyterflow.yaml", "", 100);
//! let pipeline = &documents.pipelines[0];
//! let id = PipelineId { source: "local".into(), folder: String::new(), name: pipeline.name().clone() };
//! let now = "2026-11-22T10:00:00Z".parse().unwrap();
//! let fingerprint = Fingerprint::new(pipeline, &Files::new());
//! let definition = Definition {
//!     pipeline,
//!     fingerprint: &fingerprint,
//!     schedules: &pipeline.triggers().schedules,
//!     revision: "r",
//!     still_since: now,
//!     inputs_written: None,
//! };
//! let ledger = Ledger::default();
//! let facts = PipelineFacts::new(&id, Seen::Good, Some(definition), &ledger, &[]);
//! let planned = plan(&facts, now);
//! assert_eq!(planned.actions[0].word(), "start");
//! assert_eq!(planned.actions[0].reason(), "first sight of the pipeline");
//! ```

pub mod check;
pub mod cli;
pub mod controller;
pub mod engine;
pub mod executor;
pub mod jupyterhub;
pub mod notebook;
pub mod plan;
pub mod reconcile;
pub mod schedule;
pub mod sim;
pub mod source;
pub mod spec;
pub mod store;
pub mod types;
pub mod web;
