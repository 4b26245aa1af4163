//! What the program calls itself as inside the pods of a run.
//!
//! Owns wiring it. These commands are not for people and may change with any version.

use std::path::{Path, PathBuf};

use super::error::{CliError, Code};
use crate::engine::argo::pod::{self, Order};
use crate::source::{DirectorySource, Source};

/// Where the program is copied to.
#[derive(clap::Args, Debug)]
pub struct Install {
    place: PathBuf,
}

/// What a pod is told.
#[derive(clap::Args, Debug)]
pub struct Pod {
    #[arg(long)]
    step: String,
    #[arg(long)]
    assignment: String,
    #[arg(long)]
    run: String,
    #[arg(long)]
    index: Option<usize>,
    #[arg(long, default_value_t)]
    retry: u64,
    #[arg(long, default_value_t)]
    interruption: u64,
    #[arg(long)]
    told: Vec<String>,
}

/// Copies the program.
pub fn install(args: &Install) -> Result<Code, CliError> {
    let failed = |error| CliError::unreachable(format!("{}: {error}", args.place.display()));
    pod::install(&args.place).map_err(failed)?;
    Ok(Code::Done)
}

/// Does a step.
pub fn step(args: &Pod) -> Result<Code, CliError> {
    let order = Order {
        assignment: args.assignment.clone(),
        run: args.run.clone(),
        step: args.step.clone(),
        index: args.index,
        retry: args.retry,
        interruption: args.interruption,
        told: args.told.clone(),
    };
    let source = |root: &Path| -> Box<dyn Source> {
        Box::new(DirectorySource::new(root, Path::new(""), usize::MAX))
    };
    let code = pod::work(&order, source).map_err(CliError::failed)?;
    Ok(Code::Step(u8::try_from(code).unwrap_or(1)))
}
