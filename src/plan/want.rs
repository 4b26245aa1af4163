//! Wants: runs that should exist and that no tick of a clock names, until one is claimed.
//!
//! Owns their shape, what a claim writes into the ledger, and the pauses between tries. A want is
//! found anew on each look, so that one which has to wait is never a record that could be lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use indexmap::IndexMap;
use jiff::SignedDuration;
use serde_json::Value;

use super::ledger::{ChangeCursor, Ledger, Tries};
use super::observed::RunFact;
use super::report::Reason;
use super::run::Phase;
use crate::spec::Fingerprint;
use crate::types::{RunName, Timestamp, TriggerKind};

/// The pause after a first try, in hours; it doubles with each further one,
const FIRST_PAUSE: i64 = 1;
/// up to this.
const LONGEST_PAUSE: i64 = 24;
/// So many answered replies of a check are remembered.
const REMEMBERED: usize = 20;

/// What a trigger says.
#[derive(Debug, PartialEq)]
pub enum Judgement {
    /// Nothing is wanted; perhaps at that instant.
    Nothing(Option<Timestamp>),
    /// Not now.
    Later(Reason, String, Option<Timestamp>),
    /// A run.
    Wanted(Want),
}

/// A wanted run.
#[derive(Debug, PartialEq)]
pub struct Want {
    /// Which trigger.
    pub kind: TriggerKind,
    /// What it answers.
    pub key: String,
    /// Since when it is wanted.
    pub since: Timestamp,
    /// In words, most telling first.
    pub because: Vec<String>,
    /// Parameters that the trigger gives.
    pub params: IndexMap<String, Value>,
    /// What its claim writes.
    pub answer: Answer,
}

/// What the claim of a wanted run answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// A change.
    Change(Arc<Fingerprint>),
    /// A success that went stale, or that there is none.
    Stale(Option<RunName>),
    /// A reply, by its key or episode.
    Check(String),
    /// Successes of other pipelines.
    Pipelines(BTreeMap<String, u64>),
}

impl Ledger {
    /// Moves the cursor that an answer is about.
    pub fn answer(&mut self, answer: Answer, run: &RunName, now: Timestamp) {
        match answer {
            Answer::Change(fingerprint) => {
                let generation = self.change.generation + 1;
                self.change = ChangeCursor { generation, accepted: Some(fingerprint), run: None };
            }
            Answer::Stale(success) => {
                if self.stale.success != success {
                    self.stale.tries = Tries::default();
                }
                self.stale.success = success;
                self.stale.tries.add(run, now);
            }
            Answer::Check(base) => {
                let known = self.check.answered.iter().position(|(other, _)| *other == base);
                let mut tries =
                    known.map(|at| self.check.answered.remove(at).1).unwrap_or_default();
                tries.add(run, now);
                self.check.answered.push((base, tries));
                let surplus = self.check.answered.len().saturating_sub(REMEMBERED);
                self.check.answered.drain(..surplus);
            }
            Answer::Pipelines(answered) => {
                self.pipelines.answers += 1;
                self.pipelines.answered = answered;
            }
        }
    }

    /// Moves the cursor of a want whose place another run took. What asks again by itself stays
    /// wanted until that run ends well.
    pub fn supersede(&mut self, answer: Answer, by: &RunName, now: Timestamp) {
        let change = matches!(answer, Answer::Change(_));
        if change || matches!(answer, Answer::Pipelines(_)) {
            self.answer(answer, by, now);
        }
        if change {
            self.change.run = Some(by.clone());
        }
    }
}

impl Tries {
    fn add(&mut self, run: &RunName, now: Timestamp) {
        *self = Self { count: self.count + 1, run: Some(run.clone()), at: Some(now) };
    }

    /// The newest of them, where it is still known.
    pub fn newest<'a>(&self, runs: &'a [RunFact]) -> Option<&'a RunFact> {
        runs.iter().find(|run| Some(&run.name) == self.run.as_ref())
    }

    /// Whether the newest is known to have ended well.
    pub fn succeeded(&self, runs: &[RunFact]) -> bool {
        self.newest(runs).is_some_and(|run| run.phase == Phase::Succeeded)
    }

    /// When the next may follow: an hour after the end of the first, then twice as long each time.
    pub fn next(&self, runs: &[RunFact]) -> Option<Timestamp> {
        let end = self.newest(runs).and_then(|run| run.finished_at).or(self.at)?;
        let doublings = u32::try_from(self.count.saturating_sub(1)).unwrap_or(u32::MAX).min(8);
        let hours = (FIRST_PAUSE << doublings).min(LONGEST_PAUSE);
        end.checked_add(SignedDuration::from_hours(hours)).ok()
    }
}
