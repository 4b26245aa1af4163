//! Actions: what a pass does, with all data needed, so that no decision is left to whoever acts.
//!
//! Owns the shape of a plan and how it prints.

use std::fmt;

use indexmap::IndexMap;
use serde_json::Value;

use super::ledger::Ledger;
use super::report::NotDone;
use super::run::Trigger;
use crate::spec::Problem;
use crate::types::{PipelineId, RunId, RunName, Timestamp, TriggerKind};

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Claim a run, and start it if nothing is before it.
    Claim(Claim),
    /// Start, or start again, the host of a run that is claimed already.
    Start {
        /// The run.
        run: RunName,
        /// Its trigger.
        trigger: Trigger,
        /// Why now.
        reason: String,
    },
    /// End a run.
    Stop {
        /// The run.
        run: RunName,
        /// Its trigger.
        trigger: Trigger,
        /// Why.
        reason: String,
        /// Whether something is at work on it, which then ends itself.
        hosted: bool,
        /// The newer run that takes its place; none where a person asked for its end.
        by: Option<RunName>,
    },
    /// Write to the ledger without a run.
    Record {
        /// What is recorded.
        reason: String,
    },
}

/// A run to claim.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// Its id.
    pub id: RunId,
    /// Its name.
    pub name: RunName,
    /// Why it exists.
    pub trigger: Trigger,
    /// In words, most telling first.
    pub because: Vec<String>,
    /// Parameters that the trigger gives.
    pub params: IndexMap<String, Value>,
    /// Whether it can start at once; else it waits in the queue.
    pub start: bool,
}

impl Claim {
    /// The claim of an instant of a schedule; one run for one instant, whoever asks.
    pub fn of_tick(
        pipeline: &PipelineId,
        instant: Timestamp,
        because: Vec<String>,
        start: bool,
    ) -> Self {
        let trigger = Trigger {
            kind: TriggerKind::Schedule,
            key: instant.to_string(),
            scheduled_at: Some(instant),
            retry_of: None,
        };
        let id = RunId::new(pipeline, trigger.kind, &trigger.key);
        let name = id.name(&pipeline.name, Some(instant));
        Self { id, name, trigger, because, params: IndexMap::new(), start }
    }
}

/// The plan of one pipeline.
#[derive(Clone, Debug, PartialEq)]
pub struct PipelinePlan {
    /// What to do, in order.
    pub actions: Vec<Action>,
    /// What is not done, and why.
    pub not_done: Vec<NotDone>,
    /// The ledger after the actions. It is written together with the claims, or not at all.
    pub ledger: Ledger,
}

/// The plan of a pass over all pipelines.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Each pipeline with its plan, in order.
    pub pipelines: Vec<(PipelineId, PipelinePlan)>,
    /// What is not done for pipelines that are not planned at all.
    pub unplanned: Vec<NotDone>,
    /// Problems of files.
    pub problems: Vec<Problem>,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.pipelines.iter().all(|(_, plan)| plan.actions.is_empty())
    }

    /// All actions with their pipelines.
    pub fn actions(&self) -> impl Iterator<Item = (&PipelineId, &Action)> {
        self.pipelines.iter().flat_map(|(id, plan)| plan.actions.iter().map(move |act| (id, act)))
    }

    /// All that is not done.
    pub fn not_done(&self) -> impl Iterator<Item = &NotDone> {
        self.pipelines.iter().flat_map(|(_, plan)| &plan.not_done).chain(&self.unplanned)
    }
}

impl Action {
    /// The word of the document: start, stop or record.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Claim(claim) if claim.start => "start",
            Self::Claim(_) | Self::Record { .. } => "record",
            Self::Start { .. } => "start",
            Self::Stop { .. } => "stop",
        }
    }

    /// Whether a host begins to work.
    pub fn starts(&self) -> bool {
        match self {
            Self::Claim(claim) => claim.start,
            Self::Start { .. } => true,
            Self::Stop { .. } | Self::Record { .. } => false,
        }
    }

    /// The run that it is about.
    pub fn run(&self) -> Option<&RunName> {
        match self {
            Self::Claim(claim) => Some(&claim.name),
            Self::Start { run, .. } | Self::Stop { run, .. } => Some(run),
            Self::Record { .. } => None,
        }
    }

    /// Why, in words.
    pub fn reason(&self) -> String {
        match self {
            Self::Claim(claim) => claim.because.join("; "),
            Self::Start { reason, .. } | Self::Stop { reason, .. } | Self::Record { reason } => {
                reason.clone()
            }
        }
    }

    /// The trigger of that run.
    pub fn trigger(&self) -> Option<&Trigger> {
        match self {
            Self::Claim(claim) => Some(&claim.trigger),
            Self::Start { trigger, .. } | Self::Stop { trigger, .. } => Some(trigger),
            Self::Record { .. } => None,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (id, action) in self.actions() {
            let run = action.run().map(|run| format!(" {run}")).unwrap_or_default();
            writeln!(formatter, "{} {id}{run}: {}", action.word(), action.reason())?;
        }
        for not_done in self.not_done() {
            writeln!(formatter, "{not_done}")?;
        }
        for problem in &self.problems {
            writeln!(formatter, "{problem}")?;
        }
        Ok(())
    }
}
