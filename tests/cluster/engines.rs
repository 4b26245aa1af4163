//! One file, any engine: the same pipelines give the same documents on one machine and on a cluster.

use std::path::Path;

use serde_json::Value;

use crate::support::{Place, phases, step};
use crate::user::User;

/// A document without what differs from one run to the next.
fn comparable(mut run: Value, root: &str) -> Value {
    let name = run["name"].as_str().unwrap().to_owned();
    let taken = ["id", "name", "createdAt", "startedAt", "finishedAt"];
    let object = run.as_object_mut().unwrap();
    for key in taken {
        object.shift_remove(key);
    }
    object["trigger"].as_object_mut().unwrap().remove("key");
    for step in run["steps"].as_array_mut().unwrap() {
        let step = step.as_object_mut().unwrap();
        for key in taken.iter().filter(|key| **key != "name") {
            step.shift_remove(*key);
        }
        for artifact in step["artifacts"].as_array_mut().unwrap() {
            // Tables and models hold the versions and the times of what wrote them.
            let path = artifact["path"].as_str().unwrap();
            if path.ends_with(".parquet") || path.ends_with(".joblib") {
                let artifact = artifact.as_object_mut().unwrap();
                artifact.remove("digest");
                artifact.remove("bytes");
            }
        }
    }
    let text = run.to_string().replace(&name, "RUN").replace(root, "ROOT");
    serde_json::from_str(&text).unwrap()
}

#[track_caller]
fn same(what: &str, local: Value, cluster: Value) {
    let lines = |value: &Value| serde_json::to_string_pretty(value).unwrap();
    let (local, cluster) = (lines(&local), lines(&cluster));
    let differ: Vec<(&str, &str)> =
        local.lines().zip(cluster.lines()).filter(|(one, other)| one != other).take(8).collect();
    assert!(local == cluster, "{what}: one machine, and a cluster: {differ:#?}");
}

/// Runs a pipeline of a place here and in the user's pod, and compares what came of it.
fn compare(user: &User, place: &Place, folder: &str, args: &[&str]) -> Value {
    let root = place.path("").canonicalize().unwrap();
    let mut all = vec!["run", "--engine", "local", "--output", "json"];
    all.extend(args);
    // One at a time: so many kernels at once, beside the cluster's, may take longer to start than a kernel may.
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let local = {
        let _alone = ALONE.lock();
        place.run(&all)
    };
    let words = args.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let line = format!("jupyterflow run --engine argo --output json {words}");
    let cluster = user.types(folder, &line).expect(local.code).json();
    let what = format!("{folder} {words}");
    let local = comparable(local.json(), root.to_str().unwrap());
    let mut there = comparable(cluster.clone(), &format!("/home/jovyan/{folder}"));
    if folder == LATE {
        // Its text is another, by its time limit.
        there["revision"] = local["revision"].clone();
    }
    same(&what, local, there);
    // What lies beside the pipeline file says the same.
    let results = format!("{folder}/jupyterflow-runs/{}", cluster["name"].as_str().unwrap());
    let written = std::fs::read_to_string(user.path(&format!("{results}/run.json"))).unwrap();
    let written: Value = serde_json::from_str(&written).unwrap();
    let shown = [&written, &cluster].map(phases);
    assert_eq!(shown[0], shown[1], "{what}: run.json");
    cluster
}

#[test]
fn the_examples_give_the_same_on_one_machine_and_on_a_cluster() {
    let user = User::new("examples");
    let examples: [(&str, &[&str]); 8] = [
        ("digits", &[]),
        ("churn", &[]),
        ("forecast", &["--pipeline", "forecast"]),
        ("forecast", &["--pipeline", "backtest"]),
        ("sales-report", &["-p", "region", "north"]),
        ("short-form", &[]),
        ("original", &["-f", "workflow.yaml"]),
        ("warehouse", &[]),
    ];
    for (number, (example, _)) in examples.iter().enumerate() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(example);
        let folder_there = format!("{example}-{number}");
        user.copy(&folder, &folder_there);
        // Of processors the node has hardly more than one such step asks for.
        let file = user.path(&folder_there).join("jupyterflow.yaml");
        if let Ok(text) = std::fs::read_to_string(&file) {
            std::fs::write(
                &file,
                text.replace("{cpu: 2, memory: 4Gi}", "{cpu: 100m, memory: 1Gi}"),
            )
            .unwrap();
        }
    }
    std::thread::scope(|scope| {
        for (number, (example, args)) in examples.iter().enumerate() {
            let user = &user;
            scope.spawn(move || {
                let mut place = Place::of_example(example);
                let secrets = place.beside("secrets");
                let password = secrets.join("warehouse/password");
                std::fs::create_dir_all(password.parent().unwrap()).unwrap();
                std::fs::write(&password, "hunter2").unwrap();
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
                std::fs::set_permissions(&password, mode).unwrap();
                place.env("JUPYTERFLOW_SECRETS", &secrets);
                compare(user, &place, &format!("{example}-{number}"), args);
            });
        }
    });
}

/// Pipelines of all that a file can say and the examples do not.
const ALL: &str = r#"
name: values
params: {text: "it's \"{{ '{{' }}workflow.name}}\"", number: 1.5, list: [1, {a: null}], big: 9007199254740993}
env: {GREETING: "hello {{ params.number }}"}
steps:
  give:
    run: |
      printf 'flag=true\nnothing=null\ntext={{ '{{' }}=1}}\nlist=[1, 2.50]\n' >"$JUPYTERFLOW_OUTPUTS"
      printf '%s\n' {{ params.text }} "$GREETING" "$BRACES" >"$JUPYTERFLOW_OUTPUT_DIR/said.txt"
    env: {BRACES: "{{ '{{' }}workflow.name}}"}
    outputs: {said: said.txt}
  take:
    run: |
      echo "seen={{ steps.give.outputs.text }} {{ steps.give.outputs.list }}" >>"$JUPYTERFLOW_OUTPUTS"
      echo "said=$(head -1 {{ steps.give.outputs.said }})" >>"$JUPYTERFLOW_OUTPUTS"
      echo "bytes={{ steps.give.outputs.said.bytes }}" >>"$JUPYTERFLOW_OUTPUTS"
      echo "trigger={{ run.trigger }}" >>"$JUPYTERFLOW_OUTPUTS"
    needs: give
  far:
    run: echo "flag={{ steps.give.outputs.flag }}" >"$JUPYTERFLOW_OUTPUTS"
    needs: take
---
name: failures
steps:
  flaky:
    run: |
      mkdir -p state && [ -e state/flaky ] || { touch state/flaky; echo first; exit 7; }
      echo tried=2 >"$JUPYTERFLOW_OUTPUTS"
    retries: 2
  "never_there": {run: exit 3}
  behind: {run: "true", needs: never_there}
  beside: {run: "echo ok", needs: flaky}
  flaky-attempt: {run: "true"}
  01_first: {run: "true"}
  slow: {run: sleep 60, timeout: 1s}
  forgetful: {run: "true", outputs: {file: nowhere.txt}}
---
name: late
timeout: 5s
steps:
  slow: {run: sleep 900}
  never: {run: "true", needs: slow}
---
name: sweeps
steps:
  all:
    run: echo "value=$((10 * {{ params.n }}))" >"$JUPYTERFLOW_OUTPUTS"
    sweep: {n: [1, 2, 3]}
  allowed:
    run: |
      [ {{ params.n }} != 2 ] || exit 1
      echo "score={{ params.n }}" >"$JUPYTERFLOW_OUTPUTS"
    sweep: {n: [1, 2, 3]}
    best: {metric: score, goal: max, allowFailed: 1}
  unfit:
    run: echo "score=1" >"$JUPYTERFLOW_OUTPUTS"
    sweep: {n: [1, 2]}
    best: {metric: other, goal: max}
  takes:
    run: 'echo "got={{ steps.all.outputs.value }} {{ steps.allowed.metrics.score }}" >"$JUPYTERFLOW_OUTPUTS"'
    needs: [all, allowed]
  never: {run: "true", needs: unfit}
  waits: {run: "true", needs: all}
  far: {run: 'echo "best={{ steps.allowed.metrics.score }}" >"$JUPYTERFLOW_OUTPUTS"', needs: takes}
"#;

/// The folder of the pipeline that has too little time.
const LATE: &str = "project-late";

#[test]
fn values_failures_and_sweeps_are_the_same_on_both_engines() {
    let user = User::new("features");
    let run = |pipeline: &'static str| {
        let place = Place::new();
        place.write("jupyterflow.yaml", ALL);
        let folder = format!("project-{pipeline}");
        // On a cluster the limit counts from the release, and a pod may take most of a minute to begin.
        let there = ALL.replace("timeout: 5s", "timeout: 200s");
        let there = if folder == LATE { &there } else { ALL };
        user.write(&format!("{folder}/jupyterflow.yaml"), there);
        (place, folder)
    };
    let [values, failures, sweeps, late] = ["values", "failures", "sweeps", "late"].map(run);
    std::thread::scope(|scope| {
        let user = &user;
        scope.spawn(move || {
            let run = compare(user, &values.0, &values.1, &["--pipeline", "values"]);
            assert_eq!(step(&run, "take")["outputs"]["said"], "it's \"{{workflow.name}}\"");
        });
        scope.spawn(move || {
            let run = compare(user, &failures.0, &failures.1, &["--pipeline", "failures"]);
            assert_eq!(step(&run, "flaky")["attempt"], 2);
            assert_eq!(step(&run, "behind")["phase"], "Skipped");
        });
        scope.spawn(move || {
            let run = compare(user, &late.0, &late.1, &["--pipeline", "late"]);
            assert_eq!(phases(&run), ["slow Stopped", "never Skipped"]);
        });
        scope.spawn(move || {
            let run = compare(user, &sweeps.0, &sweeps.1, &["--pipeline", "sweeps"]);
            assert_eq!(step(&run, "takes")["outputs"]["got"], "[10,20,30] 3");
            assert_eq!(step(&run, "never")["phase"], "Skipped");
        });
    });
}
