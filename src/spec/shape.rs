//! Shapes: what may stand where. One table serves the check of a file and its JSON Schema, so that
//! the two cannot disagree.
//!
//! Owns the generic check with all its messages. The table itself is in `keys`.

use std::fmt::Write as _;

use super::hints;
use super::problem::{Problem, Severity};
use super::reference::is_name_character;
use super::yaml::{Kind, Node, Place};
use crate::types::{Period, PipelineName};

/// What a value may be.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// Text that is not empty.
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    /// `true` or `false`.
    Boolean,
    /// An integer in a range.
    Integer(u64, u64),
    /// A duration such as `1h30m`.
    Duration,
    /// A DNS label of at most 40 characters.
    Label,
    /// An amount of memory, as Kubernetes writes it.
    Memory,
    /// An amount of processors, as Kubernetes writes it.
    Processors,
    /// Text, a number or a boolean.
    Scalar,
    /// Anything.
    Json,
    /// Nothing at all, or an empty map.
    Nothing,
    /// A list of these.
    List(&'static Self),
    /// One of these, or a list of them.
    OneOrMany(&'static Self),
    /// A map of free names to these.
    Map(&'static Self),
    /// A map with known keys.
    Object(&'static Table),
    /// Whichever fits first by its kind, and words for all of them.
    Any(&'static [Self], &'static str),
}

/// A map with known keys.
#[derive(Debug)]
pub struct Table {
    /// What the map is called in messages.
    pub name: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
    /// Of each group exactly one must be given.
    pub one_of: &'static [&'static [&'static str]],
}

/// A known key.
#[derive(Debug)]
pub struct Key {
    /// The key.
    pub name: &'static str,
    /// What may stand there.
    pub shape: Shape,
    /// Whether it must be given.
    pub required: bool,
    /// One sentence for people.
    pub doc: &'static str,
}

/// Collects the problems of one file.
pub struct Report<'a> {
    file: &'a str,
    lines: Vec<&'a str>,
    /// The problems so far.
    pub problems: Vec<Problem>,
}

impl<'a> Report<'a> {
    /// A report on a file's text.
    pub fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, lines: text.lines().collect(), problems: Vec::new() }
    }

    /// Adds an error.
    pub fn error(&mut self, place: Place, message: impl Into<String>) -> &mut Problem {
        self.add(place, Severity::Error, message.into())
    }

    /// Adds a warning.
    pub fn warning(&mut self, place: Place, message: impl Into<String>) -> &mut Problem {
        self.add(place, Severity::Warning, message.into())
    }

    /// Whether there is an error.
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }

    fn add(&mut self, place: Place, severity: Severity, message: String) -> &mut Problem {
        let line = place.line.checked_sub(1).and_then(|line| self.lines.get(line as usize));
        let cut = |line: &&str| line.chars().take(200).collect::<String>();
        self.problems.push(Problem {
            source_line: line.filter(|_| place.column <= 200).map(cut),
            ..Problem::of_file(self.file, message)
        });
        let problem = self.problems.last_mut().expect("one was pushed");
        (problem.line, problem.column, problem.severity) = (place.line, place.column, severity);
        problem
    }
}

/// Reports all that does not fit. `what` names the value in messages.
pub fn check(shape: &Shape, node: &Node, what: &str, report: &mut Report<'_>) {
    let mut refuse = |wanted: &str| {
        let message = format!("{what} must be {wanted}, not {}", node.describe());
        let yes_no = matches!(node.text(), Some("yes" | "no" | "on" | "off" | "y" | "n"));
        let problem = report.error(node.place, message);
        if yes_no && matches!(shape, Shape::Boolean) {
            problem.hint = Some("write true or false: yes, no, on and off are text here".into());
        }
    };
    match shape {
        Shape::Text => match node.text() {
            Some("") => refuse("a text that is not empty"),
            Some(_) => {}
            None if matches!(node.kind, Kind::Number(_) | Kind::Boolean(_)) => {
                refuse("a text (put it in quotes)");
            }
            None => refuse("a text"),
        },
        Shape::Word(words) => match node.text() {
            Some(text) if words.contains(&text) => {}
            other => {
                let nearest = other.and_then(|text| hints::nearest(text, words.iter().copied()));
                refuse(&format!("one of {}", words.join(", ")));
                if let (Some(word), Some(problem)) = (nearest, report.problems.last_mut()) {
                    problem.hint = Some(format!("did you mean `{word}`?"));
                }
            }
        },
        Shape::Boolean if node.boolean().is_none() => refuse("true or false"),
        Shape::Integer(low, high) => {
            if !node.integer().is_some_and(|value| (*low..=*high).contains(&value)) {
                refuse(&format!("an integer from {low} to {high}"));
            }
        }
        Shape::Duration => {
            if node.text().is_none_or(|text| text.parse::<Period>().is_err()) {
                refuse("a duration of integers with s, m, h, d or w, such as 1h30m");
            }
        }
        Shape::Label => {
            if node.text().is_none_or(|text| text.parse::<PipelineName>().is_err()) {
                refuse(
                    "a name of at most 40 of a-z, 0-9 and -, with a letter or digit at each end",
                );
            }
        }
        Shape::Memory => {
            if !node.scalar().is_some_and(|text| is_quantity(&text, &MEMORY_UNITS)) {
                refuse("an amount of memory, such as 512Mi or 4Gi");
            }
        }
        Shape::Processors => {
            if !node.scalar().is_some_and(|text| is_quantity(&text, &["", "m"])) {
                refuse("a number of processors, such as 2 or 500m");
            }
        }
        Shape::Scalar if node.scalar().is_none() => refuse("a text, a number or a boolean"),
        Shape::Nothing => {
            let empty = matches!(&node.kind, Kind::Null)
                || matches!(&node.kind, Kind::Map(entries) if entries.is_empty());
            if !empty {
                refuse("{} or nothing");
            }
        }
        Shape::List(item) => match &node.kind {
            Kind::List(items) => {
                items.iter().for_each(|node| check(item, node, &format!("each of {what}"), report));
            }
            _ => refuse("a list"),
        },
        Shape::OneOrMany(item) => {
            node.one_or_many().iter().for_each(|node| check(item, node, what, report));
        }
        Shape::Map(value) => match &node.kind {
            Kind::Map(entries) => {
                for (key, node) in entries {
                    let sound = !key.text.is_empty()
                        && key.text.chars().count() <= 63
                        && key.text.chars().all(|c| is_name_character(c) || "./".contains(c));
                    if !sound {
                        let message = format!("{:?} is no name for an entry of {what}", key.text);
                        report.error(key.place, message).hint =
                            Some("at most 63 letters, digits, - and _".into());
                    }
                    check(value, node, &child(what, &key.text), report);
                }
            }
            _ => refuse("a map"),
        },
        Shape::Object(table) => check_table(table, node, what, report),
        Shape::Any(shapes, words) => match shapes.iter().find(|shape| shape.takes(node)) {
            Some(shape) => check(shape, node, what, report),
            None => refuse(words),
        },
        Shape::Json | Shape::Boolean | Shape::Scalar => {}
    }
}

fn check_table(table: &Table, node: &Node, what: &str, report: &mut Report<'_>) {
    let Kind::Map(entries) = &node.kind else {
        let mut message = format!("{what} must be a map");
        if table.keys.len() < 8 {
            let names: Vec<_> = table.keys.iter().map(|key| key.name).collect();
            let _ = write!(message, " with {}", names.join(", "));
        }
        report.error(node.place, format!("{message}, not {}", node.describe()));
        return;
    };
    for (key, value) in entries {
        if let Some(known) = table.keys.iter().find(|known| known.name == key.text) {
            check(&known.shape, value, &child(what, &key.text), report);
        } else {
            let message = format!("unknown key `{}` in {}", key.text, table.name);
            let names: Vec<&'static str> = table.keys.iter().map(|key| key.name).collect();
            report.error(key.place, message).hint = hints::for_key(&key.text, &names);
        }
    }
    let given = |name: &str| entries.iter().any(|(key, _)| key.text == name);
    for key in table.keys.iter().filter(|key| key.required && !given(key.name)) {
        report.error(node.place, format!("{what} needs the key `{}`", key.name));
    }
    for group in table.one_of {
        let count = group.iter().filter(|name| given(name)).count();
        let names = group.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        match count {
            1 => {}
            0 => {
                report.error(node.place, format!("{what} needs one of {names}"));
            }
            _ => {
                report.error(node.place, format!("{what} may have only one of {names}"));
            }
        }
    }
}

/// How an entry of a value is called: `steps.train`.
fn child(what: &str, key: &str) -> String {
    match what.strip_suffix('`') {
        Some(path) => format!("{path}.{key}`"),
        None => format!("`{key}`"),
    }
}

const MEMORY_UNITS: [&str; 13] =
    ["", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

fn is_quantity(text: &str, units: &[&str]) -> bool {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    digits(whole) && digits(fraction) && units.contains(&unit)
}

impl Shape {
    /// Whether a node is of this shape's kind, so that its errors are the ones to show.
    fn takes(&self, node: &Node) -> bool {
        match self {
            Self::Text | Self::Word(_) | Self::Duration | Self::Label => node.text().is_some(),
            Self::Boolean => node.boolean().is_some(),
            Self::Integer(..) => matches!(node.kind, Kind::Number(_)),
            Self::Memory | Self::Processors | Self::Scalar => node.scalar().is_some(),
            Self::Json | Self::OneOrMany(_) => true,
            Self::Nothing => {
                matches!(&node.kind, Kind::Null)
                    || matches!(&node.kind, Kind::Map(entries) if entries.is_empty())
            }
            Self::List(_) => matches!(node.kind, Kind::List(_)),
            Self::Map(_) | Self::Object(_) => matches!(node.kind, Kind::Map(_)),
            Self::Any(shapes, _) => shapes.iter().any(|shape| shape.takes(node)),
        }
    }
}
