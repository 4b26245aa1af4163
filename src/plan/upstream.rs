//! The pipelines trigger: has each of the listed pipelines a newer success than was answered?
//!
//! Owns that decision. The order of successes is that in which they were recorded, not a clock's.

use indexmap::IndexMap;

use super::ledger::{PipelinesCursor, Success};
use super::report::Reason;
use super::want::{Answer, Judgement, Want};
use crate::types::{Timestamp, TriggerKind};

/// A pipeline that another one waits for.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Its name in the file.
    pub name: String,
    /// Its newest success; what stands in the way of knowing it.
    pub success: Result<Option<Success>, String>,
}

/// Judges the newest successes; also returns the cursor after it. A pipeline that is listed for the
/// first time counts as answered.
pub fn judge(upstreams: &[Upstream], cursor: &PipelinesCursor) -> (PipelinesCursor, Judgement) {
    let mut cursor = cursor.clone();
    cursor.answered.retain(|name, _| upstreams.iter().any(|upstream| upstream.name == *name));
    let mut newest = cursor.answered.clone();
    let mut because = Vec::new();
    let mut since = Timestamp::MIN;
    for upstream in upstreams {
        let success = match &upstream.success {
            Ok(success) => success.as_ref(),
            Err(why) => {
                return (cursor, Judgement::Later(Reason::Unknown, why.clone(), None));
            }
        };
        let ordinal = success.map_or(0, |success| success.ordinal);
        let answered = *cursor.answered.entry(upstream.name.clone()).or_insert(ordinal);
        if let Some(success) = success.filter(|success| success.ordinal > answered) {
            because.push(format!("{} succeeded: {}", upstream.name, success.run));
            since = since.max(success.at);
        }
        newest.insert(upstream.name.clone(), ordinal.max(answered));
    }
    if upstreams.is_empty() || because.len() < upstreams.len() {
        return (cursor, Judgement::Nothing(None));
    }
    let want = Want {
        kind: TriggerKind::Pipelines,
        key: (cursor.answers + 1).to_string(),
        since,
        because,
        params: IndexMap::new(),
        answer: Answer::Pipelines(newest),
    };
    (cursor, Judgement::Wanted(want))
}
