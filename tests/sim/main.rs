//! The simulator: scripts whose transcripts lie in `tests/cases`, to be read as documentation, and
//! rounds of random faults with a judge that knows nothing of our planner.
//!
//! `BLESS=1` writes the transcripts as they come out. `ROUNDS` (default 150) random rounds, `SEED` to
//! repeat one.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    dead_code,
    reason = "a test says what it expects by failing, and shares its support with others"
)]

mod claims;
mod handles;
mod judge;
mod planted;
mod rounds;
mod script;
mod server;
#[path = "../it/support.rs"]
mod support;
mod year;

use std::path::{Path, PathBuf};

use support::oracle;

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries.collect();
    found.sort();
    assert!(found.iter().all(|path| path.extension().is_some_and(|end| end == "txt")));
    found
}

#[test]
fn scripts_give_their_transcripts() {
    let cases = cases();
    assert!(cases.len() >= 10, "{cases:?}");
    let mut wrong = Vec::new();
    for path in cases {
        let wanted = std::fs::read_to_string(&path).unwrap();
        let found = script::transcript(&wanted);
        if found == wanted {
            continue;
        }
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &found).unwrap();
            continue;
        }
        let differs = wanted.lines().zip(found.lines()).position(|(one, other)| one != other);
        let line = differs.unwrap_or(wanted.lines().count().min(found.lines().count()));
        let at = |text: &str| text.lines().nth(line).unwrap_or("nothing").to_owned();
        let (name, line) = (path.display(), line + 1);
        wrong.push(format!("{name}:{line}: {:?} instead of {:?}", at(&found), at(&wanted)));
    }
    assert!(wrong.is_empty(), "BLESS=1 writes what came out\n{}", wrong.join("\n"));
}
