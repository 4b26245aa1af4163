//! What an attempt of a step needs, with all references resolved.
//!
//! Owns the environment of a step: the file's variables and secrets, then ours.

#![expect(clippy::disallowed_methods, reason = "writes the parameters of a notebook")]

use std::path::Path;

use super::Host;
use crate::engine::local::attempt::Invocation;
use crate::engine::local::board::Task;
use crate::engine::local::leftovers::{Places, step_folder};
use crate::engine::local::values::Scope;
use crate::engine::local::{processes, secrets};
use crate::notebook::parameters::escape;
use crate::plan::StepRecord;
use crate::spec::{Step, Work};

impl Host<'_> {
    /// Everything that an attempt needs, with all references resolved.
    pub(super) fn invocation(&self, task: Task, attempt: u64) -> Result<Invocation, String> {
        let step = &self.pipeline.steps()[task.step];
        let folder = self.pipeline.folder();
        let run = self.run.name.as_str();
        let relative = step_folder(folder, run, step.name(), task.index);
        let key =
            format!("{run}-{}-{}-{attempt}", task.step, task.index.map_or(0, |index| index + 1));
        let places = Places::make(self.root, self.state, relative, &key)
            .map_err(|error| format!("failed to make the step's folder: {error}"))?;
        let work = self.workplace(task, &key)?;
        let states = self.board.states();
        let records: Vec<&StepRecord> = states.iter().map(|state| &state.record).collect();
        let point = task.index.map(|index| (index, step.points().swap_remove(index)));
        let scope = Scope {
            root: self.root,
            placed: &work.placed,
            pipeline: self.pipeline,
            run: &self.run,
            records: &records,
            step,
            point,
            attempt,
        };
        let params = scope.parameters()?;
        let mut env = Vec::new();
        for (name, value) in step.env() {
            env.push((name.clone(), scope.text(value, &params)?));
        }
        for (name, secret) in step.secrets() {
            env.push((name.clone(), secrets::read(secret)?));
        }
        // Ours come last: no file may take them away.
        env.extend([
            ("JUPYTERFLOW_STEP".to_owned(), step.name().to_owned()),
            ("JUPYTERFLOW_ATTEMPT".to_owned(), attempt.to_string()),
            (processes::RUN_VARIABLE.to_owned(), run.to_owned()),
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
                self.exec_command(step, path.as_str(), &work.root, &places, &params)?
            }
            Work::Resource(_) => {
                return Err("resource steps need a cluster: run it with --engine argo".into());
            }
        };
        Ok(Invocation {
            results: self.root.to_owned(),
            state: self.state.to_owned(),
            folder: folder.to_owned(),
            step: step.clone(),
            in_sweep: task.index.is_some(),
            places,
            command,
            env,
            workdir: work.root.join(step.workdir().as_str()),
            root: work.root,
            fresh: work.fresh,
            is_notebook,
            attempt,
        })
    }

    pub(super) fn exec_command(
        &self,
        step: &Step,
        path: &str,
        root: &Path,
        places: &Places,
        params: &indexmap::IndexMap<String, serde_json::Value>,
    ) -> Result<Vec<String>, String> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = vec![
            text(&program),
            "exec".into(),
            // Braces in a name are no parameter's.
            escape(&text(&self.copy_of(path))),
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
}
