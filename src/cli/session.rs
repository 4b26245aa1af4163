//! A command's world: the store, the source and the engine of one place, wired together.
//!
//! Owns the wiring. Commands that only look never create a state.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::engines::Engines;
use super::error::{CliError, Code};
use super::global::Global;
use super::lanes::{self, Configuration, Lane, Looking};
use super::place::Place;
use crate::engine::local::LocalEngine;
use crate::engine::step::leftovers::write_run_document;
use crate::engine::{Engine, Report};
use crate::plan::{Observed, Phase, Run};
use crate::reconcile::{self, Applied, Look, Memory, PassError, Scope, World};
use crate::source::Hints;
use crate::source::git::{Health, Polled, Poller};
use crate::store::{EngineName, FileText, SqliteStore, Store, StoreError, StoredRun};
use crate::types::{PipelineId, RunName, Timestamp};

/// Between the two looks of commands that do not wait for a source to settle.
const SECOND_LOOK: std::time::Duration = std::time::Duration::from_millis(200);

/// So many repositories are asked at a time.
/// How long a branch that goes back must stand.
const STANDS: crate::types::Period = crate::types::Period::from_seconds(60);
/// So many repositories are asked at a time.
const AT_A_TIME: usize = 8;

/// The world of one command.
pub struct Session {
    /// Where.
    pub place: Place,
    /// The memory.
    pub store: SqliteStore,
    /// What executes.
    pub engine: Engines,
    /// The sources that a configuration names; none where the place is the source.
    pub configuration: Option<Configuration>,
    /// What looks at each source.
    pub lanes: Vec<Lane>,
    looking: Looking,
    /// Who polls repositories in the background.
    pub poller: Option<Arc<Poller>>,
    /// What stands where nothing is looked at.
    spare: Lane,
}

impl Session {
    /// A world to look at.
    pub fn to_read(global: &Global, path: &Path) -> Result<Self, CliError> {
        let place = Place::find(path, global.state.as_deref())?;
        let store = match SqliteStore::open_to_read(&place.state)? {
            Some(store) => store,
            None => SqliteStore::in_memory()?,
        };
        let configuration = Configuration::of_state(&store)?;
        Ok(Self::new(global, place, store, LocalEngineOptions::default(), configuration))
    }

    /// A world to act on.
    pub fn to_write(
        global: &Global,
        path: &Path,
        options: LocalEngineOptions,
    ) -> Result<Self, CliError> {
        let place = Place::find(path, global.state.as_deref())?;
        let store = SqliteStore::open(&place.state, &place.root)?;
        let configuration = Configuration::of_state(&store)?;
        Ok(Self::new(global, place, store, options, configuration))
    }

    /// A world to act on, of a configuration that its state does not remember yet.
    pub fn configured(
        global: &Global,
        configuration: Configuration,
        options: LocalEngineOptions,
    ) -> Result<Self, CliError> {
        let place = Place::of_root(&configuration.base, global.state.as_deref())?;
        let store = SqliteStore::open(&place.state, &place.root)?;
        Ok(Self::new(global, place, store, options, Some(configuration)))
    }

    fn new(
        global: &Global,
        place: Place,
        store: SqliteStore,
        options: LocalEngineOptions,
        configuration: Option<Configuration>,
    ) -> Self {
        let jobs = options.jobs.unwrap_or_else(processors);
        let engine = LocalEngine::new(&place.state, &place.root, jobs, options.foreground);
        let engine = Engines::new(engine, place.root.clone(), options.jobs);
        let looking = Looking { max_points: global.max_points, stays: false };
        let spare = lanes::of_place(&place, looking);
        let lanes = Vec::new();
        let mut session =
            Self { place, store, engine, configuration, lanes, looking, poller: None, spare };
        session.make_lanes();
        session
    }

    /// Lets the state remember the configuration: once no other `up` works on it.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn keep_configuration(&self) -> Result<(), CliError> {
        self.configuration.as_ref().map_or(Ok(()), |configuration| configuration.keep(&self.store))
    }

    /// Looks as a daemon does: it waits for sources to stand still, and for no answer of a check.
    pub fn stay(&mut self) {
        self.looking.stays = true;
        self.lanes.clear();
        self.make_lanes();
        let mirrors = self.configuration.iter().flat_map(|one| one.mirrors(&self.place.state));
        let polled = mirrors.map(|(name, every, mirror)| Polled { name, every, mirror });
        let polled: Vec<Polled> = polled.collect();
        self.poller = (!polled.is_empty()).then(|| Arc::new(Poller::start(polled, STANDS)));
    }

    /// Makes the lanes of what is known now. Those that were there keep their memory.
    pub fn make_lanes(&mut self) {
        match &self.configuration {
            Some(configuration) => {
                let before = std::mem::take(&mut self.lanes);
                self.lanes = configuration.lanes(&self.place.state, self.looking, before);
            }
            None if self.lanes.is_empty() => {
                self.lanes.push(lanes::of_place(&self.place, self.looking));
            }
            None => {}
        }
    }

    /// Asks all repositories now, several at a time; what went wrong, by source.
    pub fn poll_all(&mut self) -> Vec<(String, String)> {
        let mirrors = self.configuration.iter().flat_map(|one| one.mirrors(&self.place.state));
        let mirrors: Vec<_> = mirrors.collect();
        let next = std::sync::atomic::AtomicUsize::new(0);
        let failed = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..mirrors.len().min(AT_A_TIME) {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        let Some((name, _, mirror)) = mirrors.get(at) else { return };
                        let patience = crate::types::Period::from_seconds(0);
                        let troubles: Vec<String> = match mirror.poll(patience, Timestamp::now()) {
                            Err(error) => vec![error.to_string()],
                            Ok(known) => known.refused.into_values().collect(),
                        };
                        if let Ok(mut failed) = failed.lock() {
                            failed.extend(troubles.into_iter().map(|why| (name.clone(), why)));
                        }
                    }
                });
            }
        });
        self.make_lanes();
        failed.into_inner().unwrap_or_default()
    }

    /// How many answers of checks and repositories came so far that may change a plan.
    pub fn answers(&self) -> u64 {
        let polled = self.poller.as_ref().map_or(0, |poller| poller.changes());
        polled + self.lanes.iter().map(|lane| lane.checks.answers()).sum::<u64>()
    }

    /// Rises whenever a folder tells that a look is worth while.
    pub fn hints(&self) -> u64 {
        self.watched().map(Hints::count).sum()
    }

    /// Why not all folders are watched.
    pub fn watch_troubles(&self) -> Vec<String> {
        self.watched().filter_map(Hints::trouble).collect()
    }

    fn watched(&self) -> impl Iterator<Item = &Hints> {
        self.lanes.iter().filter_map(|lane| lane.hints.as_deref())
    }

    /// How the repositories do.
    pub fn health(&self) -> Vec<(String, Health)> {
        self.poller.as_ref().map(|poller| poller.health()).unwrap_or_default()
    }

    /// Whether a source may show something else than at the last look.
    pub fn may_have_changed(&mut self) -> bool {
        // All are asked, so that each takes note of what it sees.
        let changed = self.lanes.iter_mut().map(|lane| lane.source.may_have_changed());
        changed.filter(|changed| *changed).count() > 0
    }

    /// How often folders are looked at.
    pub fn folder_poll(&self) -> Option<Duration> {
        let folders = self.lanes.iter().filter(|lane| !lane.is_repository);
        folders.map(|lane| lane.poll.duration()).min()
    }

    /// The world that the loop sees, of what acts on runs alone.
    pub fn world(&mut self) -> World<'_> {
        self.parts().0
    }

    fn parts(&mut self) -> (World<'_>, &mut Memory) {
        let Self { spare, store, engine, .. } = self;
        let Lane { source, checks, memory, .. } = spare;
        (World { source: source.as_mut(), store, engine, checks }, memory)
    }

    /// The world of a source, and how it is looked at.
    pub fn world_of(&mut self, source: &str) -> (World<'_>, Scope) {
        let Self { lanes, spare, store, engine, .. } = self;
        let lane = lanes.iter_mut().find(|lane| lane.name == source).unwrap_or(spare);
        let Lane { source, checks, scope, .. } = lane;
        (World { source: source.as_mut(), store, engine, checks }, scope.clone())
    }

    /// The place of a source: documents' paths are relative to its root.
    pub fn place_of(&self, source: &str) -> Place {
        let configured = self.configuration.as_ref();
        let root = configured.and_then(|known| known.place_of(source, &self.place.state));
        root.map_or_else(|| self.place.clone(), |(root, _)| Place { root, ..self.place.clone() })
    }

    /// One look at an instant.
    pub fn look(&mut self, now: Timestamp) -> Result<Look, PassError> {
        if self.poller.is_some() {
            self.make_lanes();
        }
        let health = self.health();
        let Self { lanes, store, engine, configuration, .. } = self;
        let mut all = Look::default();
        for lane in lanes {
            let Lane { name, scope, source, checks, memory, .. } = lane;
            let mut world = World { source: source.as_mut(), store, engine, checks };
            match reconcile::look(&mut world, memory, scope, now) {
                Ok(look) => all.merge(look),
                // One source that cannot be read holds up no other.
                Err(PassError::Source(error)) if configuration.is_some() => {
                    all.unreadable(name, &error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        for (name, health) in health {
            lanes::tell_health(&mut all, &name, health);
        }
        Ok(all)
    }

    /// Acts on a plan.
    pub fn apply(&mut self, look: &Look, now: Timestamp) -> Result<Applied, StoreError> {
        let scope = self.spare.scope.clone();
        reconcile::apply(&mut self.world(), &scope, look, now)
    }

    /// Starts the run of a pipeline that is next in its queue.
    pub fn start_next(&mut self, id: &PipelineId) -> Result<Applied, StoreError> {
        let (mut world, memory) = self.parts();
        reconcile::start_what_is_next(&mut world, memory, id, Timestamp::now())
    }

    /// Records where a run stands that is executed elsewhere.
    pub fn refresh(&mut self, name: &RunName) -> Result<(), StoreError> {
        let Some(stored) = self.store.run(name.as_str())? else { return Ok(()) };
        reconcile::refresh(&mut self.store, &self.engine, &stored, Timestamp::now())?;
        let ended = self.store.run(name.as_str())?.filter(|stored| stored.run.phase.is_ended());
        if let Some(stored) = ended.filter(|stored| stored.spec.engine == EngineName::Argo) {
            // Its pods wrote what they knew; how Argo ended them they could not.
            let folder = &stored.pipeline.folder;
            let _ = write_run_document(&self.place.root, folder, &stored.run);
        }
        Ok(())
    }

    /// Records where all runs stand that are executed elsewhere.
    pub fn refresh_all(&mut self) -> Result<(), StoreError> {
        for id in self.store.busy_pipelines()? {
            for stored in self.store.runs_of(&id)? {
                if stored.spec.engine == EngineName::Argo && !stored.run.phase.is_ended() {
                    self.refresh(&stored.run.name)?;
                }
            }
        }
        Ok(())
    }

    /// A look, and a second one where something was written a moment ago.
    pub fn look_twice(&mut self, now: impl Fn() -> Timestamp) -> Result<Look, PassError> {
        let first = self.look(now())?;
        if !first.is_settling() {
            return Ok(first);
        }
        std::thread::sleep(SECOND_LOOK);
        self.look(now())
    }

    /// A run by its name, or by the beginning of it where that is unique.
    pub fn find_run(&self, name: &str) -> Result<StoredRun, CliError> {
        self.known_run(name)?.ok_or_else(|| no_run(name))
    }

    /// The same; none where there is none.
    pub fn known_run(&self, name: &str) -> Result<Option<StoredRun>, CliError> {
        if let Some(stored) = self.store.run(name)? {
            return Ok(Some(stored));
        }
        let all = self.store.runs(usize::MAX)?;
        let Some(one) = named_run(&all, name)? else { return Ok(None) };
        Ok(Some(self.store.run(one.run.name.as_str())?.unwrap_or_else(|| one.clone())))
    }

    /// The same, with what its engine tells recorded first.
    pub fn find_run_now(&mut self, name: &str) -> Result<StoredRun, CliError> {
        let known = self.find_run(name)?.run.name;
        self.refresh(&known)?;
        self.find_run(known.as_str())
    }

    /// A pipeline by its name where that is unique, else by `FOLDER:NAME`.
    pub fn find_pipeline(&mut self, look: &Look, name: &str) -> Result<PipelineId, CliError> {
        let known: Vec<&PipelineId> = look.pipelines().map(|(id, _)| id).collect();
        match pipelines_named(&known, name)[..] {
            [one] => Ok(one.clone()),
            [] => Err(no_pipeline(&known, name)),
            [..] => {
                let found = pipelines_named(&known, name).into_iter();
                Err(several(name, found.map(PipelineId::qualified)))
            }
        }
    }

    /// The run as it stands: one whose host is gone awaits the next, and of one that is executed
    /// elsewhere the engine tells.
    pub fn as_it_stands(&self, stored: &StoredRun) -> Run {
        let mut run = stored.run.clone();
        if run.phase.is_ended() {
            return run;
        }
        if let Ok(Report::Stands(mut told, steps)) = self.engine.report(stored, Timestamp::now()) {
            told.steps = steps.into_iter().map(|state| state.record).collect();
            return *told;
        }
        if run.phase == Phase::Running && self.engine.observe(stored) == Observed::Absent {
            run.phase = Phase::Interrupted;
        }
        run
    }

    /// Whether something may be at work on a run.
    pub fn is_at_work(&self, name: &RunName) -> Result<bool, StoreError> {
        let stored = self.store.run(name.as_str())?;
        Ok(stored.is_some_and(|stored| self.engine.observe(&stored) != Observed::Absent))
    }

    /// One run as it stands now.
    pub fn run(&self, name: &RunName) -> Result<Option<Run>, StoreError> {
        Ok(self.store.run(name.as_str())?.map(|stored| self.as_it_stands(&stored)))
    }

    /// The text of a pipeline's file, as far as it is known.
    pub fn definition(look: &Look, id: &PipelineId) -> Option<FileText> {
        look.pipelines().find(|(other, _)| *other == id).and_then(|(_, seeing)| seeing.text.clone())
    }
}

/// A run by its name, or by the beginning of it where that is unique; none where there is none.
///
/// # Errors
/// There are several.
pub fn named_run<'a>(all: &'a [StoredRun], name: &str) -> Result<Option<&'a StoredRun>, CliError> {
    if let Some(one) = all.iter().find(|stored| stored.run.name.as_str() == name) {
        return Ok(Some(one));
    }
    let mut found = all.iter().filter(|stored| stored.run.name.as_str().starts_with(name));
    match (found.next(), found.next()) {
        (Some(one), None) if name.len() >= 4 => Ok(Some(one)),
        (Some(one), Some(other)) => Err(CliError::usage(format!(
            "{name:?} is the beginning of several runs: {}, {}",
            one.run.name, other.run.name
        ))),
        _ => Ok(None),
    }
}

/// There is no such run.
pub fn no_run(name: &str) -> CliError {
    CliError::usage(format!("there is no run {name:?}"))
        .hint("`jupyterflow status` lists the runs of this place")
}

/// There is no such pipeline.
pub fn no_pipeline(known: &[&PipelineId], name: &str) -> CliError {
    let names: Vec<String> = known.iter().map(ToString::to_string).collect();
    let hint = if names.is_empty() {
        "there is no pipeline here; `jupyterflow init` writes a first one".into()
    } else {
        format!("there are {}", names.join(", "))
    };
    CliError::usage(format!("there is no pipeline {name:?}")).hint(hint)
}

/// There are several such pipelines.
pub fn several(name: &str, found: impl Iterator<Item = String>) -> CliError {
    let names: Vec<String> = found.collect();
    CliError::usage(format!("{name:?} is the name of several pipelines"))
        .hint(format!("say which: {}", names.join(", ")))
}

/// The pipelines of a name, or of `FOLDER:NAME`.
pub fn pipelines_named<'a>(known: &[&'a PipelineId], name: &str) -> Vec<&'a PipelineId> {
    let of_name = |id: &&&PipelineId| {
        id.to_string() == name || id.qualified() == name || id.name.as_str() == name
    };
    known.iter().filter(of_name).copied().collect()
}

/// How the engine of a session starts hosts.
#[derive(Clone, Debug, Default)]
pub struct LocalEngineOptions {
    /// The limit on parallel steps; as many as processors unless given.
    pub jobs: Option<usize>,
    /// Whether hosts end with this process.
    pub foreground: bool,
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::OtherRoot { .. } | StoreError::NameTaken(_) => Code::Usage,
            StoreError::Database { .. }
            | StoreError::Cluster { .. }
            | StoreError::Newer { .. }
            | StoreError::Conflict => Code::Unreachable,
        };
        Self::unreachable(error.to_string()).code(code)
    }
}

impl From<PassError> for CliError {
    fn from(error: PassError) -> Self {
        match error {
            PassError::Store(error) => error.into(),
            PassError::Source(error) => Self::unreachable(error.to_string()),
        }
    }
}
