//! The local engine from outside: steps, values between them, attempts, ends, and nothing left.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Place, processes_with, wait_for};

/// A place whose processes all carry a mark.
fn marked() -> (Place, String) {
    let mut place = Place::new();
    let mark = place.path("").display().to_string();
    place.env("JF_MARK", &mark);
    (place, mark)
}

fn step<'a>(run: &'a Value, name: &str) -> &'a Value {
    let steps = run["steps"].as_array().unwrap();
    steps.iter().find(|step| step["name"] == name).unwrap_or_else(|| panic!("no {name} in {run}"))
}

fn phases(run: &Value) -> Vec<String> {
    let steps = run["steps"].as_array().unwrap();
    steps
        .iter()
        .map(|step| {
            format!("{} {}", step["name"].as_str().unwrap(), step["phase"].as_str().unwrap())
        })
        .collect()
}

#[track_caller]
fn run(place: &Place, yaml: &str) -> Value {
    place.write("jupyterflow.yaml", yaml);
    place.document(&["run", "."])
}

#[test]
fn values_go_from_step_to_step_with_their_types() {
    let place = Place::new();
    place.notebook(
        "show.ipynb",
        &["#tag parameters\nn = 0\nl = []\nf = ''", "print(repr((n, l, f)))"],
    );
    let run = run(
        &place,
        "params: {word: 'it''s \"x\" $HOME'}
steps:
  a:
    run: |
      echo n=7 >> $JUPYTERFLOW_OUTPUTS
      echo 'l=[1, \"two\"]' >> $JUPYTERFLOW_OUTPUTS
      echo text=plain words >> $JUPYTERFLOW_OUTPUTS
      echo n=8 >> $JUPYTERFLOW_OUTPUTS
      echo data > $JUPYTERFLOW_OUTPUT_DIR/d.txt
      echo beside > beside.txt
      echo '{\"loss\": 0.25, \"name\": \"x\"}' > $JUPYTERFLOW_OUTPUT_DIR/m.json
    outputs: {data: d.txt, other: beside.txt}
    metrics: m.json
  b:
    notebook: show.ipynb
    needs: a
    params: {n: '{{ steps.a.outputs.n }}', l: '{{ steps.a.outputs.l }}', f: '{{ steps.a.outputs.data.digest }}'}
  c:
    needs: a
    run: 'printf \"%s\\n\" {{ params.word }} \"{{ steps.a.outputs.text }}!\" {{ steps.a.metrics.loss }} {{ pipeline.name }}; cat {{ steps.a.outputs.other }}'
",
    );
    assert_eq!(run["phase"], "Succeeded", "{run}");
    let a = step(&run, "a");
    assert_eq!(a["outputs"]["n"], 8);
    assert_eq!(a["outputs"]["l"], json!([1, "two"]));
    assert_eq!(a["metrics"], json!({"n": 8.0, "loss": 0.25}));
    let names: Vec<&str> = a["artifacts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["data", "other"]);
    let name = run["name"].as_str().unwrap();
    let log = place.run(&["logs", name, "c"]).expect(0).stdout;
    assert_eq!(log, "it's \"x\" $HOME\nplain words!\n0.25\nmain\nbeside\n");
    let shown = place.read(step(&run, "b")["notebook"].as_str().unwrap());
    let digest = a["artifacts"][0]["digest"].as_str().unwrap();
    assert!(shown.contains(&format!("(8, [1, 'two'], '{digest}')")), "{shown}");
}

#[test]
fn the_results_have_the_documented_layout() {
    let place = Place::new();
    place.notebook("n.ipynb", &["#tag parameters\nk = 0", "print('k', k)"]);
    let run = run(
        &place,
        "name: p\nsteps: {a: {notebook: n.ipynb, sweep: {k: [1, 2]}}, b: {run: echo hi, needs: a}}",
    );
    let folder = format!("jupyterflow-runs/{}", run["name"].as_str().unwrap());
    for file in [
        "run.json",
        "a/0/notebook.ipynb",
        "a/0/notebook.html",
        "a/0/log",
        "a/0/outputs.json",
        "a/1/files",
        "b/log",
        "b/outputs.json",
        "b/files",
    ] {
        assert!(place.path(&format!("{folder}/{file}")).exists(), "{file}");
    }
    let mut document = place.read_json(&format!("{folder}/run.json"));
    let shown = place.document(&["show", run["name"].as_str().unwrap()]);
    assert_eq!(document, shown, "run.json is the Run document");
    let outputs = place.read_json(&format!("{folder}/b/outputs.json"));
    assert_eq!((&outputs["kind"], &outputs["phase"]), (&json!("Outputs"), &json!("Succeeded")));
    document["steps"].as_array_mut().unwrap().retain(|step| step["index"] == 1);
    let point = &document["steps"][0];
    assert_eq!((&point["name"], &point["params"]), (&json!("a[1]"), &json!({"k": 2})));
    assert_eq!(point["notebook"], format!("{folder}/a/1/notebook.ipynb"));
    let ignored = place.read(".jupyterflow/.gitignore");
    assert_eq!(ignored, "*\n");
}

#[test]
fn a_real_jupyter_server_opens_an_executed_notebook() {
    let place = Place::new();
    place.notebook("n.ipynb", &["print('hello from the run')"]);
    let run = run(&place, "steps: {a: {notebook: n.ipynb}}");
    let path = step(&run, "a")["notebook"].as_str().unwrap();
    let script = "
import asyncio, json, sys
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from jupyter_server.serverapp import ServerApp
import subprocess, urllib.request, time, os, socket
with socket.socket() as s:
    s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
server = subprocess.Popen([sys.executable, '-m', 'jupyter', 'server', '--no-browser', '--allow-root',
    f'--port={port}', '--ServerApp.ip=127.0.0.1', '--IdentityProvider.token=t', '--ServerApp.root_dir=' + os.getcwd()],
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
try:
    for _ in range(300):
        try:
            with urllib.request.urlopen(f'http://127.0.0.1:{port}/api/contents/{sys.argv[1]}?token=t') as reply:
                model = json.load(reply)
                break
        except OSError:
            assert server.poll() is None, 'the server ended'
            time.sleep(0.1)
    print(model['type'], model['format'], model['content']['cells'][0]['outputs'][0]['text'], model.get('message'))
finally:
    server.terminate(); server.wait()";
    let said = place.python(script, &[path]);
    assert!(said.starts_with("notebook json hello from the run"), "{said}");
    assert!(said.trim().ends_with("None"), "the server finds the notebook valid: {said}");
}

#[test]
fn a_failure_skips_what_needs_it_and_nothing_else() {
    let place = Place::new();
    let run = run(
        &place,
        "steps: {a: {run: exit 3}, b: {run: echo b, needs: a}, c: {run: echo c}, d: {run: echo d, needs: [b, c]}}",
    );
    assert_eq!(phases(&run), ["a Failed", "b Skipped", "c Succeeded", "d Skipped"]);
    assert_eq!((&run["phase"], &step(&run, "a")["exitCode"]), (&json!("Failed"), &json!(3)));
    assert!(run["message"].as_str().unwrap().contains("step a: exit code 3"), "{run}");
    place.run(&["run", "."]).expect(1);
}

#[test]
fn missing_outputs_fail_the_step_that_promised_or_needs_them() {
    let place = Place::new();
    place.write("old.txt", "from before");
    let run = run(
        &place,
        "steps:\n  a: {run: 'true', outputs: {o: old.txt}}\n  b: {run: 'true'}\n  \
         c: {run: 'echo {{ steps.b.outputs.nothing }}', needs: b}\n",
    );
    assert_eq!(phases(&run), ["a Failed", "b Succeeded", "c Failed"]);
    for name in ["a", "c"] {
        let message = step(&run, name)["message"].as_str().unwrap();
        assert!(message.starts_with("MissingOutput"), "{message}");
    }
}

#[test]
fn sweeps_choose_the_best_and_give_lists_without_one() {
    let place = Place::new();
    let yaml = "steps:
  t:
    run: |
      if [ {{ params.k }} = 3 ]; then exit 1; fi
      echo m={{ params.k }} >> $JUPYTERFLOW_OUTPUTS
      echo {{ params.k }} > $JUPYTERFLOW_OUTPUT_DIR/model
    sweep: {k: [1, 2, 3, 2]}
    best: {metric: m, goal: max, allowFailed: 1}
    outputs: {model: model}
  u: {run: 'cat {{ steps.t.outputs.model }}; echo {{ sweep.index }}', needs: t, sweep: {x: [a]}}
  l: {run: 'echo k={{ params.k }} >> $JUPYTERFLOW_OUTPUTS', sweep: {k: [5, 6]}}
  v: {run: 'echo {{ steps.l.outputs.k }}', needs: l}
";
    let run = run(&place, yaml);
    assert_eq!(step(&run, "t")["selected"], 1, "ties go to the lowest index");
    assert_eq!(step(&run, "t[2]")["phase"], "Failed");
    let name = run["name"].as_str().unwrap();
    assert_eq!(place.run(&["logs", name, "u[0]"]).stdout, "2\n0\n");
    assert_eq!(place.run(&["logs", name, "v"]).stdout, "[5,6]\n");
    // A swept parameter is the file's to choose.
    place.run(&["run", ".", "-p", "k", "9"]).expect(2).says("swept");
    place
        .run(&["run", ".", "-p", "kk", "9", "--strict"])
        .expect(2)
        .says("declares no parameter `kk`");
}

#[test]
fn retries_follow_failures_and_are_counted() {
    let place = Place::new();
    let yaml = "steps: {a: {run: 'test -e there || { touch there; exit 1; }', retries: 1}}";
    let begin = std::time::Instant::now();
    let run = run(&place, yaml);
    assert_eq!((&run["phase"], &step(&run, "a")["attempt"]), (&json!("Succeeded"), &json!(2)));
    assert!(begin.elapsed().as_secs() >= 10, "the first pause is 10 s");
}

#[test]
fn timeouts_of_an_attempt_and_of_a_run() {
    let (place, mark) = marked();
    let run = run(&place, "steps: {a: {run: 'sleep 100 & sleep 100', timeout: 1s}}");
    assert_eq!(run["phase"], "Failed");
    assert!(step(&run, "a")["message"].as_str().unwrap().contains("longer than 1 s"));
    place.write(
        "jupyterflow.yaml",
        "timeout: 1s\nsteps: {a: {run: sleep 100}, b: {run: 'true', needs: a}}",
    );
    let run = place.document(&["run", "."]);
    assert_eq!(
        (&run["phase"], &run["message"]),
        (&json!("Failed"), &json!("the run took longer than its timeout"))
    );
    wait_for("all steps to be gone", || processes_with(&mark).is_empty());
}

#[test]
fn a_stop_ends_the_run_and_all_it_started() {
    let (place, mark) = marked();
    place.write("jupyterflow.yaml", "steps: {a: {run: 'setsid sleep 500 & touch begun; sleep 500'}, b: {run: 'true', needs: a}}");
    let name = place.run(&["run", ".", "--detach"]).expect(0).stdout.trim().to_owned();
    wait_for("the step to begin", || place.path("begun").exists());
    assert_eq!(place.document(&["show", &name])["phase"], "Running");
    place.run(&["stop", &name]).expect(0).says("Stopped");
    let run = place.document(&["show", &name]);
    assert_eq!(phases(&run), ["a Stopped", "b Skipped"]);
    wait_for("all steps to be gone", || processes_with(&mark).is_empty());
    place.run(&["stop", &name]).expect(0).says("ended already");
    place.run(&["stop", "no-such-run"]).expect(2).says("there is no run");
}

#[test]
fn a_terminal_that_asks_twice_ends_it_at_once() {
    let (place, mark) = marked();
    place.write(
        "jupyterflow.yaml",
        "steps: {a: {run: \"trap '' TERM; touch begun; sleep 500; sleep 500\"}}",
    );
    let mut run = place.spawn(&["run", "."]);
    wait_for("the step to begin", || place.path("begun").exists());
    run.signal(Signal::INT);
    wait_for("the word", || run.log().contains("once more ends it at once"));
    run.signal(Signal::INT);
    assert_eq!(run.end(), 130, "{}", run.log());
    assert_eq!(place.runs()[0]["phase"], "Stopped");
    wait_for("all steps to be gone", || processes_with(&mark).is_empty());
}

#[test]
fn a_foreground_run_ends_with_its_terminal_and_is_taken_up_again() {
    let (place, mark) = marked();
    place.write("jupyterflow.yaml", "triggers: []\nsteps: {a: {run: echo a >> witness}, b: {run: 'touch begun; test -e go || sleep 500', needs: a}}");
    let mut run = place.spawn(&["run", "."]);
    wait_for("the step to begin", || place.path("begun").exists());
    run.signal(Signal::KILL);
    run.end();
    wait_for("all steps to be gone", || processes_with(&mark).is_empty());
    assert_eq!(place.runs()[0]["phase"], "Interrupted");
    place.write("go", "");
    place.run(&["up", "--once"]).expect(0);
    let run = &place.runs()[0];
    assert_eq!(phases(run), ["a Succeeded", "b Succeeded"]);
    assert_eq!(step(run, "b")["attempt"], 2);
    assert_eq!(place.read("witness"), "a\n", "a finished step is not repeated");
}

#[test]
fn interruptions_are_used_up() {
    let place = Place::new();
    let run = run(&place, "steps: {a: {run: 'echo x >> witness; kill -9 $$', interruptions: 2}}");
    assert_eq!(run["phase"], "Failed");
    assert_eq!(place.read("witness"), "x\nx\nx\n");
    assert!(step(&run, "a")["message"].as_str().unwrap().contains("lost 3 times"));
}

#[test]
fn retry_repeats_all_or_keeps_what_came_before() {
    let place = Place::new();
    let yaml = "triggers: []\nparams: {p: 1}\nsteps:
  a: {run: 'echo a >> witness; echo v=5 >> $JUPYTERFLOW_OUTPUTS'}
  b: {run: 'echo b{{ steps.a.outputs.v }}{{ params.p }} >> witness; test -e fixed', needs: a}
  c: {run: echo c >> witness, needs: b}
";
    place.write("jupyterflow.yaml", yaml);
    let first = place.document(&["run", ".", "-p", "p", "2"]);
    assert_eq!(first["phase"], "Failed");
    let name = first["name"].as_str().unwrap();
    place.run(&["retry", name, "--from", "c"]).expect(2).says("retry from `b`");
    place.write("fixed", "");
    let again = place.document(&["retry", name, "--from", "b"]);
    assert_eq!(again["phase"], "Succeeded", "{again}");
    assert_eq!(again["trigger"]["retryOf"], name);
    assert_eq!(again["trigger"]["kind"], "manual");
    assert_eq!(place.read("witness"), "a\nb52\nb52\nc\n");
    place.run(&["retry", name]).expect(0);
    assert_eq!(place.read("witness"), "a\nb52\nb52\nc\na\nb52\nc\n");
    place.run(&["retry", name, "--from", "zzz"]).expect(2).says("its steps are a, b, c");
}

#[test]
fn environments_from_requirements_are_made_once() {
    let place = Place::new();
    // A package of our own, so that nothing is fetched; uv and pip take a path alike.
    place.write("pkg/pyproject.toml", "[project]\nname = \"jf-test-package\"\nversion = \"1\"\n[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n");
    place.write("pkg/backend.py", r#"
import zipfile, os
def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "jf_test_package-1-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        wheel.writestr("jf_test_package.py", "value = 42\n")
        wheel.writestr("jf_test_package-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: jf-test-package\nVersion: 1\n")
        wheel.writestr("jf_test_package-1.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("jf_test_package-1.dist-info/RECORD", "")
    return name
"#);
    place.write("requirements.txt", "./pkg\n");
    let yaml = "requirements: requirements.txt\nsteps:\n  a: {run: 'python -c \"import jf_test_package as p; print(p.value)\"'}\n  \
                b: {run: 'python -c \"import jf_test_package as p; print(p.value + 1)\"'}\n";
    let first = run(&place, yaml);
    assert_eq!(first["phase"], "Succeeded", "{first}");
    let name = first["name"].as_str().unwrap();
    let logs = place.run(&["logs", name]).expect(0).stdout;
    assert!(logs.contains("42") && logs.contains("43"), "{logs}");
    assert_eq!(logs.matches("making an environment").count(), 1, "{logs}");
    let second = place.document(&["run", "."]);
    let logs = place.run(&["logs", second["name"].as_str().unwrap()]).expect(0).stdout;
    assert!(!logs.contains("making an environment"), "{logs}");
    place.write("requirements.txt", "./no-such-package\n");
    let third = place.document(&["run", "."]);
    assert!(
        step(&third, "a")["message"].as_str().unwrap().contains("failed to make the environment"),
        "{third}"
    );
}

#[test]
fn names_in_korean_and_with_spaces() {
    let place = Place::new();
    place.notebook("훈련 노트북.ipynb", &["print('안녕')"]);
    place.write("my script.py", "print('hello')");
    let run = run(
        &place,
        "name: p\nsteps:\n  한국어: {notebook: 훈련 노트북.ipynb}\n  b: {run: python 'my script.py', needs: 한국어}\n",
    );
    assert_eq!(run["phase"], "Succeeded", "{run}");
    let page = step(&run, "한국어")["notebook"].as_str().unwrap().replace(".ipynb", ".html");
    assert!(place.read(&page).contains("안녕"));
    let run = place.document(&["run", "훈련 노트북.ipynb"]);
    assert_eq!(run["phase"], "Succeeded", "{run}");
}

#[test]
fn a_log_of_a_gigabyte_costs_no_memory() {
    let place = Place::new();
    place.write("jupyterflow.yaml", "steps: {a: {run: 'head -c 1000000000 /dev/zero'}}");
    let mut command = place.command("/bin/sh");
    let program = env!("CARGO_BIN_EXE_jupyterflow");
    command.args([
        "-c",
        &format!("ulimit -v 1000000; {program} run . -q && {program} logs main | wc -c"),
    ]);
    let ended = crate::support::Ended::from(command.output().unwrap()).expect(0);
    assert_eq!(ended.stdout.trim(), "1000000000");
}

#[test]
fn a_full_disk_ends_the_run_with_a_word() {
    let place = Place::new();
    let disk = crate::exec::SmallDisk::new(&place, "1m");
    std::fs::write(
        disk.0.join("jupyterflow.yaml"),
        "steps: {a: {run: 'head -c 5000000 /dev/zero > big'}}",
    )
    .unwrap();
    let mut command = place.jupyterflow(&["run", "."]);
    let ended = crate::support::Ended::from(command.current_dir(&disk.0).output().unwrap());
    assert!(ended.code == 1 || ended.code == 4, "{}: {}", ended.code, ended.stderr);
    let all = format!("{}{}", ended.stdout, ended.stderr);
    assert!(all.contains("exit code 1") || all.contains("full"), "{all}");
}

#[test]
fn logs_are_followed_to_the_end() {
    let place = Place::new();
    place.write(
        "jupyterflow.yaml",
        "steps: {a: {run: 'echo one; until test -e go; do sleep 0.05; done; echo two'}}",
    );
    let name = place.run(&["run", ".", "--detach"]).expect(0).stdout.trim().to_owned();
    let mut logs = place.spawn(&["logs", "-f", &name]);
    wait_for("the first line", || logs.log().contains("one"));
    assert!(!logs.log().contains("two"));
    place.write("go", "");
    assert_eq!(logs.end(), 0);
    assert!(logs.log().contains("two"));
    place.run(&["logs", &name, "b"]).expect(2).says("it has a");
}

#[test]
fn the_limit_on_steps_holds_over_all_runs() {
    let place = Place::new();
    let step = "{run: 'mkdir slot && sleep 0.1 && rmdir slot'}";
    for name in ["x", "y"] {
        place.write(
            &format!("{name}/jupyterflow.yaml"),
            &format!("workdir: ..\nsteps: {{a: {step}, b: {step}, c: {step}}}"),
        );
    }
    place.run(&["up", "--once", "-j", "1"]).expect(0);
    let runs = place.runs();
    assert_eq!(runs.len(), 2);
    assert!(runs.iter().all(|run| run["phase"] == "Succeeded"), "two steps ran at once");
}

#[test]
fn the_folder_may_be_moved_or_removed_while_a_run_is_on() {
    for how in ["mv proj moved", "rm -rf proj"] {
        let (place, mark) = marked();
        place.write("proj/jupyterflow.yaml", "steps: {a: {run: 'touch ../begun; until test -e ../go; do sleep 0.05; done'}, b: {run: echo b, needs: a}}");
        let mut run = place.spawn(&["run", "proj"]);
        wait_for("the step to begin", || place.path("begun").exists());
        let moved = place.command("/bin/sh").args(["-c", how]).status().unwrap();
        assert!(moved.success());
        place.write("go", "");
        let code = run.end();
        assert!(code != 0 && code != 70, "{how}: {code}: {}", run.log());
        assert!(run.log().contains("error: ") || run.log().contains("Failed"), "{}", run.log());
        wait_for("all steps to be gone", || processes_with(&mark).is_empty());
    }
}

#[test]
fn a_rollback_journal_serves_network_file_systems() {
    let mut place = Place::new();
    place.env("JUPYTERFLOW_JOURNAL", "rollback");
    place.write("jupyterflow.yaml", "steps: {a: {run: echo a}, b: {run: echo b, needs: a}}");
    place.run(&["up", "--once"]).expect(0);
    assert_eq!(place.runs()[0]["phase"], "Succeeded");
    assert!(!place.path(".jupyterflow/state.db-wal").exists(), "no write-ahead log");
}

#[test]
fn runs_of_the_same_name_in_two_states_leave_each_other_alone() {
    let (one, other) = (Place::new(), Place::new());
    let yaml = "steps: {a: {run: 'touch begun; until test -e go; do sleep 0.05; done; echo a >> witness'}}";
    for place in [&one, &other] {
        place.write("jupyterflow.yaml", yaml);
    }
    let mut first = one.spawn(&["up", "--once"]);
    wait_for("the first to begin", || one.path("begun").exists());
    other.write("go", "");
    other.run(&["up", "--once"]).expect(0);
    assert_eq!(one.runs()[0]["name"], other.runs()[0]["name"]);
    one.write("go", "");
    assert_eq!(first.end(), 0, "{}", first.log());
    assert_eq!(one.runs()[0]["steps"][0]["attempt"], 1);
}

#[test]
fn what_an_attempt_leaves_behind_ends_before_the_next_begins() {
    let (place, mark) = marked();
    let yaml = "steps:
  a:
    retries: 1
    run: |
      if test -e left && kill -0 $(cat left); then echo alive >> witness; fi
      setsid sh -c 'echo $$ > left; exec sleep 500' &
      until test -s left; do sleep 0.01; done
      test -e again || { touch again; exit 1; }
";
    let run = run(&place, yaml);
    assert_eq!(run["phase"], "Succeeded", "{run}");
    assert!(!place.path("witness").exists(), "a process of the first attempt lived on");
    wait_for("all steps to be gone", || processes_with(&mark).is_empty());
}

#[test]
fn a_change_run_whose_files_moved_on_is_superseded_and_what_stands_next_runs() {
    let mut place = Place::new();
    let state = place.beside("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::write(state.join("hosts"), "no folder").unwrap();
    place.env("JUPYTERFLOW_STATE", &state);
    place.write("a.py", "print(1)").write("jupyterflow.yaml", "steps: {a: {run: python3 a.py}}");
    let mut up = place.spawn(&["up", "--once"]);
    wait_for("the claim", || place.runs().len() == 1);
    up.signal(Signal::KILL);
    up.end();
    std::fs::remove_file(state.join("hosts")).unwrap();
    place.write("a.py", "print(2)");
    place.run(&["up", "--once"]).expect(0);
    let first = &place.runs()[0];
    assert_eq!(
        (&first["phase"], &first["reason"]),
        (&json!("Skipped"), &json!("Superseded")),
        "{first}"
    );
    // Even the very content that was withdrawn is a new change.
    place.write("a.py", "print(1)");
    place.run(&["up", "--once"]).expect(0);
    let runs = place.runs();
    assert_eq!(runs.len(), 2);
    assert_eq!((&runs[0]["phase"], &runs[0]["trigger"]["key"]), (&json!("Succeeded"), &json!("2")));
    let log = place.run(&["logs", runs[0]["name"].as_str().unwrap()]).stdout;
    assert_eq!(log, "1\n");
}

#[test]
fn files_that_move_during_a_run_are_used_and_recorded() {
    let place = Place::new();
    place.write("b.py", "print('old')");
    place.notebook("c.ipynb", &["print('old')"]);
    place.write(
        "jupyterflow.yaml",
        "steps:\n  a: {run: 'touch begun; until test -e go; do sleep 0.05; done'}\n  \
         b: {run: python3 b.py, needs: a}\n  c: {notebook: c.ipynb, needs: a}\n",
    );
    let name = place.run(&["run", ".", "-d"]).expect(0).stdout.trim().to_owned();
    wait_for("the step to begin", || place.path("begun").exists());
    place.write("b.py", "print('new')");
    place.notebook("c.ipynb", &["print('new')"]);
    place.write("go", "");
    wait_for("the run to end", || place.document(&["show", &name])["phase"] == "Succeeded");
    let run = place.document(&["show", &name]);
    let message = step(&run, "b")["message"].as_str().unwrap();
    assert!(message.starts_with("SourceChanged: b.py is now sha256:"), "{message}");
    assert_eq!(place.run(&["logs", &name, "b"]).stdout, "new\n");
    // A run executes copies of its notebooks; the edit is the next run's.
    assert_eq!(place.run(&["logs", &name, "c"]).stdout, "old\n");
    place.run(&["plan", "--check"]).expect(3);
}
