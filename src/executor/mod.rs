//! The executor: one notebook, one kernel, from start to a whole notebook on disk.
//!
//! Owns the Jupyter protocol, the kernel's process and the executed notebook. The decisions (what a
//! message does to a cell, how a cell ended) are pure; what waits and writes is beside them. It
//! must not know pipelines, runs or ledgers.

mod cell;
mod execute;
mod ignored;
mod kernel;
mod kernelspec;
mod report;
mod save;
mod wire;

pub use execute::{Ending, Options, Progress, execute};
pub use ignored::is_ignored;
pub use kernelspec::{KernelSpec, installed};
pub use report::{EndingPhase, Outputs, collect, finite_numbers};
pub use save::write_whole;
