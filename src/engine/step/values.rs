//! The value of each reference at the moment an attempt starts.
//!
//! Owns the look-up over a run and the records of its steps, and what a step's parameters are.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde_json::{Value, json};

use crate::plan::{Phase, Run, StepRecord};
use crate::spec::{Field, Pipeline, Reference, RunField, Step, Template, resolve_json};

/// All that references can name.
pub struct Scope<'a> {
    /// The source's root, where results lie.
    pub root: &'a Path,
    /// Files of earlier steps that were put into the step's own checkout.
    pub placed: &'a HashMap<(String, String), PathBuf>,
    /// The pipeline.
    pub pipeline: &'a Pipeline,
    /// The run.
    pub run: &'a Run,
    /// Records of its steps.
    pub records: &'a [&'a StepRecord],
    /// The step that asks.
    pub step: &'a Step,
    /// The point that asks.
    pub point: Option<(usize, IndexMap<String, Value>)>,
    /// The attempt's number.
    pub attempt: u64,
}

impl Scope<'_> {
    /// The parameters of the step: pipeline, step, sweep, then what a person or the trigger gave.
    ///
    /// # Errors
    /// An output that is not there.
    pub fn parameters(&self) -> Result<IndexMap<String, Value>, String> {
        let mut base = self.pipeline.params().clone();
        let mut all = base.clone();
        base.extend(self.run.params.clone());
        for value in all.values_mut() {
            *value = resolve_json(value, &mut |reference| self.look_up(reference, &base))?;
        }
        base.clone_from(&all);
        // What a reference in a parameter sees: the step's own plain values and the point's, too.
        let plain = |value: &&Value| resolve_json(value, &mut |_| Err(String::new())).is_ok();
        let own = self.step.params().iter().filter(|(_, value)| plain(value));
        base.extend(own.map(|(name, value)| (name.clone(), value.clone())));
        base.extend(self.point.iter().flat_map(|(_, point)| point.clone()));
        base.extend(self.run.params.clone());
        for (name, value) in self.step.params() {
            let mut look_up = |reference: &Reference| self.look_up(reference, &base);
            all.insert(name.clone(), resolve_json(value, &mut look_up)?);
        }
        if let Some((_, point)) = &self.point {
            all.extend(point.clone());
        }
        all.extend(self.run.params.clone());
        Ok(all)
    }

    /// A text with its references replaced.
    ///
    /// # Errors
    /// An output that is not there.
    pub fn text(&self, text: &str, params: &IndexMap<String, Value>) -> Result<String, String> {
        self.value(text, params).map(|value| as_text(&value))
    }

    /// A text with its references replaced; of a single reference its value with its type.
    ///
    /// # Errors
    /// An output that is not there.
    pub fn value(&self, text: &str, params: &IndexMap<String, Value>) -> Result<Value, String> {
        Template::parse(text)?.value(&mut |reference| self.look_up(reference, params))
    }

    /// The value of one reference, as text for an environment variable.
    ///
    /// # Errors
    /// An output that is not there.
    pub fn variable(
        &self,
        reference: &Reference,
        params: &IndexMap<String, Value>,
    ) -> Result<String, String> {
        self.look_up(reference, params).map(|value| as_text(&value))
    }

    fn look_up(
        &self,
        reference: &Reference,
        params: &IndexMap<String, Value>,
    ) -> Result<Value, String> {
        Ok(match reference {
            Reference::Parameter(name) => params
                .get(name)
                .cloned()
                .ok_or_else(|| format!("`{reference}`: there is no such parameter"))?,
            Reference::PipelineName => json!(self.pipeline.name().as_str()),
            Reference::SweepIndex => json!(self.point.as_ref().map(|(index, _)| index)),
            Reference::Run(field) => match field {
                RunField::Id => json!(self.run.id),
                RunField::Name => json!(self.run.name),
                RunField::Attempt => json!(self.attempt),
                RunField::ScheduledAt => {
                    let at = self.run.trigger.scheduled_at.unwrap_or(self.run.created_at);
                    json!(at.to_string())
                }
                RunField::Revision => json!(self.run.revision),
                RunField::Trigger => json!(self.run.trigger.kind),
            },
            Reference::Output { step, name, field } => {
                self.of_step(step, |record| self.output(record, name, *field), reference)?
            }
            Reference::Metric { step, name } => {
                // The value as the step gave it: a whole number stays one.
                let read = |record: &StepRecord| {
                    let given = record.outputs.get(name).filter(|value| value.is_number());
                    given.cloned().or_else(|| record.metrics.get(name).map(|n| json!(n)))
                };
                self.of_step(step, read, reference)?
            }
            Reference::Model(_) => return Err(format!("`{reference}` has no value in a step")),
        })
    }

    /// A value of a step; of a sweep without `best` the list of its points' values.
    fn of_step(
        &self,
        name: &str,
        read: impl Fn(&StepRecord) -> Option<Value>,
        reference: &Reference,
    ) -> Result<Value, String> {
        let missing = || format!("MissingOutput: `{reference}` is not there after step `{name}`");
        let step = self.pipeline.step(name).ok_or_else(missing)?;
        let of = |record: &&&StepRecord| record.base_name() == name;
        let mut records = self.records.iter().filter(of);
        if step.sweep().is_empty() || step.best().is_some() {
            let own = records.find(|record| record.index.is_none()).ok_or_else(missing)?;
            return read(own).ok_or_else(missing);
        }
        let points =
            records.filter(|record| record.index.is_some() && record.phase == Phase::Succeeded);
        points.map(|record| read(record).ok_or_else(missing)).collect()
    }

    fn output(&self, record: &StepRecord, name: &str, field: Field) -> Option<Value> {
        let artifact = record.artifacts.iter().find(|artifact| artifact.name == name);
        let placed = self.placed.get(&(record.base_name().to_owned(), name.to_owned()));
        let placed = placed.filter(|_| record.index.is_none()).cloned();
        let path = artifact.map(|one| placed.unwrap_or_else(|| self.root.join(&one.path)));
        match (field, artifact, path) {
            (Field::Value, Some(_), Some(path)) => Some(json!(path.to_string_lossy())),
            (Field::Value, None, _) => record.outputs.get(name).cloned(),
            (Field::Digest, Some(artifact), _) => Some(json!(artifact.digest)),
            (Field::Bytes, Some(artifact), _) => Some(json!(artifact.bytes)),
            (Field::Uri, _, Some(path)) => Some(json!(format!("file://{}", path.display()))),
            _ => None,
        }
    }
}

fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
