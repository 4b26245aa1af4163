//! A run that is executed elsewhere: one process stands still at each step of the claim while another goes
//! on to the end, with all that the end brings, and then goes on itself. One execution, whatever happens.

use std::cell::RefCell;
use std::rc::Rc;

use jupyterflow::engine::{Engine, EngineError, Report};
use jupyterflow::plan::{Observed, Phase, StepRecord};
use jupyterflow::reconcile::{self, Memory, Request, World};
use jupyterflow::sim::{SimulatedChecks, SimulatedSource};
use jupyterflow::spec::Pipeline;
use jupyterflow::store::{EngineName, FileText, RunSpec, SqliteStore, StepState, Store, StoredRun};
use jupyterflow::types::{PipelineId, RunName, Timestamp};

const YAML: &str = "name: p\nsteps: {a: {run: x}}\n";

/// An object of a cluster, as far as claims go.
#[derive(Clone)]
pub struct Object {
    pub run: RunName,
    pub uid: String,
    pub suspended: bool,
    /// What it was made of.
    pub made_of: (String, RunSpec),
    shut_down: bool,
    over: bool,
}

/// A cluster: its objects, and which of them ever executed anything.
#[derive(Default)]
pub struct Cluster {
    pub objects: Vec<Object>,
    made: usize,
    pub executed: Vec<String>,
}

impl Cluster {
    fn of(&mut self, run: &RunName) -> Option<&mut Object> {
        self.objects.iter_mut().find(|object| object.run == *run)
    }

    /// Its own controller works: what is released executes, to its end.
    pub fn works(&mut self) {
        for object in self.objects.iter_mut().filter(|object| !object.suspended && !object.over) {
            object.over = true;
            if !object.shut_down {
                self.executed.push(object.uid.clone());
            }
        }
    }
}

/// What happens while a process stands still.
pub type Meanwhile = Box<dyn FnOnce()>;

/// Where a process stands still.
#[derive(Clone, Default)]
pub struct Pause(Rc<Place>);

#[derive(Default)]
struct Place {
    /// Before which call of this process, from 1, something happens.
    at: usize,
    calls: RefCell<usize>,
    meanwhile: RefCell<Option<Meanwhile>>,
}

impl Pause {
    pub fn new(at: usize, meanwhile: Meanwhile) -> Self {
        let (calls, meanwhile) = (RefCell::new(0), RefCell::new(Some(meanwhile)));
        Self(Rc::new(Place { at, calls, meanwhile }))
    }

    pub fn call(&self) {
        *self.0.calls.borrow_mut() += 1;
        if *self.0.calls.borrow() == self.0.at {
            let meanwhile = self.0.meanwhile.borrow_mut().take();
            if let Some(meanwhile) = meanwhile {
                meanwhile();
            }
        }
    }
}

/// A process's way to a cluster.
pub struct Remote {
    cluster: Rc<RefCell<Cluster>>,
    pause: Pause,
}

impl Remote {
    pub fn new(cluster: &Rc<RefCell<Cluster>>, pause: Pause) -> Self {
        Self { cluster: Rc::clone(cluster), pause }
    }

    /// The cluster that it leads to.
    pub fn cluster(&self) -> Rc<RefCell<Cluster>> {
        Rc::clone(&self.cluster)
    }

    fn call(&self) {
        self.pause.call();
    }
}

impl Engine for Remote {
    fn name(&self) -> EngineName {
        EngineName::Argo
    }

    fn observe(&self, run: &StoredRun) -> Observed<()> {
        if run.spec.handle.is_none() {
            return Observed::Absent;
        }
        match self.cluster.borrow_mut().of(&run.run.name) {
            Some(object) if object.suspended => Observed::Absent,
            Some(_) => Observed::Known(()),
            None => Observed::Unknown,
        }
    }

    fn prepare(&mut self, run: &StoredRun) -> Result<Option<String>, EngineError> {
        self.call();
        let made = {
            let mut cluster = self.cluster.borrow_mut();
            if let Some(there) = cluster.of(&run.run.name) {
                there.uid.clone()
            } else {
                cluster.made += 1;
                let uid = format!("uid-{}", cluster.made);
                cluster.objects.push(Object {
                    run: run.run.name.clone(),
                    uid: uid.clone(),
                    suspended: true,
                    made_of: (run.run.revision.clone(), run.spec.clone()),
                    shut_down: false,
                    over: false,
                });
                uid
            }
        };
        self.call();
        Ok(Some(made))
    }

    fn start(&mut self, run: &StoredRun) -> Result<(), EngineError> {
        self.call();
        {
            let mut cluster = self.cluster.borrow_mut();
            let found = cluster.of(&run.run.name);
            let own = found.filter(|object| Some(&object.uid) == run.spec.handle.as_ref());
            let Some(object) = own else {
                return Err(EngineError::new("start", &run.run.name, "not found"));
            };
            object.suspended = false;
        }
        self.call();
        Ok(())
    }

    fn lacks(&self, _: &PipelineId, _: &Pipeline) -> Option<String> {
        None
    }

    fn stop(&mut self, run: &StoredRun) -> Result<(), EngineError> {
        let mut cluster = self.cluster.borrow_mut();
        let found = cluster.of(&run.run.name);
        if let Some(object) = found.filter(|object| Some(&object.uid) == run.spec.handle.as_ref()) {
            (object.shut_down, object.suspended) = (true, false);
        }
        Ok(())
    }

    fn report(&self, run: &StoredRun, now: Timestamp) -> Result<Report, EngineError> {
        let Some(handle) = &run.spec.handle else { return Ok(Report::Nothing) };
        let mut cluster = self.cluster.borrow_mut();
        let Some(object) = cluster.of(&run.run.name).filter(|object| object.uid == *handle) else {
            return Ok(Report::Vanished);
        };
        let mut stands = run.run.clone();
        let mut steps = Vec::new();
        if object.over {
            stands.phase = Phase::Succeeded;
            stands.finished_at = Some(now);
            let definition = run.definition().unwrap();
            steps.extend(definition.steps().iter().map(|step| {
                let mut record = StepRecord::pending(step.name(), None, String::new());
                record.phase = Phase::Succeeded;
                StepState { record, failures: 0, interruptions: 0 }
            }));
        }
        Ok(Report::Stands(Box::new(stands), steps))
    }
}

pub fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

/// One process: its own connection to the state that all share.
struct Process {
    store: SqliteStore,
    engine: Remote,
}

impl Process {
    fn new(folder: &std::path::Path, engine: Remote) -> Self {
        Self { store: SqliteStore::open(&folder.join("state"), folder).unwrap(), engine }
    }

    /// Looks after the runs of the pipeline that is asked for.
    fn goes_on(&mut self, run: &StoredRun) {
        let (mut source, mut checks) = (SimulatedSource::default(), SimulatedChecks::default());
        let Self { store, engine } = self;
        let mut world = World { source: &mut source, store, engine, checks: &mut checks };
        let mut memory = Memory::default();
        let _ = reconcile::start_what_is_next(&mut world, &mut memory, &run.pipeline, now());
    }
}

/// What else happened to the run while the process stood still.
#[derive(Clone, Copy, Debug)]
pub enum Since {
    /// Nothing but its end.
    Ended,
    /// Its object was removed.
    Removed,
    /// Its record as well.
    Forgotten,
    /// Its object was removed before anybody saw its end.
    Vanished,
}

fn requested(folder: &std::path::Path) -> StoredRun {
    let cluster = Rc::default();
    let mut process = Process::new(folder, Remote::new(&cluster, Pause::default()));
    let (mut source, mut checks) = (SimulatedSource::default(), SimulatedChecks::default());
    let pipeline = jupyterflow::spec::parse(YAML, "jupyterflow.yaml", "", 100).pipelines.remove(0);
    let text =
        FileText { file: "jupyterflow.yaml".into(), folder: String::new(), text: YAML.into() };
    source.save("jupyterflow.yaml", YAML, now());
    let Process { store, engine } = &mut process;
    let mut world = World { source: &mut source, store, engine, checks: &mut checks };
    let request = Request {
        pipeline: &pipeline,
        definition: text,
        params: indexmap::IndexMap::new(),
        strict: false,
        again: None,
        from: None,
        key: "one".into(),
    };
    let scope =
        jupyterflow::sim::Simulation::new(Box::new(SqliteStore::in_memory().unwrap()), now()).scope;
    reconcile::request(&mut world, &scope, request, now()).unwrap().0
}

/// One process stands still before its call `at` while another goes on; what was executed.
fn executed(at: usize, since: Since) -> (usize, bool) {
    let folder = tempfile::tempdir().unwrap();
    let run = requested(folder.path());
    let cluster: Rc<RefCell<Cluster>> = Rc::default();
    let other = Process::new(folder.path(), Remote::new(&cluster, Pause::default()));
    let happened = Rc::new(RefCell::new(false));
    let meanwhile: Meanwhile = Box::new({
        let (run, cluster, happened) = (run.clone(), Rc::clone(&cluster), Rc::clone(&happened));
        let mut other = other;
        move || {
            *happened.borrow_mut() = true;
            other.goes_on(&run);
            cluster.borrow_mut().works();
            if !matches!(since, Since::Vanished) {
                other.goes_on(&run);
            }
            if !matches!(since, Since::Ended) {
                cluster.borrow_mut().objects.clear();
            }
            if matches!(since, Since::Forgotten) {
                other.store.forget(std::slice::from_ref(&run.run.name)).unwrap();
            }
        }
    });
    let mut still = Process::new(folder.path(), Remote::new(&cluster, Pause::new(at, meanwhile)));
    for _ in 0..4 {
        still.goes_on(&run);
        cluster.borrow_mut().works();
    }
    let count = cluster.borrow().executed.len();
    let happened = *happened.borrow();
    (count, happened)
}

#[test]
fn one_execution_wherever_a_process_stands_still() {
    let mut places = 0;
    for since in [Since::Ended, Since::Removed, Since::Forgotten, Since::Vanished] {
        for at in 1.. {
            let (count, happened) = executed(at, since);
            if !happened {
                // The claim has no such step any more.
                assert_eq!(count, 1, "nothing happened meanwhile");
                break;
            }
            assert_eq!(count, 1, "{since:?} before call {at}");
            places += 1;
        }
    }
    assert!(places >= 16, "only {places} places were tried");
}

/// Killed at each of these places instead, the next process makes the claim good.
#[test]
fn a_killed_claim_is_made_good() {
    for at in 1..=4 {
        let folder = tempfile::tempdir().unwrap();
        let run = requested(folder.path());
        let cluster: Rc<RefCell<Cluster>> = Rc::default();
        let dies: Meanwhile = Box::new(|| std::panic::resume_unwind(Box::new("killed")));
        let killed = Remote::new(&cluster, Pause::new(at, dies));
        let mut killed = Process::new(folder.path(), killed);
        let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| killed.goes_on(&run)));
        assert!(died.is_err(), "call {at}");
        drop(killed);
        let mut next = Process::new(folder.path(), Remote::new(&cluster, Pause::default()));
        for _ in 0..3 {
            next.goes_on(&run);
            cluster.borrow_mut().works();
        }
        next.goes_on(&run);
        assert_eq!(cluster.borrow().executed.len(), 1, "call {at}");
        let stored = next.store.run(run.run.name.as_str()).unwrap().unwrap();
        assert_eq!(stored.run.phase, Phase::Succeeded, "call {at}");
    }
}
