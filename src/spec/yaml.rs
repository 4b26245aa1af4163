//! YAML text as a tree whose nodes know their place.
//!
//! Owns the one set of parser options: YAML 1.2 booleans, no duplicate keys, and budgets that bound
//! time and memory whatever the file holds. It must not know any key of ours.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::Spanned;

/// Largest pipeline file, in bytes. Read before parsing, so that a huge file costs nothing.
pub const MAX_BYTES: usize = 1_000_000;

const STACK_BYTES: usize = 32 << 20;

/// A place in the file: line and column, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// What stands there.
    pub kind: Kind,
    /// Where it begins.
    pub place: Place,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Boolean(bool),
    /// An integer or a float.
    Number(serde_json::Number),
    /// Text, quoted or not.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<(Key, Node)>),
}

/// A mapping's key and its place.
#[derive(Clone, Debug)]
pub struct Key {
    /// The key's text.
    pub text: String,
    /// Where it begins.
    pub place: Place,
}

impl Node {
    /// The value of a key of a mapping.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|(name, _)| name.text == key).map(|(_, value)| value)
    }

    /// The entries of a mapping; none of anything else.
    pub fn entries(&self) -> &[(Key, Self)] {
        if let Kind::Map(entries) = &self.kind { entries } else { &[] }
    }

    /// The items of a list; none of anything else.
    pub fn items(&self) -> &[Self] {
        if let Kind::List(items) = &self.kind { items } else { &[] }
    }

    /// The items of a list, or the one value that stands in place of a list.
    pub fn one_or_many(&self) -> &[Self] {
        match &self.kind {
            Kind::List(items) => items,
            _ => std::slice::from_ref(self),
        }
    }

    /// Text.
    pub fn text(&self) -> Option<&str> {
        if let Kind::Text(text) = &self.kind { Some(text) } else { None }
    }

    /// Text, or a number or boolean as it prints.
    pub fn scalar(&self) -> Option<String> {
        match &self.kind {
            Kind::Text(text) => Some(text.clone()),
            Kind::Number(number) => Some(number.to_string()),
            Kind::Boolean(value) => Some(value.to_string()),
            Kind::Null | Kind::List(_) | Kind::Map(_) => None,
        }
    }

    /// A boolean.
    pub fn boolean(&self) -> Option<bool> {
        if let Kind::Boolean(value) = self.kind { Some(value) } else { None }
    }

    /// An integer that is not negative.
    pub fn integer(&self) -> Option<u64> {
        if let Kind::Number(number) = &self.kind { number.as_u64() } else { None }
    }

    /// The value as JSON.
    pub fn json(&self) -> Value {
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Boolean(value) => Value::Bool(*value),
            Kind::Number(number) => Value::Number(number.clone()),
            Kind::Text(text) => Value::String(text.clone()),
            Kind::List(items) => items.iter().map(Self::json).collect(),
            Kind::Map(entries) => {
                entries.iter().map(|(key, value)| (key.text.clone(), value.json())).collect()
            }
        }
    }

    /// What it is, in words for a message.
    pub fn describe(&self) -> String {
        match &self.kind {
            Kind::Null => "nothing".into(),
            Kind::Boolean(value) => format!("the boolean {value}"),
            Kind::Number(number) => format!("the number {number}"),
            Kind::Text(text) if text.chars().count() > 40 => "a text".into(),
            Kind::Text(text) => format!("the text {text:?}"),
            Kind::List(_) => "a list".into(),
            Kind::Map(_) => "a map".into(),
        }
    }
}

/// Why a file is not YAML that can be used.
#[derive(Debug)]
pub struct YamlError {
    /// What is wrong.
    pub message: String,
    /// Where, as far as it is known.
    pub place: Place,
}

/// Parses all documents of a text. Empty documents are left out.
///
/// # Errors
/// The first thing that makes the text unusable.
pub fn parse(text: &str) -> Result<Vec<Node>, YamlError> {
    // The parser recurses; its deepest allowed document needs more stack than a thread of a test
    // or of a pool has.
    std::thread::scope(|scope| {
        let parser = std::thread::Builder::new().stack_size(STACK_BYTES);
        match parser
            .spawn_scoped(scope, || parse_here(text))
            .map(std::thread::ScopedJoinHandle::join)
        {
            Ok(Ok(parsed)) => parsed,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => Err(YamlError {
                message: format!("no thread could be started to read it: {error}"),
                place: Place::default(),
            }),
        }
    })
}

/// How YAML is read: strictly, and within limits, of which one is the number of documents.
pub fn options(documents: usize) -> serde_saphyr::Options {
    serde_saphyr::options! {
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_depth: 64,
            flow_nesting_limit: 64,
            max_nodes: 100_000,
            max_events: 300_000,
            max_aliases: 1_000,
            max_documents: documents,
            max_total_scalar_bytes: 4_000_000,
        },
    }
}

/// The parser's error, with its place.
pub fn yaml_error(error: &serde_saphyr::Error) -> YamlError {
    let error = error.without_snippet();
    let place = error.location().map(place_of).unwrap_or_default();
    YamlError { message: plain(&error.to_string()), place }
}

fn parse_here(text: &str) -> Result<Vec<Node>, YamlError> {
    let documents: Vec<Node> = serde_saphyr::from_multiple_with_options(text, options(200))
        .map_err(|error| yaml_error(&error))?;
    Ok(documents.into_iter().filter(|node| !matches!(node.kind, Kind::Null)).collect())
}

/// The parser's message without the place that is given beside it.
fn plain(message: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    let first = first.split(" at line ").next().unwrap_or(first);
    // Advice to programmers is none to the writer of a file.
    let first = first.split(", set ").next().unwrap_or(first);
    match first.split_once(": ") {
        Some((head, rest)) if head.starts_with("line ") || head.starts_with("error") => rest.into(),
        _ => first.to_owned(),
    }
}

pub fn place_of(location: serde_saphyr::Location) -> Place {
    let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    Place { line: number(location.line()), column: number(location.column()) }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Kind>::deserialize(deserializer)?;
        Ok(Self { place: place_of(spanned.referenced), kind: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KindVisitor)
    }
}

struct KindVisitor;

impl<'de> Visitor<'de> for KindVisitor {
    type Value = Kind;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_none<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Kind, E> {
        Ok(Kind::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Kind, E> {
        Ok(Kind::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
        Ok(Kind::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Kind, E> {
        let number = serde_json::Number::from_f64(value);
        number.map(Kind::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Kind, E> {
        Ok(Kind::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Kind, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Kind::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let place = place_of(key.referenced);
            entries.push((Key { text: key.value, place }, map.next_value()?));
        }
        Ok(Kind::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_yaml_1_1_are_text() {
        let nodes = parse("a: [on, off, yes, no, y, n, true, 0755, 1_000, 1e3, ~, '5']\n").unwrap();
        let values = nodes[0].get("a").unwrap().json();
        let expected = serde_json::json!([
            "on", "off", "yes", "no", "y", "n", true, "0755", "1_000", 1000.0, null, "5"
        ]);
        assert_eq!(values, expected);
    }

    #[test]
    fn places_are_those_of_keys_and_values() {
        let nodes = parse("a:\n  한국: [1,\n      x]\n").unwrap();
        let (key, value) = &nodes[0].get("a").unwrap().entries()[0];
        assert_eq!((key.place.line, key.place.column), (2, 3));
        assert_eq!((value.items()[1].place.line, value.items()[1].place.column), (3, 7));
    }

    #[test]
    fn hostile_files_end_soon_with_a_word() {
        let deep = "[".repeat(10_000);
        let aliases = format!("a: &a [x]\nb: [{}]", "*a,".repeat(5000));
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n\
                    c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n\
                    e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
        for text in [deep.as_str(), &aliases, bomb, "a: 1\nb: 2\na: 3\n", "a: [1, 2", "a: \"x"] {
            let error = parse(text).unwrap_err();
            assert!(!error.message.is_empty(), "{error:?}");
        }
        let error = parse("a: 1\nb: 2\na: 3\n").unwrap_err();
        assert_eq!(error.place.line, 3, "{error:?}");
        let block: String = (0..10_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
        assert!(parse(&block[..900_000]).is_err());
    }
}
