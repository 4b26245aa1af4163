//! One look: the source, the ledger, the runs and their hosts, and the plan that follows.
//!
//! Owns how facts are brought together. It changes nothing; what follows from the facts is the
//! planner's to say.

use std::collections::HashMap;

use indexmap::IndexMap;

use super::{Memory, PassError, Scope, Settle, World};
use crate::plan::{
    Action, Definition, Ledger, NotDone, Observed, Phase, PipelineFacts, PipelinePlan, Plan,
    Reason, RunFact, Seen, Vanished, moved_from, plan, settled_at,
};
use crate::source::{PipelineFile, Snapshot};
use crate::spec::fingerprint::Files;
use crate::spec::{Fingerprint, Pipeline, RelativePath, names_file};
use crate::store::{FileText, Standing, StoreError, StoredPipeline, StoredRun};
use crate::types::{Digest, Period, PipelineId, Timestamp};

/// What a look saw, with the plan that follows.
pub struct Look {
    /// The plan.
    pub plan: Plan,
    /// What the source shows, as one digest.
    pub revision: String,
    pub(super) pipelines: IndexMap<PipelineId, Seeing>,
    /// Pipelines whose cursors another place takes over, and which.
    moved: HashMap<PipelineId, String>,
}

/// What is known of one pipeline besides its plan.
#[derive(Default)]
pub struct Seeing {
    /// Its row.
    pub stored: Option<StoredPipeline>,
    /// The newest good text.
    pub text: Option<FileText>,
    /// What the source shows, down to its files.
    pub fingerprint: Option<Fingerprint>,
    /// The newest good definition.
    pub pipeline: Option<Pipeline>,
    /// Whether its source shows it as it should be.
    pub ready: bool,
}

impl Look {
    /// The pipelines that are known, with what is known of each.
    pub fn pipelines(&self) -> impl Iterator<Item = (&PipelineId, &Seeing)> {
        self.pipelines.iter()
    }

    /// Whether something only waits for a second look.
    pub fn is_settling(&self) -> bool {
        self.plan.not_done().any(|not_done| not_done.reason == Reason::Settling)
    }
}

/// Looks at the world and plans. Changes nothing.
///
/// # Errors
/// The source or the store as a whole cannot be read.
pub fn look(
    world: &mut World<'_>,
    memory: &mut Memory,
    scope: &Scope,
    now: Timestamp,
) -> Result<Look, PassError> {
    let snapshot = world.source.look(now)?;
    let mut stored: HashMap<PipelineId, StoredPipeline> =
        world.store.pipelines()?.into_iter().map(|row| (row.id.clone(), row)).collect();
    let gone = vanished(scope, &snapshot, &stored);
    let vanished: Vec<Vanished<'_>> = gone
        .iter()
        .map(|(row, default_name)| Vanished {
            id: &row.id,
            ledger: &row.ledger,
            default_name: *default_name,
        })
        .collect();
    let mut look = Look {
        plan: Plan::default(),
        revision: revision_of(&snapshot.files),
        pipelines: IndexMap::new(),
        moved: HashMap::new(),
    };
    for file in &snapshot.files {
        look.plan.problems.extend(file.documents.problems.iter().cloned());
        let own_trouble = file.own_trouble();
        for pipeline in &file.documents.pipelines {
            let id = identity(scope, &file.folder, pipeline);
            if let Some(reason) = own_trouble {
                // Half a file may parse. What was in force before stays so; what is new waits.
                if !stored.contains_key(&id) {
                    look.plan.unplanned.push(NotDone {
                        pipeline: id.to_string(),
                        reason: Reason::SourceUnreadable,
                        message: format!("{}: {reason}", file.path),
                        until: None,
                    });
                }
                continue;
            }
            let row = stored.remove(&id);
            let seen = Newly { file, pipeline, row, vanished: &vanished };
            plan_pipeline(world, memory, scope, &mut look, id, seen, now)?;
        }
    }
    // What was known but is not seen: its file is broken, or it is gone. Unknown is never empty.
    let ours = |id: &PipelineId| {
        id.source == scope.source
            && id.is_below(&scope.below)
            && !snapshot.elsewhere.iter().any(|folder| id.is_below(folder))
    };
    let mut rest: Vec<StoredPipeline> = stored.into_values().filter(|row| ours(&row.id)).collect();
    rest.sort_by(|a, b| a.id.cmp(&b.id));
    for row in rest {
        let Some(text) = &row.definition else { continue };
        let file = snapshot.files.iter().find(|file| file.path == text.file);
        let unreadable = snapshot.unreadable.iter().find(|(folder, _)| row.id.is_below(folder));
        let unreadable = unreadable.map(|(folder, why)| format!("{folder}: {why}"));
        plan_unseen(world, memory, scope, &mut look, file.ok_or(unreadable), row, now)?;
    }
    // Runs that a person asked for without a pipeline file, such as of a single notebook.
    for id in world.store.busy_pipelines()? {
        if look.pipelines.contains_key(&id) || !ours(&id) {
            continue;
        }
        let mut planned = plan_queue(world, memory, &id, now)?;
        planned.not_done.retain(|not_done| not_done.reason != Reason::UpToDate);
        look.plan.pipelines.push((id.clone(), planned));
        look.pipelines.insert(id, Seeing::default());
    }
    look.plan.unplanned.extend(snapshot.elsewhere.iter().map(|folder| NotDone {
        pipeline: folder.clone(),
        reason: Reason::ManagedElsewhere,
        message: format!("{folder} has a state of its own"),
        until: None,
    }));
    Ok(look)
}

/// The rows that the snapshot no longer shows though it could, and whether each was named by its
/// folder.
fn vanished(
    scope: &Scope,
    snapshot: &Snapshot,
    stored: &HashMap<PipelineId, StoredPipeline>,
) -> Vec<(StoredPipeline, bool)> {
    let by_folder: HashMap<&str, &PipelineFile> =
        snapshot.files.iter().map(|file| (file.folder.as_str(), file)).collect();
    let shown = |row: &StoredPipeline| {
        by_folder.get(row.id.folder.as_str()).is_some_and(|file| {
            // Of a file with errors nobody knows what it will hold.
            let pipelines = &file.documents.pipelines;
            pipelines.is_empty() || pipelines.iter().any(|other| *other.name() == row.id.name)
        })
    };
    let hidden = |id: &PipelineId| {
        let unreadable = snapshot.unreadable.iter().map(|(folder, _)| folder);
        unreadable.chain(&snapshot.elsewhere).any(|folder| id.is_below(folder))
    };
    stored
        .values()
        .filter(|row| row.id.source == scope.source && row.id.is_below(&scope.below))
        .filter(|row| !shown(row) && !hidden(&row.id))
        .filter_map(|row| {
            let text = row.definition.as_ref()?;
            let pipeline = text.pipeline(&row.id.name, scope.former_points())?;
            Some((row.clone(), pipeline.has_default_name()))
        })
        .collect()
}

/// A pipeline as the source shows it, and what is known of it.
struct Newly<'a> {
    file: &'a PipelineFile,
    pipeline: &'a Pipeline,
    row: Option<StoredPipeline>,
    vanished: &'a [Vanished<'a>],
}

fn plan_pipeline(
    world: &mut World<'_>,
    memory: &mut Memory,
    scope: &Scope,
    look: &mut Look,
    id: PipelineId,
    seen: Newly<'_>,
    now: Timestamp,
) -> Result<(), PassError> {
    let Newly { file, pipeline, row, vanished } = seen;
    let fingerprint = Fingerprint::new(pipeline, &file.files);
    let (still_since, settle) = standing(memory, scope, &id, &fingerprint.digest, file, now);
    let broken = file.broken.iter().find(|(path, _)| names_file(pipeline, path));
    let seen = match broken {
        Some((path, reason)) => Seen::Unreadable(format!("{path}: {reason}")),
        None => Seen::Good,
    };
    let mut ledger = row.as_ref().map(|row| row.ledger.clone()).unwrap_or_default();
    // A place that is new, or whose pipeline went elsewhere before, may take over cursors.
    let may_take = row.is_none() || ledger.moved.is_some();
    let default_name = pipeline.has_default_name();
    let from = moved_from(&id, default_name, &fingerprint.digest, vanished, now);
    let from = from.filter(|_| may_take);
    if let Some(from) = from {
        ledger = Ledger { orphaned: None, moved: None, ..from.ledger.clone() };
        look.moved.insert(from.id.clone(), id.to_string());
    }
    let changed = ledger
        .change
        .accepted
        .as_ref()
        .filter(|old| old.digest != fingerprint.digest)
        .and_then(|old| fingerprint.only_inputs_changed(old));
    let runs = run_facts(world, memory, &id)?;
    let ready = seen == Seen::Good;
    // Until a changed file stands still, the schedules of the former one hold, and a tick runs it.
    let settled = settled_at(still_since, settle) <= now;
    let former = row.as_ref().and_then(|row| row.definition.clone());
    let former = former.filter(|former| !settled && Some(&former.text) != file.text.as_ref());
    let former =
        former.and_then(|text| Some((text.pipeline(&id.name, scope.former_points())?, text)));
    let in_force = former.as_ref().map_or(pipeline, |(pipeline, _)| pipeline);
    let definition = Definition {
        pipeline,
        fingerprint: &fingerprint,
        schedules: &in_force.triggers().schedules,
        revision: &look.revision,
        still_since,
        inputs_written: changed.and_then(|paths| written(&paths, &file.folder, &file.files)),
    };
    let lacks = world.engine.lacks(pipeline);
    let facts = PipelineFacts {
        settle,
        lacks: lacks.as_deref(),
        ..facts(&id, seen, Some(definition), &ledger, &runs)
    };
    let mut planned = plan(&facts, now);
    if let Some(from) = from {
        let reason = format!("moved from {}: its cursors follow", from.id);
        planned.not_done.retain(|not_done| not_done.reason != Reason::UpToDate);
        planned.actions.insert(0, Action::Record { reason });
    }
    let present = file.text.clone().map(|text| FileText {
        file: file.path.clone(),
        folder: file.folder.clone(),
        text,
    });
    let text = former.map(|(_, text)| text).or(present);
    look.plan.pipelines.push((id.clone(), planned));
    let seeing = Seeing {
        stored: row,
        text,
        fingerprint: Some(fingerprint),
        pipeline: Some(pipeline.clone()),
        ready,
    };
    look.pipelines.insert(id, seeing);
    Ok(())
}

/// The plan of a pipeline's queue alone, whatever its file says.
pub fn plan_queue(
    world: &World<'_>,
    memory: &mut Memory,
    id: &PipelineId,
    now: Timestamp,
) -> Result<PipelinePlan, StoreError> {
    let runs = run_facts(world, memory, id)?;
    // What is next in the queue needs what its own definition says, which may not be the file's.
    let next = runs.iter().find(|run| run.phase == Phase::Pending && run.host == Observed::Absent);
    let next = next.map(|run| world.store.run(run.name.as_str())).transpose()?.flatten();
    let next =
        next.and_then(|stored| stored.spec.definition.pipeline(&id.name, stored.spec.max_points));
    let lacks = next.and_then(|pipeline| world.engine.lacks(&pipeline));
    let ledger = Ledger::default();
    let facts = facts(id, Seen::Good, None, &ledger, &runs);
    Ok(plan(&PipelineFacts { lacks: lacks.as_deref(), ..facts }, now))
}

/// Facts of a pipeline that waits for nothing.
fn facts<'a>(
    id: &'a PipelineId,
    seen: Seen,
    definition: Option<Definition<'a>>,
    ledger: &'a Ledger,
    runs: &'a [RunFact],
) -> PipelineFacts<'a> {
    let settle = Period::from_seconds(0);
    PipelineFacts { id, seen, definition, ledger, runs, settle, lacks: None }
}

/// Plans a pipeline that the source does not show as it did.
fn plan_unseen(
    world: &mut World<'_>,
    memory: &mut Memory,
    scope: &Scope,
    look: &mut Look,
    file: Result<&PipelineFile, Option<String>>,
    row: StoredPipeline,
    now: Timestamp,
) -> Result<(), PassError> {
    let Some(text) = row.definition.clone() else { return Ok(()) };
    let seen = match file {
        Err(None) => Seen::Gone,
        Err(Some(reason)) => Seen::Unreadable(reason),
        Ok(file) if file.text.is_none() || file.own_trouble().is_some() => {
            let reason = file.own_trouble().unwrap_or("it cannot be read");
            Seen::Unreadable(format!("{}: {reason}", file.path))
        }
        Ok(file) if file.documents.pipelines.is_empty() => {
            let count = file.documents.problems.len();
            Seen::Invalid(format!("{} has {count} problems", file.path))
        }
        Ok(_) => Seen::Gone,
    };
    let pipeline = text.pipeline(&row.id.name, scope.former_points());
    let empty = Fingerprint::new_empty();
    let runs = run_facts(world, memory, &row.id)?;
    let definition = pipeline.as_ref().map(|pipeline| Definition {
        pipeline,
        fingerprint: row.ledger.change.accepted.as_deref().unwrap_or(&empty),
        schedules: &pipeline.triggers().schedules,
        revision: &look.revision,
        still_since: now,
        inputs_written: None,
    });
    let mut planned = plan(&facts(&row.id, seen, definition, &row.ledger, &runs), now);
    if let Some(to) = look.moved.get(&row.id) {
        planned.ledger.moved = Some(to.clone());
    }
    look.plan.pipelines.push((row.id.clone(), planned));
    let fingerprint = row.ledger.change.accepted.as_deref().cloned();
    let id = row.id.clone();
    let seeing =
        Seeing { stored: Some(row), text: Some(text), fingerprint, pipeline, ready: false };
    look.pipelines.insert(id, seeing);
    Ok(())
}

/// The identity of a pipeline in a source.
pub fn identity(scope: &Scope, folder: &str, pipeline: &Pipeline) -> PipelineId {
    PipelineId {
        source: scope.source.clone(),
        folder: folder.to_owned(),
        name: pipeline.name().clone(),
    }
}

/// Since when a pipeline stands still, and for how long it must.
fn standing(
    memory: &mut Memory,
    scope: &Scope,
    id: &PipelineId,
    digest: &Digest,
    file: &PipelineFile,
    now: Timestamp,
) -> (Timestamp, Period) {
    let remembered = memory.still.get(id).cloned();
    let since = match &remembered {
        // A clock that stepped back must not make a change wait for the future.
        Some((known, since)) if known == digest && *since <= now => *since,
        Some(_) => now,
        // Of a first look, the file system says more than we could.
        None => file.newest.filter(|newest| *newest <= now).unwrap_or(now),
    };
    memory.still.insert(id.clone(), (digest.clone(), since));
    match scope.settle {
        Settle::After(period) => (since, period),
        Settle::TwoLooks => {
            let seen_twice = remembered.is_some_and(|(known, _)| known == *digest);
            (if seen_twice { Timestamp::MIN } else { since }, Period::from_seconds(1))
        }
    }
}

/// When the changed inputs were written: the first and the last time, if all are known.
fn written(paths: &[String], folder: &str, files: &Files) -> Option<(Timestamp, Timestamp)> {
    let times: Option<Vec<Timestamp>> = paths
        .iter()
        .map(|path| {
            let path = RelativePath::resolve(folder, path).ok()?;
            files.get(path.as_str())?.modified
        })
        .collect();
    let times = times?;
    Some((*times.iter().min()?, *times.iter().max()?))
}

fn run_facts(
    world: &World<'_>,
    memory: &mut Memory,
    id: &PipelineId,
) -> Result<Vec<RunFact>, StoreError> {
    let runs = world.store.runs_of(id)?;
    runs.into_iter().map(|stored| fact(world, memory, stored)).collect()
}

fn fact(world: &World<'_>, memory: &mut Memory, stored: StoredRun) -> Result<RunFact, StoreError> {
    let run = stored.run;
    let host = if run.phase.is_ended() {
        Observed::Absent
    } else {
        match world.engine.observe(&run.name) {
            // Without a host on this machine, another that shares the file system may have one.
            Observed::Absent if world.store.is_shared() => {
                let lease = world.store.lease(run.name.as_str())?;
                let watch = memory.leases.entry(run.name.clone()).or_default();
                match watch.look(lease, std::time::Instant::now()) {
                    Standing::Free | Standing::Expired => Observed::Absent,
                    Standing::Unsure => Observed::Unknown,
                    Standing::Elsewhere => Observed::Known(()),
                }
            }
            observed => observed,
        }
    };
    Ok(RunFact {
        host,
        name: run.name,
        trigger: run.trigger,
        phase: run.phase,
        started_at: run.started_at,
        finished_at: run.finished_at,
        stop_requested: stored.stop_requested,
    })
}

fn revision_of(files: &[PipelineFile]) -> String {
    let all: Vec<_> = files
        .iter()
        .map(|file| {
            let named: Vec<_> =
                file.files.iter().map(|(path, state)| (path, &state.digest)).collect();
            serde_json::json!([file.path, file.text, named])
        })
        .collect();
    Digest::of_json("jupyterflow/revision/v1", &serde_json::json!(all)).to_string()
}
