//! The objects of a real API server: watched, so that nothing is asked while nothing happens, and written
//! one request at a time.
//!
//! Owns the requests. It decides nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams,
    Preconditions,
};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::runtime::Runtime;

use super::cache::{Cache, key_of};
use super::objects::{Key, Objects, Refused};
use super::records::version;
use super::resources::{NotebookPipeline, NotebookRun};
use crate::engine::argo::answer;

/// The name under which fields are ours.
pub const MANAGER: &str = "jupyterflow";

/// The objects of a cluster.
#[derive(Clone)]
pub struct Kubernetes {
    runtime: Arc<Runtime>,
    client: Client,
    pipelines: Arc<Cache<NotebookPipeline>>,
    runs: Arc<Cache<NotebookRun>>,
    pulse: Arc<AtomicI64>,
}

/// Watches all objects of a kind, in one namespace or in all. One that cannot be read holds up no other: what
/// was known of it before stays so.
pub fn watch<K>(
    runtime: &Runtime,
    client: &Client,
    namespace: Option<&str>,
    config: watcher::Config,
    cache: Arc<Cache<K>>,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    K: Send + Sync + 'static,
{
    let resource = ApiResource::erase::<K>(&());
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let kind = resource.kind.clone();
    runtime.spawn(async move {
        // A watch that fails is begun anew, with growing pauses; one that is too old lists again.
        let mut events = std::pin::pin!(watcher::watcher(api, config).default_backoff());
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Apply(mut object) | Event::InitApply(mut object)) => {
                    object.managed_fields_mut().clear();
                    let key = key_of(&object);
                    match object.try_parse::<K>() {
                        Ok(object) => cache.saw(object),
                        Err(error) => {
                            tracing::warn!("warning: {kind} {key} cannot be read: {error}");
                            cache.stands(&key);
                        }
                    }
                }
                Ok(Event::Delete(object)) => {
                    cache.saw_removed(&key_of(&object), version(&object.metadata).unwrap_or(0));
                }
                Ok(Event::Init) => cache.list_begins(),
                Ok(Event::InitDone) => cache.list_ends(),
                Err(error) => tracing::debug!("a watch failed: {error}"),
            }
        }
    });
}

impl Kubernetes {
    /// Begins to watch, in one namespace or in all.
    pub fn new(
        runtime: Arc<Runtime>,
        client: Client,
        namespace: Option<&str>,
        pulse: Arc<AtomicI64>,
    ) -> Self {
        let pipelines = Arc::new(Cache::new(|_| Vec::new(), Arc::clone(&pulse)));
        let runs = Arc::new(Cache::new(words, Arc::clone(&pulse)));
        let config = watcher::Config::default;
        watch(&runtime, &client, namespace, config(), Arc::clone(&pipelines));
        watch(&runtime, &client, namespace, config(), Arc::clone(&runs));
        Self { runtime, client, pipelines, runs, pulse }
    }

    /// Whether all that there was at the beginning is known.
    pub fn is_ready(&self) -> bool {
        self.pipelines.is_ready() && self.runs.is_ready()
    }

    /// The labels of a secret, whose content is nobody's business here; none where there is no such secret.
    ///
    /// # Errors
    /// The server's.
    pub fn secret_labels(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<BTreeMap<String, String>>, Refused> {
        if !is_object_name(name) {
            return Ok(None);
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let read = self.ask(api.get_metadata_opt(name))?;
        Ok(read.map(|read| read.metadata.labels.unwrap_or_default()))
    }

    /// A secret, with its labels; none where there is none.
    ///
    /// # Errors
    /// The server's.
    pub fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, Refused> {
        if !is_object_name(name) {
            return Ok(None);
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        self.ask(api.get_opt(name))
    }

    fn ask<T>(&self, what: impl Future<Output = kube::Result<T>>) -> Result<T, Refused> {
        ask(&self.runtime, what)
    }

    fn pipelines_in(&self, namespace: Option<&str>) -> Api<NotebookPipeline> {
        scoped(&self.client, namespace)
    }

    fn runs_in(&self, namespace: Option<&str>) -> Api<NotebookRun> {
        scoped(&self.client, namespace)
    }
}

/// Whether an object can have a name. A client puts it into a path as it is, where `../` would lead elsewhere.
fn is_object_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    name.len() <= 253
        && name.bytes().all(plain)
        && ends(name.bytes().next())
        && ends(name.bytes().last())
}

/// Asks a server, and waits for its answer as long as is sensible.
///
/// # Errors
/// It refuses, or does not answer.
pub fn ask<T>(
    runtime: &Runtime,
    what: impl Future<Output = kube::Result<T>>,
) -> Result<T, Refused> {
    match answer(runtime, what).map_err(Refused::Other)? {
        Ok(answer) => Ok(answer),
        Err(kube::Error::Api(status)) => Err(match (status.code, status.reason.as_str()) {
            (409, "AlreadyExists") => Refused::Exists,
            (409, _) => Refused::Conflict,
            (404, _) => Refused::Gone,
            _ => Refused::Other(status.message.clone()),
        }),
        Err(error) => Err(Refused::Other(crate::types::causes(&error))),
    }
}

/// Removes an object only as it was read.
pub fn as_read(metadata: &ObjectMeta) -> DeleteParams {
    let preconditions = Preconditions {
        uid: metadata.uid.clone(),
        resource_version: metadata.resource_version.clone(),
    };
    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }
}

/// The objects of a namespace, or of all.
pub fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// A run is found by its pipeline, with the namespace, and by its name.
fn words(run: &NotebookRun) -> Vec<String> {
    vec![of_pipeline(&run.namespace().unwrap_or_default(), &run.spec.pipeline), run.name_any()]
}

fn of_pipeline(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

/// What is made is nowhere only where its namespace is not there.
fn no_namespace(refused: Refused, namespace: Option<String>) -> Refused {
    match refused {
        Refused::Gone => {
            let namespace = namespace.unwrap_or_default();
            Refused::Other(format!("there is no namespace {namespace}"))
        }
        other => other,
    }
}

fn own() -> PostParams {
    PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() }
}

impl Objects for Kubernetes {
    fn pipelines(&self) -> Vec<Arc<NotebookPipeline>> {
        self.pipelines.all()
    }

    fn pipeline(&self, key: &Key) -> Option<Arc<NotebookPipeline>> {
        self.pipelines.get(key)
    }

    fn runs_of(&self, pipeline: &Key) -> Vec<Arc<NotebookRun>> {
        self.runs.find(&of_pipeline(&pipeline.namespace, &pipeline.name))
    }

    fn runs_named(&self, name: &str) -> Vec<Arc<NotebookRun>> {
        self.runs.find(name)
    }

    fn runs(&self) -> Vec<Arc<NotebookRun>> {
        self.runs.all()
    }

    fn pulse(&self) -> i64 {
        self.pulse.load(Ordering::Relaxed)
    }

    fn read_pipeline(&self, key: &Key) -> Result<Option<Arc<NotebookPipeline>>, Refused> {
        let api = self.pipelines_in(Some(&key.namespace));
        self.pipelines.read(key, || self.ask(api.get_opt(&key.name)))
    }

    fn create_pipeline(&self, made: &NotebookPipeline) -> Result<Arc<NotebookPipeline>, Refused> {
        // Applied too, so that later applications own all its fields. One with a status was there.
        let made = self.apply_pipeline(made)?;
        if made.status.is_some() { Err(Refused::Exists) } else { Ok(made) }
    }

    fn apply_pipeline(&self, wanted: &NotebookPipeline) -> Result<Arc<NotebookPipeline>, Refused> {
        let api = self.pipelines_in(wanted.namespace().as_deref());
        let (name, patch) = (wanted.name_any(), Patch::Apply(wanted));
        let answer = self.ask(api.patch(&name, &PatchParams::apply(MANAGER).force(), &patch));
        let answer = answer.map_err(|refused| no_namespace(refused, wanted.namespace()))?;
        Ok(self.pipelines.take(answer))
    }

    fn write_pipeline(&self, wanted: &NotebookPipeline) -> Result<Arc<NotebookPipeline>, Refused> {
        let api = self.pipelines_in(wanted.namespace().as_deref());
        let answer = self.ask(api.replace_status(&wanted.name_any(), &own(), wanted))?;
        Ok(self.pipelines.take(answer))
    }

    fn clear_annotation(&self, of: &NotebookPipeline, name: &str) -> Result<(), Refused> {
        let api = self.pipelines_in(of.namespace().as_deref());
        let patch = Patch::Merge(json!({"metadata": {
            "resourceVersion": of.metadata.resource_version, "annotations": {name: null},
        }}));
        let answer = self.ask(api.patch(&of.name_any(), &PatchParams::default(), &patch))?;
        self.pipelines.take(answer);
        Ok(())
    }

    fn read_run(&self, key: &Key) -> Result<Option<Arc<NotebookRun>>, Refused> {
        let api = self.runs_in(Some(&key.namespace));
        self.runs.read(key, || self.ask(api.get_opt(&key.name)))
    }

    fn create_run(&self, made: &NotebookRun) -> Result<Arc<NotebookRun>, Refused> {
        let api = self.runs_in(made.namespace().as_deref());
        let answer = self.ask(api.create(&own(), made));
        let answer = answer.map_err(|refused| no_namespace(refused, made.namespace()))?;
        Ok(self.runs.take(answer))
    }

    fn replace_run(&self, wanted: &NotebookRun) -> Result<Arc<NotebookRun>, Refused> {
        let api = self.runs_in(wanted.namespace().as_deref());
        let answer = self.ask(api.replace(&wanted.name_any(), &own(), wanted))?;
        Ok(self.runs.take(answer))
    }

    fn write_run(&self, wanted: &NotebookRun) -> Result<Arc<NotebookRun>, Refused> {
        let api = self.runs_in(wanted.namespace().as_deref());
        let answer = self.ask(api.replace_status(&wanted.name_any(), &own(), wanted))?;
        Ok(self.runs.take(answer))
    }

    fn delete_run(&self, run: &NotebookRun) -> Result<(), Refused> {
        let api = self.runs_in(run.namespace().as_deref());
        let asked = self.ask(api.delete(&run.name_any(), &as_read(&run.metadata)));
        if matches!(asked, Ok(_) | Err(Refused::Gone)) {
            self.runs.removed(&key_of(run));
        }
        asked.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::is_object_name;

    #[test]
    fn no_name_leads_elsewhere() {
        assert!(is_object_name("forge") && is_object_name("a.b-1"));
        for name in ["", "..", "../../other/secrets/x", "a?x=/../b", "a/b", "A", "-a", "a%2e"] {
            assert!(!is_object_name(name), "{name}");
        }
    }
}
