//! Taking the controller out of a cluster.
//!
//! Owns the order: first whatever could make a finalizer, then the finalizers, so that none is left that
//! nobody removes.

use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PropagationPolicy};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::runtime::Runtime;

use super::kubernetes::ask;
use super::manifests::{NAME, REQUESTS};
use super::objects::Refused;
use crate::engine::argo::FINALIZER;
use crate::engine::argo::workflow::Seen;

/// How long the controller's pods may take to end.
const PATIENCE: Duration = Duration::from_secs(90);

/// Removes one object, where it is there.
fn remove<K>(runtime: &Runtime, api: &Api<K>, name: &str) -> Result<(), String>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let parameters = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Foreground),
        ..DeleteParams::default()
    };
    match ask(runtime, api.delete(name, &parameters)) {
        Ok(_) | Err(Refused::Gone) => Ok(()),
        Err(refused) => Err(format!("failed to remove {name}: {refused}")),
    }
}

/// Removes the controller of a namespace with its rights, and waits until its pods are gone.
///
/// # Errors
/// In words: the server refuses, or the pods stay.
pub fn controller(runtime: &Runtime, client: &Client, namespace: &str) -> Result<(), String> {
    remove(runtime, &Api::<Deployment>::namespaced(client.clone(), namespace), NAME)?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let own = ListParams::default().labels(&format!("app.kubernetes.io/name={NAME}"));
    let gone = async {
        while !pods.list(&own).await?.items.is_empty() {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        Ok::<(), kube::Error>(())
    };
    match runtime.block_on(async { tokio::time::timeout(PATIENCE, gone).await }) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(crate::types::causes(&error)),
        Err(_) => return Err(format!("the controller's pods in {namespace} do not end")),
    }
    remove(runtime, &Api::<ValidatingAdmissionPolicyBinding>::all(client.clone()), REQUESTS)?;
    remove(runtime, &Api::<ValidatingAdmissionPolicy>::all(client.clone()), REQUESTS)?;
    remove(runtime, &Api::<RoleBinding>::namespaced(client.clone(), namespace), NAME)?;
    remove(runtime, &Api::<Role>::namespaced(client.clone(), namespace), NAME)?;
    remove(runtime, &Api::<ClusterRoleBinding>::all(client.clone()), NAME)?;
    remove(runtime, &Api::<ClusterRole>::all(client.clone()), NAME)?;
    remove(runtime, &Api::<ServiceAccount>::namespaced(client.clone(), namespace), NAME)
}

/// Takes our finalizer off all Workflows. Says how many had it.
///
/// # Errors
/// In words: the server refuses.
pub fn finalizers(runtime: &Runtime, client: &Client) -> Result<usize, String> {
    let all: Api<Seen> = Api::all(client.clone());
    let ours = ListParams::default().labels("app.kubernetes.io/managed-by=jupyterflow");
    let listed = ask(runtime, all.list(&ours)).map_err(|refused| refused.to_string())?;
    let held = listed.items.iter().filter(|one| one.finalizers().iter().any(|f| f == FINALIZER));
    let mut freed = 0;
    for seen in held {
        let api: Api<Seen> = Api::namespaced(client.clone(), &seen.namespace().unwrap_or_default());
        let others: Vec<&String> =
            seen.finalizers().iter().filter(|one| *one != FINALIZER).collect();
        let patch = Patch::Merge(json!({"metadata": {"finalizers": others}}));
        let (name, parameters) = (seen.name_any(), PatchParams::default());
        match ask(runtime, async { api.patch(&name, &parameters, &patch).await }) {
            Ok(_) | Err(Refused::Gone) => freed += 1,
            Err(refused) => return Err(format!("failed to let Workflow {name} go: {refused}")),
        }
    }
    Ok(freed)
}

/// Removes the custom resources with all their objects.
///
/// # Errors
/// In words: the server refuses.
pub fn definitions(runtime: &Runtime, client: &Client) -> Result<(), String> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in super::definitions() {
        remove(runtime, &api, &definition.name_any())?;
    }
    Ok(())
}
