//! Acting on a plan: for each pipeline first the one durable write, then the engine.
//!
//! Owns that order. It decides nothing: every action carries all that it needs.

use super::look::{Look, Seeing};
use super::{Memory, Scope, World};
use crate::engine::{EngineError, Report};
use crate::plan::{Action, Claim, Observed, Phase, PipelinePlan, Reason, Run};
use crate::store::{Commit, EngineName, RunSpec, StoreError, StoredRun};
use crate::types::{PipelineId, RunName, Timestamp};

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
        let claims = claims(scope, world.engine.name(), id, seeing, planned, now);
        match write(world, id, seeing, planned, &claims) {
            Ok(written) => applied.writes += i64::from(written),
            Err(StoreError::Conflict) => {
                applied.conflicts.push(id.clone());
                continue;
            }
            Err(error @ StoreError::NameTaken(_)) => {
                applied.refused.push(error);
                continue;
            }
            Err(error) => return Err(error),
        }
        for action in &planned.actions {
            act(world, action, &claims, &mut applied, now)?;
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
        applied.failed.extend(refresh(world, &stored, now)?);
    }
    let planned = super::look::plan_queue(world, memory, id, now)?;
    for action in &planned.actions {
        act(world, action, &[], &mut applied, now)?;
    }
    Ok(applied)
}

fn write(
    world: &mut World<'_>,
    id: &PipelineId,
    seeing: &Seeing,
    planned: &PipelinePlan,
    claims: &[StoredRun],
) -> Result<bool, StoreError> {
    let known = seeing.stored.as_ref();
    if known.is_none() && seeing.text.is_none() {
        return Ok(false);
    }
    let same =
        known.is_some_and(|row| row.ledger == planned.ledger && row.definition == seeing.text);
    if same && claims.is_empty() {
        return Ok(false);
    }
    let commit = Commit {
        id,
        version: known.map(|row| row.version),
        ledger: &planned.ledger,
        definition: seeing.text.as_ref(),
        claims: claims.to_vec(),
    };
    world.store.commit(&commit).map(|()| true)
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
            fingerprint: seeing.fingerprint.clone(),
            because: claim.because.clone(),
            kept_steps: Vec::new(),
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
    world: &mut World<'_>,
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
        end_without_host(world, name, now)?;
    }
    Ok(())
}

fn act(
    world: &mut World<'_>,
    action: &Action,
    claims: &[StoredRun],
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
    match begin(world, &mut stored)? {
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

/// Makes what will execute a run, keeps what the engine says of it, and only then lets it begin: so
/// what vanishes afterwards is known to have been there. False where another was first.
fn begin(
    world: &mut World<'_>,
    stored: &mut StoredRun,
) -> Result<Result<bool, EngineError>, StoreError> {
    if stored.spec.handle.is_none() {
        match world.engine.prepare(stored) {
            Ok(None) => {}
            Ok(handle) => {
                stored.spec.handle = handle;
                if !world.store.update_spec(&stored.run.name, &stored.spec)? {
                    // Others were here meanwhile, and what was made now is nobody's: it never begins.
                    return Ok(world.engine.stop(stored).map(|()| false));
                }
            }
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(world.engine.start(stored).map(|()| true))
}

/// Writes where a run stands that is executed elsewhere, if there is anything to write.
///
/// # Errors
/// The store.
pub fn refresh(
    world: &mut World<'_>,
    stored: &StoredRun,
    now: Timestamp,
) -> Result<Option<EngineError>, StoreError> {
    if stored.run.phase.is_ended() {
        return Ok(None);
    }
    let name = &stored.run.name;
    match world.engine.report(stored, now) {
        Ok(Report::Nothing) => {}
        Ok(Report::Stands(run, steps)) => {
            // A step's end comes first: whoever sees the run's end sees all of it.
            world.store.update_steps(name, &steps.iter().collect::<Vec<_>>())?;
            if *run != stored.run {
                world.store.update_run(&run)?;
            }
        }
        Ok(Report::Vanished) => {
            let run = Run {
                phase: Phase::Unknown,
                message: Some("what executed it is gone, and nobody saw its end".into()),
                finished_at: Some(now),
                ..stored.run.clone()
            };
            world.store.update_run(&run)?;
        }
        Err(error) => return Ok(Some(error)),
    }
    Ok(None)
}
