//! Argo Workflows as objects: the fields that we write, and those that we read.
//!
//! Owns their names. What we write has a type for each thing; what we read takes whatever a cluster adds.
//! Fields are those that Argo 3.6, 3.7 and 4.1 have in common.

use std::borrow::Cow;
use std::collections::BTreeMap;

use indexmap::IndexMap;
use k8s_openapi::api::core::v1::{
    Affinity, Container, LocalObjectReference, PodSecurityContext, SecretKeySelector, Toleration,
    Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::core::NamespaceResourceScope;
use serde::{Deserialize, Serialize};

/// A Workflow as we create it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workflow {
    /// `argoproj.io/v1alpha1`.
    pub api_version: String,
    /// `Workflow`.
    pub kind: String,
    /// Name, labels, annotations.
    pub metadata: ObjectMeta,
    /// What is executed.
    pub spec: WorkflowSpec,
}

/// What a Workflow executes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are Argo's")]
pub struct WorkflowSpec {
    pub entrypoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_exit: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_deadline_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallelism: Option<usize>,
    pub arguments: Arguments,
    pub templates: Vec<Template>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_context: Option<PodSecurityContext>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_metadata: Option<Metadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_strategy: Option<TtlStrategy>,
}

/// Labels and annotations of pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are Argo's")]
pub struct Metadata {
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub annotations: BTreeMap<String, String>,
}

/// When an ended Workflow goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names are Argo's")]
pub struct TtlStrategy {
    pub seconds_after_completion: u64,
}

/// Named values that go in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are Argo's")]
pub struct Arguments {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<Parameter>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
}

impl Arguments {
    /// Parameters alone.
    pub fn of(parameters: Vec<Parameter>) -> Self {
        Self { parameters, artifacts: Vec::new() }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.parameters.is_empty() && self.artifacts.is_empty()
    }
}

/// A file or folder that travels between a pod and an object store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are Argo's")]
pub struct Artifact {
    pub name: String,
    pub path: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub recurse_mode: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<Archive>,
    pub s3: S3Artifact,
}

/// How an artifact is packed: not at all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are Argo's")]
pub struct Archive {
    pub none: serde_json::Map<String, serde_json::Value>,
}

/// A place in an S3 store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are Argo's")]
pub struct S3Artifact {
    pub endpoint: String,
    pub bucket: String,
    pub key: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_secret: Option<SecretKeySelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key_secret: Option<SecretKeySelector>,
    #[serde(rename = "useSDKCreds", skip_serializing_if = "std::ops::Not::not")]
    pub use_sdk_creds: bool,
}

/// A named value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are Argo's")]
pub struct Parameter {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_from: Option<ValueFrom>,
}

impl Parameter {
    /// One that must be given.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// One with its value.
    pub fn given(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: Some(value.into()), ..Self::default() }
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are Argo's")]
pub struct ValueFrom {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
}

/// A template: a pod, or a graph of tasks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are Argo's")]
pub struct Template {
    pub name: String,
    #[serde(skip_serializing_if = "Arguments::is_empty")]
    pub inputs: Arguments,
    #[serde(skip_serializing_if = "Arguments::is_empty")]
    pub outputs: Arguments,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_strategy: Option<RetryStrategy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dag: Option<Dag>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<ResourceTemplate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_deadline_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub init_containers: Vec<Container>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_spec_patch: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
}

/// An object that Argo makes and watches, or removes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are Argo's")]
pub struct ResourceTemplate {
    pub action: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub manifest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success_condition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_condition: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
}

/// Further attempts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are Argo's")]
pub struct RetryStrategy {
    pub limit: String,
    pub retry_policy: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
}

/// Pauses between attempts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are Argo's")]
pub struct Backoff {
    pub duration: String,
    pub factor: String,
    /// Argo 3.7 and newer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cap: Option<String>,
}

/// A graph of tasks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are Argo's")]
pub struct Dag {
    pub fail_fast: bool,
    pub tasks: Vec<DagTask>,
}

/// A task of a graph.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are Argo's")]
pub struct DagTask {
    pub name: String,
    pub template: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub depends: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub when: String,
    #[serde(skip_serializing_if = "Arguments::is_empty")]
    pub arguments: Arguments,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub with_sequence: Option<Sequence>,
}

/// Numbers from 0.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are Argo's")]
pub struct Sequence {
    pub count: String,
}

/// A Workflow as we read it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Seen {
    /// Name, uid, annotations.
    pub metadata: ObjectMeta,
    /// What of its spec may change.
    pub spec: SeenSpec,
    /// Where it stands.
    pub status: Status,
}

/// What of a Workflow's spec may change.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are Argo's")]
pub struct SeenSpec {
    pub suspend: Option<bool>,
    pub shutdown: Option<String>,
    pub active_deadline_seconds: Option<i64>,
    pub volumes: Vec<Named>,
}

/// Something of which only the name is read.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are Argo's")]
pub struct Named {
    pub name: String,
}

/// Where a Workflow stands.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are Argo's")]
pub struct Status {
    pub phase: Option<String>,
    pub message: Option<String>,
    pub started_at: Option<Time>,
    pub finished_at: Option<Time>,
    pub nodes: Option<IndexMap<String, Node>>,
    pub compressed_nodes: Option<String>,
    pub offload_node_status_version: Option<String>,
    pub progress: Option<String>,
}

/// One thing that Argo executes or groups.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are Argo's")]
pub struct Node {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub phase: Option<String>,
    pub message: Option<String>,
    pub started_at: Option<Time>,
    pub finished_at: Option<Time>,
    pub outputs: Option<NodeOutputs>,
}

/// What a node left.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are Argo's")]
pub struct NodeOutputs {
    pub parameters: Vec<Parameter>,
    pub artifacts: Vec<Named>,
    pub exit_code: Option<String>,
}

impl NodeOutputs {
    /// The value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|parameter| parameter.name == name);
        found?.value.as_deref()
    }
}

impl Seen {
    /// Whether a pod of it was made.
    pub fn has_pods(&self) -> bool {
        let nodes = self.status.nodes.iter().flat_map(IndexMap::values);
        // Where they cannot be looked at, Argo's count of pods can.
        let elsewhere = self.are_nodes_elsewhere();
        (elsewhere && self.status.progress.as_deref() != Some("0/0"))
            || nodes.into_iter().any(|node| node.kind == "Pod")
    }

    /// Whether its nodes are compressed, or in a database.
    pub fn are_nodes_elsewhere(&self) -> bool {
        given(self.status.compressed_nodes.as_ref()) || self.are_nodes_offloaded()
    }

    /// Whether its nodes are in Argo's database.
    pub fn are_nodes_offloaded(&self) -> bool {
        given(self.status.offload_node_status_version.as_ref())
    }

    /// Whether nothing more will happen to it.
    pub fn is_over(&self) -> bool {
        self.status.finished_at.is_some()
            && matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed" | "Error"))
    }
}

fn given(text: Option<&String>) -> bool {
    text.is_some_and(|text| !text.is_empty())
}

macro_rules! is_workflow {
    ($type:ty) => {
        impl kube::Resource for $type {
            type DynamicType = ();
            type Scope = NamespaceResourceScope;

            fn kind(_: &()) -> Cow<'_, str> {
                "Workflow".into()
            }
            fn group(_: &()) -> Cow<'_, str> {
                "argoproj.io".into()
            }
            fn version(_: &()) -> Cow<'_, str> {
                "v1alpha1".into()
            }
            fn plural(_: &()) -> Cow<'_, str> {
                "workflows".into()
            }
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

is_workflow!(Workflow);
is_workflow!(Seen);
