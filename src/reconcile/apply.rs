//! Acting on a plan: for each pipeline first the one durable write, then the engine.
//!
//! Owns that order. It decides nothing: every action carries all that it needs.

use super::look::{Look, Seeing};
use super::{Acting, Memory, Scope, World};
use crate::engine::step::kept::{NotKept, kept};
use crate::engine::{Engine, EngineError, Report};
use crate::plan::{Action, Claim, Observed, Phase, PipelinePlan, Reason, Run};
use crate::store::{Commit, EngineName, RunSpec, Shown, Store, StoreError, StoredRun};
use crate::types::{PipelineId, RunName, Timestamp, TriggerKind};

/// What applying a plan did, for people.
#[derive(Debug, Default)]
pub struct Applied {
    /// Runs that were started.
    pub started: Vec<Run>,
    /// Pipelines that another process changed in the meantime: the next pass looks again.
    pub conflicts: Vec<PipelineId>,
    /// Engines that did not do as asked.
    pub failed: Vec<EngineError>,
    /// How many pipelines were written.
    pub writes: i64,
    /// Claims that were refused, for good.
    pub refused: Vec<StoreError>,
}

impl Applied {
    /// Adds what another part of the plan did.
    pub fn merge(&mut self, other: Self) {
        self.started.extend(other.started);
        self.conflicts.extend(other.conflicts);
        self.failed.extend(other.failed);
        self.writes += other.writes;
        self.refused.extend(other.refused);
    }
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
    apply_part(&mut world.acting(), scope, look, now, |_| true)
}

/// Acts on a part of a plan, by the numbers of its pipelines: several may act on parts of their own.
///
/// # Errors
/// The store cannot be written.
pub fn apply_part(
    world: &mut Acting<'_>,
    scope: &Scope,
    look: &Look,
    now: Timestamp,
    part: impl Fn(usize) -> bool,
) -> Result<Applied, StoreError> {
    let mut applied = Applied::default();
    for (at, (id, planned)) in look.plan.pipelines.iter().enumerate() {
        let Some(seeing) = look.pipelines.get(id).filter(|_| part(at)) else { continue };
        let claims = claims(scope, world.engine.name(), id, seeing, planned, now);
        let claims = match write(world, id, seeing, planned, claims, now) {
            Ok(Written::Nothing) => Vec::new(),
            Ok(Written::All(claims)) => {
                applied.writes += 1;
                claims
            }
            Ok(Written::Held(error)) => {
                applied.failed.push(error);
                continue;
            }
            Err(StoreError::Conflict) => {
                applied.conflicts.push(id.clone());
                continue;
            }
            // One pipeline's trouble is none of the others'.
            Err(error @ (StoreError::NameTaken(_) | StoreError::Cluster { .. })) => {
                applied.refused.push(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        for action in &planned.actions {
            match act(world, action, (&claims, Some(seeing)), &mut applied, now) {
                Ok(()) => {}
                Err(StoreError::Conflict) => applied.conflicts.push(id.clone()),
                Err(error @ StoreError::Cluster { .. }) => applied.refused.push(error),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(applied)
}

/// Starts the run of a pipeline that is next in its queue, or whose host was lost, and nothing
/// else: what `run` does while no `up` is there to do it.
///
/// # Errors
/// The store.
pub fn start_what_is_next(
    world: &mut World<'_>,
    memory: &mut Memory,
    id: &PipelineId,
    now: Timestamp,
) -> Result<Applied, StoreError> {
    let mut applied = Applied::default();
    for stored in world.store.runs_of(id)? {
        applied.failed.extend(refresh(world.store, world.engine, &stored, now)?);
    }
    let planned = super::look::plan_queue(world, memory, id, now)?;
    for action in &planned.actions {
        act(&mut world.acting(), action, (&[], None), &mut applied, now)?;
    }
    Ok(applied)
}

/// What became of a pipeline's write.
pub(super) enum Written {
    /// It had nothing to say.
    Nothing,
    /// It is written, with these claims.
    All(Vec<StoredRun>),
    /// What would execute a claim cannot be made now: the next pass claims it.
    Held(EngineError),
}

fn write(
    world: &mut Acting<'_>,
    id: &PipelineId,
    seeing: &Seeing,
    planned: &PipelinePlan,
    claims: Vec<StoredRun>,
    now: Timestamp,
) -> Result<Written, StoreError> {
    let known = seeing.stored.as_ref();
    if known.is_none() && seeing.text.is_none() {
        return Ok(Written::Nothing);
    }
    let shown = shown(seeing, planned, now);
    let same =
        known.is_some_and(|row| row.ledger == planned.ledger && row.definition == seeing.text);
    if same && claims.is_empty() && world.store.shows(id, &shown) {
        return Ok(Written::Nothing);
    }
    let commit = Commit {
        id,
        version: known.map(|row| row.version),
        ledger: &planned.ledger,
        definition: seeing.text.as_ref(),
        claims,
        shown: Some(shown),
    };
    let starts = |run: &RunName| {
        planned.actions.iter().any(|action| action.starts() && action.run() == Some(run))
    };
    claim(world, commit, starts)
}

/// Writes a pipeline and its claims. Where both cannot be written at once, records come first, then what
/// executes those that start, and then the one write that claims them: whatever was made before it and
/// is not in it never begins.
pub(super) fn claim(
    world: &mut Acting<'_>,
    mut commit: Commit<'_>,
    starts: impl Fn(&RunName) -> bool,
) -> Result<Written, StoreError> {
    if !world.store.announces() {
        world.store.commit(&commit)?;
        return Ok(Written::All(commit.claims));
    }
    let other = world.store.announce(&mut commit)?;
    let mut commit = Commit { ledger: other.as_ref().unwrap_or(commit.ledger), ..commit };
    for run in commit.claims.iter_mut().filter(|run| starts(&run.run.name)) {
        match world.engine.prepare(run) {
            Ok(handle) => run.spec.handle = handle,
            Err(error) if error.passing => return Ok(Written::Held(error)),
            // What is refused for good is claimed, and ends as soon as it is to begin.
            Err(_) => {}
        }
    }
    world.store.commit(&commit)?;
    Ok(Written::All(commit.claims))
}

/// What people see of a pipeline.
fn shown(seeing: &Seeing, planned: &PipelinePlan, now: Timestamp) -> Shown {
    let ledger = &planned.ledger;
    let quiet = [Reason::UpToDate, Reason::NotExecutedYet];
    let own = planned.not_done.iter().find(|one| !quiet.contains(&one.reason));
    let ticks = ledger.schedules.iter().filter_map(|schedule| schedule.next);
    let next = ticks.chain(own.and_then(|one| one.until)).min();
    Shown {
        triggers: seeing.pipeline.as_ref().map(|one| one.triggers().words()).unwrap_or_default(),
        next_run: next.filter(|_| ledger.suspended.is_none()),
        ready: seeing.ready,
        reason: own.map_or(Reason::UpToDate, |one| one.reason),
        message: own.map(|one| one.message.clone()).unwrap_or_default(),
        at: now,
    }
}

fn claims(
    scope: &Scope,
    engine: EngineName,
    id: &PipelineId,
    seeing: &Seeing,
    planned: &PipelinePlan,
    now: Timestamp,
) -> Vec<StoredRun> {
    let claim = |action: &Action| {
        let Action::Claim(claim) = action else { return None };
        claimed_run(scope, engine, id, seeing, claim, now)
    };
    planned.actions.iter().filter_map(claim).collect()
}

/// The run of a claim; none where no definition of its pipeline is known.
pub fn claimed_run(
    scope: &Scope,
    engine: EngineName,
    id: &PipelineId,
    seeing: &Seeing,
    claim: &Claim,
    now: Timestamp,
) -> Option<StoredRun> {
    Some(StoredRun {
        pipeline: id.clone(),
        run: Run::claimed(
            id,
            (claim.id.clone(), claim.name.clone()),
            claim.trigger.clone(),
            seeing.revision.clone(),
            claim.params.clone(),
            now,
        ),
        spec: RunSpec {
            definition: seeing.text.clone()?,
            max_points: scope.max_points,
            fingerprint: seeing.fingerprint.as_deref().cloned(),
            because: claim.because.clone(),
            from: None,
            kept: Vec::new(),
            backfill: false,
            engine,
            handle: None,
        },
        stop_requested: false,
        stopped_by: None,
        ended: None,
    })
}

/// Records the end of a run that should stop and has no host that could.
fn end_without_host(
    world: &mut Acting<'_>,
    name: &RunName,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Some(mut stored) = world.store.run(name.as_str())? else { return Ok(()) };
    let why = stored.why_stopped();
    if stored.run.phase.is_ended() || world.engine.observe(&stored) != Observed::Absent {
        return Ok(());
    }
    // What another process made for it meanwhile ends with it.
    if stored.spec.handle.is_some() && world.engine.stop(&stored).is_err() {
        return Ok(());
    }
    let mut steps = world.store.steps(name)?;
    for state in steps.iter_mut().filter(|state| !state.record.phase.is_ended()) {
        let begun = state.record.attempt > 0;
        state.record.phase = if begun { Phase::Stopped } else { Phase::Skipped };
        state.record.finished_at = begun.then_some(now);
    }
    world.store.update_steps(name, &steps.iter().collect::<Vec<_>>())?;
    let run = &mut stored.run;
    let begun = run.started_at.is_some();
    let superseded = stored.stopped_by.is_some();
    run.phase = if superseded && !begun { Phase::Skipped } else { Phase::Stopped };
    run.reason = superseded.then(|| Reason::Superseded.to_string());
    run.message = Some(if begun { why } else { format!("{why} before it began") });
    run.finished_at = Some(now);
    world.store.update_run(run)
}

/// Ends a run whose stop is recorded and that has no host; one with a host ends itself.
///
/// # Errors
/// The store.
pub fn end_if_stopped(
    world: &mut World<'_>,
    name: &RunName,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Some(stored) = world.store.run(name.as_str())? else { return Ok(()) };
    let elsewhere = world.store.lease(name.as_str())?.is_some_and(|lease| !lease.ours);
    if stored.stop_requested
        && !elsewhere
        && world.engine.observe(&stored) == Observed::Absent
        && world.engine.stop(&stored).is_ok()
    {
        end_without_host(&mut world.acting(), name, now)?;
    }
    Ok(())
}

fn act(
    world: &mut Acting<'_>,
    action: &Action,
    (claims, seeing): (&[StoredRun], Option<&Seeing>),
    applied: &mut Applied,
    now: Timestamp,
) -> Result<(), StoreError> {
    let start = match action {
        Action::Claim(claim) if claim.start => &claim.name,
        Action::Start { run, .. } => run,
        Action::Stop { run, hosted, by, .. } => {
            if let Some(by) = by {
                world.store.request_stop(run, Some(by))?;
            }
            if let Some(stored) = world.store.run(run.as_str())?
                && let Err(error) = world.engine.stop(&stored)
            {
                // What was not stopped has not ended.
                applied.failed.push(error);
                return Ok(());
            }
            // A host, also one of another machine, sees the recorded stop and ends itself.
            return if *hosted { Ok(()) } else { end_without_host(world, run, now) };
        }
        Action::Claim(_) | Action::Record { .. } => return Ok(()),
    };
    let claimed = claims.iter().find(|claim| claim.run.name == *start).cloned();
    let stored = match claimed {
        Some(claim) => Some(claim),
        None => world.store.run(start.as_str())?,
    };
    let Some(mut stored) = stored else { return Ok(()) };
    match begin(world, &mut stored, seeing)? {
        Ok(true) => applied.started.push(stored.run),
        Ok(false) => {}
        Err(error) => {
            // What a cluster refuses for good does not wait at the head of the queue until it no longer does.
            let refused = stored.spec.engine == EngineName::Argo && stored.spec.handle.is_none();
            if refused && !error.passing {
                stored.run.phase = Phase::Failed;
                stored.run.message = Some(error.message.clone());
                stored.run.finished_at = Some(now);
                world.store.update_run(&stored.run)?;
            }
            applied.failed.push(error);
        }
    }
    Ok(())
}

/// Whether nobody has said yet what a run executes: a person asked a controller for it.
fn is_open(run: &Run) -> bool {
    run.trigger.kind == TriggerKind::Manual && run.revision.is_empty()
}

/// A run that a person asked a controller for is about what its source shows when it begins.
fn take_what_is_shown(stored: &mut StoredRun, seeing: &Seeing) {
    let (run, spec) = (&mut stored.run, &mut stored.spec);
    run.revision.clone_from(&seeing.revision);
    if let Some(again) = &run.trigger.retry_of {
        let from = spec.from.as_ref().map(|step| format!(" from step `{step}`"));
        spec.because = vec![format!("retry of {again}{}", from.unwrap_or_default())];
    }
    if let (Some(text), Some(fingerprint)) = (&seeing.text, seeing.fingerprint.as_deref()) {
        spec.definition.clone_from(text);
        spec.fingerprint = Some(fingerprint.clone());
    }
}

/// Makes what will execute a run, keeps what the engine says of it, and only then lets it begin: so
/// what vanishes afterwards is known to have been there. False where another was first.
fn begin(
    world: &mut Acting<'_>,
    stored: &mut StoredRun,
    seeing: Option<&Seeing>,
) -> Result<Result<bool, EngineError>, StoreError> {
    if stored.spec.handle.is_none() {
        if let Some(seeing) = seeing.filter(|_| is_open(&stored.run)) {
            take_what_is_shown(stored, seeing);
            let failed = |message| EngineError::new("start", &stored.run.name, message);
            let definition = stored.definition();
            if let Some(lacks) =
                definition.and_then(|one| world.engine.lacks(&stored.pipeline, &one))
            {
                return Ok(Err(EngineError { passing: true, ..failed(lacks) }));
            }
            if let Err(message) = keep_what_came_before(world, stored)? {
                return Ok(Err(EngineError::new("start", &stored.run.name, message)));
            }
            // On record before anything is made of it: whoever goes on after us makes the same.
            let is_known = !stored.run.revision.is_empty();
            if is_known && !world.store.update_spec(&stored.run, &stored.spec)? {
                return Ok(Ok(false));
            }
        }
        match world.engine.prepare(stored) {
            Ok(None) => {}
            Ok(handle) => {
                stored.spec.handle = handle;
                if !world.store.update_spec(&stored.run, &stored.spec)? {
                    // Others were here meanwhile, and what was made now is nobody's: it never begins.
                    return Ok(world.engine.stop(stored).map(|()| false));
                }
            }
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(world.engine.start(stored).map(|()| true))
}

/// Finds out what a run keeps that is wanted from a step on, where whoever asked for it could not say. The second
/// error, in words, is why that cannot be.
fn keep_what_came_before(
    world: &Acting<'_>,
    stored: &mut StoredRun,
) -> Result<Result<(), String>, StoreError> {
    let (from, again) = match (&stored.spec.from, &stored.run.trigger.retry_of) {
        (None, _) => return Ok(Ok(())),
        (Some(from), Some(again)) => (from, again),
        (Some(from), None) => {
            return Ok(Err(format!("from step `{from}` of which run? `retryOf` names none")));
        }
    };
    let known = world.store.run(again.as_str())?.filter(|one| one.pipeline == stored.pipeline);
    let (Some(_), Some(pipeline)) = (known, stored.definition()) else {
        return Ok(Err(format!("the record of run {again} is gone; retry without --from")));
    };
    let kept = match kept(&pipeline, &world.store.steps(again)?, from) {
        Ok(kept) => kept,
        Err(NotKept { message, hint }) => return Ok(Err(format!("{message}; {hint}"))),
    };
    if !kept.is_empty() && !world.store.is_whole(again) {
        let message = "left more than its record holds; retry without --from";
        return Ok(Err(format!("run {again} {message}")));
    }
    stored.spec.kept = kept;
    Ok(Ok(()))
}

/// Writes where a run stands that is executed elsewhere, if there is anything to write.
///
/// # Errors
/// The store.
pub fn refresh(
    store: &mut dyn Store,
    engine: &dyn Engine,
    stored: &StoredRun,
    now: Timestamp,
) -> Result<Option<EngineError>, StoreError> {
    if stored.run.phase.is_ended() {
        return Ok(None);
    }
    match engine.report(stored, now) {
        Ok(Report::Nothing) => {}
        Ok(Report::Stands(run, steps)) => {
            let steps: Vec<_> = steps.iter().collect();
            if *run == stored.run {
                store.update_steps(&run.name, &steps)?;
            } else {
                store.update_stand(&run, &steps)?;
            }
        }
        Ok(Report::Vanished) => {
            let run = Run {
                phase: Phase::Unknown,
                message: Some("what executed it is gone, and nobody saw its end".into()),
                finished_at: Some(now),
                ..stored.run.clone()
            };
            store.update_run(&run)?;
        }
        Err(error) => return Ok(Some(error)),
    }
    Ok(None)
}
