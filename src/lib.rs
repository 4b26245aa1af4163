//! jupyterflow: a Git-driven reconciler for notebook pipelines.
pub mod cli;
pub mod executor;
pub mod notebook;
pub mod plan;
pub mod schedule;
pub mod spec;
pub mod types;
