//! The files of a run when it begins, and while it goes: what was claimed, or something else.
//!
//! Owns the copies of notebooks, the withdrawal of a change whose files moved on, and the record of
//! files that move later.

#![expect(clippy::disallowed_methods, reason = "copies notebooks")]

use std::path::{Path, PathBuf};

use super::{Files, Host};
use crate::engine::step::board::Task;
use crate::engine::step::present;
use crate::plan::{Phase, Reason};
use crate::source::git;
use crate::spec::Fingerprint;
use crate::store::{Commit, StoreError};
use crate::types::{Digest, Timestamp, TriggerKind};

/// What a run finds when it begins.
pub enum Present {
    /// Its files, copied.
    Taken,
    /// Other files than it was claimed for.
    MovedOn,
    /// Files that are not whole.
    Broken(String),
}

impl Host<'_> {
    /// Copies the run's notebooks: an edit while it runs is the next run's. Says whether they,
    /// and all other files, are what the run was claimed for.
    pub(super) fn meet_the_present(&mut self) -> Result<Present, StoreError> {
        let Self { pipeline, spec, source, files, state, run, .. } = self;
        let notebooks = state.join("notebooks").join(run.name.as_str());
        let copy = |path: &str| copy_notebook(files, self.root, &notebooks, path);
        let file = &spec.definition.file;
        let present = match present::take(pipeline, file, source.as_mut(), &copy)? {
            Ok(present) => present,
            Err(message) => return Ok(Present::Broken(message)),
        };
        if matches!(self.files, Files::Folder)
            && let Some(path) = self.emptied(&present)?
        {
            return Ok(Present::Broken(format!("{path} is empty, which it was not")));
        }
        if let Files::Commit { commit, .. } = &self.files {
            // Another one where its own is gone.
            self.run.revision.clone_from(commit);
        }
        let recorded = self.spec.fingerprint.as_ref();
        if recorded.is_none_or(|recorded| recorded.digest == present.digest) {
            return Ok(Present::Taken);
        }
        if self.run.trigger.kind == TriggerKind::Change {
            return Ok(Present::MovedOn);
        }
        if matches!(self.files, Files::Folder) {
            self.run.revision = present.digest.to_string();
        }
        self.spec.fingerprint = Some(present);
        self.store.update_spec(&self.run, &self.spec)?;
        Ok(Present::Taken)
    }

    /// A file that is empty all at once: since a change was accepted, or since the run before.
    fn emptied(&self, present: &Fingerprint) -> Result<Option<String>, StoreError> {
        // Of all pipelines' cursors only these are wanted, and hardly ever.
        let nothing = Digest::of_bytes(b"");
        let files =
            self.pipeline.steps().iter().flat_map(|step| present.files_of_step(step.name()));
        if files.into_iter().all(|(_, digest)| digest != nothing) {
            return Ok(None);
        }
        let row = self.store.pipelines()?.into_iter().find(|row| row.id == self.id);
        let accepted = row.and_then(|row| row.ledger.change.accepted);
        if let Some(accepted) = accepted {
            return Ok(present.emptied_since(&accepted));
        }
        let before =
            self.store.runs_of(&self.id)?.into_iter().filter(|stored| stored.ended.is_some());
        let newest = before.max_by_key(|stored| stored.ended).and_then(|one| one.spec.fingerprint);
        Ok(newest.and_then(|before| present.emptied_since(&before)))
    }

    /// Ends a change run whose files moved on before it began: whatever stands next, the same
    /// content included, is a new change.
    pub(super) fn withdraw(&mut self) -> Result<i32, StoreError> {
        loop {
            let rows = self.store.pipelines()?;
            let Some(row) = rows.into_iter().find(|row| row.id == self.id) else { break };
            let Some(ledger) = row.ledger.without_change(&self.run.trigger.key) else { break };
            let written = self.store.commit(&Commit {
                id: &self.id,
                version: Some(row.version),
                ledger: &ledger,
                definition: row.definition.as_ref(),
                claims: Vec::new(),
                shown: None,
            });
            match written {
                Err(StoreError::Conflict) => {}
                other => break other?,
            }
        }
        self.board.stop(Timestamp::now());
        self.run.reason = Some(Reason::Superseded.to_string());
        self.run.message = Some("files moved on before the run began".into());
        self.end(Phase::Skipped)
    }

    /// The folder with the run's copies of its notebooks.
    pub(super) fn notebooks(&self) -> PathBuf {
        self.state.join("notebooks").join(self.run.name.as_str())
    }

    /// Files of a step that are no longer what the run recorded: they are used as they stand.
    pub(super) fn moved_files(&mut self, task: Task) -> Option<String> {
        // Those of a commit never are.
        if matches!(self.files, Files::Commit { .. }) {
            return None;
        }
        let step = self.pipeline.steps()[task.step].name();
        let recorded = self.spec.fingerprint.as_ref()?;
        present::moved_files(self.source.as_mut(), self.pipeline, recorded, step)
    }
}

/// Copies a notebook as it is now. Not to be able to read it says something of the source; not to be
/// able to write it, of the state.
fn copy_notebook(
    files: &Files,
    root: &Path,
    notebooks: &Path,
    path: &str,
) -> Result<Result<Digest, String>, StoreError> {
    let read = match files {
        Files::Folder => std::fs::read(root.join(path)).map_err(|error| error.to_string()),
        Files::Commit { objects, commit } => git::content(objects, commit, path),
    };
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(error) => return Ok(Err(format!("failed to read {path}: {error}"))),
    };
    let copy = notebooks.join(path);
    let folder = copy.parent().unwrap_or(notebooks);
    std::fs::create_dir_all(folder)
        .and_then(|()| crate::executor::write_whole(&copy, &bytes))
        .map_err(|error| StoreError::Database {
            folder: notebooks.display().to_string(),
            message: format!("failed to copy {path}: {error}"),
        })?;
    Ok(Ok(Digest::of_bytes(&bytes)))
}
