//! What the program calls itself as inside the pods of a run.
//!
//! Owns wiring it. These commands are not for people and may change with any version.

use std::path::{Path, PathBuf};

use super::error::{CliError, Code};
use crate::engine::argo::checkout;
use crate::engine::argo::pod::{self, Order, Part};
use crate::engine::step::workplace::Files;
use crate::source::{DirectorySource, GitSource, Source};

/// Where the program is copied to.
#[derive(clap::Args, Debug)]
pub struct Install {
    place: PathBuf,
}

/// What is fetched.
#[derive(clap::Args, Debug)]
pub struct Fetch {
    #[arg(long)]
    assignment: String,
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
    /// The part of a resource step.
    #[arg(long)]
    part: Option<String>,
    /// When its object was begun.
    #[arg(long)]
    began: Option<String>,
    /// The outputs of its object.
    #[arg(long, allow_hyphen_values = true)]
    made: Vec<String>,
}

/// Copies the program.
pub fn install(args: &Install) -> Result<Code, CliError> {
    let failed = |error| CliError::unreachable(format!("{}: {error}", args.place.display()));
    pod::install(&args.place).map_err(failed)?;
    Ok(Code::Done)
}

/// Fetches the commit of a run.
pub fn fetch(args: &Fetch) -> Result<Code, CliError> {
    checkout::fetch(&args.assignment).map_err(CliError::failed)?;
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
        part: match args.part.as_deref() {
            None => Part::Whole,
            Some("values") => Part::Values,
            Some("tell") => Part::Tell {
                began: args.began.as_deref().and_then(|text| text.parse().ok()),
                made: args.made.clone(),
            },
            Some(other) => return Err(CliError::usage(format!("a step has no part {other:?}"))),
        },
    };
    let source = |root: &Path, files: &Files| -> Box<dyn Source> {
        match files {
            Files::Folder => Box::new(DirectorySource::new(root, Path::new(""), usize::MAX)),
            Files::Commit { objects, commit } => {
                Box::new(GitSource::of_objects(objects.clone(), root, commit.clone()))
            }
        }
    };
    let code = pod::work(&order, source).map_err(CliError::failed)?;
    Ok(Code::Step(u8::try_from(code).unwrap_or(1)))
}
