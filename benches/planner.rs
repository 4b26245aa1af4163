//! The planner over many pipelines with twenty runs each and nothing to do: how long a pass thinks.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints what it measured"
)]

use std::time::Instant;

use jupyterflow::plan::{
    ChangeCursor, Definition, Ledger, Observed, Phase, PipelineFacts, RunFact, Seen, Trigger, plan,
};
use jupyterflow::spec::{Fingerprint, Pipeline, fingerprint::Files, parse};
use jupyterflow::types::{PipelineId, RunId, Timestamp, TriggerKind};

struct World {
    id: PipelineId,
    pipeline: Pipeline,
    fingerprint: Fingerprint,
    ledger: Ledger,
    runs: Vec<RunFact>,
}

fn world(number: usize, now: Timestamp) -> World {
    let yaml = "triggers: {change: {}, schedule: '0 3 * * *'}\nsteps:\n  a: {run: python a.py}\n  \
                b: {run: python b.py, needs: a, sweep: {k: [1, 2, 3]}, best: {metric: m, goal: max}}\n";
    let folder = format!("team-{}/user-{number}", number % 100);
    let documents = parse(yaml, "jupyterflow.yaml", &folder, 100);
    let pipeline = documents.pipelines.into_iter().next().unwrap();
    let id = PipelineId { source: "local".into(), folder, name: pipeline.name().clone() };
    let fingerprint = Fingerprint::new(&pipeline, &Files::new());
    let runs = (0..20).map(|key: u32| {
        let trigger = Trigger {
            kind: TriggerKind::Change,
            key: key.to_string(),
            scheduled_at: None,
            retry_of: None,
        };
        RunFact {
            name: RunId::new(&id, trigger.kind, &trigger.key).name(&id.name, None),
            trigger,
            phase: Phase::Succeeded,
            started_at: Some(now),
            finished_at: Some(now),
            ended: Some(u64::from(key)),
            stop_requested: false,
            requested: false,
            host: Observed::Absent,
        }
    });
    let runs = runs.collect();
    let change = ChangeCursor {
        generation: 20,
        accepted: Some(std::sync::Arc::new(fingerprint.clone())),
        run: None,
    };
    let ledger = Ledger { change, ..Ledger::default() };
    World { id, pipeline, fingerprint, ledger, runs }
}

fn pass(worlds: &[World], now: Timestamp) -> usize {
    let plans = worlds.iter().map(|world| {
        let definition = Definition {
            pipeline: &world.pipeline,
            fingerprint: &world.fingerprint,
            schedules: &world.pipeline.triggers().schedules,
            revision: "r",
            still_since: now,
            inputs_written: None,
        };
        let (seen, ledger) = (Seen::Good, &world.ledger);
        let facts = PipelineFacts::new(&world.id, seen, Some(definition), ledger, &world.runs);
        plan(&facts, now).actions.len()
    });
    plans.sum()
}

fn main() {
    let short = std::env::var("BENCH_SHORT").is_ok_and(|text| !text.is_empty());
    let now: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
    let sizes: &[usize] = if short { &[100] } else { &[1_000, 2_000, 5_000, 10_000] };
    let mut worlds: Vec<World> =
        (0..sizes.iter().copied().max().unwrap_or(0)).map(|number| world(number, now)).collect();
    // The schedules of a first pass take effect; from then on there is nothing to do.
    for world in &mut worlds {
        let one = std::slice::from_ref(&*world);
        assert_eq!(pass(one, now), 1);
        let schedules = world.pipeline.triggers().schedules.iter();
        world.ledger.schedules =
            schedules.map(|one| jupyterflow::plan::ScheduleCursor::new(one, now)).collect();
    }
    println!("| pipelines | median ms | µs each |\n|---|---|---|");
    for size in sizes {
        let mut times: Vec<f64> = (0..if short { 1 } else { 21 })
            .map(|_| {
                let begin = Instant::now();
                assert_eq!(pass(&worlds[..*size], now), 0);
                begin.elapsed().as_secs_f64() * 1000.0
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        println!(
            "| {size} | {median:.2} | {:.2} |",
            median * 1000.0 / f64::from(u32::try_from(*size).unwrap())
        );
    }
}
