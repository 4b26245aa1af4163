//! Processes of a run: found by what they carry, ended without exception.
//!
//! Owns the reading of `/proc` and the two ways to end everything: by parentage, for a supervisor,
//! and by the run's environment variable, for what escaped one.

#![expect(clippy::disallowed_methods, reason = "reads /proc")]

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The variable that every process of a run carries.
pub const RUN_VARIABLE: &str = "JUPYTERFLOW_RUN";

/// The variable that the supervisor of a run carries.
pub const SUPERVISOR_VARIABLE: &str = "JUPYTERFLOW_SUPERVISED";

/// All processes whose environment holds `name=value`, but for this one.
pub fn carrying(name: &str, value: &str) -> Vec<Pid> {
    let wanted = format!("{name}={value}");
    let own = std::process::id().to_string();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|id| *id != own && id.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(|id| {
            let environment = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes())
        })
        .filter_map(|id| Pid::from_raw(id.parse().ok()?))
        .collect()
}

/// Ends all processes that carry a run's name, and waits until none is left.
///
/// # Errors
/// Some live on after ten seconds.
pub fn end_all_of_run(run: &str) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left = carrying(RUN_VARIABLE, run);
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

/// The children of this process, those that it inherited included.
pub fn children() -> Vec<Pid> {
    let own = std::process::id();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok()?.parse::<i32>().ok())
        .filter(|id| {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            // The name, in parentheses, may hold anything; the parent is the second field after it.
            let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
            after.split_whitespace().nth(1).and_then(|id| id.parse::<u32>().ok()) == Some(own)
        })
        .filter_map(Pid::from_raw)
        .collect()
}
