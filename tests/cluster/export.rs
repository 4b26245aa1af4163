//! `export argo`: valid against what clusters know of Workflows, and run by Argo.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{Place, has};
use crate::user::User;

/// The full definitions of Workflows of a version of Argo, from its Go module.
fn definition(version: &str) -> Option<PathBuf> {
    let module = format!("github.com/argoproj/argo-workflows/{}", &version[..2]);
    let mut download = Command::new("go");
    let output =
        download.args(["mod", "download", "-json", &format!("{module}@{version}")]).output();
    let answer: Value = serde_json::from_slice(&output.ok()?.stdout).ok()?;
    let folder = Path::new(answer["Dir"].as_str()?);
    Some(folder.join("manifests/base/crds/full/argoproj.io_workflows.yaml"))
}

/// Whatever a schema does not name is refused, as an API server that prunes would drop it.
fn close(schema: &mut Value) {
    if let Some(fields) = schema.as_object_mut() {
        if fields.contains_key("properties") && !fields.contains_key("additionalProperties") {
            fields.insert("additionalProperties".into(), false.into());
        }
        if fields.remove("x-kubernetes-int-or-string").is_some() {
            fields.remove("type");
        }
        fields.values_mut().for_each(close);
    }
    if let Some(items) = schema.as_array_mut() {
        items.iter_mut().for_each(close);
    }
}

fn exported(name: &str, args: &[&str]) -> Value {
    let place = Place::of_example(name);
    let mut all =
        vec!["export", "argo", "--image", "lab:1", "--volume", "home:/work", "--root", "/work"];
    all.extend(args);
    all.extend(["--output", "json"]);
    place.run(&all).expect(0).json()
}

#[test]
fn workflows_are_valid_for_each_version_of_argo() {
    let all = [
        exported("digits", &[]),
        exported("forecast", &["--pipeline", "forecast"]),
        exported("warehouse", &[]),
        exported("churn", &[]),
        exported("kubernetes/experiment", &[]),
        exported("kubernetes/pytorchjob", &[]),
    ];
    // No registry that is known to be open serves 4.1, whose types (read on 2026-11-29) add fields to those of 4.0
    // (`podResources`, `resourceClaims`, `pendingTimeout`, `executorPlugins`), and change or take none of ours.
    for version in ["v3.6.12", "v3.7.18", "v4.0.5"] {
        let Some(path) = definition(version) else {
            has(&format!("Argo's definitions of {version}"), false);
            continue;
        };
        let text = std::fs::read_to_string(&path).unwrap();
        let definition: Value = serde_saphyr::from_str(&text).unwrap();
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let mut spec = schema["properties"]["spec"].clone();
        close(&mut spec);
        let validator = jsonschema::validator_for(&spec).unwrap();
        for workflow in &all {
            let name = &workflow["metadata"]["generateName"];
            let errors: Vec<String> = validator
                .iter_errors(&workflow["spec"])
                .map(|error| format!("{}: {error}", error.instance_path()))
                .collect();
            assert!(errors.is_empty(), "{name}, {version}: {errors:#?}");
        }
        let mut wrong = all[0]["spec"].clone();
        wrong["templates"][0]["dagg"] = Value::Null;
        assert!(!validator.is_valid(&wrong), "the check of {version} sees nothing");
    }
}

#[test]
fn an_export_runs_without_anything_of_ours() {
    let user = User::new("exported");
    user.write("p/jupyterflow.yaml", "steps: {a: {run: echo done >done}}\n");
    let file = user.types("p", "jupyterflow export argo").expect(0).stdout;
    for word in ["finalizers", "jupyterflow.io", "suspend"] {
        assert!(!file.contains(word), "{word}: {file}");
    }
    std::fs::write(user.path("workflow.yaml"), file).unwrap();
    let path = user.path("workflow.yaml");
    user.kubectl(&["create", "-f", path.to_str().unwrap()]).expect(0);
    user.wait_for_file("p/done");
}
