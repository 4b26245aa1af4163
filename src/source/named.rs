//! The files that pipelines name, in any tree.
//!
//! Owns which those are and what of each counts. How a tree is read is an adapter's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::PipelineFile;
use crate::notebook::diff::Outline;
use crate::notebook::{Notebook, parameters};
use crate::spec::fingerprint::InputMatcher;
use crate::spec::{self, FileState, Pipeline, RelativePath, Work};
use crate::types::{Digest, Timestamp};

/// A tree of files.
pub trait Tree {
    /// The files that patterns name, as paths relative to the root; folders that cannot be read are
    /// broken.
    fn inputs(
        &mut self,
        matcher: &InputMatcher,
        patterns: &[RelativePath],
        broken: &mut Vec<(String, String)>,
    ) -> BTreeSet<String>;

    /// The content of a file.
    fn content(&mut self, path: &str) -> Result<Vec<u8>, String>;

    /// One file.
    fn state(&mut self, path: &str, now: Timestamp) -> Found;
}

/// What is known of a file.
pub struct Found {
    /// When it was last written, where that is known.
    pub written: Option<Timestamp>,
    /// None where there is no such file; an error where nobody can tell.
    pub state: Result<Option<Arc<FileState>>, String>,
}

/// Folders that are never looked into, by their names.
pub fn is_skipped(name: &str) -> bool {
    name.starts_with('.') || matches!(name, "node_modules" | "jupyterflow-runs" | "__pycache__")
}

/// Reads the files that all pipelines of a file name, and adds the problems that they show.
pub fn read_all(tree: &mut impl Tree, file: &mut PipelineFile, now: Timestamp) {
    let mut pipelines = std::mem::take(&mut file.documents.pipelines);
    for pipeline in &mut pipelines {
        read(tree, pipeline, file, now);
        let object =
            |_: &str, path: &RelativePath| file.files.get(path.as_str())?.manifest.as_ref();
        *pipeline = pipeline.clone().with_manifests(object);
        let text = file.text.as_deref().unwrap_or_default();
        let problems = spec::file_problems(pipeline, &file.path, text, &file.files, &file.broken);
        file.documents.problems.extend(problems);
    }
    file.documents.pipelines = pipelines;
}

/// Reads the files that a pipeline names.
pub fn read(tree: &mut impl Tree, pipeline: &Pipeline, file: &mut PipelineFile, now: Timestamp) {
    let mut wanted: BTreeSet<(String, bool)> = BTreeSet::new();
    let mut manifests: BTreeMap<String, usize> = BTreeMap::new();
    for step in pipeline.steps() {
        match step.work() {
            Work::Notebook(path) => {
                wanted.insert((path.as_str().to_owned(), true));
            }
            Work::Run { .. } => {
                let scripts = step.script_candidates();
                wanted.extend(scripts.iter().map(|path| (path.as_str().to_owned(), false)));
            }
            Work::Resource(resource) => {
                let path = resource.path.iter().map(|path| path.as_str().to_owned());
                path.clone().for_each(|path| *manifests.entry(path).or_default() += 1);
                wanted.extend(path.map(|path| (path, true)));
            }
        }
        if let Some(path) = step.requirements() {
            wanted.insert((path.as_str().to_owned(), true));
        }
        if !step.inputs().is_empty() {
            let matcher = InputMatcher::new(pipeline, step.inputs());
            let inputs = tree.inputs(&matcher, step.inputs(), &mut file.broken);
            wanted.extend(inputs.into_iter().map(|path| (path, false)));
        }
    }
    let mut room = spec::manifest::MOST_BYTES_OF_ALL;
    for (path, required) in wanted {
        let found = tree.state(&path, now);
        file.newest = file.newest.max(found.written);
        match found.state {
            Ok(Some(mut state)) => {
                // Another pipeline of the file may name it for other reasons.
                let known = file.files.get(&path).filter(|known| known.digest == state.digest);
                let known = known.and_then(|known| known.manifest.clone());
                if known.is_some() {
                    Arc::make_mut(&mut state).manifest = known;
                } else if let Some(times) = manifests.get(&path) {
                    match manifest(tree, &path, &state.digest, *times, &mut room) {
                        Ok(object) => Arc::make_mut(&mut state).manifest = Some(object),
                        Err(reason) => {
                            file.broken.push((path, reason));
                            continue;
                        }
                    }
                }
                file.files.insert(path, state);
            }
            Ok(None) if required => file.broken.push((path, "it is not there".into())),
            Ok(None) => {}
            Err(reason) => file.broken.push((path, reason)),
        }
    }
}

/// The object of a manifest whose digest is known, which several steps may make; there is no more room than this.
fn manifest(
    tree: &mut impl Tree,
    path: &str,
    digest: &Digest,
    times: usize,
    room: &mut usize,
) -> Result<Value, String> {
    use spec::manifest::{MOST_BYTES, MOST_BYTES_OF_ALL};
    let bytes = tree.content(path)?;
    if bytes.len() > MOST_BYTES {
        return Err(format!("it has {} bytes, more than {MOST_BYTES}", bytes.len()));
    }
    *room = room.checked_sub(bytes.len() * times).ok_or_else(|| {
        format!("the manifests of the pipeline's steps have more than {MOST_BYTES_OF_ALL} bytes")
    })?;
    if Digest::of_bytes(&bytes) != *digest {
        return Err("it is being written".into());
    }
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
    spec::manifest::read(&text)
}

/// What of a notebook counts.
///
/// # Errors
/// It is no notebook.
pub fn notebook_state(bytes: Vec<u8>, modified: Option<Timestamp>) -> Result<FileState, String> {
    let digest = Digest::of_bytes(&bytes);
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
    let notebook = Notebook::read(&text).map_err(|error| error.to_string())?;
    let outline = Some(Outline::of(&notebook, None));
    let declared = parameters::declared_names(&notebook);
    Ok(FileState { digest, modified, outline, declared, manifest: None })
}
