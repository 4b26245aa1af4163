//! The custom resources, from the types that this program reads and writes.
//!
//! Owns their schemas: what an API server refuses by itself, what `kubectl get` shows, and which part only
//! the controller writes (the status).

use std::collections::BTreeMap;

use indexmap::IndexMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, CustomResourceExt};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::engine::argo::environment::Environment;
use crate::plan::{Ledger, Phase, StepRecord, Trigger};
use crate::source::git::Tips;
use crate::spec::SourceSpec;
use crate::store::RunSpec;
use crate::types::{Digest, Period, RunId, RunName, Timestamp};

/// The definitions of all of them, as `generate manifests` prints them.
pub fn definitions() -> [CustomResourceDefinition; 5] {
    [
        NotebookSource::crd(),
        ClusterNotebookSource::crd(),
        NotebookPipeline::crd(),
        NotebookRun::crd(),
        NotebookEnvironment::crd(),
    ]
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde asks for")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// An object of which the API server keeps whatever it holds.
fn anything(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// Conditions, of which each type is there once.
fn conditions(generator: &mut SchemaGenerator) -> Schema {
    let item = generator.subschema_for::<Condition>();
    json_schema!({
        "type": "array", "items": item,
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
    })
}

/// Where pipeline files come from: a git repository or a mounted volume, for its own namespace.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "jupyterflow.io",
    version = "v1alpha1",
    kind = "NotebookSource",
    plural = "notebooksources",
    shortname = "nbs",
    namespaced,
    status = "SourceStatus",
    printcolumn = r#"{"name": "Revision", "type": "string", "jsonPath": ".status.revision"}"#,
    printcolumn = r#"{"name": "Pipelines", "type": "integer", "jsonPath": ".status.pipelines"}"#,
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    validation = Rule::new("has(self.spec.directory) != has(self.spec.git)")
        .message("exactly one of `directory` and `git` says where pipeline files are"),
    validation = Rule::new("!has(self.spec.git) || [has(self.spec.git.branch), has(self.spec.git.tag), has(self.spec.git.branches)].filter(given, given).size() <= 1")
        .message("of `branch`, `tag` and `branches` at most one is given")
)]
pub struct NotebookSourceSpec {
    /// What it is.
    #[serde(flatten)]
    pub source: SourceSpec,
}

/// The same for many tenants: who acts for which folder or repository is the administrator's to say.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "jupyterflow.io",
    version = "v1alpha1",
    kind = "ClusterNotebookSource",
    plural = "clusternotebooksources",
    shortname = "cnbs",
    status = "SourceStatus",
    printcolumn = r#"{"name": "Revision", "type": "string", "jsonPath": ".status.revision"}"#,
    printcolumn = r#"{"name": "Pipelines", "type": "integer", "jsonPath": ".status.pipelines"}"#,
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    validation = Rule::new("has(self.spec.directory) != has(self.spec.git)")
        .message("exactly one of `directory` and `git` says where pipeline files are"),
    validation = Rule::new("self.spec.tenants.size() > 0")
        .message("`tenants` says for whom it acts; nothing runs for anybody else")
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterNotebookSourceSpec {
    /// What it is.
    #[serde(flatten)]
    pub source: SourceSpec,
    /// For whom it acts. The first that matches a folder counts.
    pub tenants: Vec<Tenant>,
}

/// For whom a source acts, and with what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tenant {
    /// A folder at the top of the source, or a pattern of such.
    pub folder: String,
    /// The namespace of its runs.
    pub namespace: String,
    /// Their service account.
    pub service_account: String,
    /// Their user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub uid: Option<i64>,
    /// Claims that they may mount.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<String>,
    /// Images that they may use, as patterns; those of the tenant's own servers unless given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
    /// Kinds of objects that their resource steps may make, as `Job.batch` or `Pod`; none unless given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<String>,
}

/// What a source shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SourceStatus {
    /// The generation that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What it shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// How many pipelines it shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipelines: Option<i64>,
    /// Which repository, and what of it, `branches` are about.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub repository: String,
    /// What the branches of a repository named, and which commits are in force.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "anything")]
    pub branches: BTreeMap<String, Tips>,
    /// Whether it can be read, and why not.
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

/// One pipeline, with the spec of its file.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "jupyterflow.io",
    version = "v1alpha1",
    kind = "NotebookPipeline",
    plural = "notebookpipelines",
    shortname = "nbp",
    namespaced,
    status = "PipelineStatus",
    printcolumn = r#"{"name": "Trigger", "type": "string", "jsonPath": ".status.trigger"}"#,
    printcolumn = r#"{"name": "Last Run", "type": "string", "jsonPath": ".status.lastRun"}"#,
    printcolumn = r#"{"name": "Next Run", "type": "string", "jsonPath": ".status.nextRun"}"#,
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    validation = Rule::new("has(self.spec.steps) != has(self.spec.flow)")
        .message("exactly one of `steps` and `flow` says what runs")
)]
pub struct NotebookPipelineSpec {
    /// The steps, as in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub steps: Option<Map<String, Value>>,
    /// The flow, as in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<String>,
    /// The whole run's time limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Period>,
    /// All other keys of the file.
    #[serde(flatten)]
    #[schemars(schema_with = "anything")]
    pub rest: IndexMap<String, Value>,
}

/// Where a pipeline stands; its cursors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PipelineStatus {
    /// The generation that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The triggers, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<String>,
    /// The newest run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_run: Option<RunName>,
    /// When the next one is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_run: Option<Timestamp>,
    /// What is answered: written only against the version that was planned from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub cursors: Option<Ledger>,
    /// How many of its runs ended so far.
    #[serde(skip_serializing_if = "is_zero")]
    pub ends: u64,
    /// Claimed runs whose end is not recorded, each with its Workflow's uid; nothing for those that wait
    /// for their turn.
    pub active: BTreeMap<String, String>,
    /// Whether its file is good, and what stands in the way.
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

/// One run: what it answers, and how it ended. It stays when its Workflow is gone.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "jupyterflow.io",
    version = "v1alpha1",
    kind = "NotebookRun",
    plural = "notebookruns",
    shortname = "nbr",
    namespaced,
    status = "RunStatus",
    selectable = ".spec.pipeline",
    printcolumn = r#"{"name": "Pipeline", "type": "string", "jsonPath": ".spec.pipeline"}"#,
    printcolumn = r#"{"name": "Trigger", "type": "string", "jsonPath": ".spec.trigger.kind"}"#,
    printcolumn = r#"{"name": "Phase", "type": "string", "jsonPath": ".status.phase"}"#,
    printcolumn = r#"{"name": "Started", "type": "date", "jsonPath": ".status.startedAt"}"#,
    printcolumn = r#"{"name": "Finished", "type": "date", "jsonPath": ".status.finishedAt"}"#,
    printcolumn = r#"{"name": "Message", "type": "string", "jsonPath": ".status.message", "priority": 1}"#,
    validation = Rule::new("self.spec.pipeline == oldSelf.spec.pipeline && self.spec.identity == oldSelf.spec.identity && self.spec.trigger == oldSelf.spec.trigger")
        .message("what a run is never changes: only `stop` does"),
    validation = Rule::new("!has(oldSelf.spec.stop) || !oldSelf.spec.stop || (has(self.spec.stop) && self.spec.stop)")
        .message("a stop is not withdrawn")
)]
#[serde(rename_all = "camelCase")]
pub struct NotebookRunSpec {
    /// The name of its NotebookPipeline.
    #[schemars(length(min = 1, max = 63))]
    pub pipeline: String,
    /// The digest of pipeline, trigger kind and trigger key.
    pub identity: RunId,
    /// Why it exists.
    pub trigger: Trigger,
    /// Parameters that the trigger or a person gave.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    #[schemars(schema_with = "anything")]
    pub params: IndexMap<String, Value>,
    /// Whether its end is wanted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stop: bool,
    /// The newer run that takes its place; none where a person wants its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_by: Option<RunName>,
    /// The pipeline's digest that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// What it executes; of a run that a person asks for, what its pipeline is when it is claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub execution: Option<Execution>,
}

/// What a run executes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Execution {
    /// What the source showed when the run was claimed.
    pub revision: String,
    /// When it was claimed.
    pub created_at: Timestamp,
    /// The file, and all else that its pods are told.
    #[serde(flatten)]
    pub spec: RunSpec,
}

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RunStatus {
    /// Where it stands; nothing before it is claimed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// A word for how it came there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Words for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The uid of its Workflow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// When its first step began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Its place in the order in which runs of its pipeline ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
    /// Whether all that its steps left is kept here.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub whole: bool,
    /// Its steps.
    #[schemars(schema_with = "steps")]
    pub steps: Vec<StepRecord>,
}

/// Records of steps, whose values are anything.
fn steps(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    })
}

/// What runs of a user work in: taken from the user's own Jupyter server, and kept for when that is gone.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "jupyterflow.io",
    version = "v1alpha1",
    kind = "NotebookEnvironment",
    plural = "notebookenvironments",
    shortname = "nbe",
    namespaced,
    printcolumn = r#"{"name": "Owner", "type": "string", "jsonPath": ".spec.environment.owner"}"#,
    printcolumn = r#"{"name": "Image", "type": "string", "jsonPath": ".spec.environment.image"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
pub struct NotebookEnvironmentSpec {
    /// Image, volumes, variables and the like.
    #[schemars(schema_with = "anything")]
    pub environment: Environment,
}
