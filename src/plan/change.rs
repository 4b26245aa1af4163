//! The change trigger: is what the source shows another pipeline than the one last accepted?
//!
//! Owns that decision alone; whether there is room to run is the planner's.

use super::ledger::Ledger;
use super::observed::{Definition, RunFact};

/// What the change trigger says.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing changed since the last accepted state.
    None,
    /// A run is wanted, for these reasons.
    Wanted(Vec<String>),
    /// Only these inputs changed, and a run of the pipeline wrote them.
    WrittenByRun {
        /// The inputs.
        files: Vec<String>,
        /// The run.
        run: String,
    },
}

/// Compares a definition with what the ledger accepted.
pub fn judge(definition: &Definition<'_>, ledger: &Ledger, runs: &[RunFact]) -> Change {
    let new = definition.fingerprint;
    let Some(old) = &ledger.change.accepted else {
        let why = if ledger.change.generation == 0 {
            "first sight of the pipeline"
        } else {
            "files changed before the last change run could start"
        };
        return Change::Wanted(vec![why.into()]);
    };
    if old.digest == new.digest {
        return Change::None;
    }
    if let (Some(files), Some((first, last))) =
        (new.only_inputs_changed(old), definition.inputs_written)
        && let Some(run) = runs.iter().find(|run| {
            run.started_at.is_some_and(|start| start <= first)
                && run.finished_at.is_none_or(|end| last <= end)
        })
    {
        return Change::WrittenByRun { files, run: run.name.to_string() };
    }
    let mut words = new.changes_since(old);
    if words.is_empty() {
        words.push("the pipeline changed".into());
    }
    Change::Wanted(words)
}
