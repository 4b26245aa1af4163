//! One attempt of a step: a process group from start to end, in a thread of its own.
//!
//! Owns the process, its time limit and its end. What it should run, and what follows from how it
//! ended, is decided elsewhere.

#![expect(unsafe_code, reason = "the child asks the kernel of the machine to die with its host")]
#![expect(clippy::disallowed_methods, reason = "starts the step's process")]

use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::board::{AttemptEnd, KILLED};
use super::environment::environment;
use super::leftovers::{Before, Places, collect, read_report, write_outputs};
use super::processes::{self, OUTPUT_DIR};
use crate::executor::EndingPhase;
use crate::notebook::Notebook;
use crate::notebook::render;
use crate::spec::Step;

/// Between a polite signal and one that cannot be ignored.
const GRACE: Duration = Duration::from_secs(10);

/// Everything that an attempt needs, resolved.
pub struct Invocation {
    /// The root that the step's paths are relative to.
    pub root: PathBuf,
    /// The root that results' paths are relative to.
    pub results: PathBuf,
    /// What of it goes with the attempt.
    pub fresh: Option<PathBuf>,
    /// The state's folder.
    pub state: PathBuf,
    /// The pipeline's folder, relative to the root.
    pub folder: String,
    /// The step.
    pub step: Step,
    /// Whether it is a point of a sweep.
    pub in_sweep: bool,
    /// Its places.
    pub places: Places,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Variables on top of the host's own.
    pub env: Vec<(String, String)>,
    /// The working directory.
    pub workdir: PathBuf,
    /// Whether it executes a notebook.
    pub is_notebook: bool,
    /// The attempt's number.
    pub attempt: u64,
}

/// How a process came to its end.
enum End {
    Own(ExitStatus),
    TimedOut(Duration),
    Stopped,
}

/// Runs an attempt to its end. `stop` ends it early.
pub fn run(invocation: &Invocation, stop: &Arc<AtomicBool>) -> AttemptEnd {
    let end = run_in_place(invocation, stop);
    if let Some(folder) = &invocation.fresh {
        let _ = std::fs::remove_dir_all(folder);
    }
    end
}

fn run_in_place(invocation: &Invocation, stop: &Arc<AtomicBool>) -> AttemptEnd {
    let Invocation { root, folder, step, places, .. } = invocation;
    let before = Before::new(root, folder, step);
    let limit = step.timeout().map(crate::types::Period::duration);
    let deadline = limit.map(|limit| Instant::now() + limit);
    let mut child = match start(invocation, stop, deadline) {
        Ok(child) => child,
        Err(_) if stop.load(Ordering::Relaxed) => return AttemptEnd::Stopped,
        Err(message) => return AttemptEnd::failed(message),
    };
    let files = places.files.to_string_lossy();
    let ended = wait(&mut child, limit, deadline, stop);
    // What left the group of the attempt ends before anybody counts it as over.
    processes::end_strays(OUTPUT_DIR, &files);
    let status = match ended {
        Ok(End::Own(status)) => status,
        Ok(End::TimedOut(limit)) => {
            let message = format!("the attempt took longer than {} s", limit.as_secs());
            return finish(invocation, &before, Some(message), None);
        }
        Ok(End::Stopped) => {
            let _ = finish(invocation, &before, Some("stopped".into()), None);
            return AttemptEnd::Stopped;
        }
        Err(error) => return AttemptEnd::failed(format!("failed to wait for the step: {error}")),
    };
    let report = read_report(&places.report);
    let lost = report.as_ref().is_some_and(|report| report.phase == EndingPhase::Interrupted);
    // A process that was killed from outside did not fail by itself. Of a notebook, exec says so.
    if lost || status.signal() == Some(9) || (invocation.is_notebook && status.signal().is_some()) {
        places.clean();
        return AttemptEnd::Lost(KILLED.into());
    }
    let message = (!status.success()).then(|| {
        let said = report.and_then(|report| report.message);
        said.unwrap_or_else(|| match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, signal) => format!("killed by signal {}", signal.unwrap_or_default()),
        })
    });
    finish(invocation, &before, message, status.code())
}

/// Collects what the attempt left and writes its reports.
fn finish(
    invocation: &Invocation,
    before: &Before,
    failure: Option<String>,
    exit_code: Option<i32>,
) -> AttemptEnd {
    let Invocation { root, results, folder, step, places, .. } = invocation;
    let roots = (root.as_path(), results.as_path());
    let (mut left, missing) = collect(roots, folder, step, invocation.in_sweep, places, before);
    if invocation.is_notebook {
        left.notebook = render_notebook(places);
    }
    let message = failure.or(missing);
    let phase = if message.is_some() { EndingPhase::Failed } else { EndingPhase::Succeeded };
    write_outputs(places, phase, message.clone(), &left);
    places.clean();
    match message {
        None => AttemptEnd::Succeeded(left),
        Some(message) => AttemptEnd::Failed { exit_code, message, left },
    }
}

fn render_notebook(places: &Places) -> Option<String> {
    let path = places.folder.join("notebook.ipynb");
    let text = std::fs::read_to_string(&path).ok()?;
    if let Ok(notebook) = Notebook::read(&text) {
        let title = places.relative.rsplit('/').next().unwrap_or_default();
        let html = render::html(&notebook, title);
        let _ = crate::executor::write_whole(&places.folder.join("notebook.html"), html.as_bytes());
    }
    Some(format!("{}/notebook.ipynb", places.relative))
}

fn start(
    invocation: &Invocation,
    stop: &Arc<AtomicBool>,
    deadline: Option<Instant>,
) -> Result<Child, String> {
    let Invocation { places, step, .. } = invocation;
    let mut log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&places.log)
        .map_err(|error| format!("failed to open the log: {error}"))?;
    if invocation.attempt > 1 {
        let _ = writeln!(log, "[jupyterflow: attempt {}]", invocation.attempt);
    }
    let mut command = Command::new(&invocation.command[0]);
    command
        .args(&invocation.command[1..])
        .current_dir(&invocation.workdir)
        .envs(invocation.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .process_group(0);
    if let Some(requirements) = step.requirements() {
        let file = invocation.root.join(requirements.as_str());
        let ends = || {
            let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            let stopped = stop.load(Ordering::Relaxed).then(|| "stopped".to_owned());
            let late =
                late.then(|| "making its environment took longer than the timeout".to_owned());
            stopped.or(late)
        };
        let state = &invocation.state;
        let folder = environment(state, &file, invocation.is_notebook, &mut log, &ends)?;
        enter(&mut command, &folder);
    }
    let errors = log.try_clone().map_err(|error| error.to_string())?;
    command.stdout(log).stderr(errors);
    // SAFETY: between fork and exec only one system call is made, which is async-signal-safe. The
    // thread that forks lives as long as the attempt, so the signal means what it says.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            Ok(())
        });
    }
    command.spawn().map_err(|error| {
        let folder = invocation.workdir.display();
        format!("failed to start {:?} in {folder}: {error}", invocation.command[0])
    })
}

/// Activates a virtual environment.
fn enter(command: &mut Command, folder: &Path) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let bin = std::iter::once(folder.join("bin"));
    if let Ok(path) = std::env::join_paths(bin.chain(std::env::split_paths(&path))) {
        command.env("PATH", path);
    }
    command.env("VIRTUAL_ENV", folder).env_remove("PYTHONHOME");
}

/// Waits for the end of a process, its time limit or a stop, whichever comes first. Its process
/// group is gone afterwards.
fn wait(
    child: &mut Child,
    limit: Option<Duration>,
    deadline: Option<Instant>,
    stop: &Arc<AtomicBool>,
) -> std::io::Result<End> {
    let id = Pid::from_child(child);
    let handle = pidfd_open(id, PidfdFlags::empty())?;
    let ended = |pause: Duration| {
        let mut wanted = [PollFd::new(&handle, PollFlags::IN)];
        let pause = Timespec::try_from(pause).ok();
        matches!(poll(&mut wanted, pause.as_ref()), Ok(1))
    };
    let reason = loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if ended(left.unwrap_or(Duration::MAX).min(Duration::from_millis(100))) {
            break None;
        }
        if stop.load(Ordering::Relaxed) {
            break Some(End::Stopped);
        }
        if left == Some(Duration::ZERO) {
            break Some(End::TimedOut(limit.unwrap_or_default()));
        }
    };
    if reason.is_some() {
        let _ = kill_process_group(id, Signal::TERM);
        let patience = Instant::now() + GRACE;
        while Instant::now() < patience && !ended(Duration::from_millis(100)) {}
    }
    // Children that the step left in its group end with it.
    let _ = kill_process_group(id, Signal::KILL);
    let status = child.wait()?;
    Ok(reason.unwrap_or(End::Own(status)))
}
