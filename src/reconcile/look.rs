//! One look: the source, the ledger, the runs and their hosts, and the plan that follows.
//!
//! Owns the order in which facts are brought together. It changes nothing; what follows from the facts
//! is the planner's to say.

mod gathered;
mod known;

use std::collections::HashMap;
use std::sync::Arc;

use indexmap::IndexMap;

use self::gathered::{Gathered, Newly, run_facts};
pub(super) use self::known::KnownFiles;
use super::{Memory, PassError, Scope, World};
use crate::plan::{
    Ledger, NotDone, Observed, Phase, PipelineFacts, PipelinePlan, Plan, Reason, Seen, Vanished,
    plan, rooms, settled_at,
};
use crate::source::{PipelineFile, Snapshot};
use crate::spec::{Fingerprint, Pipeline};
use crate::store::{FileText, StoreError, StoredPipeline};
use crate::types::{Digest, PipelineId, Timestamp};

/// What a look saw, with the plan that follows.
#[derive(Default)]
pub struct Look {
    /// The plan.
    pub plan: Plan,
    /// What each source shows.
    pub sources: Vec<SourceSeen>,
    pub(super) pipelines: IndexMap<PipelineId, Seeing>,
}

/// What a source shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSeen {
    /// Its name.
    pub name: String,
    /// The commit, or one digest of all its files; empty where it cannot be read.
    pub revision: String,
    /// What stands in its way.
    pub message: Option<String>,
}

/// What is known of one pipeline besides its plan.
#[derive(Default)]
pub struct Seeing {
    /// Its row.
    pub stored: Option<StoredPipeline>,
    /// The newest good text.
    pub text: Option<FileText>,
    /// What a run of it carries as its revision: the commit, or the pipeline's digest.
    pub revision: String,
    /// What the source shows, down to its files.
    pub fingerprint: Option<Arc<Fingerprint>>,
    /// The newest good definition.
    pub pipeline: Option<Pipeline>,
    /// Whether its source shows it as it should be.
    pub ready: bool,
    /// How many of its newest runs ended well, and how many otherwise.
    pub ended: (u64, u64),
}

impl Look {
    /// The pipelines that are known, with what is known of each.
    pub fn pipelines(&self) -> impl Iterator<Item = (&PipelineId, &Seeing)> {
        self.pipelines.iter()
    }

    /// Whether a pipeline is among them.
    pub fn sees(&self, id: &PipelineId) -> bool {
        self.pipelines.contains_key(id)
    }

    /// Plans all pipelines: what the ones wait for is known of the others.
    fn plan_all(
        &mut self,
        world: &mut World<'_>,
        scope: &Scope,
        mut gathered: Vec<Gathered>,
        now: Timestamp,
    ) {
        gathered::link(&mut gathered);
        gathered::tell_where_they_went(&mut gathered);
        gathered.iter_mut().for_each(|one| one.ask(world, now));
        let plan = |one: &Gathered, room| one.plan(room, now);
        let mut plans: Vec<PipelinePlan> =
            gathered.iter().map(|one| plan(one, usize::MAX)).collect();
        let asked: Vec<_> = gathered.iter().zip(&plans).map(|(one, plan)| one.asks(plan)).collect();
        for (at, room) in rooms(&asked, scope.limits) {
            plans[at] = plan(&gathered[at], room);
        }
        for (one, planned) in gathered.into_iter().zip(plans) {
            self.plan.pipelines.push((one.id.clone(), planned));
            self.pipelines.insert(one.id, one.seeing);
        }
    }

    /// Adds what was seen of another source.
    pub fn merge(&mut self, other: Self) {
        self.sources.extend(other.sources);
        self.plan.pipelines.extend(other.plan.pipelines);
        self.plan.unplanned.extend(other.plan.unplanned);
        self.plan.problems.extend(other.plan.problems);
        self.pipelines.extend(other.pipelines);
    }

    /// Takes note of a source that cannot be read: nothing follows for its pipelines.
    pub fn unreadable(&mut self, name: &str, message: &str) {
        let seen = SourceSeen {
            name: name.to_owned(),
            revision: String::new(),
            message: Some(message.to_owned()),
        };
        self.sources.push(seen);
        self.plan.unplanned.push(NotDone {
            pipeline: name.to_owned(),
            trigger: None,
            reason: Reason::SourceUnreadable,
            message: message.to_owned(),
            until: None,
        });
    }

    /// Takes note of what stands in the way of a source that still shows what it did.
    pub fn ails(&mut self, name: &str, message: &str) {
        let own = |seen: &&mut SourceSeen| {
            seen.name == name
                || seen.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('@'))
        };
        let mut known = false;
        for seen in self.sources.iter_mut().filter(own) {
            seen.message = Some(message.to_owned());
            known = true;
        }
        if !known {
            self.unreadable(name, message);
        }
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
    // Rows come first: what is written in between then meets a row of before, and nothing follows from the two.
    let mut stored: HashMap<PipelineId, StoredPipeline> =
        world.store.pipelines()?.into_iter().map(|row| (row.id.clone(), row)).collect();
    let snapshot = world.source.look(now)?;
    memory.files.begin();
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
        sources: vec![SourceSeen {
            name: scope.source.clone(),
            revision: snapshot
                .commit
                .clone()
                .unwrap_or_else(|| revision_of(memory, &snapshot.files)),
            message: None,
        }],
        pipelines: IndexMap::new(),
    };
    let mut gathered = Vec::new();
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
                        trigger: None,
                        reason: Reason::SourceUnreadable,
                        message: format!("{}: {reason}", file.path),
                        until: None,
                    });
                }
                continue;
            }
            let row = stored.remove(&id);
            let commit = snapshot.commit.as_deref();
            let seen = Newly { file, pipeline, row, vanished: &vanished, commit };
            gathered.push(Gathered::seen(world, memory, scope, &id, seen, now)?);
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
        let file = snapshot.files.iter().find(|file| file.path == text.file).map(AsRef::as_ref);
        let unreadable = snapshot.unreadable.iter().find(|(folder, _)| row.id.is_below(folder));
        let unreadable = unreadable.map(|(folder, why)| format!("{folder}: {why}"));
        let shown = (file.ok_or(unreadable), snapshot.commit.as_deref());
        gathered.extend(Gathered::unseen(world, memory, scope, shown, row, now)?);
    }
    look.plan_all(world, scope, gathered, now);
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
        trigger: None,
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
        snapshot.files.iter().map(|file| (file.folder.as_str(), file.as_ref())).collect();
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
    let next = next.and_then(|stored| stored.definition());
    let policy = next.as_ref().map(Pipeline::concurrency).unwrap_or_default();
    let lacks = next.and_then(|pipeline| world.engine.lacks(id, &pipeline));
    let ledger = Ledger::default();
    let facts = PipelineFacts::new(id, Seen::Good, None, &ledger, &runs);
    Ok(plan(&PipelineFacts { lacks: lacks.as_deref(), policy, ..facts }, now))
}

/// Whether what a source shows of a pipeline, by its digest and the one that was accepted, stood still for long
/// enough.
pub fn is_settled(
    memory: &mut Memory,
    scope: &Scope,
    id: &PipelineId,
    digests: (&Digest, Option<&Digest>),
    file: &PipelineFile,
    now: Timestamp,
) -> bool {
    let (since, settle) = gathered::standing(memory, scope, id, digests, file, now);
    settled_at(since, settle) <= now
}

/// The identity of a pipeline in a source.
pub fn identity(scope: &Scope, folder: &str, pipeline: &Pipeline) -> PipelineId {
    PipelineId {
        source: scope.source.clone(),
        folder: folder.to_owned(),
        name: pipeline.name().clone(),
    }
}

fn revision_of(memory: &mut Memory, files: &[Arc<PipelineFile>]) -> String {
    let all: Vec<Digest> = files.iter().map(|file| memory.files.digest(file)).collect();
    Digest::of_json("jupyterflow/revision/v1", &serde_json::json!(all)).to_string()
}
