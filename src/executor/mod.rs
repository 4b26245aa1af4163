//! The executor: one notebook, one kernel, from start to a whole notebook on disk.
//!
//! Owns the Jupyter protocol, the kernel's process and the executed notebook. The decisions (what a
//! message does to a cell, how a cell ended) are pure; what waits and writes is beside them. It
//! must not know pipelines, runs or ledgers.

mod broadcast;
pub mod cell;
mod connection;
mod execute;
mod kernel;
mod kernelspec;
mod launch;
mod location;
mod memory;
pub mod outputs;
mod process;
mod record;
mod remote;
mod report;
mod save;
mod signals;
pub mod widgets;
pub mod wire;

pub use execute::{Ending, Options, Progress, execute};
pub use kernelspec::{KernelSpec, installed};
pub use launch::Launch;
pub use location::Location;
pub use memory::return_free_memory;
pub use record::{Saving, new_id};
pub use report::{EndingPhase, Outputs, collect, finite_numbers};
pub use save::{write_named, write_whole};
pub use signals::is_ignored;
