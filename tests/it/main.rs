//! The program from outside: its commands, documents, files and exit codes, on real notebooks,
//! real kernels and real processes.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test says what it expects by failing"
)]

mod against_papermill;
mod commands;
mod directory;
mod examples;
mod exec;
mod faults;
mod file;
mod forge;
mod git;
mod git_faults;
mod gitea;
mod kernels;
mod ledger;
mod notebooks;
mod remote;
mod repository;
mod runs;
mod schedules;
mod served;
mod signed;
mod source;
mod support;
mod triggers;
mod volumes;

/// A test file that nobody lists would never run.
#[test]
fn every_file_is_listed() {
    let main = include_str!("main.rs");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it");
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(stem) = name.strip_suffix(".rs") else { continue };
        assert!(stem == "main" || main.contains(&format!("mod {stem};")), "{name} is not listed");
    }
}
