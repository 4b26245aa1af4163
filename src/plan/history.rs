//! History: which ended runs are kept.
//!
//! Owns that rule alone. A record goes only where a cursor covers it, which all claims' do, and
//! never the newest of a trigger, nor the newest success.

use super::run::{Phase, Run};
use crate::spec::History;
use crate::types::{RunName, TriggerKind};

/// The ended runs of one pipeline that its history has no room for.
pub fn prunable(runs: &[&Run], history: History) -> Vec<RunName> {
    let mut ended: Vec<&&Run> = runs.iter().filter(|run| run.phase.is_ended()).collect();
    ended.sort_by(|a, b| (b.created_at, &b.name).cmp(&(a.created_at, &a.name)));
    let (mut successful, mut failed) = (0, 0);
    let mut newest: Vec<TriggerKind> = Vec::new();
    let mut going = Vec::new();
    for run in ended {
        let (count, limit) = if run.phase == Phase::Succeeded {
            (&mut successful, history.successful)
        } else {
            (&mut failed, history.failed)
        };
        *count += 1;
        let (count, limit) = (*count, limit);
        let first_success = run.phase == Phase::Succeeded && successful == 1;
        let first = !newest.contains(&run.trigger.kind) || first_success;
        newest.push(run.trigger.kind);
        if count > limit && !first {
            going.push(run.name.clone());
        }
    }
    going
}
