//! What acts on the whole cluster, and so runs with nothing beside it: sources of many tenants, and faults.

mod schemas;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Running, number, wait_for};
use crate::user::{Released, Shape, User, apply, cache, kubectl};

fn pipeline(name: &str, more: &str) -> String {
    format!("name: {name}\nsteps:\n  work: {{run: 'id -u >>witness', {more}}}\n")
}

/// What stands in the way of a pipeline.
fn reason(user: &User, name: &str) -> String {
    let known = user.objects("notebookpipelines");
    let own = known.values().find(|one| one["spec"]["name"] == *name);
    let own = own.map(|one| one["status"]["conditions"][0].clone()).unwrap_or_default();
    format!("{}: {}", own["reason"].as_str().unwrap_or(""), own["message"].as_str().unwrap_or(""))
}

/// Two tenants of one folder: what they run in is the administrator's to say, and what they name in their
/// files is refused where it is not theirs.
#[test]
fn tenants_get_what_the_administrator_gave_them_and_nothing_else() {
    let homes = tempfile::Builder::new().prefix("jf-homes-").tempdir().unwrap();
    let user = |name: &'static str| {
        let shape = Shape { name, within: Some(homes.path()), ..Shape::default() };
        User::of(&format!("tenant-{name}"), &shape)
    };
    let (ann, bob) = (user("ann"), user("bob"));
    User::define();
    let secret = |name: &str, owner: Option<&str>| {
        let labels = owner.map_or(json!({}), |owner| json!({"jupyterflow.io/owner": owner}));
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": name, "namespace": ann.namespace, "labels": labels},
            "stringData": {"key": "geheim"},
        })
    };
    apply(&[secret("hub", None), secret("bobs", Some("bob")), secret("anns", Some("ann"))]);
    let tenant = |folder: &str, user: &User| {
        json!({
            "folder": folder, "namespace": user.namespace, "serviceAccount": "jupyter", "uid": 1000,
            "claims": ["claim-ann"],
        })
    };
    apply(&[json!({
        "apiVersion": "jupyterflow.io/v1alpha1", "kind": "ClusterNotebookSource",
        "metadata": {"name": "homes"},
        "spec": {
            "directory": {"path": homes.path()}, "settle": "0s", "poll": "1s",
            "tenants": [tenant("ann", &ann), tenant("bob", &bob)],
        },
    })]);
    let controller: Running = ann.controller_of_all();
    let secrets = |name: &str| format!("secrets: {{X: {{secret: {name}, key: key}}}}");
    for (folder, more) in [
        ("good", "timeout: 5m".to_owned()),
        ("own-secret", secrets("anns")),
        ("hub-secret", secrets("hub")),
        ("bobs-secret", secrets("bobs")),
        ("no-secret", secrets("nobodys")),
        ("image", "image: evil:1".to_owned()),
    ] {
        ann.write(&format!("{folder}/jupyterflow.yaml"), &pipeline(folder, &more));
    }
    bob.write("p/jupyterflow.yaml", &pipeline("bobs", "timeout: 5m"));
    // What leads into another home is not followed, whatever it is.
    bob.write("secret/jupyterflow.yaml", &pipeline("bobs-own", "timeout: 5m"));
    bob.write(
        "secret/notes.ipynb",
        r#"{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}"#,
    );
    let link = |to: &str, from: &str| {
        let from = ann.path(from);
        std::fs::create_dir_all(from.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(to, from).unwrap();
    };
    let inside = bob.path("secret");
    link(&inside.join("jupyterflow.yaml").to_string_lossy(), "stolen/jupyterflow.yaml");
    link("../../bob/secret/notes.ipynb", "linked/notes.ipynb");
    ann.write("linked/jupyterflow.yaml", "name: linked\nsteps: {a: {notebook: notes.ipynb}}\n");
    link("../../bob/secret", "globbed/data");
    ann.write(
        "globbed/jupyterflow.yaml",
        "name: globbed\nsteps: {a: {run: x, inputs: 'data/**'}}\n",
    );
    let good = ann.wait_for_run("good", "change", "Succeeded");
    assert_eq!(good["metadata"]["namespace"], ann.namespace.as_str());
    ann.wait_for_run("own-secret", "change", "Succeeded");
    bob.wait_for_run("bobs", "change", "Succeeded");
    for user in [&ann, &bob] {
        let made = user.workflows();
        let spec = &made.values().next().unwrap()["spec"];
        assert_eq!(spec["serviceAccountName"], "jupyter");
        assert_eq!(spec["securityContext"]["runAsUser"], 1000);
        let volumes = spec["volumes"].as_array().unwrap().iter();
        let claims: Vec<&Value> = volumes
            .map(|one| &one["persistentVolumeClaim"]["claimName"])
            .filter(|one| one.is_string())
            .collect();
        assert_eq!(claims, ["claim-ann"]);
    }
    for (name, words) in [
        ("hub-secret", "secret hub is not labelled jupyterflow.io/owner=ann"),
        ("bobs-secret", "secret bobs is not labelled jupyterflow.io/owner=ann"),
        ("no-secret", "there is no secret nobodys"),
        ("image", "image evil:1 is none that runs here may use"),
    ] {
        wait_for(&format!("the reason of {name}"), || reason(&ann, name).contains(words));
    }
    for words in [
        "ann/linked/notes.ipynb: it is a symbolic link out of the source",
        "ann/globbed/data: it is a symbolic link out of the source",
        "ann/stolen/jupyterflow.yaml: error: it is no file, or a symbolic link out of the source",
    ] {
        wait_for(words, || controller.log().contains(words));
    }
    assert!(!ann.objects("notebookpipelines").keys().any(|name| name.contains("bobs-own")));
    // Each tenant's runs are in the tenant's namespace alone.
    assert!(bob.objects("notebookruns").keys().all(|name| name.starts_with("bobs-")));
    assert!(!ann.objects("notebookruns").keys().any(|name| name.starts_with("bobs-")));
    assert_eq!(ann.workflows().len(), 2);
    drop(controller);
    let args = ["delete", "clusternotebooksource", "homes"];
    assert!(kubectl(&args).status().unwrap().success());
}

/// The process of a program of the cluster, with its command line. What it starts has its name for a moment too,
/// before it becomes another program, and after many processes a lower number: it is told by its parent.
fn process_of(program: &str) -> (i32, Vec<String>) {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let found: BTreeMap<i32, (i32, Vec<String>)> = entries
        .filter_map(|entry| {
            let id: i32 = entry.file_name().to_str()?.parse().ok()?;
            let text = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
            let words: Vec<String> = text.split('\0').map(str::to_owned).collect();
            let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
            let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
            let same = words.first()?.rsplit('/').next() == Some(program);
            same.then_some((id, (parent.trim().parse().ok()?, words)))
        })
        .collect();
    let first = found.iter().find(|(_, (parent, _))| !found.contains_key(parent));
    first.map(|(id, (_, words))| (*id, words.clone())).unwrap()
}

fn signal(process: i32, signal: rustix::process::Signal) {
    let process = rustix::process::Pid::from_raw(process).unwrap();
    rustix::process::kill_process(process, signal).unwrap();
}

/// Kills a program of the cluster, and starts it again where it was: where another one of the cluster is.
fn restart(program: &str, beside: &str, away: Duration) {
    let (process, words) = process_of(program);
    let (beside, _) = process_of(beside);
    let path = std::env::join_paths(
        std::iter::once(cache().join("bin"))
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap()))
            .chain([PathBuf::from("/usr/sbin")]),
    );
    let log = cache().join("run").join(format!("{program}-again.log"));
    let log = std::fs::File::create(log).unwrap();
    signal(process, rustix::process::Signal::KILL);
    std::thread::sleep(away);
    let mut again = Command::new("setsid");
    again.args(["--fork", "nsenter", "-t", &beside.to_string(), "--mount", "--pid"]);
    again.args(["--root", "--wd", "--"]).env("PATH", path.unwrap());
    again.args(words.iter().filter(|word| !word.is_empty()));
    again.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    assert!(again.status().unwrap().success());
}

fn argo(arguments: &[&str]) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/argo");
    let mut command = Command::new(script);
    // What it starts outlives the test, and must hold none of its pipes.
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().unwrap().success());
}

/// A pod whose sandbox died with its runtime between two of its containers is neither begun anew nor ended by the
/// kubelet: it waits for an administrator to delete it, and its run with it.
fn delete_what_the_node_forgot(user: &User) {
    let now = jiff::Timestamp::now();
    for (name, pod) in user.objects("pods") {
        let made: jiff::Timestamp =
            pod["metadata"]["creationTimestamp"].as_str().unwrap().parse().unwrap();
        // None takes so long to begin.
        let forgotten = now.duration_since(made).as_secs() > 120;
        if forgotten && pod["status"]["phase"] == "Pending" {
            let words = format!("{name} is forgotten by its node: {}\n", pod["status"]);
            let _ = std::io::Write::write_all(&mut std::io::stderr(), words.as_bytes());
            user.kubectl(&["delete", "pod", &name, "--now"]);
        }
    }
}

/// What a cluster is made of goes away while runs are wanted, each in its turn; every run is made once.
#[test]
fn nothing_is_lost_and_nothing_doubled_while_the_cluster_falls_apart() {
    let seconds = |name: &str, short: u64| Duration::from_secs(number(name, short));
    let user = User::new("faults");
    user.source();
    let released = Released::of(&user);
    let mut controller = user.controller(&user.namespace, None);
    wait_for("the controller", || controller.log().contains("this controller works"));
    let yaml = |name: &str| {
        let witness = "echo $JUPYTERFLOW_RUN $JUPYTERFLOW_ATTEMPT >>witness";
        // A container that its runtime forgot ends with 137, as one does whose step failed by that.
        format!("name: {name}\nsteps:\n  work: {{run: '{witness}', retries: 3}}\n")
    };
    let mut names = Vec::new();
    let mut save = |what: &str| {
        for number in 0..3 {
            let name = format!("{what}{number}");
            user.write(&format!("{name}/jupyterflow.yaml"), &yaml(&name));
            names.push(name);
        }
    };
    save("api");
    restart("kube-apiserver", "etcd", seconds("API_AWAY", 3));
    wait_for("the API server", || {
        kubectl(&["get", "--raw", "/readyz"]).output().unwrap().status.success()
    });
    save("etcd");
    let (etcd, _) = process_of("etcd");
    signal(etcd, rustix::process::Signal::STOP);
    std::thread::sleep(seconds("ETCD_STOPPED", 12));
    signal(etcd, rustix::process::Signal::CONT);
    save("node");
    wait_for("some of it to be released", || {
        user.workflows().keys().any(|name| name.starts_with("node"))
    });
    restart("containerd", "kubelet", seconds("CONTAINERD_AWAY", 3));
    argo(&["stop"]);
    save("argo");
    wait_for("runs to be released", || {
        let made = user.workflows();
        let released = made.values().filter(|one| one["spec"]["suspend"] == false);
        let own =
            released.filter(|one| one["metadata"]["name"].as_str().unwrap().starts_with("argo"));
        own.count() == 3
    });
    argo(&[]);
    wait_for("all of it to end", || {
        delete_what_the_node_forgot(&user);
        user.workflows()
            .values()
            .all(|one| one["metadata"]["labels"]["workflows.argoproj.io/completed"] == "true")
    });
    for name in &names {
        user.wait_for_run(name, "change", "Succeeded");
        // A pod that the node lost is made again, which is another attempt of the same run.
        let text = std::fs::read_to_string(user.path(&format!("{name}/witness"))).unwrap();
        let attempts: BTreeSet<&str> = text.lines().collect();
        assert_eq!(attempts.len(), text.lines().count(), "{name}: {}", controller.log());
        let runs = attempts.iter().map(|line| line.split_once(' ').unwrap().0);
        assert_eq!(runs.collect::<BTreeSet<_>>().len(), 1, "{name}: {}", controller.log());
    }
    assert_eq!(user.objects("notebookruns").len(), names.len());
    assert_eq!(user.workflows().len(), names.len());
    wait_for("the watch to see all", || released.count_each_once() == names.len());
    controller.signal(rustix::process::Signal::TERM);
    assert_eq!(controller.end(), 128 + 15, "{}", controller.log());
}
