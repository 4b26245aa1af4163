//! `explain`: which cell, file, parameter or instant made a run wanted, or why none is.

use std::path::PathBuf;

use super::documents::ExplanationDocument;
use super::error::{CliError, Code};
use super::global::Global;
use super::print;
use super::session::Session;
use crate::plan::{Action, NotDone};
use crate::store::{Store, StoredRun};
use crate::types::Timestamp;

/// So many records of skipped ticks are shown.
const SKIPS: usize = 10;

/// Say why a run exists, or why a pipeline has none to come
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A pipeline, or a run
    what: String,
    /// The folder whose state is meant
    #[arg(long, default_value = ".", value_name = "PATH")]
    path: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global) -> Result<Code, CliError> {
    let mut session = Session::to_read(global, &args.path)?;
    let document = match session.store.run(&args.what)? {
        Some(stored) => of_run(&session, stored),
        None => match of_pipeline(&mut session, &args.what) {
            Ok(document) => document,
            Err(error) => match session.find_run(&args.what) {
                Ok(stored) => of_run(&session, stored),
                Err(_) => return Err(error),
            },
        },
    };
    let names = || document.run.iter().map(ToString::to_string).collect();
    print::document(global.output, "Explanation", &document, || table(&document), names)?;
    Ok(Code::Done)
}

fn of_run(session: &Session, stored: StoredRun) -> ExplanationDocument {
    let run = session.as_it_stands(&stored);
    let mut because = stored.spec.because;
    let given =
        run.params.iter().map(|(name, value)| format!("parameter {name} = {value} was given"));
    because.extend(given);
    because.extend(run.message.map(|words| format!("{}: {words}", run.phase)));
    ExplanationDocument {
        pipeline: stored.pipeline.to_string(),
        run: Some(run.name),
        phase: Some(run.phase),
        trigger: Some(run.trigger),
        because,
        not_done: Vec::new(),
    }
}

fn of_pipeline(session: &mut Session, name: &str) -> Result<ExplanationDocument, CliError> {
    let look = session.look_twice(Timestamp::now)?;
    let id = session.find_pipeline(&look, name)?;
    let actions = look.plan.actions().filter(|(other, _)| **other == id);
    let actions: Vec<&Action> = actions.map(|(_, action)| action).collect();
    let next = actions.iter().find_map(|action| Some((action.run()?, *action)));
    let because = actions.iter().map(|action| format!("{}: {}", action.word(), action.reason()));
    let mut because: Vec<String> = because.collect();
    // Without anything to do, what was done last explains most.
    let last = session.store.runs_of(&id)?.into_iter().max_by_key(|stored| stored.run.created_at);
    if let Some(last) = last.filter(|_| next.is_none()) {
        let run = &last.run;
        because.push(format!(
            "the newest run is {} ({}), made because: {}",
            run.name,
            run.phase,
            last.spec.because.join("; ")
        ));
    }
    let of_plan = look.plan.not_done().filter(|one| one.pipeline == id.to_string()).cloned();
    let mut not_done: Vec<NotDone> = of_plan.collect();
    let row = look.pipelines().find(|(other, _)| **other == id);
    let ledger = row.and_then(|(_, seeing)| seeing.stored.as_ref()).map(|row| &row.ledger);
    // Ticks that passed without a run, newest first.
    let skips = ledger.into_iter().flat_map(|ledger| ledger.skips.iter().rev()).take(SKIPS);
    not_done.extend(skips.map(|skip| NotDone {
        pipeline: id.to_string(),
        trigger: Some(skip.trigger),
        reason: skip.reason,
        message: match skip.count {
            1 => format!("the tick of {} did not run", skip.from),
            count => format!("{count} ticks from {} to {} did not run", skip.from, skip.to),
        },
        until: None,
    }));
    Ok(ExplanationDocument {
        pipeline: id.to_string(),
        run: next.map(|(run, _)| run.clone()),
        phase: None,
        trigger: next.and_then(|(_, action): (_, &Action)| action.trigger().cloned()),
        because,
        not_done,
    })
}

fn table(explanation: &ExplanationDocument) -> String {
    let mut lines = Vec::new();
    match (&explanation.run, explanation.phase) {
        (Some(run), Some(phase)) => {
            lines.push(format!("run {run} of {} is {phase}", explanation.pipeline));
        }
        (Some(run), None) => lines.push(format!("{}: run {run} is next", explanation.pipeline)),
        (None, _) => lines.push(format!("{}: no run is wanted", explanation.pipeline)),
    }
    if let Some(trigger) = &explanation.trigger {
        lines.push(format!("  trigger: {} {}", trigger.kind, trigger.key));
    }
    lines.extend(explanation.because.iter().map(|words| format!("  because: {words}")));
    let not_done = explanation.not_done.iter();
    lines.extend(not_done.map(|one| format!("  not done: {}: {}", one.reason, one.message)));
    lines.join("\n")
}
