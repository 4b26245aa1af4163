//! `explain`: which cell, file, parameter or instant made a run wanted, or why none is.

use super::documents::ExplanationDocument;
use super::error::{CliError, Code};
use super::global::Global;
use super::print;
use super::records::{Found, Where, find, recorded};
use super::session::Session;
use super::status;
use crate::plan::{Action, Ledger, NotDone, Run};
use crate::store::{Store, StoredRun};
use crate::types::{PipelineId, Timestamp};

/// So many records of skipped ticks are shown.
const SKIPS: usize = 10;

/// Say why a run exists, or why a pipeline has none to come
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A pipeline, or a run
    what: String,
    #[command(flatten)]
    place: Where,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global) -> Result<Code, CliError> {
    // A run's name may begin as a pipeline's is.
    let of_run = |found| match found {
        Found::Here(session, stored) => of_run(session.as_it_stands(&stored), stored),
        Found::There(_, stored) => of_run(stored.run.clone(), stored),
    };
    let document = match find(global, &args.place, &args.what) {
        Ok(found) if found.run().as_str() == args.what => of_run(found),
        found => match of_pipeline(args, global) {
            Ok(document) => document,
            Err(error) => of_run(found.map_err(|_| error)?),
        },
    };
    let names = || document.run.iter().map(ToString::to_string).collect();
    print::document(global.output, "Explanation", &document, || table(&document), names)?;
    Ok(Code::Done)
}

fn of_run(run: Run, stored: StoredRun) -> ExplanationDocument {
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

fn of_pipeline(args: &Args, global: &Global) -> Result<ExplanationDocument, CliError> {
    if let Some((records, known)) = recorded(global, &args.place, &args.what)? {
        let not_done = status::not_done(&records, &known.id).into_iter();
        let last = records.store.runs_of(&known.id)?;
        let mut because = Vec::new();
        because.extend(last.iter().max_by_key(|stored| stored.run.created_at).map(newest));
        return Ok(ExplanationDocument {
            pipeline: known.id.to_string(),
            run: None,
            phase: None,
            trigger: None,
            because,
            not_done: not_done.chain(skipped(&known.id, &known.ledger)).collect(),
        });
    }
    let mut session = Session::to_read(global, &args.place.path)?;
    let look = session.look_twice(Timestamp::now)?;
    let id = session.find_pipeline(&look, &args.what)?;
    let actions = look.plan.actions().filter(|(other, _)| **other == id);
    let actions: Vec<&Action> = actions.map(|(_, action)| action).collect();
    let next = actions.iter().find_map(|action| Some((action.run()?, *action)));
    let because = actions.iter().map(|action| format!("{}: {}", action.word(), action.reason()));
    let mut because: Vec<String> = because.collect();
    // Without anything to do, what was done last explains most.
    let last = session.store.runs_of(&id)?.into_iter().max_by_key(|stored| stored.run.created_at);
    because.extend(last.filter(|_| next.is_none()).as_ref().map(newest));
    let of_plan = look.plan.not_done().filter(|one| one.pipeline == id.to_string()).cloned();
    let mut not_done: Vec<NotDone> = of_plan.collect();
    let row = look.pipelines().find(|(other, _)| **other == id);
    let ledger = row.and_then(|(_, seeing)| seeing.stored.as_ref()).map(|row| &row.ledger);
    not_done.extend(ledger.into_iter().flat_map(|ledger| skipped(&id, ledger)));
    Ok(ExplanationDocument {
        pipeline: id.to_string(),
        run: next.map(|(run, _)| run.clone()),
        phase: None,
        trigger: next.and_then(|(_, action): (_, &Action)| action.trigger().cloned()),
        because,
        not_done,
    })
}

fn newest(last: &StoredRun) -> String {
    let (run, because) = (&last.run, last.spec.because.join("; "));
    format!("the newest run is {} ({}), made because: {because}", run.name, run.phase)
}

/// Ticks that passed without a run, newest first.
fn skipped(id: &PipelineId, ledger: &Ledger) -> Vec<NotDone> {
    let skips = ledger.skips.iter().rev().take(SKIPS);
    let told = skips.map(|skip| NotDone {
        pipeline: id.to_string(),
        trigger: Some(skip.trigger),
        reason: skip.reason,
        message: match skip.count {
            1 => format!("the tick of {} did not run", skip.from),
            count => format!("{count} ticks from {} to {} did not run", skip.from, skip.to),
        },
        until: None,
    });
    told.collect()
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
    lines.extend(
        explanation.because.iter().map(|words| format!("  because: {}", print::printable(words))),
    );
    let not_done = explanation.not_done.iter();
    lines.extend(
        not_done
            .map(|one| format!("  not done: {}: {}", one.reason, print::printable(&one.message))),
    );
    lines.join("\n")
}
