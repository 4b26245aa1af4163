//! What an attempt of a step needs, with all references resolved.
//!
//! Owns the environment of a step: the file's variables and secrets, then ours.

#![expect(clippy::disallowed_methods, reason = "writes the parameters of a notebook")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde_json::Value;

use super::attempt::Invocation;
use super::board::Task;
use super::leftovers::Places;
use super::processes;
use super::values::Scope;
use crate::notebook::parameters::escape;
use crate::plan::{Run, StepRecord};
use crate::spec::{Pipeline, Step, Work};

/// Where an attempt takes place, and what is known there.
pub struct Site<'a> {
    /// The pipeline.
    pub pipeline: &'a Pipeline,
    /// The run.
    pub run: &'a Run,
    /// Records of its steps.
    pub records: &'a [&'a StepRecord],
    /// The root that results' paths are relative to.
    pub results: &'a Path,
    /// Where those of earlier steps lie.
    pub before: &'a Path,
    /// The root where the step works.
    pub root: PathBuf,
    /// The same, where it goes with the attempt.
    pub fresh: Option<PathBuf>,
    /// Files of earlier steps that were put there, by step and output.
    pub placed: HashMap<(String, String), PathBuf>,
    /// The folder with the run's copies of its notebooks.
    pub notebooks: PathBuf,
    /// The state's folder.
    pub state: &'a Path,
    /// Variables from secrets that this process does not carry already.
    pub secrets: Vec<(String, String)>,
}

impl Site<'_> {
    /// Everything that an attempt needs.
    ///
    /// # Errors
    /// In words: a reference without a value, or a place that cannot be written.
    pub fn invocation(
        self,
        task: Task,
        attempt: u64,
        places: Places,
    ) -> Result<Invocation, String> {
        let step = &self.pipeline.steps()[task.step];
        let point = task.index.map(|index| (index, step.points().swap_remove(index)));
        let scope = Scope {
            root: self.before,
            placed: &self.placed,
            pipeline: self.pipeline,
            run: self.run,
            records: self.records,
            step,
            point,
            attempt,
        };
        let params = scope.parameters()?;
        let mut env = Vec::new();
        for (name, value) in step.env() {
            env.push((name.clone(), scope.text(value, &params)?));
        }
        env.extend(self.secrets);
        // Ours come last: no file may take them away.
        env.extend([
            ("JUPYTERFLOW_STEP".to_owned(), step.name().to_owned()),
            ("JUPYTERFLOW_ATTEMPT".to_owned(), attempt.to_string()),
            (processes::RUN_VARIABLE.to_owned(), self.run.name.to_string()),
            ("JUPYTERFLOW_OUTPUTS".to_owned(), places.lines.to_string_lossy().into_owned()),
            (processes::OUTPUT_DIR.to_owned(), places.files.to_string_lossy().into_owned()),
        ]);
        let mut is_notebook = false;
        let command = match step.work() {
            Work::Run { script, .. } => {
                for variable in &script.variables {
                    let value = scope.variable(&variable.reference, &params)?;
                    env.push((variable.name.clone(), value));
                }
                vec!["sh".into(), "-e".into(), "-c".into(), script.text.clone()]
            }
            Work::Notebook(path) => {
                is_notebook = true;
                let copy = self.notebooks.join(path.as_str());
                exec_command(step, &copy, &self.root, &places, &params)?
            }
            Work::Resource(_) => {
                return Err("resource steps need a cluster: run it with --engine argo".into());
            }
        };
        Ok(Invocation {
            results: self.results.to_owned(),
            state: self.state.to_owned(),
            folder: self.pipeline.folder().to_owned(),
            step: step.clone(),
            in_sweep: task.index.is_some(),
            places,
            command,
            env,
            workdir: self.root.join(step.workdir().as_str()),
            root: self.root,
            fresh: self.fresh,
            is_notebook,
            attempt,
        })
    }
}

fn exec_command(
    step: &Step,
    copy: &Path,
    root: &Path,
    places: &Places,
    params: &IndexMap<String, Value>,
) -> Result<Vec<String>, String> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let program = processes::program().map_err(|error| error.to_string())?;
    let mut command = vec![
        text(&program),
        "exec".into(),
        // Braces in a name are no parameter's.
        escape(&text(copy)),
        escape(&text(&places.folder.join("notebook.ipynb"))),
        "--outputs-json".into(),
        text(&places.report),
        // What cells print is the step's log; `-` is the exec's own standard output.
        "--stdout-file".into(),
        "-".into(),
        "--stderr-file".into(),
        "-".into(),
        "--no-progress-bar".into(),
        "--cwd".into(),
        text(&root.join(step.workdir().as_str())),
    ];
    if !params.is_empty() {
        // JSON is YAML, so that one file takes values of every type and of any length.
        let values = serde_json::to_string(params).map_err(|error| error.to_string())?;
        std::fs::write(&places.params, values).map_err(|error| error.to_string())?;
        command.extend(["-f".into(), text(&places.params)]);
    }
    if let Some(kernel) = step.kernel() {
        command.extend(["-k".into(), kernel.to_owned()]);
    }
    Ok(command)
}
