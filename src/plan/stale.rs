//! The stale trigger: is the newest success too old?
//!
//! Owns that decision. A failed try is followed by the next after a pause.

use indexmap::IndexMap;

use super::ledger::Ledger;
use super::observed::RunFact;
use super::report::Reason;
use super::want::{Answer, Judgement, Want};
use crate::spec::Stale;
use crate::types::{Timestamp, TriggerKind, counted};

/// Judges the newest success that the ledger knows.
pub fn judge(stale: &Stale, ledger: &Ledger, runs: &[RunFact], now: Timestamp) -> Judgement {
    let success = ledger.success.as_ref();
    // An age that no calendar holds is never reached.
    let since = success.map_or(Some(Timestamp::MIN), |success| stale.due(success.at));
    let Some(since) = since else { return Judgement::Nothing(None) };
    if since > now {
        return Judgement::Nothing(Some(since));
    }
    let run = success.map(|success| success.run.clone());
    let tries = Some(&ledger.stale.tries).filter(|_| ledger.stale.success == run);
    let count = tries.map_or(0, |tries| tries.count);
    let why = match success {
        Some(success) => {
            format!("the newest success, {}, is older than {}", success.run, stale.max_age)
        }
        None => "there is no success yet".into(),
    };
    if let Some(tries) = tries.filter(|tries| tries.count > 0) {
        if tries.newest(runs).is_some_and(|run| !run.phase.is_ended()) {
            return Judgement::Later(Reason::Waiting, format!("{why}; a run is at work"), None);
        }
        if let Some(next) = tries.next(runs).filter(|next| *next > now) {
            let message = format!("{why}; {} did not help", counted(count, "try", "tries"));
            return Judgement::Later(Reason::Backoff, message, Some(next));
        }
    }
    let base = run.as_ref().map_or("none", |run| run.as_str());
    let key = format!("{base}/{}", count + 1);
    let mut because = vec![why];
    if count > 0 {
        because.push(format!("try {}", count + 1));
    }
    Judgement::Wanted(Want {
        kind: TriggerKind::Stale,
        key,
        since,
        because,
        params: IndexMap::new(),
        answer: Answer::Stale(run),
    })
}
