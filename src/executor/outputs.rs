//! The outputs of one cell, or of one Output widget, as nbformat keeps them.
//!
//! Owns how outputs are joined, cleared, updated, capped and written. It must not know messages.

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use crate::notebook::json::{Object, Raw};
use crate::notebook::model::split_lines;

/// An output, kept as the kernel wrote it but for streams, which are joined.
#[derive(Clone, Debug)]
enum Output {
    Stream { name: String, text: String },
    Other(Object),
}

/// Outputs in order.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    list: Vec<Output>,
    /// Cleared by the next output (`clear_output(wait=True)`).
    clear_next: bool,
    /// Bytes so far.
    bytes: usize,
    /// Bytes beyond the cap, and the cap.
    cut: Option<(usize, usize)>,
    /// Whether outputs may be missing here.
    incomplete: bool,
}

/// What a cell raised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CellError {
    /// The exception's name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// The traceback, with colours.
    pub traceback: Vec<String>,
}

impl CellError {
    /// Reads an error output, or a reply that tells of an error.
    pub fn read(content: &Object) -> Self {
        let text = |key: &str| content.get(key).and_then(Raw::joined_text).unwrap_or_default();
        let lines: Vec<Raw> = content.view("traceback").unwrap_or_default();
        Self {
            name: text("ename"),
            value: text("evalue"),
            traceback: lines.iter().filter_map(Raw::joined_text).collect(),
        }
    }

    /// `sys.exit()` and `sys.exit(0)` end a notebook well.
    pub fn is_clean_exit(&self) -> bool {
        self.name == "SystemExit" && matches!(self.value.as_str(), "" | "0")
    }
}

impl Outputs {
    /// Outputs that a widget already has.
    pub fn of(list: Vec<Object>) -> Self {
        let mut outputs = Self::default();
        for output in list {
            let text = |key: &str| output.get(key).and_then(Raw::joined_text);
            match (output.view::<&str>("output_type"), text("name"), text("text")) {
                (Some("stream"), Some(name), Some(text)) => outputs.stream(name, &text, usize::MAX),
                _ => {
                    outputs.push(output, usize::MAX);
                }
            }
        }
        outputs
    }

    /// Adds text to a stream. What is beyond `cap` bytes of all outputs is only counted.
    pub fn stream(&mut self, name: String, text: &str, cap: usize) {
        self.clear_if_due();
        // Of text the part that fits is kept, up to a whole line where it has one.
        let room = if self.cut.is_none() { cap.saturating_sub(self.bytes) } else { 0 };
        let kept = if text.len() <= room { text.len() } else { end(text, room) };
        let (text, rest) = text.split_at(kept);
        self.bytes += text.len();
        if !rest.is_empty() {
            self.count_cut(rest.len(), cap);
            if text.is_empty() {
                return;
            }
        }
        match self.list.last_mut() {
            // Streams arrive in arbitrary chunks; joined, the same cell gives the same output.
            Some(Output::Stream { name: last, text: joined }) if *last == name => {
                joined.push_str(text);
            }
            _ => self.list.push(Output::Stream { name, text: text.to_owned() }),
        }
    }

    /// Adds any other output; returns where it stands, unless it was beyond the cap.
    pub fn push(&mut self, output: Object, cap: usize) -> Option<usize> {
        let bytes: usize = output.entries().map(|(_, value)| value.text().len()).sum();
        self.clear_if_due();
        if self.cut.is_some() || self.bytes.saturating_add(bytes) > cap {
            self.count_cut(bytes, cap);
            return None;
        }
        self.bytes += bytes;
        self.list.push(Output::Other(output));
        Some(self.list.len() - 1)
    }

    /// An output with the display id of one that stands here takes its place.
    pub fn update(&mut self, at: usize, new: &Object) {
        if let Some(Output::Other(old)) = self.list.get_mut(at) {
            for key in ["data", "metadata"] {
                if let Some(value) = new.get(key) {
                    old.set(key, value.clone());
                }
            }
        }
    }

    /// Whether the next output clears those before it.
    pub fn will_clear(&self) -> bool {
        self.clear_next
    }

    /// Clears, now or with the next output.
    pub fn clear(&mut self, wait: bool) {
        if wait {
            self.clear_next = true;
        } else {
            *self = Self { incomplete: self.incomplete, ..Self::default() };
        }
    }

    /// Outputs may be missing: the notebook says so, once a cell.
    pub fn mark_incomplete(&mut self) {
        self.incomplete = true;
    }

    /// The first error among the outputs that is no clean exit; and whether there was a clean exit.
    pub fn error(&self) -> (Option<CellError>, bool) {
        let errors = self.list.iter().filter_map(|output| match output {
            Output::Other(output) if output.view::<&str>("output_type") == Some("error") => {
                Some(CellError::read(output))
            }
            _ => None,
        });
        let (clean, other): (Vec<_>, Vec<_>) = errors.partition(CellError::is_clean_exit);
        (other.into_iter().next(), !clean.is_empty())
    }

    fn clear_if_due(&mut self) {
        if self.clear_next {
            self.clear(false);
        }
    }

    fn count_cut(&mut self, bytes: usize, cap: usize) {
        self.cut.get_or_insert((0, cap)).0 += bytes;
    }

    /// The outputs as the notebook keeps them, with a word where something is missing.
    pub fn to_raw(&self) -> Raw {
        Raw::new(&Written { outputs: self, lines: true })
    }

    /// The outputs as the kernel sends them: text is not split into lines.
    pub fn to_raw_joined(&self) -> Raw {
        Raw::new(&Written { outputs: self, lines: false })
    }

    /// Words on what is missing.
    fn notes(&self) -> impl Iterator<Item = String> {
        let cut = self.cut.map(|(bytes, cap)| {
            format!(
                "[jupyterflow: {bytes} bytes of this cell's outputs were cut: \
                 the limit is {} MiB (--output-limit)]\n",
                cap >> 20
            )
        });
        let incomplete = "[jupyterflow: outputs of this cell may be incomplete]\n".to_owned();
        cut.into_iter().chain(self.incomplete.then_some(incomplete))
    }
}

/// Outputs on their way into JSON, in one pass: they may be large, and each copy counts.
struct Written<'a> {
    outputs: &'a Outputs,
    /// Whether text is a list of lines.
    lines: bool,
}

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for output in &self.outputs.list {
            match output {
                Output::Stream { name, text } => {
                    list.serialize_element(&Stream { name, text, lines: self.lines })?;
                }
                Output::Other(output) => list.serialize_element(&Fields(output))?,
            }
        }
        for text in self.outputs.notes() {
            list.serialize_element(&Stream { name: "stderr", text: &text, lines: self.lines })?;
        }
        list.end()
    }
}

struct Stream<'a> {
    name: &'a str,
    text: &'a str,
    lines: bool,
}

impl Serialize for Stream<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_map(Some(3))?;
        fields.serialize_entry("output_type", "stream")?;
        fields.serialize_entry("name", self.name)?;
        if self.lines {
            fields.serialize_entry("text", &split_lines(self.text))?;
        } else {
            fields.serialize_entry("text", self.text)?;
        }
        fields.end()
    }
}

/// An object whose values are copied as they stand.
struct Fields<'a>(&'a Object);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_map(None)?;
        for (key, value) in self.0.entries() {
            fields.serialize_entry(&key, value)?;
        }
        fields.end()
    }
}

/// Where to cut a text that has no more room.
fn end(text: &str, room: usize) -> usize {
    let whole = (0..=room).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..whole].rfind('\n').map_or(whole, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_cap_outputs_are_counted_and_a_word_says_so() {
        let mut outputs = Outputs::default();
        outputs.stream("stdout".into(), "1234", 6);
        outputs.stream("stdout".into(), "5678", 6);
        outputs.stream("stdout".into(), "9", 6);
        let text = outputs.to_raw().text().to_owned();
        assert!(text.contains("123456") && !text.contains('9'), "{text}");
        assert!(text.contains("3 bytes of this cell's outputs were cut"), "{text}");
        outputs.clear(false);
        assert_eq!(outputs.to_raw().text(), "[]");
    }

    #[test]
    fn errors_tell_clean_exits_from_failures() {
        let exit = |value: &str| CellError {
            name: "SystemExit".into(),
            value: value.into(),
            traceback: Vec::new(),
        };
        assert!(exit("").is_clean_exit() && exit("0").is_clean_exit());
        assert!(!exit("1").is_clean_exit());
    }
}
