//! What a person decides, through the ledger: a run now, a run again, a pipeline suspended.
//!
//! Owns how a request becomes a record. Any process may make one; who executes it, and when, is
//! the plan's to say.

use indexmap::IndexMap;
use serde_json::Value;

use super::look::identity;
use super::{Scope, World};
use crate::engine::step::kept::{NotKept, kept, missing};
use crate::plan::{Ledger, Reason, Run, Trigger, advance_schedules, record_ticks};
use crate::spec::{Fingerprint, Pipeline, Work, hints_nearest};
use crate::store::{
    Commit, EngineName, FileText, RunSpec, StepState, Store, StoreError, StoredRun,
};
use crate::types::{PipelineId, RunId, Timestamp, TriggerKind};

/// A write that others come before is tried anew so often.
const TRIES: usize = 20;

/// A run that a person wants now.
pub struct Request<'a> {
    /// The pipeline.
    pub pipeline: &'a Pipeline,
    /// Its text.
    pub definition: FileText,
    /// Parameters on top of the pipeline's.
    pub params: IndexMap<String, Value>,
    /// Whether a parameter that the pipeline lacks is refused.
    pub strict: bool,
    /// The run that is wanted again.
    pub again: Option<StoredRun>,
    /// The step from which it is wanted again; what comes before keeps its results.
    pub from: Option<&'a str>,
    /// An id that no other request has.
    pub key: String,
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It cannot be executed as it stands.
    #[error("{message}")]
    Refused {
        /// Why.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn refused(message: impl Into<String>) -> RequestError {
    RequestError::Refused { message: message.into(), hint: None }
}

/// Records a request. Returns the run and words that a person should read.
///
/// # Errors
/// The request cannot be executed, or not be recorded.
pub fn request(
    world: &mut World<'_>,
    scope: &Scope,
    request: Request<'_>,
    now: Timestamp,
) -> Result<(StoredRun, Vec<String>), RequestError> {
    let Request { pipeline, definition, params, again, from, key, .. } = &request;
    let warnings = check_parameters(pipeline, params, request.strict)?;
    let id = identity(scope, pipeline.folder(), pipeline);
    let named = world.source.named_files(pipeline, &definition.file, now);
    let fingerprint = Fingerprint::new(pipeline, &named.files);
    let pipeline = &(*pipeline).clone().with_manifests(|step, _| fingerprint.manifest(step));
    let resource = pipeline.steps().iter().find(|step| matches!(step.work(), Work::Resource(_)));
    if let Some(step) = resource.filter(|_| world.engine.name() != EngineName::Argo) {
        let message = format!("step `{}` is a resource, which needs the argo engine", step.name());
        return Err(refused(message));
    }
    if let Some(lacks) = world.engine.lacks(&id, pipeline) {
        return Err(refused(lacks));
    }
    let problems = crate::spec::file_problems(
        pipeline,
        &definition.file,
        &definition.text,
        &named.files,
        &named.broken,
    );
    let fatal = problems.iter().find(|p| p.severity == crate::spec::Severity::Error);
    if let Some(problem) = fatal {
        let (message, hint) = (problem.message.clone(), problem.hint.clone());
        return Err(RequestError::Refused { message, hint });
    }
    let trigger = Trigger {
        kind: TriggerKind::Manual,
        key: key.clone(),
        scheduled_at: None,
        retry_of: again.as_ref().map(|stored| stored.run.name.clone()),
    };
    let run_id = RunId::new(&id, trigger.kind, &trigger.key);
    let kept = match (again, from) {
        (Some(again), Some(from)) => keep(world, pipeline, again, from)?,
        _ => Vec::new(),
    };
    let because = match (again, from) {
        (Some(again), Some(from)) => format!("retry of {} from step `{from}`", again.run.name),
        (Some(again), None) => format!("retry of {}", again.run.name),
        (None, _) => "a person asked for it".to_owned(),
    };
    let stored = StoredRun {
        run: Run::claimed(
            &id,
            (run_id.clone(), run_id.name(&id.name, None)),
            trigger,
            world.source.commit().unwrap_or_else(|| fingerprint.digest.to_string()),
            params.clone(),
            now,
        ),
        pipeline: id,
        spec: RunSpec {
            definition: definition.clone(),
            max_points: scope.max_points,
            fingerprint: Some(fingerprint),
            because: vec![because],
            from: from.map(str::to_owned),
            kept,
            backfill: false,
            engine: world.engine.name(),
            handle: None,
        },
        stop_requested: false,
        stopped_by: None,
        ended: None,
    };
    world.store.request(&stored)?;
    Ok((stored, warnings))
}

/// What a person should read of the parameters that are given.
///
/// # Errors
/// One is refused.
pub fn check_parameters(
    pipeline: &Pipeline,
    params: &IndexMap<String, Value>,
    strict: bool,
) -> Result<Vec<String>, RequestError> {
    let mut warnings = Vec::new();
    for name in params.keys() {
        if let Some(step) = pipeline.steps().iter().find(|step| step.sweep().contains_key(name)) {
            let message = format!("parameter `{name}` is swept by step `{}`", step.name());
            let hint = Some("edit the sweep in the file: a given value would undo it".into());
            return Err(RequestError::Refused { message, hint });
        }
        let own = pipeline.steps().iter().flat_map(|step| step.params().keys());
        let known: Vec<&String> = pipeline.params().keys().chain(own).collect();
        if known.contains(&name) {
            continue;
        }
        let message = format!("pipeline `{}` declares no parameter `{name}`", pipeline.name());
        let nearest = hints_nearest(name, known.iter().map(|name| name.as_str()));
        let hint = nearest.map(|name| format!("did you mean `{name}`?"));
        if strict {
            return Err(RequestError::Refused { message, hint });
        }
        warnings.push(hint.map_or_else(|| message.clone(), |hint| format!("{message}; {hint}")));
    }
    Ok(warnings)
}

/// What a retry from a step keeps, all of which is there.
fn keep(
    world: &mut World<'_>,
    pipeline: &Pipeline,
    again: &StoredRun,
    from: &str,
) -> Result<Vec<StepState>, RequestError> {
    let kept = kept(pipeline, &world.store.steps(&again.run.name)?, from)?;
    match missing(world.source, &kept) {
        None => Ok(kept),
        Some(message) => {
            let hint = Some("retry without --from".into());
            Err(RequestError::Refused { message, hint })
        }
    }
}

impl From<NotKept> for RequestError {
    fn from(NotKept { message, hint }: NotKept) -> Self {
        Self::Refused { message, hint: Some(hint) }
    }
}

/// Suspends a pipeline's triggers from now on, or resumes them. Says whether that changed anything.
///
/// # Errors
/// The store.
pub fn suspend(
    store: &mut dyn Store,
    id: &PipelineId,
    definition: Option<&FileText>,
    suspended: Option<Timestamp>,
    now: Timestamp,
) -> Result<bool, StoreError> {
    for _ in 0..TRIES {
        let row = store.pipelines()?.into_iter().find(|row| row.id == *id);
        let mut ledger = row.as_ref().map_or_else(Ledger::default, |row| row.ledger.clone());
        if ledger.suspended.is_some() == suspended.is_some() {
            return Ok(false);
        }
        if let (None, Some(text)) =
            (suspended, row.as_ref().and_then(|row| row.definition.as_ref()))
        {
            // Ticks of the suspension are skipped for good, also where nobody looked meanwhile.
            if let Some(pipeline) = text.pipeline(&id.name, usize::MAX) {
                let (schedules, blocked) =
                    (&pipeline.triggers().schedules, Some(Reason::Suspended));
                let ticks = advance_schedules(&mut ledger, schedules, blocked, now);
                record_ticks(&mut ledger, &ticks);
            }
        }
        ledger.suspended = suspended;
        let known = row.as_ref().and_then(|row| row.definition.as_ref());
        let written = store.commit(&Commit {
            id,
            version: row.as_ref().map(|row| row.version),
            ledger: &ledger,
            definition: known.or(definition),
            claims: Vec::new(),
            shown: None,
        });
        match written {
            Err(StoreError::Conflict) => {}
            other => return other.map(|()| true),
        }
    }
    Err(StoreError::Conflict)
}
