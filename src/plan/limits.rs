//! Limits on active runs, fair among owners.
//!
//! Owns who may start when not all may: the owner with the fewest active runs comes first, of several
//! the one whose newest run began longest ago.

use std::collections::BTreeMap;

use crate::types::Timestamp;

/// The most runs that may be at work at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of the source.
    pub active_runs: Option<usize>,
    /// Of each owner: each folder below the source's root.
    pub active_runs_per_owner: Option<usize>,
}

/// What a pipeline asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asks {
    /// Whose it is.
    pub owner: String,
    /// How many of its runs are at work.
    pub active: usize,
    /// How many more it would start.
    pub starts: usize,
    /// When the newest of its runs began.
    pub served: Option<Timestamp>,
}

/// How many runs each pipeline may start, of those that may not start all that they ask for.
pub fn rooms(asks: &[Asks], limits: Limits) -> Vec<(usize, usize)> {
    if limits == Limits::default() {
        return Vec::new();
    }
    let mut active: BTreeMap<&str, usize> = BTreeMap::new();
    let mut served: BTreeMap<&str, Option<Timestamp>> = BTreeMap::new();
    let mut waiting: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, one) in asks.iter().enumerate() {
        *active.entry(&one.owner).or_default() += one.active;
        let newest = served.entry(&one.owner).or_default();
        *newest = (*newest).max(one.served);
        if one.starts > 0 {
            waiting.entry(&one.owner).or_default().push(at);
        }
    }
    let mut free =
        limits.active_runs.map(|most| most.saturating_sub(active.values().sum::<usize>()));
    let most = limits.active_runs_per_owner.unwrap_or(usize::MAX);
    let mut granted = vec![0; asks.len()];
    while free != Some(0) {
        waiting.retain(|owner, pipelines| {
            pipelines.retain(|&at| granted[at] < asks[at].starts);
            !pipelines.is_empty() && active[owner] < most
        });
        let turn = |owner: &&&str| (active[**owner], served[**owner]);
        let Some(&owner) = waiting.keys().min_by_key(turn) else { break };
        // Among one owner's pipelines likewise.
        let turn = |at: &&usize| (asks[**at].active + granted[**at], asks[**at].served);
        let Some(&at) = waiting[owner].iter().min_by_key(turn) else { break };
        granted[at] += 1;
        *active.entry(owner).or_default() += 1;
        free = free.map(|free| free - 1);
    }
    let held = (0..asks.len()).filter(|&at| granted[at] < asks[at].starts);
    held.map(|at| (at, granted[at])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(owner: &str, active: usize, starts: usize) -> Asks {
        Asks { owner: owner.into(), active, starts, served: None }
    }

    #[test]
    fn owners_take_turns() {
        let at = |second| Timestamp::from_second(second).ok();
        let one = Limits { active_runs: Some(1), active_runs_per_owner: None };
        let all = [
            Asks { served: at(5), ..asks("a", 0, 1) },
            Asks { served: at(9), ..asks("a", 0, 0) },
            Asks { served: at(7), ..asks("b", 0, 1) },
        ];
        assert_eq!(rooms(&all, one), [(0, 0)], "a was served last");
    }

    #[test]
    fn the_owner_with_the_fewest_comes_first() {
        let all = [asks("a", 2, 5), asks("b", 0, 1), asks("c", 0, 3), asks("c", 0, 0)];
        let limits = |all, each| Limits { active_runs: all, active_runs_per_owner: each };
        assert_eq!(rooms(&all, limits(None, None)), []);
        assert_eq!(rooms(&all, limits(Some(5), None)), [(0, 0), (2, 2)]);
        assert_eq!(rooms(&all, limits(None, Some(2))), [(0, 0), (2, 2)]);
        assert_eq!(rooms(&all, limits(Some(2), None)), [(0, 0), (1, 0), (2, 0)]);
        assert_eq!(rooms(&all, limits(Some(100), Some(100))), []);
    }
}
