//! The facts of one pipeline, brought together from source, store, engine and network, and owned, so
//! that all pipelines can be planned when all is known.
//!
//! Owns where each fact comes from. It decides nothing.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use super::Seeing;
use crate::plan::{
    Action, Asks, CheckSeen, Definition, Ledger, Observed, PipelineFacts, PipelinePlan, Reason,
    RunFact, Seen, Success, Upstream, Vanished, moved_from, plan, settled_at,
};
use crate::reconcile::{Memory, PassError, Scope, Settle, Still, World};
use crate::source::PipelineFile;
use crate::spec::fingerprint::Files;
use crate::spec::{Fingerprint, Pipeline, RelativePath, names_file};
use crate::store::{EngineName, FileText, Standing, StoreError, StoredPipeline, StoredRun};
use crate::types::{Digest, Period, PipelineId, Timestamp, TriggerKind, counted};

/// A pipeline as the source shows it, and what is known of it.
pub struct Newly<'a> {
    pub file: &'a Arc<PipelineFile>,
    pub pipeline: &'a Pipeline,
    pub row: Option<StoredPipeline>,
    pub vanished: &'a [Vanished<'a>],
    pub commit: Option<&'a str>,
}

/// The facts of one pipeline.
pub struct Gathered {
    pub id: PipelineId,
    /// Where its cursors come from, of a pipeline that was moved.
    pub moved: Option<PipelineId>,
    pub seeing: Seeing,
    seen: Seen,
    ledger: Ledger,
    runs: Vec<RunFact>,
    /// The definition in force, where it is not the newest.
    former: Option<Pipeline>,
    still_since: Timestamp,
    settle: Period,
    inputs_written: Option<(Timestamp, Timestamp)>,
    lacks: Option<String>,
    on_cluster: bool,
    upstreams: Vec<Upstream>,
    check: Option<CheckSeen>,
    adopt: bool,
}

impl Gathered {
    /// A pipeline that the source shows.
    pub fn seen(
        world: &World<'_>,
        memory: &mut Memory,
        scope: &Scope,
        id: &PipelineId,
        seen: Newly<'_>,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let Newly { file, pipeline, row, vanished, commit } = seen;
        let accepted = row.as_ref().and_then(|row| row.ledger.change.accepted.as_ref());
        let fingerprint = memory.files.fingerprint(file, pipeline, accepted);
        let digests = (&fingerprint.digest, accepted.map(|accepted| &accepted.digest));
        let (still_since, settle) = standing(memory, scope, id, digests, file, now);
        let broken = file.broken.iter().find(|(path, _)| names_file(pipeline, path));
        let mut ledger = row.as_ref().map(|row| row.ledger.clone()).unwrap_or_default();
        // A place that is new, or whose pipeline went elsewhere before, may take over cursors.
        let may_take = row.is_none() || ledger.moved.is_some();
        let default_name = pipeline.has_default_name();
        let from = moved_from(id, default_name, &fingerprint.digest, vanished, now);
        let from = from.filter(|_| may_take);
        if let Some(from) = from {
            ledger = Ledger { orphaned: None, moved: None, ..from.ledger.clone() };
            ledger.change.run = ledger.change.answered_by(from.id);
        }
        // In a folder a file that is empty all at once may be one that cannot be read.
        let accepted = ledger.change.accepted.as_deref().filter(|_| commit.is_none());
        let emptied = accepted.and_then(|old| fingerprint.emptied_since(old));
        let seen = match (broken, emptied) {
            (Some((path, reason)), _) => Seen::Unreadable(format!("{path}: {reason}")),
            (None, Some(path)) => Seen::Unreadable(format!(
                "{path} is empty, which it was not: what it held before counts; to empty it for \
                 good, leave a line in it"
            )),
            (None, None) => Seen::Good,
        };
        let changed = ledger
            .change
            .accepted
            .as_ref()
            .filter(|old| old.digest != fingerprint.digest)
            .and_then(|old| fingerprint.only_inputs_changed(old));
        let ready = seen == Seen::Good;
        // Until a changed file stands still, the schedules of the former one hold, and a tick runs it.
        let settled = settled_at(still_since, settle) <= now;
        let former = row.as_ref().and_then(|row| row.definition.clone());
        let former = former.filter(|former| !settled && Some(&former.text) != file.text.as_ref());
        let former =
            former.and_then(|text| Some((text.pipeline(&id.name, scope.former_points())?, text)));
        let (former, former_text) = former.unzip();
        let present = file.text.clone().map(|text| FileText {
            file: file.path.clone(),
            folder: file.folder.clone(),
            text,
        });
        let runs = run_facts(world, memory, id)?;
        Ok(Self {
            id: id.clone(),
            moved: from.map(|from| from.id.clone()),
            seen,
            ledger,
            former,
            still_since,
            settle,
            inputs_written: changed.and_then(|paths| written(&paths, &file.folder, &file.files)),
            lacks: world.engine.lacks(id, pipeline),
            on_cluster: world.engine.name() == EngineName::Argo,
            upstreams: Vec::new(),
            check: None,
            adopt: scope.adopt,
            seeing: Seeing {
                stored: row,
                text: former_text.or(present),
                revision: commit.map_or_else(|| fingerprint.digest.to_string(), str::to_owned),
                fingerprint: Some(fingerprint),
                pipeline: Some(pipeline.clone()),
                ready,
                ended: ended(&runs),
            },
            runs,
        })
    }

    /// A pipeline that the source does not show as it did; none where nothing is known of it.
    pub fn unseen(
        world: &World<'_>,
        memory: &mut Memory,
        scope: &Scope,
        (file, commit): (Result<&PipelineFile, Option<String>>, Option<&str>),
        row: StoredPipeline,
        now: Timestamp,
    ) -> Result<Option<Self>, PassError> {
        let Some(text) = row.definition.clone() else { return Ok(None) };
        let seen = match file {
            Err(None) => Seen::Gone,
            Err(Some(reason)) => Seen::Unreadable(reason),
            Ok(file) if file.text.is_none() || file.own_trouble().is_some() => {
                let reason = file.own_trouble().unwrap_or("it cannot be read");
                Seen::Unreadable(format!("{}: {reason}", file.path))
            }
            Ok(file) if file.documents.pipelines.is_empty() => {
                let problems = counted(file.documents.problems.len(), "problem", "problems");
                Seen::Invalid(format!("{} has {problems}", file.path))
            }
            Ok(_) => Seen::Gone,
        };
        let accepted = row.ledger.change.accepted.clone();
        let object = |step: &str, _: &_| accepted.as_ref()?.manifest(step);
        let pipeline = text.pipeline(&row.id.name, scope.former_points());
        let pipeline = pipeline.map(|pipeline| pipeline.with_manifests(object));
        let runs = run_facts(world, memory, &row.id)?;
        let digest = || accepted.as_ref().map(|one| one.digest.to_string());
        Ok(Some(Self {
            id: row.id.clone(),
            moved: None,
            seen,
            ledger: row.ledger.clone(),
            former: None,
            still_since: now,
            settle: Period::from_seconds(0),
            inputs_written: None,
            lacks: pipeline.as_ref().and_then(|one| world.engine.lacks(&row.id, one)),
            on_cluster: world.engine.name() == EngineName::Argo,
            upstreams: Vec::new(),
            check: None,
            adopt: scope.adopt,
            seeing: Seeing {
                stored: Some(row),
                text: Some(text),
                revision: commit.map(str::to_owned).or_else(digest).unwrap_or_default(),
                fingerprint: accepted,
                pipeline,
                ready: false,
                ended: ended(&runs),
            },
            runs,
        }))
    }

    /// The definition whose triggers hold.
    fn in_force(&self) -> Option<&Pipeline> {
        self.former.as_ref().or(self.seeing.pipeline.as_ref())
    }

    fn success(&self) -> Option<Success> {
        let newest = Success::newest(&self.runs);
        newest.into_iter().chain(self.ledger.success.clone()).max_by_key(|one| one.ordinal)
    }

    /// Asks what its check asks, where no run is at work that may change the reply.
    pub fn ask(&mut self, world: &mut World<'_>, now: Timestamp) {
        let check = self.in_force().and_then(|pipeline| pipeline.triggers().check.clone());
        let Some(check) = check.filter(|_| self.seen != Seen::Gone) else { return };
        let busy = self.runs.iter().any(|run| !run.phase.is_ended());
        if !busy && self.ledger.suspended.is_none() {
            let end = self.runs.iter().filter_map(|run| run.finished_at).max();
            self.check = Some(world.checks.look(&self.id, &check, end, now));
        }
    }

    /// The plan, where so many runs may start.
    pub fn plan(&self, room: usize, now: Timestamp) -> PipelinePlan {
        static EMPTY: LazyLock<Fingerprint> = LazyLock::new(Fingerprint::new_empty);
        let definition = self.in_force().map(|in_force| Definition {
            pipeline: self.seeing.pipeline.as_ref().unwrap_or(in_force),
            fingerprint: self.seeing.fingerprint.as_deref().unwrap_or(&EMPTY),
            schedules: in_force.triggers().schedules.as_slice(),
            revision: &self.seeing.revision,
            still_since: self.still_since,
            inputs_written: self.inputs_written,
        });
        let facts = PipelineFacts {
            settle: self.settle,
            lacks: self.lacks.as_deref(),
            on_cluster: self.on_cluster,
            check: self.check.as_ref(),
            upstreams: &self.upstreams,
            room,
            adopt: self.adopt,
            ..PipelineFacts::new(&self.id, self.seen.clone(), definition, &self.ledger, &self.runs)
        };
        let mut planned = plan(&facts, now);
        if let Some(from) = &self.moved {
            let reason = format!("moved from {from}: its cursors follow");
            planned.not_done.retain(|not_done| not_done.reason != Reason::UpToDate);
            planned.actions.insert(0, Action::Record { reason });
        }
        planned
    }

    /// How many runs are at work, and how many more a plan would start.
    pub fn asks(&self, plan: &PipelinePlan) -> Asks {
        let open = self.runs.iter().filter(|run| !run.phase.is_ended());
        let active = open.filter(|run| run.host != Observed::Absent).count();
        let starts = plan.actions.iter().filter(|action| action.starts()).count();
        let owner = self.id.folder.split('/').next().unwrap_or_default();
        let served = self.runs.iter().filter_map(|run| run.started_at).max();
        Asks { owner: owner.to_owned(), active, starts, served }
    }
}

/// Tells each pipeline whose cursors another place takes over which one that is.
pub fn tell_where_they_went(gathered: &mut [Gathered]) {
    let moves = gathered.iter().filter_map(|one| Some((one.moved.clone()?, one.id.to_string())));
    let moves: HashMap<PipelineId, String> = moves.collect();
    for one in gathered {
        if let Some(to) = moves.get(&one.id) {
            one.ledger.moved = Some(to.clone());
        }
    }
}

fn ended(runs: &[RunFact]) -> (u64, u64) {
    let count = |well: bool| {
        let same = |run: &&RunFact| {
            run.phase.is_ended() && (run.phase == crate::plan::Phase::Succeeded) == well
        };
        runs.iter().filter(same).count() as u64
    };
    (count(true), count(false))
}

/// Gives each pipeline the newest successes of those that it waits for: the one of that name in its own
/// folder, else the only one of that name in the source.
pub fn link(gathered: &mut [Gathered]) {
    let mut by_name: HashMap<String, Vec<(String, Option<Success>)>> = HashMap::new();
    let shown = gathered.iter().filter(|one| one.seen != Seen::Gone);
    for one in shown {
        let entry = by_name.entry(one.id.name.to_string()).or_default();
        entry.push((one.id.folder.clone(), one.success()));
    }
    for one in gathered.iter_mut() {
        let names = one.in_force().map(|pipeline| pipeline.triggers().pipelines.clone());
        let upstream = |name: &crate::types::PipelineName| {
            let found = by_name.get(name.as_str()).map(Vec::as_slice).unwrap_or_default();
            let near = found.iter().find(|(folder, _)| *folder == one.id.folder);
            let success = match (near, found) {
                (Some((_, success)), _) | (None, [(_, success)]) => Ok(success.clone()),
                (None, []) => Err(format!("it waits for pipeline `{name}`, which is not there")),
                (None, _) => Err(format!(
                    "it waits for pipeline `{name}`, and several folders have one: {}",
                    found.iter().map(|(folder, _)| folder.as_str()).collect::<Vec<_>>().join(", ")
                )),
            };
            Upstream { name: name.to_string(), success }
        };
        one.upstreams = names.iter().flatten().map(upstream).collect();
    }
}

/// Since when a pipeline stands still, and for how long it must.
pub fn standing(
    memory: &mut Memory,
    scope: &Scope,
    id: &PipelineId,
    (digest, accepted): (&Digest, Option<&Digest>),
    file: &PipelineFile,
    now: Timestamp,
) -> (Timestamp, Period) {
    let remembered = memory.still.get(id).cloned();
    let other = accepted.filter(|accepted| *accepted != digest);
    let since = match &remembered {
        // Somebody else accepted another since the last look: what is seen here may be the past.
        Some(still) if other.is_some() && still.accepted.as_ref() != accepted => now,
        // A clock that stepped back must not make a change wait for the future.
        Some(still) if still.digest == *digest && still.since <= now => still.since,
        Some(_) => now,
        // Nor is it known at a first look who sees the past, where others look too.
        None if scope.shared && other.is_some() => now,
        // Of a first look, the file system says more than we could.
        None => file.newest.filter(|newest| *newest <= now).unwrap_or(now),
    };
    let (digest, accepted) = (digest.clone(), accepted.cloned());
    let seen_twice = remembered.is_some_and(|still| still.digest == digest);
    memory.still.insert(id.clone(), Still { digest, accepted, since });
    match scope.settle {
        Settle::After(period) => (since, period),
        Settle::TwoLooks => {
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

/// The runs of a pipeline, each with what is known of its host.
pub fn run_facts(
    world: &World<'_>,
    memory: &mut Memory,
    id: &PipelineId,
) -> Result<Vec<RunFact>, StoreError> {
    let runs = world.store.runs_of(id)?;
    runs.into_iter().map(|stored| fact(world, memory, stored)).collect()
}

fn fact(world: &World<'_>, memory: &mut Memory, stored: StoredRun) -> Result<RunFact, StoreError> {
    let ended = stored.run.phase.is_ended();
    let observed = if ended { Observed::Absent } else { world.engine.observe(&stored) };
    let run = stored.run;
    let host = match observed {
        // Without a host on this machine, another that shares the file system may have one.
        Observed::Absent if world.store.is_shared() && !ended => {
            let lease = world.store.lease(run.name.as_str())?;
            let watch = memory.leases.entry(run.name.clone()).or_default();
            match watch.look(lease, std::time::Instant::now()) {
                Standing::Free | Standing::Expired => Observed::Absent,
                Standing::Unsure => Observed::Unknown,
                Standing::Elsewhere => Observed::Known(()),
            }
        }
        observed => observed,
    };
    Ok(RunFact {
        host,
        requested: run.trigger.kind == TriggerKind::Manual || stored.spec.backfill,
        name: run.name,
        trigger: run.trigger,
        phase: run.phase,
        started_at: run.started_at,
        finished_at: run.finished_at,
        ended: stored.ended,
        stop_requested: stored.stop_requested,
    })
}
