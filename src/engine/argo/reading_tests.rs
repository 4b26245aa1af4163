//! What Workflows tell in each state in which a cluster may show them.

use std::io::Write;

use serde_json::{Value, json};

use super::*;
use crate::engine::argo::told::pack;
use crate::plan::{Run, Trigger};
use crate::spec::parse;
use crate::store::{EngineName, FileText, RunSpec};
use crate::types::{PipelineId, RunId, TriggerKind};

const YAML: &str = "name: p\nsteps:\n  a: {run: x}\n  b: {run: y, needs: a, retries: 1}\n";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn stored() -> (Pipeline, StoredRun) {
    let pipeline = parse(YAML, "j", "", 100).pipelines.remove(0);
    let id = PipelineId { source: "s".into(), folder: String::new(), name: "p".parse().unwrap() };
    let (kind, key) = (TriggerKind::Manual, "k".to_owned());
    let run_id = RunId::new(&id, kind, &key);
    let name = run_id.name(&id.name, None);
    let trigger = Trigger { kind, key, scheduled_at: None, retry_of: None };
    let params = IndexMap::new();
    let stored = StoredRun {
        run: Run::claimed(&id, (run_id, name), trigger, "r".into(), params, at(0)),
        pipeline: id,
        spec: RunSpec {
            definition: FileText { file: "j".into(), folder: String::new(), text: YAML.into() },
            max_points: 100,
            fingerprint: None,
            because: Vec::new(),
            from: None,
            kept: Vec::new(),
            backfill: false,
            engine: EngineName::Argo,
            handle: Some("uid".into()),
        },
        stop_requested: false,
        stopped_by: None,
        ended: None,
    };
    (pipeline, stored)
}

fn told(step: &str, from: i64, end: AttemptEnd, beginning: Beginning) -> String {
    let attempt = Attempt {
        step: step.into(),
        index: None,
        started_at: at(from),
        finished_at: Some(at(from + 2)),
        lost: 0,
        note: None,
        end: Some(end),
    };
    pack(&Told { attempt: Some(attempt), beginning: Some(beginning) }).unwrap()
}

fn well() -> AttemptEnd {
    AttemptEnd::Succeeded(Left::default())
}

fn node(name: &str, phase: &str, told: &str) -> Value {
    let (_, stored) = stored();
    let outputs = json!({"parameters": [{"name": "told", "value": told}], "exitCode": "1"});
    json!({
        "id": name, "name": format!("{}.{name}", stored.run.name), "type": "Pod", "phase": phase,
        "startedAt": at(5).to_string(), "finishedAt": at(9).to_string(),
        "outputs": if told.is_empty() { json!({"exitCode": "1"}) } else { outputs },
    })
}

fn nodes(list: Vec<Value>) -> Value {
    let named = list.into_iter().enumerate().map(|(at, node)| (format!("n{at}"), node));
    named.collect::<serde_json::Map<_, _>>().into()
}

/// Reads a Workflow; the run, and the phases of its steps.
fn read_of(phase: &str, spec: Value, status: Value) -> (Run, String) {
    let (pipeline, stored) = stored();
    let mut all = json!({"phase": phase, "startedAt": at(1).to_string()});
    if matches!(phase, "Succeeded" | "Failed" | "Error") {
        all["finishedAt"] = at(20).to_string().into();
    }
    all.as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
    let seen = json!({"metadata": {"uid": "uid"}, "spec": spec, "status": all});
    let seen: Seen = serde_json::from_value(seen).unwrap();
    let (run, steps) = read(&pipeline, &stored, &seen, at(30));
    let phases = steps.iter().map(|state| format!("{} {}", state.record.name, state.record.phase));
    (run, phases.collect::<Vec<_>>().join(", "))
}

fn both_well() -> Value {
    nodes(vec![
        node("a(0)", "Succeeded", &told("a", 2, well(), Beginning::Claimed)),
        node("b(0).attempt(0)", "Succeeded", &told("b", 6, well(), Beginning::Claimed)),
    ])
}

#[test]
fn a_workflow_that_nobody_took_up_is_pending() {
    let (run, steps) = read_of("", json!({"suspend": true}), json!({}));
    assert_eq!((run.phase, steps.as_str()), (Phase::Pending, "a Pending, b Pending"));
}

#[test]
fn nodes_in_a_database_are_counted_by_argo() {
    let seen = |progress: Value| -> Seen {
        let status = json!({"offloadNodeStatusVersion": "fnv:1", "progress": progress});
        serde_json::from_value(json!({"status": status})).unwrap()
    };
    assert!(!seen(json!("0/0")).has_pods() && seen(json!("0/1")).has_pods());
    assert!(seen(Value::Null).has_pods());
}

#[test]
fn a_workflow_that_a_person_suspends_says_so() {
    let nodes = nodes(vec![node("a(0)", "Succeeded", &told("a", 2, well(), Beginning::Claimed))]);
    let suspended = || json!({"suspend": true});
    let (run, steps) = read_of("Running", suspended(), json!({"nodes": nodes.clone()}));
    assert_eq!((run.phase, steps.as_str()), (Phase::Running, "a Succeeded, b Pending"));
    assert!(run.message.unwrap().contains("suspended"));
    let (run, _) = read_of("Running", suspended(), json!({}));
    assert_eq!(run.message, None);
    let (run, _) = read_of("Failed", suspended(), json!({"nodes": nodes}));
    assert!(!run.message.unwrap_or_default().contains("suspended"));
}

#[test]
fn nodes_are_read_plain_and_compressed() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(both_well().to_string().as_bytes()).unwrap();
    let text = both_well().to_string();
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    let zstd = ruzstd::encoding::compress_to_vec(text.as_bytes(), level);
    let mut brotli = Vec::new();
    brotli::BrotliCompress(
        &mut text.as_bytes(),
        &mut brotli,
        &brotli::enc::BrotliEncoderParams::default(),
    )
    .unwrap();
    let ways = [encoder.finish().unwrap(), zstd, brotli];
    let packed = ways.map(|bytes| json!({"compressedNodes": STANDARD.encode(bytes)}));
    for status in [json!({"nodes": both_well()})].into_iter().chain(packed) {
        let (run, steps) = read_of("Succeeded", json!({}), status);
        assert_eq!((run.phase, steps.as_str()), (Phase::Succeeded, "a Succeeded, b Succeeded"));
        assert_eq!((run.started_at, run.finished_at), (Some(at(2)), Some(at(20))));
    }
}

#[test]
fn of_offloaded_nodes_only_the_whole_is_known() {
    let status = json!({"offloadNodeStatusVersion": "fnv:1"});
    let (run, steps) = read_of("Succeeded", json!({}), status.clone());
    assert_eq!((run.phase, steps.as_str()), (Phase::Succeeded, "a Unknown, b Unknown"));
    let (run, _) = read_of("Failed", json!({}), status);
    assert_eq!(run.phase, Phase::Failed);
}

#[test]
fn who_was_shut_down_is_stopped() {
    let status = json!({"nodes": nodes(vec![
        node("a(0)", "Succeeded", &told("a", 2, well(), Beginning::Claimed)),
        node("b(0).attempt(0)", "Failed", &told("b", 6, AttemptEnd::Stopped, Beginning::Claimed)),
    ])});
    for how in ["Stop", "Terminate"] {
        let (run, steps) = read_of("Failed", json!({"shutdown": how}), status.clone());
        assert_eq!((run.phase, steps.as_str()), (Phase::Stopped, "a Succeeded, b Stopped"));
    }
    // Who was shut down after its last step ended well, ended well.
    let status = json!({"nodes": both_well()});
    let (run, _) = read_of("Failed", json!({"shutdown": "Stop"}), status);
    assert_eq!(run.phase, Phase::Succeeded);
}

#[test]
fn pods_that_are_lost_or_silent_count_as_such() {
    let status =
        json!({"nodes": nodes(vec![node("a(0)", "Error", ""), node("a(1)", "Running", "")])});
    let (run, steps) = read_of("Running", json!({}), status);
    assert_eq!((run.phase, steps.as_str()), (Phase::Running, "a Running, b Pending"));
    let mut silent = node("a(0)", "Failed", "");
    silent["message"] = "OOMKilled (exit code 137)".into();
    let (run, steps) = read_of("Failed", json!({}), json!({"nodes": nodes(vec![silent])}));
    assert_eq!((run.phase, steps.as_str()), (Phase::Failed, "a Failed, b Skipped"));
    assert_eq!(run.message.as_deref(), Some("step a: OOMKilled (exit code 137)"));
}

#[test]
fn a_pod_that_its_node_ends_is_lost_and_no_persons_stop() {
    let told = told("a", 2, AttemptEnd::Stopped, Beginning::Claimed);
    let status = json!({"nodes": nodes(vec![node("a(0)", "Failed", &told)])});
    let (run, steps) = read_of("Running", json!({}), status);
    assert_eq!((run.phase, steps.as_str()), (Phase::Running, "a Interrupted, b Pending"));
}

#[test]
fn what_did_not_reach_its_store_is_lost_whatever_its_pod_told() {
    let of = |phase: &str, saved: &[&str], spec: Value| {
        let mut one = node("a(0)", phase, &told("a", 2, well(), Beginning::Claimed));
        one["message"] = "wait: Error (exit code 64): failed to put file: no such bucket".into();
        let saved = saved.iter().map(|name| json!({"name": name}));
        one["outputs"]["artifacts"] = saved.collect();
        read_of("Running", spec, json!({"nodes": nodes(vec![one])})).1
    };
    let stored = || json!({"volumes": [{"name": "jupyterflow-results"}, {"name": "other"}]});
    let both = ["jupyterflow-told", "jupyterflow-results"];
    assert_eq!(of("Succeeded", &both, stored()), "a Succeeded, b Pending");
    assert_eq!(of("Running", &both[..1], stored()), "a Interrupted, b Pending");
    assert_eq!(of("Error", &both, stored()), "a Interrupted, b Pending");
    // What lies on a claim is there.
    assert_eq!(of("Error", &[], json!({})), "a Succeeded, b Pending");
}

#[test]
fn a_container_that_its_runtime_forgot_is_lost() {
    let mut forgotten = node("a(0)", "Failed", "");
    forgotten["message"] =
        "main: ContainerStatusUnknown (exit code 137): it could not be located".into();
    forgotten["outputs"] = json!({"exitCode": "137"});
    let status = json!({"nodes": nodes(vec![forgotten])});
    let (run, steps) = read_of("Running", json!({}), status);
    assert_eq!((run.phase, steps.as_str()), (Phase::Running, "a Interrupted, b Pending"));
}

#[test]
fn a_pod_between_its_containers_is_told_from_one_that_waits_for_a_node() {
    let of = |message: &str| {
        let mut waits = node("a(0)", "Pending", "");
        waits["message"] = message.into();
        let status = json!({"phase": "Running", "nodes": nodes(vec![waits])});
        initializing(&serde_json::from_value(json!({"metadata": {}, "status": status})).unwrap())
    };
    assert!(of("PodInitializing"));
    assert!(!of("Unschedulable: 0/1 nodes are available") && !of("ContainerCreating"));
}

#[test]
fn a_stop_before_a_pod_began_makes_no_attempt() {
    let mut never = node("a(0)", "Failed", "");
    never["message"] = "workflow shutdown with strategy:  Terminate".into();
    never["outputs"] = json!({});
    let status = json!({"nodes": nodes(vec![never])});
    let (run, steps) = read_of("Failed", json!({"shutdown": "Terminate"}), status);
    assert_eq!((run.phase, steps.as_str()), (Phase::Stopped, "a Skipped, b Skipped"));
}

#[test]
fn a_failure_that_is_shut_down_afterwards_stays_a_failure() {
    let failed =
        AttemptEnd::Failed { exit_code: Some(1), message: "x".into(), left: Left::default() };
    let silent = told("a", 2, failed, Beginning::Claimed);
    let status = json!({"nodes": nodes(vec![node("a(0)", "Failed", &silent)])});
    let (run, steps) = read_of("Failed", json!({"shutdown": "Terminate"}), status);
    assert_eq!((run.phase, steps.as_str()), (Phase::Failed, "a Failed, b Skipped"));
}

#[test]
fn a_pod_that_waits_says_for_what() {
    let mut waiting = node("a(0)", "Pending", "");
    waiting["message"] = "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu.".into();
    let (run, _) = read_of("Running", json!({}), json!({"nodes": nodes(vec![waiting])}));
    assert!(run.message.unwrap().contains("Insufficient cpu"));
}

#[test]
fn files_that_moved_on_make_a_run_that_did_nothing() {
    let silent = pack(&Told { attempt: None, beginning: Some(Beginning::MovedOn) }).unwrap();
    let status = json!({"nodes": nodes(vec![node("a(0)", "Failed", &silent)])});
    let (run, steps) = read_of("Failed", json!({}), status);
    assert_eq!((run.phase, steps.as_str()), (Phase::Skipped, "a Skipped, b Skipped"));
    assert_eq!(run.reason.as_deref(), Some("Superseded"));
}

#[test]
fn what_argo_could_not_even_begin_says_why() {
    let status = json!({"message": "invalid spec: templates.main sorting failed"});
    let (run, _) = read_of("Error", json!({}), status);
    assert_eq!(run.phase, Phase::Failed);
    assert!(run.message.unwrap().contains("invalid spec"));
}

const OBJECT: &str = "name: p\nsteps:\n  a:\n    resource: {manifest: {apiVersion: batch/v1, kind: Job}, success: status.succeeded > 0, \
                      failure: status.failed > 0}\n    timeout: 1m\n    retries: 1\n";

fn part(name: &str, phase: &str, told: &str, message: &str) -> Value {
    let mut node = node(name, phase, told);
    node["message"] = message.into();
    node
}

/// The run, and its step's phase, attempt and message.
fn object_of(phase: &str, spec: Value, list: Vec<Value>) -> (Phase, String) {
    let (_, mut stored) = stored();
    stored.spec.definition.text = OBJECT.into();
    let mut status = nodes(list);
    status = json!({"phase": phase, "startedAt": at(1).to_string(), "nodes": status});
    if phase != "Running" {
        status["finishedAt"] = at(20).to_string().into();
    }
    let seen = json!({"metadata": {"uid": "uid"}, "spec": spec, "status": status});
    let seen: Seen = serde_json::from_value(seen).unwrap();
    let (run, steps) = read(&stored.definition().unwrap(), &stored, &seen, at(30));
    let record = &steps[0].record;
    let words = record.message.clone().unwrap_or_default();
    (run.phase, format!("{} {} {words}", record.phase, record.attempt))
}

#[test]
fn the_parts_of_a_resource_step_are_one_attempt() {
    let quiet = pack(&Told { attempt: None, beginning: Some(Beginning::Claimed) }).unwrap();
    let made = part("a(0).object(0)", "Succeeded", "", "");
    let tells = part("a(0).tell(0)", "Succeeded", &told("a", 2, well(), Beginning::Claimed), "");
    let values = part("a(0).values(0)", "Succeeded", &quiet, "");
    let of = |list: &[&Value]| list.iter().map(|one| (*one).clone()).collect::<Vec<_>>();
    let running = json!({});
    let (phase, step) = object_of("Running", running.clone(), of(&[&values]));
    assert_eq!((phase, step.as_str()), (Phase::Running, "Running 1 "));
    let (phase, step) = object_of("Running", running.clone(), of(&[&made, &values]));
    assert_eq!((phase, step.as_str()), (Phase::Running, "Running 1 "));
    let (phase, step) = object_of("Succeeded", running.clone(), of(&[&tells, &made, &values]));
    assert_eq!((phase, step.as_str()), (Phase::Succeeded, "Succeeded 1 "));
    // A pod that was lost is no failure of the object; a condition that holds is, and is tried again.
    let lost = part("a(0).object(0)", "Error", "", "pod deleted");
    let again = part("a(0).object(1)", "Running", "", "");
    let (phase, step) = object_of("Running", running.clone(), of(&[&lost, &again]));
    assert_eq!((phase, step.as_str()), (Phase::Running, "Running 2 "));
    let words =
        "main: Error (exit code 64): failure condition '{status.failed gt [0]}' evaluated true";
    let failed = part("a(0).object(0)", "Failed", "", words);
    let second = part("a(1).object(0)", "Failed", "", words);
    let (phase, step) = object_of("Failed", running.clone(), of(&[&failed, &second]));
    let holds = "Failed 2 its condition of failure holds: status.failed > 0";
    assert_eq!((phase, step.as_str()), (Phase::Failed, holds));
    let words = "main: Error (exit code 64): jobs.batch is forbidden";
    let failed = part("a(1).object(0)", "Failed", "", words);
    let first = part("a(0).object(0)", "Failed", "", words);
    let (_, step) = object_of("Failed", running.clone(), of(&[&first, &failed]));
    assert_eq!(step, "Failed 2 jobs.batch is forbidden");
    let late = "Pod was active on the node longer than the specified deadline";
    let late = part("a(0).object(0)", "Failed", "", late);
    let (_, step) = object_of("Running", running, of(&[&late]));
    assert_eq!(step, "Pending 1 it took longer than its timeout of 1m");
    let stopped = part("a(0).object(0)", "Failed", "", "workflow shutdown with strategy:  Stop");
    let (phase, step) = object_of("Failed", json!({"shutdown": "Stop"}), of(&[&values, &stopped]));
    assert_eq!((phase, step.as_str()), (Phase::Stopped, "Stopped 1 "));
}
