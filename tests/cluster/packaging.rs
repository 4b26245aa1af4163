//! The controller as a cluster gets it: from the project's own manifests and image, upgraded, restored from a
//! backup that knows no status, and taken out again.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Ended, wait_for};
use crate::user::{User, fed, kubectl};

const YAML: &str = "name: churn\nsteps:\n  work: {run: 'echo began >>witness'}\n";
const WAITS: &str = "name: waits\nsteps:\n  work: {run: 'echo began >>witness; sleep 600'}\n";

/// An overlay of the committed manifests, as an administrator writes one: other image and namespace, the volume
/// with the homes, the user who may read them.
fn install(user: &User) {
    let folder = tempfile::tempdir().unwrap();
    let manifests = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests");
    let copied =
        Command::new("cp").arg("-r").arg(manifests).arg(folder.path().join("base")).status();
    assert!(copied.unwrap().success());
    let home = user.path("").display().to_string();
    let home = home.trim_end_matches('/');
    let add = |path: &str, value: Value| json!({"op": "add", "path": path, "value": value});
    let container = "/spec/template/spec/containers/0";
    let patch = json!([
        // Other tests have controllers of their own.
        add(&format!("{container}/args/-"), json!("--namespace")),
        add(&format!("{container}/args/-"), json!(user.namespace)),
        add(&format!("{container}/env/0/value"), json!("docker.io/local/jupyterflow:1")),
        add("/spec/template/spec/securityContext/runAsUser", json!(1000)),
        add(&format!("{container}/volumeMounts/-"), json!({"name": "homes", "mountPath": home})),
        add(
            "/spec/template/spec/volumes/-",
            json!({"name": "homes", "persistentVolumeClaim": {"claimName": "claim-ann"}}),
        ),
    ]);
    let overlay = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "resources": ["base"], "namespace": user.namespace,
        "images": [{
            "name": "ghcr.io/jupyterflow/jupyterflow",
            "newName": "docker.io/local/jupyterflow", "newTag": "1",
        }],
        "patches": [{"target": {"kind": "Deployment"}, "patch": patch.to_string()}],
    });
    std::fs::write(folder.path().join("kustomization.yaml"), overlay.to_string()).unwrap();
    let path = folder.path().display().to_string();
    let args = ["apply", "--server-side", "--force-conflicts", "-k", &path];
    Ended::from(kubectl(&args).output().unwrap()).expect(0);
    rolled_out(user);
}

fn rolled_out(user: &User) {
    let args = ["rollout", "status", "deployment/jupyterflow-controller", "--timeout=600s"];
    let ended = user.kubectl(&args);
    if ended.code != 0 {
        let seen = user.kubectl(&[
            "describe",
            "pods",
            "-l",
            "app.kubernetes.io/name=jupyterflow-controller",
        ]);
        let log = user.kubectl(&["logs", "deployment/jupyterflow-controller"]);
        panic!("{}\n{}\n{}", ended.stderr, seen.stdout, log.stdout);
    }
}

fn scale(user: &User, count: &str) {
    let replicas = format!("--replicas={count}");
    user.kubectl(&["scale", "deployment/jupyterflow-controller", &replicas]).expect(0);
    let args = ["wait", "pods", "-l", "app.kubernetes.io/name=jupyterflow-controller"];
    if count == "0" {
        user.kubectl(&[&args[..], &["--for=delete", "--timeout=600s"]].concat()).expect(0);
    } else {
        rolled_out(user);
    }
}

/// Objects as a backup keeps them.
fn backup(user: &User, kind: &str) -> String {
    let mut list = user.kubectl(&["get", kind, "-o", "json"]).json();
    for item in list["items"].as_array_mut().unwrap() {
        item.as_object_mut().unwrap().remove("status");
        let metadata = item["metadata"].as_object_mut().unwrap();
        for key in ["uid", "resourceVersion", "generation", "creationTimestamp", "managedFields"] {
            metadata.remove(key);
        }
    }
    list.to_string()
}

#[test]
fn the_committed_manifests_give_a_working_controller_that_can_be_upgraded_restored_and_removed() {
    let user = User::new("packaged");
    user.write("p/jupyterflow.yaml", YAML);
    user.source_of(&json!({"settle": "0s", "poll": "1s", "firstSight": "run"}));
    install(&user);
    user.wait_for_run("churn", "change", "Succeeded");
    assert_eq!(user.began("p"), 1);
    users_make_requests_only(&user);
    // An upgrade is another pod over the same ledger.
    let metadata = json!({"annotations": {"upgrade": "1"}});
    let patch = json!({"spec": {"template": {"metadata": metadata}}}).to_string();
    user.kubectl(&["patch", "deployment", "jupyterflow-controller", "-p", &patch]).expect(0);
    rolled_out(&user);
    user.wait_for_pass("upgraded");
    assert_eq!((user.began("p"), user.objects("notebookruns").len()), (1, 1));
    // Objects that a backup brings back without their status start nothing.
    user.kubectl(&[
        "patch",
        "notebooksource",
        "home",
        "--type=merge",
        "-p",
        r#"{"spec":{"firstSight":"adopt"}}"#,
    ])
    .expect(0);
    scale(&user, "0");
    let kept = [backup(&user, "notebookpipelines"), backup(&user, "notebookruns")];
    user.kubectl(&["delete", "notebookpipelines,notebookruns", "--all"]).expect(0);
    for list in &kept {
        fed(&["apply", "-f", "-"], list).expect(0);
    }
    scale(&user, "1");
    user.wait_for_pass("restored");
    assert_eq!((user.began("p"), user.objects("notebookruns").len()), (1, 1));
    // Also where the records are gone too.
    scale(&user, "0");
    user.kubectl(&["delete", "notebookpipelines,notebookruns", "--all"]).expect(0);
    scale(&user, "1");
    user.wait_for_pass("again");
    assert_eq!((user.began("p"), user.objects("notebookruns").len()), (1, 0));
    // An edit runs as ever, once nothing of the former life has its name.
    user.write("p/jupyterflow.yaml", &YAML.replace("echo began", "echo began again"));
    wait_for("the controller to say what is in the way", || {
        let log = user.kubectl(&["logs", "deployment/jupyterflow-controller"]).stdout;
        log.contains("NameTaken") && log.contains("once it is deleted the run begins")
    });
    user.kubectl(&["delete", "workflows", "--all", "--timeout=300s"]).expect(0);
    user.wait_for_run("churn", "change", "Succeeded");
    assert_eq!(user.began("p"), 2);
    // It goes with a run at work, and nothing waits for it.
    user.kubectl(&[
        "patch",
        "notebooksource",
        "home",
        "--type=merge",
        "-p",
        r#"{"spec":{"firstSight":"run"}}"#,
    ])
    .expect(0);
    wait_for("the controller to take it", || {
        let source = &user.objects("notebooksources")["home"];
        source["status"]["observedGeneration"] == source["metadata"]["generation"]
    });
    user.write("q/jupyterflow.yaml", WAITS);
    user.wait_for_file("q/witness");
    let mut uninstall = Command::new(env!("CARGO_BIN_EXE_jupyterflow"));
    uninstall.args(["uninstall", "-n", &user.namespace]);
    Ended::from(uninstall.output().unwrap()).expect(0).says("the controller is removed");
    let held = user
        .workflows()
        .into_values()
        .filter(|one| one["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty()));
    assert_eq!(held.count(), 0);
    user.kubectl(&["delete", "workflows", "--all", "--timeout=300s"]).expect(0);
    let kinds = "clusterroles,validatingadmissionpolicies,validatingadmissionpolicybindings";
    wait_for("its rights to be gone", || {
        let left = Ended::from(kubectl(&["get", kinds, "-o", "name"]).output().unwrap());
        !left.expect(0).stdout.contains("/jupyterflow-")
    });
    // The same from the chart, over the ledger that is there.
    helm_installs(&user);
    user.wait_for_pass("charted");
    let before = user.began("p");
    user.write("p/jupyterflow.yaml", &YAML.replace("echo began", "echo began once more"));
    wait_for("a run", || user.began("p") == before + 1);
    helm(&["uninstall", "jupyterflow", "-n", &user.namespace, "--wait"]);
}

/// Whoever may make runs can ask for a run, and cannot say that a trigger fired.
fn users_make_requests_only(user: &User) {
    let (namespace, rbac) = (&user.namespace, "rbac.authorization.k8s.io");
    let metadata = json!({"name": "asks", "namespace": namespace});
    let rule = json!({
        "apiGroups": ["jupyterflow.io"], "resources": ["notebookruns"], "verbs": ["create", "get", "patch"],
    });
    crate::user::apply(&[
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "Role", "metadata": metadata, "rules": [rule],
        }),
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "asks"},
            "subjects": [{"kind": "User", "name": "ann", "apiGroup": rbac}],
        }),
    ]);
    let run = |name: &str, kind: &str| {
        let pipelines = user.objects("notebookpipelines");
        let pipeline = pipelines.keys().next().unwrap();
        json!({
            "apiVersion": "jupyterflow.io/v1alpha1", "kind": "NotebookRun",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "pipeline": pipeline, "identity": "0123456789abcdef",
                "trigger": {"kind": kind, "key": "2026-11-28T03:00:00Z"},
            },
        })
    };
    let create = ["create", "--dry-run=server", "--as=ann", "-f", "-"];
    // The policy works a moment after it is there.
    wait_for("the policy", || {
        let refused = fed(&create, &run("forged", "schedule").to_string());
        refused.code != 0 && refused.stderr.contains("is a request: its trigger is `manual`")
    });
    fed(&create, &run("asked", "manual").to_string()).expect(0);
    // Of a run that is there they may ask for the end, and say nothing else.
    let there = user.objects("notebookruns").into_keys().next().unwrap();
    let patch = |patch: Value| {
        let patch = patch.to_string();
        user.kubectl(&[
            "patch",
            "nbr",
            &there,
            "--as=ann",
            "--dry-run=server",
            "--type=merge",
            "-p",
            &patch,
        ])
    };
    patch(json!({"spec": {"stop": true}})).expect(0);
    for forged in [
        json!({"stop": true, "stoppedBy": "another-0123456789abcdef"}),
        json!({"params": {"limit": 0}}),
        json!({"execution": null}),
        json!({"execution": {"engine": "local"}}),
    ] {
        patch(json!({"spec": forged})).expect(1).says("may ask for its end, by `stop`");
    }
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "0-0"});
    for forged in [
        json!({"ownerReferences": [owner]}),
        json!({"finalizers": ["example.org/never"]}),
        json!({"labels": {"jupyterflow.io/pipeline": "another"}}),
        json!({"annotations": {"jupyterflow.io/planned-from": "1"}}),
    ] {
        patch(json!({"metadata": forged})).expect(1).says("may ask for its end, by `stop`");
    }
    let mut forged = run("asked", "manual");
    forged["spec"]["execution"] = json!({"engine": "argo"});
    let said = fed(&create, &forged.to_string()).expect(1);
    said.says("what it executes is its pipeline's to say");
    let trusted = ["create", "--dry-run=server", "-f", "-"];
    fed(&trusted, &run("restored", "schedule").to_string()).expect(0);
}

fn helm(args: &[&str]) {
    let mut command = Command::new(crate::user::cache().join("bin/helm"));
    Ended::from(command.args(args).output().unwrap()).expect(0);
}

/// The committed chart, with the values that an administrator gives.
fn helm_installs(user: &User) {
    let home = user.path("").display().to_string();
    let home = home.trim_end_matches('/');
    let values = json!({
        "image": "docker.io/local/jupyterflow:1",
        "args": ["--namespace", user.namespace],
        "podSecurityContext": {"runAsNonRoot": true, "runAsUser": 1000},
        "volumes": [{"name": "homes", "persistentVolumeClaim": {"claimName": "claim-ann"}}],
        "volumeMounts": [{"name": "homes", "mountPath": home}],
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), values.to_string()).unwrap();
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/chart");
    let (namespace, values) = (user.namespace.as_str(), file.path().display().to_string());
    helm(&["install", "jupyterflow", chart, "-n", namespace, "-f", &values, "--skip-crds"]);
    rolled_out(user);
}
