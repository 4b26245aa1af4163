//! Bugs that are planted between the loop and its world, so that it is seen that the judge sees.

use jupyterflow::engine::{Engine, EngineError};
use jupyterflow::plan::{Action, Ledger, Observed};
use jupyterflow::reconcile::{self, Memory, World};
use jupyterflow::sim::{Between, Killed, Layer, Simulation};
use jupyterflow::source::{PipelineFile, Snapshot, Source, SourceError};
use jupyterflow::spec::Pipeline;
use jupyterflow::store::{Commit, Store, StoreError, StoredPipeline, StoredRun};
use jupyterflow::types::{Digest, PipelineId, RunId, Timestamp};

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// What executes begins before the claim is written.
    RecordBeforeClaim,
    /// The cursor is written before the run that it answers.
    CursorBeforeRecord,
    /// Where no run is on record, none ever was.
    AbsentIsMissing,
    /// What cannot be read is empty, and a host that nobody can see is none.
    UnknownIsEmpty,
    /// A run's name holds the moment of its claim, where its record is written before the cursor.
    ClockInName,
    /// A cursor is written over whatever stands.
    LastWriterWins,
}

/// How a process writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As the program does.
    Ours,
    /// Records first and the cursor later, so that names alone keep a run one. Without a pass that
    /// finishes such claims first, what a record answers can be lost, but nothing is doubled.
    InTwoSteps,
    /// As the program does in a cluster.
    Cluster,
    /// With a bug.
    Bug(Bug),
}

struct Planted<'a> {
    store: &'a mut dyn Store,
    way: Way,
    now: Timestamp,
}

/// One look, the action on it kept for later.
pub fn look(
    world: &mut Simulation,
    memory: &mut Memory,
    way: Way,
) -> Result<Option<reconcile::Look>, Killed> {
    world.with(|world, scope, now| {
        let World { source, store, engine, checks } = world;
        let mut source = Emptied { source: &mut **source, way };
        let mut store = Layer(Planted { store: &mut **store, way, now });
        let mut engine = Blind { engine: &mut **engine, way };
        let mut world = World {
            source: &mut source,
            store: &mut store,
            engine: &mut engine,
            checks: &mut **checks,
        };
        reconcile::look(&mut world, memory, scope, now).ok()
    })
}

/// Acts on a look.
pub fn apply(world: &mut Simulation, look: &reconcile::Look, way: Way) -> Result<(), Killed> {
    world.with(|world, scope, now| {
        let World { source, store, engine, checks } = world;
        if way == Way::Bug(Bug::RecordBeforeClaim) {
            for (id, action) in look.plan.actions().filter(|(_, action)| action.starts()) {
                let _ = unclaimed(id, action).map(|run| engine.start(&run));
            }
        }
        let mut store = Layer(Planted { store: &mut **store, way, now });
        let mut world = World {
            source: &mut **source,
            store: &mut store,
            engine: &mut **engine,
            checks: &mut **checks,
        };
        let _ = reconcile::apply(&mut world, scope, look, now);
    })
}

/// A run that nobody recorded.
fn unclaimed(id: &PipelineId, action: &Action) -> Option<StoredRun> {
    let trigger = action.trigger()?.clone();
    let run = serde_json::json!({
        "id": RunId::new(id, trigger.kind, &trigger.key), "name": action.run()?, "pipeline": id.name,
        "source": id.source, "revision": "", "trigger": trigger, "phase": "Pending", "params": {},
        "createdAt": Timestamp::UNIX_EPOCH,
    });
    let spec = serde_json::json!({
        "definition": {"file": "", "folder": "", "text": ""}, "maxPoints": 1, "fingerprint": null,
    });
    Some(StoredRun {
        pipeline: id.clone(),
        run: serde_json::from_value(run).ok()?,
        spec: serde_json::from_value(spec).ok()?,
        stop_requested: false,
        stopped_by: None,
        ended: None,
    })
}

impl Planted<'_> {
    fn row(&self, id: &PipelineId) -> Option<StoredPipeline> {
        self.store.pipelines().ok()?.into_iter().find(|row| row.id == *id)
    }

    /// Claims of which each write is one of its own.
    fn in_two_steps(&mut self, commit: &Commit<'_>, cursor_first: bool) -> Result<(), StoreError> {
        let before = self.row(commit.id).map(|row| row.ledger).unwrap_or_default();
        let claims = commit.claims.clone();
        let parts = [(&before, claims), (commit.ledger, Vec::new())];
        let [records, cursor] = parts;
        let (first, second) = if cursor_first {
            ((cursor.0, Vec::new()), (cursor.0, records.1))
        } else {
            (records, cursor)
        };
        let id = commit.id;
        let write = |store: &mut dyn Store, version, (ledger, claims): (&Ledger, _)| {
            store.commit(&Commit {
                id,
                version,
                ledger,
                definition: commit.definition,
                claims,
                shown: None,
            })
        };
        write(self.store, commit.version, first)?;
        let version = self.row(id).map(|row| row.version);
        write(self.store, version, second)
    }

    fn clocked(&self, commit: &Commit<'_>) -> Vec<StoredRun> {
        let clocked = commit.claims.iter().cloned().map(|mut claim| {
            let (kind, key) =
                (claim.run.trigger.kind, format!("{} {}", claim.run.trigger.key, self.now));
            claim.run.id = RunId::new(commit.id, kind, &key);
            claim.run.name = claim.run.id.name(&commit.id.name, claim.run.trigger.scheduled_at);
            claim
        });
        clocked.collect()
    }
}

impl Between for Planted<'_> {
    fn store(&self) -> &dyn Store {
        self.store
    }

    fn write<T>(&mut self, _: &str, call: impl FnOnce(&mut dyn Store) -> T) -> T {
        call(self.store)
    }

    fn pipelines(&self) -> Result<Vec<StoredPipeline>, StoreError> {
        let mut rows = self.store.pipelines()?;
        if self.way == Way::Bug(Bug::AbsentIsMissing) {
            for row in &mut rows {
                if self.store.runs_of(&row.id)?.is_empty() {
                    row.ledger.change = Ledger::default().change;
                }
            }
        }
        Ok(rows)
    }

    fn commit(&mut self, commit: &Commit<'_>) -> Result<(), StoreError> {
        let own = |claims, version| Commit {
            id: commit.id,
            version,
            ledger: commit.ledger,
            definition: commit.definition,
            claims,
            shown: None,
        };
        let claims = !commit.claims.is_empty();
        match self.way {
            Way::InTwoSteps if claims => self.in_two_steps(commit, false),
            Way::Bug(Bug::CursorBeforeRecord) if claims => self.in_two_steps(commit, true),
            Way::Bug(Bug::ClockInName) if claims => {
                let clocked = own(self.clocked(commit), commit.version);
                self.in_two_steps(&clocked, false)
            }
            Way::Bug(Bug::LastWriterWins) => {
                let version = self.row(commit.id).map(|row| row.version);
                self.store.commit(&own(commit.claims.clone(), version))
            }
            Way::Ours | Way::Cluster | Way::InTwoSteps | Way::Bug(_) => {
                self.store.commit(&own(commit.claims.clone(), commit.version))
            }
        }
    }
}

/// A source that takes what it cannot read for nothing.
struct Emptied<'a> {
    source: &'a mut dyn Source,
    way: Way,
}

impl Source for Emptied<'_> {
    fn look(&mut self, now: Timestamp) -> Result<Snapshot, SourceError> {
        let looked = self.source.look(now);
        if self.way == Way::Bug(Bug::UnknownIsEmpty) {
            return Ok(looked.unwrap_or_default());
        }
        looked
    }

    fn commit(&self) -> Option<String> {
        self.source.commit()
    }

    fn digest(&mut self, path: &str) -> Option<Digest> {
        self.source.digest(path)
    }

    fn named_files(&mut self, pipeline: &Pipeline, file: &str, now: Timestamp) -> PipelineFile {
        self.source.named_files(pipeline, file, now)
    }
}

/// An engine that takes what it cannot see for absent.
struct Blind<'a> {
    engine: &'a mut dyn Engine,
    way: Way,
}

impl Engine for Blind<'_> {
    fn observe(&self, run: &StoredRun) -> Observed<()> {
        match self.engine.observe(run) {
            Observed::Unknown if self.way == Way::Bug(Bug::UnknownIsEmpty) => Observed::Absent,
            seen => seen,
        }
    }

    fn start(&mut self, run: &StoredRun) -> Result<(), EngineError> {
        self.engine.start(run)
    }

    fn lacks(&self, id: &PipelineId, pipeline: &Pipeline) -> Option<String> {
        self.engine.lacks(id, pipeline)
    }

    fn stop(&mut self, run: &StoredRun) -> Result<(), EngineError> {
        self.engine.stop(run)
    }
}
