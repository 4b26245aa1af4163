//! Results of a repository's runs in an object store: a real S3 server, which no step can ask.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::people::elsewhere;
use crate::repository::Git;
use crate::support::{Place, Running, has, phases, step, venv, wait_for};
use crate::user::{Shape, User, apply};

/// The address of this machine that pods reach, too.
const BRIDGE: &str = "10.88.77.1";
/// What only whoever carries results knows.
const SECRET: &str = "swordfish-9001";

/// Files travel to steps that need them, also by way of others and out of a sweep; one step fails at first, and one leaves
/// a file that only its own user may read.
const PIPELINE: &str = r#"
name: churn
steps:
  collect:
    run: |
      env | grep -c swordfish && exit 3
      grep -rqs "swordfish-""9001" /var/run /argo && exit 4
      ln -s /argo/secret/bucket "$JUPYTERFLOW_OUTPUT_DIR/keys"
      rm -rf /var/run/jupyterflow-told /var/run/jupyterflow-results || true
      ln -s /argo/secret/bucket /var/run/jupyterflow-told; ln -s /argo/secret/bucket /var/run/jupyterflow-results
      echo "id,spent" >data.csv; echo noise >undeclared.txt; chmod 600 data.csv
    outputs: {data: data.csv}
  fit:
    needs: collect
    run: |
      test ! -e undeclared.txt
      [ $JUPYTERFLOW_ATTEMPT -gt 1 ] || [ {{ params.depth }} -ne 2 ] || exit 5
      (cat data.csv; echo {{ params.depth }}) >"$JUPYTERFLOW_OUTPUT_DIR/model.csv"
      echo "loss={{ params.depth }}" >>$JUPYTERFLOW_OUTPUTS
    sweep: {depth: [3, 2, 4]}
    retries: 1
    outputs: {model: model.csv}
    best: {metric: loss, goal: min}
  look:
    needs: fit
    notebook: look.ipynb
  keep:
    needs: look
    run: cat data.csv "{{ steps.fit.outputs.model }}" >"$JUPYTERFLOW_OUTPUT_DIR/all.csv"
    outputs: {all: all.csv}
"#;

const NOTEBOOK: &str = r#"{"nbformat": 4, "nbformat_minor": 5,
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    "cells": [{"cell_type": "code", "id": "a", "metadata": {}, "execution_count": null, "outputs": [],
        "source": "print('rows of', open('data.csv').read())"}]}"#;

fn server() -> PathBuf {
    venv().join("bin/versitygw")
}

/// What a step is on record with, but for times and names. An API server writes 2.0 as 2.
fn told(run: &Value, name: &str) -> (Vec<(String, Option<f64>)>, Vec<Value>) {
    let step = step(run, name);
    let metrics = step["metrics"].as_object().into_iter().flatten();
    let artifacts = step["artifacts"].as_array().into_iter().flatten();
    (
        metrics.map(|(metric, value)| (metric.clone(), value.as_f64())).collect(),
        artifacts.map(|one| one["digest"].clone()).collect(),
    )
}

#[test]
fn results_go_to_an_object_store_and_come_back_to_the_steps_that_need_them() {
    if !has("versitygw", server().exists()) {
        return;
    }
    let shape = Shape { security: json!({"fsGroup": 100}), ..Shape::default() };
    let user = User::of("store", &shape);
    let git = Git::served(Place::new(), BRIDGE);
    git.write("churn/jupyterflow.yaml", PIPELINE).write("churn/look.ipynb", NOTEBOOK);
    let thief = "steps: {a: {run: 'echo $K', secrets: {K: {secret: bucket, key: secretKey}}}}";
    git.write("thief/jupyterflow.yaml", &format!("name: thief\n{thief}\n"));
    let first = git.push();
    let data = tempfile::Builder::new().prefix("jf-store-").tempdir().unwrap();
    let bucket = data.path().join("buckets/results");
    std::fs::create_dir_all(&bucket).unwrap();
    let port = std::net::TcpListener::bind((BRIDGE, 0)).unwrap().local_addr().unwrap().port();
    let serve = || {
        let mut command = Command::new(server());
        command.args(["--quiet", "--port", &format!("{BRIDGE}:{port}"), "posix", "buckets"]);
        command.env("ROOT_ACCESS_KEY", "key").env("ROOT_SECRET_KEY", SECRET);
        command.current_dir(data.path());
        let running = Running::of(command, data.path().join("server.log"));
        wait_for("the store", || std::net::TcpStream::connect((BRIDGE, port)).is_ok());
        running
    };
    let _store = serve();
    let secret = |owner: &str| {
        apply(&[json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {
                "name": "bucket", "namespace": user.namespace, "labels": {"jupyterflow.io/owner": owner},
            },
            "stringData": {"accessKey": "key", "secretKey": SECRET},
        })]);
    };
    secret("somebody-else");
    User::define();
    let url = format!("s3://results/team?endpoint=http://{BRIDGE}:{port}&region=us-east-1");
    apply(&[json!({
        "apiVersion": "jupyterflow.io/v1alpha1", "kind": "NotebookSource",
        "metadata": {"name": "team", "namespace": user.namespace},
        "spec": {
            "git": {"url": git.url()}, "poll": "1s",
            "results": {"url": url, "credentials": {"secret": "bucket"}},
        },
    })]);
    let controller = user.controller(&user.namespace, None);
    let told_of = |pipeline: &str, words: &str| {
        let pipelines = user.objects("notebookpipelines");
        let own = pipelines.values().find(|one| one["spec"]["name"] == pipeline);
        let own = own.map(|one| one["status"]["conditions"][0]["message"].clone());
        own.is_some_and(|told| told.as_str().is_some_and(|told| told.contains(words)))
    };
    wait_for("the secret to be refused", || told_of("churn", "secret bucket is not labelled"));
    secret(&user.namespace);
    wait_for("a step to be refused", || {
        told_of("thief", "secret bucket is for the results of runs, and for no step")
    });
    let run = user.wait_for_run("churn", "change", "Succeeded");
    assert_eq!(run["spec"]["execution"]["revision"], *first, "{run}");
    let name = run["metadata"]["name"].as_str().unwrap();
    let results = bucket.join(format!("team/churn/jupyterflow-runs/{name}"));
    let read = |path: &str| {
        let read = std::fs::read_to_string(results.join(path));
        read.unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    assert!(read("look/notebook.ipynb").contains("rows of id,spent"));
    assert_eq!(read("collect/files/churn/data.csv"), "id,spent\n");
    assert_eq!(read("fit/2/files/model.csv"), "id,spent\n4\n");
    assert_eq!(read("keep/files/all.csv"), "id,spent\nid,spent\n2\n");
    assert!(!results.join("keep/undeclared.txt").exists());
    // The volume of the user's server has no part in it.
    assert!(!user.path("churn").exists());
    // The same commit on one machine gives the same.
    git.configure(&format!("{{git: {{url: '{}'}}, results: {{path: results}}}}", git.url()), "");
    git.once().expect(0);
    let local = git.newest();
    assert_eq!(phases(&local), phases(&run["status"]));
    for name in ["collect", "fit", "look", "keep"] {
        assert_eq!(told(&local, name), told(&run["status"], name), "{name}");
    }
    // The secret is in the secret alone.
    let kinds = "workflows,notebooksources,notebookpipelines,notebookruns,pods,events";
    let all = user.kubectl(&["get", kinds, "-o", "json"]).expect(0).stdout;
    assert!(
        all.contains("accessKey") && !all.contains(SECRET) && !controller.log().contains(SECRET)
    );
    let mut all = walkdir::WalkDir::new(data.path().join("buckets")).into_iter().flatten();
    let holds = |path: &std::path::Path| {
        std::fs::read(path).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(SECRET))
    };
    assert!(all.all(|entry| !holds(entry.path())), "a step took the keys");
    // A pod that is deleted while it works is made again, and what was carried before still counts.
    git.write(
        "churn/jupyterflow.yaml",
        &PIPELINE.replace("cat data.csv \"", "sleep 30; cat data.csv \""),
    );
    git.push();
    let of = |name: &str| {
        let all = user.objects("pods");
        let mut own = all.into_iter().filter(|(pod, one)| {
            !pod.starts_with(name)
                && pod.contains("-keep-")
                && one["status"]["containerStatuses"][0]["state"]["running"].is_object()
        });
        own.next().map(|(pod, _)| pod)
    };
    let mut pod = None;
    wait_for("the last step", || {
        pod = of(name);
        pod.is_some()
    });
    user.kubectl(&["delete", "pod", &pod.unwrap(), "--now"]).expect(0);
    let mut second = Value::Null;
    wait_for("the second run", || {
        let runs = user.objects("notebookruns");
        let own = runs.into_iter().find(|(other, run)| {
            other != name
                && run["status"]["phase"]
                    .as_str()
                    .is_some_and(|phase| phase != "Running" && phase != "Pending")
        });
        second = own.map(|(_, run)| run).unwrap_or_default();
        !second.is_null()
    });
    assert_eq!(second["status"]["phase"], "Succeeded", "{second:#}");
    assert_eq!(told(&second["status"], "keep"), told(&run["status"], "keep"));
    // What is wanted again from a step on takes what came before from where the first run left it.
    let again = elsewhere(&user, &["retry", name, "--from", "look", "--output", "json"]).expect(0);
    let again = again.json();
    for name in ["collect", "fit", "fit[1]"] {
        let (again, first) = (step(&again, name), step(&run["status"], name));
        for kept in ["startedAt", "outputs", "artifacts", "log"] {
            assert_eq!(again[kept], first[kept], "{name}: {kept}");
        }
    }
    assert_eq!(told(&again, "keep"), told(&run["status"], "keep"));
    let pods = user.objects("pods");
    let own = pods.keys().filter(|pod| pod.starts_with(again["name"].as_str().unwrap()));
    assert_eq!(own.count(), 2, "{:?}", pods.keys());
}
