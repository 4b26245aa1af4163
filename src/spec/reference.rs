//! References: `{{ steps.train.outputs.model }}`. They name values and hold no expressions.
//!
//! Owns their grammar, and how a text or a JSON value with references becomes values. Which step
//! may see which is for the validation to say.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// What a reference names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// `params.NAME`.
    Parameter(String),
    /// `steps.STEP.outputs.NAME`, for a file with a field.
    Output {
        /// The step.
        step: String,
        /// The output's name.
        name: String,
        /// Which of the file's facts, or the value itself.
        field: Field,
    },
    /// `steps.STEP.metrics.NAME`.
    Metric {
        /// The step.
        step: String,
        /// The metric's name.
        name: String,
    },
    /// `run.FIELD`.
    Run(RunField),
    /// `pipeline.name`.
    PipelineName,
    /// `sweep.index`.
    SweepIndex,
    /// `model.FIELD`, in a deployment's `set` only.
    Model(ModelField),
}

/// Facts of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Field {
    /// The value; of a file its path.
    Value,
    /// The file's digest.
    Digest,
    /// Where the file can be fetched.
    Uri,
    /// The file's size.
    Bytes,
}

/// Facts of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the variants are the words after `run.`")]
pub enum RunField {
    Id,
    Name,
    Attempt,
    ScheduledAt,
    Revision,
    Trigger,
}

/// Facts of a deployment's model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the variants are the words after `model.`")]
pub enum ModelField {
    Digest,
    Uri,
    Path,
    Bytes,
}

impl Reference {
    /// Parses what stands between the braces.
    ///
    /// # Errors
    /// Says what may stand there.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('.').map(str::trim).collect();
        let known = |name: &str| !name.is_empty() && name.chars().all(is_name_character);
        Ok(match parts[..] {
            ["params", name] if known(name) => Self::Parameter(name.into()),
            ["steps", step, "outputs", name] if known(step) && known(name) => {
                Self::Output { step: step.into(), name: name.into(), field: Field::Value }
            }
            ["steps", step, "outputs", name, field] if known(step) && known(name) => {
                let field = match field {
                    "digest" => Field::Digest,
                    "uri" => Field::Uri,
                    "bytes" => Field::Bytes,
                    _ => {
                        return Err(format!("an output has no {field:?}, only digest, uri, bytes"));
                    }
                };
                Self::Output { step: step.into(), name: name.into(), field }
            }
            ["steps", step, "metrics", name] if known(step) && known(name) => {
                Self::Metric { step: step.into(), name: name.into() }
            }
            ["run", field] => Self::Run(match field {
                "id" => RunField::Id,
                "name" => RunField::Name,
                "attempt" => RunField::Attempt,
                "scheduledAt" => RunField::ScheduledAt,
                "revision" => RunField::Revision,
                "trigger" => RunField::Trigger,
                _ => {
                    return Err(format!(
                        "run has no {field:?}, only id, name, attempt, scheduledAt, revision, trigger"
                    ));
                }
            }),
            ["pipeline", "name"] => Self::PipelineName,
            ["sweep", "index"] => Self::SweepIndex,
            ["model", field] => Self::Model(match field {
                "digest" => ModelField::Digest,
                "uri" => ModelField::Uri,
                "path" => ModelField::Path,
                "bytes" => ModelField::Bytes,
                _ => return Err(format!("model has no {field:?}, only digest, uri, path, bytes")),
            }),
            _ => {
                return Err(format!(
                    "{text:?} is no reference: wanted params.NAME, steps.STEP.outputs.NAME, \
                     steps.STEP.metrics.NAME, run.FIELD, pipeline.name or sweep.index; \
                     references hold no expressions"
                ));
            }
        })
    }

    /// The step that the reference reads from.
    pub fn step(&self) -> Option<&str> {
        match self {
            Self::Output { step, .. } | Self::Metric { step, .. } => Some(step),
            Self::Parameter(_)
            | Self::Run(_)
            | Self::PipelineName
            | Self::SweepIndex
            | Self::Model(_) => None,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parameter(name) => write!(formatter, "params.{name}"),
            Self::Output { step, name, field } => {
                write!(formatter, "steps.{step}.outputs.{name}")?;
                match field {
                    Field::Value => Ok(()),
                    Field::Digest => formatter.write_str(".digest"),
                    Field::Uri => formatter.write_str(".uri"),
                    Field::Bytes => formatter.write_str(".bytes"),
                }
            }
            Self::Metric { step, name } => write!(formatter, "steps.{step}.metrics.{name}"),
            Self::Run(field) => formatter.write_str(match field {
                RunField::Id => "run.id",
                RunField::Name => "run.name",
                RunField::Attempt => "run.attempt",
                RunField::ScheduledAt => "run.scheduledAt",
                RunField::Revision => "run.revision",
                RunField::Trigger => "run.trigger",
            }),
            Self::PipelineName => formatter.write_str("pipeline.name"),
            Self::SweepIndex => formatter.write_str("sweep.index"),
            Self::Model(field) => formatter.write_str(match field {
                ModelField::Digest => "model.digest",
                ModelField::Uri => "model.uri",
                ModelField::Path => "model.path",
                ModelField::Bytes => "model.bytes",
            }),
        }
    }
}

/// Characters of the names of steps, outputs and parameters.
pub fn is_name_character(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '-')
}

/// A text with references in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text as it is.
    Text(String),
    /// A reference.
    Reference(Reference),
}

impl Template {
    /// Parses a text. `{{ '{{' }}` is a literal `{{`.
    ///
    /// # Errors
    /// Says what is wrong with a reference.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        let mut literal = String::new();
        while let Some(at) = rest.find("{{") {
            literal.push_str(&rest[..at]);
            let after = &rest[at + 2..];
            // A literal may itself hold braces, so it is looked for first.
            let inner_start = after.trim_start();
            if let Some(quote @ ('\'' | '"')) = inner_start.chars().next() {
                let body = &inner_start[1..];
                let end = body.find(quote).ok_or("a quoted literal in {{ }} is not closed")?;
                let tail = body[end + 1..].trim_start();
                let tail = tail.strip_prefix("}}").ok_or("`}}` is missing after a literal")?;
                literal.push_str(&body[..end]);
                rest = tail;
                continue;
            }
            let end = after.find("}}").ok_or_else(|| {
                "`{{` without `}}`; a literal `{{` is written `{{ '{{' }}`".to_owned()
            })?;
            let reference = Reference::parse(after[..end].trim())?;
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(Part::Reference(reference));
            rest = &after[end + 2..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self(parts))
    }

    /// The pieces in order.
    pub fn parts(&self) -> &[Part] {
        &self.0
    }

    /// The references in order.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        self.0.iter().filter_map(|part| match part {
            Part::Reference(reference) => Some(reference),
            Part::Text(_) => None,
        })
    }

    /// The value: of a single reference its JSON value with its type, else a text in which values
    /// stand as text.
    ///
    /// # Errors
    /// Whatever the look-up gives.
    pub fn value<E>(
        &self,
        look_up: &mut impl FnMut(&Reference) -> Result<Value, E>,
    ) -> Result<Value, E> {
        if let [Part::Reference(reference)] = &self.0[..] {
            return look_up(reference);
        }
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Reference(reference) => out.push_str(&as_text(&look_up(reference)?)),
            }
        }
        Ok(Value::String(out))
    }
}

/// A value in the middle of a text: strings bare, all else as JSON.
pub fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Calls `visit` for each reference anywhere in a JSON value.
///
/// # Errors
/// A text that is no template.
pub fn visit_json(value: &Value, visit: &mut impl FnMut(&Reference)) -> Result<(), String> {
    match value {
        Value::String(text) => Template::parse(text)?.references().for_each(visit),
        Value::Array(items) => {
            for item in items {
                visit_json(item, visit)?;
            }
        }
        Value::Object(entries) => {
            for item in entries.values() {
                visit_json(item, visit)?;
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    Ok(())
}

/// A JSON value with all references replaced.
///
/// # Errors
/// Whatever the look-up gives; a text that is no template stays as it is, for validation has
/// refused it before.
pub fn resolve_json<E>(
    value: &Value,
    look_up: &mut impl FnMut(&Reference) -> Result<Value, E>,
) -> Result<Value, E> {
    Ok(match value {
        Value::String(text) => match Template::parse(text) {
            Ok(template) => template.value(look_up)?,
            Err(_) => value.clone(),
        },
        Value::Array(items) => Value::Array(
            items.iter().map(|item| resolve_json(item, look_up)).collect::<Result<_, _>>()?,
        ),
        Value::Object(entries) => {
            let mut out = serde_json::Map::new();
            for (key, item) in entries {
                out.insert(key.clone(), resolve_json(item, look_up)?);
            }
            Value::Object(out)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn value(text: &str) -> Value {
        let mut look_up = |reference: &Reference| -> Result<Value, String> {
            Ok(match reference {
                Reference::Parameter(_) => json!(5),
                _ => json!("x"),
            })
        };
        Template::parse(text).unwrap().value(&mut look_up).unwrap()
    }

    #[test]
    fn one_reference_keeps_its_type_and_mixed_text_is_text() {
        assert_eq!(value("{{ params.a }}"), json!(5));
        assert_eq!(value("{{params.a}} and {{ run.id }}"), json!("5 and x"));
        assert_eq!(value("a {{ '{{' }} b }}"), json!("a {{ b }}"));
        assert_eq!(value("no braces {x}"), json!("no braces {x}"));
    }

    #[test]
    fn what_is_no_reference_is_refused_with_words() {
        for (text, word) in [
            ("{{ params.a + 1 }}", "no expressions"),
            ("{{ params.a ", "without `}}`"),
            ("{{ run.x }}", "only id, name"),
            ("{{ steps.a.outputs.b.size }}", "only digest, uri, bytes"),
            ("{{ }}", "no reference"),
            ("{{ 'x }}", "not closed"),
        ] {
            let error = Template::parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn references_print_as_they_are_written() {
        for text in [
            "params.a",
            "steps.s.outputs.o.digest",
            "steps.s.metrics.m",
            "run.scheduledAt",
            "pipeline.name",
            "sweep.index",
            "model.uri",
        ] {
            assert_eq!(Reference::parse(text).unwrap().to_string(), text);
        }
    }
}
