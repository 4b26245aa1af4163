//! The Run document: one execution that should exist, and how far it came.
//!
//! Owns the shape that the store keeps, `run.json` holds and `show` prints. It must not know how a
//! run is executed.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::types::{Digest, PipelineId, RunId, RunName, Timestamp, TriggerKind};

/// Where a run or a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Claimed, not started.
    Pending,
    /// At work.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Ended by a person.
    Stopped,
    /// Its process was lost; awaits the next one.
    Interrupted,
    /// Never started, and never will.
    Skipped,
    /// Nobody can say. Never leads to a second start.
    Unknown,
}

impl Phase {
    /// Whether nothing more will happen.
    pub fn is_ended(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed | Self::Stopped | Self::Skipped | Self::Unknown => true,
            Self::Pending | Self::Running | Self::Interrupted => false,
        }
    }

    /// The word of documents and tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Stopped => "Stopped",
            Self::Interrupted => "Interrupted",
            Self::Skipped => "Skipped",
            Self::Unknown => "Unknown",
        }
    }

    /// The phase of a word that [`Self::word`] wrote.
    pub fn from_word(word: &str) -> Self {
        [
            Self::Pending,
            Self::Running,
            Self::Succeeded,
            Self::Failed,
            Self::Stopped,
            Self::Interrupted,
            Self::Skipped,
        ]
        .into_iter()
        .find(|phase| phase.word() == word)
        .unwrap_or(Self::Unknown)
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(self.word())
    }
}

/// Why a run exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Trigger {
    /// The kind.
    pub kind: TriggerKind,
    /// What it answers, unique within kind and pipeline.
    pub key: String,
    /// The nominal instant, of schedules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<Timestamp>,
    /// The run that a person wants again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<RunName>,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Digest of the identity.
    pub id: RunId,
    /// Its name.
    pub name: RunName,
    /// The pipeline's name.
    pub pipeline: String,
    /// The source's name.
    pub source: String,
    /// What the source showed when the run was claimed.
    pub revision: String,
    /// Why it exists.
    pub trigger: Trigger,
    /// Where it stands.
    pub phase: Phase,
    /// A word for how it came there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Words for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Parameters that the trigger or a person gave.
    pub params: IndexMap<String, Value>,
    /// When it was claimed.
    pub created_at: Timestamp,
    /// When its first step began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Its steps; the points of a sweep beside their step.
    #[serde(default)]
    pub steps: Vec<StepRecord>,
}

impl Run {
    /// A run that is claimed, and not more.
    pub fn claimed(
        pipeline: &PipelineId,
        (id, name): (RunId, RunName),
        trigger: Trigger,
        revision: String,
        params: IndexMap<String, Value>,
        now: Timestamp,
    ) -> Self {
        Self {
            id,
            name,
            pipeline: pipeline.name.to_string(),
            source: pipeline.source.clone(),
            revision,
            trigger,
            phase: Phase::Pending,
            reason: None,
            message: None,
            params,
            created_at: now,
            started_at: None,
            finished_at: None,
            steps: Vec::new(),
        }
    }

    /// The record of a step or of a sweep's point.
    pub fn step(&self, name: &str, index: Option<usize>) -> Option<&StepRecord> {
        self.steps.iter().find(|record| record.base_name() == name && record.index == index)
    }
}

/// A step of a run, or one point of its sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepRecord {
    /// `train`, or `train[0]` for a point.
    pub name: String,
    /// Where it stands.
    pub phase: Phase,
    /// The latest attempt, from 1; 0 before the first.
    pub attempt: u64,
    /// The point's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// The point's parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<IndexMap<String, Value>>,
    /// Of a point: whether `best` chose it. Of a step: the number of the chosen point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selected: Option<Value>,
    /// When the first attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Exit code of the latest attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Words for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Named values.
    #[serde(default)]
    pub outputs: IndexMap<String, Value>,
    /// The finite numbers among them.
    #[serde(default)]
    pub metrics: IndexMap<String, f64>,
    /// Declared files.
    #[serde(default)]
    pub artifacts: Vec<Artifact>,
    /// The executed notebook, relative to the source's root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notebook: Option<String>,
    /// The log, relative to the source's root.
    pub log: String,
}

impl StepRecord {
    /// A step that has not begun.
    pub fn pending(step: &str, index: Option<usize>, log: String) -> Self {
        Self {
            name: index.map_or_else(|| step.to_owned(), |index| format!("{step}[{index}]")),
            phase: Phase::Pending,
            attempt: 0,
            index,
            params: None,
            selected: None,
            started_at: None,
            finished_at: None,
            exit_code: None,
            message: None,
            outputs: IndexMap::new(),
            metrics: IndexMap::new(),
            artifacts: Vec::new(),
            notebook: None,
            log,
        }
    }

    /// The step's name without the point.
    pub fn base_name(&self) -> &str {
        match self.index {
            Some(_) => self.name.rsplit_once('[').map_or(&self.name, |(name, _)| name),
            None => &self.name,
        }
    }
}

/// A declared file that a step left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Artifact {
    /// The output's name.
    pub name: String,
    /// Where it lies, relative to the source's root.
    pub path: String,
    /// Digest of its content.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
}
