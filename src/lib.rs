//! jupyterflow: a Git-driven reconciler for notebook pipelines.
pub mod notebook;
pub mod types;
