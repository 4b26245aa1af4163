//! Cached virtual environments from requirements files.
//!
//! Owns their place, one for each content of a file and each Python, and how they are made: by uv
//! where it is installed, else by venv and pip.

#![expect(clippy::disallowed_methods, reason = "makes virtual environments")]

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal};

use crate::types::Digest;

/// How often it is asked whether the attempt must end.
const LOOK: Duration = Duration::from_millis(50);

/// The environment for a requirements file, made now if it is not there. `log` gets what the
/// installer says; `ends` says why the attempt must end, if it must.
///
/// # Errors
/// Says what failed, with the last lines of the installer.
pub fn environment(
    state: &Path,
    requirements: &Path,
    notebook: bool,
    log: &mut std::fs::File,
    ends: &dyn Fn() -> Option<String>,
) -> Result<PathBuf, String> {
    let text = std::fs::read(requirements)
        .map_err(|error| format!("failed to read {}: {error}", requirements.display()))?;
    let python = Command::new("python3").arg("--version").output();
    let python = python.map_err(|error| format!("failed to run python3: {error}"))?.stdout;
    let key = Digest::of_bytes(&[text.as_slice(), &python, &[u8::from(notebook)]].concat());
    let folder = state.join("environments").join(key.short());
    let complete = folder.join(".complete");
    std::fs::create_dir_all(state.join("environments")).map_err(|error| error.to_string())?;
    // Whoever comes second waits for the first, then finds it done.
    let lock =
        std::fs::File::create(state.join("environments").join(format!("{}.lock", key.short())))
            .map_err(|error| error.to_string())?;
    while rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        if let Some(reason) = ends() {
            return Err(reason);
        }
        std::thread::sleep(LOOK);
    }
    if complete.is_file() {
        return Ok(folder);
    }
    let _ = std::fs::remove_dir_all(&folder);
    let _ = writeln!(log, "[jupyterflow: making an environment for {}]", requirements.display());
    let uv =
        Command::new("uv").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let with_uv = uv.is_ok_and(|status| status.success());
    let mut make = if with_uv { Command::new("uv") } else { Command::new("python3") };
    make.args(if with_uv { &["venv", "-q"][..] } else { &["-m", "venv"][..] }).arg(&folder);
    run(&mut make, log, ends)?;
    let python = folder.join("bin/python");
    let mut install = if with_uv { Command::new("uv") } else { Command::new(&python) };
    if with_uv {
        install.args(["pip", "install", "-q", "--python"]).arg(&python);
    } else {
        install.args(["-m", "pip", "install", "-q", "--disable-pip-version-check"]);
    }
    install.arg("-r").arg(requirements);
    if notebook {
        install.arg("ipykernel");
    }
    let folder_of_file = requirements.parent().unwrap_or(state);
    run(install.current_dir(folder_of_file), log, ends)?;
    std::fs::write(&complete, "").map_err(|error| error.to_string())?;
    Ok(folder)
}

/// Runs an installer to its end, or until the attempt must end.
fn run(
    command: &mut Command,
    log: &std::fs::File,
    ends: &dyn Fn() -> Option<String>,
) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |error: std::io::Error| format!("failed to run {program}: {error}");
    let mut errors = tempfile::tempfile().map_err(failed)?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(failed)?)
        .stderr(errors.try_clone().map_err(failed)?)
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        if let Some(reason) = ends() {
            let _ = rustix::process::kill_process_group(Pid::from_child(&child), Signal::KILL);
            let _ = child.wait();
            return Err(reason);
        }
        std::thread::sleep(LOOK);
    };
    let mut text = String::new();
    let _ = errors.seek(SeekFrom::Start(0)).and_then(|_| errors.read_to_string(&mut text));
    let mut log = log;
    let _ = log.write_all(text.as_bytes());
    if status.success() {
        return Ok(());
    }
    let last: Vec<&str> = text.lines().rev().take(3).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    Err(format!("failed to make the environment: {program}: {}", last.join("; ")))
}
