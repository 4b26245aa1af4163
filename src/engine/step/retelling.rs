//! What attempts told, put together: where each step of a run stands.
//!
//! Owns the fold of attempts onto a board. Whoever reads of attempts that others watched decides by the
//! same rules as whoever watches them.

use serde::{Deserialize, Serialize};

use super::board::{AttemptEnd, Board, KILLED, Task};
use super::leftovers::step_folder;
use crate::spec::{Pipeline, Step};
use crate::store::StepState;
use crate::types::Timestamp;

/// One attempt, as told by whoever made it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// The step.
    pub step: String,
    /// The point of its sweep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Attempts before it, in the same place, whose process was lost.
    #[serde(default)]
    pub lost: u64,
    /// Words about it that are no failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// How it ended; none while it is at work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<AttemptEnd>,
}

impl Attempt {
    /// One that failed at once, with no more to tell than why.
    pub fn failed(step: &str, index: Option<usize>, at: Timestamp, message: String) -> Self {
        Self {
            step: step.to_owned(),
            index,
            started_at: at,
            finished_at: Some(at),
            lost: 0,
            note: None,
            end: Some(AttemptEnd::failed(message)),
        }
    }
}

/// The board of a run, with what it keeps of an earlier one, after all that was told. Attempts of
/// steps that the pipeline lacks, and of steps that ended before, tell nothing.
pub fn retell<'a>(
    pipeline: &'a Pipeline,
    (run, kept): (&str, &[StepState]),
    mut attempts: Vec<Attempt>,
    now: Timestamp,
) -> Board<'a> {
    let log = |step: &Step, index: Option<usize>| {
        format!("{}/log", step_folder(pipeline.folder(), run, step.name(), index))
    };
    let mut board = Board::new(pipeline, kept.to_vec(), now, log);
    attempts.sort_by_key(|attempt| attempt.started_at);
    for attempt in attempts {
        let Some(at) = pipeline.steps().iter().position(|step| step.name() == attempt.step) else {
            continue;
        };
        let task = Task { step: at, index: attempt.index };
        let points = pipeline.steps()[at].points().len();
        let known = attempt.index.map_or(points == 0, |index| index < points);
        if !known || board.state(task).record.phase.is_ended() {
            continue;
        }
        board.begin(task, attempt.started_at);
        for _ in 0..attempt.lost {
            board.finish(task, AttemptEnd::Lost(KILLED.into()), attempt.started_at);
            board.begin(task, attempt.started_at);
        }
        if let Some(words) = attempt.note {
            board.note(task, words);
        }
        if let Some(end) = attempt.end {
            board.finish(task, end, attempt.finished_at.unwrap_or(now));
        }
    }
    board
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::step::board::Left;
    use crate::plan::Phase;
    use crate::spec::parse;

    const YAML: &str = "steps:\n  a: {run: x, sweep: {n: [1, 2]}, best: {metric: m, goal: max}}\n  \
                        b: {run: y, needs: a, retries: 1}\n";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn attempt(step: &str, index: Option<usize>, from: i64, end: Option<AttemptEnd>) -> Attempt {
        let finished_at = end.is_some().then(|| at(from + 1));
        Attempt {
            step: step.into(),
            index,
            started_at: at(from),
            finished_at,
            lost: 0,
            note: None,
            end,
        }
    }

    fn scored(m: f64) -> AttemptEnd {
        let mut left = Left::default();
        left.metrics.insert("m".into(), m);
        AttemptEnd::Succeeded(left)
    }

    #[test]
    fn attempts_in_any_order_give_the_records_of_a_host() {
        let documents = parse(YAML, "j", "f", 100);
        let failed =
            AttemptEnd::Failed { exit_code: Some(3), message: "x".into(), left: Left::default() };
        let told = vec![
            attempt("b", None, 20, Some(AttemptEnd::Succeeded(Left::default()))),
            attempt("b", None, 10, Some(failed)),
            attempt("a", Some(1), 0, Some(scored(2.0))),
            attempt("a", Some(0), 0, Some(scored(1.0))),
            attempt("gone", None, 0, None),
            attempt("a", Some(7), 0, None),
        ];
        let board = retell(&documents.pipelines[0], ("r", &[]), told, at(30));
        assert_eq!(board.outcome(), Some(Phase::Succeeded));
        let a = &board.state(Task { step: 0, index: None }).record;
        assert_eq!(a.selected, Some(serde_json::json!(1)));
        let b = &board.state(Task { step: 1, index: None }).record;
        assert_eq!((b.attempt, b.exit_code, b.started_at), (2, Some(0), Some(at(10))));
        assert_eq!(b.log, "f/jupyterflow-runs/r/b/log");
    }

    #[test]
    fn lost_processes_count_and_what_ended_stays() {
        let documents = parse("steps: {a: {run: x}}\n", "j", "f", 100);
        let mut first = attempt("a", None, 0, Some(AttemptEnd::Succeeded(Left::default())));
        first.lost = 2;
        let late = attempt("a", None, 5, Some(AttemptEnd::Lost("late".into())));
        let board = retell(&documents.pipelines[0], ("r", &[]), vec![late, first], at(9));
        let state = board.state(Task { step: 0, index: None });
        assert_eq!((state.record.attempt, state.interruptions), (3, 2));
        assert_eq!(state.record.phase, Phase::Succeeded);
    }
}
