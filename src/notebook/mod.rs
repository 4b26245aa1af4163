//! Notebooks as data: a lossless model, parameters, the digest, the difference of two, the page.
//!
//! Owns all knowledge of the nbformat file format and of papermill's conventions in it. Pure: it
//! must not touch files, start kernels or read a clock.

pub mod diff;
pub mod digest;
pub mod json;
pub mod model;
pub mod parameters;

pub mod render;
mod upgrade;

pub use model::{Cell, CellKind, Notebook, ReadError};

#[cfg(test)]
#[path = "properties_tests.rs"]
mod properties_tests;
