//! The queue: what was claimed is finished first, as the pipeline's `concurrency` has it.
//!
//! Owns which run starts next, and which gives way to a newer one.

use super::Planner;
use crate::plan::action::Action;
use crate::plan::observed::{Observed, RunFact, Seen};
use crate::plan::report::Reason;
use crate::plan::run::Phase;
use crate::spec::Concurrency;
use crate::types::RunName;

impl Planner<'_> {
    /// Finishes what was claimed: hosts for runs without one, stops that are wanted.
    pub(super) fn finish_claims(&mut self) {
        let facts = self.facts;
        // Whatever was started already comes first, then the queue in its order.
        let started = |run: &&RunFact| run.phase != Phase::Pending || run.host != Observed::Absent;
        let open = facts.runs.iter().filter(|run| !run.phase.is_ended());
        let (at_work, queued): (Vec<_>, Vec<_>) = open.partition(started);
        // Of what waits, requests of persons keep their place.
        let newest = queued.iter().rev().find(|run| !run.requested);
        let by = newest.map(|run| run.name.clone()).filter(|_| self.policy == Concurrency::Replace);
        for run in at_work {
            self.at_work(run, by.as_ref());
        }
        for run in queued {
            let by = by.clone().filter(|by| *by != run.name && !run.requested);
            self.queued(run, by);
        }
    }

    fn at_work(&mut self, run: &RunFact, by: Option<&RunName>) {
        match run.host {
            Observed::Known(()) if run.stop_requested => {
                self.stop(run, "its end was asked for".into(), true, None);
            }
            Observed::Known(()) => match by {
                Some(by) => self.stop(run, format!("run {by} replaces it"), true, Some(by.clone())),
                None => self.not(Reason::Waiting, format!("run {} is at work", run.name), None),
            },
            Observed::Unknown => {
                let message = format!("nobody can say whether run {} has a host", run.name);
                self.not(Reason::Unknown, message, None);
            }
            Observed::Absent if run.stop_requested => {
                let reason = "its end was asked for, and its host is gone".into();
                return self.stop(run, reason, false, None);
            }
            Observed::Absent => {
                let reason = "its host was lost".into();
                let (run, trigger) = (run.name.clone(), run.trigger.clone());
                self.actions.push(Action::Start { run, trigger, reason });
            }
        }
        self.busy.get_or_insert_with(|| run.name.clone());
    }

    fn queued(&mut self, run: &RunFact, by: Option<RunName>) {
        let (name, trigger) = (run.name.clone(), run.trigger.clone());
        if run.stop_requested {
            return self.stop(run, "its end was asked for".into(), false, None);
        }
        if let Some(by) = by {
            return self.stop(run, format!("run {by} replaces it"), false, Some(by));
        }
        if self.facts.seen == Seen::Gone {
            let message = format!("run {name} does not begin: its pipeline is gone");
            return self.not(Reason::Orphaned, message, None);
        }
        if let Some(other) = self.busy.clone().filter(|_| self.policy != Concurrency::Allow) {
            return self.not(Reason::Waiting, format!("run {name} waits for run {other}"), None);
        }
        self.busy.get_or_insert_with(|| name.clone());
        if let Some(lacks) = self.facts.lacks {
            self.not(Reason::MissingSecret, format!("run {name} waits: {lacks}"), None);
        } else if self.take_room() {
            let reason = "it is the next in the queue".into();
            self.actions.push(Action::Start { run: name, trigger, reason });
        } else {
            self.not(Reason::LimitReached, format!("run {name} waits for others to end"), None);
        }
    }

    /// Whether one more run may start; if so, it counts.
    pub(super) fn take_room(&mut self) -> bool {
        let free = self.room > 0;
        self.room = self.room.saturating_sub(1);
        free
    }

    pub(super) fn stop(
        &mut self,
        run: &RunFact,
        reason: String,
        hosted: bool,
        by: Option<RunName>,
    ) {
        let (run, trigger) = (run.name.clone(), run.trigger.clone());
        self.actions.push(Action::Stop { run, trigger, reason, hosted, by });
    }

    /// Stops what is open so that a run that was just claimed can begin.
    pub(super) fn make_way(&mut self, by: &RunName) {
        let facts = self.facts;
        let open = facts.runs.iter().filter(|run| !run.phase.is_ended() && !run.stop_requested);
        for run in open {
            let waits = run.phase == Phase::Pending && run.host == Observed::Absent;
            let stopped = self.actions.iter().any(
                |action| matches!(action, Action::Stop { run: other, .. } if *other == run.name),
            );
            // What waits for a person's request, or just starts for one, is not ours to end.
            if stopped || (waits && run.requested) {
                continue;
            }
            self.actions.retain(
                |action| !matches!(action, Action::Start { run: other, .. } if *other == run.name),
            );
            let hosted = run.host != Observed::Absent;
            self.stop(run, format!("run {by} replaces it"), hosted, Some(by.clone()));
        }
    }
}
