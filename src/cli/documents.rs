//! The documents that commands print, and their JSON Schemas.
//!
//! Owns their shape, which changes only with the version. Where a document is a type of the core,
//! that type is used as it stands.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::executor::Outputs;
use crate::plan::{NotDone, Plan, Run, Trigger};
use crate::spec::{NotebookSource, Problem};
use crate::types::{Digest, RunId, RunName, Timestamp, TriggerKind};

/// What a pass would do.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanDocument {
    /// What would be done, in order.
    pub actions: Vec<ActionDocument>,
    /// What would not, and why.
    pub not_done: Vec<NotDone>,
    /// Problems of files.
    pub problems: Vec<Problem>,
}

/// One action.
#[derive(Serialize, JsonSchema)]
pub struct ActionDocument {
    /// `start`, `stop` or `record`.
    pub action: &'static str,
    /// The pipeline.
    pub pipeline: String,
    /// The run, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<RunReference>,
    /// Why.
    pub reason: String,
}

/// Which run.
#[derive(Serialize, JsonSchema)]
pub struct RunReference {
    /// Its id.
    pub id: RunId,
    /// Its name.
    pub name: RunName,
    /// Why it exists.
    pub trigger: Trigger,
}

impl From<&Plan> for PlanDocument {
    fn from(plan: &Plan) -> Self {
        let actions = plan.actions().map(|(id, action)| ActionDocument {
            action: action.word(),
            pipeline: id.to_string(),
            run: action.run().zip(action.trigger()).map(|(name, trigger)| RunReference {
                id: RunId::new(id, trigger.kind, &trigger.key),
                name: name.clone(),
                trigger: trigger.clone(),
            }),
            reason: action.reason(),
        });
        Self {
            actions: actions.collect(),
            not_done: plan.not_done().cloned().collect(),
            problems: plan.problems.clone(),
        }
    }
}

/// What is.
#[derive(Default, Serialize, JsonSchema)]
pub struct StatusDocument {
    /// The sources.
    pub sources: Vec<SourceStatus>,
    /// The pipelines.
    pub pipelines: Vec<PipelineStatus>,
    /// The runs, newest first.
    pub runs: Vec<Run>,
}

/// A source.
#[derive(Serialize, JsonSchema)]
pub struct SourceStatus {
    /// Its name.
    pub name: String,
    /// What it shows.
    pub revision: String,
    /// Whether it can be read.
    pub ready: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A pipeline.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PipelineStatus {
    /// Its name.
    pub name: String,
    /// Its folder, relative to the source's root.
    pub folder: String,
    /// Its source.
    pub source: String,
    /// Whether its file, and all files it names, are good.
    pub ready: bool,
    /// What stands in the way, or what is next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Whether a person suspended its triggers.
    pub suspended: bool,
    /// The newest run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_run: Option<RunName>,
    /// When the next run is due, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_run: Option<Timestamp>,
    /// Its triggers.
    pub triggers: Vec<TriggerStatus>,
}

/// A trigger.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TriggerStatus {
    /// The kind.
    pub kind: TriggerKind,
    /// Where it stands.
    pub state: TriggerState,
    /// In words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it last made a run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_at: Option<Timestamp>,
    /// When it is next due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
}

/// Where a trigger stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum TriggerState {
    /// All is answered.
    Idle,
    /// It wants a run that waits.
    Waiting,
    /// The next try has its time.
    Backoff,
    /// A person suspended it.
    Suspended,
    /// This version does not execute it.
    NotExecutedYet,
    /// Nobody can say.
    Unknown,
}

/// What a backfill claimed.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackfillDocument {
    /// The pipeline.
    pub pipeline: String,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// The runs that were claimed, or would be.
    pub claimed: Vec<RunReference>,
    /// The instants that are left as they are.
    pub left: Vec<LeftInstant>,
}

/// An instant without a new run.
#[derive(Serialize, JsonSchema)]
pub struct LeftInstant {
    /// The instant.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

/// Problems of files.
#[derive(Serialize, JsonSchema)]
pub struct ProblemsDocument {
    /// All of them, in the order of files and lines.
    pub problems: Vec<Problem>,
}

/// Why a run exists, or why none is wanted.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExplanationDocument {
    /// The pipeline.
    pub pipeline: String,
    /// The run that exists, or would be started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<RunName>,
    /// The run's phase, where it exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<crate::plan::Phase>,
    /// Why the run exists or would be started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Trigger>,
    /// Which cell, file, parameter or instant made it wanted, most telling first.
    pub because: Vec<String>,
    /// What is not done, and why.
    pub not_done: Vec<NotDone>,
}

/// What is known of a notebook.
#[derive(Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotebookDocument {
    /// Its path.
    pub path: String,
    /// The digest that decides whether an edit is a change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The kernel that it names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// The parameters that it declares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Vec<IndexMap<String, String>>>,
    /// What differs from another notebook, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Vec<String>>,
}

/// The kinds of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum Kind {
    Pipeline,
    Plan,
    Status,
    Run,
    Problems,
    Explanation,
    Notebook,
    Backfill,
    NotebookSource,
    Outputs,
}

/// The JSON Schema of a kind of document.
pub fn schema(kind: Kind) -> Value {
    let schema = match kind {
        Kind::Pipeline => return crate::spec::json_schema(),
        Kind::Plan => schemars::schema_for!(PlanDocument),
        Kind::Status => schemars::schema_for!(StatusDocument),
        Kind::Run => schemars::schema_for!(Run),
        Kind::Problems => schemars::schema_for!(ProblemsDocument),
        Kind::Explanation => schemars::schema_for!(ExplanationDocument),
        Kind::Notebook => schemars::schema_for!(NotebookDocument),
        Kind::Backfill => schemars::schema_for!(BackfillDocument),
        // This one names its version and kind itself.
        Kind::NotebookSource => return schemars::schema_for!(NotebookSource).to_value(),
        // This document is a file of its own and names its kind itself.
        Kind::Outputs => return schemars::schema_for!(Outputs).to_value(),
    };
    let name = format!("{kind:?}");
    let mut schema = schema.to_value();
    schema["title"] = json!(name);
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        let own = std::mem::take(properties);
        let mut all = Map::new();
        all.insert("apiVersion".into(), json!({ "const": "jupyterflow.io/v1alpha1" }));
        all.insert("kind".into(), json!({ "const": name }));
        all.extend(own);
        *properties = all;
    }
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.splice(0..0, [json!("apiVersion"), json!("kind")]);
    }
    schema
}
