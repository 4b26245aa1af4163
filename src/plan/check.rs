//! The check trigger: what a reply says, and whether it is answered already.
//!
//! Owns the contract of `ModelSync`'s `needsSync` as seen from here: replies turn into episodes, each
//! with a run, and with a pause before the next while nothing changes. Asking is an adapter's.

use indexmap::IndexMap;
use serde_json::Value;

use super::ledger::{CheckCursor, Tries};
use super::observed::RunFact;
use super::report::Reason;
use super::want::{Answer, Judgement, Want};
use crate::spec::Check;
use crate::types::{Timestamp, TriggerKind, counted};

/// The longest key of a reply, in bytes.
const LONGEST_KEY: usize = 256;

/// What is known of a check.
#[derive(Clone, Debug, PartialEq)]
pub enum CheckSeen {
    /// The question is on its way.
    Asking,
    /// Nobody can say, and when it is asked again.
    Unknown(String, Timestamp),
    /// A reply, and when it is asked again.
    Reply(Reply, Timestamp),
}

/// A reply.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// When it came.
    pub at: Timestamp,
    /// Whether a run is needed.
    pub needed: bool,
    /// What it is needed for; the same key is answered once.
    pub key: Option<String>,
    /// The parameters that the pipeline wants of it.
    pub params: IndexMap<String, Value>,
}

impl Reply {
    /// Reads a reply of `ModelSync`'s contract: `needsSync`, `parameters`, `key`, `errors`.
    ///
    /// # Errors
    /// It is none, or lacks a parameter that is wanted.
    pub fn read(check: &Check, body: &[u8], at: Timestamp) -> Result<Self, String> {
        let reply: Value = serde_json::from_slice(body)
            .map_err(|error| format!("the reply is not JSON: {error}"))?;
        let errors = errors_of(&reply);
        if !errors.is_empty() {
            return Err(format!("the reply tells of errors: {}", errors.join("; ")));
        }
        let Some(needed) = reply.get("needsSync").and_then(Value::as_bool) else {
            return Err("the reply has no `needsSync: true` or `false`".into());
        };
        let key = match reply.get("key") {
            None | Some(Value::Null) => None,
            Some(Value::String(key)) if !key.is_empty() && key.len() <= LONGEST_KEY => {
                Some(key.clone())
            }
            Some(_) => {
                return Err(format!("the reply's `key` is no text of 1 to {LONGEST_KEY} bytes"));
            }
        };
        let mut params = IndexMap::new();
        for (name, theirs) in check.params.iter().filter(|_| needed) {
            let value = reply.get("parameters").and_then(|all| all.get(theirs));
            let Some(value) = value.filter(|value| !value.is_null()) else {
                return Err(format!("the reply has no parameter `{theirs}`, wanted for `{name}`"));
            };
            params.insert(name.clone(), value.clone());
        }
        Ok(Self { at, needed, key, params })
    }

    /// The errors that a reply tells of, whatever else it is.
    pub fn errors(body: &[u8]) -> Vec<String> {
        serde_json::from_slice(body).map(|reply| errors_of(&reply)).unwrap_or_default()
    }
}

fn errors_of(reply: &Value) -> Vec<String> {
    let errors = reply.get("errors").and_then(Value::as_array).into_iter().flatten().take(5);
    let texts = errors.filter_map(|error| error.get("message")?.as_str());
    texts.map(|text| text.chars().filter(|c| !c.is_control()).take(200).collect()).collect()
}

/// Judges what is known of a check; also returns the cursor after it.
pub fn judge(
    url: &str,
    seen: &CheckSeen,
    cursor: &CheckCursor,
    runs: &[RunFact],
    now: Timestamp,
) -> (CheckCursor, Judgement) {
    let mut cursor = cursor.clone();
    let (reply, next) = match seen {
        CheckSeen::Asking => {
            let judgement = Judgement::Later(Reason::Waiting, format!("asking {url}"), None);
            return (cursor, judgement);
        }
        CheckSeen::Unknown(why, next) => {
            let judgement = Judgement::Later(Reason::Unknown, format!("{url}: {why}"), Some(*next));
            return (cursor, judgement);
        }
        CheckSeen::Reply(reply, next) => (reply, *next),
    };
    if !reply.needed {
        cursor.since = None;
        return (cursor, Judgement::Nothing(Some(next)));
    }
    // A yes from before the newest run ended may be answered by it.
    if runs.iter().filter_map(|run| run.finished_at).any(|end| end >= reply.at) {
        return (cursor, Judgement::Later(Reason::Waiting, format!("asking {url} again"), None));
    }
    let tries_of = |cursor: &CheckCursor, base: &str| -> Tries {
        let found = cursor.answered.iter().find(|(other, _)| other == base);
        found.map(|(_, tries)| tries.clone()).unwrap_or_default()
    };
    if cursor.since.is_none() {
        cursor.since = Some(reply.at);
        // An answer that flaps while its run fails asks for the same thing again.
        let last = tries_of(&cursor, &episode(cursor.episode));
        let pause = last.next(runs).is_some_and(|next| next > now);
        if cursor.episode == 0 || last.succeeded(runs) || !pause {
            cursor.episode += 1;
        }
    }
    let base = reply.key.clone().unwrap_or_else(|| episode(cursor.episode));
    let tries = tries_of(&cursor, &base);
    if tries.newest(runs).is_some_and(|run| !run.phase.is_ended()) {
        let judgement = Judgement::Later(Reason::Waiting, "its run is at work".into(), None);
        return (cursor, judgement);
    }
    if let Some(again) = tries.next(runs).filter(|again| *again > now) {
        let (reason, why) = if tries.succeeded(runs) {
            (Reason::StillNeeded, "a run succeeded and it is still needed")
        } else {
            (Reason::Backoff, "its run did not succeed")
        };
        let message = format!("{url}: {why}; {} so far", counted(tries.count, "try", "tries"));
        return (cursor, Judgement::Later(reason, message, Some(again)));
    }
    let mut because = vec![format!("{url} says that a run is needed")];
    because.extend(reply.key.as_ref().map(|key| format!("for {key}")));
    if tries.count > 0 {
        because.push(format!("try {}", tries.count + 1));
    }
    let want = Want {
        kind: TriggerKind::Check,
        key: format!("{base}/{}", tries.count + 1),
        since: cursor.since.unwrap_or(reply.at),
        because,
        params: reply.params.clone(),
        answer: Answer::Check(base),
    };
    (cursor, Judgement::Wanted(want))
}

fn episode(number: u64) -> String {
    format!("episode-{number}")
}
