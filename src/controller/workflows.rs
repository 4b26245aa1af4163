//! The Workflows of a cluster: seen by one watch, and let go once their end is on record.
//!
//! Owns what becomes of a Workflow that nobody needs any more: one whose end is recorded, one that nobody
//! claimed, one whose record is gone. It never starts one.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use kube::api::{Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::runtime::Runtime;

use super::cache::{Cache, key_of};
use super::kubernetes::{as_read, scoped, watch};
use super::objects::{Key, Objects, Refused};
use super::records::{Claimed, claimed};
use crate::engine::argo::workflow::Seen;
use crate::engine::argo::{FINALIZER, Known, Refusal, Sight, ask};

/// The label of all that is ours.
const OURS: &str = "app.kubernetes.io/managed-by=jupyterflow";

/// The Workflows, as far as known.
#[derive(Clone)]
pub struct Workflows {
    runtime: Arc<Runtime>,
    client: Client,
    cache: Arc<Cache<Seen>>,
}

/// What becomes of a Workflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It stays as it is.
    Stays,
    /// It is ended, and looked at again.
    ShutDown,
    /// It may go: nobody waits for its end.
    LetGo,
    /// It was never begun, and never will be.
    Removed,
}

/// Decides what becomes of a Workflow, of whose run this is known; nothing where there is no record of one.
fn fate(seen: &Seen, claim: Option<Claimed>) -> Fate {
    let over = seen.is_over();
    let begun = seen.spec.suspend != Some(true);
    let leaving = seen.metadata.deletion_timestamp.is_some();
    let uid = seen.metadata.uid.as_deref();
    let nobodys = match (over, begun) {
        (true, _) => Fate::LetGo,
        (false, true) => Fate::ShutDown,
        (false, false) => Fate::Removed,
    };
    match claim {
        None | Some(Claimed::Ended) => nobodys,
        // Another Workflow of its name is the run's.
        Some(Claimed::Active(Some(handle))) if handle.rsplit('/').next() != uid => nobodys,
        // Argo goes on making pods of one that a finalizer keeps.
        Some(Claimed::Active(Some(_))) if leaving && !over => Fate::ShutDown,
        Some(Claimed::Active(Some(_))) => Fate::Stays,
        // Somebody may be about to claim it, unless that is over, or somebody wants it gone.
        Some(Claimed::Active(None) | Claimed::Requested | Claimed::Nobodys(_)) => {
            if over || leaving { nobodys } else { Fate::Stays }
        }
    }
}

impl Workflows {
    /// Begins to watch, in one namespace or in all.
    pub fn new(
        runtime: Arc<Runtime>,
        client: Client,
        namespace: Option<&str>,
        pulse: Arc<AtomicI64>,
    ) -> Self {
        let cache = Arc::new(Cache::new(|_| Vec::new(), pulse));
        let config = watcher::Config::default().labels(OURS);
        watch(&runtime, &client, namespace, config, Arc::clone(&cache));
        Self { runtime, client, cache }
    }

    /// Whether all that there was at the beginning is known.
    pub fn is_ready(&self) -> bool {
        self.cache.is_ready()
    }

    /// What the store keeps of a Workflow, where it stands.
    ///
    /// # Errors
    /// In words: nobody can say.
    pub fn handle(&self, key: &Key) -> Result<Option<String>, String> {
        match self.look(&key.namespace, &key.name) {
            Ok(Known::There(seen)) => Ok(seen.uid().map(|uid| format!("{}/{uid}", key.namespace))),
            Ok(Known::Gone) => Ok(None),
            Err(refusal) => Err(refusal.message),
        }
    }

    /// All that are known.
    pub fn all(&self) -> Vec<Arc<Seen>> {
        self.cache.all()
    }

    /// Looks after the Workflows that nobody needs any more. Says what was done, and of each what the
    /// server refuses.
    pub fn tend(&self, objects: &impl Objects) -> Vec<Result<String, String>> {
        let mut done = Vec::new();
        for seen in self.cache.all() {
            if !seen.finalizers().iter().any(|one| one == FINALIZER) {
                continue;
            }
            let key = key_of(&*seen);
            let known = objects.runs_named(&key.name);
            let mut record =
                known.into_iter().find(|run| run.namespace().as_ref() == Some(&key.namespace));
            if record.is_none() {
                // What is not known may still be there.
                record = match objects.read_run(&key) {
                    Ok(read) => read,
                    Err(refused) => {
                        done.push(Err(format!("failed to read run {key}: {refused}")));
                        continue;
                    }
                };
            }
            let pipeline = record.as_ref().and_then(|run| {
                let namespace = key.namespace.clone();
                objects.pipeline(&Key { namespace, name: run.spec.pipeline.clone() })
            });
            let claim = record.as_ref().map(|run| claimed(run, pipeline.as_deref()));
            let (what, did) = match fate(&seen, claim) {
                Fate::Stays => continue,
                Fate::ShutDown if seen.spec.shutdown.is_some() => continue,
                Fate::ShutDown => ("shut down", self.shut_down(&seen)),
                Fate::LetGo => ("let go", self.let_go(&seen)),
                Fate::Removed => ("removed", self.remove(&seen)),
            };
            match did {
                Ok(()) => done.push(Ok(format!("Workflow {key}: {what}"))),
                // It moved on meanwhile, and is looked at again.
                Err(Refused::Conflict | Refused::Gone | Refused::Exists) => {}
                Err(Refused::Other(message)) => {
                    done.push(Err(format!("Workflow {key} is not {what}: {message}")));
                }
            }
        }
        done
    }

    fn patch(&self, seen: &Seen, patch: serde_json::Value) -> Result<(), Refused> {
        let api: Api<Seen> = scoped(&self.client, seen.namespace().as_deref());
        let (name, parameters) = (seen.name_any(), PatchParams::default());
        let asked = self.ask(async {
            let patch = Patch::Merge(patch);
            api.patch(&name, &parameters, &patch).await
        })?;
        self.cache.take(asked);
        Ok(())
    }

    fn shut_down(&self, seen: &Seen) -> Result<(), Refused> {
        let spec = json!({"shutdown": "Terminate", "suspend": false});
        self.patch(seen, json!({"metadata": exactly(seen), "spec": spec}))
    }

    fn let_go(&self, seen: &Seen) -> Result<(), Refused> {
        let mut metadata = exactly(seen);
        metadata["finalizers"] = others(seen);
        self.patch(seen, json!({"metadata": metadata}))
    }

    /// Removes one that never began.
    fn remove(&self, seen: &Seen) -> Result<(), Refused> {
        let api: Api<Seen> = scoped(&self.client, seen.namespace().as_deref());
        let freed = if seen.metadata.deletion_timestamp.is_some() {
            self.let_go(seen)
        } else {
            let gone = self.ask(api.delete(&seen.name_any(), &as_read(&seen.metadata)))?;
            // It stays for the sake of our finalizer, in a version of its own.
            let Some(leaving) = gone.left() else { return Ok(()) };
            self.let_go(&leaving)
        };
        match freed {
            Ok(()) | Err(Refused::Gone) => {
                self.cache.removed(&key_of(seen));
                Ok(())
            }
            Err(refused) => Err(refused),
        }
    }

    fn ask<T>(&self, what: impl Future<Output = kube::Result<T>>) -> Result<T, Refused> {
        super::kubernetes::ask(&self.runtime, what)
    }
}

/// What a patch says so that it changes this Workflow as it was seen, and no other.
fn exactly(seen: &Seen) -> serde_json::Value {
    json!({"uid": seen.metadata.uid, "resourceVersion": seen.metadata.resource_version})
}

/// The finalizers that are not ours.
fn others(seen: &Seen) -> serde_json::Value {
    let others = seen.finalizers().iter().filter(|one| *one != FINALIZER);
    others.cloned().collect::<Vec<_>>().into()
}

impl Sight for Workflows {
    fn look(&self, namespace: &str, name: &str) -> Result<Known, Refusal> {
        let key = Key { namespace: namespace.to_owned(), name: name.to_owned() };
        if let Some(seen) = self.cache.get(&key) {
            return Ok(Known::There(seen));
        }
        let api: Api<Seen> = scoped(&self.client, Some(namespace));
        let read = self.cache.read(&key, || ask(&self.runtime, api.get_opt(name)))?;
        Ok(read.map_or(Known::Gone, Known::There))
    }

    fn took(&self, seen: Seen) -> Arc<Seen> {
        self.cache.take(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workflow(uid: &str, suspended: bool, over: bool, leaving: bool) -> Seen {
        let mut seen: Seen = serde_json::from_value(json!({
            "metadata": {"name": "p-1", "namespace": "team", "uid": uid},
            "spec": {"suspend": suspended},
            "status": if over {
                json!({"phase": "Succeeded", "finishedAt": "2026-01-01T00:00:00Z"})
            } else {
                json!({})
            },
        }))
        .unwrap();
        if leaving {
            seen.metadata.deletion_timestamp =
                serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        }
        seen
    }

    #[test]
    fn only_what_nobody_needs_is_ended_and_only_what_never_began_is_removed() {
        let active = |uid: &str| Some(Claimed::Active(Some(format!("team/{uid}"))));
        let (waits, works) =
            (workflow("1", true, false, false), workflow("1", false, false, false));
        let (over, leaves) = (workflow("1", false, true, false), workflow("1", false, false, true));
        for (seen, claim, wanted) in [
            (&waits, active("1"), Fate::Stays),
            (&works, active("1"), Fate::Stays),
            (&over, active("1"), Fate::Stays),
            (&leaves, active("1"), Fate::ShutDown),
            (&waits, active("2"), Fate::Removed),
            (&works, active("2"), Fate::ShutDown),
            (&waits, Some(Claimed::Active(None)), Fate::Stays),
            (&waits, Some(Claimed::Nobodys(3)), Fate::Stays),
            (&waits, Some(Claimed::Requested), Fate::Stays),
            (&over, Some(Claimed::Ended), Fate::LetGo),
            (&works, Some(Claimed::Ended), Fate::ShutDown),
            (&waits, Some(Claimed::Ended), Fate::Removed),
        ] {
            assert_eq!(fate(seen, claim.clone()), wanted, "{claim:?}");
        }
        assert_eq!(fate(&over, None), Fate::LetGo);
        assert_eq!(fate(&works, None), Fate::ShutDown);
        assert_eq!(fate(&waits, None), Fate::Removed);
    }
}
