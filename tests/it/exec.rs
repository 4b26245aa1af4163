//! `exec`: every row of the truth table of endings, on real kernels. For each: the exit code, a
//! whole notebook on disk, and no process left.

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Ended, Place, can_mount, marked, processes_with, wait_for};

/// Executes cells; returns how it ended and the executed notebook.
#[track_caller]
fn exec(cells: &[&str], args: &[&str]) -> (Ended, Value) {
    let (place, mark) = marked();
    place.notebook("in.ipynb", cells);
    let mut all = vec!["exec", "in.ipynb", "out.ipynb"];
    all.extend(args);
    let ended = place.run(&all);
    nothing_is_left(&mark);
    (ended, place.read_json("out.ipynb"))
}

#[track_caller]
fn nothing_is_left(mark: &str) {
    wait_for("all processes of the test to be gone", || processes_with(mark).is_empty());
}

fn statuses(notebook: &Value) -> Vec<String> {
    let cells = notebook["cells"].as_array().unwrap();
    let of = |cell: &Value| cell["metadata"]["papermill"]["status"].as_str().map(str::to_owned);
    cells.iter().filter_map(of).collect()
}

fn has_banner(notebook: &Value) -> bool {
    notebook.to_string().contains("papermill-error-cell-tag")
}

fn source_of(notebook: &Value, cell: usize) -> String {
    let lines = notebook["cells"][cell]["source"].as_array().unwrap();
    lines.iter().filter_map(Value::as_str).collect()
}

fn text_of(notebook: &Value, cell: usize) -> String {
    notebook["cells"][cell]["outputs"].to_string()
}

#[test]
fn success_with_parameters_and_outputs() {
    let cells = ["#tag parameters\na = 1\nb = 'x'", "print(a + 1, b)", "{'a': a}"];
    let (ended, notebook) = exec(&cells, &["-p", "a", "41", "-r", "b", "7"]);
    ended.expect(0);
    assert_eq!(source_of(&notebook, 1), "# Parameters\na = 41\nb = \"7\"\n");
    assert!(text_of(&notebook, 2).contains("42 7"), "{}", text_of(&notebook, 2));
    assert_eq!(statuses(&notebook), ["completed"; 4]);
    assert_eq!(notebook["metadata"]["papermill"]["parameters"]["a"], 41);
    assert_eq!(notebook["metadata"]["papermill"]["exception"], Value::Null);
}

#[test]
fn a_cell_that_raises_fails_with_banners() {
    let (ended, notebook) = exec(&["1", "1 / 0", "2"], &[]);
    ended.expect(1).says("ZeroDivisionError");
    assert!(has_banner(&notebook));
    assert_eq!(notebook["cells"].as_array().unwrap().len(), 5);
    assert_eq!(statuses(&notebook), ["completed", "failed", "pending"]);
    assert!(notebook["cells"][0]["source"].to_string().contains("In [2]"));
    assert_eq!(notebook["metadata"]["papermill"]["exception"], true);
}

#[test]
fn a_clean_exit_is_a_success_and_another_is_not() {
    for (source, code) in [
        ("import sys; sys.exit()", 0),
        ("import sys; sys.exit(0)", 0),
        ("raise SystemExit", 0),
        ("import sys; sys.exit(1)", 1),
        ("import sys; sys.exit('bye')", 1),
    ] {
        let (ended, notebook) = exec(&[source, "print('later')"], &[]);
        ended.expect(code);
        assert!(!notebook.to_string().contains("\"later"), "{source}: a later cell ran");
        assert_eq!(has_banner(&notebook), code == 1, "{source}");
    }
}

#[test]
fn an_allowed_exception_is_a_success() {
    let (ended, notebook) = exec(&["#tag raises-exception\n1 / 0", "print('later')"], &[]);
    ended.expect(0);
    assert!(text_of(&notebook, 0).contains("ZeroDivisionError"));
    assert!(text_of(&notebook, 1).contains("later"));
    assert!(!has_banner(&notebook));
}

#[test]
fn a_cell_that_takes_too_long_is_interrupted() {
    let cells = ["print('before', flush=True)\nimport time; time.sleep(60)", "2"];
    let (ended, notebook) = exec(&cells, &["--execution-timeout", "10"]);
    ended.expect(1).says("cell 1 took longer than 10 s");
    assert!(text_of(&notebook, 0).contains("before"));
    assert_eq!(statuses(&notebook), ["failed", "pending"]);
}

#[test]
fn a_cell_that_ignores_interrupts_is_ended_all_the_same() {
    let stubborn = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n\
                    print('deaf', flush=True)\nwhile True: time.sleep(1)";
    let (ended, notebook) = exec(&[stubborn, "2"], &["--execution-timeout", "10"]);
    ended.expect(1).says("took longer");
    assert!(text_of(&notebook, 0).contains("deaf"));
}

#[test]
fn a_kernel_that_dies_fails_with_a_word() {
    // What was printed is on its way in a thread of the kernel, which dies with it: it gets a moment.
    for (source, words) in [
        (
            "import os, time; print('last words', flush=True); time.sleep(2); os._exit(3)",
            "exited with code 3",
        ),
        (
            "import os, time; print('last words', flush=True); time.sleep(2); os.kill(os.getpid(), 9)",
            "out of memory",
        ),
        (
            "import os, time; print('last words', flush=True); time.sleep(2); os.kill(os.getpid(), 11)",
            "signal 11",
        ),
    ] {
        let (ended, notebook) = exec(&["1", source, "2"], &[]);
        ended.expect(1).says("the kernel died").says(words);
        assert_eq!(statuses(&notebook), ["completed", "failed", "pending"]);
        assert!(text_of(&notebook, 1).contains("last words"), "{source}: {notebook}");
    }
}

#[test]
fn signals_to_us_write_the_notebook_first() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let (place, mark) = marked();
        place.notebook(
            "in.ipynb",
            &["1", "open('begun', 'w'); print('so far', flush=True)\nimport time; time.sleep(60)"],
        );
        let mut exec = place.spawn(&["exec", "in.ipynb", "out.ipynb"]);
        wait_for("the cell to begin", || place.path("begun").exists());
        exec.signal(signal);
        assert_eq!(exec.end(), code, "{}", exec.log());
        let notebook = place.read_json("out.ipynb");
        assert_eq!(statuses(&notebook), ["completed", "failed"]);
        nothing_is_left(&mark);
    }
}

/// The connection folder of the one kernel at work.
fn kernel_folder(mark: &str) -> std::path::PathBuf {
    let lines = processes_with(mark).into_iter().filter_map(|id| {
        let line = std::fs::read_to_string(format!("/proc/{id}/cmdline")).ok()?;
        let file = line.split('\0').find(|word| word.ends_with("/connection.json"))?;
        Some(std::path::Path::new(file).parent()?.to_owned())
    });
    lines.into_iter().next().expect("a kernel is at work")
}

#[test]
fn our_own_death_leaves_no_kernel_and_a_whole_notebook() {
    let (place, mark) = marked();
    place.notebook("in.ipynb", &["1", "open('begun', 'w')\nimport time; time.sleep(60)"]);
    let mut exec = place.spawn(&["exec", "in.ipynb", "out.ipynb"]);
    wait_for("the cell to begin", || place.path("begun").exists());
    let folder = kernel_folder(&mark);
    exec.signal(Signal::KILL);
    assert_eq!(exec.end(), 137);
    nothing_is_left(&mark);
    // Once it is old enough to be nobody's, the next kernel removes what could not be removed.
    assert!(folder.exists());
    let aged = place.command("touch").args(["-d", "2 minutes ago"]).arg(&folder).status().unwrap();
    assert!(aged.success());
    place.run(&["exec", "in.ipynb", "other.ipynb", "--execution-timeout", "1"]).expect(1);
    assert!(!folder.exists());
    let notebook = place.read_json("out.ipynb");
    assert_eq!(notebook["cells"].as_array().unwrap().len(), 2);
}

#[test]
fn a_question_to_nobody_fails() {
    let (ended, _) = exec(&["input('name? ')"], &[]);
    ended.expect(1).says("StdinNotImplementedError");
}

#[test]
fn children_of_a_cell_end_with_the_kernel() {
    let (ended, _) = exec(&["import subprocess\nsubprocess.Popen(['sleep', '600'])"], &[]);
    ended.expect(0);
}

#[test]
fn another_language_runs() {
    let (place, mark) = marked();
    place.notebook_of("bash", "bash", "in.ipynb", &["#tag parameters\nname=x", "echo hello $name"]);
    place.run(&["exec", "in.ipynb", "out.ipynb", "-p", "name", "it's me"]).expect(0);
    let notebook = place.read_json("out.ipynb");
    assert_eq!(source_of(&notebook, 1), "# Parameters\nname='it'\"'\"'s me'\n");
    assert!(text_of(&notebook, 2).contains("hello it's me"), "{notebook}");
    place.notebook_of("bash", "bash", "bad.ipynb", &["cat /no/such/file", "echo later"]);
    place.run(&["exec", "bad.ipynb", "bad-out.ipynb"]).expect(1);
    nothing_is_left(&mark);
}

#[test]
fn kernels_that_are_not_there_are_named_with_those_that_are() {
    let place = Place::new();
    place.notebook_of("julia-1.9", "julia", "in.ipynb", &["1"]);
    place
        .run(&["exec", "in.ipynb", "out.ipynb"])
        .expect(1)
        .says("kernel \"julia-1.9\" is not installed")
        .says("python3")
        .says("bash");
    place.write(
        "none.ipynb",
        r#"{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}"#,
    );
    place.run(&["exec", "none.ipynb", "out.ipynb"]).expect(1).says("names no kernel");
    place.run(&["exec", "none.ipynb", "out.ipynb", "-k", "python3"]).expect(0);
    let mut bare = Place::new();
    bare.env("PATH", "/usr/bin:/bin").notebook("in.ipynb", &["1"]);
    let ended = bare.run(&["exec", "in.ipynb", "out.ipynb"]).expect(1);
    assert!(ended.stderr.contains("pip install ipykernel") || ended.stderr.contains("installed:"));
}

#[test]
fn bad_notebooks_get_a_clear_word() {
    let place = Place::new();
    place.write("text.ipynb", "this is no notebook");
    place.run(&["exec", "text.ipynb", "out.ipynb"]).expect(2).says("line 1");
    place.write("cut.ipynb", "{\"cells\": [{\"cell_type\": \"co");
    place.run(&["exec", "cut.ipynb", "out.ipynb"]).expect(2).says("cut.ipynb");
    place.write("old.ipynb", r#"{"worksheets": [], "metadata": {}, "nbformat": 2}"#);
    place.run(&["exec", "old.ipynb", "out.ipynb"]).expect(2).says("nbformat 2");
    place
        .run(&["exec", "missing.ipynb", "out.ipynb"])
        .expect(2)
        .says("failed to read missing.ipynb");
    place.notebook("in.ipynb", &["1"]);
    place.run(&["exec", "in.ipynb", "in.ipynb"]).expect(2).says("is the input itself");
    place.run(&["exec", "in.ipynb", "no/folder/out.ipynb"]).expect(2).says("does not exist");
    place.run(&["exec", "in.ipynb", "out.ipynb", "-p", "only-a-name"]).expect(2);
    assert!(!place.path("out.ipynb").exists());
}

#[test]
fn a_full_disk_keeps_the_last_whole_notebook_and_says_so() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.notebook("in.ipynb", &["print('x' * 500_000)", "1"]);
    let disk = SmallDisk::new(&place, "256k");
    let target = disk.0.join("out.ipynb");
    let ended = place.run(&["exec", "in.ipynb", target.to_str().unwrap()]).expect(1);
    assert!(ended.stderr.contains("No space left on device"), "{}", ended.stderr);
    let text = std::fs::read_to_string(&target).unwrap();
    let kept: Value = serde_json::from_str(&text).expect("the last whole notebook stays");
    assert_eq!(kept["cells"].as_array().unwrap().len(), 2);
}

/// A file system with little room; it goes with the test. Mounting needs root, which CI has.
pub struct SmallDisk(pub std::path::PathBuf);

impl SmallDisk {
    pub fn new(place: &Place, size: &str) -> Self {
        let folder = place.beside("small-disk");
        std::fs::create_dir(&folder).unwrap();
        let mut mount = place.command("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&folder);
        Ended::from(mount.output().unwrap()).expect(0);
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_reader_sees_a_running_notebook_whole_and_of_a_moment_ago() {
    let place = Place::new();
    let cells = ["'first'", "print('so far', flush=True)\nwhile not open('go').read(): pass", "3"];
    place.write("go", "").notebook("in.ipynb", &cells);
    let mut exec = place.spawn(&["exec", "in.ipynb", "out.ipynb"]);
    wait_for("the notebook to show what the cell printed", || {
        let Ok(text) = std::fs::read_to_string(place.path("out.ipynb")) else { return false };
        let notebook: Value = serde_json::from_str(&text).expect("it is whole at every moment");
        text_of(&notebook, 1).contains("so far")
    });
    let notebook = place.read_json("out.ipynb");
    assert_eq!(statuses(&notebook), ["completed", "running", "pending"]);
    place.write("go", "now");
    assert_eq!(exec.end(), 0);
}

#[test]
fn a_huge_output_is_cut_with_a_word() {
    let (ended, notebook) = exec(&["for _ in range(100): print('y' * 1_000_000)", "1"], &[]);
    ended.expect(0);
    let text = text_of(&notebook, 0);
    assert!(
        text.len() < 70 << 20
            && text.contains("of this cell's outputs were cut: the limit is 64 MiB")
    );
}

#[test]
fn plain_lines_where_nobody_watches_and_notebooks_through_pipes() {
    let place = Place::new();
    place.notebook("in.ipynb", &["print('hello')", "2"]);
    let ended = place.run(&["exec", "in.ipynb", "out.ipynb"]).expect(0);
    ended.says("cell 1/2").says("cell 2/2");
    // Without an output the notebook goes where standard output is no terminal, as with papermill.
    for args in [&["exec", "in.ipynb", "-"][..], &["exec", "in.ipynb"]] {
        let ended = place.run(args).expect(0);
        assert_eq!(ended.stderr, "");
        assert_eq!(ended.json()["cells"].as_array().unwrap().len(), 2);
    }
    let log = place.run(&["exec", "in.ipynb", "out.ipynb", "--log-output"]).expect(0);
    assert!(log.stderr.contains("Executing Cell 1---") && log.stderr.contains("\nhello\n"));
    let mut command = place.jupyterflow(&["exec", "-", "-"]);
    command.stdin(std::fs::File::open(place.path("in.ipynb")).unwrap());
    let piped = Ended::from(command.output().unwrap()).expect(0);
    assert_eq!(piped.json()["nbformat"], 4);
}

#[test]
fn a_bar_where_somebody_watches() {
    let place = Place::new();
    place.notebook("in.ipynb", &["1", "2", "import time; time.sleep(0.3)"]);
    let mut terminal = place.command("script");
    let program = env!("CARGO_BIN_EXE_jupyterflow");
    terminal.args([
        "-qec",
        &format!("stty cols 80; {program} exec in.ipynb out.ipynb"),
        "/dev/null",
    ]);
    let ended = Ended::from(terminal.env("TERM", "xterm").output().unwrap()).expect(0);
    assert!(ended.stdout.contains("cell 3/3") && ended.stdout.contains('\r'), "{}", ended.stdout);
}

/// What a user names is followed and written into, never replaced by a file. Only below the test's
/// own folder: these nodes are ours.
#[test]
fn devices_pipes_and_links_stay_what_they_are() {
    let place = Place::new();
    place.notebook("in.ipynb", &["'hello'"]);
    let kind = |path: &str| {
        use std::os::unix::fs::FileTypeExt;
        let data = std::fs::symlink_metadata(place.path(path)).unwrap().file_type();
        (data.is_fifo(), data.is_char_device(), data.is_symlink())
    };
    // A symbolic link, and one that leads to nothing yet.
    std::fs::create_dir(place.path("deep")).unwrap();
    place.write("deep/old.ipynb", "old");
    for (link, target) in [("a.ipynb", "deep/old.ipynb"), ("b.ipynb", "deep/new.ipynb")] {
        std::os::unix::fs::symlink(target, place.path(link)).unwrap();
        place.run(&["exec", "in.ipynb", link]).expect(0);
        assert_eq!(kind(link), (false, false, true));
        assert!(place.read(target).contains("hello"), "{target}");
    }
    // A pipe with a reader gets one whole notebook; without one there is a word.
    let made = place.command("mkfifo").arg("pipe").status().unwrap();
    assert!(made.success());
    let reader = place.command("cat").arg("pipe").stdout(std::process::Stdio::piped()).spawn();
    let reader = reader.unwrap();
    place.run(&["exec", "in.ipynb", "pipe"]).expect(0);
    let read = reader.wait_with_output().unwrap().stdout;
    let notebook: Value = serde_json::from_slice(&read).expect("one whole notebook");
    assert!(text_of(&notebook, 0).contains("hello"));
    assert_eq!(kind("pipe"), (true, false, false));
    place.run(&["exec", "in.ipynb", "pipe"]).expect(1).says("failed to write pipe");
    assert_eq!(kind("pipe"), (true, false, false));
    // Making a device needs root, which CI has.
    for (name, minor, code) in [("null", "3", 0), ("full", "7", 1)] {
        let made = place.command("mknod").args([name, "c", "1", minor]).status().unwrap();
        if crate::support::has("the right to make devices", made.success()) {
            place.run(&["exec", "in.ipynb", name, "--outputs-json", name]).expect(code);
            assert_eq!(kind(name), (false, true, false));
        }
    }
    let private = place.path("private.ipynb");
    std::fs::write(&private, "").unwrap();
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(&private, mode(0o600)).unwrap();
    place.run(&["exec", "in.ipynb", "private.ipynb"]).expect(0);
    let after = std::fs::metadata(&private).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&after) & 0o777, 0o600);
}

/// A kernel that shared our terminal would be stopped when a cell touches it.
#[test]
fn a_cell_has_no_terminal_to_be_stopped_by() {
    let place = Place::new();
    let cell = "import os, subprocess\nprint(os.getsid(0) == os.getpid())\n\
                subprocess.run('stty sane </dev/tty; echo done', shell=True, capture_output=True, timeout=20).stdout";
    place.notebook("in.ipynb", &[cell]);
    let mut terminal = place.command("script");
    let program = env!("CARGO_BIN_EXE_jupyterflow");
    terminal.args(["-qec", &format!("{program} exec in.ipynb out.ipynb"), "/dev/null"]);
    Ended::from(terminal.env("TERM", "xterm").output().unwrap()).expect(0);
    let notebook = place.read_json("out.ipynb");
    let shown = text_of(&notebook, 0);
    assert!(shown.contains("True") && shown.contains("done"), "{shown}");
    place
        .run(&["exec", "in.ipynb", "out2.ipynb", "--cwd", "none"])
        .expect(2)
        .says("does not exist");
    assert!(!place.path("out2.ipynb").exists());
}
