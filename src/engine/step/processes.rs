//! Processes of a run: found by what they carry, ended without exception.
//!
//! Owns the reading of `/proc` and the two ways to end everything: by parentage, for a supervisor,
//! and by the run's environment variable, for what escaped one.

#![expect(clippy::disallowed_methods, reason = "reads /proc")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// The variable that every process of a run carries.
pub const RUN_VARIABLE: &str = "JUPYTERFLOW_RUN";

/// The variable that names an attempt's own folder: no two attempts of a run share one.
pub const OUTPUT_DIR: &str = "JUPYTERFLOW_OUTPUT_DIR";
/// The variable that the supervisor of a run carries.
pub const SUPERVISOR_VARIABLE: &str = "JUPYTERFLOW_SUPERVISED";

/// The variable that tells runs of the same name in different states apart.
pub const STATE_ID: &str = "JUPYTERFLOW_STATE_ID";

/// The id of a state, made with its first host. It moves with the state.
///
/// # Errors
/// It can neither be read nor made.
pub fn state_id(state: &Path) -> std::io::Result<String> {
    let path = state.join("hosts").join("id");
    if let Ok(id) = std::fs::read_to_string(&path) {
        return Ok(id);
    }
    let mut file = tempfile::NamedTempFile::new_in(state.join("hosts"))?;
    std::io::Write::write_all(&mut file, uuid::Uuid::new_v4().simple().to_string().as_bytes())?;
    // Whoever comes second takes the id of the first.
    let _ = file.persist_noclobber(&path);
    std::fs::read_to_string(&path)
}

/// This program, to be started once more: by its path, or as the kernel of the machine keeps it where
/// an upgrade has replaced or removed that since. What starts is always the version that asks.
///
/// # Errors
/// `/proc` cannot be read.
pub fn program() -> std::io::Result<PathBuf> {
    // Of a file that is gone the kernel says `PATH (deleted)`.
    let path = std::env::current_exe()?;
    Ok(if path.exists() { path } else { PathBuf::from("/proc/self/exe") })
}

/// All processes of a state whose environment holds `name=value`, but for this one.
pub fn carrying(state: &str, name: &str, value: &str) -> Vec<Pid> {
    let wanted = [format!("{STATE_ID}={state}"), format!("{name}={value}")];
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    numbered().filter(|id| *id != own && carries(id, &wanted)).filter_map(Pid::from_raw).collect()
}

/// Ends all processes that carry a run's name, and waits until none is left.
///
/// # Errors
/// Some live on after ten seconds.
pub fn end_all_of_run(state: &Path, run: &str) -> Result<(), String> {
    let id = state_id(state).map_err(|error| error.to_string())?;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left = carrying(&id, RUN_VARIABLE, run);
        if left.is_empty() {
            return Ok(());
        }
        for process in &left {
            let _ = kill_process(*process, Signal::KILL);
        }
        if Instant::now() > deadline {
            let ids: Vec<String> = left.iter().map(|id| id.as_raw_nonzero().to_string()).collect();
            return Err(format!("processes {} of an earlier host do not end", ids.join(", ")));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Ends processes that an attempt left behind and that became children of this process, which is
/// a subreaper: those whose environment holds `name=value`, generation after generation.
pub fn end_strays(name: &str, value: &str) {
    let wanted = [format!("{name}={value}")];
    loop {
        let strays = children().into_iter().filter(|id| carries(id.as_raw_nonzero(), &wanted));
        let strays: Vec<Pid> = strays.collect();
        if strays.is_empty() {
            return;
        }
        for stray in strays {
            let _ = kill_process(stray, Signal::KILL);
            let _ = waitpid(Some(stray), WaitOptions::empty());
        }
    }
}

/// Whether the environment of a process holds all wanted entries.
fn carries(id: impl std::fmt::Display, wanted: &[String]) -> bool {
    let environment = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
    let holds = |wanted: &String| {
        environment.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes())
    };
    wanted.iter().all(holds)
}

/// The children of this process, those that it inherited included.
pub fn children() -> Vec<Pid> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let mut listed = false;
    let mut found = Vec::new();
    for thread in threads {
        if let Ok(text) = std::fs::read_to_string(thread.path().join("children")) {
            listed = true;
            found.extend(text.split_whitespace().filter_map(|id| Pid::from_raw(id.parse().ok()?)));
        }
    }
    if listed { found } else { children_by_scan() }
}

/// The same on a system that does not list them.
fn children_by_scan() -> Vec<Pid> {
    let own = std::process::id();
    numbered()
        .filter(|id| {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            // The name, in parentheses, may hold anything; the parent is the second field after it.
            let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
            after.split_whitespace().nth(1).and_then(|id| id.parse::<u32>().ok()) == Some(own)
        })
        .filter_map(Pid::from_raw)
        .collect()
}

/// The ids of all processes.
fn numbered() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()?.parse().ok())
}
