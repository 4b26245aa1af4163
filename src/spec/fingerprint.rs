//! What a pipeline is, down to the content of its files: step keys, the pipeline digest, and what
//! changed between two of them.
//!
//! Owns which facts count as a change and the words for each. File digests come from a source.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use globset::{Glob, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::path::RelativePath;
use super::pipeline::{Goal, Pipeline, Step, Work};
use crate::notebook::diff::{self, Outline};
use crate::notebook::digest;
use crate::types::{Digest, Timestamp};

/// A file as a source found it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    /// Digest of its content.
    pub digest: Digest,
    /// When it was last written, where the source knows.
    pub modified: Option<Timestamp>,
    /// Of a notebook the cells that count.
    pub outline: Option<Outline>,
    /// Of a notebook the parameters that it declares, where that can be told.
    pub declared: Option<Vec<String>>,
    /// Of a resource step's manifest the object that it holds.
    pub manifest: Option<Value>,
}

impl FileState {
    /// The digest of what counts: of a notebook its code, of any other file its content.
    pub fn counted(&self) -> Digest {
        match &self.outline {
            Some(outline) => digest::of_outline(outline, None),
            None => self.digest.clone(),
        }
    }
}

/// Files by path, relative to the source's root.
pub type Files = BTreeMap<String, Arc<FileState>>;

/// What a pipeline is at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The pipeline digest: all step keys and edges.
    pub digest: Digest,
    /// The key of each step, as JSON.
    pub steps: BTreeMap<String, Value>,
    /// The cells that count of each notebook, by its path from the pipeline file's folder.
    pub outlines: BTreeMap<String, Outline>,
}

impl Fingerprint {
    /// The fingerprint of a pipeline with these files. A file that is missing has no digest, which
    /// is a state like any other: its appearance is a change.
    pub fn new(pipeline: &Pipeline, files: &Files) -> Self {
        let mut steps = BTreeMap::new();
        let mut outlines = BTreeMap::new();
        for step in pipeline.steps() {
            if let Work::Notebook(path) = step.work()
                && let Some(outline) =
                    files.get(path.as_str()).and_then(|file| file.outline.clone())
            {
                outlines.insert(from_folder(pipeline.folder(), path.as_str()), outline);
            }
            steps.insert(step.name().to_owned(), step_key(pipeline, step, files));
        }
        Self { digest: Digest::of_json("jupyterflow/pipeline/v1", &json!(steps)), steps, outlines }
    }

    /// The fingerprint of no pipeline at all, unlike any other.
    pub fn new_empty() -> Self {
        let steps = BTreeMap::new();
        let digest = Digest::of_json("jupyterflow/pipeline/v1", &json!(null));
        Self { digest, steps, outlines: BTreeMap::new() }
    }

    /// Whether any step's object has a file of its own.
    pub fn has_manifests(&self) -> bool {
        self.steps.values().any(|key| key.get("manifestFile").is_some())
    }

    /// The object of a resource step, where it is one of these files.
    pub fn manifest(&self, step: &str) -> Option<&Value> {
        self.steps.get(step)?.get("manifest").filter(|manifest| manifest.is_object())
    }

    /// The scripts and inputs of a step, by their paths from the pipeline file's folder.
    pub fn files_of_step(&self, step: &str) -> Vec<(String, Digest)> {
        let key = self.steps.get(step).and_then(Value::as_object);
        let maps = ["scripts", "inputs"].iter().filter_map(|word| key?.get(*word)?.as_object());
        let files = maps.flatten();
        files
            .filter_map(|(path, digest)| Some((path.clone(), digest.as_str()?.parse().ok()?)))
            .collect()
    }

    /// A script that held something in an earlier one and is empty now. Data may well be empty.
    pub fn emptied_since(&self, old: &Self) -> Option<String> {
        let nothing = Digest::of_bytes(b"").to_string();
        let scripts = |of: &Self, step: &str| -> Option<serde_json::Map<String, Value>> {
            of.steps.get(step)?.get("scripts")?.as_object().cloned()
        };
        self.steps.keys().find_map(|step| {
            let (before, after) = (scripts(old, step)?, scripts(self, step)?);
            let emptied = |(path, digest): &(String, Value)| {
                *digest == nothing.as_str()
                    && before.get(path).is_some_and(|before| *before != nothing.as_str())
            };
            after.into_iter().find(emptied).map(|(path, _)| path)
        })
    }

    /// What changed since an earlier one, in words, most telling first.
    pub fn changes_since(&self, old: &Self) -> Vec<String> {
        let mut words = Vec::new();
        let names: BTreeSet<&String> = old.steps.keys().chain(self.steps.keys()).collect();
        for name in names {
            match (old.steps.get(name), self.steps.get(name)) {
                (None, _) => words.push(format!("step `{name}` added")),
                (_, None) => words.push(format!("step `{name}` removed")),
                (Some(before), Some(after)) if before != after => {
                    self.step_changes(old, name, before, after, &mut words);
                }
                _ => {}
            }
        }
        // What several steps share changed once.
        let mut said = BTreeSet::new();
        words.retain(|word| said.insert(word.clone()));
        words
    }

    /// The files among `inputs` that changed, if nothing else did.
    pub fn only_inputs_changed(&self, old: &Self) -> Option<Vec<String>> {
        let without_inputs = |steps: &BTreeMap<String, Value>| {
            let mut steps = steps.clone();
            for step in steps.values_mut().filter_map(Value::as_object_mut) {
                step.remove("inputs");
            }
            steps
        };
        if without_inputs(&self.steps) != without_inputs(&old.steps) {
            return None;
        }
        let inputs = |steps: &BTreeMap<String, Value>| -> BTreeMap<String, Value> {
            let maps = steps.values().filter_map(|step| step.get("inputs")?.as_object().cloned());
            maps.flatten().collect()
        };
        let (before, after) = (inputs(&old.steps), inputs(&self.steps));
        let paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let changed = paths.into_iter().filter(|path| before.get(*path) != after.get(*path));
        Some(changed.cloned().collect())
    }

    fn step_changes(
        &self,
        old: &Self,
        name: &str,
        before: &Value,
        after: &Value,
        words: &mut Vec<String>,
    ) {
        let empty = Map::new();
        let (before, after) =
            (before.as_object().unwrap_or(&empty), after.as_object().unwrap_or(&empty));
        let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for key in keys {
            let (was, is) = (before.get(key), after.get(key));
            if was == is {
                continue;
            }
            match key.as_str() {
                "notebookDigest" => {
                    let path = after.get("notebook").and_then(Value::as_str).unwrap_or_default();
                    let changes = match (old.outlines.get(path), self.outlines.get(path)) {
                        (Some(before), Some(after)) => diff::diff(before, after),
                        _ => Vec::new(),
                    };
                    if changes.is_empty() {
                        words.push(format!("notebook {path} changed"));
                    }
                    words.extend(changes.iter().map(|change| format!("{path}: {change}")));
                }
                "params" | "scripts" | "inputs" | "sweep" | "env" | "outputs" => {
                    entry_changes(name, key, was, is, words);
                }
                "requirementsDigest" => {
                    words.push(format!("requirements of step `{name}` changed"));
                }
                _ => words.push(format!(
                    "`{key}` of step `{name}`: {} became {}",
                    show(was),
                    show(is)
                )),
            }
        }
    }
}

fn entry_changes(
    step: &str,
    key: &str,
    was: Option<&Value>,
    is: Option<&Value>,
    words: &mut Vec<String>,
) {
    let empty = Map::new();
    let map = |value: Option<&'_ Value>| value.and_then(Value::as_object).unwrap_or(&empty).clone();
    let (was, is) = (map(was), map(is));
    let names: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    for name in names.into_iter().filter(|name| was.get(*name) != is.get(*name)) {
        let (before, after) = (was.get(name), is.get(name));
        let file = matches!(key, "scripts" | "inputs");
        words.push(match (file, before, after) {
            (true, Some(_), Some(_)) => format!("{} {name} changed", key.trim_end_matches('s')),
            (true, None, _) => format!("{} {name} appeared", key.trim_end_matches('s')),
            (true, _, None) => format!("{} {name} is gone", key.trim_end_matches('s')),
            (false, ..) => {
                let word = if key == "params" { "parameter" } else { key };
                format!("{word} {name} of step `{step}`: {} became {}", show(before), show(after))
            }
        });
    }
}

fn show(value: Option<&Value>) -> String {
    let text = value.map_or_else(|| "nothing".into(), Value::to_string);
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// The effective step as the design's table says, defaults left out.
fn step_key(pipeline: &Pipeline, step: &Step, files: &Files) -> Value {
    let folder = pipeline.folder();
    let digest_of = |path: &str| files.get(path).map(|file| file.counted().to_string());
    let mut key = Map::new();
    let mut put = |name: &str, value: Value| {
        let empty = match &value {
            Value::Null => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(entries) => entries.is_empty(),
            Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        };
        if !empty {
            key.insert(name.to_owned(), value);
        }
    };
    match step.work() {
        Work::Notebook(path) => {
            put("notebook", json!(from_folder(folder, path.as_str())));
            let file = files.get(path.as_str());
            let digest = file.map(|file| match &file.outline {
                Some(outline) => digest::of_outline(outline, step.kernel()),
                None => file.digest.clone(),
            });
            put("notebookDigest", json!(digest));
        }
        Work::Run { text, .. } => {
            put("run", json!(text));
            let outputs = InputMatcher::new(pipeline, &[]);
            let scripts: BTreeMap<String, String> = step
                .script_candidates()
                .iter()
                .filter(|path| !outputs.is_output(path.as_str()))
                .filter_map(|path| {
                    Some((from_folder(folder, path.as_str()), digest_of(path.as_str())?))
                })
                .collect();
            put("scripts", json!(scripts));
        }
        Work::Resource(resource) => {
            put("manifest", resource.manifest.clone());
            if let Some(path) = &resource.path {
                put("manifestFile", json!(from_folder(folder, path.as_str())));
                let file = files.get(path.as_str());
                put("manifest", json!(file.and_then(|file| file.manifest.clone())));
            }
            put("success", json!(resource.success));
            put("failure", json!(resource.failure));
            put("resourceOutputs", json!(resource.outputs));
        }
    }
    let mut needs = step.needs().to_vec();
    needs.sort();
    needs.dedup();
    put("needs", json!(needs));
    let mut params: BTreeMap<&String, &Value> = pipeline.params().iter().collect();
    params.extend(step.params());
    put("params", json!(params));
    put("sweep", json!(step.sweep()));
    put(
        "sweepOrder",
        if step.sweep().len() > 1 {
            json!(step.sweep().keys().collect::<Vec<_>>())
        } else {
            Value::Null
        },
    );
    if let Some(best) = step.best() {
        let goal = if best.goal == Goal::Max { "max" } else { "min" };
        put("best", json!([best.metric, goal, best.allow_failed]));
    }
    put("outputs", json!(step.outputs()));
    put("metrics", json!(step.metrics()));
    let inputs: BTreeMap<String, String> = matching_inputs(pipeline, step, files)
        .map(|(path, file)| (from_folder(folder, path), file.counted().to_string()))
        .collect();
    put("inputs", json!(inputs));
    put("kernel", json!(step.kernel()));
    put("image", json!(step.image()));
    put(
        "requirementsDigest",
        json!(step.requirements().map(|path| digest_of(path.as_str()).unwrap_or_default())),
    );
    put("env", json!(step.env()));
    put("secrets", json!(step.secrets().keys().collect::<BTreeSet<_>>()));
    if step.explicit_workdir {
        put("workdir", json!(from_folder(folder, step.workdir().as_str())));
    }
    Value::Object(key)
}

/// The files that a step's `inputs` name. Declared outputs are never inputs.
fn matching_inputs<'a>(
    pipeline: &'a Pipeline,
    step: &Step,
    files: &'a Files,
) -> impl Iterator<Item = (&'a str, &'a FileState)> {
    let matcher = InputMatcher::new(pipeline, step.inputs());
    files
        .iter()
        .map(|(path, file)| (path.as_str(), file.as_ref()))
        .filter(move |(path, _)| matcher.matches(path))
}

/// Says which paths the `inputs` patterns name.
pub struct InputMatcher {
    patterns: GlobSet,
    outputs: BTreeSet<String>,
}

impl InputMatcher {
    /// The matcher of some patterns of a pipeline. A pattern that names a folder takes all below.
    pub fn new(pipeline: &Pipeline, patterns: &[RelativePath]) -> Self {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let folder = format!("{}/**", pattern.as_str());
            for text in [pattern.as_str(), folder.trim_start_matches('/')] {
                if let Ok(glob) = globset::GlobBuilder::new(text).literal_separator(true).build() {
                    set.add(glob);
                }
            }
        }
        let outputs = pipeline.steps().iter().flat_map(|step| step.outputs().values());
        let outputs =
            outputs.filter_map(|path| RelativePath::resolve(pipeline.folder(), path).ok());
        Self {
            patterns: set.build().unwrap_or_default(),
            outputs: outputs.map(|path| path.as_str().to_owned()).collect(),
        }
    }

    /// Whether a path, relative to the source's root, is a declared output.
    pub fn is_output(&self, path: &str) -> bool {
        self.outputs.contains(path)
    }

    /// Whether a path, relative to the source's root, is an input.
    pub fn matches(&self, path: &str) -> bool {
        self.patterns.is_match(path) && !self.outputs.contains(path)
    }
}

/// Where a walk for a pattern may begin: its parts up to the first with a wildcard.
pub fn literal_prefix(pattern: &RelativePath) -> String {
    let parts = pattern.as_str().split('/');
    let literal = parts.take_while(|part| !part.contains(['*', '?', '[', '{']));
    let prefix: Vec<&str> = literal.collect();
    debug_assert!(Glob::new(pattern.as_str()).is_ok(), "validated before");
    prefix.join("/")
}

/// A path relative to the pipeline file's folder, so that a moved folder has the same digest.
fn from_folder(folder: &str, path: &str) -> String {
    let folder: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let shared = folder.iter().zip(&parts).take_while(|(a, b)| a == b).count();
    let up = folder.len() - shared;
    std::iter::repeat_n("..", up)
        .chain(parts[shared..].iter().copied())
        .collect::<Vec<_>>()
        .join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::parse;

    fn file(text: &str) -> FileState {
        FileState {
            digest: Digest::of_bytes(text.as_bytes()),
            modified: None,
            outline: None,
            declared: None,
            manifest: None,
        }
    }

    fn print(yaml: &str, files: &[(&str, &str)]) -> Fingerprint {
        let documents = parse(yaml, "f/jupyterflow.yaml", "f", 100);
        assert!(documents.problems.is_empty(), "{:?}", documents.problems);
        let files =
            files.iter().map(|(path, text)| ((*path).to_owned(), Arc::new(file(text)))).collect();
        Fingerprint::new(&documents.pipelines[0], &files)
    }

    const BASE: &str = "inputs: [data/**]\nsteps: {a: {run: python a.py, outputs: {o: data/o}}}";

    #[test]
    fn what_does_not_decide_a_result_does_not_count() {
        let base = print(BASE, &[("f/a.py", "1"), ("f/data/x", "1")]);
        let same = "description: hi\nhistory: {failed: 3}\nretries: 4\nname: f\n".to_owned() + BASE;
        assert_eq!(
            print(&same, &[("f/a.py", "1"), ("f/data/x", "1"), ("f/b.py", "2")]).digest,
            base.digest
        );
        assert_eq!(print(BASE, &[("f/a.py", "1"), ("f/data/x", "1"), ("f/data/o", "9")]), base);
    }

    #[test]
    fn each_change_is_named() {
        let base = print(BASE, &[("f/a.py", "1"), ("f/data/x", "1")]);
        let next = print(BASE, &[("f/a.py", "2"), ("f/data/x", "1")]);
        assert_eq!(next.changes_since(&base), ["script a.py changed"]);
        assert_eq!(next.only_inputs_changed(&base), None);
        let next = print(BASE, &[("f/a.py", "1"), ("f/data/x", "2"), ("f/data/y", "")]);
        assert_eq!(next.changes_since(&base), ["input data/x changed", "input data/y appeared"]);
        assert_eq!(next.only_inputs_changed(&base).unwrap(), ["data/x", "data/y"]);
        let next =
            print(&format!("params: {{e: 5}}\n{BASE}"), &[("f/a.py", "1"), ("f/data/x", "1")]);
        assert_eq!(next.changes_since(&base), ["parameter e of step `a`: nothing became 5"]);
    }

    #[test]
    fn paths_count_from_the_folder() {
        assert_eq!(from_folder("a/b", "a/b/c.py"), "c.py");
        assert_eq!(from_folder("a/b", "a/d/c.py"), "../d/c.py");
        assert_eq!(from_folder("", "c.py"), "c.py");
    }
}
