//! The lossless model of a notebook: an ordered object whose cells are ordered objects.
//!
//! Owns reading (nbformat 4 as it stands, 3 converted) and writing. Nothing that is not looked at
//! is interpreted: unknown fields, key order and the text of numbers survive a round trip. It must
//! not know what running a notebook means.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::json::{self, Object, Raw};
use super::upgrade;

/// Why a text is not a notebook that can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file has no content at all: Jupyter may be in the middle of a save.
    #[error("the file is empty (a save may be under way)")]
    Empty,
    /// Not JSON, or cut off.
    #[error("not valid JSON: {problem} (line {line}, column {column})")]
    Json {
        /// What the parser found.
        problem: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// JSON, but not of a notebook's shape.
    #[error("not a notebook: {0}")]
    Shape(String),
    /// A major version that is not read.
    #[error(
        "nbformat {0} is not read, only 3 and 4 are; \
         convert it with `jupyter nbconvert --to notebook --nbformat 4`"
    )]
    Version(i64),
}

/// A notebook. Cells aside, each field keeps its text.
#[derive(Clone, Debug, Default)]
pub struct Notebook {
    before: Object,
    /// The cells in order.
    pub cells: Vec<Cell>,
    after: Object,
}

/// What kind of cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellKind {
    /// Sent to the kernel.
    Code,
    /// Prose.
    Markdown,
    /// Passed through by converters.
    Raw,
    /// A type that nbformat does not know; kept as it is.
    Other,
}

/// A cell: its fields in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cell(Object);

/// The tag of papermill's error banners.
pub const BANNER_TAG: &str = "papermill-error-cell-tag";

impl Notebook {
    /// Removes the banners that an earlier failure left.
    pub fn remove_banners(&mut self) {
        self.cells.retain(|cell| !cell.has_tag(BANNER_TAG));
    }

    /// Reads nbformat 4, and 3 by converting it.
    ///
    /// # Errors
    /// Says why the text is no notebook, with line and column where the JSON is at fault.
    pub fn read(text: &str) -> Result<Self, ReadError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.trim().is_empty() {
            return Err(ReadError::Empty);
        }
        let text = json::without_marks(text);
        let parsed: Parsed = match serde_json::from_str(&text) {
            Ok(parsed) => parsed,
            Err(_) => serde_json::from_str(&json::mark_non_finite(&text)).map_err(|error| {
                if error.is_data() {
                    return ReadError::Shape(error.to_string());
                }
                let message = error.to_string();
                let problem = message.split(" at line ").next().unwrap_or_default();
                ReadError::Json {
                    problem: problem.to_owned(),
                    line: error.line(),
                    column: error.column(),
                }
            })?,
        };
        match parsed.version {
            Some(4) if parsed.has_cells => Ok(parsed.notebook),
            Some(4) => Err(ReadError::Shape("it has no list of cells".into())),
            Some(3) => upgrade::from_version_3(&parsed.notebook.before).map_err(ReadError::Shape),
            Some(other) => Err(ReadError::Version(other)),
            None => Err(ReadError::Shape("it has no nbformat version".into())),
        }
    }

    /// Writes the notebook as Python's nbformat does: indent 1, non-ASCII as it is, one line
    /// break at the end. Keys keep their order.
    pub fn write(&self) -> String {
        let mut out = String::from("{");
        let mut first = true;
        let mut field = |out: &mut String, key: &str| {
            if !std::mem::take(&mut first) {
                out.push(',');
            }
            json::new_line(1, out);
            out.push_str(key);
            out.push_str(": ");
        };
        for (key, value) in self.before.raw_entries() {
            field(&mut out, key.text());
            json::write_pretty(value.text(), 1, &mut out);
        }
        field(&mut out, "\"cells\"");
        if self.cells.is_empty() {
            out.push_str("[]");
        } else {
            out.push('[');
            for (index, cell) in self.cells.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                json::new_line(2, &mut out);
                cell.write(&mut out);
            }
            json::new_line(1, &mut out);
            out.push(']');
        }
        for (key, value) in self.after.raw_entries() {
            field(&mut out, key.text());
            json::write_pretty(value.text(), 1, &mut out);
        }
        out.push_str("\n}\n");
        out
    }

    /// A top-level field other than the cells.
    pub fn get(&self, key: &str) -> Option<&Raw> {
        self.after.get(key).or_else(|| self.before.get(key))
    }

    /// Sets a top-level field.
    pub fn set(&mut self, key: &str, value: Raw) {
        let fields =
            if self.before.get(key).is_some() { &mut self.before } else { &mut self.after };
        fields.set(key, value);
    }

    /// The notebook's metadata; empty where it has none.
    pub fn metadata(&self) -> Object {
        self.get("metadata").map(Raw::object).unwrap_or_default()
    }

    /// Changes the notebook's metadata in place.
    pub fn edit_metadata(&mut self, edit: impl FnOnce(&mut Object)) {
        let mut metadata = self.metadata();
        edit(&mut metadata);
        self.set("metadata", Raw::from(&metadata));
    }

    /// The minor version; 0 where it is missing.
    pub fn minor(&self) -> u64 {
        self.get("nbformat_minor").and_then(Raw::view).unwrap_or(0)
    }

    /// `metadata.kernelspec.name`, which may be missing, or of a wrong shape in the wild.
    pub fn kernel_name(&self) -> Option<String> {
        let name: String = self.metadata().get("kernelspec")?.object().view("name")?;
        Some(name).filter(|name| !name.is_empty())
    }

    /// The language: `language_info.name`, else `kernelspec.language`.
    pub fn language(&self) -> Option<String> {
        let metadata = self.metadata();
        let named = |block: &str, key: &str| -> Option<String> {
            let value: String = metadata.get(block)?.object().view(key)?;
            Some(value).filter(|text| !text.is_empty())
        };
        named("language_info", "name").or_else(|| named("kernelspec", "language"))
    }

    /// Brings the notebook to nbformat 4.5: each cell has an id, unique and well-formed. Ids that
    /// are so already stay; the others come from `new_id`.
    pub fn upgrade_to_4_5(&mut self, mut new_id: impl FnMut() -> String) {
        let mut seen = std::collections::HashSet::new();
        for cell in &mut self.cells {
            let id = cell.id().filter(|id| is_cell_id(id) && !seen.contains(id));
            let id = id.unwrap_or_else(|| {
                let id = new_id();
                cell.set("id", Raw::new(&id));
                id
            });
            seen.insert(id);
        }
        self.set("nbformat", Raw::new(&4));
        if self.minor() < 5 {
            self.set("nbformat_minor", Raw::new(&5));
        }
    }
}

fn is_cell_id(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

impl Cell {
    /// A code cell with the fields that nbformat 4.5 demands.
    pub fn code(id: &str, source: &str, tags: &[&str]) -> Self {
        let mut cell = Self(Object::default());
        cell.set("cell_type", Raw::new(&"code"));
        cell.set("execution_count", Raw::new(&()));
        cell.set("id", Raw::new(&id));
        cell.set("metadata", Raw::new(&serde_json::json!({ "tags": tags })));
        cell.set("outputs", Raw::new(&[(); 0]));
        cell.set_source(source);
        cell
    }

    /// A markdown cell.
    pub fn markdown(id: &str, source: &str, tags: &[&str]) -> Self {
        let mut cell = Self(Object::default());
        cell.set("cell_type", Raw::new(&"markdown"));
        cell.set("id", Raw::new(&id));
        cell.set("metadata", Raw::new(&serde_json::json!({ "tags": tags })));
        cell.set_source(source);
        cell
    }

    /// The kind of this cell.
    pub fn kind(&self) -> CellKind {
        match self.0.view::<&str>("cell_type") {
            Some("code") => CellKind::Code,
            Some("markdown") => CellKind::Markdown,
            Some("raw") => CellKind::Raw,
            _ => CellKind::Other,
        }
    }

    /// The cell's id, as it stands.
    pub fn id(&self) -> Option<String> {
        self.0.view("id")
    }

    /// The source as one text.
    pub fn source(&self) -> String {
        self.get("source").and_then(Raw::joined_text).unwrap_or_default()
    }

    /// Replaces the source, written as a list of lines as Python does.
    pub fn set_source(&mut self, source: &str) {
        self.set("source", Raw::new(&split_lines(source)));
    }

    /// The tags. A string in place of a list, as some tools write, counts as none.
    pub fn tags(&self) -> Vec<String> {
        let Some(tags) = self.get("metadata").map(Raw::object) else { return Vec::new() };
        tags.view::<Vec<serde_json::Value>>("tags")
            .unwrap_or_default()
            .into_iter()
            .filter_map(|tag| tag.as_str().map(str::to_owned))
            .collect()
    }

    /// Whether a tag stands on the cell.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags().iter().any(|other| other == tag)
    }

    /// A field as it was written.
    pub fn get(&self, key: &str) -> Option<&Raw> {
        self.0.get(key)
    }

    /// Sets a field where it stands, else at the end.
    pub fn set(&mut self, key: &str, value: Raw) {
        self.0.set(key, value);
    }

    /// Changes the cell's metadata in place.
    pub fn edit_metadata(&mut self, edit: impl FnOnce(&mut Object)) {
        let mut metadata = self.get("metadata").map(Raw::object).unwrap_or_default();
        edit(&mut metadata);
        self.set("metadata", Raw::from(&metadata));
    }

    /// The outputs, each an ordered object; entries of another shape are passed over.
    pub fn outputs(&self) -> Vec<Object> {
        let outputs: Vec<Raw> = self.get("outputs").and_then(Raw::view).unwrap_or_default();
        outputs.iter().filter_map(Raw::view).collect()
    }

    fn write(&self, out: &mut String) {
        json::write_pretty(Raw::from(&self.0).text(), 2, out);
    }
}

/// Splits text after each line break, as Python's `str.splitlines(True)` does, so that a saved
/// notebook differs from one that nbformat saved in nothing.
pub fn split_lines(text: &str) -> Vec<&str> {
    let bytes = text.as_bytes();
    let mut lines = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < bytes.len() {
        // Bytes, for texts are long: the breaks beyond ASCII are U+0085, U+2028 and U+2029.
        at += match &bytes[at..] {
            [b'\r', b'\n', ..] | [0xC2, 0x85, ..] => 2,
            [b'\n' | b'\r' | 0xB | 0xC | 0x1C..=0x1E, ..] => 1,
            [0xE2, 0x80, 0xA8 | 0xA9, ..] => 3,
            _ => {
                at += 1;
                continue;
            }
        };
        lines.push(&text[start..at]);
        start = at;
    }
    if start < text.len() {
        lines.push(&text[start..]);
    }
    lines
}

/// What one pass over the text finds.
struct Parsed {
    notebook: Notebook,
    version: Option<i64>,
    has_cells: bool,
}

impl<'de> Deserialize<'de> for Parsed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Parsed;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a notebook, which is a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parsed, A::Error> {
                let mut parsed =
                    Parsed { notebook: Notebook::default(), version: None, has_cells: false };
                while let Some(key) = map.next_key::<Raw>()? {
                    if key.text() == "\"cells\"" {
                        parsed.notebook.cells = map.next_value()?;
                        parsed.has_cells = true;
                        continue;
                    }
                    let value: Raw = map.next_value()?;
                    if key.text() == "\"nbformat\"" {
                        parsed.version = value.view();
                    }
                    let notebook = &mut parsed.notebook;
                    let fields =
                        if parsed.has_cells { &mut notebook.after } else { &mut notebook.before };
                    fields.push_raw(key, value);
                }
                Ok(parsed)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

impl<'de> Deserialize<'de> for Cell {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Object::deserialize(deserializer).map(Self)
    }
}

/// Whether a text is JSON at all: tells a half-written file from one of another kind.
pub fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(&json::mark_non_finite(text)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{
 "metadata": {
  "kernelspec": {
   "name": "python3"
  },
  "x-unknown": 1e+16
 },
 "cells": [
  {
   "cell_type": "code",
   "execution_count": null,
   "metadata": {
    "tags": [
     "parameters"
    ]
   },
   "outputs": [],
   "source": [
    "a = 1\n",
    "b = 2"
   ],
   "zzz": NaN
  },
  {
   "cell_type": "odd",
   "metadata": {},
   "source": "text"
  }
 ],
 "nbformat": 4,
 "nbformat_minor": 4
}
"#;

    #[test]
    fn a_round_trip_changes_nothing() {
        assert_eq!(Notebook::read(SMALL).unwrap().write(), SMALL);
    }

    #[test]
    fn views_read_what_is_there() {
        let notebook = Notebook::read(SMALL).unwrap();
        assert_eq!(notebook.kernel_name().unwrap(), "python3");
        assert_eq!(notebook.cells[0].source(), "a = 1\nb = 2");
        assert!(notebook.cells[0].has_tag("parameters"));
        assert_eq!(notebook.cells[1].kind(), CellKind::Other);
    }

    /// Found by fuzzing: text that looks like our own mark of a number stays text.
    #[test]
    fn text_that_looks_like_our_mark_stays_text() {
        for word in ["es the", "NaN", ""] {
            let mark = format!(r"\u0000jupyterflow-number:{word}");
            let text = format!(r#"{{"cells": [{{"source": "{mark}"}}], "nbformat": 4, "x": NaN}}"#);
            let once = Notebook::read(&text).unwrap();
            assert_eq!(once.cells[0].source(), format!("\0jupyterflow-number:{word}"));
            let twice = Notebook::read(&once.write()).unwrap();
            assert_eq!(twice.cells[0].source(), once.cells[0].source());
            assert!(twice.write().contains("\"x\": NaN"));
        }
    }

    #[test]
    fn what_is_no_notebook_says_why() {
        let error = |text: &str| Notebook::read(text).unwrap_err().to_string();
        assert_eq!(error(" \n"), "the file is empty (a save may be under way)");
        assert_eq!(
            error("{\"cells\": ["),
            "not valid JSON: EOF while parsing a list (line 1, column 11)"
        );
        assert!(error("[]").starts_with("not a notebook: invalid type"), "{}", error("[]"));
        assert!(error("{\"nbformat\": 2}").contains("nbformat 2 is not read"));
        assert!(error("{\"nbformat\": 4}").contains("no list of cells"));
        assert!(error("{\"cells\": [], \"nbformat_minor\": 4}").contains("no nbformat version"));
        assert!(error("{\"nbformat\": 4, \"cells\": [5]}").starts_with("not a notebook"));
    }

    #[test]
    fn lines_split_as_python_does() {
        assert_eq!(split_lines("a\r\nb\u{2028}c\x0bd\n"), ["a\r\n", "b\u{2028}", "c\x0b", "d\n"]);
        assert_eq!(split_lines("").len(), 0);
    }

    #[test]
    fn an_upgrade_gives_ids_where_they_are_missing_or_doubled() {
        let text = r#"{"cells": [{"id": "a"}, {"id": "a"}, {"id": "b c"}, {}], "nbformat": 4}"#;
        let mut notebook = Notebook::read(text).unwrap();
        let mut count = 0;
        notebook.upgrade_to_4_5(|| {
            count += 1;
            format!("new{count}")
        });
        let ids: Vec<_> = notebook.cells.iter().map(|cell| cell.id().unwrap()).collect();
        assert_eq!(ids, ["a", "new1", "new2", "new3"]);
        assert_eq!(notebook.minor(), 5);
    }
}
