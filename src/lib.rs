//! jupyterflow: a Git-driven reconciler for notebook pipelines.
//!
//! The rooms and who may import whom are in ARCHITECTURE.md; `tests/tidy.rs` holds them.

pub mod cli;
pub mod engine;
pub mod executor;
pub mod notebook;
pub mod plan;
pub mod reconcile;
pub mod schedule;
pub mod source;
pub mod spec;
pub mod store;
pub mod types;
