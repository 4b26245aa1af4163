//! The user's own Jupyter pod: of JupyterHub's KubeSpawner, or of Kubeflow's notebooks.
//!
//! Owns finding it. Pods are told apart by the raw names in their annotations, never by slugs, which
//! differ from one version of KubeSpawner to the next. What of a pod counts is for the engine to say.

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};

/// The annotation with the hub's own name of a user.
const USER: &str = "hub.jupyter.org/username";
/// The annotation with the name of a named server.
const SERVER: &str = "hub.jupyter.org/servername";

/// What a process inside a Jupyter pod knows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inside {
    /// The pod's host name, which is its name unless it uses its node's network.
    pub host: Option<String>,
    /// The hub's name of the user.
    pub user: Option<String>,
    /// The name of a named server; empty for the default one.
    pub server: String,
    /// The name of a Kubeflow notebook.
    pub notebook: Option<String>,
}

impl Inside {
    /// What the environment of a process tells; none outside of a Jupyter pod.
    pub fn from_environment(variable: &dyn Fn(&str) -> Option<String>) -> Option<Self> {
        variable("KUBERNETES_SERVICE_HOST")?;
        let user = variable("JUPYTERHUB_USER").filter(|user| !user.is_empty());
        // `/notebook/NAMESPACE/NAME`
        let prefix = variable("NB_PREFIX").unwrap_or_default();
        let notebook = prefix.strip_prefix("/notebook/").and_then(|rest| rest.split('/').nth(1));
        let notebook = notebook.filter(|name| !name.is_empty()).map(str::to_owned);
        (user.is_some() || notebook.is_some()).then(|| Self {
            host: variable("HOSTNAME"),
            user,
            server: variable("JUPYTERHUB_SERVER_NAME").unwrap_or_default(),
            notebook,
        })
    }

    /// Whose pod it is, for a person.
    fn shown(&self) -> String {
        match (&self.user, &self.notebook) {
            (Some(user), _) if self.server.is_empty() => format!("user {user:?}"),
            (Some(user), _) => format!("user {user:?}, server {:?}", self.server),
            (None, Some(notebook)) => format!("notebook {notebook:?}"),
            (None, None) => "nobody".into(),
        }
    }

    fn is_of(&self, pod: &Pod) -> bool {
        let metadata = &pod.metadata;
        let annotation = |name: &str| {
            metadata.annotations.as_ref().and_then(|all| all.get(name)).map(String::as_str)
        };
        let label =
            |name: &str| metadata.labels.as_ref().and_then(|all| all.get(name)).map(String::as_str);
        match (&self.user, &self.notebook) {
            (Some(user), _) => {
                annotation(USER) == Some(user)
                    && annotation(SERVER).unwrap_or_default() == self.server
            }
            (None, Some(notebook)) => label("notebook-name") == Some(notebook),
            (None, None) => false,
        }
    }

    /// The pod among those of a namespace: the one with our host name, else the newest.
    ///
    /// # Errors
    /// In words: there is none.
    pub fn choose(&self, pods: Vec<Pod>) -> Result<Pod, String> {
        let mut own: Vec<Pod> = pods.into_iter().filter(|pod| self.is_of(pod)).collect();
        own.sort_by_key(|pod| {
            let started = pod.status.as_ref().and_then(|status| status.start_time.clone());
            (pod.metadata.name == self.host, started.map(|time| time.0))
        });
        own.pop().ok_or_else(|| format!("there is no Jupyter pod of {}", self.shown()))
    }

    /// Finds the pod in a namespace.
    ///
    /// # Errors
    /// The server's, or in words: there is none.
    pub async fn find(&self, client: Client, namespace: &str) -> kube::Result<Result<Pod, String>> {
        let pods: Api<Pod> = Api::namespaced(client, namespace);
        let selector = match &self.user {
            // Each server of the hub has it, whatever its user is called.
            Some(_) => "component=singleuser-server".to_owned(),
            None => "notebook-name".to_owned(),
        };
        let found = pods.list(&ListParams::default().labels(&selector)).await?;
        Ok(self.choose(found.items))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, user: &str, server: Option<&str>, started: &str) -> Pod {
        let mut annotations = json!({USER: user});
        if let Some(server) = server {
            annotations[SERVER] = json!(server);
        }
        serde_json::from_value(json!({
            "metadata": {"name": name, "annotations": annotations},
            "status": {"startTime": started},
        }))
        .unwrap()
    }

    fn inside(pairs: &[(&str, &str)]) -> Option<Inside> {
        let of = |name: &str| pairs.iter().find(|(known, _)| *known == name);
        Inside::from_environment(&|name| of(name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn users_are_told_apart_by_their_raw_names() {
        let long = "a".repeat(60);
        let names = ["ann", "ann.b", "ann@b.org", "Ann", "ann-2d", "ann--b", long.as_str()];
        let pods = || {
            let one = |name: &&str| pod(&format!("p-{name}"), name, None, "2026-01-01T00:00:00Z");
            names.iter().map(one).collect::<Vec<_>>()
        };
        for name in names {
            let own =
                inside(&[("KUBERNETES_SERVICE_HOST", "x"), ("JUPYTERHUB_USER", name)]).unwrap();
            assert_eq!(own.choose(pods()).unwrap().metadata.name, Some(format!("p-{name}")));
        }
        let other =
            inside(&[("KUBERNETES_SERVICE_HOST", "x"), ("JUPYTERHUB_USER", "bob")]).unwrap();
        assert!(other.choose(pods()).unwrap_err().contains("\"bob\""));
    }

    #[test]
    fn named_servers_are_pods_of_their_own_and_the_own_host_comes_first() {
        let pods = || {
            vec![
                pod("default", "ann", None, "2026-01-01T00:00:00Z"),
                pod("gpu-old", "ann", Some("gpu"), "2026-01-01T00:00:00Z"),
                pod("gpu-new", "ann", Some("gpu"), "2026-01-02T00:00:00Z"),
            ]
        };
        let mut own = Inside { user: Some("ann".into()), ..Inside::default() };
        assert_eq!(own.choose(pods()).unwrap().metadata.name.unwrap(), "default");
        own.server = "gpu".into();
        assert_eq!(own.choose(pods()).unwrap().metadata.name.unwrap(), "gpu-new");
        own.host = Some("gpu-old".into());
        assert_eq!(own.choose(pods()).unwrap().metadata.name.unwrap(), "gpu-old");
    }

    #[test]
    fn a_kubeflow_notebook_is_found_by_its_label() {
        let own = inside(&[("KUBERNETES_SERVICE_HOST", "x"), ("NB_PREFIX", "/notebook/ann/lab")]);
        let own = own.unwrap();
        let pod = json!({"metadata": {"name": "lab-0", "labels": {"notebook-name": "lab"}}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        assert_eq!(own.choose(vec![pod]).unwrap().metadata.name.unwrap(), "lab-0");
        assert_eq!(inside(&[("JUPYTERHUB_USER", "ann")]), None);
        assert_eq!(inside(&[("KUBERNETES_SERVICE_HOST", "x"), ("NB_PREFIX", "/")]), None);
    }
}
