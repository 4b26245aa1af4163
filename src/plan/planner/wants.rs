//! What the triggers want besides ticks, and which of it becomes a run.
//!
//! Owns that of several wants the newest is claimed and takes the place of the others.

use std::sync::Arc;

use indexmap::IndexMap;

use super::{Planner, is_resource};
use crate::plan::action::{Action, Claim};
use crate::plan::change::{self, Change};
use crate::plan::observed::{Definition, Seen, settled_at};
use crate::plan::report::Reason;
use crate::plan::run::Trigger;
use crate::plan::want::{Answer, Judgement, Want};
use crate::plan::{check, stale, upstream};
use crate::spec::Concurrency;
use crate::types::{RunId, RunName, TriggerKind};

impl Planner<'_> {
    /// Claims the newest want of all triggers but schedules, where there is room for it.
    pub(super) fn wants(&mut self, definition: &Definition<'_>) {
        if self.facts.seen == Seen::Gone {
            return;
        }
        let judged = [
            (TriggerKind::Change, self.change(definition)),
            (TriggerKind::Pipelines, self.upstreams()),
            (TriggerKind::Check, self.check(definition)),
            (TriggerKind::Stale, self.stale(definition)),
        ];
        let mut wanted: Vec<Want> = Vec::new();
        for (kind, judgement) in judged {
            match judgement {
                Judgement::Nothing(next) => self.next.extend(next),
                Judgement::Later(reason, message, until) => {
                    self.not_for(Some(kind), reason, message, until);
                }
                Judgement::Wanted(want) => match &self.busy {
                    // Whatever is open may be what they ask for.
                    Some(other) if matches!(kind, TriggerKind::Stale | TriggerKind::Check) => {
                        let message = format!("after run {other}: {}", want.because.join("; "));
                        self.not_for(Some(kind), Reason::Waiting, message, None);
                    }
                    _ => wanted.push(want),
                },
            }
        }
        if wanted.is_empty() {
            return;
        }
        if let Some((reason, why)) = self.hold(definition) {
            for want in wanted {
                let message = format!("{why}: {}", want.because.join("; "));
                self.not_for(Some(want.kind), reason, message, None);
            }
            return;
        }
        // The first of those that are equally new.
        wanted.sort_by_key(|want| std::cmp::Reverse(want.since));
        let tick = self.actions.iter().find_map(|action| match action {
            Action::Claim(claim) => Some(claim.name.clone()),
            _ => None,
        });
        if let Some(tick) = tick.filter(|_| self.policy == Concurrency::Replace) {
            // The tick of this very pass runs what the others want; it would only be replaced.
            wanted.into_iter().for_each(|want| self.supersede(want, &tick));
            return;
        }
        let mut wanted = wanted.into_iter();
        let Some(newest) = wanted.next() else { return };
        let trigger =
            Trigger { kind: newest.kind, key: newest.key, scheduled_at: None, retry_of: None };
        let id = RunId::new(self.facts.id, trigger.kind, &trigger.key);
        let name = id.name(&self.facts.id.name, None);
        let start = self.busy.is_none() || self.policy == Concurrency::Allow;
        if start {
            self.take_room();
        } else {
            self.make_way(&name);
        }
        self.busy.get_or_insert_with(|| name.clone());
        let mut because = newest.because;
        for other in wanted {
            because.extend(other.because.clone());
            self.supersede(other, &name);
        }
        self.ledger.answer(newest.answer, &name, self.now);
        let params = newest.params;
        self.actions.push(Action::Claim(Claim { id, name, trigger, because, params, start }));
    }

    fn supersede(&mut self, want: Want, by: &RunName) {
        let message = format!("run {by} takes the place of: {}", want.because.join("; "));
        self.not_for(Some(want.kind), Reason::Superseded, message, None);
        self.ledger.supersede(want.answer, by, self.now);
    }

    /// Why nothing that is wanted may be claimed now.
    fn hold(&self, definition: &Definition<'_>) -> Option<(Reason, String)> {
        let mut steps = definition.pipeline.steps().iter();
        if let Some(step) = steps.find(|step| is_resource(step.work()) && !self.facts.on_cluster) {
            let why = format!("step `{}` is a resource: it needs the argo engine", step.name());
            return Some((Reason::NotExecutedYet, why));
        }
        if self.ledger.suspended.is_some() {
            return Some((Reason::Suspended, "suspended; waiting".into()));
        }
        match (&self.busy, self.policy) {
            (Some(other), Concurrency::Queue) => {
                return Some((Reason::Waiting, format!("after run {other}")));
            }
            (Some(other), Concurrency::Forbid) => {
                return Some((Reason::Forbidden, format!("not beside run {other}")));
            }
            (None, _) | (_, Concurrency::Allow | Concurrency::Replace) => {}
        }
        if let Some(lacks) = self.facts.lacks {
            return Some((Reason::MissingSecret, format!("{lacks}; waiting")));
        }
        let full = self.room == 0;
        full.then(|| (Reason::LimitReached, "as many runs as may be are at work; waiting".into()))
    }

    fn change(&mut self, definition: &Definition<'_>) -> Judgement {
        match &self.facts.seen {
            Seen::Good | Seen::Gone => {}
            Seen::Invalid(message) => {
                let message = format!("{message}; the last good version stays in force");
                return Judgement::Later(Reason::InvalidFile, message, None);
            }
            Seen::Unreadable(message) => {
                return Judgement::Later(Reason::SourceUnreadable, message.clone(), None);
            }
        }
        if !definition.pipeline.triggers().change {
            return Judgement::Nothing(None);
        }
        let because = match change::judge(definition, &self.ledger, self.facts.runs) {
            Change::None => return Judgement::Nothing(None),
            Change::WrittenByRun { files, run } => {
                self.ledger.change.accepted = Some(Arc::new(definition.fingerprint.clone()));
                let message = format!("run {run} wrote {}", files.join(", "));
                self.actions.push(Action::Record { reason: format!("WrittenByRun: {message}") });
                return Judgement::Later(Reason::WrittenByRun, message, None);
            }
            Change::Wanted(because) => because,
        };
        let cursor = &self.ledger.change;
        let still = settled_at(definition.still_since, self.facts.settle);
        let first = cursor.generation == 0 && cursor.accepted.is_none();
        if still > self.now && self.ledger.suspended.is_none() {
            return Judgement::Later(Reason::Settling, because.join("; "), Some(still));
        }
        if self.facts.adopt && first {
            self.ledger.change.accepted = Some(Arc::new(definition.fingerprint.clone()));
            let message = "first sight is recorded without a run".to_owned();
            self.actions.push(Action::Record { reason: format!("Adopted: {message}") });
            return Judgement::Later(Reason::Adopted, message, None);
        }
        Judgement::Wanted(Want {
            kind: TriggerKind::Change,
            key: (cursor.generation + 1).to_string(),
            since: definition.still_since,
            because,
            params: IndexMap::new(),
            answer: Answer::Change(Arc::new(definition.fingerprint.clone())),
        })
    }

    fn upstreams(&mut self) -> Judgement {
        let (cursor, judgement) = upstream::judge(self.facts.upstreams, &self.ledger.pipelines);
        self.ledger.pipelines = cursor;
        judgement
    }

    fn check(&mut self, definition: &Definition<'_>) -> Judgement {
        let (Some(check), Some(seen)) = (&definition.pipeline.triggers().check, self.facts.check)
        else {
            return Judgement::Nothing(None);
        };
        let (cursor, judgement) =
            check::judge(&check.shown(), seen, &self.ledger.check, self.facts.runs, self.now);
        self.ledger.check = cursor;
        judgement
    }

    fn stale(&mut self, definition: &Definition<'_>) -> Judgement {
        let Some(stale) = &definition.pipeline.triggers().stale else {
            return Judgement::Nothing(None);
        };
        stale::judge(stale, &self.ledger, self.facts.runs, self.now)
    }
}
