//! A Workflow's status as the records of its run.
//!
//! Owns what each phase and node of Argo means for us. What it cannot tell, it does not guess.

use std::borrow::Cow;
use std::io::Read;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use brotli_decompressor::Decompressor;
use flate2::read::GzDecoder;
use indexmap::IndexMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use ruzstd::decoding::StreamingDecoder;

use super::compile::FORGOTTEN;
use super::object::WATCH_ENDED;
use super::told::{Beginning, Told, unpack_all};
use super::workflow::{Node, Seen};
use super::{artifacts, names};
use crate::engine::step::board::{AttemptEnd, Left};
use crate::engine::step::retelling::{Attempt, retell};
use crate::plan::{Phase, Reason, Run};
use crate::spec::{Pipeline, Step, Work};
use crate::store::{StepState, StoredRun};
use crate::types::Timestamp;

/// The most that nodes may be when unpacked, in bytes: etcd takes 1.5 MiB of them packed.
const LARGEST: u64 = 256 << 20;

/// What the kubelet says of a pod whose first containers are at work, or ended a moment ago.
const INITIALIZING: &str = "PodInitializing";

/// Whether a Workflow waits for a pod that is between its first containers and its own.
pub fn initializing(seen: &Seen) -> bool {
    let waits = |node: &Node| {
        node.kind == "Pod"
            && node.phase.as_deref() == Some("Pending")
            && node.message.as_deref() == Some(INITIALIZING)
    };
    !seen.is_over() && nodes(seen).iter().flat_map(|all| all.values()).any(waits)
}

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
    let mut objects: IndexMap<&str, (Of<'_>, Vec<Part<'_>>)> = IndexMap::new();
    let mut beginning = None;
    let mut waiting = None;
    for node in nodes.iter().flat_map(|all| all.values()).filter(|node| node.kind == "Pod") {
        let mut told = told(node);
        if artifacts::are_missing(seen, node)
            && let Some(attempt) = told.as_mut().and_then(|told| told.attempt.as_mut())
            && matches!(attempt.end, Some(AttemptEnd::Succeeded(_)))
        {
            let why = node.message.clone().unwrap_or_else(|| "its results did not arrive".into());
            attempt.end = Some(AttemptEnd::Lost(why));
        }
        beginning = told.as_ref().and_then(|told| told.beginning.clone()).or(beginning);
        // What every pod goes through is no news.
        let ordinary = |message: &String| {
            message.is_empty() || message == INITIALIZING || message == "ContainerCreating"
        };
        if node.phase.as_deref() == Some("Pending") {
            waiting = node.message.clone().filter(|message| !ordinary(message)).or(waiting);
        }
        match object_of(pipeline, &tasks, run.name.as_str(), node) {
            Some((key, of, part)) => {
                objects.entry(key).or_insert((of, Vec::new())).1.push((part, node, told));
            }
            None => {
                attempts.extend(attempt((pipeline, &tasks), run.name.as_str(), node, told, meant));
            }
        }
    }
    for (of, parts) in objects.into_values() {
        let attempt =
            |node: &Node, told| attempt((pipeline, &tasks), run.name.as_str(), node, told, meant);
        attempts.extend(whole(of, parts, late(seen), attempt));
    }
    run.started_at = attempts.iter().map(|attempt| attempt.started_at).min().or(run.started_at);
    let mut board = retell(pipeline, (run.name.as_str(), &stored.spec.kept), attempts, now);
    if let Some(Beginning::Taken(present)) = &beginning {
        run.revision = present.digest.to_string();
    }
    let status = &seen.status;
    run.message = waiting.map(|message| format!("a pod waits: {message}"));
    // Before its first pod a suspension is our own.
    if seen.spec.suspend == Some(true) && seen.has_pods() && !seen.is_over() {
        run.message = Some("its Workflow is suspended: no step starts until `argo resume`".into());
    }
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
    let own = |state: &&mut StepState| !stored.spec.keeps(state.record.base_name());
    for state in steps.iter_mut().filter(|_| seen.is_over()).filter(own) {
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

/// A part of a resource step: which, its node, and what it told.
type Part<'a> = (&'static str, &'a Node, Option<Told>);

/// A step, and the point of its sweep.
type Of<'a> = (&'a Step, Option<usize>);

/// Of a pod of a resource step: the node of its attempt, the step, and which part of it the pod is.
fn object_of<'a>(
    pipeline: &'a Pipeline,
    tasks: &[String],
    run: &str,
    node: &'a Node,
) -> Option<(&'a str, Of<'a>, &'static str)> {
    let (task, index) = names::task_of(run, &node.name)?;
    let step = &pipeline.steps()[tasks.iter().position(|name| name == task)?];
    let (key, part) = names::part_of(&node.name)?;
    matches!(step.work(), Work::Resource(_)).then_some((key, (step, index), part))
}

/// What Argo says of an object, for a person.
fn said_of_object(step: &Step, words: &str) -> String {
    let Work::Resource(resource) = step.work() else { return words.to_owned() };
    match &resource.failure {
        Some(failure) if words.contains("failure condition") => {
            format!("its condition of failure holds: {failure}")
        }
        // `main: Error (exit code 64): WHY`.
        _ => {
            let why = words.split_once("): ").map_or(words, |(_, why)| why).trim();
            let why = why.strip_prefix("no more retries ").unwrap_or(why);
            match why.char_indices().nth(400) {
                Some((end, _)) => format!("{}…", &why[..end]),
                None => why.to_owned(),
            }
        }
    }
}

/// The attempt that the parts of a resource step make together.
fn whole(
    (step, index): Of<'_>,
    mut parts: Vec<Part<'_>>,
    late: bool,
    attempt: impl Fn(&Node, Option<Told>) -> Option<Attempt>,
) -> Option<Attempt> {
    let place = |part: &str| {
        [names::VALUES, names::OBJECT, names::TELL].iter().position(|one| *one == part)
    };
    parts.sort_by_key(|(part, node, _)| (place(part), time(node.started_at.as_ref())));
    let mut whole: Option<Attempt> = None;
    let mut lost = 0;
    for (part, node, told) in parts {
        let is_object = part == names::OBJECT;
        // What another pod took the place of was lost.
        lost += u64::from(matches!(
            whole.as_ref().map(|one| &one.end),
            Some(Some(AttemptEnd::Lost(_)))
        ));
        let well = node.phase.as_deref() == Some("Succeeded");
        let quiet = told.as_ref().is_some_and(|told| told.attempt.is_none());
        if quiet && !well {
            // It did nothing, and nothing follows.
            continue;
        }
        let done = quiet || (is_object && well);
        let own = if done { None } else { attempt(node, told) };
        let words = node.message.as_deref().unwrap_or_default();
        // Argo keeps no code of it, and what it was stopped at may have been made.
        let stopped = is_object && words.contains("with strategy");
        let began = time(node.started_at.as_ref()).filter(|_| done || stopped || own.is_some());
        let started_at = whole.as_ref().map(|one| one.started_at).or(began);
        let Some(started_at) = started_at else { continue };
        let mut end = own.as_ref().and_then(|own| own.end.clone());
        if is_object {
            let limit = step.timeout().filter(|_| is_deadline(words) && !late);
            if let Some(limit) = limit {
                let message = format!("it took longer than its timeout of {limit}");
                end = Some(AttemptEnd::failed(message));
            } else if stopped {
                end = Some(AttemptEnd::Stopped);
            } else if words.contains(WATCH_ENDED) {
                end = Some(AttemptEnd::Lost("its pod was ended from outside".into()));
            } else if let Some(AttemptEnd::Failed { exit_code, message, .. }) = &mut end {
                // Argo's own says nothing of the object.
                *exit_code = None;
                *message = said_of_object(step, words);
            }
        }
        whole = Some(Attempt {
            step: step.name().to_owned(),
            index,
            started_at,
            finished_at: own.and_then(|own| own.finished_at).filter(|_| end.is_some()),
            // Argo counts for each part what the board counts for all of them.
            lost: lost.min(step.interruptions()),
            note: None,
            end,
        });
    }
    whole
}

/// Whether a run had all the time that it may have, by Argo's own count.
fn late(seen: &Seen) -> bool {
    let took = seen.status.started_at.as_ref().zip(seen.status.finished_at.as_ref());
    let took = took.map(|(from, to)| to.0.duration_since(from.0).as_secs());
    seen.spec.active_deadline_seconds.zip(took).is_some_and(|(limit, took)| took >= limit)
}

/// The nodes, also compressed ones; none where they lie in a database.
fn nodes(seen: &Seen) -> Option<Cow<'_, IndexMap<String, Node>>> {
    let status = &seen.status;
    if let Some(nodes) = status.nodes.as_ref().filter(|nodes| !nodes.is_empty()) {
        return Some(Cow::Borrowed(nodes));
    }
    let packed = status.compressed_nodes.as_ref().filter(|packed| !packed.is_empty())?;
    let bytes = STANDARD.decode(packed).ok()?;
    let mut json = Vec::new();
    unpacked(&bytes)?.take(LARGEST).read_to_end(&mut json).ok()?;
    serde_json::from_slice(&json).ok().map(Cow::Owned)
}

/// What an administrator of Argo may choose: gzip, and from 4.1 on zstd or Brotli, which has no mark of its own.
fn unpacked(bytes: &[u8]) -> Option<Box<dyn Read + '_>> {
    Some(match bytes {
        [0x1f, 0x8b, ..] => Box::new(GzDecoder::new(bytes)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(StreamingDecoder::new(bytes).ok()?),
        _ => Box::new(Decompressor::new(bytes, 1 << 16)),
    })
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
            // Drained, evicted, or forgotten by its runtime: what the retry strategy of a pod says too.
            let lost = matches!(exit_code, None | Some(143)) || message.contains(FORGOTTEN);
            let lost = lost && !meant;
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
