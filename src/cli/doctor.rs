//! `doctor`: what this machine has, what is missing, and how to get it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

use super::cluster;
use super::error::{CliError, Code};
use super::global::Global;
use super::place::Place;
use super::print;
use crate::executor;
use crate::store::{EngineName, Journal, SqliteStore};

/// Say what is missing on this machine and how to get it
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The folder whose state is meant
    #[arg(default_value = ".")]
    path: PathBuf,
}

#[derive(Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    needed: bool,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global) -> Result<Code, CliError> {
    let place = Place::find(&args.path, global.state.as_deref())?;
    let checks = [
        kernels(),
        program("python3", "--version", "for Python notebooks: install Python 3.9 or newer"),
        program(
            "uv",
            "--version",
            "environments from requirements are made faster: pip install uv",
        ),
        shell(),
        processes(),
        state(&place.state),
        cluster(global),
    ];
    let row = |check: &Check| {
        let word = match (check.ok, check.needed) {
            (true, _) => "ok",
            (false, true) => "missing",
            (false, false) => "optional",
        };
        let hint = check.hint.filter(|_| !check.ok).unwrap_or_default();
        vec![check.name.to_owned(), word.to_owned(), check.message.clone(), hint.to_owned()]
    };
    let table = || {
        print::table(&["CHECK", "STATE", "FOUND", "WHAT TO DO"], checks.iter().map(row).collect())
    };
    let names = || {
        let missing = checks.iter().filter(|check| !check.ok && check.needed);
        missing.map(|check| check.name.to_owned()).collect()
    };
    print::document(global.output, "CheckList", &checks, table, names)?;
    let bad = checks.iter().any(|check| check.needed && !check.ok);
    Ok(if bad { Code::Unreachable } else { Code::Done })
}

fn kernels() -> Check {
    let kernels = executor::installed();
    let names: Vec<String> = kernels.iter().map(|kernel| kernel.name.clone()).collect();
    let message = if names.is_empty() { "none".into() } else { names.join(", ") };
    let hint = Some("for Python: pip install ipykernel");
    Check { name: "kernels", ok: !names.is_empty(), needed: true, message, hint }
}

/// Whether runs can go to a cluster from here.
fn cluster(global: &Global) -> Check {
    let chosen = cluster::chosen(global);
    let ok = matches!(chosen, Ok((EngineName::Argo, _)));
    let message = match chosen {
        Ok((_, why)) => why,
        Err(error) => error.message(),
    };
    let hint = Some("in a Jupyter pod: ask for what `jupyterflow generate rbac` prints");
    Check { name: "cluster", ok, needed: false, message, hint }
}

fn program(name: &'static str, argument: &str, hint: &'static str) -> Check {
    let output = Command::new(name).arg(argument).output();
    let (ok, message) = match output {
        Ok(output) if output.status.success() => {
            (true, String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        Ok(output) => (false, format!("it ends with {}", output.status)),
        Err(error) => (false, error.to_string()),
    };
    Check { name, ok, needed: false, message, hint: Some(hint) }
}

fn shell() -> Check {
    let mut check = program("sh", "-ec", "commands run in sh");
    let works = Command::new("sh").args(["-ec", ":"]).status().is_ok_and(|status| status.success());
    (check.ok, check.needed) = (works, true);
    check.message = if works { "sh".into() } else { "none".into() };
    check
}

fn processes() -> Check {
    let ok = Path::new("/proc/self/environ").exists();
    let message = if ok { "/proc" } else { "no /proc" }.to_owned();
    let hint = Some("left-over processes are found in /proc: mount it");
    Check { name: "processes", ok, needed: true, message, hint }
}

fn state(state: &Path) -> Check {
    let name = "state";
    let there = state.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/"));
    let journal = match Journal::for_folder(there) {
        Journal::WriteAhead => "a local file system",
        Journal::Rollback => "a network file system: rollback journal",
    };
    let writable = rustix::fs::access(there, rustix::fs::Access::WRITE_OK).is_ok();
    let hint = Some("name a folder of your own with --state or $JUPYTERFLOW_STATE");
    let (ok, message) = match SqliteStore::open_to_read(state) {
        Err(error) => (false, error.to_string()),
        Ok(_) if !writable => (false, format!("{} cannot be written", there.display())),
        Ok(Some(_)) => (true, format!("{} on {journal}", state.display())),
        Ok(None) => (true, format!("none yet, would be {} on {journal}", state.display())),
    };
    Check { name, ok, needed: true, message, hint }
}
