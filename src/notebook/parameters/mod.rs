//! Parameters of notebooks as papermill has them: values, code, the injected cell, what a notebook
//! declares.
//!
//! Owns papermill 2.7's rules. It must not decide which parameters a run has; that is the spec's.

mod infer;
mod inject;
mod template;
mod translate;
mod value;
mod yaml;

pub use infer::{Declared, declared, declared_names};
pub use inject::{InjectError, Injected, inject};
pub use template::{Builtin, TemplateError, escape, fill};
pub use translate::{Language, TranslateError};
pub use value::{Key, Parameter};
pub use yaml::{YamlError, from_yaml};

/// Parameters in the order in which they become assignments.
pub type Parameters = indexmap::IndexMap<String, Parameter>;
