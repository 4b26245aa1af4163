//! The board of a run: where each step stands, what can start, how it all ends.
//!
//! Owns the decisions of an engine as a pure state machine: attempts, retries, interruptions, sweeps,
//! `best`, and what a failure means for the steps behind it. `now` is an argument.

use std::time::Duration;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::plan::{Artifact, Phase, StepRecord};
use crate::spec::{Goal, Pipeline, Step};
use crate::store::StepState;
use crate::types::Timestamp;

/// Pause before the first retry; it doubles with each.
const FIRST_PAUSE: u64 = 10;
/// The longest pause.
const LONGEST_PAUSE: u64 = 600;

/// One thing to execute: a step, or a point of its sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Task {
    /// Position of the step in the pipeline.
    pub step: usize,
    /// The point's number.
    pub index: Option<usize>,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum AttemptEnd {
    /// Well, with what it left.
    Succeeded(Left),
    /// Badly, with what it left all the same.
    Failed {
        /// The exit code.
        exit_code: Option<i32>,
        /// Why.
        message: String,
        /// What it left.
        left: Left,
    },
    /// Its process was lost.
    Lost(String),
    /// A person ended it.
    Stopped,
}

/// What is said of an attempt whose process was killed from outside.
pub const KILLED: &str = "the step's process was killed";

impl AttemptEnd {
    /// A failure that left nothing, not even an exit code.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed { exit_code: None, message: message.into(), left: Left::default() }
    }
}

/// What an attempt left.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Left {
    /// Named values.
    pub outputs: IndexMap<String, Value>,
    /// Finite numbers.
    pub metrics: IndexMap<String, f64>,
    /// Declared files.
    pub artifacts: Vec<Artifact>,
    /// The executed notebook.
    pub notebook: Option<String>,
}

struct Slot {
    state: StepState,
    not_before: Option<Timestamp>,
}

/// Where each step stands.
pub struct Board<'a> {
    pipeline: &'a Pipeline,
    /// For each step its own slot and those of its points.
    steps: Vec<(Slot, Vec<Slot>)>,
    /// Set once a person wants the end: nothing starts any more.
    stopping: bool,
}

impl<'a> Board<'a> {
    /// The board of a run, with what is already recorded. An attempt that was at work is lost.
    /// `log` names the log of a step or point.
    pub fn new(
        pipeline: &'a Pipeline,
        recorded: Vec<StepState>,
        now: Timestamp,
        log: impl Fn(&Step, Option<usize>) -> String,
    ) -> Self {
        let mut known: IndexMap<String, StepState> =
            recorded.into_iter().map(|state| (state.record.name.clone(), state)).collect();
        let mut slot = |step: &Step, index: Option<usize>, params| {
            let mut fresh = StepRecord::pending(step.name(), index, log(step, index));
            fresh.params = params;
            let state = known.shift_remove(&fresh.name).unwrap_or(StepState {
                record: fresh,
                failures: 0,
                interruptions: 0,
            });
            Slot { state, not_before: None }
        };
        let steps = pipeline
            .steps()
            .iter()
            .map(|step| {
                let own = slot(step, None, None);
                let points = step.points().into_iter().enumerate();
                let points =
                    points.map(|(index, params)| slot(step, Some(index), Some(params))).collect();
                (own, points)
            })
            .collect();
        let mut board = Self { pipeline, steps, stopping: false };
        for task in board.tasks() {
            if board.slot(task).state.record.phase == Phase::Running {
                board.finish(task, AttemptEnd::Lost("the host was lost".into()), now);
            }
        }
        board.settle(now);
        board
    }

    /// Everything that is executed: points in place of steps that are swept.
    fn tasks(&self) -> Vec<Task> {
        let mut tasks = Vec::new();
        for (step, (_, points)) in self.steps.iter().enumerate() {
            if points.is_empty() {
                tasks.push(Task { step, index: None });
            }
            tasks.extend((0..points.len()).map(|index| Task { step, index: Some(index) }));
        }
        tasks
    }

    fn slot(&self, task: Task) -> &Slot {
        let (own, points) = &self.steps[task.step];
        task.index.map_or(own, |index| &points[index])
    }

    fn slot_mut(&mut self, task: Task) -> &mut Slot {
        let (own, points) = &mut self.steps[task.step];
        match task.index {
            Some(index) => &mut points[index],
            None => own,
        }
    }

    /// The state of a task.
    pub fn state(&self, task: Task) -> &StepState {
        &self.slot(task).state
    }

    /// All states, steps before their points.
    pub fn states(&self) -> Vec<&StepState> {
        let all = self.steps.iter();
        all.flat_map(|(own, points)| std::iter::once(own).chain(points))
            .map(|slot| &slot.state)
            .collect()
    }

    /// What can start now, in the order of the pipeline.
    pub fn ready(&self, now: Timestamp) -> Vec<Task> {
        if self.stopping {
            return Vec::new();
        }
        let graph = self.pipeline.graph();
        let done = |step: &usize| self.steps[*step].0.state.record.phase == Phase::Succeeded;
        let mut ready = Vec::new();
        for &step in graph.order() {
            let (own, points) = &self.steps[step];
            if own.state.record.phase.is_ended() || !graph.needs(step).iter().all(done) {
                continue;
            }
            let startable = |slot: &Slot| {
                matches!(slot.state.record.phase, Phase::Pending | Phase::Interrupted)
                    && slot.not_before.is_none_or(|at| at <= now)
            };
            if points.is_empty() && startable(own) {
                ready.push(Task { step, index: None });
            }
            let indices = points.iter().enumerate().filter(|(_, slot)| startable(slot));
            ready.extend(indices.map(|(index, _)| Task { step, index: Some(index) }));
        }
        ready
    }

    /// Records that an attempt begins; returns its number.
    pub fn begin(&mut self, task: Task, now: Timestamp) -> u64 {
        let slot = self.slot_mut(task);
        slot.not_before = None;
        let record = &mut slot.state.record;
        record.phase = Phase::Running;
        record.attempt += 1;
        record.started_at.get_or_insert(now);
        (record.finished_at, record.exit_code, record.message) = (None, None, None);
        let attempt = record.attempt;
        if task.index.is_some() {
            let own = &mut self.steps[task.step].0.state.record;
            own.phase = Phase::Running;
            own.attempt = own.attempt.max(attempt);
            own.started_at.get_or_insert(now);
        }
        attempt
    }

    /// Says something of an attempt that is at work.
    pub fn note(&mut self, task: Task, words: String) {
        self.slot_mut(task).state.record.message = Some(words);
    }

    /// Records how an attempt ended, and what follows from it.
    pub fn finish(&mut self, task: Task, end: AttemptEnd, now: Timestamp) {
        let step = &self.pipeline.steps()[task.step];
        let (retries, interruptions) = (step.retries(), step.interruptions());
        let stopping = self.stopping;
        let slot = self.slot_mut(task);
        let mut again = None;
        let record = &mut slot.state.record;
        record.finished_at = Some(now);
        match end {
            AttemptEnd::Succeeded(left) => {
                record.phase = Phase::Succeeded;
                record.exit_code = Some(0);
                take(record, left);
            }
            AttemptEnd::Failed { exit_code, message, left } => {
                take(record, left);
                record.exit_code = exit_code;
                record.message = Some(message);
                slot.state.failures += 1;
                if slot.state.failures <= retries && !stopping {
                    again = Some(pause(slot.state.failures));
                    record.phase = Phase::Pending;
                } else {
                    record.phase = Phase::Failed;
                }
            }
            AttemptEnd::Lost(message) => {
                slot.state.interruptions += 1;
                if stopping {
                    record.phase = Phase::Stopped;
                } else if slot.state.interruptions <= interruptions {
                    record.phase = Phase::Interrupted;
                    record.message = Some(message);
                } else {
                    record.phase = Phase::Failed;
                    let count = slot.state.interruptions;
                    record.message =
                        Some(format!("{message}; lost {count} times, no more attempts"));
                }
            }
            AttemptEnd::Stopped => record.phase = Phase::Stopped,
        }
        slot.not_before = again.and_then(|pause| now.checked_add(pause).ok());
        self.settle(now);
    }

    /// Starts nothing more: a person wants the end, or the run's time is over.
    pub fn stop(&mut self, now: Timestamp) {
        self.stopping = true;
        for task in self.tasks() {
            let record = &mut self.slot_mut(task).state.record;
            if matches!(record.phase, Phase::Pending | Phase::Interrupted) {
                record.phase = if record.attempt == 0 { Phase::Skipped } else { Phase::Stopped };
                record.finished_at = Some(now);
            }
        }
        self.settle(now);
    }

    /// Ends sweeps whose points ended, and skips steps that can no longer run.
    fn settle(&mut self, now: Timestamp) {
        let graph = self.pipeline.graph();
        for &step in graph.order() {
            let blocked = graph.needs(step).iter().any(|&other| {
                let phase = self.steps[other].0.state.record.phase;
                phase.is_ended() && phase != Phase::Succeeded
            });
            let (own, points) = &mut self.steps[step];
            if blocked {
                for slot in std::iter::once(&mut *own).chain(points.iter_mut()) {
                    let record = &mut slot.state.record;
                    if record.phase == Phase::Pending && record.attempt == 0 {
                        record.phase = Phase::Skipped;
                        record.message = Some("a step that it needs did not succeed".into());
                    }
                }
            }
            let all_ended =
                !points.is_empty() && points.iter().all(|slot| slot.state.record.phase.is_ended());
            if all_ended && !own.state.record.phase.is_ended() {
                let spec = &self.pipeline.steps()[step];
                end_sweep(spec, &mut own.state.record, points, now);
            }
        }
    }

    /// Why the run failed, by the first step that did.
    pub fn failure(&self) -> Option<String> {
        // A point of a sweep fails its step or was allowed to: the step says which.
        let mut records = self.steps.iter().map(|(own, _)| &own.state.record);
        let failed = records.find(|record| record.phase == Phase::Failed)?;
        let why = failed.message.as_deref().unwrap_or("failed");
        Some(format!("step {}: {why}", failed.name))
    }

    /// The phase of the whole run, once nothing more will happen.
    pub fn outcome(&self) -> Option<Phase> {
        let phases: Vec<Phase> = self.steps.iter().map(|(own, _)| own.state.record.phase).collect();
        if !phases.iter().all(|phase| phase.is_ended()) {
            return None;
        }
        Some(if self.stopping {
            Phase::Stopped
        } else if phases.iter().all(|phase| *phase == Phase::Succeeded) {
            Phase::Succeeded
        } else {
            Phase::Failed
        })
    }
}

fn take(record: &mut StepRecord, left: Left) {
    (record.outputs, record.metrics, record.artifacts) =
        (left.outputs, left.metrics, left.artifacts);
    record.notebook = left.notebook;
}

fn pause(failures: u64) -> jiff::SignedDuration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(10));
    let seconds = Duration::from_secs(doubled.min(LONGEST_PAUSE)).as_secs();
    jiff::SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(600))
}

/// What a swept step is, once all its points ended.
fn end_sweep(step: &Step, own: &mut StepRecord, points: &mut [Slot], now: Timestamp) {
    own.finished_at = Some(now);
    let ended =
        |phase: Phase| points.iter().filter(|slot| slot.state.record.phase == phase).count();
    let failed = points.len() - ended(Phase::Succeeded);
    if ended(Phase::Stopped) > 0 {
        own.phase = Phase::Stopped;
        return;
    }
    let Some(best) = step.best() else {
        own.phase = if failed == 0 { Phase::Succeeded } else { Phase::Failed };
        if failed > 0 {
            own.message = Some(format!("{failed} of {} points did not succeed", points.len()));
        }
        own.outputs = lists(points);
        return;
    };
    let chosen = points
        .iter()
        .enumerate()
        .filter(|(_, slot)| slot.state.record.phase == Phase::Succeeded)
        .filter_map(|(index, slot)| Some((index, *slot.state.record.metrics.get(&best.metric)?)))
        .reduce(|best_so_far, other| {
            let better = match best.goal {
                Goal::Max => other.1 > best_so_far.1,
                Goal::Min => other.1 < best_so_far.1,
            };
            if better { other } else { best_so_far }
        });
    let unfit = points.len() - points.iter().filter(|slot| fits(slot, &best.metric)).count();
    match chosen {
        Some((index, _)) if u64::try_from(unfit).unwrap_or(u64::MAX) <= best.allow_failed => {
            own.phase = Phase::Succeeded;
            own.selected = Some(json!(index));
            for (other, slot) in points.iter_mut().enumerate() {
                slot.state.record.selected = Some(json!(other == index));
            }
            let record = &points[index].state.record;
            (own.outputs, own.metrics) = (record.outputs.clone(), record.metrics.clone());
            own.artifacts.clone_from(&record.artifacts);
            own.notebook.clone_from(&record.notebook);
        }
        _ => {
            own.phase = Phase::Failed;
            let (metric, all) = (&best.metric, points.len());
            own.message = Some(format!(
                "{unfit} of {all} points failed or have no metric `{metric}`; {} may",
                best.allow_failed
            ));
        }
    }
}

fn fits(slot: &Slot, metric: &str) -> bool {
    let record = &slot.state.record;
    record.phase == Phase::Succeeded && record.metrics.contains_key(metric)
}

/// Without `best`, a value of the step is the list of the points' values.
fn lists(points: &[Slot]) -> IndexMap<String, Value> {
    let mut lists = IndexMap::new();
    for name in points.iter().flat_map(|slot| slot.state.record.outputs.keys()) {
        let of = |slot: &Slot| slot.state.record.outputs.get(name).cloned().unwrap_or_default();
        lists.insert(name.clone(), points.iter().map(of).collect());
    }
    lists
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::parse;

    fn now(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn with_board(yaml: &str, recorded: Vec<StepState>, check: impl FnOnce(Board<'_>)) {
        let documents = parse(yaml, "j", "f", 100);
        assert!(documents.problems.is_empty(), "{:?}", documents.problems);
        let log = |_: &Step, _: Option<usize>| String::new();
        check(Board::new(&documents.pipelines[0], recorded, now(0), log));
    }

    fn ok() -> AttemptEnd {
        AttemptEnd::Succeeded(Left::default())
    }

    fn failed() -> AttemptEnd {
        AttemptEnd::Failed { exit_code: Some(1), message: "x".into(), left: Left::default() }
    }

    fn task(step: usize) -> Task {
        Task { step, index: None }
    }

    fn phases(board: &Board<'_>) -> String {
        board
            .states()
            .iter()
            .map(|state| &state.record.phase.word()[..2])
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn independent_steps_go_on_after_a_failure() {
        let yaml =
            "steps: {a: {run: x}, b: {run: x, needs: a}, c: {run: x}, d: {run: x, needs: b}}";
        with_board(yaml, Vec::new(), |mut board| {
            assert_eq!(board.ready(now(0)), [task(0), task(2)]);
            board.begin(task(0), now(0));
            assert_eq!(board.ready(now(0)), [task(2)]);
            board.finish(task(0), failed(), now(1));
            assert_eq!(phases(&board), "Fa Sk Pe Sk");
            board.begin(task(2), now(1));
            board.finish(task(2), ok(), now(2));
            assert_eq!(board.outcome(), Some(Phase::Failed));
        });
    }

    #[test]
    fn retries_wait_longer_each_time() {
        with_board("steps: {a: {run: x, retries: 2}}", Vec::new(), |mut board| {
            for (attempt, pause) in [(1, 10), (2, 20)] {
                assert_eq!(board.begin(task(0), now(0)), attempt);
                board.finish(task(0), failed(), now(0));
                assert!(board.ready(now(pause - 1)).is_empty());
                assert_eq!(board.ready(now(pause)), [task(0)]);
            }
            board.begin(task(0), now(0));
            board.finish(task(0), failed(), now(0));
            assert_eq!(board.outcome(), Some(Phase::Failed));
        });
    }

    #[test]
    fn what_was_at_work_is_lost_and_what_is_done_stays() {
        let yaml = "steps: {a: {run: x}, b: {run: x, needs: a, interruptions: 1}}";
        let mut recorded = Vec::new();
        with_board(yaml, Vec::new(), |mut board| {
            board.begin(task(0), now(0));
            board.finish(task(0), ok(), now(0));
            board.begin(task(1), now(0));
            recorded = board.states().into_iter().cloned().collect();
        });
        with_board(yaml, recorded, |mut board| {
            assert_eq!(phases(&board), "Su In");
            assert_eq!(board.begin(task(1), now(0)), 2);
            board.finish(task(1), AttemptEnd::Lost("again".into()), now(0));
            assert_eq!(phases(&board), "Su Fa");
        });
    }

    #[test]
    fn best_chooses_and_allows_failures() {
        let yaml = "steps:\n  t: {run: x, sweep: {a: [1, 2, 3]}, best: {metric: m, goal: max, allowFailed: 1}}\n  \
                    u: {run: 'echo {{ steps.t.metrics.m }}', needs: t}";
        with_board(yaml, Vec::new(), |mut board| {
            let points = board.ready(now(0));
            assert_eq!(points.len(), 3);
            for (point, metric) in points.iter().zip([Some(1.0), Some(1.0), None]) {
                board.begin(*point, now(0));
                let metrics = metric.map(|value| ("m".to_owned(), value)).into_iter().collect();
                let end = AttemptEnd::Succeeded(Left { metrics, ..Left::default() });
                board.finish(*point, end, now(1));
            }
            assert_eq!(board.state(task(0)).record.selected, Some(json!(0)));
            assert_eq!(board.ready(now(1)), [task(1)]);
        });
    }

    #[test]
    fn a_stop_starts_nothing_more() {
        with_board("steps: {a: {run: x}, b: {run: x, needs: a}}", Vec::new(), |mut board| {
            board.begin(task(0), now(0));
            board.stop(now(1));
            assert_eq!(board.outcome(), None);
            board.finish(task(0), AttemptEnd::Stopped, now(2));
            assert_eq!(phases(&board), "St Sk");
            assert_eq!(board.outcome(), Some(Phase::Stopped));
        });
        // A process that is lost just then is not tried again either.
        with_board("steps: {a: {run: x}}", Vec::new(), |mut board| {
            board.begin(task(0), now(0));
            board.stop(now(1));
            board.finish(task(0), AttemptEnd::Lost("killed".into()), now(2));
            assert_eq!(board.outcome(), Some(Phase::Stopped));
        });
    }
}
