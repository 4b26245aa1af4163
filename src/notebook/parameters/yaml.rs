//! Parameters in YAML 1.1, with the values that `PyYAML`'s safe loader gives them: `yes` is true, `010`
//! is eight, `1e3` is text. Dates stay text, as papermill has it.
//!
//! Owns `PyYAML`'s rules for plain scalars and merge keys (`yaml/resolver.py`, `yaml/constructor.py`)
//! over the events of a YAML parser. It must not know files of ours, which are YAML 1.2.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::Parameters;
use super::value::{Key, Parameter, decimal, python_float, signed};

/// So many values aliases may add to those that a text of its length can hold.
const MOST_REPEATED: usize = 10_000;
/// So deep they may be nested.
const DEEPEST: usize = 200;

/// Why a text gives no parameters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem} (line {line}, column {column})")]
pub struct YamlError {
    /// What is wrong.
    pub problem: String,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
}

/// Reads a mapping of parameters. An empty document has none.
///
/// # Errors
/// The text is no YAML, no mapping, or has a value that no notebook can be given.
pub fn from_yaml(text: &str) -> Result<Parameters, YamlError> {
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        room: text.len() + MOST_REPEATED,
        place: (1, 1),
    };
    let Some(root) = reader.document()? else { return Ok(Parameters::new()) };
    let entries = match root {
        Node::Map(entries) => entries,
        // What is false in Python is as good as nothing.
        Node::Value(value) if value.is_falsy() => return Ok(Parameters::new()),
        Node::List(items) if items.is_empty() => return Ok(Parameters::new()),
        _ => return Err(reader.error("parameters are a mapping of names to values".into())),
    };
    let mut parameters = Parameters::new();
    for (key, value) in entries {
        let Key::Text(name) = key else {
            return Err(reader.error(format!(
                "a parameter's name is text, and YAML reads {} as another value: write it in quotes",
                key.code()
            )));
        };
        parameters.insert(name, value.into_parameter());
    }
    Ok(parameters)
}

/// A node whose mapping can still be merged into another.
#[derive(Clone, Debug)]
enum Node {
    Value(Parameter),
    List(Vec<Self>),
    Map(Vec<(Key, Self)>),
}

impl Node {
    fn into_parameter(self) -> Parameter {
        match self {
            Self::Value(value) => value,
            Self::List(items) => {
                Parameter::List(items.into_iter().map(Self::into_parameter).collect())
            }
            Self::Map(entries) => Parameter::Map(
                entries.into_iter().map(|(key, value)| (key, value.into_parameter())).collect(),
            ),
        }
    }

    fn size(&self) -> usize {
        1 + match self {
            Self::Value(_) => 0,
            Self::List(items) => items.iter().map(Self::size).sum(),
            Self::Map(entries) => entries.iter().map(|(_, value)| value.size()).sum(),
        }
    }
}

struct Reader<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    /// How many more values there may be.
    room: usize,
    place: (usize, usize),
}

impl<'a> Reader<'a> {
    fn error(&self, problem: String) -> YamlError {
        YamlError { problem, line: self.place.0, column: self.place.1 }
    }

    fn event(&mut self) -> Result<Event<'a>, YamlError> {
        loop {
            match self.parser.next() {
                None => return Ok(Event::StreamEnd),
                Some(Ok((event, span))) => {
                    self.place = place_of(&span);
                    if !matches!(event, Event::StreamStart | Event::Comment(..)) {
                        return Ok(event);
                    }
                }
                Some(Err(error)) => {
                    let marker = error.marker();
                    self.place = (marker.line(), marker.col() + 1);
                    return Err(self.error(format!("not valid YAML: {}", error.info())));
                }
            }
        }
    }

    /// The one document; none where the text has none.
    fn document(&mut self) -> Result<Option<Node>, YamlError> {
        let mut root = None;
        loop {
            match self.event()? {
                Event::StreamEnd => return Ok(root),
                Event::DocumentStart(..) if root.is_some() => {
                    return Err(self.error("only one document is expected".into()));
                }
                Event::DocumentStart(..) => {
                    let event = self.event()?;
                    root = Some(self.node(event, 0)?);
                }
                _ => {}
            }
        }
    }

    fn node(&mut self, event: Event<'a>, depth: usize) -> Result<Node, YamlError> {
        self.count(1)?;
        if depth > DEEPEST {
            return Err(self.error(format!("values are nested more than {DEEPEST} deep")));
        }
        let (node, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag.as_deref();
                let value = scalar(&text, style, tag).map_err(|problem| self.error(problem))?;
                (Node::Value(value), anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.expect_tag(tag.as_deref(), "seq")?;
                let mut items = Vec::new();
                loop {
                    match self.event()? {
                        Event::SequenceEnd => break,
                        event => items.push(self.node(event, depth + 1)?),
                    }
                }
                (Node::List(items), anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.expect_tag(tag.as_deref(), "map")?;
                (Node::Map(self.mapping(depth)?), anchor)
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                let node = node.ok_or_else(|| {
                    self.error("an alias stands for a value that holds it".into())
                })?;
                self.count(node.size())?;
                return Ok(node);
            }
            other => return Err(self.error(format!("a value is expected, not {other:?}"))),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    /// The entries up to the mapping's end. Merged ones come first and yield to the mapping's own.
    fn mapping(&mut self, depth: usize) -> Result<Vec<(Key, Node)>, YamlError> {
        let (mut merged, mut own) = (Vec::new(), Vec::new());
        loop {
            let event = self.event()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let is_merge = matches!(&event,
                Event::Scalar(text, ScalarStyle::Plain, _, None) if text.as_ref() == "<<");
            let key = self.node(event, depth + 1)?;
            let event = self.event()?;
            let value = self.node(event, depth + 1)?;
            if is_merge {
                merged.extend(self.merged(value)?);
                continue;
            }
            let Node::Value(key) = key else {
                return Err(self.error("a list or a mapping cannot be a key".into()));
            };
            own.push((Key::from_value(key), value));
        }
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut places: HashMap<Key, usize> = HashMap::new();
        for (key, value) in merged.into_iter().chain(own) {
            if let Some(&at) = places.get(&key) {
                entries[at].1 = value;
            } else {
                places.insert(key.clone(), entries.len());
                entries.push((key, value));
            }
        }
        Ok(entries)
    }

    /// What `<<` brings in: a mapping, or several of which the first counts most.
    fn merged(&self, value: Node) -> Result<Vec<(Key, Node)>, YamlError> {
        let maps = match value {
            Node::Map(entries) => return Ok(entries),
            Node::List(items) => items,
            Node::Value(_) => Vec::new(),
        };
        let mut all = Vec::new();
        for map in maps.into_iter().rev() {
            let Node::Map(entries) = map else {
                return Err(self.error("`<<` merges mappings only".into()));
            };
            all.extend(entries);
        }
        if all.is_empty() {
            return Err(self.error("`<<` merges mappings only".into()));
        }
        Ok(all)
    }

    fn expect_tag(&self, tag: Option<&Tag>, kind: &str) -> Result<(), YamlError> {
        match tag.map(core_tag) {
            None | Some(Some("")) => Ok(()),
            Some(Some(name)) if name == kind => Ok(()),
            Some(_) => Err(self.error(format!("a {kind} cannot have the tag {}", show(tag)))),
        }
    }

    fn count(&mut self, more: usize) -> Result<(), YamlError> {
        let room = self.room.checked_sub(more);
        self.room = room.ok_or_else(|| self.error("aliases repeat too many values".into()))?;
        Ok(())
    }
}

fn place_of(span: &Span) -> (usize, usize) {
    (span.start.line(), span.start.col() + 1)
}

/// The name of a tag of YAML's own, empty for `!`; none for any other tag.
fn core_tag(tag: &Tag) -> Option<&str> {
    match (tag.handle(), tag.suffix()) {
        ("tag:yaml.org,2002:", name) => Some(name),
        ("", "!") | ("!", "") => Some(""),
        ("", full) => full.strip_prefix("tag:yaml.org,2002:"),
        _ => None,
    }
}

fn show(tag: Option<&Tag>) -> String {
    tag.map(|tag| format!("{}{}", tag.handle(), tag.suffix())).unwrap_or_default()
}

/// A scalar's value by its tag, else by its looks where it is plain.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Parameter, String> {
    let kind = match tag.map(core_tag) {
        None if style == ScalarStyle::Plain => kind_of(text),
        None => "str",
        Some(Some("")) => "str",
        Some(Some(name)) => name,
        Some(None) => return Err(format!("the tag {} is not known", show(tag))),
    };
    let wrong = || format!("{text:?} is no {kind}");
    Ok(match kind {
        "str" => Parameter::Text(text.to_owned()),
        "null" => Parameter::Null,
        "bool" => Parameter::Boolean(match text.to_lowercase().as_str() {
            "yes" | "true" | "on" => true,
            "no" | "false" | "off" => false,
            _ => return Err(wrong()),
        }),
        "int" => Parameter::Integer(integer(text).ok_or_else(wrong)?),
        "float" => Parameter::Float(float(text).ok_or_else(wrong)?),
        _ => return Err(format!("a value with the tag !!{kind} cannot be a parameter")),
    })
}

/// What a plain scalar is, by `PyYAML`'s implicit resolvers without dates.
fn kind_of(text: &str) -> &'static str {
    if is_boolean(text) {
        "bool"
    } else if is_float(text) {
        "float"
    } else if is_integer(text) {
        "int"
    } else if matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        "null"
    } else {
        "str"
    }
}

fn is_boolean(text: &str) -> bool {
    let words = ["yes", "no", "true", "false", "on", "off"];
    let shaped = |word: &str| {
        let (first, rest) = word.split_at(1);
        text == word
            || text == word.to_uppercase()
            || text.strip_prefix(&first.to_uppercase()) == Some(rest)
    };
    words.into_iter().any(shaped)
}

fn all(text: &str, sound: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(sound)
}

fn digits_or_underscores(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_digit() || c == '_')
}

/// Digits and underscores after a first digit.
fn is_number(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit()) && digits_or_underscores(text)
}

/// `:` and up to two digits below sixty, once or more.
fn are_sixtieths<'a>(mut parts: impl Iterator<Item = &'a str>) -> bool {
    let sound = |part: &str| match part.as_bytes() {
        [unit] => unit.is_ascii_digit(),
        [ten, unit] => matches!(ten, b'0'..=b'5') && unit.is_ascii_digit(),
        _ => false,
    };
    let mut count = 0;
    parts.all(|part| {
        count += 1;
        sound(part)
    }) && count > 0
}

fn is_float(text: &str) -> bool {
    let body = signed(text).1;
    if matches!(body, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let Some((whole, fraction)) = body.split_once('.') else { return false };
    let (fraction, exponent) = match fraction.split_once(['e', 'E']) {
        Some((fraction, exponent)) => (fraction, Some(exponent)),
        None => (fraction, None),
    };
    let exponent_sound = exponent.is_none_or(|exponent| {
        exponent.starts_with(['-', '+']) && all(&exponent[1..], |c| c.is_ascii_digit())
    });
    if let Some((first, rest)) = whole.split_once(':') {
        return exponent.is_none()
            && is_number(first)
            && are_sixtieths(rest.split(':'))
            && digits_or_underscores(fraction);
    }
    if whole.is_empty() {
        return body == text && exponent_sound && is_number(fraction);
    }
    exponent_sound && is_number(whole) && digits_or_underscores(fraction)
}

fn is_integer(text: &str) -> bool {
    let body = signed(text).1;
    if let Some(rest) = body.strip_prefix("0b") {
        return all(rest, |c| matches!(c, '0' | '1' | '_'));
    }
    if let Some(rest) = body.strip_prefix("0x") {
        return all(rest, |c| c.is_ascii_hexdigit() || c == '_');
    }
    if let Some(rest) = body.strip_prefix('0') {
        return rest.chars().all(|c| matches!(c, '0'..='7' | '_'));
    }
    let mut parts = body.split(':');
    let whole = parts.next().is_some_and(is_number);
    whole && (!body.contains(':') || are_sixtieths(parts))
}

fn integer(text: &str) -> Option<String> {
    let plain = text.replace('_', "");
    let body = signed(&plain).1;
    let digits = if let Some(rest) = body.strip_prefix("0b") {
        decimal([rest], 2)?
    } else if let Some(rest) = body.strip_prefix("0x") {
        decimal([rest], 16)?
    } else if body.len() > 1 && body.starts_with('0') {
        decimal([body], 8)?
    } else {
        decimal(body.split(':'), 10)?
    };
    let negative = plain.starts_with('-') && digits != "0";
    Some(if negative { format!("-{digits}") } else { digits })
}

fn float(text: &str) -> Option<f64> {
    let plain = text.replace('_', "").to_lowercase();
    let body = signed(&plain).1;
    let magnitude = match body {
        ".inf" => f64::INFINITY,
        ".nan" => return Some(f64::NAN),
        _ if body.contains(':') => {
            let parts: Option<Vec<f64>> = body.split(':').map(|part| part.parse().ok()).collect();
            parts?.into_iter().fold(0.0, |sum, part| sum * 60.0 + part)
        }
        _ => python_float(body)?,
    };
    Some(if plain.starts_with('-') { -magnitude } else { magnitude })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Parameter {
        from_yaml(&format!("a: {text}")).unwrap().swap_remove("a").unwrap()
    }

    #[test]
    fn plain_scalars_are_those_of_pyyaml() {
        let integer = |text: &str| Parameter::Integer(text.into());
        let text = |text: &str| Parameter::Text(text.into());
        for (yaml, expected) in [
            ("yes", Parameter::Boolean(true)),
            ("Off", Parameter::Boolean(false)),
            ("yEs", text("yEs")),
            ("y", text("y")),
            ("010", integer("8")),
            ("-0o10", text("-0o10")),
            ("0x1F", integer("31")),
            ("0b101", integer("5")),
            ("1_000", integer("1000")),
            ("089", text("089")),
            ("1e3", text("1e3")),
            ("1.0e+3", Parameter::Float(1000.0)),
            ("1.e+3", Parameter::Float(1000.0)),
            ("1.0e3", text("1.0e3")),
            (".5", Parameter::Float(0.5)),
            ("-.5", text("-.5")),
            ("12:30:45", integer("45045")),
            ("1:30.5", Parameter::Float(90.5)),
            ("12:60", text("12:60")),
            ("-.inf", Parameter::Float(f64::NEG_INFINITY)),
            ("~", Parameter::Null),
            ("2019-01-01", text("2019-01-01")),
            ("\"5\"", text("5")),
            ("!!str 5", text("5")),
            ("!!float \"5\"", Parameter::Float(5.0)),
            ("123456789012345678901234567890", integer("123456789012345678901234567890")),
            (
                "0xffffffffffffffffffffffffffffffff",
                integer("340282366920938463463374607431768211455"),
            ),
        ] {
            assert_eq!(value(yaml), expected, "{yaml}");
        }
        assert!(matches!(value(".nan"), Parameter::Float(value) if value.is_nan()));
    }

    #[test]
    fn the_last_of_a_key_wins_and_merges_yield() {
        let all = from_yaml("base: &b {x: 1, y: 2}\nc: {<<: *b, y: 3, x: 4}\nbase: 5").unwrap();
        assert_eq!(all.keys().collect::<Vec<_>>(), ["base", "c"]);
        assert_eq!(all["base"], Parameter::Integer("5".into()));
        assert_eq!(all["c"].to_json_text(), r#"{"x": 4, "y": 3}"#);
        let list = from_yaml("a: &a {k: 1}\nb: &b {k: 2, l: 2}\nc: {<<: [*a, *b]}").unwrap();
        assert_eq!(list["c"].to_json_text(), r#"{"k": 1, "l": 2}"#);
    }

    #[test]
    fn keys_of_other_types_keep_them() {
        let map = value("{1: x, true: y, ~: z, 2.5: f}");
        assert_eq!(map.to_json_text(), r#"{"1": "x", "true": "y", "null": "z", "2.5": "f"}"#);
    }

    #[test]
    fn what_gives_no_parameters_says_where() {
        for (text, words) in [
            ("- 1", "mapping of names"),
            ("word", "mapping of names"),
            ("a: 1\n---\nb: 2", "one document"),
            ("a: !!python/name:os.system x", "cannot be a parameter"),
            ("a: !custom x", "not known"),
            ("on: 1", "in quotes"),
            ("1: x", "in quotes"),
            ("a: [1", "not valid YAML"),
            ("a: &a [*a]", "alias"),
            ("a: {<<: 5}", "mappings only"),
            ("a: !!binary aGk=", "!!binary"),
        ] {
            let error = from_yaml(text).unwrap_err();
            assert!(error.problem.contains(words), "{text:?}: {error}");
        }
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n\
                    c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n\
                    e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]";
        assert!(from_yaml(bomb).unwrap_err().problem.contains("aliases repeat"));
        for nothing in ["", "# only a comment", "~", "{}", "[]", "false"] {
            assert!(from_yaml(nothing).unwrap().is_empty(), "{nothing:?}");
        }
    }
}
