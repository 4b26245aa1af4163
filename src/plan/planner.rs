//! The planner: facts of a pipeline in, its plan out.
//!
//! Owns the order of the decisions: what was claimed is finished first, then ticks are answered,
//! then changes. It is idempotent: applied and asked again, it has nothing to do.

use std::sync::Arc;

use super::action::{Action, Claim, PipelinePlan};
use super::change::{self, Change};
use super::ledger::Ledger;
use super::observed::{Definition, Observed, PipelineFacts, RunFact, Seen, settled_at};
use super::report::{NotDone, Reason};
use super::run::{Phase, Trigger};
use super::ticks;
use crate::spec::{Concurrency, Pipeline, Work};
use crate::types::{RunId, Timestamp, TriggerKind};

/// Plans one pipeline. Nothing but the arguments decides.
pub fn plan(facts: &PipelineFacts<'_>, now: Timestamp) -> PipelinePlan {
    let mut planner = Planner {
        facts,
        now,
        actions: Vec::new(),
        not_done: Vec::new(),
        ledger: facts.ledger.clone(),
        busy: None,
    };
    planner.finish_claims();
    planner.orphans();
    if let Some(definition) = &facts.definition {
        planner.schedules(definition);
        planner.changes(definition);
        planner.later_work(definition.pipeline);
    } else if let Seen::Invalid(message) | Seen::Unreadable(message) = &facts.seen {
        let reason = if matches!(facts.seen, Seen::Invalid(_)) {
            Reason::InvalidFile
        } else {
            Reason::SourceUnreadable
        };
        planner.not(reason, message.clone(), None);
    }
    // What a later version will do says nothing about what this one has done.
    let later = |not_done: &NotDone| not_done.reason == Reason::NotExecutedYet;
    if let Some(since) = planner.ledger.suspended
        && planner.not_done.iter().all(later)
    {
        planner.not(Reason::Suspended, format!("suspended since {since}"), None);
    }
    if planner.actions.is_empty() && planner.not_done.iter().all(later) {
        let (next, message) = planner.answered();
        planner.not(Reason::UpToDate, message, next);
    }
    PipelinePlan { actions: planner.actions, not_done: planner.not_done, ledger: planner.ledger }
}

struct Planner<'a> {
    facts: &'a PipelineFacts<'a>,
    now: Timestamp,
    actions: Vec<Action>,
    not_done: Vec<NotDone>,
    ledger: Ledger,
    /// The run that the others wait for.
    busy: Option<String>,
}

impl Planner<'_> {
    fn not(&mut self, reason: Reason, message: String, until: Option<Timestamp>) {
        // Whoever lacks something names the reason too; once is enough.
        let message = message.replacen(&format!("{reason}: "), "", 1);
        let pipeline = self.facts.id.to_string();
        self.not_done.push(NotDone { pipeline, reason, message, until });
    }

    /// Finishes what was claimed: hosts for runs without one, stops that were asked for.
    fn finish_claims(&mut self) {
        let facts = self.facts;
        // Whatever was started already comes first, then the queue in its order.
        let started = |run: &&RunFact| run.phase != Phase::Pending || run.host != Observed::Absent;
        let open = facts.runs.iter().filter(|run| !run.phase.is_ended());
        let (at_work, queued): (Vec<_>, Vec<_>) = open.partition(started);
        for run in at_work {
            match run.host {
                Observed::Known(()) if run.stop_requested => {
                    let reason = "a person asked for it".into();
                    let (run, trigger) = (run.name.clone(), run.trigger.clone());
                    self.actions.push(Action::Stop { run, trigger, reason, hosted: true });
                }
                Observed::Known(()) => {
                    self.not(Reason::Waiting, format!("run {} is at work", run.name), None);
                }
                Observed::Unknown => {
                    let message = format!("nobody can say whether run {} has a host", run.name);
                    self.not(Reason::Unknown, message, None);
                }
                Observed::Absent if run.stop_requested => {
                    let reason = "a person asked for it, and its host is gone".into();
                    let (run, trigger) = (run.name.clone(), run.trigger.clone());
                    self.actions.push(Action::Stop { run, trigger, reason, hosted: false });
                    continue;
                }
                Observed::Absent => {
                    let reason = "its host was lost".into();
                    let (run, trigger) = (run.name.clone(), run.trigger.clone());
                    self.actions.push(Action::Start { run, trigger, reason });
                }
            }
            self.busy.get_or_insert_with(|| run.name.to_string());
        }
        for run in queued {
            let (name, trigger) = (run.name.clone(), run.trigger.clone());
            if run.stop_requested {
                let reason = "a person asked for it".into();
                self.actions.push(Action::Stop { run: name, trigger, reason, hosted: false });
                continue;
            }
            if facts.seen == Seen::Gone {
                let message = format!("run {name} does not begin: its pipeline is gone");
                self.not(Reason::Orphaned, message, None);
                continue;
            }
            match (&self.busy, facts.lacks) {
                (Some(other), _) => {
                    let message = format!("run {name} waits for run {other}");
                    self.not(Reason::Waiting, message, None);
                }
                (None, Some(lacks)) => {
                    self.not(Reason::MissingSecret, format!("run {name} waits: {lacks}"), None);
                    self.busy = Some(name.to_string());
                }
                (None, None) => {
                    self.busy = Some(name.to_string());
                    let reason = "it is the next in the queue".into();
                    self.actions.push(Action::Start { run: name, trigger, reason });
                }
            }
        }
    }

    /// What is answered, in words, and when the next tick is.
    fn answered(&self) -> (Option<Timestamp>, String) {
        let cursor = &self.ledger.change;
        let mut words = Vec::new();
        if cursor.generation > 0 {
            let id = RunId::new(self.facts.id, TriggerKind::Change, &cursor.generation.to_string());
            let run = id.name(&self.facts.id.name, None);
            words.push(format!("nothing changed since run {run}"));
        }
        let next = self.ledger.schedules.iter().filter_map(|cursor| cursor.next).min();
        words.extend(next.map(|_| "the next tick is to come".to_owned()));
        if words.is_empty() {
            words.push("its runs are asked for by hand".into());
        }
        (next, words.join("; "))
    }

    fn orphans(&mut self) {
        if self.facts.seen != Seen::Gone {
            self.ledger.orphaned = None;
            return;
        }
        let since = *self.ledger.orphaned.get_or_insert(self.now);
        if self.facts.ledger.orphaned.is_none() {
            self.actions
                .push(Action::Record { reason: "the pipeline is gone from its source".into() });
        }
        let moved = self.ledger.moved.as_ref().map(|to| format!("; it is {to} now"));
        let moved = moved.unwrap_or_default();
        self.not(Reason::Orphaned, format!("gone from its source since {since}{moved}"), None);
    }

    fn schedules(&mut self, definition: &Definition<'_>) {
        if self.facts.seen == Seen::Gone {
            return;
        }
        let schedules = definition.schedules;
        let resource = definition.pipeline.steps().iter().any(|step| is_resource(step.work()));
        let blocked = match self.ledger.suspended {
            Some(_) => Some(Reason::Suspended),
            None => resource.then_some(Reason::NotExecutedYet),
        };
        let known = self.ledger.schedules.clone();
        let (wanted, skipped) = ticks::advance(&mut self.ledger, schedules, blocked, self.now);
        for instant in wanted {
            let trigger = Trigger {
                kind: TriggerKind::Schedule,
                key: instant.to_string(),
                scheduled_at: Some(instant),
                retry_of: None,
            };
            let id = RunId::new(self.facts.id, trigger.kind, &trigger.key);
            let name = id.name(&self.facts.id.name, Some(instant));
            let late = self.now.duration_since(instant).as_secs();
            let mut because = vec![format!("scheduled at {instant}")];
            if late > 60 {
                because.push(format!(
                    "missed by {}",
                    crate::types::Period::from_seconds(late.unsigned_abs())
                ));
            }
            let start = self.busy.is_none() && self.facts.lacks.is_none();
            if let Some(lacks) = self.facts.lacks {
                because.push(format!("waiting: {lacks}"));
            } else if let Some(other) = &self.busy {
                because.push(format!("queued behind {other}"));
            }
            self.busy.get_or_insert_with(|| name.to_string());
            self.actions.push(Action::Claim(Claim { id, name, trigger, because, start }));
        }
        if let (Some((reason, first)), Some((_, last))) = (skipped.first(), skipped.last()) {
            let message = format!("{} ticks from {first} to {last} do not run", skipped.len());
            self.not(*reason, message.clone(), None);
            self.actions.push(Action::Record { reason: format!("{reason}: {message}") });
        }
        let new = self.ledger.schedules.iter().filter(|cursor| {
            !known.iter().any(|old| old.cron == cursor.cron && old.timezone == cursor.timezone)
        });
        let words: Vec<String> = new
            .map(|cursor| format!("schedule {} ({}) takes effect", cursor.cron, cursor.timezone))
            .collect();
        let removed = known.len() + words.len() > self.ledger.schedules.len();
        let removed = removed.then(|| "a schedule is gone".to_owned());
        for reason in words.into_iter().chain(removed) {
            self.actions.push(Action::Record { reason });
        }
    }

    fn changes(&mut self, definition: &Definition<'_>) {
        match &self.facts.seen {
            Seen::Good => {}
            Seen::Gone => return,
            Seen::Invalid(message) => {
                let message = format!("{message}; the last good version stays in force");
                return self.not(Reason::InvalidFile, message, None);
            }
            Seen::Unreadable(message) => {
                return self.not(Reason::SourceUnreadable, message.clone(), None);
            }
        }
        if !definition.pipeline.triggers().change {
            return;
        }
        let generation = self.ledger.change.generation + 1;
        let because = match change::judge(definition, &self.ledger, self.facts.runs) {
            Change::None => return,
            Change::WrittenByRun { files, run } => {
                self.ledger.change.accepted = Some(Arc::new(definition.fingerprint.clone()));
                let message = format!("run {run} wrote {}", files.join(", "));
                self.actions.push(Action::Record { reason: format!("WrittenByRun: {message}") });
                return self.not(Reason::WrittenByRun, message, None);
            }
            Change::Wanted(because) => because,
        };
        let why = because.join("; ");
        if self.ledger.suspended.is_some() {
            return self.not(Reason::Suspended, format!("suspended; waiting: {why}"), None);
        }
        if let Some(step) = definition.pipeline.steps().iter().find(|step| is_resource(step.work()))
        {
            let message = format!("step `{}` is a resource: it needs the argo engine", step.name());
            return self.not(Reason::NotExecutedYet, message, None);
        }
        let still = settled_at(definition.still_since, self.facts.settle);
        if still > self.now {
            return self.not(Reason::Settling, why, Some(still));
        }
        if let Some(other) = &self.busy {
            let message = format!("after run {other}: {why}");
            return self.not(Reason::Waiting, message, None);
        }
        if let Some(lacks) = self.facts.lacks {
            return self.not(Reason::MissingSecret, format!("{lacks}; waiting: {why}"), None);
        }
        let trigger = Trigger {
            kind: TriggerKind::Change,
            key: generation.to_string(),
            scheduled_at: None,
            retry_of: None,
        };
        let id = RunId::new(self.facts.id, trigger.kind, &trigger.key);
        let name = id.name(&self.facts.id.name, None);
        self.ledger.change.generation = generation;
        self.ledger.change.accepted = Some(Arc::new(definition.fingerprint.clone()));
        self.busy = Some(name.to_string());
        self.actions.push(Action::Claim(Claim { id, name, trigger, because, start: true }));
    }

    /// Says in so many words what this version validates but does not execute.
    fn later_work(&mut self, pipeline: &Pipeline) {
        let triggers = pipeline.triggers();
        let mut words = Vec::new();
        for (there, word) in [
            (triggers.stale.is_some(), "trigger `stale`"),
            (triggers.check.is_some(), "trigger `check`"),
            (!triggers.pipelines.is_empty(), "trigger `pipelines`"),
            (triggers.pull_request, "trigger `pullRequest`"),
            (!pipeline.deployments().is_empty(), "`deploy`"),
            (pipeline.concurrency() != Concurrency::Queue, "`concurrency` other than queue"),
            (pipeline.steps().iter().any(|step| step.image().is_some()), "`image`"),
            (pipeline.steps().iter().any(|step| is_resource(step.work())), "`resource`"),
        ] {
            if there {
                words.push(word);
            }
        }
        for word in words {
            self.not(Reason::NotExecutedYet, format!("{word} is valid but not executed yet"), None);
        }
    }
}

fn is_resource(work: &Work) -> bool {
    matches!(work, Work::Resource(_))
}

#[cfg(test)]
#[path = "planner_tests.rs"]
mod tests;
