//! The rules of ARCHITECTURE.md that a compiler does not hold: who may import whom, what the core
//! never touches, how modules open, how long files are.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test reads the tree and says what it expects by failing"
)]

use std::path::{Path, PathBuf};

/// Rooms, each with the rooms that it may import. The more telling prefix comes first.
const ROOMS: [(&str, &[&str]); 18] = [
    ("types", &[]),
    ("notebook", &["types"]),
    ("schedule", &["types"]),
    ("spec", &["types", "notebook", "schedule"]),
    ("plan", &["types", "notebook", "schedule", "spec"]),
    // Ports and, below them, their adapters: ports of others, never adapters of others.
    ("source", &["types", "notebook", "spec", "schedule", "plan", "source"]),
    ("store", &["types", "notebook", "spec", "schedule", "plan", "store"]),
    ("executor", &["types", "notebook", "executor"]),
    ("check", &["types", "spec", "plan", "check"]),
    ("web", &["types", "web"]),
    ("jupyterhub", &["types", "jupyterhub"]),
    (
        "controller",
        &[
            "types",
            "notebook",
            "spec",
            "schedule",
            "plan",
            "source",
            "store",
            "engine",
            "controller",
        ],
    ),
    (
        "engine",
        &["types", "notebook", "spec", "schedule", "plan", "engine", "source", "store", "executor"],
    ),
    (
        "reconcile",
        &[
            "types",
            "notebook",
            "spec",
            "schedule",
            "plan",
            "engine",
            "source",
            "store",
            "check",
            "reconcile",
        ],
    ),
    (
        "cli",
        &[
            "types",
            "notebook",
            "spec",
            "schedule",
            "plan",
            "engine",
            "source",
            "store",
            "check",
            "executor",
            "reconcile",
            "web",
            "jupyterhub",
            "controller",
            "cli",
        ],
    ),
    // A world in which the loop runs: its ports, never their adapters.
    (
        "sim",
        &[
            "types",
            "notebook",
            "spec",
            "schedule",
            "plan",
            "engine",
            "source",
            "store",
            "check",
            "reconcile",
            "sim",
        ],
    ),
    ("lib", &[]),
    ("main", &["cli"]),
];

/// Adapters by name: only the command line wires them.
const ADAPTERS: [&str; 6] =
    ["SqliteStore", "DirectorySource", "GitSource", "LocalEngine", "ArgoEngine", "HttpChecks"];

const CORE: [&str; 5] = ["types", "notebook", "schedule", "spec", "plan"];

/// What the core never touches: the clock, files, the network, processes, the environment.
const OUTSIDE: [&str; 12] = [
    "std::fs",
    "std::net",
    "std::env::",
    "std::process",
    "SystemTime",
    "Instant::now",
    "Timestamp::now",
    "tokio",
    "rusqlite",
    "zeromq",
    "async fn",
    ".await",
];

fn files(folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut stack = vec![root.join(folder)];
    while let Some(folder) = stack.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                stack.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root).unwrap().to_owned(), text));
            }
        }
    }
    assert!(found.len() > 5, "no files below {folder}");
    found
}

/// The part of a file that is not tests.
fn without_tests(text: &str) -> &str {
    text.find("#[cfg(test)]").map_or(text, |at| &text[..at])
}

fn room(path: &Path) -> String {
    let part = path.components().nth(1).unwrap().as_os_str().to_string_lossy().into_owned();
    part.trim_end_matches(".rs").to_owned()
}

fn is_test_file(path: &Path) -> bool {
    path.file_stem().unwrap().to_string_lossy().ends_with("_tests")
}

#[test]
fn rooms_import_only_what_they_may() {
    for (path, text) in files("src") {
        let own = room(&path);
        let allowed = ROOMS.iter().find(|(name, _)| *name == own);
        let (_, allowed) =
            allowed.unwrap_or_else(|| panic!("{} is in no known room", path.display()));
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for rest in code.split("crate::").skip(1) {
                let other = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
                let fine = other == own
                    || allowed.contains(&other)
                    || ROOMS.iter().all(|(name, _)| *name != other);
                assert!(fine, "{}:{}: `{own}` imports `{other}`", path.display(), number + 1);
            }
        }
    }
}

#[test]
fn only_the_command_line_wires_adapters() {
    for (path, text) in files("src") {
        let own = room(&path);
        let home = |adapter: &str| match adapter {
            "SqliteStore" => "store",
            "DirectorySource" | "GitSource" => "source",
            "HttpChecks" => "check",
            _ => "engine",
        };
        for adapter in ADAPTERS {
            let named = without_tests(&text).contains(adapter);
            assert!(
                !named || own == "cli" || own == home(adapter),
                "{} names the adapter {adapter}",
                path.display()
            );
        }
        let executes = path.starts_with("src/engine") && own == "engine";
        if own == "executor" || executes || own == "cli" || own == "lib" {
            continue;
        }
        assert!(!text.contains("crate::executor"), "{} imports the executor", path.display());
    }
}

#[test]
fn the_core_touches_nothing_outside() {
    for (path, text) in files("src") {
        if !CORE.contains(&room(&path).as_str()) || is_test_file(&path) {
            continue;
        }
        for (number, line) in without_tests(&text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in OUTSIDE {
                assert!(!code.contains(word), "{}:{}: {word}", path.display(), number + 1);
            }
        }
    }
}

#[test]
fn only_the_executor_speaks_the_protocol_of_jupyter() {
    for (path, text) in files("src") {
        if room(&path) != "executor" {
            for word in ["zeromq", "execute_request", "msg_type"] {
                assert!(!without_tests(&text).contains(word), "{}: {word}", path.display());
            }
        }
    }
}

#[test]
fn only_the_rooms_of_the_cluster_know_kubernetes() {
    for (path, text) in files("src") {
        let own = room(&path);
        let knows = path.starts_with("src/engine/argo")
            || ["jupyterhub", "controller", "cli"].contains(&own.as_str());
        for word in ["kube::", "k8s_openapi"] {
            assert!(knows || !without_tests(&text).contains(word), "{}: {word}", path.display());
        }
    }
}

#[test]
fn modules_say_what_they_own_and_are_short() {
    for (path, text) in files("src").into_iter().chain(files("tests")) {
        assert!(text.starts_with("//!"), "{} does not open with what it owns", path.display());
        let lines = without_tests(&text).lines().count();
        let all = text.lines().count();
        assert!(lines <= 600, "{} has {lines} lines without tests: split it", path.display());
        assert!(all <= 800, "{} has {all} lines: move its tests", path.display());
    }
}

#[test]
fn nothing_is_left_for_later_in_the_code() {
    let here = Path::new(file!());
    for (path, text) in files("src").into_iter().chain(files("tests")) {
        if path == here {
            continue;
        }
        for word in ["todo!(", "unimplemented!(", "#[ignore", "TODO", "FIXME", "XXX"] {
            assert!(!text.contains(word), "{}: {word}", path.display());
        }
    }
}
