//! From text to validated pipelines, or all problems at once.
//!
//! Owns the rules that go beyond the shape of a key: names, paths, the graph, references, sweeps.
//! It must not look at files: whether a notebook exists is for the source to say.

use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::Value;

use super::command::Script;
use super::deploy;
use super::keys::PIPELINE;
use super::path::RelativePath;
use super::pipeline::{
    Best, Concurrency, Goal, History, Keep, Pipeline, Resource, Resources, SecretKey, Step, Work,
};
use super::problem::Problem;
use super::reference::{Reference, is_name_character, visit_json};
use super::shape::{Report, Shape, check};
use super::triggers::Triggers;
use super::yaml::{self, Kind, MAX_BYTES, Node, Place};
use super::{between, flow, schema};
use crate::types::{PipelineName, slug};

/// What a pipeline file holds.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    /// The pipelines; none where there is an error anywhere in the file.
    pub pipelines: Vec<Pipeline>,
    /// All problems, in the order of the file.
    pub problems: Vec<Problem>,
}

/// Parses and validates a pipeline file.
///
/// `file` is its path and `folder` its folder, both relative to the source's root. A sweep may
/// have at most `max_points` points (100 unless a person said otherwise).
pub fn parse(text: &str, file: &str, folder: &str, max_points: usize) -> Documents {
    if text.len() > MAX_BYTES {
        let problems = schema::problem_if_huge(file, text.len() as u64).into_iter().collect();
        return Documents { pipelines: Vec::new(), problems };
    }
    let mut report = Report::new(file, text);
    let nodes = match yaml::parse(text) {
        Ok(nodes) => nodes,
        Err(error) => {
            report.error(error.place, error.message);
            return Documents { pipelines: Vec::new(), problems: report.problems };
        }
    };
    if nodes.is_empty() {
        let problem = Problem::of_file(file, "the file is empty").hint(
            "a first pipeline is written by `jupyterflow init`; an empty file changes nothing",
        );
        return Documents { pipelines: Vec::new(), problems: vec![problem] };
    }
    let mut pipelines: Vec<Pipeline> = Vec::new();
    for node in &nodes {
        check(&Shape::Object(&PIPELINE), node, "the pipeline", &mut report);
        let reader = Reader { folder, max_points };
        let Some(pipeline) = reader.pipeline(node, &mut report) else { continue };
        if pipelines.iter().any(|other| other.name == pipeline.name) {
            let place = node.get("name").map_or(node.place, |name| name.place);
            report
                .error(place, format!("two pipelines of this file are named `{}`", pipeline.name));
        }
        pipelines.push(pipeline);
    }
    if report.has_errors() {
        pipelines.clear();
    }
    // Thousands of them are kept.
    pipelines.shrink_to_fit();
    let mut problems = report.problems;
    problems.sort_by_key(|problem| (problem.line, problem.column));
    // What stands for all steps is checked with each of them, and said once.
    problems.dedup();
    Documents { pipelines, problems }
}

/// All points of a grid in file order, last key fastest; none without a grid.
pub fn points(sweep: &IndexMap<String, Vec<Value>>) -> Vec<IndexMap<String, Value>> {
    if sweep.is_empty() {
        return Vec::new();
    }
    let mut points = vec![IndexMap::new()];
    for (name, values) in sweep {
        points = points
            .into_iter()
            .flat_map(|point: IndexMap<String, Value>| {
                values.iter().map(move |value| {
                    let mut point = point.clone();
                    point.insert(name.clone(), value.clone());
                    point
                })
            })
            .collect();
    }
    points
}

struct Reader<'a> {
    folder: &'a str,
    max_points: usize,
}

/// A step as read, with the place of each thing that later checks may refer to.
pub struct Draft {
    /// The step.
    pub step: Step,
    /// Where it stands.
    pub place: Place,
    /// Where each of its needs stands.
    pub needs_places: Vec<Place>,
    /// Its references, and where they stand.
    pub references: Vec<(Reference, Place)>,
}

impl Reader<'_> {
    fn pipeline(&self, node: &Node, report: &mut Report<'_>) -> Option<Pipeline> {
        let Kind::Map(_) = node.kind else { return None };
        let name = self.name(node, report);
        let triggers = Triggers::read(node.get("triggers"), report);
        let params = json_map(node.get("params"));
        for (key, value) in node.get("params").map(Node::entries).unwrap_or_default() {
            let mut found = Vec::new();
            collect_references(&value.json(), value.place, &key.text, report, &mut found);
            if let Some((reference, place)) = found.first() {
                let message = format!("`{reference}`: the pipeline's `params` hold no references");
                report.error(*place, message).hint =
                    Some("give it to the step that needs it".into());
            }
        }
        let mut drafts = Vec::new();
        if let Some(flow_node) = node.get("flow") {
            self.flow(flow_node, node, report, &mut drafts);
        }
        for (key, step) in node.get("steps").map(Node::entries).unwrap_or_default() {
            let sound = key.text.chars().all(is_name_character) && !key.text.starts_with('-');
            if !sound {
                report.error(key.place, format!("{:?} is no name for a step", key.text)).hint =
                    Some("letters, digits, - and _, beginning with a letter, digit or _".into());
            }
            drafts.extend(self.step(&key.text, key.place, step, node, report));
        }
        let explicitly_empty = node
            .get("steps")
            .is_some_and(|steps| matches!(&steps.kind, Kind::Map(m) if m.is_empty()));
        if explicitly_empty {
            report.error(node.place, "a pipeline needs at least one step");
        }
        let steps = node.get("steps").map(Node::entries).unwrap_or_default();
        let written: Vec<&str> = steps.iter().map(|(key, _)| key.text.as_str()).collect();
        let graph = between::graph(&drafts, &written, report)?;
        between::check_references(&drafts, &written, &graph, &params, report);
        let deployments =
            node.get("deploy").map(|deploy| deploy::read(deploy, report)).unwrap_or_default();
        for deployment in &deployments {
            if !drafts.iter().any(|draft| draft.step.name == deployment.step) {
                let place = node.get("deploy").map_or(node.place, |node| node.place);
                let message = format!(
                    "deployment `{}`: there is no step `{}`",
                    deployment.name, deployment.step
                );
                report.error(place, message);
            }
        }
        let history = node.get("history");
        let kept = |name| history.and_then(|node| node.get(name)?.integer()).unwrap_or(10);
        Some(Pipeline {
            name: name?,
            default_name: node.get("name").is_none(),
            folder: self.folder.to_owned(),
            description: text(node, "description"),
            triggers: Arc::new(triggers),
            concurrency: match node.get("concurrency").and_then(Node::text) {
                Some("forbid") => Concurrency::Forbid,
                Some("replace") => Concurrency::Replace,
                Some("allow") => Concurrency::Allow,
                _ => Concurrency::Queue,
            },
            params,
            steps: Arc::new(drafts.into_iter().map(|draft| draft.step).collect()),
            graph: Arc::new(graph),
            deployments,
            timeout: text(node, "timeout").and_then(|text| text.parse().ok()),
            history: History { successful: kept("successful"), failed: kept("failed") },
        })
    }

    fn name(&self, node: &Node, report: &mut Report<'_>) -> Option<PipelineName> {
        if let Some(name) = node.get("name") {
            return name.text()?.parse().ok();
        }
        let last = self.folder.rsplit('/').next().unwrap_or_default();
        let name = if last.is_empty() { "main".into() } else { slug(last, PipelineName::MAX) };
        let parsed = name.parse().ok();
        if parsed.is_none() {
            let message = format!("the pipeline needs a `name`: none can be made of {last:?}");
            report.error(node.place, message);
        }
        parsed
    }

    fn flow(
        &self,
        flow_node: &Node,
        node: &Node,
        report: &mut Report<'_>,
        drafts: &mut Vec<Draft>,
    ) {
        let Some(text) = flow_node.text() else { return };
        match flow::parse(text) {
            Ok(steps) => {
                for (name, step) in &steps {
                    let step = at_place(step, flow_node.place);
                    drafts.extend(self.step(name, flow_node.place, &step, node, report));
                }
            }
            Err(message) => {
                report.error(flow_node.place, format!("`flow`: {message}"));
            }
        }
    }

    fn step(
        &self,
        name: &str,
        place: Place,
        node: &Node,
        pipeline: &Node,
        report: &mut Report<'_>,
    ) -> Option<Draft> {
        let Kind::Map(_) = node.kind else { return None };
        let either = |key: &str| node.get(key).or_else(|| pipeline.get(key));
        let mut references = Vec::new();
        let workdir_node = either("workdir");
        let workdir = workdir_node.and_then(|node| self.path(node, "workdir", report));
        let work = self.work(node, report, &mut references)?;
        let workdir_default = match &work {
            Work::Notebook(path) => path.parent().to_owned(),
            Work::Run { .. } | Work::Resource(_) => self.folder.to_owned(),
        };
        let default = || RelativePath::resolve("", &format!("./{workdir_default}")).ok();
        let explicit_workdir = workdir.is_some();
        let workdir = workdir.or_else(default)?;
        let params = json_map(node.get("params"));
        for (key, value) in node.get("params").map(Node::entries).unwrap_or_default() {
            collect_references(&value.json(), value.place, &key.text, report, &mut references);
        }
        let env = merged(pipeline, node, "env", Node::scalar);
        for (key, value) in
            [pipeline, node].into_iter().filter_map(|node| node.get("env")).flat_map(Node::entries)
        {
            let text = Value::String(value.scalar().unwrap_or_default());
            collect_references(&text, value.place, &key.text, report, &mut references);
        }
        let sweep = self.sweep(name, node, report);
        let best = node.get("best").and_then(|best| {
            if sweep.is_empty() {
                report.error(best.place, format!("step `{name}` has `best` but no `sweep`"));
            }
            Some(Best {
                metric: text(best, "metric")?,
                goal: if best.get("goal")?.text()? == "min" { Goal::Min } else { Goal::Max },
                allow_failed: best.get("allowFailed").and_then(Node::integer).unwrap_or(0),
            })
        });
        let inputs = either("inputs").map(Node::one_or_many).unwrap_or_default();
        let inputs = inputs.iter().filter_map(|node| self.pattern(node, report)).collect();
        let needs = node.get("needs").map(Node::one_or_many).unwrap_or_default();
        let number = |key: &str, default| either(key).and_then(Node::integer).unwrap_or(default);
        for key in params.keys().filter(|key| sweep.contains_key(*key)) {
            let place = node.get("sweep").map_or(place, |node| node.place);
            report.error(place, format!("step `{name}`: `{key}` is both a parameter and swept"));
        }
        let step = Step {
            name: name.to_owned(),
            work,
            needs: needs.iter().filter_map(Node::text).map(str::to_owned).collect(),
            params,
            sweep,
            best,
            outputs: self.outputs(name, node, report),
            metrics: node.get("metrics").and_then(|node| {
                self.path(node, "metrics", report)?;
                node.text().map(str::to_owned)
            }),
            inputs,
            kernel: either("kernel").and_then(Node::text).map(str::to_owned),
            image: either("image").and_then(Node::text).map(str::to_owned),
            requirements: either("requirements")
                .and_then(|node| self.path(node, "requirements", report)),
            env,
            secrets: merged(pipeline, node, "secrets", |node| {
                Some(SecretKey { secret: text(node, "secret")?, key: text(node, "key")? })
            }),
            workdir,
            explicit_workdir,
            resources: resources(either),
            timeout: text(node, "timeout").and_then(|text| text.parse().ok()),
            retries: number("retries", 0),
            interruptions: number("interruptions", 3),
            work_place: ["notebook", "run", "resource"]
                .iter()
                .find_map(|key| node.get(key))
                .map_or((place.line, place.column), |node| (node.place.line, node.place.column)),
            param_places: ["params", "sweep"]
                .iter()
                .filter_map(|key| node.get(key))
                .flat_map(Node::entries)
                .map(|(key, _)| (key.text.clone(), (key.place.line, key.place.column)))
                .collect(),
        };
        Some(Draft {
            step,
            place,
            needs_places: needs.iter().map(|node| node.place).collect(),
            references,
        })
    }

    fn work(
        &self,
        node: &Node,
        report: &mut Report<'_>,
        references: &mut Vec<(Reference, Place)>,
    ) -> Option<Work> {
        if let Some(notebook) = node.get("notebook") {
            let path = self.path(notebook, "notebook", report)?;
            if !path.as_str().ends_with(".ipynb") {
                let message =
                    format!("{:?} is no notebook: its name must end in .ipynb", path.as_str());
                report.error(notebook.place, message);
            }
            return Some(Work::Notebook(path));
        }
        if let Some(run) = node.get("run") {
            let text = run.text()?;
            return match Script::compile(text) {
                Ok(script) => {
                    references
                        .extend(script.variables.iter().map(|v| (v.reference.clone(), run.place)));
                    Some(Work::Run { text: text.to_owned(), script })
                }
                Err(message) => {
                    report.error(run.place, format!("`run`: {message}"));
                    None
                }
            };
        }
        let resource = node.get("resource")?;
        let manifest = resource.get("manifest")?;
        let path = match manifest.text() {
            Some(_) => Some(self.path(manifest, "manifest", report)?),
            None => None,
        };
        if path.is_none() {
            for problem in super::manifest::problems(&manifest.json()) {
                report.error(manifest.place, format!("`manifest`: {problem}"));
            }
        }
        for key in ["success", "failure"] {
            if let Some(node) = resource.get(key)
                && let Some(text) = node.text()
                && !super::manifest::is_condition(text)
            {
                let message = format!("`{key}`: {text:?} is no condition that Argo could read");
                report.error(node.place, message).hint = Some(
                    "fields of the object and values, without references or filters: \
                     `status.succeeded > 0`, `status.state in (FAILED, LOST)`, `status.conditions.0.status == True`"
                        .into(),
                );
            }
        }
        let has = |key: &str| resource.get(key).is_some();
        let kept = resource.get("keep").and_then(Node::text) == Some("always");
        if has("failure") && !has("success") {
            let message = "`failure` alone: Argo would take the object for done at once";
            report.error(resource.place, message).hint = Some("say `success` too".into());
        } else if !has("success") && !kept {
            let message =
                "without `success` nothing is waited for, and the object goes with its run";
            report.warning(resource.place, message).hint =
                Some("say `success`, or `keep: always`".into());
        }
        for (_, path) in resource.get("outputs").map(Node::entries).unwrap_or_default() {
            if path.text().is_some_and(|text| text.contains("{{")) {
                report.error(path.place, "a path into the object holds no references");
            }
        }
        collect_references(&manifest.json(), manifest.place, "manifest", report, references);
        let outputs = resource.get("outputs").map(Node::entries).unwrap_or_default();
        Some(Work::Resource(Resource {
            manifest: if path.is_none() { manifest.json() } else { Value::Null },
            path,
            success: text(resource, "success"),
            failure: text(resource, "failure"),
            outputs: outputs
                .iter()
                .filter_map(|(key, value)| Some((key.text.clone(), value.text()?.to_owned())))
                .collect(),
            keep: match resource.get("keep").and_then(Node::text) {
                Some("onFailure") => Keep::OnFailure,
                Some("always") => Keep::Always,
                _ => Keep::Never,
            },
        }))
    }

    fn sweep(
        &self,
        name: &str,
        node: &Node,
        report: &mut Report<'_>,
    ) -> IndexMap<String, Vec<Value>> {
        let Some(sweep) = node.get("sweep") else { return IndexMap::new() };
        let mut points: usize = 1;
        let mut axes = IndexMap::new();
        for (key, values) in sweep.entries() {
            if values.items().is_empty() && matches!(values.kind, Kind::List(_)) {
                report.error(
                    values.place,
                    format!("step `{name}`: `sweep.{}` has no values", key.text),
                );
            }
            points = points.saturating_mul(values.items().len().max(1));
            axes.insert(key.text.clone(), values.items().iter().map(Node::json).collect());
        }
        if axes.is_empty() {
            report.error(sweep.place, format!("step `{name}`: the sweep names no parameter"));
        }
        if points > self.max_points {
            let message = format!(
                "step `{name}`: the sweep has {points} points, more than {}",
                self.max_points
            );
            report.error(sweep.place, message).hint =
                Some("say --max-points N if that many are meant".into());
            axes.clear();
        }
        axes
    }

    fn outputs(
        &self,
        step: &str,
        node: &Node,
        report: &mut Report<'_>,
    ) -> IndexMap<String, String> {
        let mut outputs = IndexMap::new();
        for (key, value) in node.get("outputs").map(Node::entries).unwrap_or_default() {
            if !key.text.chars().all(is_name_character) {
                let message = format!("step `{step}`: {:?} is no name for an output", key.text);
                report.error(key.place, message).hint = Some("letters, digits, - and _".into());
            }
            let Some(path) = self.path(value, &format!("outputs.{}", key.text), report) else {
                continue;
            };
            if path.as_str().is_empty() {
                report.error(value.place, "an output is a file, not the folder itself");
            }
            outputs.insert(key.text.clone(), value.text().unwrap_or_default().to_owned());
        }
        outputs
    }

    fn path(&self, node: &Node, what: &str, report: &mut Report<'_>) -> Option<RelativePath> {
        let text = node.text()?;
        let resolved = if text.contains("{{") {
            Err("a path holds no references".into())
        } else {
            RelativePath::resolve(self.folder, text)
        };
        resolved
            .map_err(|message| {
                report.error(node.place, format!("`{what}`: {message}")).hint =
                    Some("paths are relative to the pipeline file and stay in its source".into());
            })
            .ok()
    }

    fn pattern(&self, node: &Node, report: &mut Report<'_>) -> Option<RelativePath> {
        let path = self.path(node, "inputs", report)?;
        if let Err(error) = globset::Glob::new(path.as_str()) {
            report.error(node.place, format!("`inputs`: {}", error.kind()));
            return None;
        }
        Some(path)
    }
}

fn text(node: &Node, key: &str) -> Option<String> {
    node.get(key)?.text().map(str::to_owned)
}

fn json_map(node: Option<&Node>) -> IndexMap<String, Value> {
    let entries = node.map(Node::entries).unwrap_or_default();
    entries.iter().map(|(key, value)| (key.text.clone(), value.json())).collect()
}

/// A map of the pipeline with the step's entries over it.
fn merged<T>(
    pipeline: &Node,
    step: &Node,
    key: &str,
    read: impl Fn(&Node) -> Option<T>,
) -> IndexMap<String, T> {
    let maps = [pipeline, step].into_iter().filter_map(|node| node.get(key));
    maps.flat_map(Node::entries)
        .filter_map(|(key, value)| Some((key.text.clone(), read(value)?)))
        .collect()
}

fn resources<'a>(either: impl Fn(&str) -> Option<&'a Node>) -> Resources {
    let of = |key: &str| either("resources").and_then(|node| node.get(key));
    let labels = either("nodeSelector").map(Node::entries).unwrap_or_default();
    Resources {
        cpu: of("cpu").and_then(Node::scalar),
        memory: of("memory").and_then(Node::scalar),
        gpu: of("gpu").and_then(Node::integer),
        node_selector: labels
            .iter()
            .filter_map(|(key, value)| Some((key.text.clone(), value.scalar()?)))
            .collect(),
        tolerations: either("tolerations")
            .map(Node::items)
            .unwrap_or_default()
            .iter()
            .map(Node::json)
            .collect(),
    }
}

fn collect_references(
    value: &Value,
    place: Place,
    what: &str,
    report: &mut Report<'_>,
    references: &mut Vec<(Reference, Place)>,
) {
    let visited = visit_json(value, &mut |reference| references.push((reference.clone(), place)));
    if let Err(message) = visited {
        report.error(place, format!("`{what}`: {message}"));
    }
}

/// JSON as a node, all of it at one place.
fn at_place(value: &Value, place: Place) -> Node {
    let kind = match value {
        Value::Null => Kind::Null,
        Value::Bool(value) => Kind::Boolean(*value),
        Value::Number(number) => Kind::Number(number.clone()),
        Value::String(text) => Kind::Text(text.clone()),
        Value::Array(items) => Kind::List(items.iter().map(|item| at_place(item, place)).collect()),
        Value::Object(entries) => Kind::Map(
            entries
                .iter()
                .map(|(key, value)| {
                    (yaml::Key { text: key.clone(), place }, at_place(value, place))
                })
                .collect(),
        ),
    };
    Node { kind, place }
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
