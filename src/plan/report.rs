//! Why not: the closed list of reasons for what a plan does not do.
//!
//! Owns the words that `plan`, `status` and `explain` share.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::types::{Timestamp, TriggerKind};

/// Why something is not done. The list is closed: the schema names each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Reason {
    /// All triggers are answered.
    UpToDate,
    /// The source changed a moment ago.
    Settling,
    /// Another run is active.
    Waiting,
    /// A newer wanted run took its place.
    Superseded,
    /// The concurrency policy forbids it.
    Forbidden,
    /// A person suspended the pipeline.
    Suspended,
    /// A tick passed while nobody looked, and the policy does not run it.
    Missed,
    /// A tick is later than `maxLateness`.
    TooLate,
    /// First sight was recorded without a run.
    Adopted,
    /// The pipeline is gone from its source.
    Orphaned,
    /// Another state or controller manages it.
    ManagedElsewhere,
    /// This version does not execute it yet.
    NotExecutedYet,
    /// The next try has its time.
    Backoff,
    /// A check stays true after a success.
    StillNeeded,
    /// The source cannot be read.
    SourceUnreadable,
    /// The pipeline file is not valid.
    InvalidFile,
    /// A limit on runs is reached.
    LimitReached,
    /// A secret is not there.
    MissingSecret,
    /// An output that a step refers to is not there.
    MissingOutput,
    /// The run's name belongs to another.
    NameTaken,
    /// Only inputs changed, and a run of the pipeline wrote them.
    WrittenByRun,
    /// Files moved on after the run began.
    SourceChanged,
    /// Nobody can say.
    Unknown,
}

impl Reason {
    /// All reasons, for the schema.
    pub const ALL: [Self; 23] = [
        Self::UpToDate,
        Self::Settling,
        Self::Waiting,
        Self::Superseded,
        Self::Forbidden,
        Self::Suspended,
        Self::Missed,
        Self::TooLate,
        Self::Adopted,
        Self::Orphaned,
        Self::ManagedElsewhere,
        Self::NotExecutedYet,
        Self::Backoff,
        Self::StillNeeded,
        Self::SourceUnreadable,
        Self::InvalidFile,
        Self::LimitReached,
        Self::MissingSecret,
        Self::MissingOutput,
        Self::NameTaken,
        Self::WrittenByRun,
        Self::SourceChanged,
        Self::Unknown,
    ];
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

/// Something that is not done, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct NotDone {
    /// The pipeline, as a person names it.
    pub pipeline: String,
    /// The trigger that it is about, where it is about one.
    #[serde(skip)]
    pub trigger: Option<TriggerKind>,
    /// Why.
    pub reason: Reason,
    /// In words.
    pub message: String,
    /// When it is looked at again with another result, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl fmt::Display for NotDone {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}: {}", self.pipeline, self.reason, self.message)?;
        match self.until {
            Some(until) => write!(formatter, " (until {until})"),
            None => Ok(()),
        }
    }
}
