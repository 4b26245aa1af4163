//! What people ask of a controller, as it reads it: a run, the end of one, a pipeline's suspension, runs of past
//! instants.
//!
//! Owns how each is written. Whoever may write these few things needs no other right: an admission policy keeps
//! people to them (`manifests`).

use std::sync::Arc;

use indexmap::IndexMap;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::kubernetes::ask;
use super::objects::{Key, Refused};
use super::records::{self, BACKFILL, FROM, SUSPEND};
use super::resources::{NotebookPipeline, NotebookRun, NotebookRunSpec};
use crate::engine::argo::answer;
use crate::plan::Trigger;
use crate::types::{PipelineId, RunId, RunName, TriggerKind, causes};

/// So many runs of past instants may be asked for at a time.
pub const MOST_BACKFILLED: usize = 100;

/// A connection by which people ask.
pub struct Requests {
    runtime: Arc<Runtime>,
    client: Client,
}

/// A run that a person wants now. What it executes is what its pipeline is once the controller takes it up.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Parameters on top of the pipeline's.
    pub params: IndexMap<String, Value>,
    /// The run that is wanted again.
    pub again: Option<RunName>,
    /// The step from which it is; none where all of it is.
    pub from: Option<String>,
    /// An id that no other request has.
    pub key: String,
}

/// Why the records of a namespace cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// The cluster does not know their kinds.
    Undefined,
    /// Pipelines are not for this reader, who has then published none.
    Forbidden(String),
    /// Anything else.
    Failed(String),
}

/// The record of a request.
pub fn record(key: &Key, id: &PipelineId, wanted: Wanted) -> NotebookRun {
    let trigger = Trigger {
        kind: TriggerKind::Manual,
        key: wanted.key,
        scheduled_at: None,
        retry_of: wanted.again,
    };
    let identity = RunId::new(id, trigger.kind, &trigger.key);
    let name = identity.name(&id.name, None);
    let spec = NotebookRunSpec {
        pipeline: key.name.clone(),
        identity,
        trigger,
        params: wanted.params,
        stop: false,
        stopped_by: None,
        digest: None,
        execution: None,
    };
    let mut made = NotebookRun::new(name.as_str(), spec);
    made.metadata.namespace = Some(key.namespace.clone());
    made.metadata.labels = Some(records::labels(id, TriggerKind::Manual));
    made.metadata.annotations = wanted.from.map(|step| [(FROM.to_owned(), step)].into());
    made
}

impl Requests {
    /// Over a connection.
    pub fn new(runtime: Arc<Runtime>, client: Client) -> Self {
        Self { runtime, client }
    }

    /// Whether pipelines and runs of a namespace can be read.
    ///
    /// # Errors
    /// They cannot.
    pub fn may_read(&self, namespace: &str) -> Result<(), Unreadable> {
        let few = ListParams::default().limit(1);
        let pipelines: Api<NotebookPipeline> = Api::namespaced(self.client.clone(), namespace);
        let runs: Api<NotebookRun> = Api::namespaced(self.client.clone(), namespace);
        let listed = async {
            pipelines.list_metadata(&few).await?;
            runs.list_metadata(&few).await
        };
        match answer(&self.runtime, listed).map_err(Unreadable::Failed)? {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Err(Unreadable::Undefined),
            Err(kube::Error::Api(status)) if status.code == 403 => {
                Err(Unreadable::Forbidden(status.message.clone()))
            }
            Err(error) => Err(Unreadable::Failed(causes(&error))),
        }
    }

    /// Asks for the end of a run.
    ///
    /// # Errors
    /// The server's.
    pub fn stop(&self, run: &Key) -> Result<(), Refused> {
        let api: Api<NotebookRun> = Api::namespaced(self.client.clone(), &run.namespace);
        let patch = Patch::Merge(json!({"spec": {"stop": true}}));
        ask(&self.runtime, api.patch(&run.name, &PatchParams::default(), &patch)).map(|_| ())
    }

    /// Suspends a pipeline's triggers, or resumes them.
    ///
    /// # Errors
    /// The server's.
    pub fn suspend(&self, pipeline: &Key, suspended: bool) -> Result<(), Refused> {
        self.annotate(pipeline, SUSPEND, suspended.then_some("true")).map(|_| ())
    }

    /// Asks for runs of a pipeline's past instants, `FROM..TO`. Says in which version it does.
    ///
    /// # Errors
    /// The server's.
    pub fn backfill(&self, pipeline: &Key, words: &str) -> Result<i64, Refused> {
        let asked = self.annotate(pipeline, BACKFILL, Some(words))?;
        Ok(records::version(&asked.metadata).unwrap_or(0))
    }

    fn annotate(
        &self,
        pipeline: &Key,
        name: &str,
        word: Option<&str>,
    ) -> Result<NotebookPipeline, Refused> {
        let api: Api<NotebookPipeline> = Api::namespaced(self.client.clone(), &pipeline.namespace);
        let patch = Patch::Merge(json!({"metadata": {"annotations": {name: word}}}));
        ask(&self.runtime, api.patch(&pipeline.name, &PatchParams::default(), &patch))
    }

    /// The pods of a run, oldest first.
    ///
    /// # Errors
    /// The server's.
    pub fn pods(&self, run: &Key) -> Result<Vec<Pod>, Refused> {
        let own = format!("workflows.argoproj.io/workflow={}", run.name);
        let listed = ask(
            &self.runtime,
            self.pods_of(&run.namespace).list(&ListParams::default().labels(&own)),
        );
        let mut pods = listed?.items;
        pods.sort_by_key(|pod| (pod.creation_timestamp(), pod.name_any()));
        Ok(pods)
    }

    /// The pods of a namespace.
    pub fn pods_of(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }
}
