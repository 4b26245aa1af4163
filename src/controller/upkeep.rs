//! What keeps the memory of a cluster in order between passes.
//!
//! Owns four things: what people say by annotations, cursors that were lost, records that nobody claimed, and runs
//! whose records are gone.

use kube::ResourceExt;

use super::cache::key_of;
use super::objects::{Key, Objects, Refused};
use super::records::{self, Claimed, claimed, pipeline_of, version};
use super::resources::NotebookPipeline;
use super::store::ClusterStore;
use crate::plan::{Ledger, Phase, Reason, rebuilt};
use crate::store::{Shown, StoreError};
use crate::types::{PipelineId, Timestamp};

impl<O: Objects> ClusterStore<O> {
    /// Whether an object is where that pipeline's is: what one says of itself counts only there.
    pub(super) fn is_its_own(&self, id: &PipelineId, object: &NotebookPipeline) -> bool {
        self.key(id).is_ok_and(|key| key == key_of(object))
    }

    /// The pipelines whose annotation says another thing than their cursors: whether they are to be suspended.
    pub fn suspended(&self) -> Vec<(PipelineId, bool)> {
        let all = self.objects.pipelines();
        let asked = all.iter().filter_map(|pipeline| {
            let word = pipeline.annotations().get(records::SUSPEND).map(String::as_str);
            let wanted = word == Some("true");
            let cursors = pipeline.status.as_ref()?.cursors.as_ref()?;
            let id = records::identity(pipeline)?;
            let differs = cursors.suspended.is_some() != wanted;
            (differs && self.is_its_own(&id, pipeline)).then_some((id, wanted))
        });
        asked.collect()
    }

    /// What people want made up for, in their words.
    pub fn backfills(&self) -> Vec<(PipelineId, String)> {
        let all = self.objects.pipelines();
        let asked = all.iter().filter_map(|pipeline| {
            let words = pipeline.annotations().get(records::BACKFILL)?.clone();
            let id = records::identity(pipeline)?;
            self.is_its_own(&id, pipeline).then_some((id, words))
        });
        asked.collect()
    }

    /// Whether a pipeline's source is known to show it no more.
    pub fn is_orphaned(&self, id: &PipelineId) -> bool {
        self.object(id).is_some_and(|one| {
            let cursors = one.status.as_ref().and_then(|status| status.cursors.as_ref());
            cursors.is_some_and(|cursors| cursors.orphaned.is_some())
        })
    }

    /// Takes note that what these words want is done, unless a person wants another thing by now.
    ///
    /// # Errors
    /// In words: what the server refuses.
    pub fn backfilled(&self, id: &PipelineId, words: &str) -> Result<(), String> {
        let Some(pipeline) = self.object(id) else { return Ok(()) };
        if pipeline.annotations().get(records::BACKFILL).is_none_or(|own| own != words) {
            return Ok(());
        }
        match self.objects.clear_annotation(&pipeline, records::BACKFILL) {
            Ok(()) | Err(Refused::Conflict | Refused::Gone | Refused::Exists) => Ok(()),
            Err(refused) => Err(format!("failed to take note of a backfill of {id}: {refused}")),
        }
    }

    /// Takes note of pipelines whose source is none any more: they start nothing until it is there again. A
    /// source that cannot be read is another thing. Says which, and what the server refuses.
    pub fn orphan(
        &self,
        is_served: impl Fn(&str) -> bool,
        now: Timestamp,
    ) -> Vec<Result<PipelineId, String>> {
        let mut done = Vec::new();
        for pipeline in self.objects.pipelines() {
            let Some(id) = records::identity(&pipeline) else { continue };
            let source = id.source.split('@').next().unwrap_or_default();
            let here = records::is_written_here(&pipeline) && !source.ends_with("/-");
            if !here || is_served(source) {
                continue;
            }
            let known = records::stored_pipeline(&pipeline);
            let Some(known) = known.filter(|known| known.ledger.orphaned.is_none()) else {
                continue;
            };
            let ledger = Ledger { orphaned: Some(now), ..known.ledger.clone() };
            let shown = Shown {
                triggers: pipeline
                    .status
                    .as_ref()
                    .and_then(|one| one.trigger.clone())
                    .unwrap_or_default(),
                next_run: None,
                ready: false,
                reason: Reason::Orphaned,
                message: format!("source {source} is gone"),
                at: now,
            };
            let mut status = self.status_with(&key_of(&*pipeline), &pipeline, &[], Some(&shown));
            if status.cursors.is_none() {
                continue;
            }
            status.cursors = Some(records::kept(&ledger));
            match self.write_pipeline(&pipeline, status) {
                Ok(_) => done.push(Ok(id)),
                Err(StoreError::Conflict) => {}
                Err(error) => done.push(Err(error.to_string())),
            }
        }
        done
    }

    /// Gives pipelines whose cursors are lost such that cover all of their records: an object that was made
    /// again, or restored without its status. A run without an end is still at work where what executes it
    /// stands, which `stands` says by its namespace and name, else nobody saw its end.
    ///
    /// Says which, and what stands in the way of each.
    pub fn rebuild(
        &self,
        stands: impl Fn(&Key) -> Result<Option<String>, String>,
        now: Timestamp,
    ) -> Vec<Result<String, String>> {
        let all = self.objects.pipelines();
        let lost = all
            .iter()
            .filter(|one| one.status.as_ref().is_none_or(|status| status.cursors.is_none()));
        let lost = lost.filter(|one| !self.objects.runs_of(&key_of(&***one)).is_empty());
        let rebuilt = lost.filter_map(|one| {
            let key = key_of(&**one);
            match self.rebuild_one(&key, &stands, now) {
                Ok(true) => Some(Ok(key.to_string())),
                Ok(false) | Err(StoreError::Conflict) => None,
                Err(error) => Some(Err(error.to_string())),
            }
        });
        rebuilt.collect()
    }

    fn rebuild_one(
        &self,
        key: &Key,
        stands: &impl Fn(&Key) -> Result<Option<String>, String>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let cluster = |message| StoreError::Cluster {
            what: format!("rebuild the cursors of {key}"),
            message,
        };
        // Another may be about to claim its first run: what is known here may be older than that.
        let read = self.objects.read_pipeline(key);
        let Some(pipeline) = read.map_err(|refused| cluster(refused.to_string()))? else {
            return Ok(false);
        };
        let mut status = pipeline.status.clone().unwrap_or_default();
        if status.cursors.is_some() {
            return Ok(false);
        }
        let mut known = Vec::new();
        for record in self.objects.runs_of(key) {
            let Some(mut stored) = records::stored_run(&record, &pipeline) else { continue };
            let name = stored.run.name.clone();
            // What a person asks for, and nothing executes, still waits for its claim.
            let asked = claimed(&record, None) == Claimed::Requested;
            if !stored.run.phase.is_ended() {
                if let Some(handle) = stands(&key_of(&*record)).map_err(cluster)? {
                    status.active.insert(name.to_string(), handle);
                } else if !asked {
                    let run = &mut stored.run;
                    run.phase = Phase::Unknown;
                    let why = "its pipeline's cursors were lost, and nobody saw its end";
                    run.message = Some(why.into());
                    run.finished_at = Some(now);
                    self.write_status(&name, |_| Some((run.clone(), run.steps.clone())))?;
                }
            }
            if !asked {
                known.push(stored);
            }
        }
        if known.is_empty() && status.active.is_empty() {
            return Ok(false);
        }
        let all: Vec<_> =
            known.iter().map(|one| (&one.run, one.ended, one.spec.fingerprint.as_ref())).collect();
        status.cursors = Some(rebuilt(&all));
        self.write_pipeline(&pipeline, status).map(|_| true)
    }

    /// Lets pipelines go of runs whose records somebody removed while they were at work. Says which runs, and what the
    /// server refuses.
    pub fn let_go(&self) -> Vec<Result<String, String>> {
        let mut gone = Vec::new();
        for pipeline in self.objects.pipelines() {
            let Some(status) = pipeline.status.as_ref().filter(|one| !one.active.is_empty()) else {
                continue;
            };
            let namespace = key_of(&*pipeline).namespace;
            let known = |name: &str| {
                let own = self.objects.runs_named(name);
                own.iter().any(|run| run.namespace().as_deref() == Some(&namespace))
            };
            let mut anew = status.clone();
            let mut own = Vec::new();
            for name in status.active.keys().filter(|name| !known(name)) {
                let at = Key { namespace: namespace.clone(), name: name.clone() };
                match self.objects.read_run(&at) {
                    Ok(Some(_)) => {}
                    Ok(None) => {
                        anew.active.remove(name);
                        own.push(Ok(name.clone()));
                    }
                    Err(refused) => {
                        gone.push(Err(format!("failed to read run {name}: {refused}")));
                    }
                }
            }
            if !own.is_empty() {
                match self.write_pipeline(&pipeline, anew) {
                    Ok(_) => gone.extend(own),
                    Err(StoreError::Conflict) => {}
                    Err(error) => gone.push(Err(error.to_string())),
                }
            }
        }
        gone
    }

    /// Removes records that nobody claimed and nobody can claim any more: the version that they were planned
    /// from is no longer in force. Says which, and what the server refuses.
    pub fn sweep(&self) -> Vec<Result<String, String>> {
        let mut gone = Vec::new();
        for run in self.objects.runs() {
            let Some(pipeline) = self.objects.pipeline(&pipeline_of(&run)) else { continue };
            // Without cursors every record counts.
            if pipeline.status.as_ref().is_none_or(|status| status.cursors.is_none()) {
                continue;
            }
            let now = version(&pipeline.metadata).unwrap_or(0);
            // One that was planned from a version that is not known here yet may be claimed by then.
            let Claimed::Nobodys(planned) = claimed(&run, Some(&pipeline)) else { continue };
            if planned >= now {
                continue;
            }
            match self.objects.delete_run(&run) {
                Ok(()) => gone.push(Ok(run.name_any())),
                Err(Refused::Other(message)) => {
                    let name = run.name_any();
                    gone.push(Err(format!("failed to remove run {name}: {message}")));
                }
                Err(_) => {}
            }
        }
        gone
    }
}
