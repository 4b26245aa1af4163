//! A user of a hub: a namespace, a home on a claim, and a Jupyter pod of KubeSpawner's shape.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::{Ended, Running, comes_true, wait_for};

/// A token that must be in no object, log or notebook.
pub const TOKEN: &str = "geheim-0123456789";

pub struct User {
    pub namespace: String,
    pod: &'static str,
    home: tempfile::TempDir,
    logs: tempfile::TempDir,
}

/// Where the cluster of the tests and its programs are.
pub fn cache() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::env::var_os("CLUSTER_CACHE").map_or(root.join(".venv/cluster"), PathBuf::from)
}

/// `kubectl`, of the cluster of the tests.
pub fn kubectl(args: &[&str]) -> Command {
    assert!(std::env::var_os("KUBECONFIG").is_some(), "start it by tests/cluster/with");
    let mut command = Command::new("timeout");
    // Nothing here takes so long: what hangs is a failure that says what it was.
    command.arg("1800").arg(cache().join("bin/kubectl")).args(args).stdin(Stdio::null());
    command
}

/// `kubectl`, which serves until it is killed.
pub fn kubectl_for_long(args: &[&str]) -> Command {
    let mut command = Command::new(cache().join("bin/kubectl"));
    command.args(args).stdin(Stdio::null());
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

/// A controller, with its log and its cache in a folder.
pub fn controller(
    args: &[&str],
    logs: &Path,
    config: Option<&Path>,
    wrong: Option<&str>,
) -> Running {
    controller_with(args, logs, config, wrong, None)
}

fn controller_with(
    args: &[&str],
    logs: &Path,
    config: Option<&Path>,
    wrong: Option<&str>,
    server: Option<&str>,
) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jupyterflow"));
    if let Some(address) = server {
        command.env("JUPYTERFLOW_ARGO_SERVER", address);
        command.env("JUPYTERFLOW_ARGO_CA", cache().join("run/ca.crt"));
    }
    if let Some(by) = wrong {
        // The program that would set this lives on as its parent, and is no use to be killed.
        let library = Path::new("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1");
        assert!(library.exists(), "tests/cluster/build installs it");
        command.env("LD_PRELOAD", library).env("FAKETIME", by);
        // Of a clock that is wrong nothing runs faster or slower.
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
    let cache = tempfile::Builder::new().prefix("cache-").tempdir_in(logs);
    command.arg("controller").args(args).arg("--cache").arg(cache.unwrap().keep());
    command.env("JUPYTERFLOW_IMAGE", "docker.io/local/jupyterflow:1");
    if let Some(config) = config {
        command.env("KUBECONFIG", config);
    }
    let log = tempfile::Builder::new().prefix("controller-").tempfile_in(logs);
    Running::of(command, log.unwrap().into_temp_path().keep().unwrap())
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
    /// The folder in which the home has the user's name; one of its own unless given.
    pub within: Option<&'a Path>,
}

impl Default for Shape<'_> {
    fn default() -> Self {
        Self {
            name: "ann@example.org",
            labels: json!({}),
            security: json!({"fsGroup": 100, "runAsUser": 1000}),
            container_security: json!({"allowPrivilegeEscalation": false}),
            kubeflow: false,
            within: None,
        }
    }
}

impl User {
    pub fn new(test: &str) -> Self {
        Self::of(test, &Shape::default())
    }

    pub fn of(test: &str, shape: &Shape<'_>) -> Self {
        let namespace = format!("{test}-{}", std::process::id());
        let home = match shape.within {
            None => tempfile::Builder::new().prefix("jf-home-").tempdir(),
            Some(homes) => {
                tempfile::Builder::new().prefix(shape.name).rand_bytes(0).tempdir_in(homes)
            }
        };
        let home = home.unwrap();
        Self::furnish(home.path());
        let pod = if shape.kubeflow { "lab-0" } else { "jupyter-ann" };
        let logs = tempfile::Builder::new().prefix("jf-logs-").tempdir().unwrap();
        let user = Self { namespace, pod, home, logs };
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
        let args = ["-n", namespace, "wait", &pod, ready, "--timeout=600s"];
        Ended::from(kubectl(&args).output().unwrap()).expect(0);
    }

    /// What `generate rbac` prints, and nothing more.
    pub fn apply_rbac(namespace: &str) {
        let mut generate = Command::new(env!("CARGO_BIN_EXE_jupyterflow"));
        generate.args(["generate", "rbac", "-n", namespace, "--service-account", "jupyter"]);
        let printed = Ended::from(generate.output().unwrap()).expect(0).stdout;
        fed(&["apply", "-f", "-"], &printed).expect(0);
    }

    /// What `generate rbac` prints for resource steps that make something, and nothing more.
    pub fn may_make(&self, resource: &str) {
        let mut generate = Command::new(env!("CARGO_BIN_EXE_jupyterflow"));
        generate.args(["generate", "rbac", "-n", &self.namespace, "--service-account", "jupyter"]);
        generate.args(["--resource", resource]);
        let printed = Ended::from(generate.output().unwrap()).expect(0).stdout;
        fed(&["apply", "-f", "-"], &printed).expect(0);
    }

    /// The custom resources of this version.
    pub fn define() {
        static DEFINED: std::sync::Once = std::sync::Once::new();
        DEFINED.call_once(|| {
            let mut generate = Command::new(env!("CARGO_BIN_EXE_jupyterflow"));
            let printed =
                generate.args(["generate", "manifests", "--only", "crds"]).output().unwrap();
            let manifests = String::from_utf8(printed.stdout).unwrap();
            let args = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
            fed(&args, &manifests).expect(0);
            let wait = ["wait", "crd", "--for=condition=Established", "--timeout=600s"];
            let names = ["sources", "pipelines", "runs", "environments"];
            let names = names.map(|name| format!("notebook{name}"));
            let names = names
                .into_iter()
                .chain(["clusternotebooksources".to_owned()])
                .map(|name| format!("{name}.jupyterflow.io"));
            let names: Vec<String> = names.collect();
            let args: Vec<&str> =
                wait.into_iter().chain(names.iter().map(String::as_str)).collect();
            Ended::from(kubectl(&args).output().unwrap()).expect(0);
        });
    }

    /// A source over the whole home.
    pub fn source(&self) {
        self.source_of(&json!({"settle": "0s", "poll": "1s"}));
    }

    /// A source over the whole home, with more of its spec.
    pub fn source_of(&self, more: &Value) {
        Self::define();
        let mut spec = json!({"directory": {"path": self.home.path(), "claim": "claim-ann"}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        apply(&[json!({
            "apiVersion": "jupyterflow.io/v1alpha1", "kind": "NotebookSource",
            "metadata": {"name": "home", "namespace": self.namespace}, "spec": spec,
        })]);
    }

    /// A controller of the user's namespace alone; several with leases of different namespaces work at
    /// once.
    pub fn controller(&self, lease: &str, config: Option<&Path>) -> Running {
        self.start(&["-n", &self.namespace, "--lease-namespace", lease], config, None)
    }

    /// The same, with a clock that is wrong by so much, such as `+3h`.
    pub fn controller_whose_clock_is_wrong(&self, lease: &str, by: &str) -> Running {
        self.start(&["-n", &self.namespace, "--lease-namespace", lease], None, Some(by))
    }

    /// The same, which asks Argo's server for what Argo keeps in a database.
    pub fn controller_asking(&self, lease: &str, server: &str) -> Running {
        let args = ["-n", &self.namespace, "--lease-namespace", lease];
        controller_with(&args, self.logs.path(), None, None, Some(server))
    }

    /// A controller of all namespaces.
    pub fn controller_of_all(&self) -> Running {
        self.start(&["--lease-namespace", &self.namespace], None, None)
    }

    fn start(&self, args: &[&str], config: Option<&Path>, wrong: Option<&str>) -> Running {
        controller(args, self.logs.path(), config, wrong)
    }

    /// The custom resources of a kind, by name.
    pub fn objects(&self, kind: &str) -> BTreeMap<String, Value> {
        // A server that was away may refuse the first questions.
        let mut list = Value::Null;
        wait_for(&format!("the {kind}"), || {
            let asked = self.kubectl(&["get", kind, "-o", "json"]);
            if asked.code == 0 {
                list = asked.json();
            }
            asked.code == 0
        });
        let items = list["items"].as_array().unwrap().iter();
        items
            .map(|one| (one["metadata"]["name"].as_str().unwrap().to_owned(), one.clone()))
            .collect()
    }

    /// Waits until a run of a trigger stands as wanted, and gives its record. A tick may be a minute away, and
    /// many pods at once take their time.
    #[track_caller]
    pub fn wait_for_run(&self, pipeline: &str, trigger: &str, phase: &str) -> Value {
        let mut runs = BTreeMap::new();
        let mut found = None;
        // Each look is a process beside those that are looked at.
        comes_true(300, || {
            runs = self.objects("notebookruns");
            let fits = |run: &&Value| {
                run["metadata"]["labels"]["jupyterflow.io/pipeline"] == pipeline
                    && run["spec"]["trigger"]["kind"] == trigger
                    && run["status"]["phase"] == phase
            };
            found = runs.values().find(fits).cloned();
            found.is_some()
        });
        if let Some(found) = found {
            return found;
        }
        let known: Vec<_> = runs
            .into_values()
            .filter(|run| run["metadata"]["labels"]["jupyterflow.io/pipeline"] == pipeline)
            .map(|run| {
                let name = run["metadata"]["name"].as_str().unwrap().to_owned();
                let workflow = self.workflows().remove(&name).unwrap_or_default();
                format!("{run}\nWorkflow: {} {}", workflow["spec"]["suspend"], workflow["status"])
            })
            .collect();
        let known = known.join("\n");
        panic!("waited in vain for a run of {pipeline} by {trigger} to be {phase}: {known}");
    }

    /// Puts the program into a home.
    pub fn furnish(home: &Path) {
        std::fs::create_dir_all(home.join("bin")).unwrap();
        std::fs::copy(cache().join("jupyterflow"), home.join("bin/jupyterflow")).unwrap();
        Self::give(home);
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
        // Not all of the home: pods make and rename files in it meanwhile.
        let made = full.ancestors().take_while(|one| !one.exists()).last().unwrap_or(&full);
        let made = made.to_owned();
        std::fs::create_dir_all(full.parent().unwrap()).unwrap();
        std::fs::write(full, text).unwrap();
        Self::give(&made);
    }

    /// How often the step of a folder began, by the lines that it left.
    pub fn began(&self, folder: &str) -> usize {
        let witness = self.path(&format!("{folder}/witness"));
        std::fs::read_to_string(witness).unwrap_or_default().lines().count()
    }

    /// Waits until whoever works now made a whole pass: it knows a pipeline that was not there before.
    pub fn wait_for_pass(&self, name: &str) {
        let yaml = format!("name: {name}\ntriggers: []\nsteps: {{a: {{run: x}}}}\n");
        self.write(&format!("{name}/jupyterflow.yaml"), &yaml);
        wait_for(&format!("a pass that sees {name}"), || {
            let known = self.objects("notebookpipelines");
            known.values().any(|one| {
                one["spec"]["name"] == *name && one["status"]["conditions"][0]["status"] == "True"
            })
        });
    }

    /// Copies a folder of this machine into the home.
    pub fn copy(&self, from: &Path, to: &str) {
        let copied = Command::new("cp").arg("-r").arg(from).arg(self.path(to)).status().unwrap();
        assert!(copied.success());
        Self::give(&self.path(to));
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
        self.objects("workflows")
    }

    /// Waits until a file of the home is there.
    #[track_caller]
    pub fn wait_for_file(&self, path: &str) {
        let path = self.path(path);
        wait_for(&format!("{}", path.display()), || path.exists());
    }
}

/// The Workflows of a namespace that were ever released, by name and uid: a watch that begins anew where it ends.
pub struct Released {
    seen: Arc<Mutex<BTreeSet<(String, String)>>>,
    over: Arc<AtomicBool>,
}

impl Released {
    pub fn of(user: &User) -> Self {
        let (seen, over) = (Arc::<Mutex<BTreeSet<_>>>::default(), Arc::<AtomicBool>::default());
        let (told, ends, namespace) =
            (Arc::clone(&seen), Arc::clone(&over), user.namespace.clone());
        std::thread::spawn(move || {
            let columns = "custom-columns=N:.metadata.name,U:.metadata.uid,S:.spec.suspend";
            let args =
                ["-n", &namespace, "get", "workflows", "--watch", "--no-headers", "-o", columns];
            while !ends.load(Ordering::Relaxed) {
                let mut watch = kubectl_for_long(&args);
                let Ok(mut watch) = watch.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
                else {
                    return;
                };
                let lines = std::io::BufReader::new(watch.stdout.take().unwrap()).lines();
                for line in lines.map_while(Result::ok) {
                    let words: Vec<&str> = line.split_whitespace().collect();
                    if let [name, uid, suspended] = words[..]
                        && suspended != "true"
                    {
                        told.lock().unwrap().insert((name.to_owned(), uid.to_owned()));
                    }
                    if ends.load(Ordering::Relaxed) {
                        break;
                    }
                }
                let _ = watch.kill();
                let _ = watch.wait();
            }
        });
        Self { seen, over }
    }

    /// How many were released; each name once.
    #[track_caller]
    pub fn count_each_once(&self) -> usize {
        let seen = self.seen.lock().unwrap();
        let names: BTreeSet<&String> = seen.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), seen.len(), "{seen:?}");
        names.len()
    }
}

impl Drop for Released {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let mut args = vec!["delete", "--wait=false", "namespace"];
        args.push(&self.namespace);
        let _ = kubectl(&args).stdout(Stdio::null()).status();
    }
}
