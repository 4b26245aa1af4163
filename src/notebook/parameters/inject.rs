//! The injected cell: where papermill puts it.
//!
//! Owns placement. Code comes from the table of languages, values from the caller.

use super::translate::{Language, TranslateError};
use super::{Parameters, declared};
use crate::notebook::json::Raw;
use crate::notebook::model::{Cell, Notebook};

/// What an injection did, for the caller to tell.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Injected {
    /// Where the cell stands, from 0; none where no parameter was given.
    pub at: Option<usize>,
    /// Things that a person may want to know.
    pub warnings: Vec<String>,
    /// Names that the notebook does not declare; empty where it declares nothing that can be read.
    pub unknown: Vec<String>,
}

/// Why parameters cannot be injected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InjectError {
    /// Neither the notebook nor the caller names a kernel.
    #[error("the notebook names no kernel, so its language is unknown; say which with -k KERNEL")]
    NoKernel,
    /// The language or a value cannot be written.
    #[error(transparent)]
    Translate(#[from] TranslateError),
}

/// Injects parameters in place of an earlier injected cell, else after the cell tagged
/// `parameters`, else first. No parameters: no cell.
///
/// # Errors
/// Names the language or the value that cannot be written.
pub fn inject(
    notebook: &mut Notebook,
    parameters: &Parameters,
    kernel: Option<&str>,
    language: Option<&str>,
    cell_id: &str,
) -> Result<Injected, InjectError> {
    let mut injected = Injected::default();
    if parameters.is_empty() {
        return Ok(injected);
    }
    let own_kernel = notebook.kernel_name();
    let kernel = kernel.or(own_kernel.as_deref()).unwrap_or_default();
    let own_language = notebook.language();
    let language = language.or(own_language.as_deref()).unwrap_or_default();
    if kernel.is_empty() && language.is_empty() {
        return Err(InjectError::NoKernel);
    }
    let language = Language::find(kernel, language)?;
    if language == Language::Python {
        let known = declared(notebook).unwrap_or_default();
        let unknown = |name: &&String| !known.iter().any(|declared| declared.name == **name);
        injected.unknown = parameters.keys().filter(unknown).cloned().collect();
    }
    let source = language.source(parameters, "Parameters")?;
    let cell = Cell::code(cell_id, &source, &["injected-parameters"]);
    let tagged = |tag: &str| notebook.cells.iter().position(|cell| cell.has_tag(tag));
    let at = match (tagged("injected-parameters"), tagged("parameters")) {
        (Some(at), _) => {
            notebook.cells.remove(at);
            at
        }
        (None, Some(at)) => at + 1,
        (None, None) => {
            injected.warnings.push(
                "the notebook has no cell tagged `parameters`; values are injected as the first cell"
                    .into(),
            );
            0
        }
    };
    if notebook.cells.iter().skip(at).any(|cell| cell.has_tag("parameters")) {
        injected.warnings.push(
            "a cell tagged `parameters` stands after the injected one, so its values win".into(),
        );
    }
    if notebook.cells.iter().any(|cell| {
        cell.get("metadata").map(Raw::object).is_some_and(|m| m.view::<&str>("tags").is_some())
    }) {
        injected.warnings.push("a cell's `tags` is text, not a list: taken as no tags".into());
    }
    notebook.cells.insert(at, cell);
    injected.at = Some(at);
    Ok(injected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notebook::parameters::Parameter;

    fn placed(tags: &[&[&str]]) -> (Vec<String>, Vec<String>) {
        let mut notebook =
            Notebook::read(r#"{"cells": [], "metadata": {}, "nbformat": 4}"#).unwrap();
        for (index, tags) in tags.iter().enumerate() {
            notebook.cells.push(Cell::code(&index.to_string(), "", tags));
        }
        let parameters = [("a".to_owned(), Parameter::Integer("3".into()))].into();
        let injected =
            inject(&mut notebook, &parameters, Some("python3"), Some("python"), "new").unwrap();
        (notebook.cells.iter().map(|cell| cell.id().unwrap()).collect(), injected.warnings)
    }

    #[test]
    fn placement_is_papermills() {
        let p: &[&str] = &["parameters"];
        let i: &[&str] = &["injected-parameters"];
        let none: &[&str] = &["Parameters"];
        assert_eq!(placed(&[none, p, none]).0, ["0", "1", "new", "2"]);
        assert_eq!(placed(&[i, p]).0, ["new", "1"]);
        assert_eq!(placed(&[p, none, i]).0, ["0", "1", "new"]);
        assert_eq!(placed(&[p, p]).0, ["0", "new", "1"]);
        assert_eq!(placed(&[]).0, ["new"]);
        assert!(placed(&[none]).1[0].contains("no cell tagged"));
        assert!(placed(&[i, p]).1[0].contains("its values win"));
    }

    #[test]
    fn a_notebook_without_kernel_and_language_is_refused() {
        let mut notebook = Notebook::read(r#"{"cells": [], "nbformat": 4}"#).unwrap();
        let parameters = [("a".to_owned(), Parameter::Null)].into();
        let error = inject(&mut notebook, &parameters, None, None, "x").unwrap_err();
        assert_eq!(error, InjectError::NoKernel);
        assert!(inject(&mut notebook, &Parameters::new(), None, None, "x").unwrap().at.is_none());
    }
}
