//! The schedule trigger: which instants are due, and what becomes of each.
//!
//! Owns how schedule cursors move: an edit never fires an instant from before it, a clock that
//! steps back never fires again, and what is skipped is skipped for good.

use super::ledger::{Covered, Ledger, ScheduleCursor};
use super::report::Reason;
use crate::schedule::{Verdict, admit};
use crate::spec::Schedule;
use crate::types::{Timestamp, TriggerKind};

/// So many edited or removed schedules are remembered.
const FORMER: usize = 20;

/// What becomes of ticks, in their order: a run, or a reason why not.
pub type Ticks = Vec<(Timestamp, Option<Reason>)>;

/// Advances the schedule cursors to `now`. Returns the ticks that are due. `blocked` says why none may
/// run.
pub fn advance(
    ledger: &mut Ledger,
    schedules: &[Schedule],
    blocked: Option<Reason>,
    now: Timestamp,
) -> Ticks {
    let mut wanted = Vec::new();
    let mut skipped = Vec::new();
    let old = std::mem::take(&mut ledger.schedules);
    let edited = |index: usize| old.len() == schedules.len() && index < schedules.len();
    for (index, cursor) in old.iter().enumerate() {
        if schedules.iter().any(|schedule| cursor.is_of(schedule)) {
            continue;
        }
        if let Some(cron) = cursor.cron() {
            ledger.former.push(Covered::new(&cron, cursor.effective, now));
            let surplus = ledger.former.len().saturating_sub(FORMER);
            ledger.former.drain(..surplus);
        }
        // Of an edited schedule the old policy holds up to now; of a removed one nothing runs.
        for (instant, verdict) in due(cursor, now) {
            match verdict {
                Verdict::Run if edited(index) && blocked.is_none() => wanted.push(instant),
                _ => skipped.push((Reason::Missed, instant)),
            }
        }
    }
    for schedule in schedules {
        let Some(cursor) = old.iter().find(|cursor| cursor.is_of(schedule)) else {
            ledger.schedules.push(ScheduleCursor::new(schedule, now));
            continue;
        };
        let mut cursor = cursor.clone();
        // What was due before an edit follows the policy from before it.
        if cursor.next.is_some_and(|next| next <= now) {
            for (instant, verdict) in due(&cursor, now) {
                match (verdict, blocked) {
                    (_, Some(reason)) => skipped.push((reason, instant)),
                    (Verdict::Run, None) => wanted.push(instant),
                    (Verdict::Missed, None) => skipped.push((Reason::Missed, instant)),
                    (Verdict::TooLate, None) => skipped.push((Reason::TooLate, instant)),
                }
            }
            cursor.answered = now;
            cursor.next = schedule.cron.next(now);
        }
        (cursor.missed, cursor.max_lateness) = (schedule.missed, schedule.max_lateness);
        ledger.schedules.push(cursor);
    }
    // One run for one instant, whichever line named it: a claim outranks a skip.
    let wanted = wanted.into_iter().map(|instant| (instant, None));
    let skipped = skipped.into_iter().map(|(reason, instant)| (instant, Some(reason)));
    let mut ticks: Ticks = wanted.chain(skipped).collect();
    ticks.sort_by_key(|(instant, _)| *instant);
    ticks.dedup_by_key(|(instant, _)| *instant);
    ticks
}

/// Records what became of ticks.
pub fn record(ledger: &mut Ledger, ticks: &[(Timestamp, Option<Reason>)]) {
    for (instant, reason) in ticks {
        match reason {
            Some(reason) => ledger.skip(TriggerKind::Schedule, *instant, *reason),
            None => ledger.last_tick = ledger.last_tick.max(Some(*instant)),
        }
    }
}

fn due(cursor: &ScheduleCursor, now: Timestamp) -> Vec<(Timestamp, Verdict)> {
    if cursor.next.is_none_or(|next| next > now) {
        return Vec::new();
    }
    let Some(cron) = cursor.cron() else { return Vec::new() };
    let instants = cron.between(cursor.answered.max(cursor.effective), now, usize::MAX);
    admit(&instants, cursor.missed, cursor.max_lateness, now)
}
