//! Problems that only the files of a pipeline can show: a notebook that is not there, a parameter
//! that a notebook does not declare.
//!
//! Owns the words and the places. The files come from a source; nothing is read here.

use serde_json::Value;

use super::fingerprint::{Files, literal_prefix};
use super::path::RelativePath;
use super::pipeline::{Pipeline, Step, Work};
use super::problem::{Problem, Severity};
use super::reference::{Reference, visit_json};
use super::shape::Report;
use super::yaml::Place;
use super::{hints, manifest};

/// All problems of a pipeline's files. `broken` are named files that are not there or not whole,
/// with the reason.
pub fn file_problems(
    pipeline: &Pipeline,
    file: &str,
    text: &str,
    files: &Files,
    broken: &[(String, String)],
) -> Vec<Problem> {
    let mut report = Report::new(file, text);
    for (at, step) in pipeline.steps().iter().enumerate() {
        let of_step = |path: &str| broken.iter().find(|(other, _)| other == path);
        if let Work::Notebook(path) = step.work()
            && let Some((path, reason)) = of_step(path.as_str())
        {
            let message = format!("step `{}`: notebook {path}: {reason}", step.name());
            let problem = report.error(place(step.work_place), message);
            problem.hint = similar(path, files);
        }
        if let Some(path) = step.requirements()
            && let Some((path, reason)) = of_step(path.as_str())
        {
            let message = format!("step `{}`: requirements {path}: {reason}", step.name());
            report.error(place(step.work_place), message);
        }
        if let Work::Resource(resource) = step.work()
            && let Some(path) = &resource.path
        {
            match of_step(path.as_str()) {
                Some((path, reason)) => {
                    let message = format!("step `{}`: manifest {path}: {reason}", step.name());
                    report.error(place(step.work_place), message);
                }
                None if !resource.manifest.is_null() => {
                    object(pipeline, at, (path, &resource.manifest), &mut report);
                }
                None => {}
            }
        }
        undeclared(step, files, &mut report);
    }
    report.problems
}

/// What is wrong with the object of a resource step that has a file of its own.
fn object(
    pipeline: &Pipeline,
    at: usize,
    (path, object): (&RelativePath, &Value),
    report: &mut Report<'_>,
) {
    let step = &pipeline.steps()[at];
    let mut problems = manifest::problems(object);
    let before = pipeline.graph().ancestors(at);
    let mut check = |reference: &Reference| {
        let upstream = |name: &str| before.iter().any(|&one| pipeline.steps()[one].name() == name);
        match reference {
            Reference::Parameter(name) => {
                let known =
                    [pipeline.params(), step.params()].iter().any(|one| one.contains_key(name))
                        || step.sweep().contains_key(name);
                if !known {
                    problems.push(format!("`{reference}`: no such parameter is declared"));
                }
            }
            Reference::SweepIndex if step.sweep().is_empty() => {
                problems.push(format!("`{reference}`: the step has no sweep"));
            }
            Reference::Model(_) => {
                problems.push(format!("`{reference}` is known in a deployment's `set` only"));
            }
            other => {
                if let Some(name) = other.step().filter(|name| !upstream(name)) {
                    problems.push(format!(
                        "`{reference}`: step `{name}` does not come before it; add `needs: {name}`"
                    ));
                }
            }
        }
    };
    if let Err(message) = visit_json(object, &mut check) {
        problems.push(message);
    }
    for problem in problems {
        let message = format!("step `{}`: manifest {path}: {problem}", step.name());
        report.error(place(step.work_place), message);
    }
}

/// A step's own parameters that its notebook does not declare.
fn undeclared(step: &Step, files: &Files, report: &mut Report<'_>) {
    let Work::Notebook(path) = step.work() else { return };
    let Some(declared) = files.get(path.as_str()).and_then(|file| file.declared.as_ref()) else {
        return;
    };
    for name in step.params().keys().chain(step.sweep().keys()) {
        if declared.contains(name) {
            continue;
        }
        let at = step.param_places.get(name).copied().unwrap_or(step.work_place);
        let message = format!("step `{}`: {path} declares no parameter `{name}`", step.name());
        let nearest = hints::nearest(name, declared.iter().map(String::as_str));
        let problem = report.warning(place(at), message);
        problem.severity = Severity::Warning;
        problem.strict = true;
        problem.hint = Some(nearest.map_or_else(
            || "declare it in the cell tagged `parameters`".into(),
            |name| format!("did you mean `{name}`?"),
        ));
    }
}

fn place((line, column): (u32, u32)) -> Place {
    Place { line, column }
}

fn similar(path: &str, files: &Files) -> Option<String> {
    let notebooks = files.keys().map(String::as_str).filter(|other| other.ends_with(".ipynb"));
    hints::nearest(path, notebooks).map(|name| format!("did you mean {name}?"))
}

/// Whether a pipeline names a path, or may have inputs below it.
pub fn names_file(pipeline: &Pipeline, path: &str) -> bool {
    let below = |folder: &str, path: &str| {
        folder.is_empty() || path == folder || path.starts_with(&format!("{folder}/"))
    };
    pipeline.steps().iter().any(|step| {
        let own = match step.work() {
            Work::Notebook(notebook) => notebook.as_str() == path,
            Work::Run { .. } => step.script_candidates().iter().any(|one| one.as_str() == path),
            Work::Resource(resource) => {
                resource.path.as_ref().is_some_and(|manifest| manifest.as_str() == path)
            }
        };
        let inputs = step.inputs().iter().map(literal_prefix);
        own || step.requirements().is_some_and(|file| file.as_str() == path)
            || inputs.into_iter().any(|prefix| below(&prefix, path) || below(path, &prefix))
    })
}
