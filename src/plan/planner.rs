//! The planner: facts of a pipeline in, its plan out.
//!
//! Owns the order of the decisions: what was claimed is finished first, then ticks are answered,
//! then all else that is wanted. It is idempotent: applied and asked again, it has nothing to do.

mod queue;
mod wants;

use super::action::{Action, Claim, PipelinePlan};
use super::ledger::{Ledger, Success};
use super::observed::{Definition, PipelineFacts, Seen};
use super::report::{NotDone, Reason};
use super::ticks;
use crate::spec::{Concurrency, Pipeline, Step, Work};
use crate::types::{RunName, Timestamp, TriggerKind};

/// Plans one pipeline. Nothing but the arguments decides.
pub fn plan(facts: &PipelineFacts<'_>, now: Timestamp) -> PipelinePlan {
    let mut planner = Planner {
        facts,
        now,
        actions: Vec::new(),
        not_done: Vec::new(),
        ledger: facts.ledger.clone(),
        policy: facts.definition.map_or(facts.policy, |one| one.pipeline.concurrency()),
        room: facts.room,
        busy: None,
        next: Vec::new(),
    };
    planner.take_note_of_success();
    planner.finish_claims();
    planner.orphans();
    if let Some(definition) = &facts.definition {
        planner.schedules(definition);
        planner.wants(definition);
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
    policy: Concurrency,
    /// How many more runs may start.
    room: usize,
    /// The run that the others wait for.
    busy: Option<RunName>,
    /// When triggers may want something.
    next: Vec<Timestamp>,
}

impl Planner<'_> {
    fn not(&mut self, reason: Reason, message: String, until: Option<Timestamp>) {
        self.not_for(None, reason, message, until);
    }

    fn not_for(
        &mut self,
        trigger: Option<TriggerKind>,
        reason: Reason,
        message: String,
        until: Option<Timestamp>,
    ) {
        // Whoever lacks something names the reason too; once is enough.
        let message = message.replacen(&format!("{reason}: "), "", 1);
        let pipeline = self.facts.id.to_string();
        self.not_done.push(NotDone { pipeline, trigger, reason, message, until });
    }

    /// What is answered, in words, and when the next tick is.
    fn answered(&self) -> (Option<Timestamp>, String) {
        let cursor = &self.ledger.change;
        let mut words = Vec::new();
        if let Some(run) = cursor.answered_by(self.facts.id) {
            words.push(format!("nothing changed since run {run}"));
        } else if cursor.accepted.is_some() {
            words.push("nothing changed since it was adopted".into());
        }
        let tick = self.ledger.schedules.iter().filter_map(|cursor| cursor.next).min();
        words.extend(tick.map(|_| "the next tick is to come".to_owned()));
        let next = self.next.iter().copied().chain(tick).min();
        if let Some(triggers) = self.facts.definition.map(|one| one.pipeline.triggers()) {
            let age = triggers.stale.as_ref().map(|stale| stale.max_age);
            words.extend(age.map(|age| format!("the newest success is younger than {age}")));
            words.extend(
                triggers.check.as_ref().map(|_| "the check says that none is needed".into()),
            );
            let waiting = (!triggers.pipelines.is_empty()).then(|| {
                let names: Vec<String> =
                    triggers.pipelines.iter().map(ToString::to_string).collect();
                format!("waiting for newer successes of {}", names.join(", "))
            });
            words.extend(waiting);
        }
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

    /// The newest success is remembered, so that it counts when its record is gone.
    fn take_note_of_success(&mut self) {
        let Some(newest) = Success::newest(self.facts.runs) else { return };
        if self.ledger.success.as_ref().is_none_or(|known| known.ordinal < newest.ordinal) {
            self.ledger.success = Some(newest);
        }
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
        let mut ticks = ticks::advance(&mut self.ledger, schedules, blocked, self.now);
        self.apply_policy(&mut ticks);
        ticks::record(&mut self.ledger, &ticks);
        for (instant, _) in ticks.iter().filter(|(_, reason)| reason.is_none()) {
            self.claim_tick(*instant);
        }
        let mut skipped: Vec<(Reason, Vec<Timestamp>)> = Vec::new();
        for (instant, reason) in ticks.iter().filter_map(|(at, reason)| Some((at, (*reason)?))) {
            match skipped.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, instants)) => instants.push(*instant),
                None => skipped.push((reason, vec![*instant])),
            }
        }
        for (reason, instants) in skipped {
            let (Some(first), Some(last)) = (instants.first(), instants.last()) else { continue };
            let message = match instants.len() {
                1 => format!("the tick of {first} does not run"),
                count => format!("{count} ticks from {first} to {last} do not run"),
            };
            self.not_for(Some(TriggerKind::Schedule), reason, message.clone(), None);
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

    /// Ticks that the pipeline's `concurrency` skips: beside a run at work, or before a newer tick.
    fn apply_policy(&self, ticks: &mut ticks::Ticks) {
        let mut wanted: Vec<&mut (Timestamp, Option<Reason>)> =
            ticks.iter_mut().filter(|(_, reason)| reason.is_none()).collect();
        match self.policy {
            Concurrency::Queue | Concurrency::Allow => {}
            Concurrency::Forbid => {
                let first = usize::from(self.busy.is_none());
                wanted.iter_mut().skip(first).for_each(|tick| tick.1 = Some(Reason::Forbidden));
            }
            Concurrency::Replace => {
                wanted.pop();
                wanted.into_iter().for_each(|tick| tick.1 = Some(Reason::Superseded));
            }
        }
    }

    fn claim_tick(&mut self, instant: Timestamp) {
        let late = self.now.duration_since(instant).as_secs();
        let mut because = vec![format!("scheduled at {instant}")];
        if late > 60 {
            let late = crate::types::Period::from_seconds(late.unsigned_abs());
            because.push(format!("missed by {late}"));
        }
        let free = self.busy.is_none() || self.policy == Concurrency::Allow;
        if let Some(lacks) = self.facts.lacks {
            because.push(format!("waiting: {lacks}"));
        } else if let Some(other) = self.busy.clone().filter(|_| !free) {
            because.push(format!("queued behind {other}"));
        }
        let start = free && self.facts.lacks.is_none() && self.take_room();
        let claim = Claim::of_tick(self.facts.id, instant, because, start);
        if self.policy == Concurrency::Replace && !free {
            self.make_way(&claim.name);
        }
        self.busy.get_or_insert_with(|| claim.name.clone());
        self.actions.push(Action::Claim(claim));
    }

    /// Says in so many words what this version validates but does not execute.
    fn later_work(&mut self, pipeline: &Pipeline) {
        let pull_request = Some(TriggerKind::PullRequest);
        let local = !self.facts.on_cluster;
        let any = |fits: fn(&Step) -> bool| local && pipeline.steps().iter().any(fits);
        for (there, trigger, word) in [
            (pipeline.triggers().pull_request, pull_request, "trigger `pullRequest`"),
            (!pipeline.deployments().is_empty(), None, "`deploy`"),
            (any(|step| step.image().is_some()), None, "`image`"),
            (any(|step| is_resource(step.work())), None, "`resource`"),
        ] {
            if there {
                let message = format!("{word} is valid but not executed yet");
                self.not_for(trigger, Reason::NotExecutedYet, message, None);
            }
        }
    }
}

fn is_resource(work: &Work) -> bool {
    matches!(work, Work::Resource(_))
}

#[cfg(test)]
#[path = "planner_tests.rs"]
mod tests;
