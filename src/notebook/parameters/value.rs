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
    /// A map with text keys, in order.
    Map(Vec<(String, Self)>),
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
            Self::Map(entries) => {
                entries.iter().map(|(key, value)| (key.clone(), value.to_json())).collect()
            }
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
                        format!("{}: {}", Value::from(key.as_str()), value.to_json_text())
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
                entries.iter().map(|(key, value)| (key.clone(), Self::from(value))).collect(),
            ),
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

/// Digits with single underscores between them, as Python allows; without them where they are so.
fn plain_digits(text: &str) -> Option<String> {
    let sound = !text.is_empty()
        && text.split('_').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    sound.then(|| text.replace('_', ""))
}

fn signed(text: &str) -> (&str, &str) {
    match text.as_bytes().first() {
        Some(b'-') => ("-", &text[1..]),
        Some(b'+') => ("", &text[1..]),
        _ => ("", text),
    }
}

fn python_integer(word: &str) -> Option<String> {
    let (sign, digits) = signed(word.trim());
    let digits = plain_digits(digits)?;
    let digits = digits.trim_start_matches('0');
    Some(if digits.is_empty() { "0".into() } else { format!("{sign}{digits}") })
}

fn python_float(word: &str) -> Option<f64> {
    let (sign, body) = signed(word.trim());
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
