//! What other projects define, by the schemas that they publish: so many of them that the API server has nothing
//! to say for a while.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Ended, wait_for};
use crate::user::{User, cache, fed, kubectl};

/// The schemas of what other projects define, as they publish them.
fn define_others() {
    let folder = cache().join("crds");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let args = ["apply", "--server-side", "--force-conflicts", "-f", path.to_str().unwrap()];
        Ended::from(kubectl(&args).output().unwrap()).expect(0);
    }
    let args = ["wait", "crd", "--all", "--for=condition=Established", "--timeout=120s"];
    Ended::from(kubectl(&args).output().unwrap()).expect(0);
    // Established is not yet known to whoever asks what there is.
    let names =
        Ended::from(kubectl(&["get", "crd", "-o", "name"]).output().unwrap()).expect(0).stdout;
    wait_for("all of them to be served", || {
        let served = kubectl(&["api-resources", "-o", "name"]).output().unwrap();
        let served = Ended::from(served).stdout;
        names.lines().all(|name| served.contains(name.rsplit('/').next().unwrap()))
    });
}

/// Each example's manifest, with the values of its references, by the schema that its project publishes.
#[test]
fn the_examples_are_what_their_projects_ask_for() {
    let user = User::new("schemas");
    define_others();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kubernetes");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        user.copy(&folder, &name);
        let valid = user.types(&name, "jupyterflow validate --strict");
        valid.expect(0);
        let text = std::fs::read_to_string(folder.join(format!("{name}.yaml"))).unwrap();
        let mut object: Value = serde_saphyr::from_str(&text).unwrap();
        fill(&mut object);
        object["metadata"] = json!({"name": name, "namespace": user.namespace});
        let args = ["create", "--dry-run=server", "--validate=strict", "-o", "name", "-f", "-"];
        fed(&args, &object.to_string()).expect(0);
        // What its schema does not know is refused: it is looked at.
        if !["experiment", "pipelinerun"].contains(&name.as_str()) {
            object["spec"]["nonsense"] = json!(1);
            fed(&args, &object.to_string()).expect(1).says("nonsense");
        }
        seen += 1;
    }
    assert_eq!(seen, 9);
}

/// Puts a number where a number is meant by its reference alone, and a word elsewhere.
fn fill(value: &mut Value) {
    match value {
        Value::String(text) => {
            let numbers = ["workers", "nodes", "executors", "trials", "outputs.pods"];
            match text.strip_prefix("{{ ").and_then(|rest| rest.strip_suffix(" }}")) {
                Some(name) if numbers.iter().any(|number| name.ends_with(number)) => {
                    *value = json!(2);
                }
                Some("params.words") => *value = json!(["storm", "calm"]),
                _ => {}
            }
        }
        Value::Array(items) => items.iter_mut().for_each(fill),
        Value::Object(entries) => entries.values_mut().for_each(fill),
        _ => {}
    }
}

/// Does what an operator does of which only the schema is there: it finishes each object of a kind.
fn operate(user: &User, kind: &str, status: &Value) {
    wait_for(&format!("a {kind}"), || {
        let list = user.kubectl(&["get", kind, "-o", "name"]).stdout;
        !list.trim().is_empty()
    });
    let name = user.kubectl(&["get", kind, "-o", "name"]).stdout;
    let patch = json!({"status": status}).to_string();
    let args = ["patch", name.trim(), "--subresource=status", "--type=merge", "-p", &patch];
    user.kubectl(&args).expect(0);
}

#[test]
fn the_best_of_an_experiment_arrives_and_a_pipeline_run_is_waited_for() {
    let user = User::new("operators");
    define_others();
    user.may_make("experiments.kubeflow.org");
    let rbac = ["patch", "role", "jupyterflow", "--type=json", "-p"];
    let rule = json!([{"op": "add", "path": "/rules/-", "value": {
        "apiGroups": ["tekton.dev"], "resources": ["pipelineruns"],
        "verbs": ["get", "list", "create", "patch", "delete"],
    }}]);
    user.kubectl(&[&rbac[..], &[&rule.to_string()]].concat()).expect(0);
    let kinds = json!(["Experiment.kubeflow.org", "PipelineRun.tekton.dev"]);
    let images = json!(["docker.io/library/python:*"]);
    user.source_of(&json!({"settle": "0s", "poll": "1s", "kinds": kinds, "images": images}));
    let controller = user.controller(&user.namespace, None);
    for example in ["experiment", "pipelinerun"] {
        let folder =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/kubernetes").join(example);
        user.copy(&folder, example);
    }
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status});
    operate(
        &user,
        "experiments.kubeflow.org",
        &json!({
            "conditions": [
                condition("Created", "True"), condition("Running", "False"), condition("Succeeded", "True"),
            ],
            "currentOptimalTrial": {
                "parameterAssignments": [{"name": "layers", "value": "3"}, {"name": "lr", "value": "0.0125"}],
                "observation": {"metrics": [{"name": "accuracy", "latest": "0.9875"}]},
            },
        }),
    );
    operate(
        &user,
        "pipelineruns.tekton.dev",
        &json!({
            "conditions": [condition("Succeeded", "True")],
            "results": [{"name": "IMAGE_DIGEST", "value": "sha256:0123"}],
        }),
    );
    let run = user.wait_for_run("experiment", "change", "Succeeded");
    let step = &run["status"]["steps"][0];
    assert_eq!(step["outputs"], json!({"lr": 0.0125, "accuracy": 0.9875}), "{run:#}");
    assert_eq!(step["metrics"]["accuracy"], 0.9875);
    let best = std::fs::read_to_string(user.path("experiment/best.txt")).unwrap();
    assert_eq!(best, "train with 0.0125\n");
    user.wait_for_run("pipelinerun", "change", "Succeeded");
    let digest = std::fs::read_to_string(user.path("pipelinerun/digest.txt")).unwrap();
    assert_eq!(digest, "sha256:0123\n");
    for kind in ["experiments.kubeflow.org", "pipelineruns.tekton.dev"] {
        wait_for(&format!("the {kind} to go"), || {
            user.kubectl(&["get", kind, "-o", "name"]).stdout.trim().is_empty()
        });
    }
    drop(controller);
}
