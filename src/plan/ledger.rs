//! The ledger of one pipeline: which triggers were already answered.
//!
//! Owns the cursors. What a cursor covers is answered, record or none: neither a removed run nor a
//! removed folder makes it wanted again.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::observed::RunFact;
use super::report::Reason;
use super::run::Phase;
use crate::schedule::{Cron, MissedPolicy, Zone};
use crate::spec::{Fingerprint, Schedule};
use crate::types::{Period, PipelineId, RunId, RunName, Timestamp, TriggerKind};

/// The cursors of a pipeline.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ledger {
    /// How far changes are answered.
    pub change: ChangeCursor,
    /// How far each schedule is answered, in the order of the file.
    pub schedules: Vec<ScheduleCursor>,
    /// How often a success that went stale was answered.
    pub stale: StaleCursor,
    /// How far the replies of a check are answered.
    pub check: CheckCursor,
    /// How far successes of other pipelines are answered.
    pub pipelines: PipelinesCursor,
    /// The newest success, also when its record is gone.
    pub success: Option<Success>,
    /// The newest tick that a run answers.
    pub last_tick: Option<Timestamp>,
    /// Instants that `backfill` answered, from before their schedule took effect.
    pub backfilled: Vec<Covered>,
    /// Schedules that were edited or removed, with the time in which they held; the newest 20.
    pub former: Vec<Covered>,
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
    /// The run of another trigger that answered it, where one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<RunName>,
}

impl ChangeCursor {
    /// The run that answered the newest change of a pipeline; none before the first.
    pub fn answered_by(&self, id: &PipelineId) -> Option<RunName> {
        let own = || RunId::new(id, TriggerKind::Change, &self.generation.to_string());
        let run = || self.run.clone().unwrap_or_else(|| own().name(&id.name, None));
        (self.generation > 0).then(run)
    }
}

/// A run that ended well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Success {
    /// Which.
    pub run: RunName,
    /// When it ended, by its own clock.
    pub at: Timestamp,
    /// Its place in the order in which runs ended, which no clock can turn round.
    pub ordinal: u64,
}

impl Success {
    /// The newest among runs; those of pull requests do not count.
    pub fn newest(runs: &[RunFact]) -> Option<Self> {
        let good = runs.iter().filter(|run| {
            run.phase == Phase::Succeeded && run.trigger.kind != TriggerKind::PullRequest
        });
        let known = good.filter_map(|run| {
            Some(Self { run: run.name.clone(), at: run.finished_at?, ordinal: run.ended? })
        });
        known.max_by_key(|one| one.ordinal)
    }
}

/// How often a success that went stale was answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StaleCursor {
    /// The success; none where there never was one.
    pub success: Option<RunName>,
    /// The tries that answered it.
    pub tries: Tries,
}

/// How far the replies of a check are answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckCursor {
    /// The number of times that a reply turned from no to yes.
    pub episode: u64,
    /// Since when the replies say yes.
    pub since: Option<Timestamp>,
    /// What was answered, by the reply's key or the episode; the newest 20.
    pub answered: Vec<(String, Tries)>,
}

/// Runs that tried to answer the same thing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tries {
    /// How many.
    pub count: u64,
    /// The newest.
    pub run: Option<RunName>,
    /// When that was claimed.
    pub at: Option<Timestamp>,
}

/// How far successes of other pipelines are answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PipelinesCursor {
    /// The number of answers.
    pub answers: u64,
    /// Of each pipeline, by its name in the file, the ordinal of its last answered success.
    pub answered: BTreeMap<String, u64>,
}

/// Instants of one schedule that are answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Covered {
    /// The crontab line.
    pub cron: String,
    /// Its zone.
    pub timezone: String,
    /// The first.
    pub from: Timestamp,
    /// The last.
    pub to: Timestamp,
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
        let change = ChangeCursor { accepted: None, ..self.change.clone() };
        newest.then(|| Self { change, ..self.clone() })
    }

    /// Records a tick that did not run, joined to the record before where the reason is the same and
    /// no tick between them has a run.
    pub fn skip(&mut self, trigger: TriggerKind, at: Timestamp, reason: Reason) {
        let tick = self.last_tick;
        match self.skips.last_mut() {
            Some(last)
                if last.trigger == trigger
                    && last.reason == reason
                    && last.to < at
                    && tick.is_none_or(|tick| tick <= last.to) =>
            {
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
