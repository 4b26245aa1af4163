//! A Workflow's status as the records of its run.
//!
//! Owns what each phase and node of Argo means for us. What it cannot tell, it does not guess.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::GzDecoder;
use indexmap::IndexMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::names;
use super::told::{Beginning, Told, unpack_all};
use super::workflow::{Node, Seen};
use crate::engine::step::board::{AttemptEnd, Left};
use crate::engine::step::retelling::{Attempt, retell};
use crate::plan::{Phase, Reason, Run};
use crate::spec::Pipeline;
use crate::store::{StepState, StoredRun};
use crate::types::Timestamp;

/// Where a run and its steps stand.
pub fn read(
    pipeline: &Pipeline,
    stored: &StoredRun,
    seen: &Seen,
    now: Timestamp,
) -> (Run, Vec<StepState>) {
    let mut run = stored.run.clone();
    let nodes = nodes(seen);
    // Whoever ended by a signal was ended by us, or its node wanted it gone.
    let meant = seen.spec.shutdown.is_some() || late(seen);
    let tasks = names::tasks(pipeline);
    let mut attempts = Vec::new();
    let mut beginning = None;
    let mut waiting = None;
    for node in nodes.iter().flat_map(IndexMap::values).filter(|node| node.kind == "Pod") {
        let told = told(node);
        beginning = told.as_ref().and_then(|told| told.beginning.clone()).or(beginning);
        // What every pod goes through is no news.
        let ordinary = |message: &String| {
            message.is_empty() || message == "PodInitializing" || message == "ContainerCreating"
        };
        if node.phase.as_deref() == Some("Pending") {
            waiting = node.message.clone().filter(|message| !ordinary(message)).or(waiting);
        }
        attempts.extend(attempt((pipeline, &tasks), run.name.as_str(), node, told, meant));
    }
    run.started_at = attempts.iter().map(|attempt| attempt.started_at).min().or(run.started_at);
    let mut board = retell(pipeline, run.name.as_str(), attempts, now);
    if let Some(Beginning::Taken(present)) = &beginning {
        run.revision = present.digest.to_string();
    }
    let status = &seen.status;
    run.message = waiting.map(|message| format!("a pod waits: {message}"));
    run.phase = if run.started_at.is_some() { Phase::Running } else { Phase::Pending };
    if seen.is_over() {
        let outcome = board.outcome();
        let mut states = board.states().into_iter();
        // Who was shut down after all was over was not stopped.
        let stopped = seen.spec.shutdown.is_some()
            && (outcome.is_none() || states.any(|state| state.record.phase == Phase::Stopped));
        let ended = time(status.finished_at.as_ref()).unwrap_or(now);
        if outcome.is_none() {
            board.stop(ended);
        }
        (run.finished_at, run.message) = (Some(ended), None);
        run.phase = match (&beginning, outcome) {
            (Some(Beginning::MovedOn), _) => {
                run.reason = Some(Reason::Superseded.to_string());
                run.message = Some("files moved on before the run began".into());
                Phase::Skipped
            }
            (_, Some(Phase::Succeeded)) => Phase::Succeeded,
            _ if late(seen) => {
                run.message = Some("the run took longer than its timeout".into());
                Phase::Failed
            }
            _ if stopped => {
                run.message = Some(stored.why_stopped());
                Phase::Stopped
            }
            (Some(Beginning::Broken(message)), _) => {
                run.message = Some(message.clone());
                Phase::Failed
            }
            // What Argo says is over well is so, even where its nodes can no longer be read.
            (_, None) if nodes.is_none() && status.phase.as_deref() == Some("Succeeded") => {
                Phase::Succeeded
            }
            _ => {
                let own = status.message.clone().filter(|message| !message.is_empty());
                run.message = board.failure().or(own);
                Phase::Failed
            }
        };
    }
    let mut steps: Vec<StepState> = board.states().into_iter().cloned().collect();
    // What the end of the run kept from beginning is not for the step before it to answer for.
    if run.phase == Phase::Stopped || (seen.is_over() && late(seen)) {
        let skipped = steps.iter_mut().filter(|state| state.record.phase == Phase::Skipped);
        skipped.for_each(|state| state.record.message = None);
    }
    for state in steps.iter_mut().filter(|_| seen.is_over()) {
        let record = &mut state.record;
        if nodes.is_none() && seen.are_nodes_elsewhere() {
            // In Argo's database, or compressed in a way that is not known here.
            record.phase = Phase::Unknown;
            record.message = Some("only Argo can say how it went".into());
        } else if record.phase == Phase::Running {
            record.phase = Phase::Stopped;
        }
    }
    (run, steps)
}

/// Whether a run had all the time that it may have, by Argo's own count.
fn late(seen: &Seen) -> bool {
    let took = seen.status.started_at.as_ref().zip(seen.status.finished_at.as_ref());
    let took = took.map(|(from, to)| to.0.duration_since(from.0).as_secs());
    seen.spec.active_deadline_seconds.zip(took).is_some_and(|(limit, took)| took >= limit)
}

/// The nodes, also compressed ones; none where they lie in a database.
fn nodes(seen: &Seen) -> Option<IndexMap<String, Node>> {
    let status = &seen.status;
    if let Some(nodes) = status.nodes.clone().filter(|nodes| !nodes.is_empty()) {
        return Some(nodes);
    }
    let packed = status.compressed_nodes.as_ref().filter(|packed| !packed.is_empty())?;
    let bytes = STANDARD.decode(packed).ok()?;
    serde_json::from_reader(GzDecoder::new(bytes.as_slice())).ok()
}

fn told(node: &Node) -> Option<Told> {
    let text = node.outputs.as_ref()?.parameter(super::compile::TOLD)?;
    unpack_all(text).ok()?.pop()
}

fn time(time: Option<&Time>) -> Option<Timestamp> {
    time.map(|time| time.0)
}

fn is_deadline(words: &str) -> bool {
    words.starts_with("Step exceeded its deadline")
        || words.contains("longer than the specified deadline")
}

/// The attempt that a pod was; none where it has not begun, or did nothing.
fn attempt(
    (pipeline, tasks): (&Pipeline, &[String]),
    run: &str,
    node: &Node,
    told: Option<Told>,
    meant: bool,
) -> Option<Attempt> {
    let (task, index) = names::task_of(run, &node.name)?;
    let at = tasks.iter().position(|name| name == task)?;
    if let Some(told) = told {
        let mut attempt = told.attempt?;
        if attempt.end == Some(AttemptEnd::Stopped) && !meant {
            attempt.end = Some(AttemptEnd::Lost("its pod was ended from outside".into()));
        }
        return Some(attempt);
    }
    let said = node.message.clone().filter(|message| !message.is_empty());
    let end = match node.phase.as_deref()? {
        "Running" => None,
        // No pod has a deadline but that of its run.
        "Failed" if said.as_ref().is_some_and(|words| is_deadline(words)) => {
            Some(AttemptEnd::Stopped)
        }
        // Of one that never ran there is no code: it was no attempt.
        "Failed" if said.as_ref().is_some_and(|words| words.contains("with strategy")) => {
            node.outputs.as_ref()?.exit_code.as_ref()?;
            Some(AttemptEnd::Stopped)
        }
        "Succeeded" | "Failed" => {
            let code = node.outputs.as_ref().and_then(|outputs| outputs.exit_code.clone());
            let exit_code: Option<i32> = code.and_then(|code| code.parse().ok());
            let message = said.unwrap_or_else(|| "its pod ended without a word".into());
            // Drained, or evicted: what the retry strategy of a pod says too.
            let lost = matches!(exit_code, None | Some(143)) && !meant;
            Some(if lost {
                AttemptEnd::Lost(message)
            } else {
                AttemptEnd::Failed { exit_code, message, left: Left::default() }
            })
        }
        "Error" => Some(AttemptEnd::Lost(said.unwrap_or_else(|| "its pod was lost".into()))),
        _ => return None,
    };
    Some(Attempt {
        step: pipeline.steps()[at].name().to_owned(),
        index,
        started_at: time(node.started_at.as_ref())?,
        finished_at: end.is_some().then(|| time(node.finished_at.as_ref())).flatten(),
        lost: 0,
        note: None,
        end,
    })
}

#[cfg(test)]
#[path = "reading_tests.rs"]
mod tests;
