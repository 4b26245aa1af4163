//! The environment in which a run's pods work: that of the user's own Jupyter pod.
//!
//! Owns what is taken from a pod and what never is: its tokens, its service account's volumes, its init
//! containers and hooks. It must not know where the pod was found.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::{
    Affinity, EnvFromSource, EnvVar, LocalObjectReference, PersistentVolumeClaimVolumeSource, Pod,
    PodAffinity, PodAffinityTerm, PodSecurityContext, ResourceRequirements, SecurityContext,
    Toleration, Volume, VolumeMount, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::{Deserialize, Serialize};

/// What of a Jupyter pod counts for the runs of its user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Environment {
    /// Whose it is, by the hub's raw name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The image; none where every step must name its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// When it is pulled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<String>,
    /// What it is pulled with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Variables.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// Variables from whole objects.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env_from: Vec<EnvFromSource>,
    /// What a step asks for that does not say so itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Volumes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// Where they are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volume_mounts: Vec<VolumeMount>,
    /// Labels of nodes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that are borne.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// User, groups and the like of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_context: Option<PodSecurityContext>,
    /// The same of the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_security_context: Option<SecurityContext>,
    /// The service account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// Variables that stay behind because they look like secrets: a Workflow is read by many.
    #[serde(skip)]
    pub left_behind: Vec<String>,
    /// Labels by which the pod is found again: where its volumes can be used by one node only, runs
    /// go there.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub beside: BTreeMap<String, String>,
}

/// Variables of a hub that are not its tokens and addresses.
const KEPT: [&str; 3] = ["JUPYTERHUB_USER", "JUPYTER_IMAGE", "JUPYTER_IMAGE_SPEC"];
/// Variables that only the server itself has a use for.
const DROPPED: [&str; 6] = [
    "JPY_API_TOKEN",
    "MEM_LIMIT",
    "MEM_GUARANTEE",
    "CPU_LIMIT",
    "CPU_GUARANTEE",
    "JUPYTERHUB_API_TOKEN",
];

fn is_dropped(name: &str) -> bool {
    DROPPED.contains(&name) || (name.starts_with("JUPYTERHUB_") && !KEPT.contains(&name))
}

/// Whether a value stands in a variable that looks like a secret's. One that is taken from a Secret does
/// not.
fn looks_secret(variable: &EnvVar) -> bool {
    let name = variable.name.to_ascii_uppercase();
    let words = ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "PRIVATE_KEY", "API_KEY"];
    variable.value.as_ref().is_some_and(|value| !value.is_empty())
        && words.iter().any(|word| name.contains(word))
}

/// A volume that speaks for the pod itself: its token, or the hub's certificates.
fn is_own(volume: &Volume) -> bool {
    let projected = volume.projected.as_ref().and_then(|projected| projected.sources.as_ref());
    let token = projected
        .is_some_and(|sources| sources.iter().any(|source| source.service_account_token.is_some()));
    token
        || volume.name.starts_with("kube-api-access-")
        || volume.name == "jupyterhub-internal-certs"
}

impl Environment {
    /// What counts of a pod; none where it has no container.
    pub fn of_pod(pod: &Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        // A mesh may have put a container of its own before the user's.
        let by_name = |name: &str| spec.containers.iter().find(|container| container.name == name);
        let server = by_name("notebook").or_else(|| spec.containers.first())?;
        let volumes: Vec<Volume> = spec.volumes.iter().flatten().cloned().collect();
        let (own, volumes): (Vec<Volume>, Vec<Volume>) = volumes.into_iter().partition(is_own);
        let mounts = server.volume_mounts.iter().flatten();
        let mounts = mounts.filter(|mount| own.iter().all(|volume| volume.name != mount.name));
        let env = server.env.iter().flatten().filter(|variable| !is_dropped(&variable.name));
        let (secret, env): (Vec<EnvVar>, Vec<EnvVar>) = env.cloned().partition(looks_secret);
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let named = ["hub.jupyter.org/username", "hub.jupyter.org/servername", "notebook-name"];
        let beside = labels.into_iter().filter(|(name, _)| named.contains(&name.as_str()));
        let annotation = |name: &str| pod.metadata.annotations.as_ref()?.get(name).cloned();
        Some(Self {
            owner: annotation("hub.jupyter.org/username"),
            image: server.image.clone(),
            image_pull_policy: server.image_pull_policy.clone(),
            image_pull_secrets: spec.image_pull_secrets.clone().unwrap_or_default(),
            env,
            left_behind: secret.into_iter().map(|variable| variable.name).collect(),
            env_from: server.env_from.clone().unwrap_or_default(),
            resources: server.resources.clone(),
            volumes,
            volume_mounts: mounts.cloned().collect(),
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            security_context: spec.security_context.clone(),
            container_security_context: server.security_context.clone(),
            service_account: spec.service_account_name.clone(),
            beside: beside.collect(),
        })
    }

    /// Mounts a claim as well. A kubelet waits for ever where a pod names one claim twice.
    pub fn mount(&mut self, claim: &str, path: &str, below: Option<&str>) {
        let there = self.volumes.iter().find(|volume| {
            volume.persistent_volume_claim.as_ref().is_some_and(|one| one.claim_name == claim)
        });
        let name = there
            .map_or_else(|| format!("volume-{}", self.volumes.len()), |volume| volume.name.clone());
        if there.is_none() {
            let source = PersistentVolumeClaimVolumeSource {
                claim_name: claim.to_owned(),
                ..PersistentVolumeClaimVolumeSource::default()
            };
            self.volumes.push(Volume {
                name: name.clone(),
                persistent_volume_claim: Some(source),
                ..Volume::default()
            });
        }
        let mount_path = path.to_owned();
        let sub_path = below.map(str::to_owned);
        let mount = VolumeMount { name, mount_path, sub_path, ..VolumeMount::default() };
        self.volume_mounts.push(mount);
    }

    /// Whether a folder of the pod lies on a volume, so that other pods see it too.
    pub fn shares(&self, folder: &Path) -> bool {
        let holds = |mount: &&VolumeMount| folder.starts_with(&mount.mount_path);
        let deepest = self.volume_mounts.iter().filter(holds);
        let deepest = deepest.max_by_key(|mount| Path::new(&mount.mount_path).components().count());
        let volume =
            deepest.and_then(|mount| self.volumes.iter().find(|volume| volume.name == mount.name));
        volume.is_some_and(|volume| volume.empty_dir.is_none() && volume.ephemeral.is_none())
    }

    /// The wish for the node of the user's own pod, where a claim may be one node's only.
    pub fn affinity(&self) -> Option<Affinity> {
        let claims = self.volumes.iter().any(|volume| volume.persistent_volume_claim.is_some());
        (claims && !self.beside.is_empty()).then(|| {
            let term = PodAffinityTerm {
                label_selector: Some(LabelSelector {
                    match_labels: Some(self.beside.clone()),
                    ..LabelSelector::default()
                }),
                topology_key: "kubernetes.io/hostname".into(),
                ..PodAffinityTerm::default()
            };
            let wish = WeightedPodAffinityTerm { pod_affinity_term: term, weight: 100 };
            Affinity {
                pod_affinity: Some(PodAffinity {
                    preferred_during_scheduling_ignored_during_execution: Some(vec![wish]),
                    ..PodAffinity::default()
                }),
                ..Affinity::default()
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": "jupyter-ann",
                "labels": {"hub.jupyter.org/username": "ann-x-y---12345678", "component": "singleuser-server"},
                "annotations": {"hub.jupyter.org/username": "ann@x.y"},
            },
            "spec": {
                "initContainers": [{"name": "block-cloud-metadata", "image": "i"}],
                "serviceAccountName": "ann",
                "securityContext": {"fsGroup": 100},
                "nodeSelector": {"pool": "users"},
                "containers": [{"name": "istio-proxy", "image": "mesh"}, {
                    "name": "notebook",
                    "image": "lab:1",
                    "lifecycle": {"postStart": {"exec": {"command": ["x"]}}},
                    "securityContext": {"runAsUser": 1000},
                    "env": [
                        {"name": "JUPYTERHUB_API_TOKEN", "value": "geheim"},
                        {"name": "JPY_API_TOKEN", "value": "geheim"},
                        {"name": "JUPYTERHUB_OAUTH_SCOPES", "value": "[\"a\"]"},
                        {"name": "JUPYTERHUB_USER", "value": "ann@x.y"},
                        {"name": "MEM_LIMIT", "value": "1"},
                        {"name": "AWS_SECRET_ACCESS_KEY", "value": "geheim"},
                        {"name": "TOKEN_FILE", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                        {"name": "DATA", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
                    ],
                    "volumeMounts": [
                        {"name": "home", "mountPath": "/home/jovyan"},
                        {"name": "scratch", "mountPath": "/scratch"},
                        {"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"},
                    ],
                }],
                "volumes": [
                    {"name": "home", "persistentVolumeClaim": {"claimName": "claim-ann"}},
                    {"name": "scratch", "emptyDir": {}},
                    {"name": "kube-api-access-x", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
                ],
            },
        }))
        .unwrap()
    }

    #[test]
    fn tokens_hooks_and_the_mesh_stay_behind() {
        let environment = Environment::of_pod(&pod()).unwrap();
        let text = serde_json::to_string(&environment).unwrap();
        for word in
            ["geheim", "OAUTH", "kube-api-access", "istio", "mesh", "postStart", "MEM_LIMIT"]
        {
            assert!(!text.contains(word), "{word}: {text}");
        }
        for word in
            ["lab:1", "claim-ann", "configMapKeyRef", "\"runAsUser\":1000", "\"pool\":\"users\""]
        {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert_eq!(environment.owner.as_deref(), Some("ann@x.y"));
        assert_eq!(environment.left_behind, ["AWS_SECRET_ACCESS_KEY"]);
        assert!(text.contains("TOKEN_FILE"), "{text}");
    }

    #[test]
    fn only_folders_on_lasting_volumes_are_shared() {
        let environment = Environment::of_pod(&pod()).unwrap();
        assert!(environment.shares(Path::new("/home/jovyan/project")));
        assert!(!environment.shares(Path::new("/scratch/project")));
        assert!(!environment.shares(Path::new("/home/jovyanne")));
        let mut below = pod();
        let mounts = &mut below.spec.as_mut().unwrap().containers[1].volume_mounts;
        let path = "/home/jovyan/scratch".to_owned();
        mounts.as_mut().unwrap()[1].mount_path = path;
        let environment = Environment::of_pod(&below).unwrap();
        assert!(!environment.shares(Path::new("/home/jovyan/scratch/project")));
        assert!(environment.affinity().is_some());
    }
}
