//! The pipeline file: from text to validated pipelines, or to all problems at once.
//!
//! Owns the file format: its keys, grammar, references, digests and the JSON Schema. Pure: files
//! that a pipeline names are read by a source, which hands their digests in.

mod between;
mod command;
mod deploy;
mod document;
mod files;
pub mod fingerprint;
mod flow;
mod graph;
mod hints;
mod import;
mod keys;
pub mod manifest;
mod path;
mod pipeline;
mod problem;
mod reference;
mod schema;
mod shape;
mod sources;
mod triggers;
mod validate;
mod yaml;

pub use command::{Script, Variable, script_words};
pub use deploy::{Deployment, Gate, Incumbent, Operand};
pub use document::{document, text_of};
pub use files::{file_problems, names_file};
pub use fingerprint::{FileState, Fingerprint};
pub use flow::parse as parse_flow;
pub use graph::Graph;
pub use hints::nearest as hints_nearest;
pub use import::{is_workflow, read_workflow};
pub use path::RelativePath;
pub use pipeline::{
    Best, Concurrency, Goal, History, Keep, Pipeline, Resource, Resources, SecretKey, Step, Work,
};
pub use problem::{Problem, Severity};
pub use reference::{Field, ModelField, Reference, RunField, Template, resolve_json, visit_json};
pub use schema::{json_schema, problem_if_huge};
pub use sources::{
    FirstSight, GitSpec, LimitsSpec, NotebookSource, SourceMetadata, SourceSpec, read_sources,
};
pub use triggers::{Check, Missed, Schedule, Stale, Triggers};
pub use validate::{Documents, parse, points};
pub use yaml::MAX_BYTES;

/// Names that a pipeline file may have, one to a folder.
pub const FILE_NAMES: [&str; 2] = ["jupyterflow.yaml", "jupyterflow.yml"];
