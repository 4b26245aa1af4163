//! The environments of users: taken from their Jupyter pods, and kept for when these are gone.
//!
//! Owns whose environment a pipeline gets, and the object that keeps it. What of a pod counts is the
//! engine's to say (`argo::environment`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use tokio::runtime::Runtime;

use super::cache::Cache;
use super::kubernetes::{MANAGER, ask, scoped, watch};
use super::objects::{Key, Refused};
use super::resources::{NotebookEnvironment, NotebookEnvironmentSpec};
use crate::engine::argo::environment::Environment;
use crate::types::{Digest, slug};

/// Pods of Workflows are none of a hub's, whatever they say of themselves.
const OF_ARGO: &str = "workflows.argoproj.io/workflow";

/// The environments of a cluster.
#[derive(Clone)]
pub struct Environments {
    runtime: Arc<Runtime>,
    client: Client,
    /// Servers of a hub, and of Kubeflow.
    pods: [Arc<Cache<Pod>>; 2],
    kept: Arc<Cache<NotebookEnvironment>>,
}

/// What is kept of a user.
#[derive(Clone, Debug, PartialEq)]
struct Kept {
    /// Its name, from the hub's raw one.
    name: String,
    namespace: String,
    environment: Environment,
    /// When its server started.
    started: Option<String>,
}

impl Environments {
    /// Begins to watch, in one namespace or in all.
    pub fn new(
        runtime: Arc<Runtime>,
        client: Client,
        namespace: Option<&str>,
        pulse: &Arc<AtomicI64>,
    ) -> Self {
        let pods = ["component=singleuser-server", "notebook-name"].map(|selector| {
            let cache = Arc::new(Cache::new(|_| Vec::new(), Arc::clone(pulse)));
            let config = watcher::Config::default().labels(selector);
            watch(&runtime, &client, namespace, config, Arc::clone(&cache));
            cache
        });
        let kept = Arc::new(Cache::new(|_| Vec::new(), Arc::clone(pulse)));
        watch(&runtime, &client, namespace, watcher::Config::default(), Arc::clone(&kept));
        Self { runtime, client, pods, kept }
    }

    /// Whether all that there was at the beginning is known.
    pub fn is_ready(&self) -> bool {
        self.pods.iter().all(|pods| pods.is_ready()) && self.kept.is_ready()
    }

    /// Keeps the environment of each server that is ready, where it is not kept as it is. Says whose,
    /// and what the server refuses.
    pub fn keep(&self) -> Vec<Result<String, String>> {
        let pods = self.pods.iter().flat_map(|pods| pods.all());
        let mut newest: BTreeMap<(String, String), Kept> = BTreeMap::new();
        for found in pods.filter_map(|pod| taken(&pod)) {
            let key = (found.namespace.clone(), found.name.clone());
            let newer = newest.get(&key).is_none_or(|known| known.started < found.started);
            if newer {
                newest.insert(key, found);
            }
        }
        let mut written = Vec::new();
        for ((namespace, name), mut found) in newest {
            // Said to a user who types `run`; nothing of it is kept.
            found.environment.left_behind.clear();
            let key = Key { namespace, name };
            let known = self.kept.get(&key);
            if known.is_some_and(|known| known.spec.environment == found.environment) {
                continue;
            }
            let owner = found.environment.owner.clone().unwrap_or_default();
            let labels = [
                ("app.kubernetes.io/managed-by", "jupyterflow".to_owned()),
                ("jupyterflow.io/owner", slug(&owner, 63)),
            ];
            let spec = NotebookEnvironmentSpec { environment: found.environment };
            let mut wanted = NotebookEnvironment::new(&key.name, spec);
            let labels = labels.into_iter().filter(|(_, value)| !value.is_empty());
            wanted.metadata.labels =
                Some(labels.map(|(name, value)| (name.to_owned(), value)).collect());
            let api: Api<NotebookEnvironment> = scoped(&self.client, Some(&key.namespace));
            let (patch, parameters) = (Patch::Apply(&wanted), PatchParams::apply(MANAGER).force());
            match ask(&self.runtime, api.patch(&key.name, &parameters, &patch)) {
                Ok(kept) => {
                    self.kept.take(kept);
                    written.push(Ok(if owner.is_empty() { key.name } else { owner }));
                }
                // A namespace on its way out takes nothing more.
                Err(Refused::Conflict | Refused::Gone | Refused::Exists) => {}
                Err(Refused::Other(message)) => {
                    let namespace = key.namespace;
                    written
                        .push(Err(format!("an environment in {namespace} is not kept: {message}")));
                }
            }
        }
        written
    }

    /// The environment for pipelines of an owner's folder in a namespace.
    pub fn of(&self, namespace: &str, owner: &str, claim: Option<&str>) -> Option<Environment> {
        choose(&self.known(namespace), owner, claim).cloned()
    }

    /// Why none is known to be whose it should be, in words.
    pub fn why_none(&self, namespace: &str) -> String {
        match self.known(namespace).len() {
            0 => "nobody's Jupyter server was seen yet; start one, or name an `image:`".into(),
            some => format!(
                "of {some} known Jupyter servers none is plainly its owner's; name an `image:`"
            ),
        }
    }

    /// The environment of an object.
    pub fn named(&self, namespace: &str, name: &str) -> Option<Environment> {
        let key = Key { namespace: namespace.to_owned(), name: name.to_owned() };
        self.kept.get(&key).map(|kept| kept.spec.environment.clone())
    }

    /// The images of a namespace's servers.
    pub fn images(&self, namespace: &str) -> Vec<String> {
        self.known(namespace).into_iter().filter_map(|one| one.image).collect()
    }

    fn known(&self, namespace: &str) -> Vec<Environment> {
        let kept = self.kept.all();
        let own = kept.iter().filter(|one| one.namespace().as_deref() == Some(namespace));
        own.map(|one| one.spec.environment.clone()).collect()
    }
}

/// The name of the object that keeps the environment of a user, by the hub's raw name, or of a notebook.
pub fn name_of(who: &str) -> String {
    let hash = Digest::of_bytes(who.as_bytes());
    match slug(who, 40).as_str() {
        "" => format!("user-{}", &hash.hex()[..8]),
        slug => format!("{slug}-{}", &hash.hex()[..8]),
    }
}

/// What counts of a server's pod; none of one that is not ready, or is none.
fn taken(pod: &Pod) -> Option<Kept> {
    if pod.labels().contains_key(OF_ARGO) || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let status = pod.status.as_ref()?;
    let ready = status.conditions.iter().flatten();
    if !ready.into_iter().any(|one| one.type_ == "Ready" && one.status == "True") {
        return None;
    }
    let environment = Environment::of_pod(pod)?;
    let who = environment.owner.clone().or_else(|| pod.labels().get("notebook-name").cloned())?;
    let name = name_of(&who);
    let started = status.start_time.as_ref().map(|time| time.0.to_string());
    Some(Kept { name, namespace: pod.namespace()?, environment, started })
}

/// The owner's own environment; where the folder is nobody's by name, the one that mounts the claim, and
/// where several do, the first of them by name.
fn choose<'a>(
    known: &'a [Environment],
    owner: &str,
    claim: Option<&str>,
) -> Option<&'a Environment> {
    let raw = |one: &&Environment| one.owner.as_deref() == Some(owner) && !owner.is_empty();
    let slugged = |one: &&Environment| {
        let name = one.owner.as_deref().unwrap_or_default();
        !owner.is_empty() && slug(name, 63) == slug(owner, 63)
    };
    let mounts = |one: &&Environment| {
        let claims = one.volumes.iter().filter_map(|one| one.persistent_volume_claim.as_ref());
        claim.is_some_and(|claim| claims.into_iter().any(|one| one.claim_name == claim))
    };
    let mut slugs = known.iter().filter(slugged);
    let only = match (slugs.next(), slugs.next()) {
        (Some(one), None) => Some(one),
        // Two users whose slugs are one are told apart by their raw names alone.
        _ => None,
    };
    let first = |fits: &dyn Fn(&&Environment) -> bool| {
        known.iter().filter(fits).min_by(|a, b| a.owner.cmp(&b.owner))
    };
    let alone = if let [one] = known { Some(one) } else { None };
    first(&raw).or(only).or_else(|| first(&mounts)).or(alone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn environment(owner: &str, claim: &str) -> Environment {
        serde_json::from_value(json!({
            "owner": owner, "image": format!("image-of-{owner}"),
            "volumes": [{"name": "home", "persistentVolumeClaim": {"claimName": claim}}],
        }))
        .unwrap()
    }

    #[test]
    fn whose_environment_it_is() {
        let known = [
            environment("ann@x.org", "claim-ann"),
            environment("ann-x-org", "claim-other"),
            environment("bob", "claim-bob"),
        ];
        let of =
            |owner: &str, claim| choose(&known, owner, claim).and_then(|one| one.owner.clone());
        assert_eq!(of("ann@x.org", None).as_deref(), Some("ann@x.org"));
        assert_eq!(of("ann-x-org", None).as_deref(), Some("ann-x-org"));
        // Of two users with one slug neither gets the other's.
        assert_eq!(of("ann_x_org", None), None);
        assert_eq!(of("BOB", None).as_deref(), Some("bob"));
        assert_eq!(of("project", Some("claim-bob")).as_deref(), Some("bob"));
        assert_eq!(of("project", None), None);
        assert_eq!(choose(&known[2..], "project", None), Some(&known[2]));
    }

    #[test]
    fn only_ready_servers_of_a_hub_count() {
        let pod = |labels: serde_json::Value, ready: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": {
                    "name": "jupyter-ann", "namespace": "team", "labels": labels,
                    "annotations": {"hub.jupyter.org/username": "ann"},
                },
                "spec": {"containers": [{"name": "notebook", "image": "lab:1"}]},
                "status": {"conditions": [{"type": "Ready", "status": ready}]},
            }))
            .unwrap()
        };
        assert!(taken(&pod(json!({"component": "singleuser-server"}), "True")).is_some());
        assert!(taken(&pod(json!({"component": "singleuser-server"}), "False")).is_none());
        // A step may give its pod any label but takes none of Argo's away.
        let forged = json!({"component": "singleuser-server", OF_ARGO: "p-1"});
        assert!(taken(&pod(forged, "True")).is_none());
    }
}
