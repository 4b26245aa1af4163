//! Executing steps: what both engines share.
//!
//! Owns the board that says what follows from what, and one attempt of a step from its references to
//! what it left. It knows neither the store nor a cluster.

pub mod attempt;
pub mod board;
pub mod environment;
pub mod invocation;
pub mod kept;
pub mod leftovers;
pub mod present;
pub mod processes;
pub mod retelling;
pub mod values;
pub mod workplace;
