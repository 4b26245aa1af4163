//! What an attempt leaves: where results lie, and how outputs, metrics and files are collected.
//!
//! Owns the layout of `jupyterflow-runs/RUN/` and the order in which conventions for outputs win.

#![expect(clippy::disallowed_methods, reason = "reads and writes the results folder")]

use std::collections::HashMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde_json::Value;

use super::board::Left;
use crate::executor::{EndingPhase, Outputs, finite_numbers, write_whole};
use crate::plan::{Artifact, Run};
use crate::spec::{RelativePath, Step};
use crate::types::{Digest, Hasher};

/// Longest value of an output that is taken from a file, in bytes.
const LARGEST_FILE: u64 = 16 << 20;

/// The results folder of a run, relative to the source's root.
pub fn results_folder(folder: &str, run: &str) -> String {
    let path = format!("{folder}/jupyterflow-runs/{run}");
    path.trim_start_matches('/').to_owned()
}

/// Writes `run.json`, unless a person removed the results folder.
pub fn write_run_document(root: &Path, folder: &str, run: &Run) -> std::io::Result<()> {
    let results = root.join(results_folder(folder, run.name.as_str()));
    if !results.is_dir() {
        return Ok(());
    }
    let mut document = serde_json::Map::new();
    document.insert("apiVersion".into(), "jupyterflow.io/v1alpha1".into());
    document.insert("kind".into(), "Run".into());
    if let Ok(Value::Object(fields)) = serde_json::to_value(run) {
        document.extend(fields);
    }
    let text = serde_json::to_string_pretty(&document).map_err(std::io::Error::other)?;
    write_whole(&results.join("run.json"), text.as_bytes())
}

/// Sets results aside that a run of the same name left under another state, such as one that was
/// removed. Nothing of them is lost or mixed with what is to come.
///
/// # Errors
/// That run has not ended, or its folder cannot be renamed.
pub fn set_aside(results: &Path) -> Result<(), String> {
    let Ok(text) = std::fs::read_to_string(results.join("run.json")) else { return Ok(()) };
    let shown = results.display();
    let ended = serde_json::from_str::<Run>(&text).is_ok_and(|run| run.phase.is_ended());
    if !ended {
        return Err(format!("{shown} belongs to a run of another state that has not ended"));
    }
    let name = results.file_name().unwrap_or_default().to_string_lossy();
    let free = (1..1000).map(|number| results.with_file_name(format!("{name}.earlier-{number}")));
    let free = free.into_iter().find(|path| !path.exists());
    let aside = free.ok_or_else(|| format!("{shown} cannot be set aside: too many were before"))?;
    std::fs::rename(results, aside).map_err(|error| format!("failed to set {shown} aside: {error}"))
}

/// The places of one attempt.
pub struct Places {
    /// `STEP[/INDEX]`, relative to the source's root.
    pub relative: String,
    /// The same, absolute.
    pub folder: PathBuf,
    /// `$JUPYTERFLOW_OUTPUT_DIR`.
    pub files: PathBuf,
    /// `$JUPYTERFLOW_OUTPUTS`.
    pub lines: PathBuf,
    /// What `exec` reports.
    pub report: PathBuf,
    /// The parameters of a notebook.
    pub params: PathBuf,
    /// The log.
    pub log: PathBuf,
}

/// `STEP[/INDEX]` under a run's results folder, relative to the source's root.
pub fn step_folder(folder: &str, run: &str, step: &str, index: Option<usize>) -> String {
    let results = results_folder(folder, run);
    match index {
        Some(index) => format!("{results}/{step}/{index}"),
        None => format!("{results}/{step}"),
    }
}

impl Places {
    /// Makes the places of an attempt; those of an earlier one are emptied, but for the log.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn make(root: &Path, state: &Path, relative: String, key: &str) -> std::io::Result<Self> {
        let folder = root.join(&relative);
        let files = folder.join("files");
        match std::fs::remove_dir_all(&files) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::create_dir_all(&files)?;
        let scratch = state.join("attempts");
        std::fs::create_dir_all(&scratch)?;
        let lines = scratch.join(format!("{key}.outputs"));
        let report = scratch.join(format!("{key}.json"));
        std::fs::write(&lines, "")?;
        let _ = std::fs::remove_file(&report);
        let params = scratch.join(format!("{key}.params.json"));
        let log = folder.join("log");
        Ok(Self { relative, folder, files, lines, report, params, log })
    }

    /// Removes what only the attempt needed.
    pub fn clean(&self) {
        let _ = std::fs::remove_file(&self.lines);
        let _ = std::fs::remove_file(&self.report);
        let _ = std::fs::remove_file(&self.params);
    }
}

/// How files looked before an attempt, to tell which it wrote.
pub struct Before(HashMap<String, Option<Look>>);

type Look = (u64, u64, i64, i64);

fn look(path: &Path) -> Option<Look> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec()))
}

impl Before {
    /// Looks at the places of a step's declared files.
    pub fn new(root: &Path, folder: &str, step: &Step) -> Self {
        let declared = step.outputs().values().cloned().chain(step.metrics().map(str::to_owned));
        let looks = declared.map(|path| {
            let seen = RelativePath::resolve(folder, &path)
                .ok()
                .and_then(|path| look(&root.join(path.as_str())));
            (path, seen)
        });
        Self(looks.collect())
    }
}

/// Collects what an attempt left below the root where it worked; results go below the other. The
/// second part says what is missing.
pub fn collect(
    (root, results): (&Path, &Path),
    folder: &str,
    step: &Step,
    in_sweep: bool,
    places: &Places,
    before: &Before,
) -> (Left, Option<String>) {
    let mut left = Left::default();
    let mut missing = None;
    if let Some(report) = read_report(&places.report) {
        left.outputs.extend(report.outputs);
    }
    left.outputs.extend(parse_lines(&read_capped(&places.lines).unwrap_or_default()));
    // A file is taken from the attempt's own folder, else from beside the pipeline file, where it
    // counts only if the attempt wrote it.
    let find = |path: &str| -> Option<PathBuf> {
        let own = places.files.join(path);
        if own.is_file() {
            return Some(own);
        }
        let beside = root.join(RelativePath::resolve(folder, path).ok()?.as_str());
        let now = look(&beside)?;
        let fresh = before.0.get(path).is_none_or(|then| *then != Some(now));
        (!in_sweep && beside.is_file() && fresh).then_some(beside)
    };
    if let Some(path) = step.metrics() {
        match find(path).map(|path| read_capped(&path)) {
            Some(Ok(text)) => match serde_json::from_str::<IndexMap<String, Value>>(&text) {
                Ok(values) => left.outputs.extend(values),
                Err(error) => {
                    missing = Some(format!("metrics file {path} is no flat JSON: {error}"));
                }
            },
            Some(Err(error)) => missing = Some(format!("metrics file {path}: {error}")),
            None => missing = Some(not_written("metrics", path, in_sweep)),
        }
    }
    left.metrics = finite_numbers(&left.outputs);
    for (name, path) in step.outputs() {
        let Some(full) = find(path) else {
            missing.get_or_insert(not_written(name, path, in_sweep));
            continue;
        };
        // What it leads to must lie in the source, or in the attempt's own folder.
        let own = |real: &PathBuf| real.starts_with(root) || real.starts_with(&places.files);
        let inside = full.canonicalize().is_ok_and(|real| own(&real));
        if !inside {
            missing = Some(format!("output {name} ({path}) is a symbolic link out of the source"));
            continue;
        }
        // What lies in a checkout goes with it.
        let kept = if root != results && full.starts_with(root) {
            keep(&full, root, &places.files)
        } else {
            Ok(full)
        };
        match kept.and_then(|full| artifact(results, name, &full)) {
            Ok(artifact) => {
                left.outputs.insert(name.clone(), Value::from(artifact.path.as_str()));
                left.artifacts.push(artifact);
            }
            Err(error) => missing = Some(format!("output {name} ({path}): {error}")),
        }
    }
    (left, missing)
}

/// Copies a file of a checkout among the attempt's own, at the same path.
fn keep(path: &Path, root: &Path, files: &Path) -> std::io::Result<PathBuf> {
    let to = files.join(path.strip_prefix(root).unwrap_or(path));
    copy(path, &to, files)?;
    Ok(to)
}

/// Copies a file to a place below a root, never through a link out of it.
pub fn copy(from: &Path, to: &Path, root: &Path) -> std::io::Result<Digest> {
    let folder = to.parent().unwrap_or(root);
    let real = folder.ancestors().find(|folder| folder.exists()).unwrap_or(root).canonicalize()?;
    if !real.starts_with(root) {
        return Err(std::io::Error::other("a symbolic link leads out of the checkout"));
    }
    std::fs::create_dir_all(folder)?;
    if to.symlink_metadata().is_ok() {
        std::fs::remove_file(to)?;
    }
    let mut source = std::fs::File::open(from)?;
    let mut target = std::fs::File::create_new(to)?;
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = std::io::Read::read(&mut source, &mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        std::io::Write::write_all(&mut target, &buffer[..count])?;
    }
    target.set_permissions(source.metadata()?.permissions())?;
    Ok(hasher.finish())
}

fn not_written(name: &str, path: &str, in_sweep: bool) -> String {
    let hint = if in_sweep {
        "a point of a sweep writes it to $JUPYTERFLOW_OUTPUT_DIR"
    } else {
        "write it to $JUPYTERFLOW_OUTPUT_DIR or beside the pipeline file"
    };
    format!("MissingOutput: `{name}` ({path}) was not written by this attempt; {hint}")
}

fn artifact(root: &Path, name: &str, path: &Path) -> std::io::Result<Artifact> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = Hasher::default();
    let mut bytes = 0;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        bytes += count as u64;
    }
    let relative = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
    Ok(Artifact { name: name.to_owned(), path: relative, digest: hasher.finish(), bytes })
}

/// What `exec` reported, if it came to that.
pub fn read_report(path: &Path) -> Option<Outputs> {
    serde_json::from_str(&read_capped(path).ok()?).ok()
}

fn read_capped(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(LARGEST_FILE).read_to_string(&mut text)?;
    Ok(text)
}

/// Lines `name=value`: JSON where it parses, else text; the last of a name wins.
fn parse_lines(text: &str) -> IndexMap<String, Value> {
    let mut values = IndexMap::new();
    for line in text.lines() {
        if let Some((name, value)) =
            line.split_once('=').filter(|(name, _)| !name.trim().is_empty())
        {
            let value = serde_json::from_str(value.trim()).unwrap_or_else(|_| value.into());
            values.insert(name.trim().to_owned(), value);
        }
    }
    values
}

/// Writes the step's `outputs.json`.
pub fn write_outputs(places: &Places, phase: EndingPhase, message: Option<String>, left: &Left) {
    let document = Outputs::new(phase, message, left.outputs.clone());
    if let Ok(text) = serde_json::to_string_pretty(&document) {
        let _ = write_whole(&places.folder.join("outputs.json"), text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_json_or_text_and_the_last_wins() {
        let values = parse_lines("a=1\nb=two words\na=0.5\nc={\"x\": 1}\nnoise\n=x\nd=\n");
        let text = serde_json::to_string(&values).unwrap();
        assert_eq!(text, r#"{"a":0.5,"b":"two words","c":{"x":1},"d":""}"#);
    }

    #[test]
    fn results_lie_beside_the_pipeline_file() {
        assert_eq!(step_folder("", "r", "train", Some(2)), "jupyterflow-runs/r/train/2");
        assert_eq!(step_folder("a/b", "r", "s", None), "a/b/jupyterflow-runs/r/s");
    }
}
