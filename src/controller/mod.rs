//! What a cluster knows of pipelines: custom resources of the group `jupyterflow.io`.
//!
//! Owns their shape. Who acts on them, and when, is the loop's.

pub mod resources;

pub use resources::definitions;
