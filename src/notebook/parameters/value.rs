//! The value of a parameter, with Python's range: integers of any size, NaN and infinities.
//!
//! Owns conversion from the command line's words (papermill's `-p` rules) and from JSON.

use serde_json::Value;

/// One value. Integers keep their decimal text.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameter {
    /// Python's `None`, JSON's `null`.
    Null,
    /// A boolean.
    Boolean(bool),
    /// An integer of any size, in decimal.
    Integer(String),
    /// A double, which may be NaN or infinite.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Self>),
    /// A map, in order.
    Map(Vec<(Key, Self)>),
}

/// A key of a map. Python's maps have keys of other types as well, which only YAML can write.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// Text.
    Text(String),
    /// Another value.
    Other {
        /// As Python's `str` shows it, which is how papermill writes it into code.
        code: String,
        /// As Python's `json` writes it.
        json: String,
    },
}

impl Key {
    /// The key that a value makes.
    pub fn from_value(value: Parameter) -> Self {
        match value {
            Parameter::Text(text) => Self::Text(text),
            other => {
                let json = other.to_json_text();
                let code = match &other {
                    Parameter::Null => "None".to_owned(),
                    Parameter::Boolean(true) => "True".to_owned(),
                    Parameter::Boolean(false) => "False".to_owned(),
                    Parameter::Float(value) if !value.is_finite() => json.to_lowercase(),
                    _ => json.clone(),
                };
                Self::Other { code, json }
            }
        }
    }

    /// The key as code has it.
    pub fn code(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Other { code, .. } => code,
        }
    }

    /// The key as JSON has it.
    pub fn json(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Other { json, .. } => json,
        }
    }
}

impl Parameter {
    /// Types a word as papermill's `-p` does: `True`, `False` and `None` exactly, then Python's
    /// `int()`, then `float()`, else text.
    pub fn from_word(word: &str) -> Self {
        match word {
            "True" => return Self::Boolean(true),
            "False" => return Self::Boolean(false),
            "None" => return Self::Null,
            _ => {}
        }
        if let Some(integer) = python_integer(word) {
            return Self::Integer(integer);
        }
        match python_float(word) {
            Some(float) => Self::Float(float),
            None => Self::Text(word.to_owned()),
        }
    }

    /// Whether Python takes it for false.
    pub fn is_falsy(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Boolean(value) => !value,
            Self::Integer(digits) => digits == "0",
            Self::Float(value) => *value == 0.0,
            Self::Text(text) => text.is_empty(),
            Self::List(items) => items.is_empty(),
            Self::Map(entries) => entries.is_empty(),
        }
    }

    /// The value as JSON. Integers beyond 64 bits become doubles and non-finite floats `null`;
    /// what must keep them uses [`Self::to_json_text`].
    pub fn to_json(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Boolean(value) => Value::Bool(*value),
            Self::Integer(digits) => serde_json::from_str(digits).unwrap_or(Value::Null),
            Self::Float(value) => Value::from(*value),
            Self::Text(text) => Value::from(text.as_str()),
            Self::List(items) => items.iter().map(Self::to_json).collect(),
            Self::Map(entries) => entries
                .iter()
                .map(|(key, value)| (key.json().to_owned(), value.to_json()))
                .collect(),
        }
    }

    /// The value as Python's `json` module writes it: `NaN` and `Infinity` included.
    pub fn to_json_text(&self) -> String {
        match self {
            Self::Integer(digits) => digits.clone(),
            Self::Float(value) if value.is_nan() => "NaN".into(),
            Self::Float(value) if *value == f64::INFINITY => "Infinity".into(),
            Self::Float(value) if *value == f64::NEG_INFINITY => "-Infinity".into(),
            Self::Float(value) => python_float_text(*value),
            Self::List(items) => {
                let items: Vec<_> = items.iter().map(Self::to_json_text).collect();
                format!("[{}]", items.join(", "))
            }
            Self::Map(entries) => {
                let entries: Vec<_> = entries
                    .iter()
                    .map(|(key, value)| {
                        format!("{}: {}", Value::from(key.json()), value.to_json_text())
                    })
                    .collect();
                format!("{{{}}}", entries.join(", "))
            }
            Self::Null | Self::Boolean(_) | Self::Text(_) => self.to_json().to_string(),
        }
    }
}

impl From<&Value> for Parameter {
    fn from(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Boolean(*value),
            Value::Number(number) if number.is_f64() => {
                Self::Float(number.as_f64().unwrap_or(f64::NAN))
            }
            Value::Number(number) => Self::Integer(number.to_string()),
            Value::String(text) => Self::Text(text.clone()),
            Value::Array(items) => Self::List(items.iter().map(Self::from).collect()),
            Value::Object(entries) => Self::Map(
                entries
                    .iter()
                    .map(|(key, value)| (Key::Text(key.clone()), Self::from(value)))
                    .collect(),
            ),
        }
    }
}

/// Python's `repr` of a value.
pub fn python_text(value: &Parameter) -> String {
    let key = |key: &Key| match key {
        Key::Text(text) => python_text(&Parameter::Text(text.clone())),
        Key::Other { code, .. } => code.clone(),
    };
    match value {
        Parameter::Null => "None".into(),
        Parameter::Boolean(true) => "True".into(),
        Parameter::Boolean(false) => "False".into(),
        Parameter::Integer(digits) => digits.clone(),
        Parameter::Float(value) if value.is_nan() => "nan".into(),
        Parameter::Float(value) if value.is_infinite() => {
            if *value > 0.0 {
                "inf".into()
            } else {
                "-inf".into()
            }
        }
        Parameter::Float(value) => python_float_text(*value),
        Parameter::Text(text) => {
            let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
            let text = text.replace('\\', "\\\\").replace('\n', "\\n").replace('\t', "\\t");
            format!("{quote}{}{quote}", text.replace(quote, &format!("\\{quote}")))
        }
        Parameter::List(items) => {
            let items: Vec<_> = items.iter().map(python_text).collect();
            format!("[{}]", items.join(", "))
        }
        Parameter::Map(entries) => {
            let pair =
                |(name, value): &(Key, Parameter)| format!("{}: {}", key(name), python_text(value));
            format!("{{{}}}", entries.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
    }
}

/// Python's `repr` of a finite double: `1.0`, `1e-07`, `1e+16`.
pub fn python_float_text(value: f64) -> String {
    let text = format!("{value:?}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => {
            let (sign, digits) = match exponent.strip_prefix('-') {
                Some(digits) => ('-', digits),
                None => ('+', exponent),
            };
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        None => text,
    }
}

/// The code points of the digit zero in all scripts: what stands up to nine behind one of them is a
/// digit to Python (Unicode's `Nd`).
const ZEROS: [u32; 63] = [
    0x30, 0x660, 0x6F0, 0x7C0, 0x966, 0x9E6, 0xA66, 0xAE6, 0xB66, 0xBE6, 0xC66, 0xCE6, 0xD66,
    0xDE6, 0xE50, 0xED0, 0xF20, 0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90,
    0x1B50, 0x1BB0, 0x1C40, 0x1C50, 0xA620, 0xA8D0, 0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0, 0xFF10,
    0x104A0, 0x10D30, 0x11066, 0x110F0, 0x11136, 0x111D0, 0x112F0, 0x11450, 0x114D0, 0x11650,
    0x116C0, 0x11730, 0x118E0, 0x11950, 0x11C50, 0x11D50, 0x11DA0, 0x16A60, 0x16B50, 0x1D7CE,
    0x1D7D8, 0x1D7E2, 0x1D7EC, 0x1D7F6, 0x1E950, 0x1FBF0,
];

/// A character that Python counts as a digit, as one of ours.
fn ascii_digit(character: char) -> char {
    let code = u32::from(character);
    let after = |zero: &u32| code.checked_sub(*zero).filter(|value| *value < 10);
    let value = ZEROS.iter().find_map(after);
    value.and_then(|value| char::from_digit(value, 10)).unwrap_or(character)
}

/// What Python's `str.strip` removes is white space and four separators.
fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}

/// Digits with single underscores between them, as Python allows; without them where they are so.
fn plain_digits(text: &str) -> Option<String> {
    let sound = !text.is_empty()
        && text.split('_').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    sound.then(|| text.replace('_', ""))
}

/// So many digits Python converts; more are an error there.
const MOST_DIGITS: usize = 4300;

/// The decimal text of a number whose places are written in `radix`, or, given several parts, of a
/// number to the base 60 whose parts are decimal. None where a part is no such number, or it is
/// longer than Python converts.
pub fn decimal<'a>(parts: impl IntoIterator<Item = &'a str>, radix: u32) -> Option<String> {
    // Nine decimal places each, the lowest first.
    let mut places: Vec<u64> = vec![0];
    let mut multiply_and_add = |factor: u32, more: u32| {
        let mut carry = u64::from(more);
        for place in &mut places {
            let value = *place * u64::from(factor) + carry;
            *place = value % 1_000_000_000;
            carry = value / 1_000_000_000;
        }
        if carry > 0 {
            places.push(carry);
        }
    };
    for (index, part) in parts.into_iter().enumerate() {
        if part.is_empty() || part.len() > MOST_DIGITS {
            return None;
        }
        if index > 0 {
            multiply_and_add(60, part.parse().ok()?);
            continue;
        }
        for character in part.chars() {
            multiply_and_add(radix, character.to_digit(radix)?);
        }
    }
    let mut text = String::new();
    for place in places.iter().rev() {
        text.push_str(&if text.is_empty() { place.to_string() } else { format!("{place:09}") });
    }
    Some(text)
}

/// A number's sign, `-` or nothing, and the rest.
pub fn signed(text: &str) -> (&str, &str) {
    match text.as_bytes().first() {
        Some(b'-') => ("-", &text[1..]),
        Some(b'+') => ("", &text[1..]),
        _ => ("", text),
    }
}

fn python_integer(word: &str) -> Option<String> {
    let word: String = strip(word).chars().map(ascii_digit).collect();
    let (sign, digits) = signed(&word);
    let digits = plain_digits(digits).filter(|digits| digits.len() <= MOST_DIGITS)?;
    let digits = digits.trim_start_matches('0');
    Some(if digits.is_empty() { "0".into() } else { format!("{sign}{digits}") })
}

/// Python's `float()`.
pub fn python_float(word: &str) -> Option<f64> {
    let word: String = strip(word).chars().map(ascii_digit).collect();
    let (sign, body) = signed(&word);
    let lower = body.to_ascii_lowercase();
    let magnitude = match lower.as_str() {
        "nan" => f64::NAN,
        "inf" | "infinity" => f64::INFINITY,
        _ => {
            let (mantissa, exponent) = lower.split_once('e').unwrap_or((&lower, "0"));
            let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
            if whole.is_empty() && fraction.is_empty() {
                return None;
            }
            let part = |text: &str| {
                if text.is_empty() { Some(String::new()) } else { plain_digits(text) }
            };
            let (whole, fraction) = (part(whole)?, part(fraction)?);
            let (exponent_sign, exponent) = signed(exponent);
            let exponent = plain_digits(exponent)?;
            format!("{whole}.{fraction}e{exponent_sign}{exponent}").parse().ok()?
        }
    };
    Some(if sign == "-" { -magnitude } else { magnitude })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_typed_as_papermill_types_them() {
        let integer = |text: &str| Parameter::Integer(text.into());
        for (word, value) in [
            ("True", Parameter::Boolean(true)),
            ("true", Parameter::Text("true".into())),
            ("None", Parameter::Null),
            ("007", integer("7")),
            ("1_000", integer("1000")),
            (" 5 ", integer("5")),
            ("+5", integer("5")),
            ("-0", integer("0")),
            ("123456789012345678901234567890", integer("123456789012345678901234567890")),
            ("1e3", Parameter::Float(1000.0)),
            ("1.", Parameter::Float(1.0)),
            (".5", Parameter::Float(0.5)),
            ("1e400", Parameter::Float(f64::INFINITY)),
            ("-inf", Parameter::Float(f64::NEG_INFINITY)),
            ("٣", integer("3")),
            ("１٣.5", Parameter::Float(13.5)),
            ("\u{1f}5\u{a0}", integer("5")),
            ("0x10", Parameter::Text("0x10".into())),
            ("1__0", Parameter::Text("1__0".into())),
            ("5L", Parameter::Text("5L".into())),
            ("", Parameter::Text(String::new())),
            (".", Parameter::Text(".".into())),
        ] {
            assert_eq!(Parameter::from_word(word), value, "{word:?}");
        }
        assert!(matches!(Parameter::from_word("nan"), Parameter::Float(value) if value.is_nan()));
    }

    #[test]
    fn floats_print_as_in_python() {
        for (value, text) in [
            (1.0, "1.0"),
            (1e-7, "1e-07"),
            (1e16, "1e+16"),
            (1.5e-5, "1.5e-05"),
            (0.0001, "0.0001"),
        ] {
            assert_eq!(python_float_text(value), text);
        }
    }
}
