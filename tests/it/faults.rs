//! The local engine in bad weather: stops, lost processes, moved folders, full disks, other machines.
//! Nothing is lost, nothing is doubled, nothing is left.

use rustix::process::Signal;
use serde_json::json;

use crate::directory::{configure, ended, stop};
use crate::support::{Place, can_mount, marked, phases, processes_with, run, step, wait_for};

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
    if !can_mount() {
        return;
    }
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
fn the_folder_may_be_moved_or_removed_while_a_run_is_on() {
    for how in ["mv proj moved", "until rm -rf proj; do :; done"] {
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

/// Another machine on the same file system, as far as the state shows it: a lease of another
/// start of another machine, which is renewed or not.
#[test]
fn what_another_machine_works_on_is_left_alone() {
    let mut place = Place::new();
    place.env("JUPYTERFLOW_JOURNAL", "rollback");
    place.write(
        "jupyterflow.yaml",
        "triggers: []\nsteps: {a: {run: 'touch begun; test -e go || sleep 500'}}",
    );
    let name = place.run(&["run", ".", "-d"]).expect(0).stdout.trim().to_owned();
    wait_for("the step to begin", || place.path("begun").exists());
    for id in processes_with(&place.path("").display().to_string()) {
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_raw(id).unwrap(),
            Signal::KILL,
        );
    }
    let lease = "import sqlite3, sys
c = sqlite3.connect('.jupyterflow/state.db', timeout=30)
c.execute('insert or replace into leases values (?, ?, ?)', (sys.argv[1], 'another', int(sys.argv[2])))
c.commit()";
    place.python(lease, &[&name, "7"]);
    place.write("go", "");
    let plan = place.document(&["plan"]);
    assert_eq!(plan["notDone"][0]["reason"], "Unknown", "{plan}");
    assert_eq!(plan["actions"], json!([]), "nothing is started twice");
    place.python(
        "import sqlite3
c = sqlite3.connect('.jupyterflow/state.db')
c.execute('delete from leases')
c.commit()",
        &[],
    );
    place.run(&["up", "--once"]).expect(0);
    assert_eq!(place.document(&["show", &name])["phase"], "Succeeded");
    // An `up` of another machine that shows signs of life is enough.
    let beats = format!(
        "{lease}
import time
for beat in range(1, 10**6):
    c.execute('update leases set beat = ?', (beat,)); c.commit(); time.sleep(0.1)"
    );
    let mut other = place.command(crate::support::python());
    let mut other = other.args(["-c", &beats, "up", "0"]).spawn().unwrap();
    wait_for("the other machine's lease", || {
        place.python("import sqlite3; print(sqlite3.connect('.jupyterflow/state.db', timeout=30).execute('select count(*) from leases').fetchone()[0])", &[]).trim() == "1"
    });
    place.run(&["up", "--once"]).expect(5).says("another machine");
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn inputs_that_a_run_wrote_start_nothing_and_are_named() {
    let place = Place::new();
    place.write("data/raw.csv", "1\n");
    place.write(
        "jupyterflow.yaml",
        "inputs: [data/**]\nsteps: {a: {run: 'date +%N > data/derived.csv'}}",
    );
    place.run(&["up", "--once"]).expect(0);
    assert_eq!(place.runs().len(), 1);
    let plan = place.document(&["plan"]);
    assert_eq!(plan["notDone"][0]["reason"], "WrittenByRun", "{plan}");
    assert!(plan["notDone"][0]["message"].as_str().unwrap().contains("data/derived.csv"));
    place.run(&["up", "--once"]).expect(0);
    place.run(&["plan", "--check"]).expect(0);
    assert_eq!(place.runs().len(), 1);
    // A person's edit of the same file is a change, and so is one of a script at any time.
    place.write("data/derived.csv", "mine\n");
    place.run(&["plan", "--check"]).expect(3).says("input data/derived.csv changed");
}

#[test]
fn runs_of_one_pipeline_queue_in_order() {
    let place = Place::new();
    place.write(
        "jupyterflow.yaml",
        "triggers: []\nparams: {n: 0}\nsteps: {a: {run: 'echo {{ params.n }} begin >> witness; until test -e go; do sleep 0.05; done; echo {{ params.n }} end >> witness'}}",
    );
    let mut names = Vec::new();
    for n in ["1", "2", "3"] {
        let ended = place.run(&["run", ".", "-d", "-p", "n", n]).expect(0);
        names.push(ended.stdout.trim().to_owned());
    }
    assert_eq!(place.document(&["show", &names[2]])["phase"], "Pending");
    place.write("go", "");
    // Whoever comes next starts what is next in the queue, also of others.
    place.run(&["run", ".", "-p", "n", "4"]).expect(0);
    let expected: String = (1..5).map(|n| format!("{n} begin\n{n} end\n")).collect();
    assert_eq!(place.read("witness"), expected);
    // A run that waits can be stopped before it begins.
    place.write(
        "jupyterflow.yaml",
        "triggers: []\nsteps: {a: {run: 'touch begun; until test -e go; do sleep 0.05; done'}}",
    );
    let first = place.run(&["run", ".", "-d"]).expect(0).stdout.trim().to_owned();
    let second = place.run(&["run", ".", "-d"]).expect(0).stdout.trim().to_owned();
    wait_for("the first to begin", || place.path("begun").exists());
    place.run(&["stop", &second]).expect(0).says("Stopped");
    let run = place.document(&["show", &second]);
    assert!(run["message"].as_str().unwrap().contains("before it began"), "{run}");
    place.write("go", "");
    wait_for("the first to end", || place.document(&["show", &first])["phase"] == "Succeeded");
}

#[test]
fn an_upgrade_under_a_daemon_and_its_run_harms_neither() {
    let place = Place::new();
    let program = place.beside("jupyterflow");
    std::fs::copy(env!("CARGO_BIN_EXE_jupyterflow"), &program).unwrap();
    place.notebook("home/n.ipynb", &["print(1)"]).write(
        "home/jupyterflow.yaml",
        "steps:
  a: {run: 'touch begun; until test -e go; do sleep 0.01; done'}
  b: {notebook: n.ipynb, needs: a}
",
    );
    configure(&place, ", settle: 1s");
    let up =
        place.spawn_program(program.to_str().unwrap(), &["up", "--config", "conf/sources.yaml"]);
    wait_for("the first step", || place.path("home/begun").exists());
    place.write("new", "#!/bin/sh\necho other >> witness\n");
    let mode = std::fs::metadata(&program).unwrap().permissions();
    std::fs::set_permissions(place.path("new"), mode).unwrap();
    std::fs::rename(place.path("new"), &program).unwrap();
    place.write("home/go", "");
    wait_for("the end of the run that was on", || ended(&place, 1));
    place.notebook("home/n.ipynb", &["print(2)"]);
    wait_for("the next run", || ended(&place, 2));
    for witness in ["witness", "home/witness"] {
        assert!(!place.path(witness).exists(), "one version started the other");
    }
    stop(up);
}
