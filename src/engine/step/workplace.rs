//! Where an attempt works: in the user's own folder, or in a fresh checkout of the run's commit.
//!
//! Owns the checkouts, and that only declared files travel between steps: each at its path, with its
//! digest checked.

#![expect(clippy::disallowed_methods, reason = "makes and fills checkouts")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::leftovers::copy;
use crate::plan::StepRecord;
use crate::source::git;
use crate::spec::{Pipeline, RelativePath};

/// Where the files of a run's steps are.
#[derive(Clone, Debug)]
pub enum Files {
    /// In the source's own folder.
    Folder,
    /// In a commit: each attempt has a checkout of its own.
    Commit {
        /// The bare repository that has it.
        objects: PathBuf,
        /// Its id.
        commit: String,
    },
}

/// Where one attempt works.
pub struct Workplace {
    /// The root that the pipeline's paths are relative to.
    pub root: PathBuf,
    /// The same, where it goes with the attempt.
    pub fresh: Option<PathBuf>,
    /// Files of earlier steps that were put there, by step and output.
    pub placed: HashMap<(String, String), PathBuf>,
}

/// An attempt at a step, and what was before it.
pub struct Before<'a> {
    /// The pipeline.
    pub pipeline: &'a Pipeline,
    /// The position of the step.
    pub step: usize,
    /// What is on record of the steps.
    pub records: &'a [&'a StepRecord],
    /// Where their results lie.
    pub results: &'a Path,
}

impl Files {
    /// The place of an attempt, filled; a checkout is the folder of that name, made anew.
    ///
    /// # Errors
    /// In words: it cannot be made, or a file of an earlier step is another by now.
    pub fn workplace(&self, before: &Before<'_>, folder: &Path) -> Result<Workplace, String> {
        let Self::Commit { objects, commit } = self else {
            let root = before.results.to_owned();
            return Ok(Workplace { root, fresh: None, placed: HashMap::new() });
        };
        let failed =
            |error: std::io::Error| format!("failed to make {}: {error}", folder.display());
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            _ => {}
        }
        git::export(objects, commit, folder)?;
        let root = folder.canonicalize().map_err(failed)?;
        let placed = before.place_outputs(&root)?;
        Ok(Workplace { fresh: Some(root.clone()), root, placed })
    }
}

impl Before<'_> {
    /// Puts the declared files of all steps that this one needs into its checkout.
    fn place_outputs(&self, root: &Path) -> Result<HashMap<(String, String), PathBuf>, String> {
        let mut placed = HashMap::new();
        for &before in &self.pipeline.graph().ancestors(self.step) {
            let step = &self.pipeline.steps()[before];
            let own = |record: &&&StepRecord| record.name == step.name() && record.index.is_none();
            let Some(record) = self.records.iter().find(own) else { continue };
            for artifact in &record.artifacts {
                let Some(declared) = step.outputs().get(&artifact.name) else { continue };
                let path = RelativePath::resolve(self.pipeline.folder(), declared)
                    .map_err(|error| format!("output {}: {error}", artifact.name))?;
                let to = root.join(path.as_str());
                let digest = copy(&self.results.join(&artifact.path), &to, root)
                    .map_err(|error| format!("failed to place {path}: {error}"))?;
                if digest != artifact.digest {
                    return Err(format!(
                        "MissingOutput: `{}` of step `{}` is another file than that step left",
                        artifact.name,
                        step.name()
                    ));
                }
                placed.insert((step.name().to_owned(), artifact.name.clone()), to);
            }
        }
        Ok(placed)
    }
}
