//! Paths with parameters in them, such as `out-{region}.ipynb`, filled as papermill fills them: by
//! Python's `str.format`.
//!
//! Owns the part of Python's format language that makes sense in a path: names, `[keys]`,
//! conversions, and the specifications of text, numbers and times. Pure: the time is an argument.

use std::iter::Peekable;
use std::str::Chars;

use jiff::Zoned;

use super::Parameters;
use super::value::{Parameter, python_float_text, python_text};

/// What papermill knows besides the parameters, under the name `pm`.
#[derive(Clone, Debug)]
pub struct Builtin {
    /// `{pm[run_uuid]}`.
    pub run_uuid: String,
    /// `{pm[current_datetime_local]}`, and in UTC `{pm[current_datetime_utc]}`.
    pub now: Zoned,
}

/// Why a path cannot be filled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A name that is no parameter.
    #[error("missing parameter {0:?}; a brace that is part of the name is written twice")]
    Missing(String),
    /// Anything else.
    #[error("{0}; a brace that is part of the name is written twice")]
    Malformed(String),
}

/// A path that [`fill`] gives back as it is.
pub fn escape(path: &str) -> String {
    path.replace('{', "{{").replace('}', "}}")
}

/// Fills a path.
///
/// # Errors
/// A name is missing, or a field is malformed.
pub fn fill(
    path: &str,
    parameters: &Parameters,
    builtin: &Builtin,
) -> Result<String, TemplateError> {
    let malformed = |text: String| TemplateError::Malformed(text);
    let mut out = String::new();
    let mut rest = path;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let (brace, behind) = rest[at..].split_at(1);
        if let Some(behind) = behind.strip_prefix(brace) {
            out.push_str(brace);
            rest = behind;
            continue;
        }
        if brace == "}" {
            return Err(malformed(format!("{path:?} has a single }}")));
        }
        let end = behind.find('}');
        let end = end.ok_or_else(|| malformed(format!("{path:?} has a {{ without a }}")))?;
        out.push_str(&field(&behind[..end], parameters, builtin)?);
        rest = &behind[end + 1..];
    }
    Ok(out + rest)
}

enum Value<'a> {
    Parameter(&'a Parameter),
    Time(Zoned),
    Text(&'a str),
}

fn field(text: &str, parameters: &Parameters, builtin: &Builtin) -> Result<String, TemplateError> {
    let malformed = |problem: &str| TemplateError::Malformed(format!("{{{text}}} {problem}"));
    let (name, specification) = text.split_once(':').unwrap_or((text, ""));
    let (name, conversion) = match name.split_once('!') {
        Some((name, conversion)) => (name, Some(conversion)),
        None => (name, None),
    };
    let start = name.find(['[', '.']).unwrap_or(name.len());
    let (name, mut path) = name.split_at(start);
    if name.is_empty() {
        return Err(malformed("names no parameter"));
    }
    let mut keys = Vec::new();
    while let Some(inner) = path.strip_prefix('[') {
        let end = inner.find(']').ok_or_else(|| malformed("has a [ without a ]"))?;
        keys.push(&inner[..end]);
        path = &inner[end + 1..];
    }
    if !path.is_empty() {
        return Err(malformed("asks for an attribute, which no parameter has; write [KEY]"));
    }
    let value = match (parameters.get(name), name, keys.as_slice()) {
        (Some(value), _, keys) => Value::Parameter(walk(value, keys, text)?),
        (None, "pm", ["run_uuid"]) => Value::Text(&builtin.run_uuid),
        (None, "pm", ["current_datetime_local"]) => Value::Time(builtin.now.clone()),
        (None, "pm", ["current_datetime_utc"]) => {
            Value::Time(builtin.now.with_time_zone(jiff::tz::TimeZone::UTC))
        }
        (None, "pm", [key, ..]) => return Err(TemplateError::Missing(format!("pm[{key}]"))),
        (None, _, _) => return Err(TemplateError::Missing(name.to_owned())),
    };
    let utc = keys == ["current_datetime_utc"];
    let plain = match &value {
        Value::Text(text) => (*text).to_owned(),
        Value::Parameter(Parameter::Text(text)) if conversion != Some("r") => text.clone(),
        Value::Parameter(value) => python_text(value),
        Value::Time(time) if specification.is_empty() || conversion.is_some() => {
            let zone = if utc { "+00:00" } else { "" };
            format!("{}{zone}", time.strftime("%Y-%m-%d %H:%M:%S%.6f"))
        }
        Value::Time(time) => {
            // Python has six digits for %f where jiff has as many as it needs.
            let format = specification.replace("%f", "%6f");
            return Ok(time.strftime(&format).to_string());
        }
    };
    let number = match value {
        Value::Parameter(value) if conversion.is_none() => Some(value),
        _ => None,
    };
    Specification::parse(specification)
        .and_then(|wanted| wanted.apply(&plain, number))
        .ok_or_else(|| malformed("has a format that does not fit its value"))
}

fn walk<'a>(
    value: &'a Parameter,
    keys: &[&str],
    field: &str,
) -> Result<&'a Parameter, TemplateError> {
    let Some((key, rest)) = keys.split_first() else { return Ok(value) };
    let inner = match value {
        Parameter::List(items) => key.parse().ok().and_then(|index: usize| items.get(index)),
        // Digits are a number in Python's format language, which no key of text equals.
        Parameter::Map(entries) => {
            let found = entries.iter().find(|(name, _)| name.code() == *key);
            found.map(|(_, value)| value)
        }
        _ => None,
    };
    let inner = inner.ok_or_else(|| {
        TemplateError::Malformed(format!("{{{field}}} asks for {key:?}, which is not there"))
    })?;
    walk(inner, rest, field)
}

/// `[[fill]align][sign][0][width][,][.precision][type]`.
#[derive(Debug, Default)]
struct Specification {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

impl Specification {
    fn parse(text: &str) -> Option<Self> {
        let mut wanted = Self::default();
        let is_align = |c: &char| matches!(c, '<' | '>' | '^' | '=');
        let mut rest = text.chars().peekable();
        if text.chars().nth(1).as_ref().is_some_and(is_align) {
            wanted.fill = rest.next();
        }
        wanted.align = rest.next_if(is_align);
        wanted.sign = rest.next_if(|c| matches!(c, '+' | '-' | ' '));
        if rest.next_if_eq(&'0').is_some() && wanted.fill.is_none() {
            wanted.fill = Some('0');
            wanted.align = wanted.align.or(Some('='));
        }
        let number = |rest: &mut Peekable<Chars<'_>>| {
            let mut digits = String::new();
            while let Some(digit) = rest.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            digits
        };
        let width = number(&mut rest);
        wanted.width =
            if width.is_empty() { 0 } else { width.parse().ok().filter(|w| *w < 1000)? };
        wanted.grouping = rest.next_if(|c| matches!(c, ',' | '_'));
        if rest.next_if_eq(&'.').is_some() {
            wanted.precision = Some(number(&mut rest).parse().ok().filter(|p| *p < 1000)?);
        }
        wanted.kind = rest.next();
        rest.next().is_none().then_some(wanted)
    }

    /// The value so formatted; none where the type does not fit.
    fn apply(&self, plain: &str, number: Option<&Parameter>) -> Option<String> {
        let body = match (number, self.kind) {
            (Some(Parameter::Integer(digits)), None | Some('d' | 'n'))
                if self.precision.is_none() =>
            {
                digits.clone()
            }
            (Some(Parameter::Integer(digits)), Some(kind @ ('x' | 'X' | 'o' | 'b'))) => {
                let value: i128 = digits.parse().ok()?;
                let size = value.unsigned_abs();
                let text = match kind {
                    'x' => format!("{size:x}"),
                    'X' => format!("{size:X}"),
                    'o' => format!("{size:o}"),
                    _ => format!("{size:b}"),
                };
                format!("{}{text}", if value < 0 { "-" } else { "" })
            }
            (Some(Parameter::Integer(digits)), Some(kind)) => {
                self.float(digits.parse().ok()?, Some(kind))?
            }
            (Some(Parameter::Float(value)), kind) => self.float(*value, kind)?,
            (Some(Parameter::Integer(_)), None) => return None,
            (_, None | Some('s')) if self.sign.is_none() && self.grouping.is_none() => {
                let length = self.precision.unwrap_or(usize::MAX);
                let text: String = plain.chars().take(length).collect();
                let list = matches!(
                    number,
                    Some(Parameter::List(_) | Parameter::Map(_) | Parameter::Null)
                );
                let formatted = self.width > 0 || self.precision.is_some() || self.kind.is_some();
                return (!(list && formatted)).then(|| self.pad(&text, '<'));
            }
            _ => return None,
        };
        let body = if self.grouping.is_some() { self.group(&body) } else { body };
        let signed = match self.sign {
            Some(sign @ ('+' | ' ')) if !body.starts_with('-') => format!("{sign}{body}"),
            _ => body,
        };
        Some(self.pad(&signed, '>'))
    }

    fn float(&self, value: f64, kind: Option<char>) -> Option<String> {
        let precision = self.precision.unwrap_or(6);
        let exponent = |text: String| {
            let (mantissa, power) = text.split_once('e').unwrap_or((&text, "0"));
            let (sign, digits) = match power.strip_prefix('-') {
                Some(digits) => ('-', digits),
                None => ('+', power),
            };
            format!("{mantissa}e{sign}{digits:0>2}")
        };
        Some(match kind {
            _ if !value.is_finite() => python_text(&Parameter::Float(value)),
            None if self.precision.is_none() => python_float_text(value),
            Some('f' | 'F') => format!("{value:.precision$}"),
            Some('%') => format!("{:.precision$}%", value * 100.0),
            Some('e') => exponent(format!("{value:.precision$e}")),
            Some('E') => exponent(format!("{value:.precision$e}")).to_uppercase(),
            _ => return None,
        })
    }

    fn group(&self, body: &str) -> String {
        let separator = self.grouping.unwrap_or(',');
        let (sign, rest) = body.strip_prefix('-').map_or(("", body), |rest| ("-", rest));
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let mut out = String::new();
        for (index, digit) in rest[..end].chars().enumerate() {
            if index > 0 && (end - index).is_multiple_of(3) {
                out.push(separator);
            }
            out.push(digit);
        }
        format!("{sign}{out}{}", &rest[end..])
    }

    fn pad(&self, text: &str, usual: char) -> String {
        let missing = self.width.saturating_sub(text.chars().count());
        let fill = |count: usize| self.fill.unwrap_or(' ').to_string().repeat(count);
        match self.align.unwrap_or(usual) {
            '<' => text.to_owned() + &fill(missing),
            '^' => fill(missing / 2) + text + &fill(missing - missing / 2),
            '=' => {
                let sign = usize::from(text.starts_with(['-', '+', ' ']));
                format!("{}{}{}", &text[..sign], fill(missing), &text[sign..])
            }
            _ => fill(missing) + text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notebook::parameters::from_yaml;

    fn filled(path: &str) -> Result<String, TemplateError> {
        let yaml = "{name: north, n: 7, big: 1234567, x: 2.5, bar: [a, {k: deep}], t: true}";
        let parameters = from_yaml(yaml).unwrap();
        let now = "2026-11-25T04:05:06.000007+01:00[Europe/Berlin]".parse().unwrap();
        fill(path, &parameters, &Builtin { run_uuid: "u-u".into(), now })
    }

    #[test]
    fn fields_are_those_of_python() {
        for (path, expected) in [
            ("plain.ipynb", "plain.ipynb"),
            ("{name}-{n:03d}.ipynb", "north-007.ipynb"),
            ("{{{n}}}", "{7}"),
            ("{bar[0]}/{bar[1][k]}", "a/deep"),
            ("{name:>8}|{name:*^9}|{name:.2}", "   north|**north**|no"),
            ("{x}|{x:.3f}|{x:e}|{x:%}|{n:.1f}", "2.5|2.500|2.500000e+00|250.000000%|7.0"),
            ("{big:,}|{big:x}|{n:+d}|{t}", "1,234,567|12d687|+7|True"),
            ("{name!r}", "'north'"),
            ("{pm[run_uuid]}", "u-u"),
            ("{pm[current_datetime_utc]:%Y-%m-%dT%H}", "2026-11-25T03"),
            ("{pm[current_datetime_local]}", "2026-11-25 04:05:06.000007"),
            ("{pm[current_datetime_utc]}", "2026-11-25 03:05:06.000007+00:00"),
        ] {
            assert_eq!(filled(path), Ok(expected.to_owned()), "{path}");
            assert_eq!(filled(&escape(path)), Ok(path.to_owned()));
        }
    }

    #[test]
    fn what_cannot_be_filled_says_why() {
        for (path, words) in [
            ("{other}", "missing parameter \"other\""),
            ("{}", "names no parameter"),
            ("{name", "without a }"),
            ("name}", "single }"),
            ("{bar[7]}", "not there"),
            ("{name:d}", "does not fit"),
            ("{pm.run_uuid}", "write [KEY]"),
            ("{x:.2", "without a }"),
        ] {
            assert!(filled(path).unwrap_err().to_string().contains(words), "{path}");
        }
    }
}
