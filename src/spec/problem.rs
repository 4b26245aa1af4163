//! A problem of a file: what, where, and what to do.
//!
//! Owns the shape that `validate`, `plan` and every error about a file share.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

/// How bad.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, serde::Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is used; a person should know.
    Warning,
    /// The file is not used.
    Error,
}

impl Severity {
    /// The word that stands before a message.
    pub fn word(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One problem, with its place in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Path of the file, relative to the source's root.
    pub file: String,
    /// Line, from 1; 0 where the file as a whole is meant.
    pub line: u32,
    /// Column in characters, from 1; 0 where the file as a whole is meant.
    pub column: u32,
    /// How bad.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Whether `--strict` makes an error of it.
    #[serde(skip)]
    pub strict: bool,
    /// The line of the file, for people.
    #[serde(skip)]
    pub source_line: Option<String>,
}

impl Problem {
    /// An error about a file as a whole.
    pub fn of_file(file: &str, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: 0,
            column: 0,
            severity: Severity::Error,
            message: message.into(),
            hint: None,
            strict: false,
            source_line: None,
        }
    }

    /// The same problem with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = self.severity.word();
        if self.line == 0 {
            write!(formatter, "{}: {severity}: {}", self.file, self.message)?;
        } else {
            let Self { file, line, column, message, .. } = self;
            write!(formatter, "{file}:{line}:{column}: {severity}: {message}")?;
        }
        if let Some(source) = &self.source_line {
            let margin = " ".repeat(self.line.to_string().len());
            let indent = " ".repeat(self.column.saturating_sub(1) as usize);
            write!(formatter, "\n{margin} |\n{} | {source}\n{margin} | {indent}^", self.line)?;
        }
        if let Some(hint) = &self.hint {
            write!(formatter, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}
