//! The notebook digest: what counts as a change of a notebook.
//!
//! Owns the rule of the design: code cells in order, without those that a run injects, line
//! endings normalised, three tags, and the kernel's name. Re-running, re-saving, prose, outputs,
//! ids and formatting never count.

use serde_json::{Value, json};

use super::diff::Outline;
use super::model::{BANNER_TAG, Cell, CellKind, Notebook};
use crate::types::Digest;

/// Tags that change what a run does, in the order in which they are hashed.
const TAGS: [&str; 3] = ["parameters", "raises-exception", "skip-execution"];
/// Tags of cells that papermill (or we) put into executed notebooks.
const INJECTED: [&str; 2] = ["injected-parameters", BANNER_TAG];

/// The digest, with the kernel that the step names, else the notebook's own.
pub fn digest(notebook: &Notebook, kernel: Option<&str>) -> Digest {
    of_outline(&Outline::of(notebook, None), kernel)
}

/// The digest from the cells that count.
pub fn of_outline(outline: &Outline, kernel: Option<&str>) -> Digest {
    let kernel = kernel.or(outline.kernel.as_deref());
    let cells: Vec<Value> =
        outline.cells.iter().map(|cell| json!([cell.source, cell.tags])).collect();
    Digest::of_json("jupyterflow/notebook/v1", &json!([kernel, cells]))
}

/// The cells that count, with their position among all cells (from 0).
pub fn counted_cells(notebook: &Notebook) -> impl Iterator<Item = (usize, &Cell)> {
    notebook.cells.iter().enumerate().filter(|(_, cell)| {
        cell.kind() == CellKind::Code
            && !INJECTED.iter().any(|tag| cell.has_tag(tag))
            && !cell.source().trim().is_empty()
    })
}

/// A cell's source with `\n` as the only line ending.
pub fn normal_source(cell: &Cell) -> String {
    let source = cell.source();
    if source.contains('\r') { source.replace("\r\n", "\n").replace('\r', "\n") } else { source }
}

/// The tags of a cell that count, sorted.
pub fn counted_tags(cell: &Cell) -> Vec<&'static str> {
    let tags = cell.tags();
    TAGS.into_iter().filter(|tag| tags.iter().any(|other| other == tag)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(cells: &str, metadata: &str) -> Digest {
        let text = format!(r#"{{"cells": [{cells}], "metadata": {metadata}, "nbformat": 4}}"#);
        digest(&Notebook::read(&text).unwrap(), None)
    }

    const CODE: &str = r#"{"cell_type": "code", "source": "x = 1\nprint(x)"}"#;

    #[test]
    fn outputs_prose_ids_and_injected_cells_do_not_count() {
        let base = of(CODE, "{}");
        let noisy = [
            r##"{"cell_type": "markdown", "source": "# hi", "id": "q"}"##,
            r#"{"cell_type": "code", "source": " \n"}"#,
            r#"{"cell_type": "code", "source": "x=5", "metadata": {"tags": ["injected-parameters"]}}"#,
            r#"{"id": "z", "cell_type": "code", "execution_count": 7, "outputs": [{"a": 1}],
                "metadata": {"tags": ["mine"], "execution": {"t": 1}},
                "source": ["x = 1\r\n", "print(x)"]}"#,
        ];
        assert_eq!(of(&noisy.join(","), r#"{"language_info": {"version": "3"}}"#), base);
    }

    #[test]
    fn code_order_tags_and_kernel_count() {
        let base = of(CODE, "{}");
        assert_ne!(of(r#"{"cell_type": "code", "source": "x = 2\nprint(x)"}"#, "{}"), base);
        assert_ne!(of(&format!("{CODE},{CODE}"), "{}"), base);
        let tagged =
            CODE.replace("\"code\"", r#""code", "metadata": {"tags": ["skip-execution"]}"#);
        assert_ne!(of(&tagged, "{}"), base);
        assert_ne!(of(CODE, r#"{"kernelspec": {"name": "ir"}}"#), base);
    }
}
