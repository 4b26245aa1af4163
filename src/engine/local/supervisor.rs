//! The supervisor: a small process over a host that leaves nothing behind.
//!
//! Owns the run's lock and, as a child subreaper, every descendant of the host. When the host ends,
//! however that happens, all of them end too, before the lock is free.

#![expect(
    unsafe_code,
    reason = "the host asks the kernel of the machine to die with its supervisor"
)]
#![expect(clippy::disallowed_methods, reason = "starts the host and holds its lock")]

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, wait, waitpid};

use crate::engine::step::processes;
use crate::types::RunName;

/// The lock that says that a run has a host.
pub fn lock_path(state: &Path, run: &RunName) -> PathBuf {
    state.join("hosts").join(format!("{run}.lock"))
}

/// Runs a host to its end; returns its exit code. Without effect where the run has a host.
///
/// # Errors
/// The host could not be started.
pub fn supervise(state: &Path, root: &Path, run: &RunName, jobs: usize) -> Result<i32, String> {
    let path = lock_path(state, run);
    let lock = std::fs::File::create(&path).map_err(|error| error.to_string())?;
    if !take(&lock) {
        return Ok(0);
    }
    set_child_subreaper(Some(rustix::process::getpid())).map_err(|error| error.to_string())?;
    processes::end_all_of_run(state, run.as_str())?;
    let ended = Arc::new(AtomicBool::new(false));
    for signal in
        [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP]
    {
        signal_hook::flag::register(signal, Arc::clone(&ended))
            .map_err(|error| error.to_string())?;
    }
    let at_once = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGQUIT, Arc::clone(&at_once))
        .map_err(|error| error.to_string())?;
    let program = processes::program().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command
        .env_remove(processes::SUPERVISOR_VARIABLE)
        .arg("internal-host")
        .arg("--state")
        .arg(state)
        .arg("--root")
        .arg(root);
    command.arg("--jobs").arg(jobs.to_string()).arg(run.as_str());
    // SAFETY: between fork and exec only one system call is made, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            Ok(())
        });
    }
    let host = command.spawn().map_err(|error| error.to_string())?;
    let host = Pid::from_child(&host);
    let mut told = false;
    let code = loop {
        if ended.load(Ordering::Relaxed) && !std::mem::replace(&mut told, true) {
            let _ = kill_process(host, Signal::TERM);
        }
        if at_once.load(Ordering::Relaxed) {
            let _ = kill_process(host, Signal::KILL);
        }
        // Inherited children are reaped too, or they would stay as zombies until the end.
        match wait(WaitOptions::NOHANG) {
            Ok(Some((id, status))) if id == host => {
                let status = std::process::ExitStatus::from_raw(status.as_raw());
                break status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            }
            Ok(Some(_)) => {}
            Ok(None) => std::thread::sleep(Duration::from_millis(20)),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.to_string()),
        }
    };
    end_descendants();
    drop(lock);
    Ok(code)
}

/// Takes the lock. Whoever looks at it holds it for a moment too, so one refusal says nothing.
fn take(lock: &std::fs::File) -> bool {
    let deadline = Instant::now() + Duration::from_millis(300);
    while rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Ends all descendants: each generation becomes ours when its parents are gone.
fn end_descendants() {
    loop {
        let children = processes::children();
        if children.is_empty() {
            return;
        }
        for child in children {
            let _ = kill_process(child, Signal::KILL);
            let _ = waitpid(Some(child), WaitOptions::empty());
        }
    }
}
