//! Which parameters a Python notebook declares, read as papermill reads them: by lines, not by a
//! parser.
//!
//! Owns papermill's heuristics (`translators.py`, `PythonTranslator.inspect`), its blind spots
//! included: what it misses is a warning elsewhere, never an error.

use crate::notebook::model::Notebook;
use serde::Serialize;

/// One parameter of the cell tagged `parameters`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Declared {
    /// Its name.
    pub name: String,
    /// The type from an annotation or a `# type:` comment; `None` as text where there is none.
    #[serde(rename = "type")]
    pub kind: String,
    /// The default, as source text.
    pub default: String,
    /// The comment behind it.
    pub help: String,
}

/// The declared parameters; `None` where no cell is tagged `parameters`.
pub fn declared(notebook: &Notebook) -> Option<Vec<Declared>> {
    let cell = notebook.cells.iter().find(|cell| cell.has_tag("parameters"))?;
    let source = cell.source();
    let mut groups: Vec<Vec<&str>> = Vec::new();
    for line in source.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        match line.matches('=').count() {
            1 => groups.push(vec![trimmed]),
            0 => {
                if let Some(group) = groups.last_mut() {
                    group.push(trimmed);
                }
            }
            // Papermill cannot read such a line, and ends what stood before it.
            _ => groups.push(Vec::new()),
        }
    }
    Some(groups.iter().filter_map(|group| parse(&flatten(group))).collect())
}

/// The names that a notebook declares: none at all where it has no cell tagged `parameters`, and
/// no answer where its language is one that cannot be read.
pub fn declared_names(notebook: &Notebook) -> Option<Vec<String>> {
    let language = notebook.language().unwrap_or_else(|| "python".into());
    let names = declared(notebook).unwrap_or_default().into_iter().map(|one| one.name);
    language.eq_ignore_ascii_case("python").then(|| names.collect())
}

/// Joins the lines of one assignment; comments count on its last line only.
fn flatten(group: &[&str]) -> String {
    let last = group.len().saturating_sub(1);
    let mut out = String::new();
    for (index, line) in group.iter().enumerate() {
        let code = if index == last { line } else { line.split('#').next().unwrap_or_default() };
        out.push_str(code.trim());
        if index == last {
            break;
        }
    }
    out
}

/// `name[: annotation] = value [# [type: T] help]`.
fn parse(text: &str) -> Option<Declared> {
    let (left, right) = text.split_once('=')?;
    let (name, annotation) = match left.split_once(':') {
        Some((name, annotation)) => (name.trim(), annotation.trim().trim_matches(['"', '\''])),
        None => (left.trim(), ""),
    };
    let word = |character: char| character.is_alphanumeric() || character == '_';
    let sound = !name.is_empty()
        && name.chars().all(word)
        && annotation.chars().all(|c| word(c) || matches!(c, '[' | ']' | ',' | ' '));
    if !sound {
        return None;
    }
    let (value, comment) = right.split_once('#').unwrap_or((right, ""));
    let comment = comment.trim();
    let (kind, help) = match comment.strip_prefix("type:").map(str::trim_start) {
        Some(rest) => {
            let end = rest.find(|c: char| !(word(c) || "[],".contains(c))).unwrap_or(rest.len());
            (&rest[..end], rest[end..].trim())
        }
        None => ("", comment),
    };
    let kind = [annotation, kind, "None"].into_iter().find(|kind| !kind.is_empty())?;
    let value = value.trim();
    (!value.is_empty()).then(|| Declared {
        name: name.to_owned(),
        kind: kind.to_owned(),
        default: value.to_owned(),
        help: help.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notebook::model::Cell;

    fn read(source: &str) -> Vec<(String, String, String, String)> {
        let mut notebook = Notebook::read(r#"{"cells": [], "nbformat": 4}"#).unwrap();
        notebook.cells.push(Cell::code("a", source, &["parameters"]));
        let all = declared(&notebook).unwrap();
        all.into_iter().map(|d| (d.name, d.kind, d.default, d.help)).collect()
    }

    fn one(name: &str, kind: &str, default: &str, help: &str) -> (String, String, String, String) {
        (name.into(), kind.into(), default.into(), help.into())
    }

    #[test]
    fn papermills_vectors() {
        assert_eq!(
            read("a: float = 2.258 # type: int Nice variable a"),
            [one("a", "float", "2.258", "Nice variable a")]
        );
        assert_eq!(read("a = [\n 1, # one\n 2\n] # all"), [one("a", "None", "[1,2]", "all")]);
        assert_eq!(read("b = 1 # type: List[int] nice"), [one("b", "List[int]", "1", "nice")]);
        for missed in [
            "url = 'http://x?y=1'",
            "a = b = 2",
            "a, b = 1, 2",
            "x: int",
            "a += 1",
            "a.b = 1",
            "a: int|None = None",
            "a: typing.List[int] = []",
            "def f(x=1): pass",
        ] {
            assert!(read(missed).is_empty(), "{missed}");
        }
        assert_eq!(read("if True:\n    a = 1").len(), 1);
    }
}
