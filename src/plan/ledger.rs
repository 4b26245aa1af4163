//! The ledger of one pipeline: which triggers were already answered.
//!
//! Owns the cursors. What a cursor covers is answered, record or none: neither a removed run nor a
//! removed folder makes it wanted again.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::report::Reason;
use crate::schedule::{Cron, MissedPolicy, Zone};
use crate::spec::{Fingerprint, Schedule};
use crate::types::{Period, Timestamp, TriggerKind};

/// The cursors of a pipeline.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ledger {
    /// How far changes are answered.
    pub change: ChangeCursor,
    /// How far each schedule is answered, in the order of the file.
    pub schedules: Vec<ScheduleCursor>,
    /// Since when triggers start nothing.
    pub suspended: Option<Timestamp>,
    /// Ticks that did not run, consecutive ones of a reason in one record; the newest 50.
    pub skips: Vec<SkipRecord>,
    /// Since when the pipeline is gone from its source.
    pub orphaned: Option<Timestamp>,
    /// Where its cursors went, of a pipeline that was moved.
    pub moved: Option<String>,
}

/// How far changes are answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ChangeCursor {
    /// The number of changes that were accepted.
    pub generation: u64,
    /// The newest accepted one; none before the first, or where it was withdrawn.
    pub accepted: Option<Arc<Fingerprint>>,
}

/// How far a schedule is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleCursor {
    /// The crontab line.
    pub cron: String,
    /// Its zone.
    pub timezone: String,
    /// What to do with missed ticks.
    pub missed: MissedPolicy,
    /// Later ticks are skipped.
    pub max_lateness: Option<Period>,
    /// When it took effect: earlier instants are none of its own.
    pub effective: Timestamp,
    /// All its instants up to here are answered.
    pub answered: Timestamp,
    /// Its first instant after that; none where there is no more.
    pub next: Option<Timestamp>,
}

/// Ticks that did not run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SkipRecord {
    /// The trigger.
    pub trigger: TriggerKind,
    /// The first.
    pub from: Timestamp,
    /// The last.
    pub to: Timestamp,
    /// How many.
    pub count: u64,
    /// Why.
    pub reason: Reason,
}

impl ScheduleCursor {
    /// The cursor of a schedule that takes effect now.
    pub fn new(schedule: &Schedule, now: Timestamp) -> Self {
        Self {
            cron: schedule.cron.line().to_owned(),
            timezone: schedule.cron.zone().name().to_owned(),
            missed: schedule.missed,
            max_lateness: schedule.max_lateness,
            effective: now,
            answered: now,
            next: schedule.cron.next(now),
        }
    }

    /// Whether it is the same line in the same zone.
    pub fn is_of(&self, schedule: &Schedule) -> bool {
        self.cron == schedule.cron.line() && self.timezone == schedule.cron.zone().name()
    }

    /// The line, parsed again; none where an embedded database no longer knows the zone.
    pub fn cron(&self) -> Option<Cron> {
        Cron::parse(&self.cron, Zone::named(&self.timezone).ok()?).ok()
    }
}

impl Ledger {
    /// The ledger after a change was taken back before its run began; none where a later change
    /// was accepted since, or this one is taken back already.
    pub fn without_change(&self, key: &str) -> Option<Self> {
        let newest = self.change.generation.to_string() == key && self.change.accepted.is_some();
        let change = ChangeCursor { generation: self.change.generation, accepted: None };
        newest.then(|| Self { change, ..self.clone() })
    }

    /// Records a tick that did not run, joined to the record before where the reason is the same.
    pub fn skip(&mut self, trigger: TriggerKind, at: Timestamp, reason: Reason) {
        match self.skips.last_mut() {
            Some(last) if last.trigger == trigger && last.reason == reason && last.to < at => {
                last.to = at;
                last.count += 1;
            }
            _ => {
                self.skips.push(SkipRecord { trigger, from: at, to: at, count: 1, reason });
                let surplus = self.skips.len().saturating_sub(50);
                self.skips.drain(..surplus);
            }
        }
    }
}
