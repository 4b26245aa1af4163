//! A model of a world: files, hosts, answers and a clock, in memory, for scripted and random tests.
//!
//! Owns what lies outside of the loop, as far as the loop can tell. The loop, the planner and the
//! store in it are the real ones. Time passes, hosts work and things break only when they are told to;
//! a look or a pass may be killed before and after each call of a port that changes something.

mod checks;
mod engine;
mod fuse;
mod source;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use self::checks::SimulatedChecks;
pub use self::engine::{Execution, Host, SimulatedEngine};
use self::fuse::Guard;
pub use self::fuse::{Between, Fuse, Killed, Layer};
pub use self::source::{SimulatedSource, Tree};
use crate::plan::{Limits, Observed, Phase, Reason};
use crate::reconcile::{self, Applied, Look, Memory, PassError, Scope, Settle, World};
use crate::source::Source;
use crate::spec::Fingerprint;
use crate::store::{Commit, Store, StoreError, StoredRun};
use crate::types::{Period, RunName, Timestamp, TriggerKind};

/// A world.
pub struct Simulation {
    /// What its clocks show.
    pub now: Timestamp,
    /// The files.
    pub source: SimulatedSource,
    /// The hosts.
    pub engine: SimulatedEngine,
    /// Whoever answers checks.
    pub checks: SimulatedChecks,
    /// What kills a pass.
    pub fuse: Fuse,
    /// How passes look.
    pub scope: Scope,
    store: Box<dyn Store>,
}

impl Simulation {
    /// A world without files, at an instant.
    pub fn new(store: Box<dyn Store>, now: Timestamp) -> Self {
        let fuse = Fuse::default();
        let scope = Scope {
            source: "local".into(),
            settle: Settle::After(Period::from_seconds(30)),
            max_points: 100,
            below: String::new(),
            limits: Limits::default(),
            adopt: false,
            shared: false,
        };
        Self {
            now,
            source: SimulatedSource::default(),
            engine: SimulatedEngine::new(fuse.clone()),
            checks: SimulatedChecks::default(),
            fuse,
            scope,
            store,
        }
    }

    /// The memory of the world, past all kill points.
    pub fn store(&mut self) -> &mut dyn Store {
        self.store.as_mut()
    }

    /// Gives the world another memory, such as another process's view of the same, and takes the old one.
    pub fn swap_store(&mut self, store: Box<dyn Store>) -> Box<dyn Store> {
        std::mem::replace(&mut self.store, store)
    }

    /// Lets time pass, in seconds; less than nothing turns clocks back.
    pub fn wait(&mut self, seconds: i64) {
        let span = jiff::SignedDuration::from_secs(seconds);
        self.now = self.now.checked_add(span).unwrap_or(self.now);
    }

    /// Lets a process work on the world, until it is done or killed.
    ///
    /// # Errors
    /// It was killed.
    pub fn with<T>(
        &mut self,
        work: impl FnOnce(&mut World<'_>, &Scope, Timestamp) -> T,
    ) -> Result<T, Killed> {
        let Self { source, engine, checks, store, fuse, scope, now } = self;
        let mut store = Layer(Guard { store: store.as_mut(), fuse });
        let mut world = World { source, store: &mut store, engine, checks };
        let worked = catch_unwind(AssertUnwindSafe(|| work(&mut world, scope, *now)));
        fuse.disarm();
        worked.map_err(|payload| match payload.downcast::<Killed>() {
            Ok(killed) => *killed,
            Err(other) => std::panic::resume_unwind(other),
        })
    }

    /// One look.
    ///
    /// # Errors
    /// It was killed; inside: the source or the store cannot be read.
    pub fn look(&mut self, memory: &mut Memory) -> Result<Result<Look, PassError>, Killed> {
        self.with(|world, scope, now| reconcile::look(world, memory, scope, now))
    }

    /// Acts on a look, which may be an old one.
    ///
    /// # Errors
    /// It was killed; inside: the store cannot be written.
    pub fn apply(&mut self, look: &Look) -> Result<Result<Applied, StoreError>, Killed> {
        self.with(|world, scope, now| reconcile::apply(world, scope, look, now))
    }

    /// One pass.
    ///
    /// # Errors
    /// It was killed; inside: the source or the store cannot be used.
    pub fn pass(&mut self, memory: &mut Memory) -> Result<Result<Applied, PassError>, Killed> {
        self.with(|world, scope, now| {
            let look = reconcile::look(world, memory, scope, now)?;
            Ok(reconcile::apply(world, scope, &look, now)?)
        })
    }

    /// Lets the first host of a run that has not begun do so: it compares what is there with what was
    /// claimed, as hosts do, and says how the run stands.
    ///
    /// # Errors
    /// The store.
    pub fn begin(&mut self, run: &RunName) -> Result<Option<Phase>, StoreError> {
        let Some(stored) = self.store.run(run.as_str())? else {
            // A host finds what it executes in the store, or leaves.
            if !self.engine.heedless {
                self.engine.leaves(run);
                return Ok(None);
            }
            let tree = self.source.tree(None);
            return Ok(self.engine.begins(run, tree, self.now).then_some(Phase::Running));
        };
        if !self.engine.has_idle_host(run) {
            return Ok(None);
        }
        if stored.run.phase.is_ended() {
            self.engine.leaves(run);
            return Ok(Some(stored.run.phase));
        }
        if stored.stop_requested {
            return self.stopped(stored).map(Some);
        }
        let mut stored = stored;
        if self.source.is_folder() && self.has_moved_on(&mut stored)? {
            self.withdraw(&stored)?;
            stored.run.reason = Some(Reason::Superseded.to_string());
            stored.run.message = Some("files moved on before the run began".into());
            return self.ended(stored, Phase::Skipped).map(Some);
        }
        let tree = self.source.tree(Some(&stored.run.revision));
        self.engine.begins(run, tree, self.now);
        stored.run.phase = Phase::Running;
        stored.run.started_at = stored.run.started_at.or(Some(self.now));
        self.store.update_run(&stored.run)?;
        Ok(Some(Phase::Running))
    }

    /// Lets a host that has begun end its run; one whose stop is wanted stops it. Says how it ended;
    /// none where no host is at work on it.
    ///
    /// # Errors
    /// The store.
    pub fn end(&mut self, run: &RunName, phase: Phase) -> Result<Option<Phase>, StoreError> {
        if !self.engine.has_busy_host(run) {
            return Ok(None);
        }
        let Some(stored) = self.store.run(run.as_str())? else {
            self.engine.ends(run, phase);
            return Ok(Some(phase));
        };
        if stored.stop_requested {
            return self.stopped(stored).map(Some);
        }
        self.ended(stored, phase).map(Some)
    }

    fn stopped(&mut self, mut stored: StoredRun) -> Result<Phase, StoreError> {
        let superseded = stored.stopped_by.is_some();
        let begun = stored.run.started_at.is_some();
        stored.run.message = Some(stored.why_stopped());
        stored.run.reason = superseded.then(|| Reason::Superseded.to_string());
        self.ended(stored, if superseded && !begun { Phase::Skipped } else { Phase::Stopped })
    }

    fn ended(&mut self, mut stored: StoredRun, phase: Phase) -> Result<Phase, StoreError> {
        stored.run.phase = phase;
        stored.run.finished_at = Some(self.now);
        self.store.update_run(&stored.run)?;
        self.engine.ends(&stored.run.name, phase);
        Ok(phase)
    }

    /// Whether a change has other files than it was claimed for; any other run takes them as they are.
    fn has_moved_on(&mut self, stored: &mut StoredRun) -> Result<bool, StoreError> {
        let Some(pipeline) = stored.definition() else { return Ok(false) };
        let file = &stored.spec.definition.file;
        let named = self.source.named_files(&pipeline, file, self.now);
        let present = Fingerprint::new(&pipeline, &named.files);
        let recorded = stored.spec.fingerprint.as_ref();
        if recorded.is_none_or(|recorded| recorded.digest == present.digest) {
            return Ok(false);
        }
        if stored.run.trigger.kind == TriggerKind::Change {
            return Ok(true);
        }
        stored.run.revision = present.digest.to_string();
        stored.spec.fingerprint = Some(present);
        // In a cluster its pods tell so, and its record stays what it was claimed for.
        if !self.store.announces() {
            self.store.update_spec(&stored.run, &stored.spec)?;
        }
        Ok(false)
    }

    fn withdraw(&mut self, stored: &StoredRun) -> Result<(), StoreError> {
        let rows = self.store.pipelines()?;
        let Some(row) = rows.into_iter().find(|row| row.id == stored.pipeline) else {
            return Ok(());
        };
        let Some(ledger) = row.ledger.without_change(&stored.run.trigger.key) else {
            return Ok(());
        };
        self.store.commit(&Commit {
            id: &row.id,
            version: Some(row.version),
            ledger: &ledger,
            definition: row.definition.as_ref(),
            claims: Vec::new(),
            shown: None,
        })
    }

    /// The runs that have not ended and have a host, oldest first.
    pub fn hosted(&self) -> Vec<RunName> {
        self.engine.hosts().map(|host| host.run.clone()).collect()
    }

    /// Whether a host is at work on a run, as far as anybody can see.
    pub fn observe(&self, run: &RunName) -> Observed<()> {
        self.engine.look(run)
    }
}
