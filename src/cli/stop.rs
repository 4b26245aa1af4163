//! `stop`: a person wants the end of a run.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::error::{CliError, Code};
use super::global::Global;
use super::print;
use super::run::pause;
use super::session::{LocalEngineOptions, Session};
use crate::engine::Engine;
use crate::reconcile;
use crate::store::{EngineName, Store};
use crate::types::Timestamp;

/// How long an end may take: steps have ten seconds after the polite signal.
const PATIENCE: Duration = Duration::from_secs(30);

/// Stop a run
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The run's name, or the beginning of it
    run: String,
    /// The folder whose state is meant
    #[arg(long, default_value = ".", value_name = "PATH")]
    path: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global) -> Result<Code, CliError> {
    Session::to_read(global, &args.path)?.find_run(&args.run)?;
    let mut session = Session::to_write(global, &args.path, LocalEngineOptions::default())?;
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
            let names = || vec![name.to_string()];
            let words = || format!("run {name} {}", print::phase(run.phase));
            print::document(global.output, "Run", &run, words, names)?;
            return Ok(Code::Done);
        }
        pause(100);
    }
    Err(CliError::failed(format!("run {name} has not ended yet; its stop is recorded"))
        .hint("`jupyterflow show` tells when it has"))
}
