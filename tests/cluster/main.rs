//! Pipelines on a real cluster: a real API server, the real controller of Argo Workflows, real pods.
//!
//! `tests/cluster/with cargo test --test cluster` starts one and ends it; `make test` does so.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test says what it expects by failing"
)]

mod alone;
mod claims;
mod clocks;
mod controller;
mod engines;
mod export;
mod faults;
mod git;
mod hub;
mod objects;
mod packaging;
mod people;
mod proxy;
#[path = "../it/repository.rs"]
#[expect(dead_code, reason = "shared with the tests of one machine")]
mod repository;
mod resources;
mod store;
#[path = "../it/support.rs"]
#[expect(dead_code, reason = "shared with the tests of one machine")]
mod support;
mod tenants;
mod user;

/// A test file that nobody lists would never run.
#[test]
fn every_file_is_listed() {
    let main = include_str!("main.rs");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster");
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(module) = name.strip_suffix(".rs").filter(|module| *module != "main") {
            assert!(main.contains(&format!("mod {module};")), "{module} is not listed");
        }
    }
}
