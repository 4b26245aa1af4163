//! What `up` says of plans, of what was done, and of runs that ended.
//!
//! Owns that each thing is told once, however often it is seen.

use std::collections::BTreeSet;

use tracing::{error, info, warn};

use super::super::error::Code;
use super::super::log::LogFormat;
use super::super::print;
use crate::plan::{Action, NotDone, Reason, Run};
use crate::reconcile::{Applied, Look, SourceSeen};
use crate::spec::{Problem, Severity};
use crate::types::{RunName, Timestamp};

/// Says what is new in a plan: each action, and each reason once.
pub fn plan(look: &Look, told: &mut BTreeSet<String>, format: LogFormat) {
    let plan = &look.plan;
    let mut still = BTreeSet::new();
    for seen in &look.sources {
        if seen.message.is_some() {
            let key = source_key(seen);
            if !told.contains(&key) {
                warn!(source = %seen.name, revision = %seen.revision, "{key}");
            }
            still.insert(key);
        }
    }
    for one in &plan.problems {
        if !told.contains(&one.to_string()) {
            problem(one, format);
        }
        still.insert(one.to_string());
    }
    actions(look, told.is_empty());
    for not_done in plan.not_done() {
        let key = key(not_done);
        if !told.contains(&key) && not_done.reason != Reason::UpToDate {
            let until = not_done.until.map(|at| at.to_string()).unwrap_or_default();
            info!(pipeline = %not_done.pipeline, reason = %not_done.reason, until, "{not_done}");
        }
        still.insert(key);
    }
    *told = still;
}

/// The same of what ails a source.
pub fn source_key(seen: &SourceSeen) -> String {
    let message = seen.message.as_deref().unwrap_or_default();
    format!("source {}: {message}", seen.name)
}

/// What tells one reason from another, so that each is told once.
pub fn key(not_done: &NotDone) -> String {
    format!("{}: {}: {}", not_done.pipeline, not_done.reason, not_done.message)
}

/// Says what a plan does; what it only records where that is wanted.
pub fn actions(look: &Look, records: bool) {
    for (id, action) in look.plan.actions() {
        let run = action.run().map(|run| format!(" {run}")).unwrap_or_default();
        if !matches!(action, Action::Record { .. }) || records {
            let trigger = action.trigger().map(|one| one.kind.word()).unwrap_or_default();
            info!(
                pipeline = %id, source = %id.source, run = run.trim_start(), trigger,
                "{} {id}{run}: {}", action.word(), action.reason()
            );
        }
    }
}

fn problem(one: &Problem, format: LogFormat) {
    let hint = one.hint.as_deref().unwrap_or_default();
    match (format, one.severity) {
        (LogFormat::Text, _) => print::problem(one),
        (LogFormat::Json, Severity::Error) => {
            error!(file = one.file, line = one.line, column = one.column, hint, "{}", one.message);
        }
        (LogFormat::Json, Severity::Warning) => {
            warn!(file = one.file, line = one.line, column = one.column, hint, "{}", one.message);
        }
    }
}

/// Says what could not be done.
pub fn applied(applied: &Applied) -> Code {
    let mut code = Code::Done;
    for error in &applied.failed {
        error!(run = %error.run, "error: {error}");
        code = code.worse(Code::Unreachable);
    }
    for error in &applied.refused {
        error!("error: {error}");
        code = code.worse(Code::Usage);
    }
    code
}

/// Says which of the runs that were started have ended, and how; these are the answer.
///
/// # Errors
/// The state cannot be read.
pub fn ends<E>(
    open: &mut BTreeSet<RunName>,
    find: impl Fn(&RunName) -> Result<Option<Run>, E>,
) -> Result<Vec<Run>, E> {
    let mut ended = Vec::new();
    for name in open.clone() {
        match find(&name)? {
            Some(run) if !run.phase.is_ended() => continue,
            Some(run) => {
                end(&run);
                ended.push(run);
            }
            None => {}
        }
        open.remove(&name);
    }
    Ok(ended)
}

/// Says how a run ended.
pub fn end(run: &Run) {
    let message = run.message.as_ref().map(|words| format!(": {words}")).unwrap_or_default();
    info!(
        pipeline = run.pipeline, source = run.source, run = %run.name, phase = %run.phase,
        seconds = run.started_at.zip(run.finished_at).map(|(from, to)| seconds(from, to)),
        "{} {}{message}", run.name, run.phase
    );
}

fn seconds(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.duration_since(from).as_secs()).unwrap_or(0)
}
