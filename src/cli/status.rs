//! `status`: pipelines, their triggers, and the newest runs.

use std::path::PathBuf;

use super::documents::{PipelineStatus, SourceStatus, StatusDocument, TriggerState, TriggerStatus};
use super::error::{CliError, Code};
use super::follow::took;
use super::global::Global;
use super::print;
use super::run::pause;
use super::session::{LOCAL, Session};
use super::signals::Signals;
use crate::plan::{Action, NotDone, Reason, Run};
use crate::reconcile::{Look, Seeing};
use crate::spec::Severity;
use crate::store::Store;
use crate::types::{PipelineId, Timestamp, TriggerKind};

/// How many runs a status lists.
const NEWEST: usize = 20;

/// Show pipelines, their triggers and the newest runs
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A folder
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Show it again whenever it changes
    #[arg(short = 'w', long)]
    watch: bool,
    /// How many runs are listed
    #[arg(long, value_name = "N", default_value_t = NEWEST)]
    runs: usize,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global) -> Result<Code, CliError> {
    if !args.watch {
        let mut session = Session::to_read(global, &args.path)?;
        let runs = newest(&session, args.runs)?;
        return print_status(global, &mut session, runs).map(|()| Code::Done);
    }
    let signals = Signals::listen()?;
    let mut last = None;
    while signals.count() == 0 {
        let mut session = Session::to_read(global, &args.path)?;
        let pulse = (session.store.pulse()?, Timestamp::now().as_second() / 2);
        if last != Some(pulse) {
            last = Some(pulse);
            print::clear_screen();
            let runs = newest(&session, args.runs)?;
            print_status(global, &mut session, runs)?;
        }
        pause(200);
    }
    Ok(signals.received().map_or(Code::Done, Code::Signal))
}

fn newest(session: &Session, count: usize) -> Result<Vec<Run>, CliError> {
    let stored = session.store.runs(count)?;
    let full = stored.into_iter().map(|stored| {
        let full = session.store.run(stored.run.name.as_str())?.unwrap_or(stored);
        Ok(session.as_it_stands(full.run))
    });
    full.collect()
}

/// Prints the status of a place with these runs.
pub fn print_status(
    global: &Global,
    session: &mut Session,
    runs: Vec<Run>,
) -> Result<(), CliError> {
    let now = Timestamp::now();
    let (source, look) = match session.look_twice(Timestamp::now) {
        Ok(look) => {
            let revision = look.revision.clone();
            let name = LOCAL.to_owned();
            (SourceStatus { name, revision, ready: true, message: None }, Some(look))
        }
        Err(error) => {
            let message = Some(error.to_string());
            let (name, revision) = (LOCAL.to_owned(), String::new());
            (SourceStatus { name, revision, ready: false, message }, None)
        }
    };
    let mut pipelines = Vec::new();
    for (id, seeing) in look.iter().flat_map(Look::pipelines) {
        if seeing.pipeline.is_some() {
            let own = session.store.runs_of(id)?;
            let own: Vec<Run> = own.into_iter().map(|stored| stored.run).collect();
            let not_done = look.iter().flat_map(|look| look.plan.not_done());
            let not_done: Vec<&NotDone> =
                not_done.filter(|not_done| not_done.pipeline == id.to_string()).collect();
            let actions = look.iter().flat_map(|look| look.plan.actions());
            let wanted: Vec<&Action> =
                actions.filter(|(other, _)| *other == id).map(|(_, action)| action).collect();
            pipelines.push(pipeline_status(id, seeing, &own, &not_done, &wanted));
        }
    }
    // Warnings are for `validate` and `plan`.
    let problems = look.iter().flat_map(|look| &look.plan.problems);
    problems.filter(|one| one.severity == Severity::Error).for_each(print::problem);
    let document = StatusDocument { sources: vec![source], pipelines, runs };
    let names = || document.runs.iter().map(|run| run.name.to_string()).collect();
    print::document(global.output, "Status", &document, || table(&document, now), names)
}

fn pipeline_status(
    id: &PipelineId,
    seeing: &Seeing,
    runs: &[Run],
    not_done: &[&NotDone],
    wanted: &[&Action],
) -> PipelineStatus {
    let ledger = seeing.stored.as_ref().map(|row| row.ledger.clone()).unwrap_or_default();
    let suspended = ledger.suspended.is_some();
    let newest = |kind: Option<TriggerKind>| {
        let of_kind = runs.iter().filter(|run| kind.is_none_or(|kind| run.trigger.kind == kind));
        of_kind.max_by_key(|run| run.created_at)
    };
    let next_run = ledger.schedules.iter().filter_map(|schedule| schedule.next).min();
    let said = |reasons: &[Reason]| not_done.iter().find(|one| reasons.contains(&one.reason));
    // What the next pass would start is wanted, and waits for that pass.
    let due = |kind: TriggerKind| {
        let of_kind = |action: &&&Action| action.trigger().is_some_and(|own| own.kind == kind);
        wanted.iter().find(of_kind).map(|action| format!("next pass: {}", action.reason()))
    };
    let trigger = |kind: TriggerKind, state: TriggerState, message: Option<String>| TriggerStatus {
        kind,
        state: if suspended && state != TriggerState::NotExecutedYet {
            TriggerState::Suspended
        } else {
            state
        },
        message,
        last_at: newest(Some(kind)).map(|run| run.created_at),
        next_at: next_run.filter(|_| kind == TriggerKind::Schedule && !suspended),
    };
    let mut triggers = Vec::new();
    if let Some(pipeline) = &seeing.pipeline {
        let wanted = pipeline.triggers();
        if wanted.change {
            let waiting = [Reason::Settling, Reason::Waiting, Reason::MissingSecret];
            let unknown = [Reason::SourceUnreadable, Reason::InvalidFile, Reason::Unknown];
            let due = due(TriggerKind::Change);
            let (state, message) = match (said(&unknown), said(&waiting)) {
                (None, _) if due.is_some() => (TriggerState::Waiting, due),
                (Some(not_done), _) => (TriggerState::Unknown, Some(not_done.message.clone())),
                (None, Some(not_done)) => (TriggerState::Waiting, Some(not_done.message.clone())),
                (None, None) => (TriggerState::Idle, None),
            };
            triggers.push(trigger(TriggerKind::Change, state, message));
        }
        for schedule in &wanted.schedules {
            let line = format!("{} ({})", schedule.cron.line(), schedule.cron.zone().name());
            let state = match due(TriggerKind::Schedule) {
                Some(_) => TriggerState::Waiting,
                None => TriggerState::Idle,
            };
            triggers.push(trigger(TriggerKind::Schedule, state, Some(line)));
        }
        for (there, kind) in [
            (wanted.stale.is_some(), TriggerKind::Stale),
            (wanted.check.is_some(), TriggerKind::Check),
            (!wanted.pipelines.is_empty(), TriggerKind::Pipelines),
            (wanted.pull_request, TriggerKind::PullRequest),
        ] {
            if there {
                let message = Some("valid, not executed by this version".to_owned());
                triggers.push(trigger(kind, TriggerState::NotExecutedYet, message));
            }
        }
    }
    let quiet = [Reason::UpToDate, Reason::NotExecutedYet];
    PipelineStatus {
        name: id.name.to_string(),
        folder: id.folder.clone(),
        source: id.source.clone(),
        ready: seeing.ready,
        message: not_done
            .iter()
            .find(|one| !quiet.contains(&one.reason))
            .map(|one| format!("{}: {}", one.reason, one.message))
            .or_else(|| due(TriggerKind::Change)),
        suspended,
        last_run: newest(None).map(|run| run.name.clone()),
        next_run: next_run.filter(|_| !suspended),
        triggers,
    }
}

fn table(status: &StatusDocument, now: Timestamp) -> String {
    let mut parts = Vec::new();
    for source in status.sources.iter().filter(|source| !source.ready) {
        parts.push(format!("source {}: {}", source.name, source.message.as_deref().unwrap_or("")));
    }
    let pipelines = status.pipelines.iter().map(|pipeline| {
        let name = if pipeline.folder.is_empty() {
            pipeline.name.clone()
        } else {
            format!("{}:{}", pipeline.folder, pipeline.name)
        };
        let triggers: Vec<&str> = pipeline.triggers.iter().map(|one| one.kind.word()).collect();
        let ready = if pipeline.suspended {
            "suspended"
        } else if pipeline.ready {
            "yes"
        } else {
            "no"
        };
        vec![
            name,
            ready.to_owned(),
            if triggers.is_empty() { "manual".to_owned() } else { triggers.join(",") },
            pipeline.next_run.map(|at| format!("{at:.0}")).unwrap_or_default(),
            pipeline.message.clone().unwrap_or_default(),
        ]
    });
    let pipelines: Vec<_> = pipelines.collect();
    if pipelines.is_empty() {
        parts.push("no pipeline here; `jupyterflow init` writes a first one".into());
    } else {
        parts.push(print::table(
            &["PIPELINE", "READY", "TRIGGERS", "NEXT RUN", "MESSAGE"],
            pipelines,
        ));
    }
    let runs = status.runs.iter().map(|run| {
        let time = took(run.started_at, run.finished_at.or(run.started_at.map(|_| now)));
        vec![
            run.name.to_string(),
            print::phase(run.phase),
            run.trigger.kind.to_string(),
            format!("{:.0}", run.created_at),
            time.unwrap_or_default(),
            run.message.clone().unwrap_or_default(),
        ]
    });
    let runs: Vec<_> = runs.collect();
    if !runs.is_empty() {
        parts.push(print::table(&["RUN", "PHASE", "TRIGGER", "CREATED", "TIME", "MESSAGE"], runs));
    }
    parts.join("\n\n")
}
