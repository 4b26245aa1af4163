//! The schedule trigger: which instants are due, and what becomes of each.
//!
//! Owns how schedule cursors move: an edit never fires an instant from before it, a clock that
//! steps back never fires again, and what is skipped is skipped for good.

use super::ledger::{Ledger, ScheduleCursor};
use super::report::Reason;
use crate::schedule::{Verdict, admit};
use crate::spec::Schedule;
use crate::types::{Timestamp, TriggerKind};

/// Advances the schedule cursors to `now`. Returns the instants that want a run, in order, and how
/// many were skipped for each reason. `blocked` says why none may run.
pub fn advance(
    ledger: &mut Ledger,
    schedules: &[Schedule],
    blocked: Option<Reason>,
    now: Timestamp,
) -> (Vec<Timestamp>, Vec<(Reason, Timestamp)>) {
    let mut wanted = Vec::new();
    let mut skipped = Vec::new();
    let old = std::mem::take(&mut ledger.schedules);
    let edited = |index: usize| old.len() == schedules.len() && index < schedules.len();
    for (index, cursor) in old.iter().enumerate() {
        if schedules.iter().any(|schedule| cursor.is_of(schedule)) {
            continue;
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
    wanted.sort_unstable();
    wanted.dedup();
    // One run for one instant, whichever line named it: a claim outranks a skip.
    skipped.retain(|(_, instant)| !wanted.contains(instant));
    skipped.sort_by_key(|(_, instant)| *instant);
    skipped.dedup_by_key(|(_, instant)| *instant);
    for (reason, instant) in &skipped {
        ledger.skip(TriggerKind::Schedule, *instant, *reason);
    }
    (wanted, skipped)
}

fn due(cursor: &ScheduleCursor, now: Timestamp) -> Vec<(Timestamp, Verdict)> {
    if cursor.next.is_none_or(|next| next > now) {
        return Vec::new();
    }
    let Some(cron) = cursor.cron() else { return Vec::new() };
    let instants = cron.between(cursor.answered.max(cursor.effective), now, usize::MAX);
    admit(&instants, cursor.missed, cursor.max_lateness, now)
}
