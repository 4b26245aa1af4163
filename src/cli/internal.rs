//! What the program calls itself as: the supervisor and the host of a run.
//!
//! Owns wiring them. These commands are not for people and may change with any version.

use std::path::{Path, PathBuf};

use super::error::{CliError, Code};
use super::lanes::Configuration;
use crate::engine::local::{Hosting, host, supervise};
use crate::engine::step::workplace::Files;
use crate::plan::Run;
use crate::source::git::Mirror;
use crate::source::{DirectorySource, GitSource, Source};
use crate::store::{SqliteStore, Store};
use crate::types::{RunName, TriggerKind};

/// Which run, where.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[arg(long)]
    state: PathBuf,
    #[arg(long)]
    root: PathBuf,
    #[arg(long)]
    jobs: usize,
    run: String,
}

fn name(args: &Args) -> Result<RunName, CliError> {
    RunName::from_stored(&args.run).map_err(|error| CliError::usage(error.to_string()))
}

/// Supervises a host.
pub fn run_supervisor(args: &Args) -> Result<Code, CliError> {
    let code = supervise(&args.state, &args.root, &name(args)?, args.jobs);
    code.map(to_code).map_err(CliError::unreachable)
}

/// Hosts a run.
pub fn run_host(args: &Args) -> Result<Code, CliError> {
    let run = name(args)?;
    let store = SqliteStore::open_again(&args.state, &args.root)?;
    let configuration = Configuration::of_state(&store)?;
    let stored = store.run(run.as_str())?;
    let known = stored.as_ref().zip(configuration.as_ref()).and_then(|(stored, configuration)| {
        let (root, mirror) = configuration.place_of(&stored.run.source, &args.state)?;
        let with_commit = |mirror: Mirror| (commit_of(&stored.run, &mirror), mirror);
        Some((root, mirror.map(with_commit)))
    });
    // What no source is known of works in the state's own root, where its results lie.
    let (root, mirror) = known.unwrap_or((args.root.clone(), None));
    let (files, source): (Files, Box<dyn Source>) = match mirror {
        Some((commit, mirror)) => {
            let source = GitSource::new(&mirror, &root, Some(commit.clone()), usize::MAX);
            (Files::Commit { objects: mirror.objects(), commit }, Box::new(source))
        }
        None => (Files::Folder, Box::new(DirectorySource::new(&root, Path::new(""), usize::MAX))),
    };
    std::fs::create_dir_all(&root)
        .map_err(|error| CliError::unreachable(format!("{}: {error}", root.display())))?;
    let root = root.canonicalize().unwrap_or(root);
    let code = host(Hosting {
        state: &args.state,
        root: &root,
        files,
        run: &run,
        jobs: args.jobs,
        store: Box::new(store),
        source,
    })?;
    Ok(to_code(code))
}

/// The commit that a run sees: the one that it was claimed for. Where that is gone before it begins, a
/// change is over, and any other run takes the one in force.
fn commit_of(run: &Run, mirror: &Mirror) -> String {
    let own = run.revision.clone();
    let begun = run.started_at.is_some() || run.trigger.kind == TriggerKind::Change;
    if begun || mirror.holds(&own) {
        return own;
    }
    let branch = run.source.split_once('@').map(|(_, branch)| branch);
    mirror.in_force(branch).unwrap_or(own)
}

fn to_code(code: i32) -> Code {
    match code {
        0 => Code::Done,
        128.. => u8::try_from(code - 128).map_or(Code::Failed, Code::Signal),
        1 => Code::Failed,
        2 => Code::Usage,
        4 => Code::Unreachable,
        _ => Code::Bug,
    }
}
