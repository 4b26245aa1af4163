//! Commands, their documents, where they look for the state, and their exit codes.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Ended, Place, can_mount, processes_with, wait_for};

const ONE: &str = "steps: {a: {run: echo a}}\n";

fn reasons(plan: &Value) -> Vec<String> {
    let not_done = plan["notDone"].as_array().unwrap();
    not_done.iter().map(|one| one["reason"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn plan_changes_nothing_and_check_tells_by_its_exit_code() {
    let place = Place::new();
    place.write("jupyterflow.yaml", ONE);
    let plan = place.document(&["plan"]);
    assert_eq!(
        (&plan["apiVersion"], &plan["kind"]),
        (&json!("jupyterflow.io/v1alpha1"), &json!("Plan"))
    );
    let action = &plan["actions"][0];
    assert_eq!((&action["action"], &action["pipeline"]), (&json!("start"), &json!("main")));
    assert_eq!(action["run"]["trigger"], json!({"kind": "change", "key": "1"}));
    let name = action["run"]["name"].as_str().unwrap().to_owned();
    assert!(name.starts_with("main-") && name.len() == 5 + 16, "{name}");
    assert!(action["run"]["id"].as_str().unwrap().contains(&name[5..]));
    assert!(!place.path(".jupyterflow").exists(), "a plan makes no state");
    place.run(&["plan", "--check"]).expect(3);
    place.run(&["plan"]).expect(0);
    place.run(&["up", "--once"]).expect(0);
    assert_eq!(place.runs()[0]["name"], name, "the planned run is the one that ran");
    place.run(&["plan", "--check"]).expect(0);
    assert_eq!(reasons(&place.document(&["plan"])), ["UpToDate"]);
    assert_eq!(place.run(&["plan", "-o", "name"]).stdout.trim(), "");
}

#[test]
fn a_schedule_is_planned_at_any_instant() {
    let place = Place::new();
    place.write(
        "jupyterflow.yaml",
        "triggers: {schedule: {cron: '0 3 * * *', timezone: Asia/Seoul, missed: all, maxLateness: 2d}}\nsteps: {a: {run: echo a}}\n",
    );
    let first = place.document(&["plan"]);
    assert_eq!(first["actions"][0]["action"], "record", "a first sight of a schedule makes no run");
    place.run(&["up", "--once"]).expect(0);
    assert!(place.runs().is_empty());
    let next = place.document(&["status"])["pipelines"][0]["nextRun"].as_str().unwrap().to_owned();
    let next: jiff::Timestamp = next.parse().unwrap();
    assert_eq!(next.in_tz("Asia/Seoul").unwrap().hour(), 3);
    assert_eq!(reasons(&place.document(&["plan"])), ["UpToDate"]);
    let due = place.document(&["plan", "--at", &next.to_string()]);
    let run = &due["actions"][0]["run"];
    assert_eq!(run["trigger"]["kind"], "schedule");
    assert_eq!(
        run["trigger"]["scheduledAt"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap(),
        next
    );
    let stamp = next.strftime("main-%Y%m%dt%H%Mz-").to_string();
    assert!(run["name"].as_str().unwrap().starts_with(&stamp), "{run}");
    // Four days later two ticks are within `maxLateness`, two are not.
    let later = next.checked_add(jiff::SignedDuration::from_hours(73)).unwrap();
    let late = place.document(&["plan", "--at", &later.to_string()]);
    let starts = late["actions"].as_array().unwrap().iter().filter(|a| a["run"].is_object());
    assert_eq!(starts.count(), 2, "{late}");
    assert!(reasons(&late).contains(&"TooLate".to_owned()), "{late}");
    // A clock that was set back fires nothing.
    place.run(&["plan", "--check", "--at", "2020-01-01T00:00:00Z"]).expect(0);
    place.run(&["plan", "--at", "soon"]).expect(2).says("RFC 3339");
}

#[test]
fn exit_codes_are_those_of_the_documentation() {
    let place = Place::new();
    place.run(&["plan"]).expect(0);
    place.run(&["no-such-command"]).expect(2);
    place.run(&["plan", "no/such/folder"]).expect(2);
    place.run(&["run", "nothing.ipynb"]).expect(2).says("there is no file nothing.ipynb");
    place.run(&["show", "nothing"]).expect(2);
    place.run(&["explain", "nothing"]).expect(2).says("there is no pipeline");
    place.run(&["config"]).expect(2).says("config");
    place.run(&["run", "-c", "echo", "--dry-run"]).expect(2).says("jupyterflow plan");
    place.run(&["run", "-c", "exit 1"]).expect(1);
    place.write("good/jupyterflow.yaml", ONE);
    place.write("bad/jupyterflow.yaml", "steps: 1\n");
    // An invalid file stops no other pipeline, and is what the exit code tells.
    place.run(&["up", "--once"]).expect(2).says("good");
    assert_eq!(place.runs()[0]["phase"], "Succeeded");
    place.run(&["plan", "--check"]).expect(2);
    place.run(&["up", "--engine", "argo"]).expect(2).says("a Jupyter server's home");
    place.run(&["up", "git://git.example/x.git"]).expect(2).says("only https, http, ssh and file");
    place.run(&["up", "--config", "x"]).expect(2).says("failed to read x");
    place.write("sources.yaml", "kind: Pod").run(&["up", "--config", "sources.yaml"]).expect(2);
    place.run(&["up", "--once", "--listen", "127.0.0.1:0"]).expect(2).says("--listen");
}

#[test]
fn the_state_is_found_upwards_and_serves_one_root() {
    let place = Place::new();
    place.write("team/a/jupyterflow.yaml", ONE);
    place.write("team/b/jupyterflow.yaml", ONE);
    place.run(&["up", "--once", "team"]).expect(0);
    assert!(place.path("team/.jupyterflow/state.db").exists());
    // From a folder below, the same ledger.
    let ended = place.run(&["run", "team/a"]).expect(0);
    assert!(!place.path("team/a/.jupyterflow").exists(), "{}", ended.stderr);
    let status = place.document(&["status", "team/b"]);
    assert_eq!(status["pipelines"].as_array().unwrap().len(), 1, "only what lies below");
    assert_eq!(status["runs"].as_array().unwrap().len(), 3);
    place.run(&["explain", "a", "--path", "team"]).expect(0).says("a:a: no run is wanted");
    // A nested state is another's.
    place.write("jupyterflow.yaml", ONE);
    let plan = place.document(&["plan"]);
    assert!(reasons(&plan).contains(&"ManagedElsewhere".to_owned()), "{plan}");
    // Elsewhere, by name; it remembers its root.
    let state = place.beside("state");
    let state = state.to_str().unwrap();
    place.run(&["up", "--once", "--state", state]).expect(0);
    assert!(!place.path(".jupyterflow").exists());
    place.write("../other/jupyterflow.yaml", ONE);
    place.run(&["plan", "../other", "--state", state]).expect(2).says("belongs to");
    place.run(&["run", "../other", "--state", state]).expect(2).says("belongs to");
}

#[test]
fn a_second_up_is_refused_and_a_signal_leaves_runs_alone() {
    let (mut place, mark) = (Place::new(), "up-mark");
    place.env("JF_MARK", mark);
    place.write(
        "jupyterflow.yaml",
        "triggers: []\nsteps: {a: {run: 'touch begun; until test -e go; do sleep 0.05; done'}}\n",
    );
    let mut up = place.spawn(&["up", "--poll", "1s"]);
    wait_for("the first up", || {
        place.path(".jupyterflow/up.lock").exists() && up.log().contains("state in")
    });
    place.run(&["up"]).expect(5).says("another `up`");
    let name = place.run(&["run", ".", "-d"]).expect(0).stdout.trim().to_owned();
    wait_for("the step to begin", || place.path("begun").exists());
    up.signal(Signal::TERM);
    assert_eq!(up.end(), 143, "{}", up.log());
    assert_eq!(place.document(&["show", &name])["phase"], "Running");
    place.write("go", "");
    wait_for("the run to end", || place.document(&["show", &name])["phase"] == "Succeeded");
    wait_for("all processes to be gone", || processes_with("JF_MARK=up-mark").is_empty());
}

#[test]
fn up_waits_until_a_source_has_settled() {
    let place = Place::new();
    place.write("jupyterflow.yaml", "steps: {a: {run: python3 a.py}}\n");
    place.write("a.py", "print(1)");
    let mut up = place.spawn(&["up", "--poll", "1s"]);
    wait_for("the source to be seen", || up.log().contains("Settling"));
    // What moved a moment ago settles first: no run of a torn state.
    assert!(place.runs().is_empty());
    place.write("a.py", "print(2)");
    wait_for("the first run", || {
        place.runs().first().is_some_and(|run| run["phase"] == "Succeeded")
    });
    let runs = place.runs();
    assert_eq!(runs.len(), 1);
    let log = place.run(&["logs", runs[0]["name"].as_str().unwrap()]).stdout;
    assert_eq!(log, "2\n");
    up.signal(Signal::INT);
    assert_eq!(up.end(), 130);
}

#[test]
fn suspend_and_resume_keep_edits_waiting() {
    let place = Place::new();
    place.write("jupyterflow.yaml", ONE);
    place.run(&["suspend", "main"]).expect(0).says("suspended");
    assert_eq!(reasons(&place.document(&["plan"])), ["Suspended"]);
    place.run(&["up", "--once"]).expect(0);
    assert!(place.runs().is_empty());
    let status = place.document(&["status"]);
    assert_eq!(status["pipelines"][0]["suspended"], true);
    assert_eq!(status["pipelines"][0]["triggers"][0]["state"], "Suspended");
    place.run(&["resume", "main"]).expect(0);
    place.run(&["up", "--once"]).expect(0);
    assert_eq!(place.runs().len(), 1);
}

#[test]
fn what_was_removed_is_not_run_again() {
    let place = Place::new();
    place.write("jupyterflow.yaml", ONE);
    place.run(&["up", "--once"]).expect(0);
    std::fs::remove_dir_all(place.path("jupyterflow-runs")).unwrap();
    place.run(&["plan", "--check"]).expect(0);
    let name = place.runs()[0]["name"].as_str().unwrap().to_owned();
    place.run(&["delete", &name]).expect(0);
    assert!(place.runs().is_empty());
    place.run(&["plan", "--check"]).expect(0);
    // A broken file changes nothing, a repaired one that says the same neither.
    place.write("jupyterflow.yaml", "steps: {a: {run: ");
    let plan = place.document(&["plan"]);
    assert_eq!(
        (reasons(&plan), plan["actions"].as_array().unwrap().len()),
        (vec!["InvalidFile".to_owned()], 0)
    );
    place.write("jupyterflow.yaml", "# the same\nsteps:\n  a:\n    run: echo a\n");
    place.run(&["plan", "--check"]).expect(0);
    // A revert is a new change.
    place.write("jupyterflow.yaml", "steps: {a: {run: echo b}}\n");
    place.run(&["up", "--once"]).expect(0);
    place.write("jupyterflow.yaml", ONE);
    place.run(&["explain", "main"]).expect(0).says("trigger: change 3").says("`run` of step `a`");
}

#[test]
fn history_is_pruned_with_its_results() {
    let place = Place::new();
    place.write("jupyterflow.yaml", "history: {successful: 2}\nsteps: {a: {run: echo a}}\n");
    for _ in 0..4 {
        place.run(&["run", "."]).expect(0);
    }
    let going = place.run(&["prune", "--dry-run", "-o", "name"]).expect(0).stdout;
    assert_eq!(going.lines().count(), 2);
    assert_eq!(place.runs().len(), 4);
    place.run(&["prune"]).expect(0).says("2 runs removed");
    assert_eq!(place.runs().len(), 2);
    assert_eq!(std::fs::read_dir(place.path("jupyterflow-runs")).unwrap().count(), 2);
}

#[test]
fn states_that_cannot_be_used_are_named() {
    let place = Place::new();
    place.write("jupyterflow.yaml", ONE);
    place.run(&["up", "--once"]).expect(0);
    let script = "import sqlite3\nc = sqlite3.connect('.jupyterflow/state.db')\nc.execute('pragma user_version = 99')\nc.commit()";
    place.python(script, &[]);
    for command in ["plan", "status", "up"] {
        place.run(&[command]).expect(4).says("version 99").says("newer jupyterflow");
    }
    let other = Place::new();
    other.write("jupyterflow.yaml", ONE);
    other.write(".jupyterflow/state.db", "this is no database, but it is long enough to be one");
    other.run(&["up", "--once"]).expect(4).says("failed to use the state");
    if !can_mount() {
        return;
    }
    // A medium that cannot be written shows what it holds.
    let fixed = Place::new();
    fixed.write("jupyterflow.yaml", ONE);
    fixed.run(&["up", "--once"]).expect(0);
    let work = fixed.path("");
    let work = work.to_str().unwrap();
    let mount =
        |args: &[&str]| Ended::from(fixed.command("mount").args(args).output().unwrap()).expect(0);
    mount(&["--bind", work, work]);
    mount(&["-o", "remount,ro,bind", work]);
    let (status, up) = (fixed.run(&["status"]), fixed.run(&["up", "--once"]));
    let unmounted = fixed.command("umount").args(["-l", work]).current_dir("/").status().unwrap();
    assert!(unmounted.success());
    status.expect(0).says("Succeeded");
    up.expect(4).says("failed to use the state").says("ead-only");
}

#[test]
fn init_graph_doctor_and_generate() {
    let place = Place::new();
    place.notebook("1-load.ipynb", &["1"]).notebook("2-train.ipynb", &["#tag parameters\nlr = 1"]);
    place.run(&["init"]).expect(0);
    place.run(&["validate"]).expect(0);
    place.run(&["init"]).expect(2).says("is there already");
    let graph = place.run(&["graph"]).expect(0).stdout;
    assert!(graph.starts_with("flowchart LR") && graph.contains("s0 --> s1"), "{graph}");
    let dot =
        place.run(&["graph", "--format", "dot", "a.ipynb >> [b.ipynb, c.ipynb]"]).expect(0).stdout;
    assert!(dot.contains("\"a\" -> \"b\"") && dot.contains("\"a\" -> \"c\""), "{dot}");
    place.run(&["doctor"]).expect(0).says("python3");
    for shell in ["bash", "zsh", "fish"] {
        place.run(&["generate", "completions", shell]).expect(0).says("jupyterflow");
    }
    place.run(&["generate", "man"]).expect(0).says(".TH");
    place.run(&["--version"]).expect(0).says(env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_originals_documented_commands_run() {
    let place = Place::new();
    place
        .write("hello.py", "import sys; print('hello', *sys.argv[1:])")
        .write("world.py", "print('world')");
    place
        .write("hello.sh", "echo sh $1")
        .write("job1.py", "")
        .write("job2.py", "import sys; print(sys.argv[1])");
    for flow in [
        "python hello.py >> python world.py",
        "python job1.py >> python job2.py foo",
        "bash hello.sh world >> echo 'good bye'",
    ] {
        let run = place.document(&["run", "-c", flow]);
        assert_eq!(run["phase"], "Succeeded", "{run}");
        assert_eq!(run["steps"].as_array().unwrap().len(), 2);
        place.run(&["run", flow]).expect(0);
    }
    let run = place.document(&["run", "-c", "bash hello.sh world >> echo 'good bye'"]);
    let name = run["name"].as_str().unwrap();
    assert_eq!(place.run(&["logs", name, "echo"]).stdout, "good bye\n", "quotes are the shell's");
    // What the original broke: a redirection, backslashes, both quotes, braces, several lines.
    let run = place.document(&["run", "-c", "echo 'a >> b' \"it's\" >> printf 'x\\ny\\n'"]);
    let name = run["name"].as_str().unwrap();
    assert_eq!(place.run(&["logs", name, "echo"]).stdout, "a >> b it's\n");
    assert_eq!(place.run(&["logs", name, "printf"]).stdout, "x\ny\n");
    place.write("w.yaml", "name: My Pipeline\ncmd_mode: shell\njobs:\n  - |\n    echo \"{{x}}\" '\"'\n    echo two\n  - echo 'good  bye'\ndags: ['1 >> 2']\n");
    let run = place.document(&["run", "-f", "w.yaml"]);
    assert_eq!((&run["phase"], &run["pipeline"]), (&json!("Succeeded"), &json!("my-pipeline")));
    let name = run["name"].as_str().unwrap();
    assert_eq!(place.run(&["logs", name, "job-1"]).stdout, "{{x}} \"\ntwo\n");
    for (dags, words) in [
        ("['1 >> 9']", "1 >> 9"),
        ("['a >> b']", "no edge"),
        ("['1 >> 2', '2 >> 1']", "cycle"),
        ("['1 >> 1']", "itself"),
        ("['[1,2] >> 2']", "no edge"),
    ] {
        place.write("bad.yaml", &format!("jobs: [echo a, echo b]\ndags: {dags}\n"));
        place.run(&["run", "-f", "bad.yaml"]).expect(2).says(words);
    }
    place.write("typo.yaml", "jobs: [echo a]\ncmd_mode: SHELL\n");
    place.run(&["run", "-f", "typo.yaml"]).expect(2).says("cmd_mode");
    place.notebook("train.ipynb", &["#tag parameters\nepochs = 1", "print(epochs)"]);
    let run = place.document(&["run", "train.ipynb", "-p", "epochs", "5"]);
    let notebook = place.read(run["steps"][0]["notebook"].as_str().unwrap());
    assert!(notebook.contains("epochs = 5"), "{notebook}");
}

#[test]
fn the_committed_manifests_are_those_that_are_generated() {
    let place = Place::new();
    for part in ["crds", "controller"] {
        let printed = place.run(&["generate", "manifests", "--only", part]).expect(0).stdout;
        let path = format!("{}/manifests/{part}.yaml", env!("CARGO_MANIFEST_DIR"));
        let committed = std::fs::read_to_string(&path).unwrap();
        let (comment, committed) = committed.split_once('\n').unwrap();
        assert!(comment.starts_with("# "));
        let how = format!("(head -1 {path}; generate manifests --only {part})");
        assert!(committed == printed, "write it anew: {how}");
    }
    place.run(&["generate", "manifests", "--chart", "chart"]).expect(0);
    for file in ["Chart.yaml", "values.yaml", "templates/controller.yaml", "crds/crds.yaml"] {
        let committed = format!("{}/manifests/chart/{file}", env!("CARGO_MANIFEST_DIR"));
        let committed = std::fs::read_to_string(committed).unwrap();
        let made = place.read(&format!("chart/{file}"));
        assert!(committed == made, "{file}: generate manifests --chart manifests/chart");
    }
}
