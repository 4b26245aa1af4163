//! `retry`: a run again, whole or from one step.

use std::path::PathBuf;

use super::cluster;
use super::error::{CliError, Code};
use super::global::Global;
use super::print;
use super::run::{How, ask};
use super::session::Session;
use super::target::Definition;
use crate::spec;
use crate::store::{FileText, StoredRun};

/// Run a run again, and follow it to its end
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The run's name, or the beginning of it
    run: String,
    /// Keep what came before this step
    #[arg(long, value_name = "STEP")]
    from: Option<String>,
    #[command(flatten)]
    how: How,
    /// The folder whose state is meant
    #[arg(long, default_value = ".", value_name = "PATH")]
    path: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global) -> Result<Code, CliError> {
    let (engine, why) = cluster::chosen(global)?;
    let mut session = Session::to_read(global, &args.path)?;
    let mut stored = session.find_run(&args.run)?;
    stored.run = session.as_it_stands(&stored);
    if !stored.run.phase.is_ended() {
        let message = format!("run {} has not ended: it is {}", stored.run.name, stored.run.phase);
        return Err(CliError::usage(message).hint("stop it first"));
    }
    let definition = definition(&mut session, &stored, global)?;
    print::talk(&why);
    ask(global, &definition, engine, &args.how, Some(stored), args.from.as_deref())
}

/// The pipeline as its file has it now, or as the run recorded it where the file has it no more.
fn definition(
    session: &mut Session,
    stored: &StoredRun,
    global: &Global,
) -> Result<Definition, CliError> {
    let recorded = &stored.spec.definition;
    let source = stored.pipeline.source.clone();
    let present = if session.configuration.is_some() {
        let look = session.look_twice(crate::types::Timestamp::now)?;
        Session::definition(&look, &stored.pipeline).map(|text| text.text)
    } else {
        std::fs::read_to_string(session.place.root.join(&recorded.file)).ok()
    };
    let texts = present.filter(|text| !spec::is_workflow(text));
    for text in texts.into_iter().chain([recorded.text.clone()]) {
        let text = FileText { text, ..recorded.clone() };
        if let Some(pipeline) = text.pipeline(&stored.pipeline.name, global.max_points) {
            let path = session.place.root.join(&recorded.folder);
            let path = if path.is_dir() { path } else { session.place.root.clone() };
            return Ok(Definition { path, source, text, pipeline });
        }
    }
    Err(CliError::usage(format!("the pipeline of run {} can no longer be read", stored.run.name)))
}
