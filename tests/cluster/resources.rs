//! Custom resources on a real API server: what it takes, what it refuses and why, and what people see.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::Ended;
use crate::user::{User, apply, fed, kubectl};

/// A namespace on a cluster that knows the custom resources.
struct Namespace(String);

impl Namespace {
    fn new(test: &str) -> Self {
        User::define();
        let name = format!("{test}-{}", std::process::id());
        apply(&[json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})]);
        Self(name)
    }

    fn kubectl(&self, args: &[&str]) -> Ended {
        let mut all = vec!["-n", &self.0];
        all.extend(args);
        kubectl(&all).output().unwrap().into()
    }

    /// Writes an object by a verb of kubectl, as it stands.
    fn write(&self, verb: &[&str], kind: &str, name: &str, object: &Value) -> Ended {
        let mut whole = json!({
            "apiVersion": "jupyterflow.io/v1alpha1", "kind": kind, "metadata": {"name": name},
        });
        whole.as_object_mut().unwrap().extend(object.as_object().unwrap().clone());
        let mut all = vec!["-n", &self.0];
        all.extend(verb);
        all.extend(["-f", "-"]);
        fed(&all, &whole.to_string())
    }

    fn apply(&self, kind: &str, name: &str, spec: &Value) -> Ended {
        self.write(&["apply", "--server-side"], kind, name, &json!({"spec": spec}))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let args = ["delete", "--wait=false", "namespace", &self.0];
        let _ = kubectl(&args).stdout(Stdio::null()).status();
    }
}

fn run() -> Value {
    json!({
        "pipeline": "churn-0123abcd",
        "identity": format!("sha256:{}", "0".repeat(64)),
        "trigger": {"kind": "schedule", "key": "2026-11-22T03:00:00Z", "scheduledAt": "2026-11-22T03:00:00Z"},
    })
}

#[test]
fn an_api_server_refuses_what_makes_no_sense() {
    let space = Namespace::new("refuses");
    let folder = json!({"path": "/homes"});
    let good = [
        (
            "NotebookSource",
            json!({"directory": folder, "poll": "10s", "limits": {"activeRuns": 3}}),
        ),
        ("NotebookSource", json!({"git": {"url": "https://git.example/a", "branches": "r-*"}})),
        (
            "NotebookPipeline",
            json!({"flow": "a.ipynb >> b.ipynb", "triggers": {"schedule": "@daily"}}),
        ),
        ("NotebookPipeline", json!({"steps": {"a": {"run": "x", "sweep": {"n": [1, 2.5, null]}}}})),
        ("NotebookRun", run()),
    ];
    for (number, (kind, spec)) in good.iter().enumerate() {
        space.apply(kind, &format!("good-{number}"), spec).expect(0);
        // Nothing that was said is dropped.
        let kept = space.kubectl(&["get", kind, &format!("good-{number}"), "-o", "json"]).json();
        for (key, value) in spec.as_object().unwrap().iter().filter(|(key, _)| *key != "git") {
            assert_eq!(&kept["spec"][key], value, "{kind} {key}");
        }
    }
    let mut endless = run();
    endless["pipeline"] = "x".repeat(64).into();
    let bad = [
        ("NotebookSource", json!({}), "exactly one of `directory` and `git`"),
        ("NotebookSource", json!({"directory": folder, "git": {"url": "u"}}), "exactly one of"),
        (
            "NotebookSource",
            json!({"git": {"url": "u", "branch": "a", "tag": "b"}}),
            "at most one is given",
        ),
        ("NotebookSource", json!({"git": {"branch": "a"}}), "url: Required value"),
        (
            "NotebookSource",
            json!({"directory": folder, "firstSight": "maybe"}),
            "Unsupported value",
        ),
        ("NotebookSource", json!({"directory": folder, "polls": "1s"}), "unknown field"),
        ("NotebookPipeline", json!({"params": {}}), "exactly one of `steps` and `flow`"),
        (
            "NotebookPipeline",
            json!({"steps": {}, "flow": "a"}),
            "exactly one of `steps` and `flow`",
        ),
        ("NotebookRun", json!({"pipeline": "p"}), "Required value"),
        ("NotebookRun", endless, "Too long"),
        ("ClusterNotebookSource", json!({"directory": folder, "tenants": []}), "for whom it acts"),
    ];
    for (number, (kind, spec, words)) in bad.iter().enumerate() {
        let verb = ["create", "--validate=strict"];
        let ended = space.write(&verb, kind, &format!("bad-{number}"), &json!({"spec": spec}));
        ended.expect(1).says(words);
    }
}

#[test]
fn what_a_run_is_never_changes_but_it_can_be_stopped() {
    let space = Namespace::new("runs");
    space.apply("NotebookRun", "one", &run()).expect(0);
    for (key, value) in [
        ("pipeline", json!("other")),
        ("identity", json!(format!("sha256:{}", "1".repeat(64)))),
        ("trigger", json!({"kind": "manual", "key": "k"})),
    ] {
        let patch = json!({"spec": {key: value}}).to_string();
        let args = ["patch", "nbr", "one", "--type=merge", "-p", &patch];
        space.kubectl(&args).expect(1).says("what a run is never changes");
    }
    let stop = |is: bool| json!({"spec": {"stop": is}}).to_string();
    space.kubectl(&["patch", "nbr", "one", "--type=merge", "-p", &stop(true)]).expect(0);
    let back = space.kubectl(&["patch", "nbr", "one", "--type=merge", "-p", &stop(false)]);
    back.expect(1).says("a stop is not withdrawn");
    let found = space.kubectl(&["get", "nbr", "--field-selector=spec.pipeline=churn-0123abcd"]);
    assert!(found.expect(0).stdout.contains("one"));
}

#[test]
fn people_see_runs_and_pipelines_and_cursors_are_written_against_a_version() {
    let space = Namespace::new("columns");
    space.apply("NotebookPipeline", "churn-0123abcd", &json!({"flow": "a.ipynb"})).expect(0);
    space.apply("NotebookRun", "churn-1", &run()).expect(0);
    let read = space.kubectl(&["get", "nbp", "churn-0123abcd", "-o", "json"]).json();
    let version = read["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let status = json!({
        "trigger": "change, 0 3 * * mon", "lastRun": "churn-1", "nextRun": "2126-11-29T03:00:00Z",
        "cursors": {"change": {"generation": 7}}, "active": {"churn-1": "uid"},
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "Good", "message": "",
            "lastTransitionTime": "2026-11-22T03:00:00Z",
        }],
    });
    let whole = json!({
        "metadata": {"name": "churn-0123abcd", "resourceVersion": version},
        "spec": {"flow": "a.ipynb"}, "status": status,
    });
    let replace = ["replace", "--subresource=status"];
    space.write(&replace, "NotebookPipeline", "churn-0123abcd", &whole).expect(0);
    // Whoever planned from the same version comes too late.
    let late = space.write(&replace, "NotebookPipeline", "churn-0123abcd", &whole);
    late.expect(1).says("the object has been modified");
    let pipelines = space.kubectl(&["get", "nbp"]).expect(0).stdout;
    for word in ["TRIGGER", "LAST RUN", "NEXT RUN", "READY", "0 3 * * mon", "churn-1", "True"] {
        assert!(pipelines.contains(word), "{word}: {pipelines}");
    }
    // A write of the spec touches no cursor, and the other way about.
    space.apply("NotebookPipeline", "churn-0123abcd", &json!({"flow": "b.ipynb"})).expect(0);
    let kept = space.kubectl(&["get", "nbp", "churn-0123abcd", "-o", "json"]).json();
    assert_eq!(kept["status"]["cursors"]["change"]["generation"], 7);
    let ended = json!({"status": {"phase": "Succeeded", "finishedAt": "2026-11-22T03:10:00Z"}});
    let patch = ended.to_string();
    let args = ["patch", "nbr", "churn-1", "--subresource=status", "--type=merge", "-p", &patch];
    space.kubectl(&args).expect(0);
    let runs = space.kubectl(&["get", "nbr"]).expect(0).stdout;
    for word in ["PIPELINE", "PHASE", "schedule", "Succeeded", "FINISHED"] {
        assert!(runs.contains(word), "{word}: {runs}");
    }
}
