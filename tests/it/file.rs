//! The pipeline file from outside: all problems at once, hostile files in bounded time and memory,
//! other tools' words, and the schema in an independent validator.

use serde_json::Value;

use crate::support::{Ended, Place};

#[track_caller]
fn problems(place: &Place, file: &str) -> Vec<Value> {
    let document = place.document(&["validate", file]);
    assert_eq!(document["apiVersion"], "jupyterflow.io/v1alpha1");
    assert_eq!(document["kind"], "Problems");
    document["problems"].as_array().unwrap().clone()
}

#[test]
fn all_problems_come_at_once_with_line_column_and_hint() {
    let place = Place::new();
    let text = "name: churn\nstpes: 1\nsteps:\n  a: {notebook: missing.ipynb, dependsOn: b}\n  \
                b: {run: 'echo {{ steps.c.outputs.x }}', retries: -1}\n";
    place.write("jupyterflow.yaml", text);
    let found = problems(&place, "jupyterflow.yaml");
    let places: Vec<_> =
        found.iter().map(|p| (p["line"].as_u64(), p["severity"].as_str())).collect();
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(places.iter().all(|(line, severity)| line.unwrap() > 0 && *severity == Some("error")));
    assert!(found.iter().any(|p| p["hint"] == "did you mean `steps`?"), "{found:?}");
    assert!(found.iter().any(|p| p["hint"] == "did you mean `needs`?"), "{found:?}");
    let ended = place.run(&["validate"]).expect(2);
    assert!(ended.stderr.contains("jupyterflow.yaml:2:1: error: unknown key `stpes`"));
    assert!(ended.stderr.contains("2 | stpes: 1\n  | ^"), "{}", ended.stderr);
}

#[test]
fn what_only_the_files_can_show_is_said_too() {
    let place = Place::new();
    place.notebook("train.ipynb", &["#tag parameters\nepochs = 1"]);
    place.write(
        "jupyterflow.yaml",
        "steps:\n  t:\n    notebook: train.ipynb\n    params: {epoch: 2}\n  u: {notebook: tarin.ipynb}\n",
    );
    let ended = place.run(&["validate"]).expect(2);
    assert!(
        ended
            .stderr
            .contains(":4:14: warning: step `t`: train.ipynb declares no parameter `epoch`")
    );
    assert!(ended.stderr.contains("did you mean `epochs`?"), "{}", ended.stderr);
    assert!(ended.stderr.contains("notebook tarin.ipynb: it is not there"), "{}", ended.stderr);
    assert!(ended.stderr.contains("did you mean train.ipynb?"), "{}", ended.stderr);
    place.write("jupyterflow.yaml", "steps: {t: {notebook: train.ipynb, params: {epoch: 2}}}\n");
    place.run(&["validate"]).expect(0);
    place.run(&["validate", "--strict"]).expect(2);
}

#[test]
fn other_tools_words_are_understood() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/other-tools");
    for (tool, hints) in [
        ("github-actions", &["write `triggers:`", "did you mean `steps`?"][..]),
        ("argo", &["did you mean"]),
        ("ploomber", &["did you mean `steps`?"]),
        ("kestra", &["did you mean `name`?", "did you mean `steps`?"]),
        ("dagster", &["did you mean `steps`?"]),
        ("dvc", &["did you mean `steps`?"]),
    ] {
        let place = Place::new();
        let text = std::fs::read_to_string(format!("{folder}/{tool}.yaml")).unwrap();
        place.write("jupyterflow.yaml", &text);
        let ended = place.run(&["validate"]).expect(2);
        for hint in hints {
            assert!(ended.stderr.contains(hint), "{tool}: no {hint:?} in {}", ended.stderr);
        }
    }
    // Below the right words the steps of DVC and Ploomber are understood too.
    let place = Place::new();
    place.write(
        "jupyterflow.yaml",
        "steps: {a: {cmd: x, deps: [b], outs: [c], upstream: d, matrix: {}}}",
    );
    let ended = place.run(&["validate"]).expect(2);
    for word in ["`run`", "`needs`", "`outputs`", "`sweep`"] {
        assert!(
            ended.stderr.contains(&format!("did you mean {word}?")),
            "{word}: {}",
            ended.stderr
        );
    }
}

#[test]
fn hostile_files_end_soon_in_little_memory() {
    let place = Place::new();
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let before = format!("*a{}", level - 1);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![before; 10].join(", ")));
    }
    let aliases = format!("a: &a [x]\nb: [{}]", "*a,".repeat(100_000));
    let keys = "steps: {a: {run: x}}\nname: a\nname: b\n".to_owned();
    let deep_block: String =
        (0..10_000).map(|depth| format!("{}a:\n", " ".repeat(depth % 400))).collect();
    for (name, text) in [
        ("bomb", bomb),
        ("aliases", aliases),
        ("duplicate", keys),
        ("deep", "[".repeat(10_000)),
        ("deep-flow", format!("steps: {}", "{a: ".repeat(10_000))),
        ("deep-block", deep_block),
        ("huge", "# a comment\n".repeat(9_000_000)),
        ("null", "\0".repeat(1000)),
        ("control", "name: \u{1}\u{7}".to_owned()),
        ("long-line", format!("name: {}", "x".repeat(900_000))),
    ] {
        place.write("jupyterflow.yaml", &text);
        let mut command = place.command("/bin/sh");
        let program = env!("CARGO_BIN_EXE_jupyterflow");
        // Address space, in KiB: the parser's stack and the program's own pages are within it; and seconds of a
        // processor.
        command.args(["-c", &format!("ulimit -v 400000; ulimit -t 15; exec {program} validate")]);
        let ended = Ended::from(command.output().unwrap()).expect(2);
        assert!(ended.stderr.contains("error: "), "{name}: {}", ended.stderr);
        assert!(ended.stderr.len() < 100_000, "{name}: {} bytes of talk", ended.stderr.len());
    }
}

#[test]
fn ten_thousand_points_are_too_many_unless_asked_for() {
    let place = Place::new();
    let axis: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let axis = axis.join(", ");
    place.write(
        "jupyterflow.yaml",
        &format!("steps: {{a: {{run: 'true', sweep: {{x: [{axis}], y: [{axis}]}}}}}}"),
    );
    place.run(&["validate"]).expect(2).says("10000 points, more than 100").says("--max-points");
    place.run(&["validate", "--max-points", "10000"]).expect(0);
}

#[test]
fn paths_do_not_leave_the_source() {
    let place = Place::new();
    std::fs::write(place.beside("secret.ipynb"), "{}").unwrap();
    place.write("jupyterflow.yaml", "steps: {a: {notebook: ../secret.ipynb}}");
    place.run(&["validate"]).expect(2).says("leaves the source");
    std::os::unix::fs::symlink(place.beside("secret.ipynb"), place.path("link.ipynb")).unwrap();
    place.write("jupyterflow.yaml", "steps: {a: {notebook: link.ipynb}}");
    place.run(&["validate"]).expect(2).says("symbolic link out of the source");
    place.run(&["up", "--once"]).expect(2);
    assert!(place.runs().is_empty());
}

/// A manifest that is a file is read with the pipeline, and needs a cluster: here nothing is begun.
#[test]
fn a_resource_step_is_checked_and_left_to_a_cluster() {
    let place = Place::new();
    let yaml =
        "name: p\nparams: {n: 1}\nsteps:\n  a: {run: x}\n  b: {resource: {manifest: job.yaml}}\n";
    place.write("jupyterflow.yaml", yaml);
    place.run(&["validate"]).expect(2).says("manifest job.yaml: it is not there");
    for (text, words) in [
        ("kind: [", "manifest job.yaml: 1:7: "),
        (
            "apiVersion: batch/v1",
            "manifest job.yaml: it is no Kubernetes object: `kind` is missing",
        ),
        ("{apiVersion: v1, kind: Pod, spec: '{{ params.m }}'}", "`params.m`: no such parameter"),
        (
            "{apiVersion: v1, kind: Pod, spec: '{{ steps.a.outputs.x }}'}",
            "step `a` does not come before it; add `needs: a`",
        ),
        ("{apiVersion: v1, kind: Pod, image: '{{ params.n }}'}", "decided before the run"),
    ] {
        place.write("job.yaml", text);
        place.run(&["validate"]).expect(2).says(words);
    }
    place.write(
        "job.yaml",
        "apiVersion: batch/v1\nkind: Job\nspec: {parallelism: '{{ params.n }}'}\n",
    );
    place.run(&["validate"]).expect(0);
    let plan = place.run(&["plan"]).expect(0);
    plan.says("step `b` is a resource: it needs the argo engine");
    let refused = place.run(&["run"]).expect(2);
    refused.says("step `b` is a resource, which needs the argo engine");
    assert!(place.runs().is_empty());
}

/// What the schema refuses in an independent validator, we refuse; the examples pass both.
#[test]
fn the_schema_and_the_program_agree() {
    let place = Place::new();
    let schema = place.run(&["generate", "schema"]).expect(0);
    place.write("schema.json", &schema.stdout);
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let mut cases: Vec<(String, String)> = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let file = entry.path().join("jupyterflow.yaml");
        if let Ok(text) = std::fs::read_to_string(&file) {
            cases.push((file.display().to_string(), text));
        }
    }
    assert!(cases.len() >= 5);
    let design = include_str!("../fixtures/design.yaml");
    cases.push(("design".into(), design.into()));
    let base = "steps:\n  a: {run: x}\n";
    for extra in [
        "name: 5",
        "name: Bad",
        "version: 2",
        "triggers: never",
        "triggers: {change: 1}",
        "history: 3",
        "triggers: {schedule: {cron: 3}}",
        "triggers: {stale: {}}",
        "triggers: {stale: {maxAge: 5}}",
        "triggers: {check: {every: 5m}}",
        "concurrency: maybe",
        "params: [1]",
        "timeout: soon",
        "retries: many",
        "retries: 1.5",
        "env: {A: [1]}",
        "secrets: {A: b}",
        "inputs: {a: b}",
        "deploy: {p: {}}",
        "unknown: 1",
        "history: {successful: -1}",
        "flow: a.ipynb",
        "resources: {cpu: lots}",
        "resources: {memory: 4 gigs}",
        "resources: {gpu: 0.5}",
        "description: [x]",
        "kernel: 3",
        "requirements: [a]",
        "tolerations: x",
        "nodeSelector: [x]",
    ] {
        cases.push((extra.to_owned(), format!("{extra}\n{base}")));
    }
    for step in [
        "{}",
        "{run: x, notebook: y.ipynb}",
        "{run: [x]}",
        "{run: x, needs: 3}",
        "{run: x, sweep: 1}",
        "{run: x, sweep: {a: 1}}",
        "{run: x, sweep: {a: [1]}, best: {metric: m}}",
        "{run: ''}",
        "{run: x, sweep: {a: [1]}, best: {metric: m, goal: most}}",
        "{run: x, outputs: [y]}",
        "{run: x, metrics: [y]}",
        "{run: x, timeout: 3}",
        "{resource: {}}",
        "{run: x, color: red}",
    ] {
        cases.push((step.to_owned(), format!("steps:\n  a: {step}\n")));
    }
    // The validator reads JSON, so that no YAML library stands between.
    let documents: Vec<Value> = cases
        .iter()
        .map(|(_, text)| {
            let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(
                text,
                serde_saphyr::options! { strict_booleans: true },
            )
            .unwrap();
            Value::Array(documents)
        })
        .collect();
    place.write("documents.json", &serde_json::to_string(&documents).unwrap());
    let script = "
import json, jsonschema
schema = json.load(open('schema.json'))
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
cases = json.load(open('documents.json'))
print(json.dumps([all(validator.is_valid(one) for one in case) for case in cases]))";
    let verdicts: Vec<bool> = serde_json::from_str(&place.python(script, &[])).unwrap();
    assert_eq!(verdicts.iter().filter(|valid| !**valid).count(), 44, "refused by the schema");
    for ((name, text), valid) in cases.iter().zip(verdicts) {
        if valid {
            assert!(name.contains('/') || name == "design", "{name} is valid for the schema");
            continue;
        }
        place.write("case/jupyterflow.yaml", text);
        let ended = place.run(&["validate", "case"]);
        assert_eq!(ended.code, 2, "the schema refuses {name}, we do not: {}", ended.stdout);
    }
}

#[test]
fn every_document_fits_its_schema() {
    let place = Place::of_example("original");
    place.write(
        "jupyterflow.yaml",
        "triggers: {change: {}, schedule: '@daily'}\nsteps: {a: {run: 'true'}}",
    );
    let plan = place.document(&["plan"]);
    let run = place.document(&["run", "."]);
    let mut documents = vec![
        ("Plan", plan),
        ("Status", place.document(&["status"])),
        ("Problems", place.document(&["validate"])),
        ("Explanation", place.document(&["explain", run["name"].as_str().unwrap()])),
        ("Run", run),
    ];
    place.notebook("n.ipynb", &["#tag parameters\na = 1"]);
    documents.push(("Notebook", place.document(&["notebook", "digest", "n.ipynb"])));
    for (kind, document) in documents {
        let schema = place.run(&["generate", "schema", "--for", kind]).expect(0).json();
        assert_eq!(document["kind"], kind);
        let validator = jsonschema::validator_for(&schema).unwrap();
        let errors: Vec<String> = validator.iter_errors(&document).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{kind}: {errors:?}");
        let first: Vec<&String> = document.as_object().unwrap().keys().take(2).collect();
        assert_eq!(first, ["apiVersion", "kind"]);
    }
}
