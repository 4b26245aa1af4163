//! The sources of a cluster: which there are, and what they show.
//!
//! Owns reading their objects and writing their status. What a source is looked at with is the shell's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use kube::api::PostParams;
use kube::core::object::HasStatus;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

use super::cache::Cache;
use super::events::{Events, Told};
use super::kubernetes::{ask, scoped, watch};
use super::objects::{Key, Refused};
use super::records::say_ready;
use super::resources::{ClusterNotebookSource, NotebookSource as Resource, SourceStatus};
use super::tenants::Served;
use crate::source::git::{Tip, Tips};
use crate::spec::{NotebookSource, SourceMetadata, SourceSpec};
use crate::types::{Period, Timestamp};

/// So many earlier tips of a branch are kept in a status, and so many branches: an object has its limits.
const REMEMBERED: usize = 10;
const MOST_BRANCHES: usize = 300;
/// How long a branch that goes back must stand.
pub const STANDS: Period = Period::from_seconds(60);

/// The sources.
pub struct Sources {
    runtime: Arc<Runtime>,
    client: Client,
    own: Arc<Cache<Resource>>,
    /// None where only one namespace is served.
    shared: Option<Arc<Cache<ClusterNotebookSource>>>,
}

/// What a clone of a repository says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Which repository it is, and what of it is wanted: of another nothing counts that was before.
    pub repository: String,
    /// The newest commit of each branch.
    pub tips: BTreeMap<String, Tip>,
    /// Branches whose newest commit is not trusted: what was in force stays so.
    pub refused: Vec<String>,
}

/// What is said of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// What it shows; empty where that is not known.
    pub revision: String,
    /// How many pipelines it shows.
    pub pipelines: usize,
    /// What stands in its way.
    pub trouble: Option<String>,
    /// The generation of its object that this is about.
    pub generation: Option<i64>,
}

fn document(name: &str, namespace: Option<String>, spec: SourceSpec) -> NotebookSource {
    NotebookSource {
        api_version: "jupyterflow.io/v1alpha1".into(),
        kind: "NotebookSource".into(),
        metadata: SourceMetadata { name: name.to_owned(), namespace },
        spec,
    }
}

impl Sources {
    /// Begins to watch, in one namespace or in all.
    pub fn new(
        runtime: Arc<Runtime>,
        client: Client,
        namespace: Option<&str>,
        pulse: &Arc<AtomicI64>,
    ) -> Self {
        let own = Arc::new(Cache::new(|_| Vec::new(), Arc::clone(pulse)));
        watch(&runtime, &client, namespace, watcher::Config::default(), Arc::clone(&own));
        let shared = namespace.is_none().then(|| {
            let cache = Arc::new(Cache::new(|_| Vec::new(), Arc::clone(pulse)));
            watch(&runtime, &client, None, watcher::Config::default(), Arc::clone(&cache));
            cache
        });
        Self { runtime, client, own, shared }
    }

    /// Whether all that there was at the beginning is known.
    pub fn is_ready(&self) -> bool {
        self.own.is_ready() && self.shared.as_ref().is_none_or(|shared| shared.is_ready())
    }

    /// Whether a source of that name would be known here. A controller of one namespace knows none of the cluster's,
    /// and has no say of their pipelines.
    pub fn sees(&self, name: &str) -> bool {
        self.shared.is_some() || name.contains('/')
    }

    /// All that are served, by name. One that is on its way out is none.
    pub fn served(&self) -> Vec<Served> {
        let own = self.own.all();
        let own = own.iter().filter(|one| one.metadata.deletion_timestamp.is_none());
        let own = own.map(|one| Served {
            source: document(&one.name_any(), one.namespace(), one.spec.source.clone()),
            tenants: Vec::new(),
            generation: one.metadata.generation,
        });
        let shared = self.shared.iter().flat_map(|shared| shared.all());
        let shared = shared.filter(|one| one.metadata.deletion_timestamp.is_none());
        let shared = shared.map(|one| Served {
            source: document(&one.name_any(), None, one.spec.source.clone()),
            tenants: one.spec.tenants.clone(),
            generation: one.metadata.generation,
        });
        let mut all: Vec<Served> = own.chain(shared).collect();
        all.sort_by_key(|one| one.source.qualified());
        all
    }

    /// Tells people something of a source.
    pub fn tell(&self, events: &Events, name: &str, told: Told) {
        let key = key(name);
        if !key.namespace.is_empty() {
            self.own.get(&key).into_iter().for_each(|one| events.tell(&*one, told.clone()));
        } else if let Some(shared) = &self.shared {
            shared.get(&key).into_iter().for_each(|one| events.tell(&*one, told.clone()));
        }
    }

    /// Says what a source shows, where its status does not say so already.
    ///
    /// # Errors
    /// In words: what the server refuses.
    pub fn say(&self, name: &str, said: &Said, now: Timestamp) -> Result<(), String> {
        match self.update(name, |before| status(before, said, now)) {
            // It is said anew at the next pass.
            Ok(_) | Err(Refused::Conflict | Refused::Gone | Refused::Exists) => Ok(()),
            Err(refused) => Err(refused.to_string()),
        }
    }

    /// Takes note of what a repository's branches name, in the memory that all controllers share, and says
    /// which commits are in force. Where another controller was first at that, nothing is in force until
    /// its word is known.
    ///
    /// # Errors
    /// In words: what the server refuses.
    pub fn advance(
        &self,
        name: &str,
        found: &Found,
        now: Timestamp,
    ) -> Result<BTreeMap<String, Tips>, String> {
        if found.tips.len() > MOST_BRANCHES {
            let count = found.tips.len();
            return Err(format!("{count} branches match, of which {MOST_BRANCHES} may be"));
        }
        let advanced = self.update(name, |before| {
            let mut status = before.cloned().unwrap_or_default();
            if status.repository != found.repository {
                status.repository.clone_from(&found.repository);
                status.branches.clear();
            }
            status.branches = advanced(&status.branches, found, now);
            status
        });
        match advanced {
            Ok(status) => Ok(status.branches),
            Err(Refused::Conflict | Refused::Gone | Refused::Exists) => Ok(BTreeMap::new()),
            Err(refused) => Err(refused.to_string()),
        }
    }

    /// Writes a source's status, on the condition that it is the one that is known.
    fn update(
        &self,
        name: &str,
        change: impl FnOnce(Option<&SourceStatus>) -> SourceStatus,
    ) -> Result<SourceStatus, Refused> {
        let key = key(name);
        if !key.namespace.is_empty() {
            let api = scoped::<Resource>(&self.client, Some(&key.namespace));
            return update(&self.runtime, &api, &self.own, &key, change);
        }
        let shared = self.shared.as_ref().ok_or(Refused::Gone)?;
        let api = Api::<ClusterNotebookSource>::all(self.client.clone());
        update(&self.runtime, &api, shared, &key, change)
    }
}

/// The object of a source by its name; without a namespace, one that is no namespace's.
fn key(name: &str) -> Key {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    Key { namespace: namespace.to_owned(), name: name.to_owned() }
}

fn update<K>(
    runtime: &Runtime,
    api: &Api<K>,
    cache: &Cache<K>,
    key: &Key,
    change: impl FnOnce(Option<&SourceStatus>) -> SourceStatus,
) -> Result<SourceStatus, Refused>
where
    K: kube::Resource<DynamicType = ()> + HasStatus<Status = SourceStatus>,
    K: Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    let there = cache.get(key).ok_or(Refused::Gone)?;
    let status = change(there.status());
    if there.status() == Some(&status) {
        return Ok(status);
    }
    let mut wanted = (*there).clone();
    *wanted.status_mut() = Some(status.clone());
    let parameters = PostParams::default();
    cache.take(ask(runtime, api.replace_status(&key.name, &parameters, &wanted))?);
    Ok(status)
}

/// What is known of branches after a look. Those that are no longer there are forgotten; without any look
/// yet all stays.
fn advanced(
    before: &BTreeMap<String, Tips>,
    found: &Found,
    now: Timestamp,
) -> BTreeMap<String, Tips> {
    if found.tips.is_empty() {
        return before.clone();
    }
    let advance = |(branch, tip): (&String, &Tip)| {
        let mut tips = before.get(branch).cloned().unwrap_or_default();
        tips.observe(tip.clone(), STANDS, now);
        tips.forget_but(REMEMBERED);
        (branch.clone(), tips)
    };
    let refused = before.iter().filter(|(branch, _)| found.refused.contains(*branch));
    let refused = refused.map(|(branch, tips)| (branch.clone(), tips.clone()));
    refused.chain(found.tips.iter().map(advance)).collect()
}

/// The status that says so. A source that cannot be read still shows what it did.
fn status(before: Option<&SourceStatus>, said: &Said, now: Timestamp) -> SourceStatus {
    let mut status = before.cloned().unwrap_or_default();
    status.observed_generation = said.generation;
    if !said.revision.is_empty() {
        status.revision = Some(said.revision.clone());
        status.pipelines = i64::try_from(said.pipelines).ok();
    }
    let reason = if said.trouble.is_none() { "Readable" } else { "SourceUnreadable" };
    let message = said.trouble.as_deref().unwrap_or_default();
    let is = said.trouble.is_none();
    say_ready(&mut status.conditions, is, (reason, message), said.generation, now);
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_cannot_be_read_still_shows_what_it_did() {
        let now = Timestamp::UNIX_EPOCH;
        let good = Said { revision: "r1".into(), pipelines: 3, trouble: None, generation: Some(1) };
        let first = status(None, &good, now);
        let bad = Said {
            revision: String::new(),
            pipelines: 0,
            trouble: Some("away".into()),
            generation: Some(1),
        };
        let second = status(Some(&first), &bad, now);
        assert_eq!((second.revision.as_deref(), second.pipelines), (Some("r1"), Some(3)));
        assert_eq!(second.conditions.len(), 1);
        assert_eq!(second.conditions[0].status, "False");
        // Saying the same again changes nothing, whatever the time.
        let later = now.checked_add(jiff::SignedDuration::from_hours(1)).unwrap();
        assert_eq!(status(Some(&second), &bad, later), second);
    }

    /// What one controller saw counts for another, whose clone lags behind.
    #[test]
    fn a_stale_clone_takes_nothing_back() {
        let tip = |commit: &str, time| Tip { commit: commit.into(), time };
        let found = |commit, time| Found {
            tips: BTreeMap::from([("main".to_owned(), tip(commit, time))]),
            ..Found::default()
        };
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let first = advanced(&BTreeMap::new(), &found("c1", 1), at(0));
        let second = advanced(&first, &found("c2", 2), at(1));
        let in_force = |all: &BTreeMap<String, Tips>| all["main"].accepted.clone().unwrap().commit;
        assert_eq!(in_force(&second), "c2");
        let stale = advanced(&second, &found("c1", 1), at(2));
        assert_eq!(in_force(&stale), "c2");
        // Whoever sees the newest takes that back; what stands counts.
        let again = advanced(&stale, &found("c2", 2), at(3));
        assert_eq!(in_force(&advanced(&again, &found("c1", 1), at(100))), "c2");
        assert_eq!(in_force(&advanced(&stale, &found("c1", 1), at(62))), "c1");
        assert_eq!(advanced(&second, &Found::default(), at(5)), second);
        // What nobody signed takes nothing away.
        let other = Found {
            tips: BTreeMap::from([("dev".to_owned(), tip("d1", 1))]),
            refused: vec!["main".into()],
            ..Found::default()
        };
        assert_eq!(in_force(&advanced(&second, &other, at(5))), "c2");
        assert_eq!(second["main"].counts_at(STANDS), None);
        assert_eq!(stale["main"].counts_at(STANDS), Some(at(62)));
    }
}
