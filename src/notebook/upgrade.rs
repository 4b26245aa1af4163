//! nbformat 3 read as nbformat 4, by the rules of nbformat's own converter (`v4/convert.py`).
//!
//! Owns that conversion only. Numbers keep their value but not their text: old files are read, not
//! written back.

use serde_json::{Map, Value, json};

use super::json::{Object, Raw};
use super::model::Notebook;

/// Short names of version 3 for MIME types, in outputs.
const MIME_NAMES: [(&str, &str); 9] = [
    ("text", "text/plain"),
    ("html", "text/html"),
    ("svg", "image/svg+xml"),
    ("png", "image/png"),
    ("jpeg", "image/jpeg"),
    ("latex", "text/latex"),
    ("json", "application/json"),
    ("javascript", "application/javascript"),
    ("pdf", "application/pdf"),
];

/// Converts the top-level fields of a version 3 notebook.
pub fn from_version_3(fields: &Object) -> Result<Notebook, String> {
    let worksheets: Vec<Map<String, Value>> =
        fields.view("worksheets").ok_or("nbformat 3 without a list of worksheets")?;
    let mut metadata: Map<String, Value> = fields.view("metadata").unwrap_or_default();
    for key in ["name", "signature", "orig_nbformat", "orig_nbformat_minor"] {
        metadata.remove(key);
    }
    let mut cells = Vec::new();
    for mut worksheet in worksheets {
        if let Some(Value::Array(list)) = worksheet.remove("cells") {
            cells.extend(list.into_iter().filter_map(|cell| match cell {
                Value::Object(cell) => Some(convert_cell(cell)),
                _ => None,
            }));
        }
    }
    let text = json!({
        "cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 4,
    });
    Notebook::read(Raw::new(&text).text()).map_err(|error| error.to_string())
}

fn convert_cell(mut cell: Map<String, Value>) -> Value {
    let kind = cell.get("cell_type").and_then(Value::as_str).unwrap_or("raw").to_owned();
    cell.entry("metadata").or_insert_with(|| json!({}));
    match kind.as_str() {
        "code" => {
            cell.remove("language");
            let collapsed = cell.remove("collapsed");
            if let (Some(collapsed), Some(Value::Object(metadata))) =
                (collapsed, cell.get_mut("metadata"))
            {
                metadata.insert("collapsed".into(), collapsed);
            }
            let source = cell.remove("input").unwrap_or_else(|| json!(""));
            cell.insert("source".into(), source);
            let count = cell.remove("prompt_number").unwrap_or(Value::Null);
            cell.insert("execution_count".into(), count);
            let outputs = match cell.remove("outputs") {
                Some(Value::Array(outputs)) => outputs,
                _ => Vec::new(),
            };
            let outputs: Vec<Value> = outputs.into_iter().map(convert_output).collect();
            cell.insert("outputs".into(), Value::Array(outputs));
        }
        "heading" => {
            let level = cell.remove("level").and_then(|level| level.as_u64()).unwrap_or(1);
            let source = joined(cell.get("source").unwrap_or(&Value::Null));
            let line = source.split('\n').collect::<Vec<_>>().join(" ");
            let hashes = "#".repeat(usize::try_from(level.clamp(1, 6)).unwrap_or(1));
            cell.insert("source".into(), json!(format!("{hashes} {line}")));
            cell.insert("cell_type".into(), json!("markdown"));
        }
        "html" => {
            cell.insert("cell_type".into(), json!("markdown"));
        }
        _ => {}
    }
    Value::Object(cell)
}

fn convert_output(output: Value) -> Value {
    let Value::Object(mut output) = output else { return output };
    let kind = output.get("output_type").and_then(Value::as_str).unwrap_or_default().to_owned();
    match kind.as_str() {
        "pyout" | "display_data" => {
            output.entry("metadata").or_insert_with(|| json!({}));
            if kind == "pyout" {
                output.insert("output_type".into(), json!("execute_result"));
                let count = output.remove("prompt_number").unwrap_or(Value::Null);
                output.insert("execution_count".into(), count);
            }
            let mut data = Map::new();
            for (short, mime) in MIME_NAMES {
                let Some(value) = output.remove(short) else { continue };
                let value = match short {
                    "json" => serde_json::from_str(&joined(&value)).unwrap_or(value),
                    _ => value,
                };
                data.insert(mime.into(), value);
            }
            output.insert("data".into(), Value::Object(data));
        }
        "pyerr" => {
            output.insert("output_type".into(), json!("error"));
        }
        "stream" => {
            let name = output.remove("stream").unwrap_or_else(|| json!("stdout"));
            output.insert("name".into(), name);
        }
        _ => {}
    }
    Value::Object(output)
}

fn joined(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(lines) => lines.iter().filter_map(Value::as_str).collect(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use crate::notebook::{CellKind, Notebook};

    #[test]
    fn version_3_is_read() {
        let text = r#"{"metadata": {"name": "old"}, "nbformat": 3, "nbformat_minor": 0,
            "worksheets": [{"cells": [
                {"cell_type": "heading", "level": 2, "source": ["A ", "title"]},
                {"cell_type": "code", "input": ["1 + 1"], "language": "python", "prompt_number": 4,
                 "outputs": [{"output_type": "pyout", "prompt_number": 4, "text": ["2"]},
                             {"output_type": "stream", "stream": "stderr", "text": "x"}]}
            ], "metadata": {}}]}"#;
        let notebook = Notebook::read(text).unwrap();
        assert_eq!(notebook.cells[0].kind(), CellKind::Markdown);
        assert_eq!(notebook.cells[0].source(), "## A title");
        assert_eq!(notebook.cells[1].source(), "1 + 1");
        let outputs = notebook.cells[1].outputs();
        assert_eq!(outputs[0].view::<&str>("output_type"), Some("execute_result"));
        assert_eq!(outputs[1].view::<&str>("name"), Some("stderr"));
    }

    #[test]
    fn version_3_without_worksheets_is_refused() {
        let error = Notebook::read(r#"{"nbformat": 3, "metadata": {}}"#).unwrap_err();
        assert_eq!(error.to_string(), "not a notebook: nbformat 3 without a list of worksheets");
    }
}
