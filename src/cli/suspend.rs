//! `suspend` and `resume`: a pipeline's triggers, off and on.

use std::path::PathBuf;

use super::error::{CliError, Code};
use super::global::Global;
use super::print;
use super::session::{LocalEngineOptions, Session};
use crate::reconcile;
use crate::types::Timestamp;

/// A pipeline whose triggers are meant
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The pipeline
    pipeline: String,
    /// The folder whose state is meant
    #[arg(long, default_value = ".", value_name = "PATH")]
    path: PathBuf,
}

/// Runs `suspend` or `resume`.
pub fn run(args: &Args, global: &Global, suspended: bool) -> Result<Code, CliError> {
    let mut session = Session::to_write(global, &args.path, LocalEngineOptions::default())?;
    let look = session.look_twice(Timestamp::now)?;
    let id = session.find_pipeline(&look, &args.pipeline)?;
    let text = Session::definition(&look, &id);
    let now = Timestamp::now();
    let since = suspended.then_some(now);
    let changed = reconcile::suspend(&mut session.world(), &id, text.as_ref(), since, now)?;
    let word = if suspended { "suspended" } else { "resumed" };
    let already = if changed { "" } else { " already" };
    print::talk(&format!("pipeline {id} is {word}{already}"));
    Ok(Code::Done)
}
