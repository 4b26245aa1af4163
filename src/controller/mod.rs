//! What a cluster knows of pipelines: custom resources of the group `jupyterflow.io`.
//!
//! Owns their shape, and the durable memory that they are (`store`). When something is looked at, and what
//! follows, is the loop's.

pub mod cache;
pub mod chart;
pub mod environments;
pub mod events;
pub mod kubernetes;
pub mod leader;
pub mod manifests;
pub mod objects;
pub mod pods;
pub mod published;
pub mod records;
pub mod removal;
pub mod requests;
pub mod resources;
pub mod sources;
pub mod store;
pub mod tenants;
mod upkeep;
pub mod workflows;

pub use resources::definitions;
pub use store::ClusterStore;
