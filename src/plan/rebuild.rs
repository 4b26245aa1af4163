//! Cursors from records alone: of a pipeline whose ledger was lost while its runs' records were not.
//!
//! Owns one rule: what was ever recorded is answered. Schedules take effect anew, so that no instant from
//! before is fired.

use std::sync::Arc;

use super::ledger::{Ledger, Success, Tries};
use super::run::{Phase, Run};
use crate::spec::Fingerprint;
use crate::types::{RunName, TriggerKind};

/// The ledger that covers all of these runs, each with what its pipeline was.
pub fn rebuilt(records: &[(&Run, Option<u64>, Option<&Fingerprint>)]) -> Ledger {
    let mut ledger = Ledger::default();
    let mut in_order: Vec<_> = records.iter().collect();
    in_order.sort_by_key(|(run, _, _)| (run.created_at, run.name.clone()));
    for (run, ended, fingerprint) in in_order {
        let key = run.trigger.key.as_str();
        match run.trigger.kind {
            TriggerKind::Change => {
                let generation = key.parse().unwrap_or(0);
                if generation >= ledger.change.generation {
                    ledger.change.generation = generation;
                    ledger.change.accepted = fingerprint.map(|one| Arc::new(one.clone()));
                }
            }
            TriggerKind::Schedule => {
                ledger.last_tick = ledger.last_tick.max(run.trigger.scheduled_at);
            }
            TriggerKind::Stale => {
                let (base, tries) = tries(run);
                ledger.stale.success = RunName::from_stored(base).ok().filter(|_| base != "none");
                ledger.stale.tries = tries;
            }
            TriggerKind::Check => {
                let (base, tries) = tries(run);
                let cursor = &mut ledger.check;
                cursor.answered.retain(|(other, _)| other != base);
                cursor.answered.push((base.to_owned(), tries));
                let number = base.strip_prefix("episode-").and_then(|one| one.parse().ok());
                cursor.episode = cursor.episode.max(number.unwrap_or(0));
                // Whatever said so may still say so, and means the same.
                cursor.since = Some(run.created_at);
            }
            TriggerKind::Pipelines => {
                ledger.pipelines.answers = ledger.pipelines.answers.max(key.parse().unwrap_or(0));
            }
            TriggerKind::PullRequest | TriggerKind::Manual => {}
        }
        let counts = run.phase == Phase::Succeeded && run.trigger.kind != TriggerKind::PullRequest;
        if let (true, Some(at), Some(ordinal)) = (counts, run.finished_at, *ended)
            && ledger.success.as_ref().is_none_or(|known| known.ordinal < ordinal)
        {
            ledger.success = Some(Success { run: run.name.clone(), at, ordinal });
        }
    }
    ledger
}

/// What a try answers, and how many there were with it.
fn tries(run: &Run) -> (&str, Tries) {
    let (base, count) = run.trigger.key.rsplit_once('/').unwrap_or((&run.trigger.key, "1"));
    let count = count.parse().unwrap_or(1);
    (base, Tries { count, run: Some(run.name.clone()), at: Some(run.created_at) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Trigger;
    use crate::types::{PipelineId, RunId, Timestamp};

    fn run(kind: TriggerKind, key: &str, second: i64, phase: Phase) -> Run {
        let id = PipelineId {
            source: "team/homes".into(),
            folder: String::new(),
            name: "p".parse().unwrap(),
        };
        let own = RunId::new(&id, kind, key);
        let name = own.name(&id.name, None);
        let trigger = Trigger { kind, key: key.into(), scheduled_at: None, retry_of: None };
        let at = Timestamp::from_second(second).unwrap();
        let claimed =
            Run::claimed(&id, (own, name), trigger, String::new(), indexmap::IndexMap::new(), at);
        Run { phase, finished_at: Some(at), ..claimed }
    }

    #[test]
    fn all_that_was_recorded_is_answered() {
        let first = run(TriggerKind::Change, "1", 10, Phase::Succeeded);
        let second = run(TriggerKind::Change, "2", 20, Phase::Unknown);
        let stale = run(TriggerKind::Stale, &format!("{}/3", first.name), 30, Phase::Failed);
        let check = run(TriggerKind::Check, "episode-4/2", 40, Phase::Failed);
        let others = run(TriggerKind::Pipelines, "7", 50, Phase::Succeeded);
        let print = Fingerprint::new_empty();
        // In whatever order they are found.
        let ledger = rebuilt(&[
            (&others, Some(5), None),
            (&second, Some(2), Some(&print)),
            (&check, Some(4), None),
            (&first, Some(1), None),
            (&stale, Some(3), None),
        ]);
        assert_eq!(ledger.change.generation, 2);
        assert_eq!(ledger.change.accepted.as_deref(), Some(&print));
        assert_eq!((ledger.stale.tries.count, ledger.stale.success), (3, Some(first.name)));
        assert_eq!((ledger.check.episode, ledger.check.answered.len()), (4, 1));
        assert_eq!(ledger.pipelines.answers, 7);
        assert_eq!(ledger.success.unwrap().run, others.name);
        assert_eq!(ledger.schedules, []);
    }
}
