//! The pods around the object of a resource step: the one that gives values to its manifest, and the one that
//! tells what became of it.
//!
//! Owns what they leave. The object itself is Argo's to make and to watch.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::super::compile::PLACE;
use super::super::object::{RESOLVED, fits, holes_of};
use super::Pod;
use crate::engine::step::board::{AttemptEnd, Left};
use crate::engine::step::retelling::Attempt;
use crate::engine::step::values::Scope;
use crate::plan::StepRecord;
use crate::spec::{Resource, Work};
use crate::types::Timestamp;

/// Which part of a step a pod is.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// All of it.
    Whole,
    /// Gives values to the manifest of a resource step.
    Values,
    /// Tells what became of the object of a resource step.
    Tell {
        /// When Argo began to make it.
        began: Option<Timestamp>,
        /// The values of its outputs, in their order, as Argo read them; in base64.
        made: Vec<String>,
    },
}

impl Pod<'_> {
    fn resource(&self) -> Result<&Resource, String> {
        match self.pipeline.steps()[self.task.step].work() {
            Work::Resource(resource) => Ok(resource),
            Work::Notebook(_) | Work::Run { .. } => Err("the step is no resource".into()),
        }
    }

    /// Leaves the values of a manifest's references where Argo takes them from.
    pub(super) fn values(&self, records: &[&StepRecord]) -> Result<(), String> {
        let step = &self.pipeline.steps()[self.task.step];
        let before = self.before();
        let scope = Scope {
            root: &before,
            placed: &HashMap::new(),
            pipeline: self.pipeline,
            run: &self.assignment.run,
            records,
            step,
            point: self.task.index.map(|index| (index, step.points().swap_remove(index))),
            attempt: 1 + self.order.retry + self.order.interruption,
        };
        let params = scope.parameters()?;
        let mut values = Vec::new();
        for text in holes_of(self.resource()?) {
            let value = scope.value(&text, &params)?;
            if !fits(&value) {
                return Err(format!(
                    "manifest: `{text}` is {value}; a manifest takes numbers, texts, booleans and lists of \
                     such by reference"
                ));
            }
            values.push(value);
        }
        let text = STANDARD.encode(json!(values).to_string());
        let path = Path::new(PLACE).join(RESOLVED);
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// What became of the object, which Argo found to have succeeded.
    pub(super) fn tell(
        &self,
        began: Option<Timestamp>,
        made: &[String],
    ) -> Result<Attempt, String> {
        let resource = self.resource()?;
        let mut left = Left::default();
        let mut lines = String::new();
        for ((name, path), text) in resource.outputs.iter().zip(made) {
            let bytes = STANDARD.decode(given(text)?).map_err(|error| error.to_string())?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if text.is_empty() {
                return Err(format!("MissingOutput: `{name}`: the object has nothing at {path}"));
            }
            let value = serde_json::from_str::<Value>(&text).unwrap_or(Value::String(text));
            if let Some(number) = value.as_f64().filter(|number| number.is_finite()) {
                left.metrics.insert(name.clone(), number);
            }
            lines.push_str(&format!("{name}={value}\n"));
            left.outputs.insert(name.clone(), value);
        }
        let (step, now) = (self.order.step.clone(), Timestamp::now());
        let kind = crate::spec::manifest::kind(&resource.manifest);
        self.log_line(&format!("{kind} succeeded\n{lines}"));
        Ok(Attempt {
            step,
            index: self.task.index,
            started_at: began.unwrap_or(now),
            finished_at: Some(now),
            lost: 0,
            note: None,
            end: Some(AttemptEnd::Succeeded(left)),
        })
    }

    /// Adds to the step's log, and to the pod's.
    #[expect(clippy::print_stdout, reason = "the log of a pod")]
    fn log_line(&self, text: &str) {
        print!("{text}");
        let log = self.log();
        let folder = log.parent().map_or(Ok(()), std::fs::create_dir_all);
        let file =
            folder.and_then(|()| std::fs::OpenOptions::new().create(true).append(true).open(&log));
        // What became of it is told in any case.
        let _ = file.and_then(|mut file| file.write_all(text.as_bytes()));
    }
}

/// An argument. Argo puts one that is longer than the kernel takes into a file.
fn given(text: &str) -> Result<String, String> {
    match text.strip_prefix('@').filter(|path| path.starts_with("/tmp/argo_arg_")) {
        None => Ok(text.to_owned()),
        Some(path) => std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}")),
    }
}
