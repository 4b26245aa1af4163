//! The durable memory in a cluster: pipelines with their cursors, runs with their ends, as custom resources.
//!
//! Owns the order of writes, which is all that keeps a run one. Records come first, against the version of
//! the pipeline that was planned from; what executes them is made suspended; then one conditional write of
//! the pipeline's status advances the cursor and names what is active; only that begins. Each write may be
//! the last one of a process, may be repeated, and may meet another process that does the same.

use std::sync::Arc;

use kube::ResourceExt;

use super::cache::key_of;
use super::objects::{Key, Objects, Refused};
use super::records::{self, Claimed, claimed, pipeline_of, version};
use super::resources::{Execution, NotebookPipeline, NotebookRun, PipelineStatus};
use crate::plan::{Ledger, Phase, Run, StepRecord};
use crate::store::{
    Commit, Lease, RunSpec, Shown, StepState, Store, StoreError, StoredPipeline, StoredRun,
};
use crate::types::{PipelineId, RunName, Timestamp, TriggerKind};

/// A write that others came before is tried anew so often; then the next pass does.
const TRIES: usize = 5;
/// So many ended runs of a pipeline count for its plan.
const RECENT: usize = 200;

/// The memory. A copy knows the same.
#[derive(Clone)]
pub struct ClusterStore<O> {
    pub(super) objects: O,
    places: Places,
}

/// In which namespace pipelines are; none of a source that nobody serves.
pub type Places = Arc<dyn Fn(&PipelineId) -> Option<String> + Send + Sync>;

/// An error of a server while something was done.
fn failed(what: impl Into<String>) -> impl FnOnce(Refused) -> StoreError {
    let what = what.into();
    |refused| match refused {
        Refused::Conflict | Refused::Exists | Refused::Gone => StoreError::Conflict,
        Refused::Other(message) => StoreError::Cluster { what, message },
    }
}

impl<O: Objects> ClusterStore<O> {
    /// The memory of a cluster.
    pub fn new(objects: O, places: Places) -> Self {
        Self { objects, places }
    }

    /// The objects that it is made of.
    pub fn objects(&self) -> &O {
        &self.objects
    }

    /// The object of a pipeline, as far as it is known.
    pub fn object(&self, id: &PipelineId) -> Option<Arc<NotebookPipeline>> {
        self.known(id).ok()?.1
    }

    /// Where a pipeline's object is, or would be.
    pub(super) fn key(&self, id: &PipelineId) -> Result<Key, StoreError> {
        let lacking = || StoreError::Cluster {
            what: format!("find the namespace of pipeline {id}"),
            message: format!("source {} is not served", id.source),
        };
        let namespace = if records::is_by_hand(&id.source) {
            id.source.trim_end_matches("/-").to_owned()
        } else {
            (self.places)(id).ok_or_else(lacking)?
        };
        Ok(Key { namespace, name: records::object_name(id) })
    }

    /// A pipeline's object, where it is that pipeline's.
    fn known(&self, id: &PipelineId) -> Result<(Key, Option<Arc<NotebookPipeline>>), StoreError> {
        let key = self.key(id)?;
        let there = self.objects.pipeline(&key);
        match there {
            Some(object) if records::identity(&object).as_ref() != Some(id) => {
                Err(StoreError::Cluster {
                    what: format!("use {key} for pipeline {id}"),
                    message: "NameTaken: another pipeline has an object of that name".into(),
                })
            }
            there => Ok((key, there)),
        }
    }

    /// The record of a run with its pipeline.
    fn record(&self, name: &str) -> Option<(Arc<NotebookRun>, Arc<NotebookPipeline>)> {
        self.objects.runs_named(name).into_iter().find_map(|run| {
            let pipeline = self.objects.pipeline(&pipeline_of(&run))?;
            let id = records::identity(&pipeline)?;
            records::is_sound(&run, &id).then_some((run, pipeline))
        })
    }

    /// A run that counts: not the record of one that nobody claimed. One that its pipeline does not hold (any
    /// more) is read, since its end, which was written before that, may come later by the watch of runs.
    fn counted(
        &self,
        mut run: Arc<NotebookRun>,
        pipeline: &NotebookPipeline,
    ) -> Result<Option<StoredRun>, StoreError> {
        let at = version(&pipeline.metadata);
        if matches!(claimed(&run, Some(pipeline)), Claimed::Nobodys(planned) if at > Some(planned))
        {
            let key = key_of(&*run);
            let read = self.objects.read_run(&key).map_err(failed(format!("read run {key}")))?;
            let Some(read) = read else { return Ok(None) };
            run = read;
        }
        let nobodys = matches!(claimed(&run, Some(pipeline)), Claimed::Nobodys(_));
        Ok(records::stored_run(&run, pipeline).filter(|_| !nobodys))
    }

    /// Writes the record of a claim. Of one that is there already what it is counts, where it was planned
    /// from the same version.
    fn announce_one(
        &self,
        key: &Key,
        claim: &StoredRun,
        planned: i64,
    ) -> Result<Option<StoredRun>, StoreError> {
        let name = &claim.run.name;
        let own = || failed(format!("record run {name}"));
        let record = records::run(key, claim, Some(planned));
        for _ in 0..TRIES {
            match self.objects.create_run(&record) {
                Ok(_) => return Ok(Some(claim.clone())),
                Err(Refused::Exists) => {}
                Err(refused) => return Err(own()(refused)),
            }
            let at = Key { namespace: key.namespace.clone(), name: name.to_string() };
            let Some(there) = self.objects.read_run(&at).map_err(own())? else { continue };
            if there.spec.identity != claim.run.id || there.spec.pipeline != key.name {
                return Err(StoreError::NameTaken(name.clone()));
            }
            match claimed(&there, None) {
                Claimed::Nobodys(same) if same == planned => {
                    let pipeline = self.objects.pipeline(key);
                    let there = pipeline.and_then(|one| records::stored_run(&there, &one));
                    return there.map(Some).ok_or(StoreError::Conflict);
                }
                // Nobody claimed it while its version stood, so nobody will: it becomes ours.
                Claimed::Nobodys(older) if older < planned => {
                    let mut anew = record.clone();
                    anew.metadata.resource_version.clone_from(&there.metadata.resource_version);
                    match self.objects.replace_run(&anew) {
                        Ok(_) => return Ok(Some(claim.clone())),
                        Err(Refused::Conflict | Refused::Gone) => {}
                        Err(refused) => return Err(own()(refused)),
                    }
                }
                // It ran: where the cursor does not cover it, it does now.
                Claimed::Ended => return Ok(None),
                _ => return Err(StoreError::Conflict),
            }
        }
        Err(StoreError::Conflict)
    }

    /// Changes a run's record as it is on the server, however often others are first. Nothing where the
    /// change is none, or the record gone.
    fn change_run(
        &self,
        name: &RunName,
        write: impl Fn(&O, &NotebookRun) -> Result<Arc<NotebookRun>, Refused>,
        change: impl Fn(&NotebookRun, &NotebookPipeline) -> Option<NotebookRun>,
    ) -> Result<(), StoreError> {
        let Some((mut there, pipeline)) = self.record(name.as_str()) else { return Ok(()) };
        for _ in 0..TRIES {
            let Some(wanted) = change(&there, &pipeline) else { return Ok(()) };
            match write(&self.objects, &wanted) {
                Ok(_) | Err(Refused::Gone) => return Ok(()),
                Err(Refused::Conflict | Refused::Exists) => {}
                Err(refused) => return Err(failed(format!("write run {name}"))(refused)),
            }
            let read = self.objects.read_run(&key_of(&*there));
            match read.map_err(failed(format!("read run {name}")))? {
                Some(read) => there = read,
                None => return Ok(()),
            }
        }
        Err(StoreError::Conflict)
    }

    pub(super) fn write_status(
        &self,
        name: &RunName,
        of: impl Fn(&StoredRun) -> Option<(Run, Vec<StepRecord>)>,
    ) -> Result<(), StoreError> {
        let write = |objects: &O, wanted: &NotebookRun| objects.write_run(wanted);
        self.change_run(name, write, |there, pipeline| {
            let stored = records::stored_run(there, pipeline)?;
            // What ended stays as it ended.
            if stored.run.phase.is_ended() {
                return None;
            }
            let (run, steps) = of(&stored)?;
            // That it waits is known without a word.
            if run.phase == Phase::Pending
                && stored.run.phase == Phase::Pending
                && run.message.is_none()
            {
                return None;
            }
            let ended = run.phase.is_ended().then(|| self.next_end(pipeline));
            let handle = stored.spec.handle.as_deref();
            let mut status = records::status(&run, &steps, handle, ended);
            status.whole &= there.status.as_ref().is_none_or(|it| it.whole || it.steps.is_empty());
            let same = there.status.as_ref() == Some(&status);
            (!same).then(|| NotebookRun { status: Some(status), ..there.clone() })
        })
    }

    /// The place of the next end among those of a pipeline.
    fn next_end(&self, pipeline: &NotebookPipeline) -> u64 {
        let status = pipeline.status.clone().unwrap_or_default();
        let runs = self.objects.runs_of(&key_of(pipeline));
        let known = runs.iter().filter_map(|run| run.status.as_ref()?.ended);
        let success = status.cursors.and_then(|cursors| cursors.success).map(|one| one.ordinal);
        known.chain(success).chain([status.ends]).max().unwrap_or(0) + 1
    }

    /// The status of a pipeline with what its records and the plan say.
    pub(super) fn status_with(
        &self,
        key: &Key,
        pipeline: &NotebookPipeline,
        claims: &[StoredRun],
        shown: Option<&Shown>,
    ) -> PipelineStatus {
        let mut status = pipeline.status.clone().unwrap_or_default();
        let runs = self.objects.runs_of(key);
        for run in &runs {
            let Some(end) =
                run.status.as_ref().filter(|one| one.phase.is_some_and(Phase::is_ended))
            else {
                continue;
            };
            status.active.remove(&run.name_any());
            status.ends = status.ends.max(end.ended.unwrap_or(0));
        }
        for claim in claims {
            let handle = claim.spec.handle.clone().unwrap_or_default();
            status.active.insert(claim.run.name.to_string(), handle);
        }
        let newest = runs.iter().filter(|run| {
            !matches!(claimed(run, Some(pipeline)), Claimed::Nobodys(_) | Claimed::Requested)
        });
        let newest = newest.map(|run| (records::created(run), run.name_any()));
        let claims = claims.iter().map(|run| (run.run.created_at, run.run.name.to_string()));
        if let Some((_, name)) = newest.chain(claims).max() {
            status.last_run = RunName::from_stored(&name).ok();
        }
        if let Some(shown) = shown {
            status.observed_generation = pipeline.metadata.generation;
            status.trigger = Some(shown.triggers.clone());
            status.next_run = shown.next_run;
            records::say_ready(
                &mut status.conditions,
                shown.ready,
                (&shown.reason.to_string(), &shown.message),
                pipeline.metadata.generation,
                shown.at,
            );
        }
        status
    }

    pub(super) fn write_pipeline(
        &self,
        pipeline: &NotebookPipeline,
        status: PipelineStatus,
    ) -> Result<Arc<NotebookPipeline>, StoreError> {
        let wanted = NotebookPipeline { status: Some(status), ..pipeline.clone() };
        let key = key_of(pipeline);
        self.objects.write_pipeline(&wanted).map_err(failed(format!("write pipeline {key}")))
    }
}

fn records_of(steps: &[&StepState]) -> Vec<StepRecord> {
    steps.iter().map(|state| state.record.clone()).collect()
}

impl<O: Objects> Store for ClusterStore<O> {
    fn pipelines(&self) -> Result<Vec<StoredPipeline>, StoreError> {
        let all = self.objects.pipelines();
        let known = all.iter().filter_map(|object| {
            let known = records::stored_pipeline(object)?;
            self.is_its_own(&known.id, object).then_some(known)
        });
        Ok(known.collect())
    }

    fn runs_of(&self, id: &PipelineId) -> Result<Vec<StoredRun>, StoreError> {
        // What cannot be kept has no runs.
        let Ok((key, Some(pipeline))) = self.known(id) else { return Ok(Vec::new()) };
        let mut runs = self.objects.runs_of(&key);
        // What is active counts, also where its record is not known here yet.
        for name in pipeline.status.iter().flat_map(|status| status.active.keys()) {
            if !runs.iter().any(|run| run.name_any() == *name) {
                let at = Key { namespace: key.namespace.clone(), name: name.clone() };
                let read = self.objects.read_run(&at);
                runs.extend(read.map_err(failed(format!("read run {name}")))?);
            }
        }
        let (mut ended, mut open) = (Vec::new(), Vec::new());
        for run in runs {
            // One that cannot be read holds up no other.
            let Ok(Some(stored)) = self.counted(run, &pipeline) else { continue };
            if stored.run.phase.is_ended() { &mut ended } else { &mut open }.push(stored);
        }
        open.sort_by(|a, b| order(&a.run).cmp(&order(&b.run)));
        ended.sort_by_key(|stored| std::cmp::Reverse(stored.ended));
        ended.truncate(RECENT);
        open.extend(ended);
        Ok(open)
    }

    fn runs(&self, limit: usize) -> Result<Vec<StoredRun>, StoreError> {
        let mut known = Vec::new();
        for run in self.objects.runs() {
            let Some(pipeline) = self.objects.pipeline(&pipeline_of(&run)) else { continue };
            known.extend(self.counted(run, &pipeline).ok().flatten());
        }
        known.sort_by(|a, b| order(&b.run).cmp(&order(&a.run)));
        known.truncate(limit);
        Ok(known)
    }

    fn busy_pipelines(&self) -> Result<Vec<PipelineId>, StoreError> {
        let runs = self.objects.runs();
        let busy = runs.iter().filter_map(|run| {
            let pipeline = self.objects.pipeline(&pipeline_of(run))?;
            match claimed(run, Some(&pipeline)) {
                Claimed::Active(_) | Claimed::Requested => records::identity(&pipeline),
                Claimed::Ended | Claimed::Nobodys(_) => None,
            }
        });
        Ok(busy.collect::<std::collections::BTreeSet<_>>().into_iter().collect())
    }

    fn is_in_place(&self) -> bool {
        true
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn lease(&self, _: &str) -> Result<Option<Lease>, StoreError> {
        Ok(None)
    }

    fn hold(&mut self, _: &str, _: Option<i64>) -> Result<bool, StoreError> {
        Ok(true)
    }

    fn release(&mut self, _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    fn pulse(&self) -> Result<i64, StoreError> {
        Ok(self.objects.pulse())
    }

    fn run(&self, name: &str) -> Result<Option<StoredRun>, StoreError> {
        self.record(name).map_or(Ok(None), |(run, pipeline)| self.counted(run, &pipeline))
    }

    fn announces(&self) -> bool {
        true
    }

    fn announce(&mut self, commit: &mut Commit<'_>) -> Result<Option<Ledger>, StoreError> {
        let id = commit.id;
        let (key, there) = self.known(id)?;
        let known = there.as_ref().and_then(|there| version(&there.metadata));
        if known != commit.version {
            return Err(StoreError::Conflict);
        }
        let same = there.as_ref().is_some_and(|there| {
            commit.definition.is_none()
                || !records::is_written_here(there)
                || records::file_of(there).as_ref() == commit.definition
        });
        // What was answered is gone on with, never what is known meanwhile: that was not planned from.
        let mut current = there.clone();
        if let Some(file) = commit.definition.filter(|_| !same) {
            let broken =
                |message| StoreError::Cluster { what: format!("keep pipeline {id}"), message };
            let mut wanted = records::pipeline(&key, id, file).map_err(broken)?;
            let written = match &there {
                None => self.objects.create_pipeline(&wanted),
                Some(there) => {
                    wanted.metadata.resource_version.clone_from(&there.metadata.resource_version);
                    self.objects.apply_pipeline(&wanted)
                }
            };
            current = Some(written.map_err(failed(format!("write pipeline {key}")))?);
        }
        let mut current = current.ok_or(StoreError::Conflict)?;
        // Cursors stand before the first claim: one that has records and no cursors had a former life.
        let status = current.status.clone().unwrap_or_default();
        let former = |runs: Vec<Arc<NotebookRun>>| {
            runs.iter().any(|run| claimed(run, None) != Claimed::Requested)
        };
        if status.cursors.is_none() && former(self.objects.runs_of(&key)) {
            return Err(StoreError::Conflict);
        }
        if status.cursors.is_none() && !commit.claims.is_empty() {
            let status = PipelineStatus { cursors: Some(Ledger::default()), ..status };
            current = self.write_pipeline(&current, status)?;
        }
        commit.version = version(&current.metadata);
        let planned = commit.version.ok_or(StoreError::Conflict)?;
        let mut other: Option<Ledger> = None;
        let mut claims = Vec::new();
        for claim in std::mem::take(&mut commit.claims) {
            let Some(announced) = self.announce_one(&key, &claim, planned)? else { continue };
            let changed = claim.run.trigger.kind == TriggerKind::Change
                && announced.spec.fingerprint != claim.spec.fingerprint;
            if let Some(recorded) = announced.spec.fingerprint.clone().filter(|_| changed) {
                let ledger = other.get_or_insert_with(|| commit.ledger.clone());
                ledger.change.accepted = Some(Arc::new(recorded));
            }
            claims.push(announced);
        }
        commit.claims = claims;
        Ok(other)
    }

    fn shows(&self, id: &PipelineId, shown: &Shown) -> bool {
        let Ok((key, Some(pipeline))) = self.known(id) else { return true };
        let wanted = self.status_with(&key, &pipeline, &[], Some(shown));
        pipeline.status.as_ref() == Some(&wanted)
    }

    fn commit(&mut self, commit: &Commit<'_>) -> Result<(), StoreError> {
        // What is not announced yet, such as a suspension, is so now.
        let mut own = Commit { claims: Vec::new(), shown: None, ..*commit };
        self.announce(&mut own)?;
        let (key, there) = self.known(commit.id)?;
        let there = there.filter(|there| version(&there.metadata) == own.version);
        let there = there.ok_or(StoreError::Conflict)?;
        let shown = commit.shown.as_ref();
        let mut status = self.status_with(&key, &there, &commit.claims, shown);
        status.cursors = Some(records::kept(commit.ledger));
        self.write_pipeline(&there, status).map(|_| ())
    }

    fn request(&mut self, run: &StoredRun) -> Result<(), StoreError> {
        let key = self.key(&run.pipeline)?;
        let record = records::run(&key, run, None);
        let name = &run.run.name;
        let own = || failed(format!("record run {name}"));
        match self.objects.create_run(&record) {
            Ok(_) => {}
            Err(Refused::Exists) => {
                let at = Key { namespace: key.namespace, name: name.to_string() };
                let there = self.objects.read_run(&at).map_err(own())?;
                if there.is_some_and(|there| there.spec.identity != run.run.id) {
                    return Err(StoreError::NameTaken(name.clone()));
                }
            }
            Err(refused) => return Err(own()(refused)),
        }
        Ok(())
    }

    fn request_stop(&mut self, run: &RunName, by: Option<&RunName>) -> Result<(), StoreError> {
        let write = |objects: &O, wanted: &NotebookRun| objects.replace_run(wanted);
        self.change_run(run, write, |there, _| {
            // The first who wants it gives the reason.
            (!there.spec.stop).then(|| {
                let mut wanted = there.clone();
                wanted.spec.stop = true;
                wanted.spec.stopped_by = by.cloned();
                wanted
            })
        })
    }

    fn update_run(&mut self, run: &Run) -> Result<(), StoreError> {
        self.write_status(&run.name, |stored| Some((run.clone(), stored.run.steps.clone())))
    }

    fn update_stand(&mut self, run: &Run, steps: &[&StepState]) -> Result<(), StoreError> {
        self.write_status(&run.name, |_| Some((run.clone(), records_of(steps))))
    }

    /// The handle is kept in the pipeline's status, where claims are; all else in the record.
    fn update_spec(&mut self, run: &Run, spec: &RunSpec) -> Result<bool, StoreError> {
        let (run, revision) = (&run.name, &run.revision);
        let own = || failed(format!("claim run {run}"));
        for _ in 0..TRIES {
            let Some((known, pipeline)) = self.record(run.as_str()) else { return Ok(false) };
            // Its end, or its removal, may not be known here yet: the pipeline's version first, then the
            // record past all that is known, and a write against that version.
            let read = self.objects.read_run(&key_of(&*known)).map_err(own())?;
            let Some(there) = read else { return Ok(false) };
            let kept = match claimed(&there, Some(&pipeline)) {
                Claimed::Ended | Claimed::Nobodys(_) => return Ok(false),
                Claimed::Active(handle) => handle,
                Claimed::Requested => None,
            };
            if kept.is_some() && kept != spec.handle {
                return Ok(false);
            }
            let execution = there.spec.execution.as_ref();
            let mut wanted = RunSpec { handle: None, ..spec.clone() };
            // They are long, and no record has them.
            wanted.fingerprint.iter_mut().for_each(|one| one.outlines.clear());
            let known = execution.filter(|execution| !execution.revision.is_empty());
            let differs = |it: &Execution| records::differs(&it.spec, &wanted);
            let other = |it: &Execution| it.revision != *revision || differs(it);
            if known.is_some_and(other) {
                // Somebody said already what it executes, which is not known here yet.
                return Err(StoreError::Conflict);
            }
            if known.is_none() {
                let mut anew = (*there).clone();
                let (revision, created_at) = (revision.clone(), records::created(&there));
                let spec = wanted;
                anew.spec.execution = Some(Execution { revision, created_at, spec });
                match self.objects.replace_run(&anew) {
                    Ok(_) => {}
                    Err(Refused::Conflict | Refused::Gone) => continue,
                    Err(refused) => return Err(own()(refused)),
                }
            }
            if kept == spec.handle && matches!(claimed(&there, Some(&pipeline)), Claimed::Active(_))
            {
                return Ok(true);
            }
            let mut status = pipeline.status.clone().unwrap_or_default();
            status.active.insert(run.to_string(), spec.handle.clone().unwrap_or_default());
            match self.write_pipeline(&pipeline, status) {
                Ok(_) => return Ok(true),
                Err(StoreError::Conflict) => {
                    self.objects.read_pipeline(&key_of(&*pipeline)).map_err(own())?;
                }
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Conflict)
    }

    fn is_whole(&self, run: &RunName) -> bool {
        let known = self.record(run.as_str());
        known.is_some_and(|(run, _)| run.status.as_ref().is_some_and(|status| status.whole))
    }

    fn steps(&self, run: &RunName) -> Result<Vec<StepState>, StoreError> {
        let Some((record, _)) = self.record(run.as_str()) else { return Ok(Vec::new()) };
        let steps = record.status.clone().unwrap_or_default().steps;
        let state = |record| StepState { record, failures: 0, interruptions: 0 };
        Ok(steps.into_iter().map(state).collect())
    }

    fn update_steps(&mut self, run: &RunName, steps: &[&StepState]) -> Result<(), StoreError> {
        self.write_status(run, |stored| {
            let mut all = stored.run.steps.clone();
            for step in steps {
                match all.iter_mut().find(|known| known.name == step.record.name) {
                    Some(known) => known.clone_from(&step.record),
                    None => all.push(step.record.clone()),
                }
            }
            (all != stored.run.steps).then(|| (stored.run.clone(), all))
        })
    }

    fn forget(&mut self, runs: &[RunName]) -> Result<(), StoreError> {
        for name in runs {
            let Some((run, pipeline)) = self.record(name.as_str()) else { continue };
            // While its pipeline calls it active its end is not taken note of yet.
            let active =
                pipeline.status.as_ref().is_some_and(|one| one.active.contains_key(name.as_str()));
            if active || claimed(&run, Some(&pipeline)) != Claimed::Ended {
                continue;
            }
            match self.objects.delete_run(&run) {
                Ok(()) | Err(Refused::Gone | Refused::Conflict | Refused::Exists) => {}
                Err(refused) => return Err(failed(format!("remove run {name}"))(refused)),
            }
        }
        Ok(())
    }
}

/// The order of claims.
fn order(run: &Run) -> (Timestamp, &RunName) {
    (run.created_at, &run.name)
}
