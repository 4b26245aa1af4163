//! Pods that their node forgot: neither begun nor ended, they hold up their run for ever.
//!
//! Owns which pods these are, and removes them, after which Argo makes them anew. It asks nothing of the server while each
//! pod begins in time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use tokio::runtime::Runtime;

use super::cache::key_of;
use super::kubernetes::{as_read, ask, scoped};
use super::objects::Refused;
use super::workflows::Workflows;
use crate::engine::argo::reading::initializing;
use crate::engine::argo::workflow::Seen;

/// So long a pod may be between its first containers and its own before anybody looks closer, and between two looks.
const BETWEEN: Duration = Duration::from_secs(60);
/// The label by which Argo marks the pods of a Workflow.
const OF_WORKFLOW: &str = "workflows.argoproj.io/workflow";

/// The pods that do not begin.
pub struct Pods {
    runtime: Arc<Runtime>,
    client: Client,
    /// When to look closer at the pods of a Workflow, by its uid.
    due: HashMap<String, Instant>,
}

impl Pods {
    /// None is known to wait.
    pub fn new(runtime: Arc<Runtime>, client: Client) -> Self {
        Self { runtime, client, due: HashMap::new() }
    }

    /// Removes what is forgotten. Says what was done, and of each Workflow what the server refuses; then when to come
    /// again, where a pod waits.
    pub fn free(
        &mut self,
        workflows: &Workflows,
        now: Instant,
    ) -> (Vec<Result<String, String>>, Option<Duration>) {
        let waiting = workflows.all().into_iter().filter(|seen| initializing(seen));
        let waiting: HashMap<String, Arc<Seen>> =
            waiting.filter_map(|seen| Some((seen.uid()?, seen))).collect();
        self.due.retain(|uid, _| waiting.contains_key(uid));
        let mut done = Vec::new();
        for (uid, seen) in waiting {
            let due = self.due.entry(uid).or_insert(now + BETWEEN);
            if *due <= now {
                *due = now + BETWEEN;
                done.extend(self.look(&seen));
            }
        }
        (done, self.due.values().min().map(|due| due.saturating_duration_since(now)))
    }

    /// Looks at the pods of a Workflow.
    fn look(&self, seen: &Seen) -> Vec<Result<String, String>> {
        let api: Api<Pod> = scoped(&self.client, seen.namespace().as_deref());
        let own = ListParams::default().labels(&format!("{OF_WORKFLOW}={}", seen.name_any()));
        let pods = match ask(&self.runtime, api.list(&own)) {
            Ok(pods) => pods.items,
            Err(refused) => {
                return vec![Err(format!(
                    "failed to list the pods of {}: {refused}",
                    key_of(seen)
                ))];
            }
        };
        let is_own = |pod: &&Pod| {
            pod.owner_references()
                .iter()
                .any(|owner| Some(&owner.uid) == seen.metadata.uid.as_ref())
        };
        let forgotten = pods.iter().filter(is_own).filter(|pod| is_forgotten(pod));
        let removed = forgotten.filter_map(|pod| {
            let key = key_of(pod);
            match ask(&self.runtime, api.delete(&pod.name_any(), &as_read(&pod.metadata))) {
                Ok(_) => {
                    Some(Ok(format!("pod {key} is removed: its node lost it before it began")))
                }
                // It moved on after all.
                Err(Refused::Conflict | Refused::Gone | Refused::Exists) => None,
                Err(Refused::Other(message)) => {
                    Some(Err(format!("failed to remove pod {key}, which its node lost: {message}")))
                }
            }
        });
        removed.collect()
    }
}

/// Whether nobody will ever begin or end a pod. A runtime that dies between two containers of a pod takes its
/// sandbox along, and the kubelet makes no second one for a pod that is never restarted (`computePodActions` of
/// Kubernetes 1.34). By its phase and reasons such a pod looks like one that pulls an image: only its lost sandbox
/// tells them apart, of which the kubelet tells since Kubernetes 1.29.
fn is_forgotten(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let containers = || {
        let first = status.init_container_statuses.iter().flatten();
        first.chain(status.container_statuses.iter().flatten()).filter_map(|one| one.state.as_ref())
    };
    let sandbox = status.conditions.iter().flatten();
    let lost =
        |condition: &str, word: &str| condition == "PodReadyToStartContainers" && word == "False";
    pod.metadata.deletion_timestamp.is_none()
        && status.phase.as_deref() == Some("Pending")
        && pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) == Some("Never")
        && containers().any(|state| state.terminated.is_some())
        && containers().all(|state| state.running.is_none())
        && sandbox.into_iter().any(|one| lost(&one.type_, &one.status))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(change: impl Fn(&mut Value)) -> Pod {
        let waits = json!({"waiting": {"reason": "PodInitializing"}});
        let container = |name: &str, state: Value| json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        let ended = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
        let mut pod = json!({
            "metadata": {"name": "p", "namespace": "team"},
            "spec": {"restartPolicy": "Never", "containers": []},
            "status": {
                "phase": "Pending",
                "conditions": [{"type": "PodReadyToStartContainers", "status": "False"}],
                "initContainerStatuses": [container("init", ended), container("exec", waits.clone())],
                "containerStatuses": [container("main", waits)],
            },
        });
        change(&mut pod);
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn only_a_pod_without_its_sandbox_between_two_containers_is_forgotten() {
        assert!(is_forgotten(&pod(|_| {})));
        let first = "/status/initContainerStatuses/0/state";
        let waits = json!({"waiting": {"reason": "PodInitializing"}});
        let running = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
        for (what, path, value) in [
            ("it pulls an image", "/status/conditions/0/status", json!("True")),
            ("an older kubelet tells nothing", "/status/conditions", json!([])),
            ("it has not begun", first, waits),
            ("a container runs", "/status/containerStatuses/0/state", running),
            ("it ended", "/status/phase", json!("Failed")),
            ("it is restarted", "/spec/restartPolicy", json!("OnFailure")),
        ] {
            let pod = pod(|pod| *pod.pointer_mut(path).unwrap() = value.clone());
            assert!(!is_forgotten(&pod), "{what}");
        }
        let leaving =
            pod(|pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
        assert!(!is_forgotten(&leaving));
    }
}
