//! What goes wrong in a pass of the controller.
//!
//! Owns when it is tried again. It holds up nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::types::Timestamp;

/// What failed is tried again after so long, what another was first at after less.
const AGAIN: Duration = Duration::from_secs(5);
const LACKING: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_millis(300);

/// What went wrong in a pass, and holds up nothing else.
#[derive(Default)]
pub struct Troubles {
    /// In words.
    pub words: BTreeSet<String>,
    /// When a commit may come into force without any poll.
    pub next: Option<Timestamp>,
    /// Whether the next pass has more to do at once: another was first at something, or a person asked.
    pub soon: bool,
    /// Whether a run was released that has not begun: Argo may have missed it, and tells nothing then.
    pub waits: bool,
    /// When to look at pods that do not begin.
    pub pods: Option<Duration>,
    /// Whether a person has to provide something.
    pub lacks: bool,
}

impl Troubles {
    /// Takes note of one.
    pub fn note(&mut self, error: impl std::fmt::Display) {
        self.words.insert(error.to_string());
    }

    /// What was done, or nothing.
    pub fn of<T: Default>(&mut self, done: Result<T, impl std::fmt::Display>) -> T {
        done.unwrap_or_else(|error| {
            self.note(error);
            T::default()
        })
    }

    /// All that was done, each for itself.
    pub fn of_each<T>(&mut self, all: Vec<Result<T, String>>) -> Vec<T> {
        all.into_iter().filter_map(|done| done.map_err(|error| self.note(error)).ok()).collect()
    }

    /// When to try again though nothing tells that it may do better.
    pub fn tries(&self, now: Timestamp) -> impl Iterator<Item = Timestamp> + use<> {
        let again = (self.waits || !self.words.is_empty()).then_some(AGAIN);
        let soon = self.soon.then_some(SOON);
        let lacks = self.lacks.then_some(LACKING);
        again
            .into_iter()
            .chain(soon)
            .chain(lacks)
            .chain(self.pods)
            .filter_map(move |length| now.checked_add(length).ok())
            .chain(self.next)
    }
}
