//! `suspend` and `resume`: a pipeline's triggers, off and on.

use std::time::Instant;

use super::error::{CliError, Code};
use super::global::Global;
use super::print;
use super::records::{IS_ONE_AT_WORK, Records, SEEN_WITHIN, Where, recorded};
use super::run::pause;
use super::session::{LocalEngineOptions, Session};
use crate::reconcile;
use crate::store::StoredPipeline;
use crate::types::{PipelineId, Timestamp};

/// A pipeline whose triggers are meant
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The pipeline
    pipeline: String,
    #[command(flatten)]
    place: Where,
}

/// Runs `suspend` or `resume`.
pub fn run(args: &Args, global: &Global, suspended: bool) -> Result<Code, CliError> {
    if let Some((records, known)) = recorded(global, &args.place, &args.pipeline)? {
        return there(&records, &known, suspended);
    }
    let options = LocalEngineOptions::default();
    let mut session = Session::to_write(global, &args.place.path, options)?;
    let look = session.look_twice(Timestamp::now)?;
    let id = session.find_pipeline(&look, &args.pipeline)?;
    let text = Session::definition(&look, &id);
    let now = Timestamp::now();
    let since = suspended.then_some(now);
    let changed = reconcile::suspend(&mut session.store, &id, text.as_ref(), since, now)?;
    say(&id, suspended, changed);
    Ok(Code::Done)
}

fn say(id: &PipelineId, suspended: bool, changed: bool) {
    let word = if suspended { "suspended" } else { "resumed" };
    let already = if changed { "" } else { " already" };
    print::talk(&format!("pipeline {id} is {word}{already}"));
}

/// Asks a controller for it, which has taken note of it once the pipeline's cursors say so.
fn there(records: &Records, known: &StoredPipeline, suspended: bool) -> Result<Code, CliError> {
    let id = &known.id;
    let is_so = |row: &StoredPipeline| row.ledger.suspended.is_some() == suspended;
    let asked = records.requests.suspend(&records.key(id), suspended);
    asked.map_err(|why| records.error("change a pipeline", &why))?;
    let until = Instant::now() + SEEN_WITHIN;
    while Instant::now() < until {
        let rows = records.pipelines()?;
        if rows.iter().any(|row| row.id == *id && is_so(row)) {
            say(id, suspended, !is_so(known));
            return Ok(Code::Done);
        }
        pause(100);
    }
    let word = if suspended { "suspended" } else { "resumed" };
    Err(CliError::failed(format!("pipeline {id} is not {word} yet; that it is wanted is recorded"))
        .hint(IS_ONE_AT_WORK))
}
