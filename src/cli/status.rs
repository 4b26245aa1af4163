//! `status`: pipelines, their triggers, and the newest runs.

use std::path::PathBuf;

use super::documents::{PipelineStatus, SourceStatus, StatusDocument, TriggerState, TriggerStatus};
use super::error::{CliError, Code};
use super::follow::took;
use super::global::Global;
use super::lanes::LOCAL;
use super::print;
use super::records::{Namespace, Need, Records};
use super::run::pause;
use super::session::Session;
use super::signals::Signals;
use crate::plan::{Action, NotDone, Phase, Reason, Run};
use crate::reconcile::{Look, Seeing, SourceSeen};
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
    #[command(flatten)]
    of: Namespace,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global) -> Result<Code, CliError> {
    let records = match &args.of.namespace {
        Some(namespace) => Some(Records::open(namespace)?),
        None => Records::at_hand(global, Need::Look)?,
    };
    let records = records.as_ref();
    if !args.watch {
        let mut session = session(args, global)?;
        return show(args, global, session.as_mut(), records).map(|()| Code::Done);
    }
    let signals = Signals::listen()?;
    let mut last = None;
    while signals.count() == 0 {
        let mut session = session(args, global)?;
        let own = session.as_ref().map(|session| session.store.pulse()).transpose()?;
        let other = records.map(|records| records.store.pulse()).transpose()?;
        let pulse = (own, other, Timestamp::now().as_second() / 2);
        if last != Some(pulse) {
            last = Some(pulse);
            print::clear_screen();
            show(args, global, session.as_mut(), records)?;
        }
        pause(200);
    }
    Ok(signals.received().map_or(Code::Done, Code::Signal))
}

/// The folder's world, where no namespace is meant in its place.
fn session(args: &Args, global: &Global) -> Result<Option<Session>, CliError> {
    let here = args.of.namespace.is_none();
    here.then(|| Session::to_read(global, &args.path)).transpose()
}

/// What the folder's state and a cluster's records say, together.
fn show(
    args: &Args,
    global: &Global,
    session: Option<&mut Session>,
    records: Option<&Records>,
) -> Result<(), CliError> {
    let mut all = StatusDocument::default();
    if let Some(session) = session {
        let runs = newest(session, args.runs)?;
        all = document(session, runs)?;
        if let Some(records) = records {
            leave_to_controller(&mut all.pipelines, session, records)?;
        }
    }
    if let Some(records) = records {
        let theirs = recorded(records, args.runs)?;
        all.sources.extend(theirs.sources);
        all.pipelines.extend(theirs.pipelines);
        all.runs.extend(theirs.runs);
        all.runs.sort_by_key(|run| std::cmp::Reverse(run.created_at));
        all.runs.truncate(args.runs);
    }
    print(global, &all)
}

/// Leaves out what a controller has: pipelines that are published from here, and those that no `up` ever took
/// note of here and a controller has by that name.
fn leave_to_controller(
    shown: &mut Vec<PipelineStatus>,
    session: &Session,
    records: &Records,
) -> Result<(), CliError> {
    let kept = session.store.pipelines()?;
    let theirs = records.pipelines()?;
    let mut left = Vec::new();
    for own in shown.drain(..) {
        let Ok(name) = own.name.parse() else { continue };
        let id = PipelineId { source: own.source.clone(), folder: own.folder.clone(), name };
        let here = kept.iter().any(|row| row.id == id);
        let there = theirs.iter().any(|known| known.id.name == id.name);
        if records.that_of(&theirs, &session.place, &id).is_none() && (here || !there) {
            left.push(own);
        }
    }
    *shown = left;
    Ok(())
}

/// What a controller says of a pipeline for which nothing is done.
pub fn not_done(records: &Records, id: &PipelineId) -> Option<NotDone> {
    let ready = records.condition(id)?;
    let (pipeline, message) = (id.to_string(), ready.message);
    let reason = serde_json::from_value(ready.reason.into()).ok()?;
    Some(NotDone { pipeline, trigger: None, reason, message, until: None })
}

/// What the records of a cluster say.
fn recorded(records: &Records, count: usize) -> Result<StatusDocument, CliError> {
    let now = Timestamp::now();
    let mut document = StatusDocument::default();
    for row in records.pipelines()? {
        let id = row.id.clone();
        let not_done = not_done(records, &id);
        let own = records.store.runs_of(&id)?;
        let own: Vec<Run> = own.into_iter().map(|stored| stored.run).collect();
        let text = row.definition.clone();
        let seeing = Seeing {
            pipeline: text.as_ref().and_then(|text| text.pipeline(&id.name, usize::MAX)),
            text,
            ready: records.condition(&id).is_some_and(|one| one.status == "True"),
            stored: Some(row),
            ..Seeing::default()
        };
        let not_done: Vec<&NotDone> = not_done.iter().collect();
        document.pipelines.push(pipeline_status(&id, &seeing, &own, &not_done, &[], now));
        if !document.sources.iter().any(|known| known.name == id.source) {
            let gone = [Reason::SourceUnreadable, Reason::Orphaned];
            let trouble = not_done.iter().find(|one| gone.contains(&one.reason));
            document.sources.push(SourceStatus {
                name: id.source.clone(),
                revision: String::new(),
                ready: trouble.is_none(),
                message: trouble.map(|one| one.message.clone()),
            });
        }
    }
    document.runs = records.runs(count)?.into_iter().map(|stored| stored.run).collect();
    Ok(document)
}

fn newest(session: &Session, count: usize) -> Result<Vec<Run>, CliError> {
    let stored = session.store.runs(count)?;
    let full = stored.into_iter().map(|stored| {
        let full = session.store.run(stored.run.name.as_str())?.unwrap_or(stored);
        Ok(session.as_it_stands(&full))
    });
    full.collect()
}

/// Prints the status of a place with these runs.
pub fn print_status(
    global: &Global,
    session: &mut Session,
    runs: Vec<Run>,
) -> Result<(), CliError> {
    print(global, &document(session, runs)?)
}

fn print(global: &Global, document: &StatusDocument) -> Result<(), CliError> {
    let names = || document.runs.iter().map(|run| run.name.to_string()).collect();
    print::document(global.output, "Status", document, || table(document, Timestamp::now()), names)
}

/// The status of a place with these runs.
fn document(session: &mut Session, runs: Vec<Run>) -> Result<StatusDocument, CliError> {
    let now = Timestamp::now();
    let (sources, look) = match session.look_twice(Timestamp::now) {
        Ok(look) => {
            let status = |seen: &SourceSeen| SourceStatus {
                name: seen.name.clone(),
                revision: seen.revision.clone(),
                ready: seen.message.is_none(),
                message: seen.message.clone(),
            };
            (look.sources.iter().map(status).collect(), Some(look))
        }
        Err(error) => {
            let message = Some(error.to_string());
            let (name, revision) = (LOCAL.to_owned(), String::new());
            (vec![SourceStatus { name, revision, ready: false, message }], None)
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
            pipelines.push(pipeline_status(id, seeing, &own, &not_done, &wanted, now));
        }
    }
    // Warnings are for `validate` and `plan`.
    let problems = look.iter().flat_map(|look| &look.plan.problems);
    problems.filter(|one| one.severity == Severity::Error).for_each(print::problem);
    Ok(StatusDocument { sources, pipelines, runs })
}

fn pipeline_status(
    id: &PipelineId,
    seeing: &Seeing,
    runs: &[Run],
    not_done: &[&NotDone],
    wanted: &[&Action],
    now: Timestamp,
) -> PipelineStatus {
    let ledger = seeing.stored.as_ref().map(|row| row.ledger.clone()).unwrap_or_default();
    let suspended = ledger.suspended.is_some();
    let newest = |kind: Option<TriggerKind>| {
        let of_kind = runs.iter().filter(|run| kind.is_none_or(|kind| run.trigger.kind == kind));
        of_kind.max_by_key(|run| run.created_at)
    };
    let next_tick = ledger.schedules.iter().filter_map(|schedule| schedule.next).min();
    // What the next pass would start is wanted, and waits for that pass.
    let due = |kind: TriggerKind| {
        let of_kind = |action: &&&Action| action.trigger().is_some_and(|own| own.kind == kind);
        wanted.iter().find(of_kind).map(|action| format!("next pass: {}", action.reason()))
    };
    let trigger = |kind: TriggerKind, words: Option<String>, next: Option<Timestamp>| {
        let own = not_done.iter().find(|one| {
            let shared =
                matches!(state_of(one.reason), TriggerState::Waiting | TriggerState::Unknown);
            let change = kind == TriggerKind::Change && one.trigger.is_none();
            one.trigger == Some(kind) || (change && shared)
        });
        let known = own.map_or(TriggerState::Idle, |own| state_of(own.reason));
        let due = due(kind).filter(|_| known != TriggerState::Unknown);
        let (state, message) = match (due, known) {
            (Some(due), _) => (TriggerState::Waiting, Some(due)),
            (None, TriggerState::Idle) => (known, None),
            (None, _) => (known, own.map(|own| own.message.clone())),
        };
        let state = if suspended && state != TriggerState::NotExecutedYet {
            TriggerState::Suspended
        } else {
            state
        };
        let next =
            own.filter(|_| state == TriggerState::Backoff).and_then(|own| own.until).or(next);
        TriggerStatus {
            kind,
            state,
            message: words.or(message),
            last_at: newest(Some(kind)).map(|run| run.created_at),
            next_at: next.filter(|_| !suspended),
        }
    };
    let mut triggers = Vec::new();
    if let Some(pipeline) = &seeing.pipeline {
        let wanted = pipeline.triggers();
        if wanted.change {
            triggers.push(trigger(TriggerKind::Change, None, None));
        }
        for schedule in &wanted.schedules {
            let line = format!("{} ({})", schedule.cron.line(), schedule.cron.zone().name());
            let next = ledger.schedules.iter().find(|cursor| cursor.is_of(schedule));
            let next = next.and_then(|cursor| cursor.next);
            triggers.push(trigger(TriggerKind::Schedule, Some(line), next));
        }
        if let Some(stale) = &wanted.stale {
            let at = ledger.success.as_ref().and_then(|success| stale.due(success.at));
            triggers.push(trigger(TriggerKind::Stale, None, at.filter(|at| *at > now)));
        }
        if wanted.check.is_some() {
            triggers.push(trigger(TriggerKind::Check, None, None));
        }
        if !wanted.pipelines.is_empty() {
            triggers.push(trigger(TriggerKind::Pipelines, None, None));
        }
        if wanted.pull_request {
            triggers.push(trigger(TriggerKind::PullRequest, None, None));
        }
    }
    let next_run = triggers.iter().filter_map(|one| one.next_at).chain(next_tick).min();
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
            .or_else(|| due(TriggerKind::Change))
            .or_else(|| last_failure(runs, now)),
        suspended,
        last_run: newest(None).map(|run| run.name.clone()),
        next_run: next_run.filter(|_| !suspended),
        triggers,
    }
}

/// The newest run's failure with its age, where it failed.
fn last_failure(runs: &[Run], now: Timestamp) -> Option<String> {
    let ended = runs.iter().filter(|run| run.phase.is_ended() && run.phase != Phase::Skipped);
    let last = ended.max_by_key(|run| run.finished_at).filter(|run| run.phase == Phase::Failed)?;
    let age = took(last.finished_at, Some(now)).unwrap_or_default();
    let why = last.message.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
    Some(format!("run {} failed {age} ago{why}", last.name))
}

/// Where a trigger stands for which something is not done.
fn state_of(reason: Reason) -> TriggerState {
    match reason {
        Reason::UpToDate
        | Reason::Adopted
        | Reason::WrittenByRun
        | Reason::SourceChanged
        | Reason::Missed
        | Reason::TooLate
        | Reason::Orphaned
        | Reason::ManagedElsewhere
        | Reason::NameTaken
        | Reason::MissingOutput => TriggerState::Idle,
        Reason::Settling
        | Reason::Waiting
        | Reason::Superseded
        | Reason::Forbidden
        | Reason::LimitReached
        | Reason::MissingSecret => TriggerState::Waiting,
        Reason::Backoff | Reason::StillNeeded => TriggerState::Backoff,
        Reason::Suspended => TriggerState::Suspended,
        Reason::NotExecutedYet => TriggerState::NotExecutedYet,
        Reason::SourceUnreadable | Reason::InvalidFile | Reason::Unknown => TriggerState::Unknown,
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
            print::printable(pipeline.message.as_deref().unwrap_or_default()),
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
            print::printable(run.message.as_deref().unwrap_or_default()),
        ]
    });
    let runs: Vec<_> = runs.collect();
    if !runs.is_empty() {
        parts.push(print::table(&["RUN", "PHASE", "TRIGGER", "CREATED", "TIME", "MESSAGE"], runs));
    }
    parts.join("\n\n")
}
