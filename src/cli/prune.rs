//! `prune` and `delete`: ended runs that nobody needs any more, with their results.

use std::path::PathBuf;

use super::error::{CliError, Code};
use super::global::Global;
use super::print;
use super::records::{Found, Namespace, Where, find};
use super::session::{LocalEngineOptions, Session};
use crate::engine::step::leftovers::results_folder;
use crate::plan::{Run, prunable};
use crate::reconcile::Look;
use crate::store::{Store, StoredRun};
use crate::types::Timestamp;

/// Remove ended runs beyond each pipeline's `history`, with their results
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A folder
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Say what would be removed
    #[arg(long)]
    dry_run: bool,
}

/// Remove one ended run with its results
#[derive(clap::Args, Debug)]
pub struct Delete {
    /// The run's name, or the beginning of it
    run: String,
    /// The folder whose state is meant
    #[arg(long, default_value = ".", value_name = "PATH")]
    path: PathBuf,
}

/// Runs `prune`.
pub fn run(args: &Args, global: &Global) -> Result<Code, CliError> {
    let mut session = Session::to_write(global, &args.path, LocalEngineOptions::default())?;
    let look = session.look_twice(Timestamp::now)?;
    let going = surplus(&session, &look)?;
    if !args.dry_run {
        remove(&mut session, &going)?;
    }
    let names = || going.iter().map(|stored| stored.run.name.to_string()).collect::<Vec<_>>();
    let verb = if args.dry_run { "would be removed" } else { "removed" };
    let words = || {
        format!(
            "{}{} runs {verb}",
            names().iter().map(|name| format!("{name}\n")).collect::<String>(),
            going.len()
        )
    };
    let runs: Vec<&Run> = going.iter().map(|stored| &stored.run).collect();
    print::document(global.output, "RunList", &runs, words, names)?;
    Ok(Code::Done)
}

/// The ended runs that no history has room for and no other run needs.
fn surplus(session: &Session, look: &Look) -> Result<Vec<StoredRun>, CliError> {
    let all = session.store.runs(usize::MAX)?;
    let mut going: Vec<StoredRun> = Vec::new();
    for (id, seeing) in look.pipelines() {
        let Some(pipeline) = &seeing.pipeline else { continue };
        let own: Vec<&StoredRun> = all.iter().filter(|stored| stored.pipeline == *id).collect();
        let runs: Vec<&Run> = own.iter().map(|stored| &stored.run).collect();
        let names = prunable(&runs, pipeline.history());
        going.extend(own.into_iter().filter(|stored| names.contains(&stored.run.name)).cloned());
    }
    let used = used_by_others(session, &all, &going)?;
    going.retain(|stored| !used.iter().any(|path| is_of(stored, path)));
    Ok(going)
}

/// Removes what no history has room for, with its results.
///
/// # Errors
/// Results cannot be removed, or the state not be written.
pub fn prune(session: &mut Session, look: &Look) -> Result<(), CliError> {
    let going = surplus(session, look)?;
    if going.is_empty() { Ok(()) } else { remove(session, &going) }
}

/// Runs `delete`.
pub fn delete(args: &Delete, global: &Global) -> Result<Code, CliError> {
    let place = Where { path: args.path.clone(), of: Namespace { namespace: None } };
    if let Found::There(records, stored) = find(global, &place, &args.run)? {
        let key = records.key_of(&stored.run.name);
        ended(&stored)?;
        let message = format!("run {} is in the records of a controller", key.name);
        return Err(CliError::usage(message).hint(format!(
            "they go by its pipeline's `history`, or by whoever may: kubectl delete nbr -n {} {}",
            key.namespace, key.name
        )));
    }
    let mut session = Session::to_write(global, &args.path, LocalEngineOptions::default())?;
    let stored = session.find_run_now(&args.run)?;
    ended(&stored)?;
    let all = session.store.runs(usize::MAX)?;
    let used = used_by_others(&session, &all, std::slice::from_ref(&stored))?;
    if let Some(path) = used.iter().find(|path| is_of(&stored, path)) {
        let message = format!("a later run keeps {path} of run {}", stored.run.name);
        return Err(CliError::usage(message).hint("delete that run first"));
    }
    print::talk(&format!("removed {} and its results", stored.run.name));
    remove(&mut session, &[stored])?;
    Ok(Code::Done)
}

fn ended(stored: &StoredRun) -> Result<(), CliError> {
    let (name, phase) = (&stored.run.name, stored.run.phase);
    if phase.is_ended() {
        return Ok(());
    }
    let message = format!("run {name} has not ended: it is {phase}");
    Err(CliError::usage(message).hint("stop it first"))
}

/// Files that runs which stay name as theirs, such as those that a retry from a step kept.
fn used_by_others(
    session: &Session,
    all: &[StoredRun],
    going: &[StoredRun],
) -> Result<Vec<String>, CliError> {
    let mut used = Vec::new();
    for stored in all {
        if !going.iter().any(|other| other.run.name == stored.run.name) {
            let steps = session.store.steps(&stored.run.name)?;
            let artifacts = steps.into_iter().flat_map(|state| state.record.artifacts);
            used.extend(artifacts.map(|artifact| artifact.path));
        }
    }
    Ok(used)
}

fn is_of(stored: &StoredRun, path: &str) -> bool {
    let folder = results_folder(&stored.pipeline.folder, stored.run.name.as_str());
    path.starts_with(&format!("{folder}/"))
}

/// Results first: a record without results can be removed again, results without a record not.
fn remove(session: &mut Session, runs: &[StoredRun]) -> Result<(), CliError> {
    for stored in runs {
        let folder = results_folder(&stored.pipeline.folder, stored.run.name.as_str());
        let path = session.place_of(&stored.run.source).root.join(folder);
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                let message = format!("failed to remove {}: {error}", path.display());
                return Err(CliError::failed(message));
            }
            _ => {}
        }
    }
    let names: Vec<_> = runs.iter().map(|stored| stored.run.name.clone()).collect();
    Ok(session.store.forget(&names)?)
}
