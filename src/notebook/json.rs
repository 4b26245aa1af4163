//! JSON text kept as it was written: the ground of the lossless notebook model.
//!
//! Owns values over `serde_json`'s `RawValue`, so that numbers keep their text, keys their order,
//! and lone surrogates their escapes. `NaN`, `Infinity` and `-Infinity`, which Python writes and
//! JSON forbids, are carried through parsing as marked strings. It must not know what a notebook is.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Opens the strings that stand for Python's non-finite numbers while parsed.
const MARK: &str = r#""\u0000jupyterflow-number:"#;
const NON_FINITE: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// One JSON value, as its text.
#[derive(Clone)]
pub struct Raw(Box<RawValue>);

impl Raw {
    /// Parses text as one JSON value and keeps the text.
    ///
    /// # Errors
    /// Says what is wrong, with line and column.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str::<Box<RawValue>>(text).map(Self)
    }

    /// The value of anything that serde can write. Non-finite floats become `null`.
    pub fn new(value: &impl serde::Serialize) -> Self {
        Self(serde_json::value::to_raw_value(value).expect("plain data always has a JSON form"))
    }

    /// The text as it was written, with marks in place of non-finite numbers.
    pub fn text(&self) -> &str {
        self.0.get()
    }

    /// A typed view of the value; `None` where it has another shape.
    pub fn view<'a, T: Deserialize<'a>>(&'a self) -> Option<T> {
        serde_json::from_str(self.text()).ok()
    }

    /// The value as an ordered object; empty where it is something else.
    pub fn object(&self) -> Object {
        self.view().unwrap_or_default()
    }

    /// A string, or a list of strings joined: how notebooks write text. Lone surrogates become
    /// the replacement character and their number in hexadecimal, so that two differ.
    pub fn joined_text(&self) -> Option<String> {
        self.view::<Text>().map(|text| text.0)
    }
}

impl fmt::Debug for Raw {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.text())
    }
}

impl PartialEq for Raw {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(Self)
    }
}

impl serde::Serialize for Raw {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// An object that keeps the order of its keys and the text of its values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object(Vec<(Raw, Raw)>);

impl Object {
    /// The value of a key; of a doubled key the last one counts, as in Python.
    pub fn get(&self, key: &str) -> Option<&Raw> {
        self.0.iter().rev().find(|(name, _)| is_key(name, key)).map(|(_, value)| value)
    }

    /// The value of a key in a typed view.
    pub fn view<'a, T: Deserialize<'a>>(&'a self, key: &str) -> Option<T> {
        self.get(key)?.view()
    }

    /// Sets a key where it stands, else at the end.
    pub fn set(&mut self, key: &str, value: Raw) {
        match self.0.iter_mut().rev().find(|(name, _)| is_key(name, key)) {
            Some(entry) => entry.1 = value,
            None => self.0.push((Raw::new(&key), value)),
        }
    }

    /// Removes a key.
    pub fn remove(&mut self, key: &str) {
        self.0.retain(|(name, _)| !is_key(name, key));
    }

    /// Removes a key and returns its value, of a doubled key the last one.
    pub fn take(&mut self, key: &str) -> Option<Raw> {
        let at = self.0.iter().rposition(|(name, _)| is_key(name, key))?;
        Some(self.0.remove(at).1)
    }

    /// Keys and values in the order in which they were written.
    pub fn entries(&self) -> impl Iterator<Item = (String, &Raw)> {
        self.0.iter().map(|(name, value)| (name.joined_text().unwrap_or_default(), value))
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps an entry whose key is JSON text already.
    pub(super) fn push_raw(&mut self, key: Raw, value: Raw) {
        self.0.push((key, value));
    }

    /// The entries with keys as JSON text.
    pub(super) fn raw_entries(&self) -> &[(Raw, Raw)] {
        &self.0
    }
}

fn is_key(name: &Raw, key: &str) -> bool {
    let text = name.text();
    let inner = text.get(1..text.len().saturating_sub(1)).unwrap_or_default();
    inner == key || (inner.contains('\\') && name.joined_text().as_deref() == Some(key))
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Object;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key()? {
                    entries.push((key, map.next_value()?));
                }
                Ok(Object(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl serde::Serialize for Object {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::new();
        write_object(self, &mut text);
        RawValue::from_string(text).map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

fn write_object(object: &Object, out: &mut String) {
    out.push('{');
    for (index, (key, value)) in object.raw_entries().iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(key.text());
        out.push(':');
        out.push_str(value.text());
    }
    out.push('}');
}

impl From<&Object> for Raw {
    fn from(object: &Object) -> Self {
        let mut text = String::new();
        write_object(object, &mut text);
        Self(RawValue::from_string(text).expect("entries are JSON, so the object is"))
    }
}

/// Text that may be written as one string or as a list of lines.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Lines;
        impl<'de> Visitor<'de> for Lines {
            type Value = Text;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string or a list of strings")
            }

            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut lines: A) -> Result<Text, A::Error> {
                let mut text = String::new();
                while let Some(line) = lines.next_element::<&RawValue>()? {
                    text.push_str(&decode_string(line.get()).ok_or_else(|| {
                        serde::de::Error::custom("a list of strings holds something else")
                    })?);
                }
                Ok(Text(text))
            }
        }
        let raw = <&RawValue>::deserialize(deserializer)?;
        if raw.get().starts_with('[') {
            let mut inner = serde_json::Deserializer::from_str(raw.get());
            return inner.deserialize_seq(Lines).map_err(serde::de::Error::custom);
        }
        decode_string(raw.get())
            .map(Text)
            .ok_or_else(|| serde::de::Error::custom("not a string or a list of strings"))
    }
}

/// Decodes a JSON string literal; `None` where the text is another value.
fn decode_string(literal: &str) -> Option<String> {
    if !literal.starts_with('"') {
        return None;
    }
    match serde_json::from_str::<String>(literal) {
        Ok(text) => Some(text),
        Err(_) => serde_json::from_str::<String>(&escape_lone_surrogates(literal)).ok(),
    }
}

/// Rewrites each `\ud8xx` that has no partner as the replacement character and its number.
fn escape_lone_surrogates(literal: &str) -> String {
    let mut out = String::with_capacity(literal.len() + 16);
    let mut rest = literal;
    let unit = |text: &str| -> Option<u16> {
        let digits = text.strip_prefix("\\u")?.get(..4)?;
        u16::from_str_radix(digits, 16).ok()
    };
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let taken = match unit(rest) {
            Some(0xD800..=0xDBFF) if matches!(unit(&rest[6..]), Some(0xDC00..=0xDFFF)) => 12,
            Some(lone @ 0xD800..=0xDFFF) => {
                out.push_str(&format!("\u{FFFD}{lone:04x}"));
                rest = &rest[6..];
                continue;
            }
            Some(_) => 6,
            None => 2,
        };
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out.push_str(rest);
    out
}

/// Spells strings that begin with our own mark otherwise, so that they stay strings.
pub fn without_marks(text: &str) -> Cow<'_, str> {
    if !text.contains(MARK) {
        return Cow::Borrowed(text);
    }
    let (start, rest) = MARK.split_at(MARK.len() - 1);
    let last = rest.chars().next().unwrap_or_default();
    Cow::Owned(text.replace(MARK, &format!("{start}\\u{:04x}", u32::from(last))))
}

/// Replaces bare `NaN`, `Infinity` and `-Infinity` by marked strings. Text without any is
/// borrowed: the usual case costs nothing.
pub fn mark_non_finite(text: &str) -> Cow<'_, str> {
    if !text.contains("NaN") && !text.contains("Infinity") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 64);
    let mut rest = text;
    while let Some(at) = rest.find(['"', 'N', 'I', '-']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if rest.starts_with('"') {
            let end = string_end(rest);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        } else if let Some(word) = NON_FINITE.iter().find(|word| rest.starts_with(**word)) {
            out.push_str(MARK);
            out.push_str(word);
            out.push('"');
            rest = &rest[word.len()..];
        } else {
            out.push_str(&rest[..1]);
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The length of the string literal that the text begins with, quotes included.
fn string_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// Appends JSON text with one space of indent a level, as Python's nbformat writes it, and
/// non-finite numbers as Python writes them. Strings and numbers are copied as they stand.
pub fn write_pretty(json: &str, level: usize, out: &mut String) {
    let bytes = json.as_bytes();
    let mut level = level;
    let mut at = 0;
    let mut empty = false;
    while at < bytes.len() {
        let byte = bytes[at];
        if byte.is_ascii_whitespace() {
            at += 1;
            continue;
        }
        if matches!(byte, b'}' | b']') {
            level -= 1;
            if !empty {
                new_line(level, out);
            }
            empty = false;
            out.push(byte as char);
            at += 1;
            continue;
        }
        if empty {
            new_line(level, out);
            empty = false;
        }
        match byte {
            b'{' | b'[' => {
                out.push(byte as char);
                level += 1;
                empty = true;
                at += 1;
            }
            b',' => {
                out.push(',');
                new_line(level, out);
                at += 1;
            }
            b':' => {
                out.push_str(": ");
                at += 1;
            }
            b'"' => {
                let end = at + string_end(&json[at..]);
                let literal = &json[at..end];
                let marked = literal.strip_prefix(MARK).and_then(|word| word.strip_suffix('"'));
                out.push_str(marked.filter(|word| NON_FINITE.contains(word)).unwrap_or(literal));
                at = end;
            }
            _ => {
                let end = json[at..]
                    .find(|c: char| matches!(c, ',' | '}' | ']' | ':') || c.is_ascii_whitespace())
                    .map_or(bytes.len(), |length| at + length);
                out.push_str(&json[at..end]);
                at = end;
            }
        }
    }
}

/// A line break and the indent of a level.
pub fn new_line(level: usize, out: &mut String) {
    out.push('\n');
    out.extend(std::iter::repeat_n(' ', level));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(text: &str) -> String {
        let marked = mark_non_finite(text);
        let raw = Raw::parse(&marked).unwrap();
        let mut out = String::new();
        write_pretty(raw.text(), 0, &mut out);
        out
    }

    #[test]
    fn numbers_surrogates_and_order_survive() {
        let text = "{\n \"z\": 1e+16,\n \"a\": 123456789012345678901234567890,\n \"n\": [\n  NaN,\n  -Infinity,\n  Infinity\n ],\n \"s\": \"\\ud83d NaN é\",\n \"\\ud83d\": {},\n \"f\": 1.0,\n \"e\": []\n}";
        assert_eq!(round_trip(text), text);
    }

    #[test]
    fn text_is_a_string_or_a_list() {
        let text = |json: &str| Raw::parse(json).unwrap().joined_text();
        assert_eq!(text(r#""a\nb""#).unwrap(), "a\nb");
        assert_eq!(text(r#"["a\n", "b"]"#).unwrap(), "a\nb");
        assert_eq!(text(r#""x\ud83dy""#).unwrap(), "x\u{FFFD}d83dy");
        assert_eq!(text(r#""\ud83d\ude00""#).unwrap(), "😀");
        assert_eq!(text(r#"["\udc00"]"#).unwrap(), "\u{FFFD}dc00");
        assert_eq!(text("5"), None);
        assert_eq!(text("[5]"), None);
    }

    #[test]
    fn keys_are_found_through_escapes_and_the_last_counts() {
        let object: Object = Raw::parse(r#"{"a": 1, "\u0062": 2, "a": 3}"#).unwrap().object();
        assert_eq!(object.view::<u8>("a"), Some(3));
        assert_eq!(object.view::<u8>("b"), Some(2));
    }
}
