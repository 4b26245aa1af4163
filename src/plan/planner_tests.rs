//! Tables and properties of the planner, over a world of a few fields.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::plan::{CheckSeen, Ledger, Observed, Phase, RunFact, Upstream};
use crate::spec::{FileState, Fingerprint, parse};
use crate::types::{Digest, Period, PipelineId, RunName};

/// A model of one pipeline's world: enough to apply a plan to.
struct World {
    id: PipelineId,
    yaml: String,
    script: String,
    seen: Seen,
    ledger: Ledger,
    runs: Vec<RunFact>,
    now: Timestamp,
    changed_at: Timestamp,
    hosts_unknown: bool,
    lacks: bool,
    check: Option<CheckSeen>,
    upstreams: Vec<Upstream>,
    ended: u64,
    room: usize,
    adopt: bool,
}

impl World {
    fn new(yaml: &str) -> Self {
        let now = "2026-11-22T10:00:00Z".parse().unwrap();
        Self {
            id: PipelineId {
                source: "local".into(),
                folder: "f".into(),
                name: "f".parse().unwrap(),
            },
            yaml: yaml.to_owned(),
            script: "1".into(),
            seen: Seen::Good,
            ledger: Ledger::default(),
            runs: Vec::new(),
            now,
            changed_at: now,
            hosts_unknown: false,
            lacks: false,
            check: None,
            upstreams: Vec::new(),
            ended: 0,
            room: usize::MAX,
            adopt: false,
        }
    }

    fn pass(&mut self) -> PipelinePlan {
        let documents = parse(&self.yaml, "f/jupyterflow.yaml", "f", 100);
        let file = FileState {
            digest: Digest::of_bytes(self.script.as_bytes()),
            modified: None,
            outline: None,
            manifest: None,
            declared: None,
        };
        let files: BTreeMap<_, _> = [("f/a.py".to_owned(), std::sync::Arc::new(file))].into();
        let pipeline = &documents.pipelines[0];
        let fingerprint = Fingerprint::new(pipeline, &files);
        let definition = Definition {
            pipeline,
            fingerprint: &fingerprint,
            schedules: &pipeline.triggers().schedules,
            revision: "r",
            still_since: self.changed_at,
            inputs_written: None,
        };
        if self.hosts_unknown {
            for run in self.runs.iter_mut().filter(|run| !run.phase.is_ended()) {
                run.host = Observed::Unknown;
            }
        }
        let facts = PipelineFacts::new(
            &self.id,
            self.seen.clone(),
            Some(definition),
            &self.ledger,
            &self.runs,
        );
        let facts = PipelineFacts {
            settle: Period::from_seconds(30),
            lacks: self.lacks.then_some("MissingSecret: db"),
            check: self.check.as_ref(),
            upstreams: &self.upstreams,
            room: self.room,
            adopt: self.adopt,
            ..facts
        };
        plan(&facts, self.now)
    }

    fn apply(&mut self, plan: &PipelinePlan) {
        self.ledger = plan.ledger.clone();
        for action in &plan.actions {
            match action {
                Action::Claim(claim) => {
                    assert!(self.runs.iter().all(|run| run.name != claim.name), "claimed twice");
                    let host = if claim.start { Observed::Known(()) } else { Observed::Absent };
                    self.runs.push(RunFact {
                        name: claim.name.clone(),
                        trigger: claim.trigger.clone(),
                        phase: if claim.start { Phase::Running } else { Phase::Pending },
                        started_at: None,
                        finished_at: None,
                        ended: None,
                        stop_requested: false,
                        requested: false,
                        host,
                    });
                }
                Action::Start { run, .. } => {
                    let run = self.runs.iter_mut().find(|fact| fact.name == *run).unwrap();
                    (run.phase, run.host) = (Phase::Running, Observed::Known(()));
                }
                Action::Stop { run, .. } => self.end(&run.clone(), Phase::Stopped),
                Action::Record { .. } => {}
            }
        }
    }

    fn end(&mut self, name: &RunName, phase: Phase) {
        let run = self.runs.iter_mut().find(|run| run.name == *name).unwrap();
        self.ended += 1;
        (run.phase, run.host) = (phase, Observed::Absent);
        (run.finished_at, run.ended) = (Some(self.now), Some(self.ended));
    }

    /// Passes and ends runs until nothing is left to do; returns the keys of runs that started.
    fn settle(&mut self) -> Vec<String> {
        let before: Vec<_> = self.runs.iter().map(|run| run.name.clone()).collect();
        self.now = self.now.max(self.changed_at + jiff::SignedDuration::from_secs(31));
        for _ in 0..300 {
            let plan = self.pass();
            self.apply(&plan);
            let open: Vec<_> = self
                .runs
                .iter()
                .filter(|run| run.phase == Phase::Running)
                .map(|run| run.name.clone())
                .collect();
            if plan.actions.is_empty() && open.is_empty() {
                break;
            }
            for name in open {
                self.end(&name, Phase::Succeeded);
            }
        }
        let new = self.runs.iter().filter(|run| !before.contains(&run.name));
        new.map(|run| format!("{} {}", run.trigger.kind, run.trigger.key)).collect()
    }

    fn later(&mut self, seconds: i64) {
        self.now += jiff::SignedDuration::from_secs(seconds);
    }

    fn edit(&mut self, script: &str) {
        self.script = script.into();
        self.changed_at = self.now;
    }

    fn reasons(&mut self) -> Vec<Reason> {
        self.pass().not_done.iter().map(|not| not.reason).collect()
    }
}

#[path = "triggers_tests.rs"]
mod triggers;

const CHANGE: &str = "steps: {a: {run: python a.py}}";
const HOURLY: &str = "triggers: {schedule: '0 * * * *'}\nsteps: {a: {run: python a.py}}";

#[test]
fn first_sight_settles_then_runs_once() {
    let mut world = World::new(CHANGE);
    assert_eq!(world.reasons(), [Reason::Settling]);
    assert_eq!(world.settle(), ["change 1"]);
    assert_eq!(world.reasons(), [Reason::UpToDate]);
    world.runs.clear();
    assert!(world.settle().is_empty(), "a removed record never makes a second run");
}

#[test]
fn an_edit_runs_again_and_a_revert_is_a_new_generation() {
    let mut world = World::new(CHANGE);
    world.settle();
    world.edit("2");
    assert_eq!(world.settle(), ["change 2"]);
    world.edit("1");
    assert_eq!(world.settle(), ["change 3"]);
}

#[test]
fn edits_during_a_run_wait_and_only_the_newest_runs() {
    let mut world = World::new(CHANGE);
    world.later(31);
    let plan = world.pass();
    world.apply(&plan);
    world.edit("2");
    world.later(31);
    assert_eq!(world.reasons(), [Reason::Waiting, Reason::Waiting]);
    world.edit("3");
    let first = world.runs[0].name.clone();
    world.end(&first, Phase::Failed);
    assert_eq!(world.settle(), ["change 2"]);
    assert!(world.settle().is_empty(), "a failed or superseded change is not repeated");
}

#[test]
fn a_withdrawn_digest_is_wanted_again() {
    let mut world = World::new(CHANGE);
    world.settle();
    world.ledger.change.accepted = None;
    assert_eq!(world.settle(), ["change 2"]);
}

#[test]
fn ticks_queue_in_order_and_changes_start_nothing() {
    let mut world = World::new(HOURLY);
    assert!(world.settle().is_empty(), "first sight of a schedule makes no run");
    world.edit("2");
    assert!(world.settle().is_empty());
    world.now = "2026-11-22T11:00:05Z".parse().unwrap();
    let plan = world.pass();
    world.apply(&plan);
    world.now = "2026-11-22T12:00:05Z".parse().unwrap();
    let plan = world.pass();
    assert_eq!(plan.actions.len(), 1);
    assert_eq!(plan.actions[0].word(), "record", "{plan:?}");
    world.apply(&plan);
    let first = world.runs[0].name.clone();
    world.end(&first, Phase::Succeeded);
    let plan = world.pass();
    assert_eq!(plan.actions[0].word(), "start");
    assert_eq!(plan.actions[0].run(), Some(&world.runs[1].name));
}

#[test]
fn missed_ticks_follow_the_policy_and_are_counted() {
    let mut world = World::new(HOURLY);
    world.settle();
    world.now = "2026-11-23T10:30:00Z".parse().unwrap();
    assert_eq!(world.settle(), ["schedule 2026-11-23T10:00:00Z"]);
    assert_eq!(world.ledger.skips[0].count, 23);
    world.now = "2026-11-22T12:00:00Z".parse().unwrap();
    assert!(world.settle().is_empty(), "a clock that steps back never fires again");
}

#[test]
fn an_edited_schedule_fires_nothing_from_before_the_edit() {
    let mut world = World::new(HOURLY);
    world.settle();
    world.later(600);
    world.yaml = HOURLY.replace("0 * * * *", "*/5 * * * *");
    assert!(world.settle().is_empty());
    world.now = "2026-11-22T10:15:01Z".parse().unwrap();
    assert_eq!(world.settle(), ["schedule 2026-11-22T10:15:00Z"]);
}

#[test]
fn suspension_skips_ticks_for_good() {
    let mut world = World::new(HOURLY);
    world.settle();
    world.ledger.suspended = Some(world.now);
    world.now = "2026-11-22T12:00:01Z".parse().unwrap();
    assert!(world.settle().is_empty());
    world.ledger.suspended = None;
    assert!(world.settle().is_empty());
    assert_eq!(world.ledger.skips[0].reason, Reason::Suspended);
}

#[test]
fn what_cannot_be_seen_starts_nothing() {
    let mut world = World::new(CHANGE);
    world.later(31);
    let plan = world.pass();
    world.apply(&plan);
    world.hosts_unknown = true;
    world.edit("2");
    world.later(31);
    assert!(world.pass().actions.is_empty());
    assert!(world.reasons().contains(&Reason::Unknown));
    world.hosts_unknown = false;
    for (seen, reason) in [
        (Seen::Invalid("x".into()), Reason::InvalidFile),
        (Seen::Unreadable("x".into()), Reason::SourceUnreadable),
        (Seen::Gone, Reason::Orphaned),
    ] {
        let mut world = World::new(CHANGE);
        world.later(31);
        world.seen = seen;
        assert!(world.reasons().contains(&reason));
        assert!(world.settle().is_empty());
    }
}

#[test]
fn a_lost_host_is_started_again_and_a_stop_ends() {
    let mut world = World::new(CHANGE);
    world.later(31);
    let plan = world.pass();
    world.apply(&plan);
    world.runs[0].host = Observed::Absent;
    let plan = world.pass();
    assert_eq!(plan.actions[0].reason(), "its host was lost");
    world.apply(&plan);
    world.runs[0].stop_requested = true;
    assert_eq!(world.pass().actions[0].word(), "stop");
}

#[test]
fn later_work_is_named() {
    let mut world = World::new("triggers: pullRequest\nimage: x\nsteps: {a: {run: python a.py}}");
    let later = Reason::NotExecutedYet;
    assert_eq!(world.reasons(), [later, later, Reason::UpToDate]);
}

#[derive(Clone, Debug)]
enum Event {
    Edit(u8),
    Later(i64),
    Upstream(bool),
    EndAll(bool),
    LoseHosts,
    Forget,
    Seen(u8),
    Suspend(bool),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..4_u8).prop_map(Event::Edit),
        (-4000..8000_i64).prop_map(Event::Later),
        any::<bool>().prop_map(Event::Upstream),
        any::<bool>().prop_map(Event::EndAll),
        Just(Event::LoseHosts),
        Just(Event::Forget),
        (0..4_u8).prop_map(Event::Seen),
        any::<bool>().prop_map(Event::Suspend),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens, a plan that was applied leaves nothing to do, no run is claimed twice,
    /// not even after its record is gone, and at most one run is at work.
    #[test]
    fn a_plan_applied_leaves_nothing_to_do(
        events in prop::collection::vec(event(), 1..40),
        policy in prop::sample::select(vec!["queue", "forbid", "allow", "replace"]),
        more in prop::sample::select(vec!["", ", stale: {maxAge: 2h}", ", pipelines: [u, v]"]),
    ) {
        let yaml = format!("concurrency: {policy}\ntriggers: {{change: , \
            schedule: '*/20 * * * *'{more}}}\nsteps: {{a: {{run: python a.py}}}}");
        let mut world = World::new(&yaml);
        let mut upstream = 0;
        let mut ever = std::collections::BTreeSet::new();
        for event in events {
            match event {
                Event::Edit(script) => world.edit(&script.to_string()),
                Event::Later(seconds) => world.later(seconds),
                Event::Upstream(which) => {
                    upstream += 1;
                    if more.contains("pipelines") {
                        world.upstreams = ["u", "v"].map(triggers::upstream).into();
                        let success = triggers::success("up", upstream, world.now);
                        world.upstreams[usize::from(which)].success = Ok(Some(success));
                    }
                }
                Event::EndAll(well) => {
                    let phase = if well { Phase::Succeeded } else { Phase::Failed };
                    let running = world.runs.iter().filter(|run| run.phase == Phase::Running);
                    for name in running.map(|run| run.name.clone()).collect::<Vec<_>>() {
                        world.end(&name, phase);
                    }
                }
                Event::LoseHosts => world.runs.iter_mut().for_each(|run| run.host = Observed::Absent),
                Event::Forget => world.runs.retain(|run| !run.phase.is_ended()),
                Event::Seen(which) => {
                    world.seen = [Seen::Good, Seen::Gone, Seen::Invalid("i".into()),
                        Seen::Unreadable("u".into())][usize::from(which)].clone();
                }
                Event::Suspend(on) => world.ledger.suspended = on.then_some(world.now),
            }
            let known: Vec<_> = world.runs.iter().map(|run| run.name.clone()).collect();
            let plan = world.pass();
            world.apply(&plan);
            for run in &world.runs {
                prop_assert!(known.contains(&run.name) || ever.insert(run.name.clone()),
                    "{} was claimed again", run.name);
            }
            let mut again = world.pass();
            // Here what gives way ends at once, and the next look starts what replaces it.
            if policy == "replace" && plan.actions.iter().any(|a| matches!(a, Action::Stop { .. })) {
                world.apply(&again);
                again = world.pass();
            }
            prop_assert!(again.actions.is_empty(), "{:?} after {:?}", again.actions, plan.actions);
            prop_assert_eq!(&again.ledger, &world.ledger);
            let at_work = world.runs.iter().filter(|run| run.phase == Phase::Running).count();
            prop_assert!(policy == "allow" || at_work <= 1);
        }
    }

    /// The order of steps, keys and ended runs does not matter.
    #[test]
    fn the_order_of_inputs_does_not_matter(later in 0..4000_i64, turn in 0..5_usize) {
        let yaml = |first: &str, second: &str, keys: &str| {
            format!("triggers: {{change: , schedule: '*/20 * * * *'}}\n{keys}steps:\n{first}{second}")
        };
        let (a, b) = ("  a: {run: python a.py, retries: 1}\n", "  b: {needs: a, run: echo b}\n");
        let mut one = World::new(&yaml(a, b, "params: {x: 1, y: 2}\nenv: {A: '1', B: '2'}\n"));
        let mut two = World::new(&yaml(b, a, "env: {B: '2', A: '1'}\nparams: {y: 2, x: 1}\n"));
        for edit in 0..3_u8 {
            for world in [&mut one, &mut two] {
                world.edit(&edit.to_string());
                world.later(31 + later);
                let plan = world.pass();
                world.apply(&plan);
                for run in world.runs.iter_mut().filter(|run| run.phase == Phase::Running) {
                    run.phase = Phase::Succeeded;
                    run.host = Observed::Absent;
                }
            }
            // The queue has an order of its own; that of what has ended says nothing.
            let (mut runs, mut ended): (Vec<_>, Vec<_>) =
                two.runs.drain(..).partition(|run| !run.phase.is_ended());
            let count = ended.len().max(1);
            ended.rotate_left(turn % count);
            runs.extend(ended);
            two.runs = runs;
            prop_assert_eq!(one.pass(), two.pass());
        }
    }

    /// What is unknown never starts anything.
    #[test]
    fn unknown_never_starts(script in 0..3_u8, later in 0..9000_i64) {
        let mut world = World::new(CHANGE);
        world.later(31);
        let plan = world.pass();
        world.apply(&plan);
        world.edit(&script.to_string());
        world.later(later);
        world.hosts_unknown = true;
        prop_assert!(world.pass().actions.is_empty());
    }
}
