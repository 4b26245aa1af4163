//! The local engine from outside: steps, values between them, attempts, and what they leave.

use serde_json::json;

use crate::support::{Place, marked, phases, processes_with, run, step, wait_for};

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
    for _ in range(1200):
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
