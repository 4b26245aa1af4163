//! A hermetic place for a test: its own folder, home and environment, and the program under test.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub struct Place {
    folder: tempfile::TempDir,
    env: BTreeMap<String, String>,
}

pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub fn says(self, words: &str) -> Self {
        let all = format!("{}\n{}", self.stdout, self.stderr);
        assert!(all.contains(words), "no {words:?} in:\n{all}");
        self
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}\n{}", self.stdout, self.stderr))
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let code = output.status.code();
        Self {
            code: code.unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0)),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The Python environment that `make test` prepares.
pub fn venv() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv");
    assert!(folder.join("bin/python").exists(), "no {}: type `make test`", folder.display());
    folder
}

pub fn python() -> PathBuf {
    venv().join("bin/python")
}

impl Place {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("jf-test-").tempdir().unwrap();
        let home = folder.path().join("home");
        std::fs::create_dir(&home).unwrap();
        std::fs::create_dir(folder.path().join("work")).unwrap();
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", venv().join("bin").display());
        let mut env = BTreeMap::new();
        for (name, value) in [
            ("PATH", path.as_str()),
            ("HOME", &home.display().to_string()),
            ("TZ", "UTC"),
            ("LANG", "C.UTF-8"),
            ("COLUMNS", "140"),
            ("PYTHONDONTWRITEBYTECODE", "1"),
        ] {
            env.insert(name.to_owned(), value.to_owned());
        }
        Self { folder, env }
    }

    /// A copy of one of the project's examples.
    pub fn of_example(name: &str) -> Self {
        let place = Self::new();
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
        copy(&example, &place.path(""));
        place
    }

    pub fn path(&self, path: &str) -> PathBuf {
        let work = self.folder.path().join("work");
        if path.is_empty() { work } else { work.join(path) }
    }

    /// A path beside the working folder.
    pub fn beside(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub fn env(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.env.insert(name.into(), value.as_ref().to_string_lossy().into_owned());
        self
    }

    pub fn write(&self, path: &str, text: &str) -> &Self {
        let full = self.path(path);
        std::fs::create_dir_all(full.parent().unwrap()).unwrap();
        std::fs::write(full, text).unwrap();
        self
    }

    pub fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub fn read_json(&self, path: &str) -> Value {
        serde_json::from_str(&self.read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Writes a Python notebook of code cells; `#tag NAME` as the first line tags a cell.
    pub fn notebook(&self, path: &str, cells: &[&str]) -> &Self {
        self.notebook_of("python3", "python", path, cells)
    }

    pub fn notebook_of(&self, kernel: &str, language: &str, path: &str, cells: &[&str]) -> &Self {
        let cells: Vec<Value> = cells
            .iter()
            .enumerate()
            .map(|(index, source)| {
                let (tags, source) = match source.strip_prefix("#tag ") {
                    Some(rest) => {
                        let (tag, source) = rest.split_once('\n').unwrap_or((rest, ""));
                        (vec![tag], source)
                    }
                    None => (vec![], *source),
                };
                json!({"cell_type": "code", "execution_count": null, "id": format!("c{index}"),
                       "metadata": {"tags": tags}, "outputs": [], "source": source})
            })
            .collect();
        let notebook = json!({
            "cells": cells,
            "metadata": {"kernelspec": {"name": kernel, "display_name": kernel, "language": language}},
            "nbformat": 4, "nbformat_minor": 5,
        });
        self.write(path, &serde_json::to_string_pretty(&notebook).unwrap())
    }

    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(&self.env).current_dir(self.path("")).stdin(Stdio::null());
        command
    }

    pub fn jupyterflow(&self, args: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_jupyterflow"));
        command.args(args);
        command
    }

    pub fn run(&self, args: &[&str]) -> Ended {
        self.jupyterflow(args).output().unwrap().into()
    }

    /// Runs a command that prints a document.
    #[track_caller]
    pub fn document(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.extend(["--output", "json"]);
        self.run(&all).json()
    }

    pub fn spawn(&self, args: &[&str]) -> Running {
        self.spawn_program(env!("CARGO_BIN_EXE_jupyterflow"), args)
    }

    pub fn spawn_program(&self, program: &str, args: &[&str]) -> Running {
        let mut command = self.command(program);
        command.args(args);
        Running::of(command, self.beside("background.log"))
    }

    /// Runs a Python text with arguments.
    #[track_caller]
    pub fn python(&self, text: &str, args: &[&str]) -> String {
        let output = self.command(python()).arg("-c").arg(text).args(args).output().unwrap();
        let ended = Ended::from(output).expect(0);
        ended.stdout
    }

    /// The runs of this place, newest first, as `status` says.
    pub fn runs(&self) -> Vec<Value> {
        let status = self.document(&["status"]);
        status["runs"].as_array().cloned().unwrap_or_default()
    }
}

/// A program at work; it ends with the test.
pub struct Running {
    pub child: Child,
    log: PathBuf,
}

impl Running {
    pub fn of(mut command: Command, path: PathBuf) -> Self {
        let log = std::fs::File::create(&path).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        Self { child: command.spawn().unwrap(), log: path }
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, signal).unwrap();
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for its own end.
    #[track_caller]
    pub fn end(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let mut status = None;
        wait_for("the end of a program", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let status = status.unwrap();
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether something that a test needs is there. Without it the test is skipped aloud; in CI
/// nothing is.
pub fn has(what: &str, there: bool) -> bool {
    if !there {
        assert!(std::env::var("CI").is_err(), "CI has no {what}");
        // Not by a macro: the test runner keeps those to itself.
        let _ = std::io::Write::write_fmt(
            &mut std::io::stderr(),
            format_args!("SKIPPED: a test needs {what}\n"),
        );
    }
    there
}

/// Whether file systems can be mounted here.
pub fn can_mount() -> bool {
    has("root, to mount a small disk", rustix::process::geteuid().is_root())
}

/// Longer than anything here takes on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// Waits for a condition.
#[track_caller]
pub fn wait_for(what: &str, is_true: impl FnMut() -> bool) {
    assert!(comes_true(10, is_true), "waited in vain for {what}");
}

/// Whether a condition comes true in time, looked at with pauses of so many milliseconds.
pub fn comes_true(pause: i64, mut is_true: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !is_true() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::yield_now();
        let pause = rustix::thread::Timespec { tv_sec: 0, tv_nsec: pause * 1_000_000 };
        let _ = rustix::thread::nanosleep(&pause);
    }
    true
}

/// Processes whose environment or command line holds a text.
pub fn processes_with(text: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let holds = |file: &str| {
            let bytes = std::fs::read(format!("/proc/{id}/{file}")).unwrap_or_default();
            String::from_utf8_lossy(&bytes).contains(text)
        };
        if id != std::process::id().cast_signed() && (holds("environ") || holds("cmdline")) {
            found.push(id);
        }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            if !name.starts_with('.') && name != "jupyterflow-runs" {
                copy(&entry.path(), &target);
            }
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A place whose processes all carry a mark.
pub fn marked() -> (Place, String) {
    let mut place = Place::new();
    let mark = place.path("").display().to_string();
    place.env("JF_MARK", &mark);
    (place, mark)
}

pub fn step<'a>(run: &'a Value, name: &str) -> &'a Value {
    let steps = run["steps"].as_array().unwrap();
    steps.iter().find(|step| step["name"] == name).unwrap_or_else(|| panic!("no {name} in {run}"))
}

pub fn phases(run: &Value) -> Vec<String> {
    let steps = run["steps"].as_array().unwrap();
    steps
        .iter()
        .map(|step| {
            format!("{} {}", step["name"].as_str().unwrap(), step["phase"].as_str().unwrap())
        })
        .collect()
}

#[track_caller]
pub fn run(place: &Place, yaml: &str) -> Value {
    place.write("jupyterflow.yaml", yaml);
    place.document(&["run", "."])
}

/// The instants of croniter, by the rule for changed clocks.
pub fn oracle(questions: &Value) -> Vec<Vec<i64>> {
    let place = Place::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/schedules.py");
    let mut command = place.command(python());
    // The database of the package, not the machine's own, which may be years old.
    command
        .env("PYTHONTZPATH", "")
        .args(["-W", "ignore", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let text = questions.to_string();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut input, text.as_bytes()));
    let ended = Ended::from(child.wait_with_output().unwrap()).expect(0);
    writer.join().unwrap().unwrap();
    serde_json::from_str(&ended.stdout).unwrap()
}

/// A small generator of numbers (`SplitMix64`), so that a seed repeats a round.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below
    }
}

/// A number that whoever runs the tests may give.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
