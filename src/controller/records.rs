//! Pipelines and runs as objects of a cluster, and back.
//!
//! Owns where each thing is kept: identity and file in annotations, the file's keys in the spec, cursors and
//! ends in the status. Pure: what is written when is the store's to say.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use kube::api::ObjectMeta;
use serde_json::{Map, Value};

use super::objects::Key;
use super::resources::{
    Execution, NotebookPipeline, NotebookPipelineSpec, NotebookRun, NotebookRunSpec, RunStatus,
};
use crate::plan::{Ledger, Phase, Run, StepRecord};
use crate::spec::{document, text_of};
use crate::store::{EngineName, FileText, RunSpec, StoredPipeline, StoredRun};
use crate::types::{
    Digest, PipelineId, PipelineName, RunId, RunName, Timestamp, TriggerKind, slug,
};

/// The annotation with a pipeline's source.
pub const SOURCE: &str = "jupyterflow.io/source";
/// The annotation with the folder of its file.
pub const FOLDER: &str = "jupyterflow.io/folder";
/// The annotation with its file.
pub const FILE: &str = "jupyterflow.io/file";
/// The annotation with what whoever published a pipeline saw of its files.
pub const PUBLISHED: &str = "jupyterflow.io/published";
/// The annotation by which people suspend a pipeline: `true`.
pub const SUSPEND: &str = "jupyterflow.io/suspend";
/// The annotation by which people ask for runs of past instants: `FROM..TO`. It goes once they are claimed.
pub const BACKFILL: &str = "jupyterflow.io/backfill";
/// The annotation by which a run that is asked for names the step from which it repeats another.
pub const FROM: &str = "jupyterflow.io/from";
/// The annotation of a run with the version of its pipeline that it was planned from.
pub const PLANNED: &str = "jupyterflow.io/planned-from";
/// Of how many bytes of notebooks' code a cursor keeps the text, to say later what changed.
const REMEMBERED: usize = 64 << 10;
/// The most bytes that an end may take.
pub const LONGEST_END: usize = 64 << 10;

/// The version of an object. A server counts them up, which Kubernetes promises since 1.35 and etcd always
/// did.
pub fn version(metadata: &ObjectMeta) -> Option<i64> {
    metadata.resource_version.as_deref()?.parse().ok()
}

/// The name of a pipeline's object: `NAME-` and eight digits of its folder; of one made by hand its name.
pub fn object_name(id: &PipelineId) -> String {
    if is_by_hand(&id.source) {
        return id.name.to_string();
    }
    // Of a source with several branches each has pipelines of its own, and so has each home of a namespace.
    let own = id.source.split_once('@').or_else(|| id.source.split_once("/~"));
    let place = match own {
        Some((_, own)) => format!("{}@{own}", id.folder),
        None => id.folder.clone(),
    };
    format!("{}-{}", id.name, &Digest::of_bytes(place.as_bytes()).hex()[..8])
}

/// The name of a source without its branch, which may hold anything.
pub fn bare(source: &str) -> &str {
    source.split_once('@').map_or(source, |(name, _)| name)
}

/// The source of pipelines that people made in a namespace themselves.
pub fn by_hand(namespace: &str) -> String {
    format!("{namespace}/-")
}

/// Whether a source is that of pipelines that people made themselves.
pub fn is_by_hand(source: &str) -> bool {
    bare(source).ends_with("/-")
}

fn annotation<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Which pipeline an object is; none where its name is none of a pipeline.
pub fn identity(object: &NotebookPipeline) -> Option<PipelineId> {
    let namespace = object.metadata.namespace.as_deref()?;
    let Some(source) = annotation(&object.metadata, SOURCE) else {
        // Its object alone says which it is.
        let name: PipelineName = object.metadata.name.as_deref()?.parse().ok()?;
        return Some(PipelineId { source: by_hand(namespace), folder: String::new(), name });
    };
    // Whoever may write here speaks for this namespace alone. Of one that serves several, who asks compares.
    if bare(source).split_once('/').is_some_and(|(other, _)| other != namespace) {
        return None;
    }
    let named = object.spec.rest.get("name").and_then(Value::as_str);
    let name: PipelineName = named?.parse().ok()?;
    let folder = annotation(&object.metadata, FOLDER).unwrap_or_default().to_owned();
    Some(PipelineId { source: source.to_owned(), folder, name })
}

/// The file of a pipeline: as it was written, or what the object's spec says.
pub fn file_of(object: &NotebookPipeline) -> Option<FileText> {
    if let Some(text) = annotation(&object.metadata, FILE) {
        return serde_json::from_str(text).ok();
    }
    let Ok(Value::Object(mut keys)) = serde_json::to_value(&object.spec) else { return None };
    let id = identity(object)?;
    keys.insert("name".into(), id.name.as_str().into());
    let file = format!("{}.json", id.name);
    Some(FileText { file, folder: String::new(), text: text_of(&keys) })
}

/// Whether a source of this controller writes the object's spec: not of what people make or publish
/// themselves.
pub fn is_written_here(object: &NotebookPipeline) -> bool {
    annotation(&object.metadata, FILE).is_some()
        && annotation(&object.metadata, PUBLISHED).is_none()
}

/// A pipeline as the loop knows it; none where its object is none that we can read.
pub fn stored_pipeline(object: &NotebookPipeline) -> Option<StoredPipeline> {
    let status = object.status.as_ref();
    Some(StoredPipeline {
        id: identity(object)?,
        version: version(&object.metadata)?,
        ledger: status.and_then(|status| status.cursors.clone()).unwrap_or_default(),
        definition: file_of(object),
    })
}

/// The cursors as they are kept: of long notebooks without their text.
pub fn kept(ledger: &Ledger) -> Ledger {
    let mut kept = ledger.clone();
    if let Some(accepted) = &mut kept.change.accepted {
        let long = serde_json::to_string(&accepted.outlines).map_or(0, |text| text.len());
        if long > REMEMBERED {
            std::sync::Arc::make_mut(accepted).outlines.clear();
        }
    }
    kept
}

/// What a source says of a pipeline, as an object without a status.
///
/// # Errors
/// In words: the file does not hold it, or is too long to be kept.
pub fn pipeline(key: &Key, id: &PipelineId, file: &FileText) -> Result<NotebookPipeline, String> {
    let keys: Map<String, Value> = document(&file.text, &id.name)
        .ok_or_else(|| format!("{} does not hold pipeline {}", file.file, id.name))?;
    let spec: NotebookPipelineSpec =
        serde_json::from_value(Value::Object(keys)).map_err(|error| error.to_string())?;
    let text = serde_json::to_string(file).map_err(|error| error.to_string())?;
    // All annotations of an object have 256 KiB.
    if text.len() > 200 << 10 {
        return Err(format!("{} is longer than an object of a cluster can be", file.file));
    }
    let mut object = NotebookPipeline::new(&key.name, spec);
    object.metadata.namespace = Some(key.namespace.clone());
    let annotations = [(SOURCE, id.source.clone()), (FOLDER, id.folder.clone()), (FILE, text)];
    let annotations = annotations.map(|(name, value)| (name.to_owned(), value));
    object.metadata.annotations = Some(annotations.into());
    object.metadata.labels = Some(labels_of(id));
    Ok(object)
}

/// The labels of a run.
pub fn labels(id: &PipelineId, trigger: TriggerKind) -> BTreeMap<String, String> {
    let mut labels = labels_of(id);
    labels.insert("jupyterflow.io/trigger".into(), trigger.word().into());
    labels
}

fn labels_of(id: &PipelineId) -> BTreeMap<String, String> {
    let owner = id.folder.split('/').next().unwrap_or_default();
    let all = [
        ("app.kubernetes.io/managed-by", "jupyterflow".to_owned()),
        ("jupyterflow.io/pipeline", id.name.to_string()),
        ("jupyterflow.io/source", slug(&id.source, 63)),
        ("jupyterflow.io/owner", slug(owner, 63)),
    ];
    let all = all.into_iter().filter(|(_, value)| !value.is_empty());
    all.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Says among conditions whether an object is as it should be, by the conventions of Kubernetes: when that
/// last changed stays.
pub fn say_ready(
    conditions: &mut Vec<Condition>,
    is: bool,
    (reason, message): (&str, &str),
    generation: Option<i64>,
    now: Timestamp,
) {
    let status = if is { "True" } else { "False" };
    let before = conditions.iter().find(|one| one.type_ == "Ready" && one.status == status);
    let ready = Condition {
        type_: "Ready".into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: before
            .map_or(Time(now), |before| before.last_transition_time.clone()),
    };
    conditions.retain(|one| one.type_ != ready.type_);
    conditions.push(ready);
}

/// Where a run stands with regard to its pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// Its end is recorded.
    Ended,
    /// It is claimed, with what executes it.
    Active(Option<String>),
    /// Somebody asks for it.
    Requested,
    /// A record that no cursor covers, or no longer: nobody's. With the version that it was planned from.
    Nobodys(i64),
}

/// Where a run stands, as its pipeline's status says.
pub fn claimed(run: &NotebookRun, pipeline: Option<&NotebookPipeline>) -> Claimed {
    let phase = run.status.as_ref().and_then(|status| status.phase);
    if phase.is_some_and(Phase::is_ended) {
        return Claimed::Ended;
    }
    let active = pipeline.and_then(|pipeline| pipeline.status.as_ref()).map(|one| &one.active);
    if let Some(handle) = active.and_then(|active| active.get(&run.name_any())) {
        return Claimed::Active(Some(handle.clone()).filter(|handle| !handle.is_empty()));
    }
    match annotation(&run.metadata, PLANNED) {
        Some(version) => Claimed::Nobodys(version.parse().unwrap_or(i64::MAX)),
        None => Claimed::Requested,
    }
}

/// Whether a record is of the pipeline that it names: nobody else's name, nor another identity.
pub fn is_sound(run: &NotebookRun, id: &PipelineId) -> bool {
    let trigger = &run.spec.trigger;
    let own = RunId::new(id, trigger.kind, &trigger.key);
    let name = own.name(&id.name, trigger.scheduled_at);
    own == run.spec.identity && run.name_any() == name.as_str()
}

/// The pipeline that a record names.
pub fn pipeline_of(run: &NotebookRun) -> Key {
    Key { namespace: run.namespace().unwrap_or_default(), name: run.spec.pipeline.clone() }
}

/// Whether what a run executes is another, but for what its record leaves out.
pub fn differs(kept: &RunSpec, wanted: &RunSpec) -> bool {
    let digest = |spec: &RunSpec| spec.fingerprint.as_ref().map(|one| one.digest.clone());
    kept.definition != wanted.definition
        || digest(kept) != digest(wanted)
        || kept.kept != wanted.kept
}

/// A run as the loop knows it; none where its record is not sound.
pub fn stored_run(run: &NotebookRun, pipeline: &NotebookPipeline) -> Option<StoredRun> {
    let id = identity(pipeline)?;
    if !is_sound(run, &id) {
        return None;
    }
    let name = RunName::from_stored(&run.name_any()).ok()?;
    let status = run.status.clone().unwrap_or_default();
    let created = run.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let execution = match &run.spec.execution {
        Some(execution) => execution.clone(),
        None => Execution {
            revision: String::new(),
            created_at: created.unwrap_or_default(),
            spec: asked_for(run, pipeline)?,
        },
    };
    let handle = match claimed(run, Some(pipeline)) {
        Claimed::Active(handle) => handle,
        Claimed::Ended => status.workflow.clone(),
        Claimed::Requested | Claimed::Nobodys(_) => None,
    };
    Some(StoredRun {
        run: Run {
            id: run.spec.identity.clone(),
            name,
            pipeline: id.name.to_string(),
            source: id.source.clone(),
            revision: execution.revision,
            trigger: run.spec.trigger.clone(),
            phase: status.phase.unwrap_or(Phase::Pending),
            reason: status.reason,
            message: status.message,
            params: run.spec.params.clone(),
            created_at: execution.created_at,
            started_at: status.started_at,
            finished_at: status.finished_at,
            steps: status.steps,
        },
        spec: RunSpec { handle, ..execution.spec },
        pipeline: id,
        stop_requested: run.spec.stop,
        stopped_by: run.spec.stopped_by.clone(),
        ended: status.ended,
    })
}

fn asked_for(run: &NotebookRun, pipeline: &NotebookPipeline) -> Option<RunSpec> {
    let cursors = pipeline.status.as_ref().and_then(|status| status.cursors.as_ref());
    let accepted = cursors.and_then(|cursors| cursors.change.accepted.as_deref());
    Some(RunSpec {
        definition: file_of(pipeline)?,
        max_points: 100,
        // Of all else it takes what the files are when it begins.
        fingerprint: accepted.filter(|one| one.has_manifests()).cloned(),
        because: vec!["asked for".into()],
        from: annotation(&run.metadata, FROM).map(str::to_owned),
        // Its claim says what that is.
        kept: Vec::new(),
        backfill: false,
        engine: EngineName::Argo,
        handle: None,
    })
}

/// The record of a run. One that a trigger wants carries the version of its pipeline that it was planned
/// from; one that a person asks for does not.
pub fn run(key: &Key, stored: &StoredRun, planned_from: Option<i64>) -> NotebookRun {
    let mut spec = RunSpec { handle: None, ..stored.spec.clone() };
    let digest = spec.fingerprint.as_ref().map(|one| one.digest.clone());
    // They are long, and what changed is said in words already.
    if let Some(fingerprint) = &mut spec.fingerprint {
        fingerprint.outlines.clear();
    }
    let run = &stored.run;
    let spec = NotebookRunSpec {
        pipeline: key.name.clone(),
        identity: run.id.clone(),
        trigger: run.trigger.clone(),
        params: run.params.clone(),
        stop: stored.stop_requested,
        stopped_by: stored.stopped_by.clone(),
        digest,
        execution: Some(Execution {
            revision: run.revision.clone(),
            created_at: run.created_at,
            spec,
        }),
    };
    let mut object = NotebookRun::new(run.name.as_str(), spec);
    object.metadata.namespace = Some(key.namespace.clone());
    object.metadata.labels = Some(labels(&stored.pipeline, run.trigger.kind));
    let planned = planned_from.map(|version| (PLANNED.to_owned(), version.to_string()));
    object.metadata.annotations = planned.map(|one| BTreeMap::from([one]));
    object
}

/// Where a run stands, as its record says it, cut where it is too long for one.
pub fn status(
    run: &Run,
    steps: &[StepRecord],
    handle: Option<&str>,
    ended: Option<u64>,
) -> RunStatus {
    let mut status = RunStatus {
        phase: Some(run.phase),
        reason: run.reason.clone(),
        message: run.message.clone(),
        workflow: handle.map(str::to_owned),
        started_at: run.started_at,
        finished_at: run.finished_at,
        ended,
        steps: steps.to_vec(),
        whole: true,
    };
    for step in &mut status.steps {
        step.outputs.values_mut().for_each(as_kept);
        step.params.iter_mut().flat_map(IndexMap::values_mut).for_each(as_kept);
    }
    cut(&mut status);
    status
}

/// A server keeps `1.0` as `1`: what is written is compared with what is kept.
#[expect(clippy::cast_possible_truncation, reason = "only of whole numbers that fit")]
fn as_kept(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let whole = number.as_f64().filter(|one| number.is_f64() && one.fract() == 0.0);
            if let Some(whole) = whole.filter(|one| one.abs() < 1e15) {
                *value = (whole as i64).into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(as_kept),
        Value::Object(keys) => keys.values_mut().for_each(as_kept),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// Leaves of a long end first what nobody chose, then long values, each by its digest.
fn cut(status: &mut RunStatus) {
    let long = |status: &RunStatus| {
        serde_json::to_string(status).map_or(0, |text| text.len()) > LONGEST_END
    };
    if !long(status) {
        return;
    }
    status.whole = false;
    for step in status.steps.iter_mut().filter(|step| step.index.is_some()) {
        if step.selected != Some(Value::Bool(true)) {
            step.outputs.clear();
            step.artifacts.clear();
            step.params = None;
            step.message = None;
        }
    }
    for most in [4096, 256, 64] {
        if !long(status) {
            return;
        }
        for step in &mut status.steps {
            for value in step.outputs.values_mut() {
                let text = value.to_string();
                if text.len() > most {
                    *value = Digest::of_bytes(text.as_bytes()).to_string().into();
                }
            }
            step.message = step.message.take().map(|text| text.chars().take(most).collect());
        }
    }
    if long(status) {
        status.steps.retain(|step| step.index.is_none());
    }
    if long(status) {
        for step in &mut status.steps {
            step.outputs.clear();
            step.artifacts.clear();
        }
    }
}

/// When a record was made, for order.
pub fn created(run: &NotebookRun) -> Timestamp {
    let execution = run.spec.execution.as_ref().map(|one| one.created_at);
    let own = || run.metadata.creation_timestamp.as_ref().map(|time| time.0);
    execution.or_else(own).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(namespace: &str, name: &str, source: Option<&str>) -> NotebookPipeline {
        let mut annotations = json!({FOLDER: "f"});
        if let Some(source) = source {
            annotations[SOURCE] = source.into();
        }
        serde_json::from_value(json!({
            "apiVersion": "jupyterflow.io/v1alpha1", "kind": "NotebookPipeline",
            "metadata": {"namespace": namespace, "name": name, "annotations": annotations},
            "spec": {"name": "churn", "flow": "a.py"},
        }))
        .unwrap()
    }

    #[test]
    fn an_object_speaks_for_its_own_namespace_only() {
        let source = |namespace: &str, source| {
            identity(&object(namespace, "churn-1", source)).map(|id| id.source)
        };
        assert_eq!(source("ann", Some("ann/homes")).as_deref(), Some("ann/homes"));
        assert_eq!(source("ann", Some("ann/~ann-1")).as_deref(), Some("ann/~ann-1"));
        for forged in ["ann/homes", "ann/~ann-1", "ann/-"] {
            assert_eq!(source("bob", Some(forged)), None);
        }
        // By hand its own name counts, whatever its spec says.
        let by_hand = identity(&object("ann", "prod", None)).unwrap();
        assert_eq!((by_hand.source.as_str(), by_hand.name.as_str()), ("ann/-", "prod"));
    }

    #[test]
    fn long_ends_are_cut_and_whole_numbers_are_kept_as_a_server_keeps_them() {
        let step = |name: &str, index: Option<usize>, text: &str| -> StepRecord {
            let mut step = StepRecord::pending(name, index, String::new());
            step.outputs.insert("text".into(), text.into());
            step.outputs.insert("one".into(), json!(1.0));
            step.metrics.insert("auc".into(), 0.5);
            step
        };
        let id = identity(&object("ann", "p", None)).unwrap();
        let own = RunId::new(&id, crate::types::TriggerKind::Change, "1");
        let name = own.name(&id.name, None);
        let trigger = crate::plan::Trigger {
            kind: crate::types::TriggerKind::Change,
            key: "1".into(),
            scheduled_at: None,
            retry_of: None,
        };
        let at = Timestamp::UNIX_EPOCH;
        let run =
            Run::claimed(&id, (own, name), trigger, String::new(), indexmap::IndexMap::new(), at);
        let long = "x".repeat(30_000);
        let steps: Vec<StepRecord> = (0..90)
            .map(|index| step("train", Some(index), &long))
            .chain([step("train", None, &long)])
            .collect();
        let kept = status(&run, &steps, None, Some(3));
        let size = serde_json::to_string(&kept).unwrap().len();
        assert!(size <= LONGEST_END, "{size}");
        // Points keep their number, phase and metrics.
        assert_eq!(kept.steps.len(), 91);
        assert_eq!((kept.steps[7].index, kept.steps[7].metrics["auc"]), (Some(7), 0.5));
        assert_eq!(kept.steps[90].outputs["one"].to_string(), "1");
    }
}
