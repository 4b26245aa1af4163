//! `stop`: a person wants the end of a run.

use std::time::{Duration, Instant};

use super::error::{CliError, Code};
use super::global::Global;
use super::print;
use super::records::{Found, Records, Where, find};
use super::run::pause;
use super::session::{LocalEngineOptions, Session};
use crate::engine::Engine;
use crate::plan::Run;
use crate::reconcile;
use crate::store::{EngineName, Store, StoredRun};
use crate::types::{RunName, Timestamp};

/// How long an end may take: steps have ten seconds after the polite signal.
const PATIENCE: Duration = Duration::from_secs(30);

/// Stop a run
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The run's name, or the beginning of it
    run: String,
    #[command(flatten)]
    place: Where,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global) -> Result<Code, CliError> {
    if let Found::There(records, stored) = find(global, &args.place, &args.run)? {
        return there(global, &records, &stored);
    }
    let options = LocalEngineOptions::default();
    let mut session = Session::to_write(global, &args.place.path, options)?;
    let stored = session.find_run_now(&args.run)?;
    let name = &stored.run.name;
    if stored.run.phase.is_ended() {
        print::talk(&format!("run {name} ended already: {}", stored.run.phase));
        return Ok(Code::Done);
    }
    session.store.request_stop(name, None)?;
    if let Err(error) = session.engine.stop(&stored) {
        return Err(CliError::unreachable(error.to_string())
            .hint("the stop is recorded: whoever next looks after the run carries it out"));
    }
    // Of pods the node gets word first, and they have half a minute to end by themselves.
    let patience = if stored.spec.engine == EngineName::Argo { 6 * PATIENCE } else { PATIENCE };
    let until = Instant::now() + patience;
    while Instant::now() < until {
        session.refresh(name)?;
        reconcile::end_if_stopped(&mut session.world(), name, Timestamp::now())?;
        let Some(run) = session.run(name)? else { break };
        if run.phase.is_ended() {
            return ended(global, &run);
        }
        pause(100);
    }
    Err(late(name))
}

/// Asks a controller for the end of a run.
fn there(global: &Global, records: &Records, stored: &StoredRun) -> Result<Code, CliError> {
    let name = &stored.run.name;
    if stored.run.phase.is_ended() {
        print::talk(&format!("run {name} ended already: {}", stored.run.phase));
        return Ok(Code::Done);
    }
    let asked = records.requests.stop(&records.key_of(name));
    asked.map_err(|why| records.error("stop a run", &why))?;
    let until = Instant::now() + 6 * PATIENCE;
    while Instant::now() < until {
        match records.run(name)? {
            Some(run) if run.phase.is_ended() => return ended(global, &run),
            Some(_) => pause(100),
            None => {
                return Err(CliError::failed(format!("run {name} was deleted while it ended")));
            }
        }
    }
    Err(late(name))
}

fn ended(global: &Global, run: &Run) -> Result<Code, CliError> {
    let name = &run.name;
    let names = || vec![name.to_string()];
    let words = || format!("run {name} {}", print::phase(run.phase));
    print::document(global.output, "Run", run, words, names)?;
    Ok(Code::Done)
}

fn late(name: &RunName) -> CliError {
    CliError::failed(format!("run {name} has not ended yet; its stop is recorded"))
        .hint("`jupyterflow show` tells when it has")
}
