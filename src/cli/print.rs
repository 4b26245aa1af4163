//! What people and programs read: data on stdout, talk on stderr.
//!
//! Owns the two streams and the output formats. A closed pipe is not an error.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use anstyle::{AnsiColor, Reset};
use serde::Serialize;

use super::error::CliError;
use super::global::Color;
use crate::plan::Phase;
use crate::spec::{Problem, Severity};

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A table for people.
    #[default]
    Table,
    /// A JSON document.
    Json,
    /// A YAML document.
    Yaml,
    /// Names only, one a line.
    Name,
}

/// Prints data on stdout.
pub fn data(text: &str) {
    let mut stdout = anstream::stdout().lock();
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    // Whoever reads may have seen enough.
    let _ = write!(stdout, "{text}{end}");
    let _ = stdout.flush();
}

/// Prints data on stdout as it is.
pub fn bytes(data: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(data).and_then(|()| stdout.flush());
}

/// Wipes the terminal that data goes to, if it is one.
pub fn clear_screen() {
    if std::io::stdout().is_terminal() {
        bytes(b"\x1b[2J\x1b[H");
    }
}

static QUIET: AtomicBool = AtomicBool::new(false);

/// Takes what a person said of colour and talk.
pub fn set_up(color: Color, quiet: bool) {
    let choice = match color {
        Color::Auto => anstream::ColorChoice::Auto,
        Color::Always => anstream::ColorChoice::Always,
        Color::Never => anstream::ColorChoice::Never,
    };
    choice.write_global();
    QUIET.store(quiet, Ordering::Relaxed);
}

/// A text of somebody's files without what a terminal would obey, in one line.
pub fn printable(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}

/// Prints a line on stderr that a person must read.
pub fn alert(text: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}

/// Prints a line of talk on stderr, unless a person wants none.
pub fn talk(text: &str) {
    if !QUIET.load(Ordering::Relaxed) {
        alert(text);
    }
}

/// Prints a problem of a file on stderr; a warning unless a person wants none.
pub fn problem(problem: &Problem) {
    if problem.severity == Severity::Warning && QUIET.load(Ordering::Relaxed) {
        return;
    }
    let color = match problem.severity {
        Severity::Error => AnsiColor::Red,
        Severity::Warning => AnsiColor::Yellow,
    };
    let mut text = problem.to_string();
    text = text.replace(&problem.file, &printable(&problem.file));
    let lines: Vec<String> = text.lines().map(printable).collect();
    let text = lines.join("\n");
    let word = problem.severity.word();
    let painted = format!("{}{word}{}", color.on_default().bold().render(), Reset.render());
    alert(&text.replacen(&format!(" {word}: "), &format!(" {painted}: "), 1));
}

/// A phase in its colour.
pub fn phase(phase: Phase) -> String {
    let color = match phase {
        Phase::Succeeded => AnsiColor::Green,
        Phase::Failed | Phase::Unknown => AnsiColor::Red,
        Phase::Running => AnsiColor::Cyan,
        Phase::Stopped | Phase::Interrupted => AnsiColor::Yellow,
        Phase::Pending | Phase::Skipped => return phase.to_string(),
    };
    format!("{}{phase}{}", color.on_default().render(), Reset.render())
}

/// Whether a person watches stderr.
pub fn is_watched() -> bool {
    std::io::stderr().is_terminal()
}

/// Prints a document in the wanted format; a table and names come from the caller.
pub fn document(
    format: Format,
    kind: &str,
    value: &impl Serialize,
    table: impl FnOnce() -> String,
    names: impl FnOnce() -> Vec<String>,
) -> Result<(), CliError> {
    let text = match format {
        Format::Table => table(),
        Format::Name => names().join("\n"),
        Format::Json | Format::Yaml => {
            let mut document = serde_json::Map::new();
            document.insert("apiVersion".into(), "jupyterflow.io/v1alpha1".into());
            document.insert("kind".into(), kind.into());
            match serde_json::to_value(value).map_err(|error| CliError::bug(&error))? {
                serde_json::Value::Object(fields) => document.extend(fields),
                other => {
                    document.insert("items".into(), other);
                }
            }
            if format == Format::Json {
                serde_json::to_string_pretty(&document).map_err(|error| CliError::bug(&error))?
            } else {
                serde_saphyr::to_string(&document).map_err(|error| CliError::bug(&error))?
            }
        }
    };
    data(&text);
    Ok(())
}

/// A table without borders, as wide as the terminal.
pub fn table(headers: &[&str], rows: Vec<Vec<String>>) -> String {
    use comfy_table::{ContentArrangement, Table, presets};
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(headers.to_vec());
    for row in rows {
        table.add_row(row);
    }
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    let lines: Vec<String> =
        table.to_string().lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_others_forge_no_lines_and_move_no_cursor() {
        assert_eq!(printable("plain: d\u{e9}j\u{e0} vu"), "plain: d\u{e9}j\u{e0} vu");
        assert_eq!(printable("a\nb\u{1b}[2Jc"), "a\\nb\\u{1b}[2Jc");
    }
}
