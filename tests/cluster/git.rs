//! Repositories as sources of a cluster: each step in a checkout of its own, into which only declared files
//! travel, and a second controller's stale clone takes nothing back.

use serde_json::{Value, json};

use crate::repository::Git;
use crate::support::{Place, comes_true, phases, step, wait_for};
use crate::user::{User, apply};

/// The address of this machine that pods reach, too.
const BRIDGE: &str = "10.88.77.1";
/// What only whoever fetches knows.
const PASSWORD: &str = "swordfish-9000";

/// Three steps, the last of which needs a file of the first, and leaves what differs from run to run apart.
const PIPELINE: &str = r#"
name: churn
steps:
  collect:
    run: |
      test ! -e data.csv
      echo "id,spent" >data.csv; cat ../common.txt >>data.csv
      echo noise >undeclared.txt
      env | grep -c swordfish && exit 3
      test ! -e /var/run/jupyterflow-credentials
    outputs: {data: data.csv}
  look:
    needs: [collect]
    run: test -e data.csv; test ! -e undeclared.txt; echo "rows=$(wc -l <data.csv)" >>$JUPYTERFLOW_OUTPUTS
  train:
    needs: [look]
    notebook: train.ipynb
    params: {rows: "{{ steps.look.outputs.rows }}"}
  keep:
    needs: [train]
    run: cp data.csv "$JUPYTERFLOW_OUTPUT_DIR/model.csv"
    outputs: {model: model.csv}
"#;

fn notebook() -> String {
    let code = |source: &str, tags: Value| {
        json!({"cell_type": "code", "id": format!("c{}", source.len()), "metadata": {"tags": tags},
            "execution_count": null, "outputs": [], "source": source})
    };
    let cells = [
        code("rows = 0", json!(["parameters"])),
        code(
            "import jupyterflow_helper as helper\nprint(open('data.csv').read(), helper.NAME)",
            json!([]),
        ),
    ];
    json!({
        "cells": cells, "nbformat": 4, "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    })
    .to_string()
}

fn repository() -> Git {
    let git = Git::served(Place::new(), BRIDGE);
    git.mode(&format!("password ann:{PASSWORD}"));
    git.write("common.txt", "1,2\n").write("churn/jupyterflow.yaml", PIPELINE);
    git.write("churn/jupyterflow_helper.py", "NAME = 'from the commit'\n");
    git.write("churn/train.ipynb", &notebook());
    git
}

/// A secret with the password, labelled for an owner.
fn secret(user: &User, owner: &str) {
    apply(&[json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {
            "name": "team", "namespace": user.namespace, "labels": {"jupyterflow.io/owner": owner},
        },
        "stringData": {"username": "ann", "password": PASSWORD},
    })]);
}

fn source(user: &User, git: &Git, more: &Value) {
    User::define();
    let mut spec = json!({
        "git": {"url": git.url(), "credentials": {"secret": "team"}},
        "poll": "1s", "results": {"claim": "claim-ann"},
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    apply(&[json!({
        "apiVersion": "jupyterflow.io/v1alpha1", "kind": "NotebookSource",
        "metadata": {"name": "team", "namespace": user.namespace}, "spec": spec,
    })]);
}

/// What the source says of itself.
fn ready(user: &User) -> Value {
    let sources = user.objects("notebooksources");
    sources["team"]["status"]["conditions"][0].clone()
}

#[test]
fn each_step_has_a_checkout_of_its_own_and_gives_what_it_gives_on_one_machine() {
    let user = User::new("git");
    let git = repository();
    let first = git.push();
    secret(&user, "somebody-else");
    source(&user, &git, &json!({}));
    let controller = user.controller(&user.namespace, None);
    // Whose secret it is instead is not said, and nothing is asked with it.
    wait_for("the secret to be refused", || {
        let told = ready(&user)["message"].as_str().unwrap_or_default().to_owned();
        told.contains("secret team is not labelled")
    });
    assert_eq!(git.asked(), 0);
    secret(&user, &user.namespace);
    let run = user.wait_for_run("churn", "change", "Succeeded");
    assert_eq!(run["spec"]["execution"]["revision"], *first, "{run}");
    assert_eq!(ready(&user)["status"], "True");
    let name = run["metadata"]["name"].as_str().unwrap();
    let results = format!("churn/jupyterflow-runs/{name}");
    let executed = user.path(&format!("{results}/train/notebook.ipynb"));
    let executed = std::fs::read_to_string(executed).unwrap();
    assert!(executed.contains("from the commit") && executed.contains("1,2"), "{executed}");
    let model = user.path(&format!("{results}/keep/files/model.csv"));
    assert_eq!(std::fs::read_to_string(model).unwrap(), "id,spent\n1,2\n");
    // No checkout stays on the volume, and the volume shows nothing that no step left.
    assert!(!user.path("churn/train.ipynb").exists() && !user.path("common.txt").exists());
    // The same commit on one machine gives the same.
    git.mode("ok");
    git.configure(&format!("{{git: {{url: '{}'}}, results: {{path: results}}}}", git.url()), "");
    git.once().expect(0);
    let local = git.newest();
    let cluster = std::fs::read_to_string(user.path(&format!("{results}/run.json"))).unwrap();
    let cluster: Value = serde_json::from_str(&cluster).unwrap();
    assert_eq!(phases(&local), phases(&cluster));
    for name in ["collect", "look", "train", "keep"] {
        let told = |run: &Value| {
            let step = step(run, name);
            let artifacts = step["artifacts"].as_array().unwrap().iter();
            let digests: Vec<_> = artifacts.map(|one| one["digest"].clone()).collect();
            (step["metrics"].clone(), step["outputs"]["rows"].clone(), digests)
        };
        assert_eq!(told(&local), told(&cluster), "{name}");
    }
    assert_eq!(
        (local["id"].clone(), &local["revision"]),
        (local["id"].clone(), &cluster["revision"])
    );
    // An edit of what the commit names is a change, and what the server hides is not.
    git.write("common.txt", "1,2\n3,4\n");
    git.push();
    let said = || user.objects("notebookruns").len();
    wait_for("the commit to be seen", || {
        let sources = user.objects("notebooksources");
        sources["team"]["status"]["revision"] != *first
    });
    git.write("churn/jupyterflow_helper.py", "NAME = 'edited'\n");
    git.write("churn/train.ipynb", &notebook().replace("print(", "print(2, "));
    let last = git.push();
    wait_for("the edit's run", || said() == 2);
    wait_for("its end", || {
        let runs = user.objects("notebookruns");
        runs.values().any(|run| {
            run["spec"]["execution"]["revision"] == *last && run["status"]["phase"] == "Succeeded"
        })
    });
    // The password is in the secret alone.
    let kinds = "workflows,notebooksources,notebookpipelines,notebookruns,pods,events";
    let all = user.kubectl(&["get", kinds, "-o", "json"]).expect(0).stdout;
    assert!(!all.contains(PASSWORD) && !controller.log().contains(PASSWORD));
    assert!(!has_text(&user.path(""), PASSWORD));
}

/// Whether a file of a tree holds a text.
fn has_text(folder: &std::path::Path, text: &str) -> bool {
    walkdir::WalkDir::new(folder).into_iter().flatten().any(|entry| {
        let read = std::fs::read(entry.path()).unwrap_or_default();
        read.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

/// A controller whose clone is new asks a replica that lags behind: what another saw counts.
#[test]
fn a_stale_clone_flips_nothing() {
    let user = User::new("stale");
    let git = Git::served(Place::new(), BRIDGE);
    let text = |line: &str| format!("name: churn\nsteps: {{work: {{run: 'echo {line}'}}}}\n");
    git.write("jupyterflow.yaml", &text("one"));
    let first = git.push();
    source(&user, &git, &json!({"git": {"url": git.url()}}));
    let controller = user.controller(&user.namespace, None);
    user.wait_for_run("churn", "change", "Succeeded");
    git.write("jupyterflow.yaml", &text("two"));
    let second = git.push();
    wait_for("the second run", || {
        let runs = user.objects("notebookruns");
        runs.values().filter(|run| !run["status"]["startedAt"].is_null()).count() == 2
    });
    let in_force = || {
        let sources = user.objects("notebooksources");
        sources["team"]["status"]["branches"]["main"].clone()
    };
    assert_eq!(in_force()["accepted"]["commit"], *second);
    drop(controller);
    git.inside(&["push", "-q", "-f", "origin", &format!("{first}:main")]);
    let other = user.controller(&user.namespace, None);
    wait_for("the older commit to be seen", || !in_force()["pending"].is_null());
    assert_eq!(in_force()["accepted"]["commit"], *second);
    git.inside(&["push", "-q", "-f", "origin", &format!("{second}:main")]);
    wait_for("the newest to be back", || {
        in_force()["pending"].is_null() && ready(&user)["status"] == "True"
    });
    let runs = user.objects("notebookruns");
    assert_eq!(runs.len(), 2, "{runs:#?}\n{}", other.log());
    // A branch that was taken back counts once that stood for a minute, though nothing else happens.
    git.inside(&["push", "-q", "-f", "origin", &format!("{first}:main")]);
    let counts = comes_true(300, || in_force()["accepted"]["commit"] == *first);
    assert!(counts, "{:#}\n{}", in_force(), other.log());
}
