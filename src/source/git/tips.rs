//! Which commit of a branch is in force.
//!
//! Owns the rule that a branch that seems to go back must stand: a lagging replica, or a second
//! controller's stale answer, cannot flip a pipeline to and fro.

use serde::{Deserialize, Serialize};

use crate::types::{Period, Timestamp};

/// So many earlier tips are remembered.
const REMEMBERED: usize = 100;

/// A commit that a branch names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tip {
    /// Its id, in hexadecimal.
    pub commit: String,
    /// When it was committed, in seconds, by the committer's clock.
    pub time: i64,
}

/// The tips of one branch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tips {
    /// The one in force.
    pub accepted: Option<Tip>,
    /// Those that were before, oldest first.
    seen: Vec<String>,
    /// One that would go back, and since when it stands.
    pending: Option<(String, Timestamp)>,
}

impl Tips {
    /// Takes note of what a server answered. One that was in force before, or is older than what is,
    /// is accepted once it stood for `patience`.
    pub fn observe(&mut self, tip: Tip, patience: Period, now: Timestamp) {
        let Some(accepted) = &self.accepted else {
            self.accepted = Some(tip);
            return;
        };
        if accepted.commit == tip.commit {
            self.accepted = Some(tip);
            self.pending = None;
            return;
        }
        if self.seen.contains(&tip.commit) || tip.time < accepted.time {
            let since = match &self.pending {
                Some((commit, since)) if *commit == tip.commit && *since <= now => *since,
                _ => now,
            };
            let stood = now.duration_since(since).as_secs();
            if stood < i64::try_from(patience.seconds()).unwrap_or(i64::MAX) {
                self.pending = Some((tip.commit, since));
                return;
            }
        }
        let before = self.accepted.replace(tip);
        self.seen.extend(before.map(|tip| tip.commit));
        let surplus = self.seen.len().saturating_sub(REMEMBERED);
        self.seen.drain(..surplus);
        self.pending = None;
    }

    /// Forgets all but so many of the earlier tips.
    pub fn forget_but(&mut self, most: usize) {
        let surplus = self.seen.len().saturating_sub(most);
        self.seen.drain(..surplus);
    }

    /// When a tip that goes back counts, if it stands until then.
    pub fn counts_at(&self, patience: Period) -> Option<Timestamp> {
        self.pending.as_ref()?.1.checked_add(patience.duration()).ok()
    }

    /// What is said of a tip that does not count yet.
    pub fn waiting(&self) -> Option<String> {
        let (commit, since) = self.pending.as_ref()?;
        let short = commit.get(..12).unwrap_or(commit);
        Some(format!("went back to {short} at {since}; it counts once that stands"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_back_must_stand() {
        let mut tips = Tips::default();
        let patience = Period::from_seconds(60);
        let mut see = |commit: &str, time: i64, now: i64| {
            let tip = Tip { commit: commit.into(), time };
            tips.observe(tip, patience, Timestamp::from_second(now).unwrap());
            tips.accepted.as_ref().unwrap().commit.clone()
        };
        assert_eq!(see("a", 100, 0), "a");
        assert_eq!(see("b", 200, 1), "b");
        assert_eq!(see("a", 100, 2), "b", "a lagging replica");
        assert_eq!(see("b", 200, 3), "b");
        assert_eq!(see("a", 100, 62), "b", "the wait begins again");
        assert_eq!(see("a", 100, 121), "b");
        assert_eq!(see("a", 100, 122), "a", "a revert by force");
        assert_eq!(see("c", 50, 130), "a", "an older commit");
        assert_eq!(see("d", 300, 131), "d", "a newer one counts at once");
        assert_eq!(see("d", 300, 132), "d");
        assert_eq!(see("b", 200, 133), "d", "it was in force before");
    }
}
