//! A real JupyterHub with KubeSpawner: what its users type in their terminals.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Ended, Running, has, wait_for};
use crate::user::{TOKEN, User, apply, controller, kubectl};

/// The bridge of the cluster, where pods reach the hub.
const BRIDGE: &str = "10.88.77.1";
/// The token of the tests, as a service of the hub.
const SERVICE: &str = "service-token-of-the-tests";

struct Hub {
    namespace: String,
    /// A folder for each home that a claim may get.
    homes: tempfile::TempDir,
    api: String,
    process: Option<Running>,
}

fn venv() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/hub")
}

fn free(address: &str) -> u16 {
    TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port()
}

impl Hub {
    fn new(test: &str, slugs: &str) -> Option<Self> {
        if !has("JupyterHub", venv().join("bin/jupyterhub").exists()) {
            return None;
        }
        let namespace = format!("{test}-{}", std::process::id());
        apply(&[json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace},
        })]);
        User::apply_rbac(&namespace);
        let homes = tempfile::Builder::new().prefix("jf-home-").tempdir().unwrap();
        for number in 0..3 {
            let home = homes.path().join(format!("{number}"));
            User::furnish(&home);
            apply(&[json!({
                "apiVersion": "v1", "kind": "PersistentVolume",
                "metadata": {"name": format!("{namespace}-{number}")},
                "spec": {
                    "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
                    "storageClassName": namespace, "persistentVolumeReclaimPolicy": "Retain",
                    "hostPath": {"path": home},
                },
            })]);
        }
        let ports = [free(BRIDGE), free("127.0.0.1"), free("127.0.0.1")];
        let config = config(&namespace, slugs, ports);
        std::fs::write(homes.path().join("jupyterhub_config.py"), config).unwrap();
        let path = format!("{}/bin:/usr/local/bin:/usr/bin:/bin", venv().display());
        let mut command = Command::new(venv().join("bin/jupyterhub"));
        command.current_dir(homes.path()).env("PATH", path).stdin(Stdio::null());
        command.args(["-f", "jupyterhub_config.py"]);
        let process = Some(Running::of(command, homes.path().join("hub.log")));
        let api = format!("http://{BRIDGE}:{}/hub/api", ports[0]);
        let hub = Self { namespace, homes, api, process };
        wait_for("the hub", || {
            hub.ask("GET", "").is_some_and(|answer| answer["version"].is_string())
        });
        Some(hub)
    }

    /// Asks the hub's API.
    fn ask(&self, method: &str, path: &str) -> Option<Value> {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-X", method, "-H", &format!("Authorization: token {SERVICE}")]);
        let output =
            curl.arg(format!("{}{path}", self.api)).stderr(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then(|| serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Starts a user's server; the name of its pod.
    #[track_caller]
    fn log_in(&self, user: &str) -> String {
        self.ask("POST", &format!("/users/{user}"));
        self.ask("POST", &format!("/users/{user}/server"));
        wait_for(&format!("the server of {user}"), || {
            let known = self.ask("GET", &format!("/users/{user}")).unwrap_or_default();
            known["servers"][""]["ready"] == true
        });
        let mut found = String::new();
        wait_for(&format!("the pod of {user}"), || {
            let pods = self.objects("pods");
            let own = pods
                .iter()
                .find(|pod| pod["metadata"]["annotations"]["hub.jupyter.org/username"] == user);
            found =
                own.map_or(String::new(), |pod| pod["metadata"]["name"].as_str().unwrap().into());
            !found.is_empty()
        });
        found
    }

    fn types(&self, pod: &str, line: &str) -> Ended {
        let line = format!("cd /home/jovyan && PATH=/home/jovyan/bin:$PATH && {line}");
        let args = ["-n", &self.namespace, "exec", pod, "-c", "notebook", "--", "sh", "-c", &line];
        kubectl(&args).output().unwrap().into()
    }

    /// The objects of a kind, in the hub's namespace.
    fn objects(&self, kind: &str) -> Vec<Value> {
        let args = ["-n", &self.namespace, "get", kind, "-o", "json"];
        let mut items = None;
        // A server that is busy refuses now and then.
        wait_for("an answer", || {
            let list = kubectl(&args).output().unwrap().stdout;
            let list: Value = serde_json::from_slice(&list).unwrap_or_default();
            items = list["items"].as_array().cloned();
            items.is_some()
        });
        items.unwrap()
    }

    /// The hub ends, and its proxy with it; servers stay.
    fn ends(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        process.signal(rustix::process::Signal::TERM);
        process.end();
    }

    /// Whether a file is in one of the homes.
    fn has_file(&self, path: &str) -> bool {
        (0..3).any(|number| self.homes.path().join(format!("{number}/{path}")).exists())
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(process) = &self.process
        {
            let kinds = "workflows,notebookruns,pods,events";
            let stand = kubectl(&["-n", &self.namespace, "get", kinds, "-o", "wide"]).output();
            let words = [stand.map(|all| all.stdout).unwrap_or_default(), process.log().into()];
            let _ = std::io::Write::write_all(&mut std::io::stderr(), &words.concat());
        }
        self.ends();
        let args = ["delete", "--wait=false", "namespace", &self.namespace];
        let _ = kubectl(&args).stdout(Stdio::null()).status();
    }
}

fn config(namespace: &str, slugs: &str, [hub, proxy, proxy_api]: [u16; 3]) -> String {
    let chp = venv().join("node_modules/.bin/configurable-http-proxy");
    format!(
        r#"
c.JupyterHub.hub_bind_url = "http://{BRIDGE}:{hub}"
c.JupyterHub.hub_connect_ip = "{BRIDGE}"
c.JupyterHub.bind_url = "http://127.0.0.1:{proxy}"
c.JupyterHub.spawner_class = "kubespawner.KubeSpawner"
c.JupyterHub.authenticator_class = "dummy"
# Servers outlive the hub, as on every production hub.
c.JupyterHub.cleanup_servers = False
c.Authenticator.allow_all = True
c.ConfigurableHTTPProxy.command = ["{chp}"]
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_api}"
c.JupyterHub.services = [{{"name": "tests", "api_token": "{SERVICE}"}}]
c.JupyterHub.load_roles = [{{"name": "tests-role", "services": ["tests"], "scopes": ["admin:users", "admin:servers"]}}]
c.KubeSpawner.namespace = "{namespace}"
c.KubeSpawner.slug_scheme = "{slugs}"
c.KubeSpawner.image = "docker.io/local/notebook:1"
c.KubeSpawner.image_pull_policy = "Never"
c.KubeSpawner.cmd = ["python3", "-m", "jupyterhub.singleuser"]
c.KubeSpawner.service_account = "jupyter"
c.KubeSpawner.uid = 1000
c.KubeSpawner.fs_gid = 100
c.KubeSpawner.storage_pvc_ensure = True
c.KubeSpawner.storage_capacity = "1Gi"
c.KubeSpawner.storage_class = "{namespace}"
c.KubeSpawner.volumes = [{{"name": "home", "persistentVolumeClaim": {{"claimName": "{{pvc_name}}"}}}}]
c.KubeSpawner.volume_mounts = [{{"name": "home", "mountPath": "/home/jovyan"}}]
c.KubeSpawner.environment = {{"JUPYTERFLOW_IMAGE": "docker.io/local/jupyterflow:1", "SECRET_OF_THE_HUB": "{TOKEN}"}}
c.KubeSpawner.mem_limit = "2G"
# A machine that is busy takes its time.
c.KubeSpawner.start_timeout = 600
c.KubeSpawner.http_timeout = 600
"#,
        chp = chp.display()
    )
}

/// Two scripts of which the second reads what the first wrote.
const SCRIPTS: &str = "\
echo \"open('a.txt', 'w').write('from a')\" >a.py && \
echo \"import os; print(open('a.txt').read(), os.environ['JUPYTERHUB_USER'])\" >b.py";

#[test]
fn a_user_of_a_hub_types_what_jupyterflow_promised() {
    let Some(hub) = Hub::new("hub", "safe") else { return };
    for user in ["ann.b@example.org", &"long-name".repeat(7)[..60]] {
        let pod = hub.log_in(user);
        hub.types(&pod, SCRIPTS).expect(0);
        let line = "jupyterflow run 'python a.py >> python b.py' --output json";
        let run = hub.types(&pod, line).expect(0).json();
        assert_eq!(run["phase"], "Succeeded", "{run}");
        let log = run["steps"][1]["log"].as_str().unwrap();
        let said = hub.types(&pod, &format!("cat {log}")).expect(0).stdout;
        assert_eq!(said, format!("from a {user}\n"));
        // The tokens of this very server are in none of its Workflows.
        let token = hub.types(&pod, "printf %s \"$JUPYTERHUB_API_TOKEN\"").expect(0).stdout;
        let args = ["-n", &hub.namespace, "get", "workflows", "-o", "yaml"];
        let workflows = Ended::from(kubectl(&args).output().unwrap()).expect(0).stdout;
        assert!(token.len() > 20 && !workflows.contains(&token), "{user}");
        assert!(!workflows.contains(TOKEN), "{user}");
    }
}

#[test]
fn runs_outlive_the_server_and_the_hub() {
    // The older scheme of names, with `-2d` for a hyphen.
    let Some(mut hub) = Hub::new("gone", "escape") else { return };
    User::define();
    let lease = ["-n", &hub.namespace, "--lease-namespace", &hub.namespace];
    let _controller = controller(&lease, hub.homes.path(), None, None);
    let user = "ann-b.c@example.org";
    let pod = hub.log_in(user);
    let token = hub.types(&pod, "printf %s \"$JUPYTERHUB_API_TOKEN\"").expect(0).stdout;
    let server = hub.objects("pods").into_iter().find(|one| one["metadata"]["name"] == *pod);
    let server = server.unwrap()["spec"].clone();
    let flow = "sh -c 'touch began; until [ -e go ]; do sleep 0.1; done; touch done'";
    let line = format!(
        "printf '%s\\n' \"flow: \\\"{flow}\\\"\" >jupyterflow.yaml && jupyterflow run --detach"
    );
    hub.types(&pod, &line).expect(0);
    wait_for("the step", || hub.has_file("began"));
    wait_for("the environment to be kept", || !hub.objects("notebookenvironments").is_empty());
    // A home that no controller mounts: what is to run is published from the server.
    let yaml = "{triggers: {schedule: \"* * * * *\"}, steps: {look: {run: \"id -u >new; env >>new; mv new seen\"}}}";
    let line = format!(
        "mkdir -p nightly && printf %s '{yaml}' >nightly/jupyterflow.yaml && cd nightly && \
         jupyterflow up --engine argo --once"
    );
    hub.types(&pod, &line).expect(0).says("published nightly");
    hub.ask("DELETE", &format!("/users/{user}/server"));
    let args = ["-n", &hub.namespace, "get", "pod", &pod, "-o", "name"];
    wait_for("the end of the server", || !kubectl(&args).output().unwrap().status.success());
    hub.ends();
    for number in 0..3 {
        std::fs::write(hub.homes.path().join(format!("{number}/go")), "").unwrap();
    }
    wait_for("the end of the step", || hub.has_file("done"));
    let mut found = Value::Null;
    wait_for("a tick", || {
        let runs = hub.objects("notebookruns");
        let ended = runs.into_iter().find(|run| run["status"]["phase"] == "Succeeded");
        found = ended.unwrap_or_default();
        !found.is_null()
    });
    assert_eq!(found["spec"]["trigger"]["kind"], "schedule", "{found}");
    let seen = (0..3)
        .find_map(|number| {
            let path = hub.homes.path().join(format!("{number}/nightly/seen"));
            std::fs::read_to_string(path).ok()
        })
        .unwrap();
    assert!(seen.starts_with("1000\n"), "{seen}");
    assert!(seen.contains(&format!("JUPYTERHUB_USER={user}\n")), "{seen}");
    // Its pod is the server's: image, limits, uid and volumes.
    let pods = hub.objects("pods");
    let name = &found["metadata"]["name"];
    let of_run = |pod: &&Value| pod["metadata"]["labels"]["jupyterflow.io/run"] == *name;
    let step = &pods.iter().find(of_run).unwrap()["spec"];
    let main = step["containers"].as_array().unwrap().iter().find(|one| one["name"] == "main");
    let (main, own) = (main.unwrap(), &server["containers"][0]);
    assert_eq!(main["image"], own["image"]);
    assert_eq!(main["resources"]["limits"]["memory"], own["resources"]["limits"]["memory"]);
    assert_eq!(step["securityContext"]["fsGroup"], server["securityContext"]["fsGroup"]);
    let claim = |spec: &Value| {
        let volumes = spec["volumes"].as_array().unwrap().iter();
        let claims = volumes.filter_map(|one| one["persistentVolumeClaim"]["claimName"].as_str());
        claims.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(claim(step), claim(&server));
    // Its tokens are in nothing that is kept or made of it.
    let kinds = ["notebookenvironments", "notebookpipelines", "notebookruns", "workflows"];
    for kind in kinds {
        let objects = Value::from(hub.objects(kind)).to_string();
        assert!(objects.contains(&hub.namespace), "{kind}");
        assert!(!objects.contains(&token) && !objects.contains(TOKEN), "{kind}");
    }
    assert!(!seen.contains(&token) && !seen.contains(TOKEN) && token.len() > 20, "{seen}");
}
