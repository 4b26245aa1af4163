//! What the program calls itself as: the supervisor and the host of a run.
//!
//! Owns wiring them. These commands are not for people and may change with any version.

use std::path::{Path, PathBuf};

use super::error::{CliError, Code};
use crate::engine::local::{Hosting, host, supervise};
use crate::source::DirectorySource;
use crate::store::SqliteStore;
use crate::types::RunName;

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
    let code = host(Hosting {
        state: &args.state,
        root: &args.root,
        run: &run,
        jobs: args.jobs,
        store: Box::new(SqliteStore::open_again(&args.state, &args.root)?),
        source: Box::new(DirectorySource::new(&args.root, Path::new(""), usize::MAX)),
    })?;
    Ok(to_code(code))
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
