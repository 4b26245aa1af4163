//! Argo with a database, as administrators of busy clusters have it: nodes lie there, and Workflows are archived.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::argo;
use crate::support::{Running, has, step, wait_for};
use crate::user::{User, apply, cache, kubectl};

/// The address of this machine that pods reach, too.
const BRIDGE: &str = "10.88.77.1";

const PIPELINE: &str = r#"
name: scored
steps:
  fit: {run: 'echo fit >>witness; echo "loss={{ params.n }}" >>$JUPYTERFLOW_OUTPUTS', sweep: {n: [3, 2]}, best: {metric: loss, goal: min}}
  tell: {needs: fit, run: 'echo "told={{ steps.fit.outputs.loss }}" >>$JUPYTERFLOW_OUTPUTS'}
"#;

/// A `PostgreSQL` server, if this machine has one.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    versions.map(|version| version.path().join("bin")).find(|bin| bin.join("initdb").exists())
}

fn free_port(host: &str) -> u16 {
    std::net::TcpListener::bind((host, 0)).unwrap().local_addr().unwrap().port()
}

fn listens(host: &str, port: u16) -> bool {
    std::net::TcpStream::connect((host, port)).is_ok()
}

/// Argo comes once another Workflow than these is released; says which. Here it keeps all nodes in its database, as
/// shipped only those that are too many; and where it looks at a Workflow before its release, none, with which it fails
/// afterwards (3.7.18: "assignment to entry in nil map").
fn takes_up_what_is_released(user: &User, known: &[&str]) -> String {
    let mut released = None;
    wait_for("a release", || {
        let all = user.workflows();
        let mut new = all.iter().filter(|(name, _)| !known.contains(&name.as_str()));
        let of =
            |one: &Value| one["metadata"]["annotations"]["jupyterflow.io/released"].is_string();
        released = new.find(|(_, one)| of(one)).map(|(name, _)| name.clone());
        released.is_some()
    });
    argo(&["--offload"]);
    released.unwrap()
}

/// Argo with a database and a server of its own, until this ends.
struct WithDatabase {
    _database: Running,
    server: Running,
    _folder: tempfile::TempDir,
    address: String,
}

impl WithDatabase {
    fn start(bin: &std::path::Path) -> Self {
        let folder = tempfile::Builder::new().prefix("jf-database-").tempdir().unwrap();
        let as_postgres = |program: &str| {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]);
            command.arg(bin.join(program)).arg("-D").arg(folder.path().join("data"));
            command.current_dir(folder.path());
            command
        };
        let owned = Command::new("chown").arg("postgres").arg(folder.path()).status();
        assert!(owned.unwrap().success());
        let mut made = as_postgres("initdb");
        let made = made.args(["--auth=trust", "--username=argo", "--no-sync"]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = free_port("127.0.0.1");
        let mut command = as_postgres("postgres");
        command.args(["-h", "127.0.0.1", "-k", "", "-F", "-p", &port.to_string()]);
        let database = Running::of(command, folder.path().join("database.log"));
        wait_for("the database", || listens("127.0.0.1", port));
        let persistence = json!({
            "nodeStatusOffLoad": true, "archive": true,
            "postgresql": {
                "host": "127.0.0.1", "port": port, "database": "postgres", "tableName": "argo_workflows",
                "userNameSecret": {"name": "database", "key": "name"},
                "passwordSecret": {"name": "database", "key": "password"},
            },
        });
        let secret = |name: &str, data: Value| {
            let metadata = json!({"name": name, "namespace": "argo"});
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data})
        };
        let certificate = |name: &str| std::fs::read_to_string(cache().join("run").join(name));
        let (own, key) = (certificate("api.crt").unwrap(), certificate("api.key").unwrap());
        apply(&[
            secret("database", json!({"name": "argo", "password": "unused"})),
            secret("argo-tls", json!({"tls.crt": own, "tls.key": key})),
        ]);
        configure(&persistence.to_string());
        argo(&["stop"]);
        let port = free_port(BRIDGE);
        let mut command = Command::new(cache().join("bin/argo"));
        command.args(["server", "--auth-mode", "client", "--auth-mode", "server"]);
        command.args(["--tls-certificate-secret-name", "argo-tls", "-n", "argo"]);
        command.args(["--port", &port.to_string()]);
        let server = Running::of(command, folder.path().join("server.log"));
        wait_for("Argo's server", || listens(BRIDGE, port));
        Self {
            _database: database,
            server,
            _folder: folder,
            address: format!("https://{BRIDGE}:{port}"),
        }
    }
}

impl Drop for WithDatabase {
    fn drop(&mut self) {
        configure("");
        argo(&[]);
    }
}

fn configure(persistence: &str) {
    let patch = json!({"data": {"persistence": persistence}}).to_string();
    let args = ["-n", "argo", "patch", "configmap", "workflow-controller-configmap"];
    let patched = kubectl(&args).args(["--type=merge", "-p", &patch]).output().unwrap();
    assert!(patched.status.success(), "{}", String::from_utf8_lossy(&patched.stderr));
}

fn value(run: &Value, of: &str, output: &str) -> Option<i64> {
    step(run, of)["outputs"][output].as_i64()
}

#[test]
fn what_argo_keeps_in_its_database_is_read_from_its_server() {
    let Some(bin) = programs().filter(|_| has("Argo's server", cache().join("bin/argo").exists()))
    else {
        assert!(!has("PostgreSQL", false));
        return;
    };
    let database = WithDatabase::start(&bin);
    let user = User::new("database");
    user.source();
    user.write("p/jupyterflow.yaml", PIPELINE);
    let mut controller = user.controller_asking(&user.namespace, &database.address);
    let name = takes_up_what_is_released(&user, &[]);
    let run = user.wait_for_run("scored", "change", "Succeeded");
    let seen = &user.workflows()[&name]["status"];
    assert!(seen["offloadNodeStatusVersion"].is_string() && seen["nodes"].is_null(), "{seen}");
    assert_eq!(value(&run["status"], "fit", "loss"), Some(2), "{}", database.server.log());
    assert_eq!(value(&run["status"], "tell", "told"), Some(2), "{run}");
    controller.signal(rustix::process::Signal::TERM);
    controller.end();

    // A run of nobody's but its user's: its Workflow ends, is archived and is gone before anybody looks.
    user.write("own/jupyterflow.yaml", PIPELINE);
    argo(&["stop"]);
    let mut typed = user.begins("own", "jupyterflow run --engine argo --detach");
    let own = &takes_up_what_is_released(&user, &[&name]);
    assert_eq!(typed.end(), 0, "{}", typed.log());
    wait_for("Argo to archive it", || {
        let labels = &user.workflows()[own]["metadata"]["labels"];
        labels["workflows.argoproj.io/workflow-archiving-status"] == "Archived"
    });
    user.kubectl(&["delete", "workflow", own]).expect(0);
    let authority = std::fs::read_to_string(cache().join("run/ca.crt")).unwrap();
    user.write("own/ca.crt", &authority);
    let asking = format!("JUPYTERFLOW_ARGO_SERVER={} JUPYTERFLOW_ARGO_CA=ca.crt", database.address);
    let shown = format!("{asking} jupyterflow show {own} --output json");
    let shown = user.types("own", &shown).expect(0).json();
    assert_eq!((&shown["phase"], value(&shown, "tell", "told")), (&"Succeeded".into(), Some(2)));
}
