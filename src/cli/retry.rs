//! `retry`: a run again, whole or from one step.

use super::cluster;
use super::error::{CliError, Code};
use super::global::Global;
use super::print;
use super::records::{Found, Where, find};
use super::run::{How, ask, ask_controller};
use super::session::Session;
use super::target::Definition;
use crate::plan::Run;
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
    #[command(flatten)]
    place: Where,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global) -> Result<Code, CliError> {
    let (mut session, mut stored) = match find(global, &args.place, &args.run)? {
        Found::There(records, stored) => {
            ended(&stored.run)?;
            return ask_controller(global, &records, &stored, args.from.as_deref(), &args.how);
        }
        Found::Here(session, stored) => (session, stored),
    };
    let (engine, why) = cluster::chosen(global)?;
    stored.run = session.as_it_stands(&stored);
    ended(&stored.run)?;
    let definition = definition(&mut session, &stored, global)?;
    print::talk(&why);
    ask(global, &definition, engine, &args.how, Some(stored), args.from.as_deref())
}

fn ended(run: &Run) -> Result<(), CliError> {
    if run.phase.is_ended() {
        return Ok(());
    }
    let message = format!("run {} has not ended: it is {}", run.name, run.phase);
    Err(CliError::usage(message).hint("stop it first"))
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
