//! The judge: it sees what was executed, what was pushed, and the instants of croniter. Of our ledger,
//! records and planner it knows nothing.

use std::collections::{BTreeMap, BTreeSet};

use jupyterflow::sim::Execution;

/// Runs that were executed although an earlier execution of them was not lost.
pub fn doubled(executions: &[Execution]) -> Vec<String> {
    let mut kept: BTreeMap<&str, usize> = BTreeMap::new();
    executions
        .iter()
        .filter(|one| !one.lost)
        .for_each(|one| *kept.entry(one.run.as_str()).or_default() += 1);
    let twice = kept.into_iter().filter(|(_, count)| *count > 1);
    twice.map(|(run, count)| format!("doubled: {run} was executed {count} times")).collect()
}

/// What should have been executed.
#[derive(Default)]
pub struct Expected {
    /// All versions in the order in which they were saved or pushed.
    pub versions: Vec<u32>,
    /// Places in that order at which nothing happened until all was done.
    pub stood: BTreeSet<usize>,
    /// Instants at which the schedule was due, by croniter.
    pub ticks: BTreeSet<String>,
}

/// What is wrong with the executions of a pipeline that starts when it changes. `seen` are the versions
/// that its executions saw, in order: each answers a later change than the one before, and what stood is
/// what was executed last.
pub fn of_changes(expected: &Expected, seen: &[u32]) -> Option<String> {
    // How many executions may have been answers to the changes so far.
    let mut reached = BTreeSet::from([0]);
    for (place, version) in expected.versions.iter().enumerate() {
        let answering = reached.iter().filter(|count| seen.get(**count) == Some(version));
        let answered: Vec<usize> = answering.map(|count| count + 1).collect();
        reached.extend(answered);
        if expected.stood.contains(&place) {
            reached.retain(|count| *count > 0 && seen[count - 1] == *version);
        }
        if reached.is_empty() {
            return Some(format!("lost: version {version} (change {place}), of {seen:?}"));
        }
    }
    let all = reached.contains(&seen.len());
    (!all).then(|| format!("doubled: {seen:?} for {:?}", expected.versions))
}

/// What is wrong with the executions of a pipeline with a schedule. `ticks` are the instants of its
/// executions.
pub fn of_ticks(expected: &Expected, ticks: &[String]) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    ticks.iter().for_each(|tick| *counts.entry(tick).or_default() += 1);
    let twice = counts.iter().filter(|(_, count)| **count > 1);
    let mut wrong: Vec<String> =
        twice.map(|(tick, count)| format!("doubled: {tick} {count} times")).collect();
    let found: BTreeSet<String> = ticks.iter().cloned().collect();
    wrong.extend(expected.ticks.difference(&found).map(|tick| format!("lost: {tick}")));
    wrong.extend(found.difference(&expected.ticks).map(|tick| format!("never due: {tick}")));
    wrong
}
