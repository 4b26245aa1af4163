//! Limits on active runs, fair among owners.
//!
//! Owns who may start when not all may: the owner with the fewest active runs comes first.

use std::collections::BTreeMap;

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
}

/// How many runs each pipeline may start, of those that may not start all that they ask for.
pub fn rooms(asks: &[Asks], limits: Limits) -> Vec<(usize, usize)> {
    if limits == Limits::default() {
        return Vec::new();
    }
    let mut active: BTreeMap<&str, usize> = BTreeMap::new();
    let mut waiting: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, one) in asks.iter().enumerate() {
        *active.entry(&one.owner).or_default() += one.active;
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
        let Some(&owner) = waiting.keys().min_by_key(|owner| active[*owner]) else { break };
        // Among one owner's pipelines the one with the fewest, in their order.
        let Some(&at) = waiting[owner].iter().min_by_key(|&&at| asks[at].active + granted[at])
        else {
            break;
        };
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
        Asks { owner: owner.into(), active, starts }
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
