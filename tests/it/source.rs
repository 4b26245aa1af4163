//! What counts as a change, what is unknown rather than gone, and what stays in force meanwhile.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Place, marked, processes_with, run, step, wait_for};

fn reasons(plan: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let not_done = plan["notDone"].as_array().unwrap();
    not_done.iter().map(|one| (text(&one["reason"]), text(&one["message"]))).collect()
}

#[test]
fn a_notebook_that_a_command_runs_in_place_does_not_run_for_ever() {
    let place = Place::new();
    place.notebook("in.ipynb", &["import random; random.random()"]);
    place.write(
        "jupyterflow.yaml",
        "steps: {a: {run: papermill in.ipynb out.ipynb --no-progress-bar, outputs: {out: out.ipynb}}}",
    );
    place.run(&["up", "--once"]).expect(0);
    place.run(&["plan", "--check"]).expect(0);
    place.write("jupyterflow.yaml", "steps: {a: {run: jupyter execute --inplace in.ipynb}}");
    place.run(&["up", "--once"]).expect(0);
    place.run(&["plan", "--check"]).expect(0);
    place.notebook("in.ipynb", &["1"]);
    place.run(&["plan", "--check"]).expect(3).says("script in.ipynb changed");
}

#[test]
fn what_cannot_be_read_is_unknown_and_starts_nothing() {
    let place = Place::new();
    place.write("a.py", "print(1)").write("data/x", "1");
    place.write("jupyterflow.yaml", "inputs: [data/**]\nsteps: {a: {run: python3 a.py}}");
    place.run(&["up", "--once"]).expect(0);
    // A link that leads in a circle can be neither read nor said to be gone.
    std::fs::remove_file(place.path("a.py")).unwrap();
    std::os::unix::fs::symlink("a.py", place.path("a.py")).unwrap();
    let plan = place.document(&["plan"]);
    assert_eq!(reasons(&plan)[0].0, "SourceUnreadable", "{plan}");
    place.run(&["up", "--once"]).expect(4);
    assert_eq!(place.runs().len(), 1);
    std::fs::remove_file(place.path("a.py")).unwrap();
    place.write("a.py", "print(1)");
    place.run(&["plan", "--check"]).expect(0);
    // A link inside of the source counts as what it leads to.
    place.write("elsewhere.csv", "1");
    std::os::unix::fs::symlink("../elsewhere.csv", place.path("data/link.csv")).unwrap();
    place.run(&["plan", "--check"]).expect(3).says("input data/link.csv appeared");
    place.run(&["up", "--once"]).expect(0);
    place.write("elsewhere.csv", "2");
    place.run(&["plan", "--check"]).expect(3).says("input data/link.csv changed");
}

#[test]
fn a_file_that_is_being_saved_leaves_the_last_good_version_in_force() {
    let place = Place::new();
    let yaml = "steps: {a: {run: echo a}}\ntriggers: {change: {}, schedule: '0 3 * * *'}\n";
    place.write("jupyterflow.yaml", yaml);
    place.run(&["up", "--once"]).expect(0);
    // Jupyter's save: the old version beside, the new one half written, and it parses.
    place
        .write(".~jupyterflow.yaml", yaml)
        .write("jupyterflow.yaml", "steps: {a: {run: echo a}}\n");
    let plan = place.document(&["plan"]);
    assert_eq!(plan["actions"], json!([]), "{plan}");
    assert!(reasons(&plan)[0].1.contains("a save is under way"), "{plan}");
    place.run(&["up", "--once"]).expect(4);
    std::fs::remove_file(place.path(".~jupyterflow.yaml")).unwrap();
    place.write("jupyterflow.yaml", yaml);
    place.run(&["plan", "--check"]).expect(0);
}

#[test]
fn a_nested_state_touches_no_ledger_above() {
    let place = Place::new();
    place.write("b/jupyterflow.yaml", "steps: {a: {run: echo a}}");
    place.run(&["up", "--once"]).expect(0);
    std::fs::create_dir(place.path("b/.jupyterflow")).unwrap();
    for _ in 0..3 {
        place.run(&["up", "--once"]).expect(0).says("ManagedElsewhere");
    }
    std::fs::remove_dir(place.path("b/.jupyterflow")).unwrap();
    place.run(&["plan", "--check"]).expect(0).says("nothing changed since run b-");
}

#[test]
fn a_pipeline_that_is_gone_does_not_keep_up_busy() {
    let place = Place::new();
    place.write(
        "x/jupyterflow.yaml",
        "triggers: {schedule: '* * * * *'}\nsteps: {a: {run: echo a}}",
    );
    place.run(&["up", "--once"]).expect(0);
    std::fs::remove_file(place.path("x/jupyterflow.yaml")).unwrap();
    // A cursor whose next tick is past, and nobody who answers it.
    let script = "import json, sqlite3
c = sqlite3.connect('.jupyterflow/state.db')
ledger = json.loads(c.execute('select ledger from pipelines').fetchone()[0])
ledger['schedules'][0]['next'] = '2026-01-01T00:00:00Z'
c.execute('update pipelines set ledger = ?', (json.dumps(ledger),)); c.commit()";
    place.python(script, &[]);
    let mut up = place.spawn(&["up", "--poll", "1h", "-v"]);
    wait_for("the first pass", || up.log().contains("Orphaned"));
    let settled = std::time::Instant::now() + std::time::Duration::from_secs(3);
    wait_for("some seconds", || std::time::Instant::now() > settled);
    up.signal(Signal::TERM);
    up.end();
    let looks = up.log().matches("looked").count();
    assert!(looks <= 3, "{looks} passes in three seconds");
}

#[test]
fn ticks_of_a_suspension_are_skipped_for_good() {
    let place = Place::new();
    place.write("jupyterflow.yaml", "triggers: {schedule: '0 0 1 * *'}\nsteps: {a: {run: echo a}}");
    place.run(&["up", "--once"]).expect(0);
    place.run(&["suspend", "main"]).expect(0);
    let script = "import json, sqlite3
c = sqlite3.connect('.jupyterflow/state.db')
ledger = json.loads(c.execute('select ledger from pipelines').fetchone()[0])
for key, day in (('effective', '2026-10-15'), ('answered', '2026-10-15'), ('next', '2026-11-01')):
    ledger['schedules'][0][key] = day + 'T00:00:00Z'
c.execute('update pipelines set ledger = ?', (json.dumps(ledger),)); c.commit()";
    place.python(script, &[]);
    place.run(&["resume", "main"]).expect(0);
    place.run(&["up", "--once"]).expect(0);
    assert!(place.runs().is_empty(), "a tick of the suspension ran");
}

#[test]
fn parameters_see_the_step_and_the_point() {
    let place = Place::new();
    place.notebook(
        "n.ipynb",
        &["#tag parameters\ntag = ''\nk = 0\nbase = ''", "print('<' + tag + '>')"],
    );
    let run = run(
        &place,
        "params: {k: 9}\nsteps:\n  a:\n    notebook: n.ipynb\n    sweep: {k: [1, 2]}\n    \
         params: {base: m, tag: '{{ params.base }}-{{ params.k }}'}\n",
    );
    assert_eq!(run["phase"], "Succeeded", "{run}");
    let name = run["name"].as_str().unwrap();
    assert_eq!(place.run(&["logs", name, "a[0]"]).stdout, "<m-1>\n");
    assert_eq!(place.run(&["logs", name, "a[1]"]).stdout, "<m-2>\n");
}

#[test]
fn nohup_is_kept() {
    let (place, mark) = marked();
    place.write(
        "jupyterflow.yaml",
        "triggers: []\nsteps: {a: {run: 'touch begun; until test -e go; do sleep 0.05; done'}}",
    );
    let program = env!("CARGO_BIN_EXE_jupyterflow");
    let mut command = place.command("nohup");
    let mut child = command.args([program, "run", ".", "-q"]).spawn().unwrap();
    wait_for("the step to begin", || place.path("begun").exists());
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, Signal::HUP).unwrap();
    place.write("go", "");
    assert!(child.wait().unwrap().success());
    wait_for("all processes to be gone", || processes_with(&mark).is_empty());
}

#[test]
fn a_time_limit_covers_the_making_of_an_environment() {
    let (place, mark) = marked();
    // A package whose build never ends.
    place.write("pkg/pyproject.toml", "[project]\nname = \"slow\"\nversion = \"1\"\n[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n");
    place.write(
        "pkg/backend.py",
        "def build_wheel(*args, **kwargs):\n    import time; time.sleep(600)\n",
    );
    place.write("requirements.txt", "./pkg\n");
    let run = run(&place, "requirements: requirements.txt\nsteps: {a: {run: 'true', timeout: 6s}}");
    let message = step(&run, "a")["message"].as_str().unwrap();
    assert!(message.contains("longer than the timeout"), "{message}");
    wait_for("all processes to be gone", || processes_with(&mark).is_empty());
}

#[test]
fn a_tick_waits_for_a_missing_secret() {
    let place = Place::new();
    place.write(
        "jupyterflow.yaml",
        "triggers: {schedule: '* * * * *'}\nsecrets: {S: {secret: db, key: k}}\nsteps: {a: {run: echo a}}",
    );
    place.run(&["up", "--once"]).expect(0);
    let script = "import json, sqlite3, datetime
c = sqlite3.connect('.jupyterflow/state.db')
ledger = json.loads(c.execute('select ledger from pipelines').fetchone()[0])
now = datetime.datetime.now(datetime.timezone.utc).replace(second=0, microsecond=0)
stamp = lambda minutes: (now - datetime.timedelta(minutes=minutes)).strftime('%Y-%m-%dT%H:%M:%SZ')
ledger['schedules'][0].update(effective=stamp(9), answered=stamp(9), next=stamp(0))
c.execute('update pipelines set ledger = ?', (json.dumps(ledger),)); c.commit()";
    place.python(script, &[]);
    place.run(&["up", "--once"]).expect(0).says("MissingSecret");
    let runs = place.runs();
    assert!(!runs.is_empty() && runs.iter().all(|run| run["phase"] == "Pending"), "{runs:?}");
    place.run(&["plan"]).expect(0).says("MissingSecret");
}

#[test]
fn a_moved_pipeline_keeps_its_cursors() {
    let place = Place::new();
    let folder = |from: &str, to: &str| {
        std::fs::create_dir_all(place.path(to).parent().unwrap()).unwrap();
        std::fs::rename(place.path(from), place.path(to)).unwrap();
    };
    place
        .write("a/jupyterflow.yaml", "steps: {s: {run: python3 s.py}}")
        .write("a/s.py", "print(1)");
    place.run(&["up", "--once"]).expect(0);
    assert_eq!(place.runs().len(), 1);
    // Both names come from the folder, so that a renamed folder is a move.
    folder("a", "team/b");
    place.run(&["plan"]).expect(0).says("moved from a:a: its cursors follow");
    place.run(&["up", "--once"]).expect(0);
    assert_eq!(place.runs().len(), 1, "a move runs nothing");
    place.run(&["plan", "--check"]).expect(0).says("it is team/b:b now");
    // Back again, and then a copy, which is a pipeline of its own.
    folder("team/b", "a");
    place.run(&["up", "--once"]).expect(0);
    assert_eq!(place.runs().len(), 1);
    place.write("copy/jupyterflow.yaml", &place.read("a/jupyterflow.yaml"));
    place.write("copy/s.py", "print(1)");
    place.run(&["up", "--once"]).expect(0);
    assert_eq!(place.runs().len(), 2, "a copy is seen for the first time");
    // Generations go on where they were.
    place.write("a/s.py", "print(2)");
    place.run(&["up", "--once"]).expect(0);
    assert_eq!(place.runs()[0]["trigger"], json!({"kind": "change", "key": "2"}));
}

#[test]
fn kept_results_stay_and_are_checked() {
    let place = Place::new();
    place.write(
        "jupyterflow.yaml",
        "triggers: []\nhistory: {failed: 0}\nsteps:\n  \
         a: {run: 'echo model > $JUPYTERFLOW_OUTPUT_DIR/m; echo rows=3 >> $JUPYTERFLOW_OUTPUTS', outputs: {m: m}}\n  \
         b: {run: 'cat {{ steps.a.outputs.m }}; echo {{ steps.a.metrics.rows }}; test -e good', needs: a}\n",
    );
    let failed = place.document(&["run", "."]);
    let failed = failed["name"].as_str().unwrap();
    place.write("good", "");
    place.run(&["run", "."]).expect(0);
    let kept = place.document(&["retry", failed, "--from", "b"]);
    let kept = kept["name"].as_str().unwrap();
    assert_eq!(place.run(&["logs", kept, "b"]).stdout, "model\n3\n");
    place.run(&["prune"]).expect(0);
    place.run(&["delete", failed]).expect(2).says("a later run keeps");
    place.run(&["retry", kept, "--from", "b"]).expect(0);
    place.write(&format!("jupyterflow-runs/{failed}/a/files/m"), "tampered");
    place.run(&["retry", kept, "--from", "b"]).expect(2).says("MissingOutput");
}

#[test]
fn results_of_a_removed_state_are_set_aside() {
    let place = Place::new();
    place.write("jupyterflow.yaml", "steps: {a: {run: date +%N}}");
    place.run(&["up", "--once"]).expect(0);
    let name = place.runs()[0]["name"].as_str().unwrap().to_owned();
    let log = place.read(&format!("jupyterflow-runs/{name}/a/log"));
    std::fs::remove_dir_all(place.path(".jupyterflow")).unwrap();
    place.run(&["up", "--once"]).expect(0);
    assert_eq!(place.runs()[0]["name"], name, "the same identity has the same name");
    assert_eq!(place.read(&format!("jupyterflow-runs/{name}.earlier-1/a/log")), log);
    assert_eq!(place.read(&format!("jupyterflow-runs/{name}/a/log")).lines().count(), 1);
}

#[test]
fn results_of_a_run_that_is_on_in_another_state_are_left_alone() {
    let place = Place::new();
    place.write(
        "jupyterflow.yaml",
        "steps: {a: {run: 'touch begun; until test -e go; do sleep 0.05; done'}}",
    );
    let mut up = place.spawn(&["up", "--once"]);
    let document = || {
        let name = place.runs()[0]["name"].as_str().unwrap().to_owned();
        place.path(&format!("jupyterflow-runs/{name}/run.json"))
    };
    wait_for("the step to begin", || place.path("begun").exists() && document().exists());
    let other = place.beside("other");
    let other = other.to_str().unwrap();
    place.run(&["up", "--once", "--state", other]).expect(1).says("of another state");
    let theirs = place.document(&["status", "--state", other]);
    assert_eq!(theirs["runs"][0]["reason"], "NameTaken", "{theirs}");
    let name = place.runs()[0]["name"].as_str().unwrap().to_owned();
    let document = place.read_json(&format!("jupyterflow-runs/{name}/run.json"));
    assert_eq!(document["phase"], "Running", "its document is its own");
    place.write("go", "");
    assert_eq!(up.end(), 0, "{}", up.log());
}

#[test]
fn a_script_that_is_empty_all_at_once_succeeds_at_nothing() {
    let place = Place::new();
    place
        .write(
            "jupyterflow.yaml",
            "triggers: []\nsteps: {a: {run: python a.py, inputs: [data.csv]}}",
        )
        .write("a.py", "print(1)")
        .write("data.csv", "1");
    place.run(&["run", "."]).expect(0);
    place.write("a.py", "");
    place.run(&["run", "."]).expect(1).says("a.py is empty, which it was not");
    // Data may well be empty.
    place.write("a.py", "print(2)").write("data.csv", "");
    place.run(&["run", "."]).expect(0);
}
