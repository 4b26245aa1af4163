//! The loop: look, plan, apply. One code path for `plan`, `run`, `up` and what comes later.
//!
//! Owns the order of the steps and nothing of what they do: it sees ports only. A pass may be
//! killed after any line and repeated; `look` alone is `plan`.

use std::collections::HashMap;

use indexmap::IndexMap;

use crate::engine::{Engine, EngineError};
use crate::plan::{
    Action, Definition, NotDone, Phase, PipelineFacts, PipelinePlan, Plan, Reason, Run, RunFact,
    Seen, plan,
};
use crate::source::{PipelineFile, Source, SourceError};
use crate::spec::{Fingerprint, Pipeline, fingerprint::Files};
use crate::store::{Commit, FileText, RunSpec, Store, StoreError, StoredPipeline, StoredRun};
use crate::types::{Digest, Period, PipelineId, Timestamp};

/// Everything outside that a pass touches.
pub struct World<'a> {
    /// Where pipeline files come from.
    pub source: &'a mut dyn Source,
    /// The durable memory.
    pub store: &'a mut dyn Store,
    /// What executes runs.
    pub engine: &'a mut dyn Engine,
}

/// What is remembered between passes; nothing of it is needed for a correct next one.
#[derive(Default)]
pub struct Memory {
    /// Since when each pipeline's digest stands still.
    still: HashMap<PipelineId, (Digest, Timestamp)>,
}

/// How a pass looks.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The source's name, part of every identity.
    pub source: String,
    /// How long a change must stand still.
    pub settle: Period,
    /// The most points that a sweep may have.
    pub max_points: usize,
    /// Only pipelines at or below this folder.
    pub below: String,
}

/// Why a pass failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The source.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a look saw, with the plan that follows.
pub struct Look {
    /// The plan.
    pub plan: Plan,
    /// What the source shows, as one digest.
    pub revision: String,
    pipelines: IndexMap<PipelineId, Seeing>,
}

struct Seeing {
    stored: Option<StoredPipeline>,
    text: Option<FileText>,
    fingerprint: Option<Fingerprint>,
    /// The newest good definition.
    pipeline: Option<Pipeline>,
}

impl Look {
    /// The validated pipelines that are in force.
    pub fn pipelines(
        &self,
    ) -> impl Iterator<Item = (&PipelineId, &Pipeline, Option<&StoredPipeline>)> {
        self.pipelines.iter().filter_map(|(id, seeing)| {
            Some((id, seeing.pipeline.as_ref()?, seeing.stored.as_ref()))
        })
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
    let mut look = Look {
        plan: Plan::default(),
        revision: revision_of(&snapshot.files),
        pipelines: IndexMap::new(),
    };
    for file in &snapshot.files {
        look.plan.problems.extend(file.documents.problems.iter().cloned());
        for pipeline in &file.documents.pipelines {
            let id = identity(scope, &file.folder, pipeline);
            let row = stored.remove(&id);
            plan_pipeline(world, memory, scope, &mut look, id, file, pipeline, row, now)?;
        }
    }
    // What was known but is not seen: its file is broken, or it is gone. Unknown is never empty.
    let within = |id: &PipelineId| {
        scope.below.is_empty()
            || id.folder == scope.below
            || id.folder.starts_with(&format!("{}/", scope.below))
    };
    let mut rest: Vec<StoredPipeline> = stored
        .into_values()
        .filter(|row| row.id.source == scope.source && within(&row.id))
        .collect();
    rest.sort_by(|a, b| a.id.cmp(&b.id));
    for row in rest {
        let Some(text) = row.definition.clone() else { continue };
        let file = snapshot.files.iter().find(|file| file.path == text.file);
        plan_unseen(world, scope, &mut look, file, row, text, now)?;
    }
    for folder in &snapshot.elsewhere {
        let not_done = NotDone {
            pipeline: folder.clone(),
            reason: Reason::ManagedElsewhere,
            message: format!("{folder} has a state of its own"),
            until: None,
        };
        let plan = PipelinePlan {
            actions: Vec::new(),
            not_done: vec![not_done],
            ledger: crate::plan::Ledger::default(),
        };
        let name = crate::types::slug(folder, crate::types::PipelineName::MAX);
        if let Ok(name) = name.parse() {
            let id = PipelineId { source: scope.source.clone(), folder: folder.clone(), name };
            look.plan.pipelines.push((id, plan));
        }
    }
    Ok(look)
}

#[expect(clippy::too_many_arguments, reason = "the parts of one look")]
fn plan_pipeline(
    world: &mut World<'_>,
    memory: &mut Memory,
    scope: &Scope,
    look: &mut Look,
    id: PipelineId,
    file: &PipelineFile,
    pipeline: &Pipeline,
    row: Option<StoredPipeline>,
    now: Timestamp,
) -> Result<(), PassError> {
    let fingerprint = Fingerprint::new(pipeline, &file.files);
    let still_since = still_since(memory, &id, &fingerprint.digest, now);
    let needed = |path: &str| {
        path == file.path
            || pipeline.steps().iter().any(|step| match step.work() {
                crate::spec::Work::Notebook(notebook) => notebook.as_str() == path,
                _ => step.requirements().is_some_and(|file| file.as_str() == path),
            })
    };
    let broken = file.broken.iter().find(|(path, _)| needed(path));
    let seen = match broken {
        Some((path, reason)) => Seen::Unreadable(format!("{path}: {reason}")),
        None => Seen::Good,
    };
    let ledger = row.as_ref().map(|row| row.ledger.clone()).unwrap_or_default();
    let changed =
        ledger.change.accepted.as_ref().and_then(|old| fingerprint.only_inputs_changed(old));
    let runs = run_facts(world, &id)?;
    let planned = plan(
        &PipelineFacts {
            id: &id,
            seen,
            definition: Some(Definition {
                pipeline,
                fingerprint: &fingerprint,
                revision: &look.revision,
                still_since,
                inputs_written: changed
                    .and_then(|paths| written(&paths, &file.folder, &file.files)),
            }),
            ledger: &ledger,
            runs: &runs,
            settle: scope.settle,
        },
        now,
    );
    let text = file.text.clone().map(|text| FileText {
        file: file.path.clone(),
        folder: file.folder.clone(),
        text,
    });
    look.plan.pipelines.push((id.clone(), planned));
    let seeing = Seeing {
        stored: row,
        text,
        fingerprint: Some(fingerprint),
        pipeline: Some(pipeline.clone()),
    };
    look.pipelines.insert(id, seeing);
    Ok(())
}

/// Plans a pipeline that the source does not show as it did.
fn plan_unseen(
    world: &mut World<'_>,
    scope: &Scope,
    look: &mut Look,
    file: Option<&PipelineFile>,
    row: StoredPipeline,
    text: FileText,
    now: Timestamp,
) -> Result<(), PassError> {
    let seen = match file {
        None => Seen::Gone,
        Some(file) if file.text.is_none() => {
            let reason = file.broken.first().map_or("it cannot be read", |(_, reason)| reason);
            Seen::Unreadable(format!("{}: {reason}", file.path))
        }
        Some(file) if file.documents.pipelines.is_empty() => {
            let count = file.documents.problems.len();
            Seen::Invalid(format!("{} has {count} problems", file.path))
        }
        Some(_) => Seen::Gone,
    };
    let documents =
        crate::spec::parse(&text.text, &text.file, &text.folder, scope.max_points.max(100));
    let pipeline = documents.pipelines.into_iter().find(|pipeline| *pipeline.name() == row.id.name);
    let empty = Fingerprint::new_empty();
    let runs = run_facts(world, &row.id)?;
    let definition = pipeline.as_ref().map(|pipeline| Definition {
        pipeline,
        fingerprint: row.ledger.change.accepted.as_ref().unwrap_or(&empty),
        revision: &look.revision,
        still_since: now,
        inputs_written: None,
    });
    let planned = plan(
        &PipelineFacts {
            id: &row.id,
            seen,
            definition,
            ledger: &row.ledger,
            runs: &runs,
            settle: scope.settle,
        },
        now,
    );
    look.plan.pipelines.push((row.id.clone(), planned));
    let seeing = Seeing {
        text: Some(text),
        fingerprint: row.ledger.change.accepted.clone(),
        pipeline,
        stored: None,
    };
    look.pipelines.insert(row.id.clone(), Seeing { stored: Some(row), ..seeing });
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

fn still_since(memory: &mut Memory, id: &PipelineId, digest: &Digest, now: Timestamp) -> Timestamp {
    match memory.still.get(id) {
        // A clock that stepped back must not make a change wait for the future.
        Some((known, since)) if known == digest && *since <= now => *since,
        _ => {
            memory.still.insert(id.clone(), (digest.clone(), now));
            now
        }
    }
}

/// When the changed inputs were written: the first and the last time, if all are known.
fn written(paths: &[String], folder: &str, files: &Files) -> Option<(Timestamp, Timestamp)> {
    let times: Option<Vec<Timestamp>> = paths
        .iter()
        .map(|path| {
            let path = crate::spec::RelativePath::resolve(folder, path).ok()?;
            files.get(path.as_str())?.modified
        })
        .collect();
    let times = times?;
    Some((*times.iter().min()?, *times.iter().max()?))
}

fn run_facts(world: &World<'_>, id: &PipelineId) -> Result<Vec<RunFact>, StoreError> {
    let runs = world.store.runs_of(id)?;
    Ok(runs.into_iter().map(|stored| fact(world.engine, stored)).collect())
}

fn fact(engine: &dyn Engine, stored: StoredRun) -> RunFact {
    let run = stored.run;
    let host = if run.phase.is_ended() {
        crate::plan::Observed::Absent
    } else {
        engine.observe(&run.name)
    };
    RunFact {
        host,
        name: run.name,
        trigger: run.trigger,
        phase: run.phase,
        started_at: run.started_at,
        finished_at: run.finished_at,
        stop_requested: stored.stop_requested,
    }
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

/// What applying a plan did, for people.
#[derive(Debug, Default)]
pub struct Applied {
    /// Runs that were started.
    pub started: Vec<Run>,
    /// Pipelines that another process changed in the meantime: the next pass looks again.
    pub conflicts: Vec<PipelineId>,
    /// Engines that did not do as asked.
    pub failed: Vec<EngineError>,
}

/// Acts on a plan: for each pipeline first the one durable write, then the engine.
///
/// # Errors
/// The store cannot be written.
pub fn apply(
    world: &mut World<'_>,
    scope: &Scope,
    look: &Look,
    now: Timestamp,
) -> Result<Applied, StoreError> {
    let mut applied = Applied::default();
    for (id, planned) in &look.plan.pipelines {
        let Some(seeing) = look.pipelines.get(id) else { continue };
        let claims = claims(scope, look, id, seeing, planned, now);
        if let Err(error) = write(world, id, seeing, planned, &claims) {
            match error {
                StoreError::Conflict => applied.conflicts.push(id.clone()),
                other => return Err(other),
            }
            continue;
        }
        for action in &planned.actions {
            act(world, action, &claims, &mut applied)?;
        }
    }
    Ok(applied)
}

fn write(
    world: &mut World<'_>,
    id: &PipelineId,
    seeing: &Seeing,
    planned: &PipelinePlan,
    claims: &[StoredRun],
) -> Result<(), StoreError> {
    let known = seeing.stored.as_ref();
    let same =
        known.is_some_and(|row| row.ledger == planned.ledger && row.definition == seeing.text);
    if same && claims.is_empty() {
        return Ok(());
    }
    world.store.commit(&Commit {
        id,
        version: known.map(|row| row.version),
        ledger: &planned.ledger,
        definition: seeing.text.as_ref(),
        claims: claims.to_vec(),
    })
}

fn claims(
    scope: &Scope,
    look: &Look,
    id: &PipelineId,
    seeing: &Seeing,
    planned: &PipelinePlan,
    now: Timestamp,
) -> Vec<StoredRun> {
    let Some(text) = &seeing.text else { return Vec::new() };
    let claim = |action: &Action| {
        let Action::Claim(claim) = action else { return None };
        Some(StoredRun {
            pipeline: id.clone(),
            run: Run {
                id: claim.id.clone(),
                name: claim.name.clone(),
                pipeline: id.name.to_string(),
                source: id.source.clone(),
                revision: look.revision.clone(),
                trigger: claim.trigger.clone(),
                phase: Phase::Pending,
                reason: None,
                message: None,
                params: IndexMap::new(),
                created_at: now,
                started_at: None,
                finished_at: None,
                steps: Vec::new(),
            },
            spec: RunSpec {
                definition: text.clone(),
                max_points: scope.max_points,
                fingerprint: seeing.fingerprint.clone(),
                because: claim.because.clone(),
                kept_steps: Vec::new(),
            },
            stop_requested: false,
        })
    };
    planned.actions.iter().filter_map(claim).collect()
}

fn act(
    world: &mut World<'_>,
    action: &Action,
    claims: &[StoredRun],
    applied: &mut Applied,
) -> Result<(), StoreError> {
    let start = match action {
        Action::Claim(claim) if claim.start => &claim.name,
        Action::Start { run, .. } => run,
        Action::Stop { run, .. } => {
            let ended = world.store.run(run.as_str())?;
            // A run that never started has no host that could end it.
            if let Some(mut stored) = ended
                && stored.run.phase == Phase::Pending
                && world.engine.observe(run) == crate::plan::Observed::Absent
            {
                stored.run.phase = Phase::Stopped;
                stored.run.message = Some("a person stopped it before it began".into());
                world.store.update_run(&stored.run)?;
            } else if let Err(error) = world.engine.stop(run) {
                applied.failed.push(error);
            }
            return Ok(());
        }
        Action::Claim(_) | Action::Record { .. } => return Ok(()),
    };
    match world.engine.start(start) {
        Ok(()) => {
            let claimed = claims.iter().find(|claim| claim.run.name == *start);
            let run = match claimed {
                Some(claim) => Some(claim.run.clone()),
                None => world.store.run(start.as_str())?.map(|stored| stored.run),
            };
            applied.started.extend(run);
        }
        Err(error) => applied.failed.push(error),
    }
    Ok(())
}
