//! What acts on the whole cluster, and so runs with nothing beside it: sources of many tenants, and faults.

mod database;
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

/// Asks the node's runtime.
fn runtime(arguments: &[&str]) -> String {
    let mut command = Command::new("ctr");
    command.arg("-a").arg(cache().join("run/containerd.sock")).args(["-n", "k8s.io"]);
    let output = command.args(arguments).stderr(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The containers of a pod whose processes run, by the name of each; its sandbox has none.
fn containers(pod: &str) -> BTreeMap<String, String> {
    let own = format!("labels.\"io.kubernetes.pod.name\"=={pod}");
    let running = runtime(&["tasks", "ls"]);
    let running = running.lines().filter(|line| line.contains("RUNNING"));
    let running: BTreeSet<&str> =
        running.filter_map(|line| line.split_whitespace().next()).collect();
    let ids = runtime(&["containers", "ls", "-q", &own]);
    let ids = ids.lines().filter(|id| running.contains(id));
    ids.map(|id| {
        let known: Value = serde_json::from_str(&runtime(&["containers", "info", id])).unwrap();
        let name = known["Labels"]["io.kubernetes.container.name"].as_str().unwrap_or("");
        (name.to_owned(), id.to_owned())
    })
    .collect()
}

/// Takes a pod's sandbox away between two of its containers; whether that came in time.
fn forget(pod: &str) -> bool {
    struct Stopped(i32);
    impl Drop for Stopped {
        fn drop(&mut self) {
            signal(self.0, rustix::process::Signal::CONT);
        }
    }
    let (kubelet, _) = process_of("kubelet");
    signal(kubelet, rustix::process::Signal::STOP);
    let _goes_on = Stopped(kubelet);
    let mut left = BTreeMap::new();
    // What has begun of the first ones ends by itself.
    wait_for("its containers to end", || {
        left = containers(pod);
        left.keys().all(|name| name.is_empty() || name == "main" || name == "wait")
    });
    let in_time = left.len() == 1;
    if in_time {
        runtime(&["tasks", "kill", "-s", "SIGKILL", &left[""]]);
        wait_for("the end of its sandbox", || containers(pod).is_empty());
    }
    in_time
}

/// A pod whose sandbox died between two of its containers is neither begun anew nor ended by the kubelet.
#[test]
fn a_pod_that_its_node_forgot_is_made_anew() {
    let user = User::new("forgot");
    user.source();
    let controller = user.controller(&user.namespace, None);
    let mut name = String::new();
    let mut pod = String::new();
    wait_for("a pod to be forgotten", || {
        name = format!("work{}", name.trim_start_matches("work").parse().unwrap_or(0) + 1);
        let text = "steps: {work: {run: 'echo $JUPYTERFLOW_ATTEMPT >>witness'}}";
        user.write(&format!("{name}/jupyterflow.yaml"), &format!("name: {name}\n{text}\n"));
        wait_for("the first container's end", || {
            let ended = user.objects("pods").into_iter().find(|(own, one)| {
                let first = &one["status"]["initContainerStatuses"][0]["state"];
                own.starts_with(&format!("{name}-")) && first["terminated"].is_object()
            });
            pod = ended.map(|(pod, _)| pod).unwrap_or_default();
            !pod.is_empty()
        });
        forget(&pod)
    });
    user.wait_for_run(&name, "change", "Succeeded");
    let log = controller.log();
    assert!(log.contains(&format!("{pod} is removed: its node lost it before it began")), "{log}");
    // Argo makes it anew, and counts none that it never saw begin.
    let witness = std::fs::read_to_string(user.path(&format!("{name}/witness"))).unwrap();
    assert_eq!(witness.lines().count(), 1, "{witness}");
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
        format!("name: {name}\nsteps:\n  work: {{run: '{witness}'}}\n")
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
