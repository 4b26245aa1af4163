//! A user of a hub: a namespace, a home on a claim, and a Jupyter pod of KubeSpawner's shape.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Ended, Running, wait_for};

/// A token that must be in no object, log or notebook.
pub const TOKEN: &str = "geheim-0123456789";

pub struct User {
    pub namespace: String,
    pod: &'static str,
    home: tempfile::TempDir,
}

fn cache() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::env::var_os("CLUSTER_CACHE").map_or(root.join(".venv/cluster"), PathBuf::from)
}

/// `kubectl`, of the cluster of the tests.
pub fn kubectl(args: &[&str]) -> Command {
    assert!(std::env::var_os("KUBECONFIG").is_some(), "start it by tests/cluster/with");
    let mut command = Command::new("timeout");
    // Nothing here takes so long: what hangs is a failure that says what it was.
    command.arg("240").arg(cache().join("bin/kubectl")).args(args).stdin(Stdio::null());
    command
}

/// `kubectl`, which reads a text.
pub fn fed(args: &[&str], text: &str) -> Ended {
    let mut command = kubectl(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

/// Applies objects.
#[track_caller]
pub fn apply(objects: &[Value]) {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    fed(&["apply", "-f", "-"], &list.to_string()).expect(0);
}

/// A user's pod.
pub struct Shape<'a> {
    /// The hub's name of the user.
    pub name: &'a str,
    /// Labels of the namespace.
    pub labels: Value,
    /// The pod's security context.
    pub security: Value,
    /// The container's.
    pub container_security: Value,
    /// Whether it is a pod of Kubeflow's notebook controller, of no hub.
    pub kubeflow: bool,
}

impl Default for Shape<'_> {
    fn default() -> Self {
        Self {
            name: "ann@example.org",
            labels: json!({}),
            security: json!({"fsGroup": 100, "runAsUser": 1000}),
            container_security: json!({"allowPrivilegeEscalation": false}),
            kubeflow: false,
        }
    }
}

impl User {
    pub fn new(test: &str) -> Self {
        Self::of(test, &Shape::default())
    }

    pub fn of(test: &str, shape: &Shape<'_>) -> Self {
        let namespace = format!("{test}-{}", std::process::id());
        let home = tempfile::Builder::new().prefix("jf-home-").tempdir().unwrap();
        Self::furnish(home.path());
        let pod = if shape.kubeflow { "lab-0" } else { "jupyter-ann" };
        let user = Self { namespace, pod, home };
        user.make(shape);
        user
    }

    fn make(&self, shape: &Shape<'_>) {
        let namespace = &self.namespace;
        let volume = format!("home-{namespace}");
        let size = json!({"storage": "1Gi"});
        // The shapes of KubeSpawner and of Kubeflow's notebook controller.
        let (labels, annotations, who) = if shape.kubeflow {
            let prefix = format!("/notebook/{namespace}/lab");
            let labels = json!({"app": "lab", "notebook-name": "lab", "statefulset": "lab"});
            (labels, json!({}), json!({"name": "NB_PREFIX", "value": prefix}))
        } else {
            let labels =
                json!({"component": "singleuser-server", "hub.jupyter.org/username": "slug"});
            let annotations = json!({"hub.jupyter.org/username": shape.name});
            (labels, annotations, json!({"name": "JUPYTERHUB_USER", "value": shape.name}))
        };
        apply(&[json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace, "labels": shape.labels},
        })]);
        Self::apply_rbac(namespace);
        apply(&[
            json!({
                "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume},
                "spec": {
                    "capacity": size, "accessModes": ["ReadWriteOnce"], "storageClassName": "",
                    "hostPath": {"path": self.home.path()}, "persistentVolumeReclaimPolicy": "Retain",
                    "claimRef": {"namespace": namespace, "name": "claim-ann"},
                },
            }),
            json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": {"name": "claim-ann", "namespace": namespace},
                "spec": {
                    "accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeName": volume,
                    "resources": {"requests": size},
                },
            }),
            json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": "warehouse", "namespace": namespace},
                "stringData": {"password": "hunter2"},
            }),
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": self.pod, "namespace": namespace,
                    "labels": labels, "annotations": annotations,
                },
                "spec": {
                    "serviceAccountName": "jupyter",
                    "securityContext": shape.security,
                    "containers": [{
                        "name": if shape.kubeflow { "lab" } else { "notebook" },
                        "image": "docker.io/local/notebook:1",
                        "imagePullPolicy": "Never",
                        "command": ["sleep", "infinity"],
                        "securityContext": shape.container_security,
                        "env": [
                            who,
                            {"name": "JUPYTERHUB_API_TOKEN", "value": TOKEN},
                            {"name": "JUPYTERFLOW_IMAGE", "value": "docker.io/local/jupyterflow:1"},
                            {"name": "BRACES", "value": "{{workflow.name}}"},
                        ],
                        "volumeMounts": [{"name": "home", "mountPath": "/home/jovyan"}],
                    }],
                    "volumes": [
                        {"name": "home", "persistentVolumeClaim": {"claimName": "claim-ann"}},
                    ],
                },
            }),
        ]);
        let ready = "--for=condition=Ready";
        let pod = format!("pod/{}", self.pod);
        let args = ["-n", namespace, "wait", &pod, ready, "--timeout=60s"];
        Ended::from(kubectl(&args).output().unwrap()).expect(0);
    }

    /// What `generate rbac` prints, and nothing more.
    pub fn apply_rbac(namespace: &str) {
        let mut generate = Command::new(env!("CARGO_BIN_EXE_jupyterflow"));
        generate.args(["generate", "rbac", "-n", namespace, "--service-account", "jupyter"]);
        let printed = Ended::from(generate.output().unwrap()).expect(0).stdout;
        fed(&["apply", "-f", "-"], &printed).expect(0);
    }

    /// Puts the program into a home.
    pub fn furnish(home: &Path) {
        std::fs::create_dir_all(home.join("bin")).unwrap();
        std::fs::copy(cache().join("jupyterflow"), home.join("bin/jupyterflow")).unwrap();
        Self::give(home);
    }

    /// All of the home is the user's.
    fn give_home(&self) {
        Self::give(self.home.path());
    }

    fn give(home: &Path) {
        let owner = Command::new("chown").args(["-R", "1000:100"]).arg(home).status().unwrap();
        assert!(owner.success());
    }

    /// A path in the home, as this machine sees it.
    pub fn path(&self, path: &str) -> PathBuf {
        self.home.path().join(path)
    }

    pub fn write(&self, path: &str, text: &str) {
        let full = self.path(path);
        std::fs::create_dir_all(full.parent().unwrap()).unwrap();
        std::fs::write(full, text).unwrap();
        self.give_home();
    }

    /// Copies a folder of this machine into the home.
    pub fn copy(&self, from: &Path, to: &str) {
        let copied = Command::new("cp").arg("-r").arg(from).arg(self.path(to)).status().unwrap();
        assert!(copied.success());
        self.give_home();
    }

    fn typed(&self, folder: &str, line: &str) -> Vec<String> {
        let line = format!("cd /home/jovyan/{folder} && PATH=/home/jovyan/bin:$PATH && {line}");
        let args = ["-n", &self.namespace, "exec", self.pod, "--", "sh", "-c", &line];
        args.map(str::to_owned).to_vec()
    }

    /// Types a line in a terminal of the user's server.
    pub fn types(&self, folder: &str, line: &str) -> Ended {
        let args = self.typed(folder, line);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        kubectl(&args).output().unwrap().into()
    }

    /// Types a line, and does not wait for its end.
    pub fn begins(&self, folder: &str, line: &str) -> Running {
        let args = self.typed(folder, line);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let log = self.home.path().join("background.log");
        Running::of(kubectl(&args), log)
    }

    /// `kubectl` in the user's namespace.
    pub fn kubectl(&self, args: &[&str]) -> Ended {
        let mut all = vec!["-n", &self.namespace];
        all.extend(args);
        kubectl(&all).output().unwrap().into()
    }

    /// The Workflows, by name.
    pub fn workflows(&self) -> BTreeMap<String, Value> {
        let list = self.kubectl(&["get", "workflows", "-o", "json"]).json();
        let items = list["items"].as_array().unwrap().iter();
        items
            .map(|one| (one["metadata"]["name"].as_str().unwrap().to_owned(), one.clone()))
            .collect()
    }

    /// Waits until a file of the home is there.
    #[track_caller]
    pub fn wait_for_file(&self, path: &str) {
        let path = self.path(path);
        wait_for(&format!("{}", path.display()), || path.exists());
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let mut args = vec!["delete", "--wait=false", "namespace"];
        args.push(&self.namespace);
        let _ = kubectl(&args).stdout(Stdio::null()).status();
    }
}
