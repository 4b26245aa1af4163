//! The claim of a cluster: one controller stands still before each of its calls, to the API server and to
//! the engine, while another goes on to the end, with all that the end brings, and then goes on itself. One
//! execution, whatever happens; and one that is killed there instead loses nothing.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use jupyterflow::controller::objects::{Key, Objects};
use jupyterflow::controller::requests::{self, Wanted};
use jupyterflow::controller::{ClusterStore, records};
use jupyterflow::plan::{Limits, Phase, range};
use jupyterflow::reconcile::{self, Backfilling, Memory, RequestError, Scope, Settle, World};
use jupyterflow::sim::{Fuse, SimulatedChecks, SimulatedSource};
use jupyterflow::store::{Store, StoreError, StoredRun};
use jupyterflow::types::{Period, PipelineId, Timestamp};

use crate::handles::{Cluster, Meanwhile, Pause, Remote, Since, now};
use crate::server::{Server, View};

const CHANGE: &str = "name: p\nsteps: {a: {run: x}}\n";
const TICK: &str = "name: p\ntriggers: {schedule: '0 3 * * *'}\nsteps: {a: {run: x}}\n";
const BOTH: &str = "name: p\ntriggers: {change: {}, schedule: '0 3 * * *'}\nconcurrency: allow\nsteps: {a: {run: x}}\n";

/// A controller.
struct Controller {
    view: View,
    store: ClusterStore<View>,
    engine: Remote,
    source: SimulatedSource,
    memory: Memory,
    settle: u64,
}

fn later(hours: i64) -> Timestamp {
    now().checked_add(jiff::SignedDuration::from_hours(hours)).unwrap()
}

impl Controller {
    fn new(server: &Server, cluster: &Rc<RefCell<Cluster>>, yaml: &str, pause: &Pause) -> Self {
        let view = server.view(Fuse::default(), pause.clone());
        let places = |_: &_| Some("team".to_owned());
        let store = ClusterStore::new(view.clone(), Arc::new(places));
        let engine = Remote::new(cluster, pause.clone());
        let mut source = SimulatedSource::default();
        source.save("jupyterflow.yaml", yaml, now());
        Self { view, store, engine, source, memory: Memory::default(), settle: 0 }
    }

    fn pass(&mut self, now: Timestamp) {
        self.view.sync();
        self.pass_unsynced(now);
    }

    fn pass_unsynced(&mut self, now: Timestamp) {
        let cluster = self.engine.cluster();
        let stands = |key: &Key| {
            let cluster = cluster.borrow();
            let own = cluster.objects.iter().find(|one| one.run.as_str() == key.name);
            Ok(own.map(|one| one.uid.clone()))
        };
        let _ = self.store.rebuild(stands, now);
        let _ = self.store.sweep();
        let scope = self.scope();
        let Self { store, engine, source, memory, .. } = self;
        let mut checks = SimulatedChecks::default();
        let mut world = World { source, store, engine, checks: &mut checks };
        let open: Vec<StoredRun> = world.store.runs(usize::MAX).unwrap();
        for stored in open {
            let _ = reconcile::refresh(world.store, world.engine, &stored, now);
        }
        let look = reconcile::look(&mut world, memory, &scope, now).unwrap();
        let _ = reconcile::apply(&mut world, &scope, &look, now);
    }

    fn scope(&self) -> Scope {
        Scope {
            source: "team/homes".into(),
            settle: Settle::After(Period::from_seconds(self.settle)),
            max_points: 100,
            below: String::new(),
            limits: Limits::default(),
            adopt: false,
            shared: true,
        }
    }

    /// Answers what people want made up for.
    fn backfill(&mut self, now: Timestamp) {
        self.view.sync();
        let scope = self.scope();
        for (id, words) in self.store.backfills() {
            let Self { store, engine, source, memory, .. } = self;
            let mut checks = SimulatedChecks::default();
            let mut world = World { source, store, engine, checks: &mut checks };
            let look = reconcile::look(&mut world, memory, &scope, now).unwrap();
            let asked = Backfilling { range: range(&words).unwrap(), most: 100, dry_run: false };
            match reconcile::backfill(&mut world, &scope, &look, &id, &asked, now) {
                Ok(_) => self.store.backfilled(&id, &words).unwrap(),
                // The next pass knows more.
                Err(RequestError::Store(StoreError::Conflict)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn forget(&mut self) {
        let ended = self.store.runs(usize::MAX).unwrap();
        let ended = ended.into_iter().filter(|one| one.run.phase.is_ended());
        let names: Vec<_> = ended.map(|one| one.run.name).collect();
        self.store.forget(&names).unwrap();
    }

    fn phases(&mut self) -> Vec<Phase> {
        self.view.sync();
        self.store.runs(usize::MAX).unwrap().iter().map(|stored| stored.run.phase).collect()
    }
}

/// What one controller does while the other stands still: two passes and what follows its run's end.
fn goes_on(
    mut other: Controller,
    cluster: Rc<RefCell<Cluster>>,
    since: Since,
    at: Timestamp,
    happened: Rc<RefCell<bool>>,
) -> Meanwhile {
    Box::new(move || {
        *happened.borrow_mut() = true;
        other.pass(at);
        cluster.borrow_mut().works();
        if matches!(since, Since::Vanished) {
            cluster.borrow_mut().objects.clear();
        }
        other.pass(at);
        other.pass(at);
        if !matches!(since, Since::Ended) {
            cluster.borrow_mut().objects.clear();
        }
        if matches!(since, Since::Forgotten) {
            other.forget();
            assert_eq!(other.phases(), []);
        }
    })
}

/// How often each run was executed, and whether the place exists at all.
fn executed(yaml: &str, runs: usize, at: usize, since: Since, new: bool, hurry: bool) -> bool {
    let server = Server::default();
    let cluster: Rc<RefCell<Cluster>> = Rc::default();
    let tick = later(30);
    // The pipeline is known, and its schedule took effect.
    if !new {
        Controller::new(&server, &cluster, TICK, &Pause::default()).pass(now());
    }
    let happened = Rc::new(RefCell::new(false));
    let other = Controller::new(&server, &cluster, yaml, &Pause::default());
    let meanwhile = goes_on(other, Rc::clone(&cluster), since, tick, Rc::clone(&happened));
    let mut still = Controller::new(&server, &cluster, yaml, &Pause::new(at, meanwhile));
    still.view.sync();
    if hurry {
        still.view.hurry();
    }
    // What it knows is of before all this.
    still.pass_unsynced(tick);
    cluster.borrow_mut().works();
    for _ in 0..4 {
        still.pass(tick);
        cluster.borrow_mut().works();
    }
    still.pass(tick);
    let count = cluster.borrow().executed.len();
    assert_eq!(count, runs, "{since:?} before call {at}: {yaml}");
    let open = still.phases().into_iter().filter(|phase| !phase.is_ended());
    assert_eq!(open.count(), 0, "{since:?} before call {at}: {yaml}");
    // No record is left that nobody claimed.
    assert_eq!(server.records().len(), still.phases().len(), "{since:?} before call {at}: {yaml}");
    *happened.borrow()
}

#[test]
fn one_execution_wherever_a_controller_stands_still() {
    let mut places = 0;
    for (yaml, runs) in [(CHANGE, 1), (TICK, 1), (BOTH, 2)] {
        for since in [Since::Ended, Since::Removed, Since::Forgotten, Since::Vanished] {
            for (new, hurry) in [(false, false), (false, true), (true, false), (true, true)] {
                // A schedule of a pipeline that is new takes effect, and fires later.
                let runs = runs - usize::from(new && yaml != CHANGE);
                for at in 1.. {
                    if !executed(yaml, runs, at, since, new, hurry) {
                        break;
                    }
                    places += 1;
                }
            }
        }
    }
    assert!(places >= 250, "only {places} places were tried");
}

/// A controller whose view of the files is older than another's, as one of a network file system may be,
/// does not turn a pipeline back, also where it has only just begun.
#[test]
fn a_stale_view_does_not_flip_a_pipeline() {
    for restarted in [false, true] {
        let (server, cluster) = (Server::default(), Rc::<RefCell<Cluster>>::default());
        let new = |yaml| {
            let made = Controller::new(&server, &cluster, yaml, &Pause::default());
            Controller { settle: 30, ..made }
        };
        let (mut fresh, mut stale) = (new(CHANGE), new(CHANGE));
        let at = |seconds| now().checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap();
        for second in [0, 40, 50] {
            fresh.pass(at(second));
            stale.pass(at(second));
            cluster.borrow_mut().works();
        }
        assert_eq!(cluster.borrow().executed.len(), 1);
        let edited = CHANGE.replace("run: x", "run: y");
        fresh.source.save("jupyterflow.yaml", &edited, at(60));
        for second in (60..180).step_by(5) {
            if restarted && second == 120 {
                stale = new(CHANGE);
            }
            // It sees the edit 25 s after the other's claim, or after it began.
            if second == if restarted { 145 } else { 120 } {
                stale.source.save("jupyterflow.yaml", &edited, at(60));
            }
            fresh.pass(at(second));
            if !restarted || second >= 120 {
                stale.pass(at(second));
            }
            cluster.borrow_mut().works();
        }
        assert_eq!(cluster.borrow().executed.len(), 2, "restarted: {restarted}");
    }
}

/// How somebody looks for a run.
type Looks = fn(&ClusterStore<View>, &str) -> Option<StoredRun>;

/// Whoever learns that a pipeline let go of a run, and of the run's end only later, does not take it for gone.
#[test]
fn a_run_whose_end_comes_after_its_pipelines_is_there() {
    let (server, cluster) = (Server::default(), Rc::<RefCell<Cluster>>::default());
    let mut one = Controller::new(&server, &cluster, CHANGE, &Pause::default());
    one.pass(now());
    let seen: [Looks; 3] = [
        |store, name| store.run(name).unwrap(),
        |store, _| store.runs(1).unwrap().pop(),
        |store, _| store.runs_of(&store.pipelines().unwrap()[0].id).unwrap().pop(),
    ];
    let behind = seen.map(|seen| {
        let other = Controller::new(&server, &cluster, CHANGE, &Pause::default());
        other.view.sync();
        (other, seen)
    });
    cluster.borrow_mut().works();
    one.pass(now());
    for (other, seen) in behind {
        let run = other.store.runs(1).unwrap().remove(0).run;
        assert!(!run.phase.is_ended());
        other.view.sync_pipelines();
        let run = seen(&other.store, run.name.as_str()).unwrap().run;
        assert_eq!(run.phase, Phase::Succeeded);
    }
}

/// A run whose record a person deletes while it is at work holds up nothing, and is asked for no more.
#[test]
fn a_pipeline_lets_go_of_a_run_whose_record_is_gone() {
    let (server, cluster) = (Server::default(), Rc::<RefCell<Cluster>>::default());
    let mut one = Controller::new(&server, &cluster, CHANGE, &Pause::default());
    one.pass(now());
    let record = one.view.runs().remove(0);
    let active = |one: &Controller| one.view.pipelines()[0].status.clone().unwrap().active.len();
    assert_eq!(active(&one), 1);
    // One that only this view does not know yet stays.
    let other = Controller::new(&server, &cluster, CHANGE, &Pause::default());
    other.view.sync_pipelines();
    assert_eq!(other.store.let_go(), []);
    one.view.delete_run(&record).unwrap();
    other.view.sync();
    let name = record.metadata.name.clone().unwrap();
    assert_eq!(other.store.let_go(), [Ok(name)]);
    assert_eq!((active(&other), other.store.let_go()), (0, vec![]));
}

/// Whatever a backup or a person takes away, what was recorded never runs again.
#[test]
fn lost_cursors_start_nothing() {
    for yaml in [CHANGE, TICK, BOTH] {
        for pipelines in [true, false] {
            for at_work in [true, false] {
                let server = Server::default();
                let cluster: Rc<RefCell<Cluster>> = Rc::default();
                let mut one = Controller::new(&server, &cluster, yaml, &Pause::default());
                one.pass(now());
                if !at_work {
                    cluster.borrow_mut().works();
                    one.pass(now());
                }
                let before = cluster.borrow().objects.len();
                server.restore(pipelines);
                let mut next = Controller::new(&server, &cluster, yaml, &Pause::default());
                for _ in 0..4 {
                    next.pass(now());
                    cluster.borrow_mut().works();
                }
                next.pass(now());
                let shown = format!("{yaml}: pipelines {pipelines}, at work {at_work}");
                assert_eq!(cluster.borrow().executed.len(), before, "{shown}");
                assert_eq!(cluster.borrow().objects.len(), before, "{shown}");
                // What executed it still stands, and tells its end.
                assert_eq!(next.phases(), vec![Phase::Succeeded; before], "{shown}");
            }
        }
    }
    // Where nothing stands, nobody saw the end.
    let server = Server::default();
    let cluster: Rc<RefCell<Cluster>> = Rc::default();
    let mut one = Controller::new(&server, &cluster, CHANGE, &Pause::default());
    one.pass(now());
    server.restore(true);
    cluster.borrow_mut().objects.clear();
    let mut next = Controller::new(&server, &cluster, CHANGE, &Pause::default());
    (0..3).for_each(|_| next.pass(now()));
    assert_eq!(next.phases(), [Phase::Unknown]);
    assert_eq!(cluster.borrow().objects.len(), 0);
}

/// Killed at each of these places instead, the next controller makes the claim good.
#[test]
fn a_controller_that_is_killed_in_a_claim_loses_nothing() {
    for (yaml, runs) in [(CHANGE, 1), (TICK, 1), (BOTH, 2)] {
        for at in 1.. {
            let server = Server::default();
            let cluster: Rc<RefCell<Cluster>> = Rc::default();
            let mut first = Controller::new(&server, &cluster, TICK, &Pause::default());
            first.pass(now());
            let dies: Meanwhile = Box::new(|| std::panic::resume_unwind(Box::new("killed")));
            let mut killed = Controller::new(&server, &cluster, yaml, &Pause::new(at, dies));
            let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                killed.pass(later(30));
            }));
            if died.is_ok() {
                assert!(at > 4, "a claim has more calls than {at}");
                break;
            }
            let mut next = Controller::new(&server, &cluster, yaml, &Pause::default());
            for _ in 0..4 {
                next.pass(later(30));
                cluster.borrow_mut().works();
            }
            next.pass(later(30));
            assert_eq!(cluster.borrow().executed.len(), runs, "call {at}: {yaml}");
            assert_eq!(next.phases(), vec![Phase::Succeeded; runs], "call {at}: {yaml}");
        }
    }
}

/// Past instants that a person asks for run once, wherever the controller that claims them is killed, or stands still
/// while another goes on.
#[test]
fn a_backfill_that_is_cut_short_is_made_good() {
    let places = Rc::new(RefCell::new(0));
    for (stands_still, at) in
        [true, false].into_iter().flat_map(|how| (1..40).map(move |at| (how, at)))
    {
        let seen = Rc::clone(&places);
        let server = Server::default();
        let cluster: Rc<RefCell<Cluster>> = Rc::default();
        let mut first = Controller::new(&server, &cluster, TICK, &Pause::default());
        first.pass(now());
        server.annotate(records::BACKFILL, &format!("{}..{}", later(-72), now()));
        let mut other = Controller::new(&server, &cluster, TICK, &Pause::default());
        let works = Rc::clone(&cluster);
        let goes_on: Meanwhile = Box::new(move || {
            *seen.borrow_mut() += 1;
            if !stands_still {
                std::panic::resume_unwind(Box::new("killed"));
            }
            for _ in 0..2 {
                other.backfill(now());
                other.pass(now());
                works.borrow_mut().works();
            }
        });
        let mut paused = Controller::new(&server, &cluster, TICK, &Pause::new(at, goes_on));
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            paused.backfill(now());
            paused.pass(now());
        }));
        let mut next = Controller::new(&server, &cluster, TICK, &Pause::default());
        for _ in 0..8 {
            next.backfill(later(1));
            next.pass(later(1));
            cluster.borrow_mut().works();
        }
        next.pass(later(1));
        let shown = format!("call {at}, stands still: {stands_still}");
        assert_eq!(cluster.borrow().executed.len(), 3, "{shown}");
        assert_eq!(next.phases(), [Phase::Succeeded; 3], "{shown}");
        assert!(next.store.backfills().is_empty(), "{shown}");
    }
    assert!(*places.borrow() >= 40, "only {} places were tried", places.borrow());
}

const STEPS: &str = "name: p\ntriggers: []\nsteps: {a: {run: x}, b: {run: y, needs: a}}\n";

/// A run that a person asks for, from a step on, of which only the controller says what it executes.
fn asked(controller: &mut Controller, again: Option<&StoredRun>) {
    let id = PipelineId {
        source: "team/homes".into(),
        folder: String::new(),
        name: "p".parse().unwrap(),
    };
    let key = Key { namespace: "team".into(), name: records::object_name(&id) };
    let wanted = Wanted {
        params: indexmap::IndexMap::new(),
        from: again.map(|_| "b".to_owned()),
        again: again.map(|one| one.run.name.clone()),
        key: if again.is_some() { "2".into() } else { "1".into() },
    };
    controller.view.sync();
    controller.view.create_run(&requests::record(&key, &id, wanted)).unwrap();
}

/// Wherever a controller is killed, or stands still while another goes on, what is on record is what executes.
#[test]
fn what_a_person_asked_for_is_executed_as_recorded() {
    for stands_still in [true, false] {
        for at in 1.. {
            let server = Server::default();
            let cluster: Rc<RefCell<Cluster>> = Rc::default();
            let mut first = Controller::new(&server, &cluster, STEPS, &Pause::default());
            first.pass(now());
            asked(&mut first, None);
            first.pass(now());
            cluster.borrow_mut().works();
            first.pass(now());
            let done = first.store.runs(1).unwrap().remove(0);
            assert_eq!(done.run.phase, Phase::Succeeded);
            asked(&mut first, Some(&done));
            let edited = STEPS.replace("run: y", "run: z");
            let mut next = Controller::new(&server, &cluster, &edited, &Pause::default());
            let happened = Rc::new(RefCell::new(false));
            let seen = Rc::clone(&happened);
            let goes_on: Meanwhile = Box::new(move || {
                *seen.borrow_mut() = true;
                if stands_still {
                    next.pass(later(1));
                    next.pass(later(1));
                } else {
                    std::panic::resume_unwind(Box::new("killed"))
                }
            });
            let mut paused = Controller::new(&server, &cluster, STEPS, &Pause::new(at, goes_on));
            let _ =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| paused.pass(later(1))));
            if !*happened.borrow() {
                assert!(at > 4, "it has more calls than {at}");
                break;
            }
            let mut last = Controller::new(&server, &cluster, &edited, &Pause::default());
            for _ in 0..4 {
                last.pass(later(1));
                cluster.borrow_mut().works();
            }
            last.pass(later(1));
            let shown = format!("call {at}, stands still: {stands_still}");
            assert_eq!(last.phases(), [Phase::Succeeded; 2], "{shown}");
            assert_eq!(cluster.borrow().executed.len(), 2, "{shown}");
            let all = last.store.runs(2).unwrap();
            let again = all.iter().find(|one| one.run.trigger.retry_of.is_some()).unwrap();
            let cluster = cluster.borrow();
            let object = cluster.objects.iter().find(|one| one.run == again.run.name).unwrap();
            let (revision, spec) = &object.made_of;
            assert_eq!(
                (revision, &spec.definition),
                (&again.run.revision, &again.spec.definition),
                "{shown}"
            );
            assert_eq!((&spec.kept, again.spec.kept.len()), (&again.spec.kept, 1), "{shown}");
        }
    }
}

/// Where the newest commit holds no whole pipeline file, the last good one is in force, and works on that commit.
#[test]
fn a_broken_file_leaves_the_commit_in_force() {
    let server = Server::default();
    let cluster: Rc<RefCell<Cluster>> = Rc::default();
    let mut one = Controller::new(&server, &cluster, TICK, &Pause::default());
    one.source.push();
    one.pass(now());
    one.source.save("jupyterflow.yaml", "steps: [", now());
    let broken = one.source.push();
    one.pass(later(30));
    asked(&mut one, None);
    for _ in 0..3 {
        one.pass(later(31));
        cluster.borrow_mut().works();
    }
    one.pass(later(31));
    assert_eq!(one.phases(), [Phase::Succeeded; 2]);
    for stored in one.store.runs(2).unwrap() {
        assert_eq!(stored.run.revision, broken, "{}", stored.run.name);
        assert!(stored.spec.definition.text.contains("schedule"));
    }
}
