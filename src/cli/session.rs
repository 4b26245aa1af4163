//! A command's world: the store, the source and the engine of one place, wired together.
//!
//! Owns the wiring. Commands that only look never create a state.

use std::path::Path;

use super::error::{CliError, Code};
use super::global::Global;
use super::place::Place;
use crate::check::{Access, HttpChecks};
use crate::engine::local::LocalEngine;
use crate::plan::{Limits, Observed, Phase, Run};
use crate::reconcile::{self, Applied, Look, Memory, PassError, Scope, Settle, World};
use crate::source::DirectorySource;
use crate::store::{FileText, SqliteStore, Store, StoreError, StoredRun};
use crate::types::{Period, PipelineId, RunName, Timestamp};

/// The name of the source of a directory that no configuration names.
pub const LOCAL: &str = "local";

/// Between the two looks of commands that do not wait for a source to settle.
const SECOND_LOOK: std::time::Duration = std::time::Duration::from_millis(200);

/// The world of one command.
pub struct Session {
    /// Where.
    pub place: Place,
    /// The memory.
    pub store: SqliteStore,
    /// The source.
    pub source: DirectorySource,
    /// What executes.
    pub engine: LocalEngine,
    /// How passes look.
    pub scope: Scope,
    checks: HttpChecks,
    memory: Memory,
}

impl Session {
    /// A world to look at.
    pub fn to_read(global: &Global, path: &Path) -> Result<Self, CliError> {
        let place = Place::find(path, global.state.as_deref())?;
        let store = match SqliteStore::open_to_read(&place.state)? {
            Some(store) => store,
            None => SqliteStore::in_memory()?,
        };
        Ok(Self::new(global, place, store, LocalEngineOptions::default()))
    }

    /// A world to act on.
    pub fn to_write(
        global: &Global,
        path: &Path,
        options: LocalEngineOptions,
    ) -> Result<Self, CliError> {
        let place = Place::find(path, global.state.as_deref())?;
        let store = SqliteStore::open(&place.state, &place.root)?;
        Ok(Self::new(global, place, store, options))
    }

    fn new(global: &Global, place: Place, store: SqliteStore, options: LocalEngineOptions) -> Self {
        let source = DirectorySource::new(&place.root, Path::new(&place.below), global.max_points);
        let jobs = options.jobs.unwrap_or_else(processors);
        let engine = LocalEngine::new(&place.state, &place.root, jobs, options.foreground);
        let scope = Scope {
            source: LOCAL.into(),
            settle: Settle::TwoLooks,
            max_points: global.max_points,
            below: place.below.clone(),
            limits: Limits::default(),
            adopt: false,
        };
        // Whoever starts this process writes these files: what they name may be private.
        let access = Access { trusted: true, allowed: Vec::new() };
        let checks = HttpChecks::new(access, true);
        Self { place, store, source, engine, scope, checks, memory: Memory::default() }
    }

    /// Looks as a daemon does: it waits for a source to stand still, and for no answer of a check.
    pub fn stay(&mut self, settle: Period) {
        self.scope.settle = Settle::After(settle);
        self.checks = HttpChecks::new(Access { trusted: true, allowed: Vec::new() }, false);
    }

    /// How many answers of checks came so far.
    pub fn answers(&self) -> u64 {
        self.checks.answers()
    }

    /// The world that the loop sees.
    pub fn world(&mut self) -> World<'_> {
        self.parts().0
    }

    fn parts(&mut self) -> (World<'_>, &mut Memory) {
        let Self { source, store, engine, checks, memory, .. } = self;
        (World { source, store, engine, checks }, memory)
    }

    /// One look at an instant.
    pub fn look(&mut self, now: Timestamp) -> Result<Look, PassError> {
        let scope = self.scope.clone();
        let (mut world, memory) = self.parts();
        reconcile::look(&mut world, memory, &scope, now)
    }

    /// Starts the run of a pipeline that is next in its queue.
    pub fn start_next(&mut self, id: &PipelineId) -> Result<Applied, StoreError> {
        let (mut world, memory) = self.parts();
        reconcile::start_what_is_next(&mut world, memory, id, Timestamp::now())
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
        if let Some(stored) = self.store.run(name)? {
            return Ok(stored);
        }
        let all = self.store.runs(usize::MAX)?;
        let mut found = all.iter().filter(|stored| stored.run.name.as_str().starts_with(name));
        match (found.next(), found.next()) {
            (Some(one), None) if name.len() >= 4 => {
                Ok(self.store.run(one.run.name.as_str())?.unwrap_or_else(|| one.clone()))
            }
            (Some(one), Some(other)) => Err(CliError::usage(format!(
                "{name:?} is the beginning of several runs: {}, {}",
                one.run.name, other.run.name
            ))),
            _ => Err(CliError::usage(format!("there is no run {name:?}"))
                .hint("`jupyterflow status` lists the runs of this place")),
        }
    }

    /// A pipeline by its name where that is unique, else by `FOLDER:NAME`.
    pub fn find_pipeline(&mut self, look: &Look, name: &str) -> Result<PipelineId, CliError> {
        let known: Vec<&PipelineId> = look.pipelines().map(|(id, _)| id).collect();
        let found: Vec<&&PipelineId> = known
            .iter()
            .filter(|id| {
                id.to_string() == name || id.qualified() == name || id.name.as_str() == name
            })
            .collect();
        match found[..] {
            [one] => Ok((**one).clone()),
            [] => {
                let names: Vec<String> = known.iter().map(ToString::to_string).collect();
                let hint = if names.is_empty() {
                    "there is no pipeline here; `jupyterflow init` writes a first one".into()
                } else {
                    format!("there are {}", names.join(", "))
                };
                Err(CliError::usage(format!("there is no pipeline {name:?}")).hint(hint))
            }
            [..] => {
                let names: Vec<String> = found.iter().map(|id| id.qualified()).collect();
                Err(CliError::usage(format!("{name:?} is the name of several pipelines"))
                    .hint(format!("say which: {}", names.join(", "))))
            }
        }
    }

    /// The run as it stands: one whose host is gone awaits the next.
    pub fn as_it_stands(&self, mut run: Run) -> Run {
        use crate::engine::Engine;
        let lost = matches!(run.phase, Phase::Running)
            && self.engine.observe(&run.name) == Observed::Absent;
        if lost {
            run.phase = Phase::Interrupted;
        }
        run
    }

    /// One run as it stands now.
    pub fn run(&self, name: &RunName) -> Result<Option<Run>, StoreError> {
        Ok(self.store.run(name.as_str())?.map(|stored| self.as_it_stands(stored.run)))
    }

    /// The text of a pipeline's file, as far as it is known.
    pub fn definition(look: &Look, id: &PipelineId) -> Option<FileText> {
        look.pipelines().find(|(other, _)| *other == id).and_then(|(_, seeing)| seeing.text.clone())
    }
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
            StoreError::Database { .. } | StoreError::Newer { .. } | StoreError::Conflict => {
                Code::Unreachable
            }
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
