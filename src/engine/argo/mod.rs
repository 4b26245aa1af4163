//! The engine of a cluster: each run is an Argo Workflow in the environment of its user.
//!
//! Owns making, releasing, watching and ending Workflows. What a run becomes is `compile`'s, what a
//! Workflow tells `reading`'s; `pod` is what runs inside of one.

#![expect(clippy::disallowed_methods, reason = "says when a Workflow was released")]

pub mod compile;
pub mod environment;
mod names;
pub mod pod;
pub mod rbac;
mod reading;
mod told;
pub mod workflow;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::api::{Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::runtime::Runtime;

use self::compile::{IDENTITY, Site};
use self::workflow::{Seen, Workflow};
use super::{Engine, EngineError, Report};
use crate::plan::Observed;
use crate::spec::Pipeline;
use crate::store::{EngineName, StoredRun};
use crate::types::{RunName, Timestamp};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a watch is asked for, in seconds; then it is asked for anew.
const WATCH_SECONDS: u32 = 50;
/// How long Argo may take to notice that a Workflow was released.
const NOTICE: Duration = Duration::from_secs(5);
/// The annotation that says when.
const RELEASED: &str = "jupyterflow.io/released";
/// After a watch that failed.
const REST: Duration = Duration::from_secs(1);

/// Why a run of another version cannot be followed.
const UNREADABLE: &str = "its file can no longer be read";

/// What is known of a Workflow.
#[derive(Clone, Debug)]
enum Known {
    There(Arc<Seen>),
    Gone,
}

/// What watches see; of what is not here nothing is known.
type Watched = Arc<Mutex<HashMap<RunName, Known>>>;

/// The engine over one namespace.
pub struct ArgoEngine {
    runtime: Arc<Runtime>,
    workflows: Api<Seen>,
    site: Result<Site, String>,
    watched: Watched,
    /// When each run was last released by us.
    released: HashMap<RunName, Instant>,
}

impl ArgoEngine {
    /// An engine that makes its Workflows in a namespace. Without a site, and why there is none, it looks
    /// after those that are there.
    pub fn new(
        runtime: Arc<Runtime>,
        client: Client,
        namespace: &str,
        site: Result<Site, String>,
    ) -> Self {
        let workflows = Api::namespaced(client, namespace);
        let (watched, released) = (Watched::default(), HashMap::new());
        Self { runtime, workflows, site, watched, released }
    }

    fn wait<T>(&self, what: impl Future<Output = kube::Result<T>>) -> Result<T, Refusal> {
        ask(&self.runtime, what)
    }

    /// A Workflow as the server has it now; none where there is none.
    fn get(&self, run: &RunName) -> Result<Option<Seen>, Refusal> {
        self.wait(self.workflows.get_opt(run.as_str()))
    }

    /// The uid of what was made for a run; none where nothing was, and a refusal where that was in another
    /// namespace, of which this engine knows nothing.
    fn uid<'a>(&self, run: &'a StoredRun) -> Result<Option<&'a str>, Refusal> {
        let Some(handle) = &run.spec.handle else { return Ok(None) };
        let (namespace, uid) = handle.split_once('/').unwrap_or_default();
        if self.workflows.namespace() == Some(namespace) {
            return Ok(Some(uid));
        }
        Err(Refusal::passing(format!("its Workflow is in namespace {namespace}")))
    }

    /// Ends a Workflow. There is one way: of what waits for room Argo hears no other, and no exit handler
    /// is ours.
    fn shut_down(&self, run: &StoredRun) -> Result<(), Refusal> {
        let Some(uid) = self.uid(run)? else { return Ok(()) };
        // Without its suspension, what has not begun ends too.
        let spec = json!({"shutdown": "Terminate", "suspend": false});
        let patch = json!({"metadata": {"uid": uid}, "spec": spec});
        let (patch, parameters) = (Patch::Merge(patch), PatchParams::default());
        let asked = self.workflows.patch(run.run.name.as_str(), &parameters, &patch);
        let gone =
            |error: &kube::Error| matches!(error, kube::Error::Api(status) if status.code == 404);
        self.wait(async {
            match asked.await {
                Err(error) if gone(&error) => Ok(()),
                other => other.map(|_| ()),
            }
        })
    }

    /// A run as its Workflow stands: what a watch saw, or what the server says.
    fn look(&self, run: &StoredRun) -> Result<Known, Refusal> {
        let name = &run.run.name;
        let watched = self
            .watched
            .lock()
            .map_err(|_| Refusal::lasting("a watch is broken"))?
            .get(name)
            .cloned();
        if let Some(known) = watched {
            return Ok(known);
        }
        Ok(match self.get(name)? {
            None => Known::Gone,
            Some(seen) => self.watch(name, seen),
        })
    }

    /// Whether Argo took a Workflow up, or was asked to a moment ago.
    fn has_begun(&self, run: &RunName, seen: &Seen) -> bool {
        let asked = self.released.get(run).is_some_and(|at| at.elapsed() < NOTICE);
        // It waits for room, which it may do before it was released.
        let waits = seen.status.phase.as_deref() == Some("Pending");
        let released = seen.spec.suspend != Some(true);
        seen.is_over() || seen.has_pods() || (released && (waits || asked))
    }

    /// Watches a Workflow from what was seen of it on. Once the watch ends, nothing is known any more,
    /// and whoever looks next asks the server.
    fn watch(&self, run: &RunName, seen: Seen) -> Known {
        let version = seen.metadata.resource_version.clone().unwrap_or_default();
        let known = Known::There(Arc::new(seen));
        let Ok(mut watched) = self.watched.lock() else { return known };
        // What a watch saw is newer than any answer.
        if !watched.contains_key(run) {
            watched.insert(run.clone(), known.clone());
            drop(watched);
            let (watched, workflows) = (Arc::clone(&self.watched), self.workflows.clone());
            let run = run.clone();
            self.runtime.spawn(async move {
                follow(&workflows, &run, version, &watched).await;
                if let Ok(mut watched) = watched.lock() {
                    watched.remove(&run);
                }
            });
        }
        known
    }
}

/// Tells each change of a Workflow, until the watch ends or fails.
async fn follow(workflows: &Api<Seen>, run: &RunName, mut version: String, watched: &Watched) {
    let tell = |known: Known| {
        if let Ok(mut watched) = watched.lock() {
            watched.insert(run.clone(), known);
        }
    };
    let own = WatchParams::default().fields(&format!("metadata.name={run}"));
    let parameters = own.timeout(WATCH_SECONDS);
    loop {
        let began = Instant::now();
        let Ok(stream) = workflows.watch(&parameters, &version).await else { break };
        let mut stream = std::pin::pin!(stream);
        // A connection of which nothing comes, not even its end, is no watch.
        while let Ok(Some(event)) = tokio::time::timeout(2 * PATIENCE, stream.next()).await {
            match event {
                Ok(WatchEvent::Added(seen) | WatchEvent::Modified(seen)) => {
                    version = seen.metadata.resource_version.clone().unwrap_or_default();
                    tell(Known::There(Arc::new(seen)));
                }
                Ok(WatchEvent::Deleted(_)) => return tell(Known::Gone),
                Ok(WatchEvent::Bookmark(mark)) => version = mark.metadata.resource_version,
                Ok(WatchEvent::Error(_)) | Err(_) => {
                    return tokio::time::sleep(REST).await;
                }
            }
        }
        // A watch that ends at once is asked for with a pause.
        tokio::time::sleep(REST.saturating_sub(began.elapsed())).await;
    }
    // Whoever looks next asks at once; a server that is away is not asked without a pause.
    tokio::time::sleep(REST).await;
}

/// Why something was not done.
pub struct Refusal {
    /// In words.
    pub message: String,
    /// Whether it may be done later.
    passing: bool,
}

/// Asks a server, and waits for its answer as long as is sensible.
///
/// # Errors
/// It refuses, or does not answer.
pub fn ask<T>(
    runtime: &Runtime,
    what: impl Future<Output = kube::Result<T>>,
) -> Result<T, Refusal> {
    match runtime.block_on(async { tokio::time::timeout(PATIENCE, what).await }) {
        Err(_) => {
            let seconds = PATIENCE.as_secs();
            Err(Refusal::passing(format!("the API server did not answer within {seconds} s")))
        }
        Ok(answer) => answer.map_err(|error| Refusal {
            message: said(&error),
            passing: match &error {
                kube::Error::Api(status) => status.code == 429 || status.code >= 500,
                _ => true,
            },
        }),
    }
}

impl Refusal {
    fn lasting(message: impl Into<String>) -> Self {
        Self { message: message.into(), passing: false }
    }

    fn passing(message: impl Into<String>) -> Self {
        Self { message: message.into(), passing: true }
    }

    fn of(self, what: &'static str, run: &RunName) -> EngineError {
        EngineError { what, run: run.clone(), message: self.message, passing: self.passing }
    }
}

/// What a server said, for a person.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => {
            let mut text = other.to_string();
            let mut cause = std::error::Error::source(other);
            while let Some(error) = cause {
                let words = error.to_string();
                if !text.contains(&words) {
                    text.push_str(&format!(": {words}"));
                }
                cause = error.source();
            }
            text
        }
    }
}

impl Engine for ArgoEngine {
    fn name(&self) -> EngineName {
        EngineName::Argo
    }

    fn observe(&self, run: &StoredRun) -> Observed<()> {
        match self.uid(run) {
            Ok(None) => return Observed::Absent,
            Ok(Some(_)) => {}
            Err(_) => return Observed::Unknown,
        }
        match self.look(run) {
            Ok(Known::There(seen)) if !self.has_begun(&run.run.name, &seen) => Observed::Absent,
            Ok(Known::There(_)) => Observed::Known(()),
            // It was there: nothing takes its place.
            Ok(Known::Gone) | Err(_) => Observed::Unknown,
        }
    }

    fn prepare(&mut self, run: &StoredRun) -> Result<Option<String>, EngineError> {
        let name = &run.run.name;
        let failed = |refusal: Refusal| refusal.of("start", name);
        let pipeline = run.definition().ok_or_else(|| failed(Refusal::lasting(UNREADABLE)))?;
        // Whoever is in the right place can make it.
        let site = self.site.as_ref().map_err(|message| failed(Refusal::passing(message)))?;
        let made = compile::workflow(site, &pipeline, run);
        let made = made.map_err(|message| failed(Refusal::lasting(message)))?;
        let created = self.wait(async {
            let workflows: Api<Workflow> = Api::namespaced(
                self.workflows.clone().into_client(),
                self.workflows.namespace().unwrap_or_default(),
            );
            match workflows.create(&PostParams::default(), &made).await {
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
                other => other.map(Some),
            }
        });
        let namespace = self.workflows.namespace().unwrap_or_default();
        let handle = |uid: Option<String>| uid.map(|uid| format!("{namespace}/{uid}"));
        if let Some(created) = created.map_err(failed)? {
            return Ok(handle(created.metadata.uid));
        }
        // Somebody was here before: the same run, or another of its name.
        let there = self.get(name).map_err(failed)?;
        let there = there.ok_or_else(|| failed(Refusal::lasting("its Workflow comes and goes")))?;
        let identity = there.metadata.annotations.as_ref().and_then(|all| all.get(IDENTITY));
        if identity.map(String::as_str) == Some(&run.run.id.to_string()) {
            return Ok(handle(there.metadata.uid));
        }
        let message = format!("NameTaken: a Workflow {name} of another identity is there");
        Err(failed(Refusal::lasting(message)))
    }

    fn start(&mut self, run: &StoredRun) -> Result<(), EngineError> {
        let name = &run.run.name;
        let failed = |refusal: Refusal| refusal.of("start", name);
        let uid = self.uid(run).map_err(failed)?;
        let uid = uid.ok_or_else(|| failed(Refusal::lasting("nothing was made to execute it")))?;
        let limit = run.definition().and_then(|pipeline| pipeline.timeout());
        // Argo counts from when it first saw the Workflow, a person from its release.
        let deadline = match limit {
            None => None,
            Some(limit) => match self.look(run).map_err(failed)? {
                Known::Gone => return Err(failed(Refusal::lasting("its Workflow is gone"))),
                Known::There(seen) => {
                    let seen = seen.status.started_at.as_ref().map_or(Timestamp::now(), |at| at.0);
                    let waited = Timestamp::now().duration_since(seen).as_secs().max(0);
                    Some(waited + i64::try_from(limit.seconds()).unwrap_or(i64::MAX / 2))
                }
            },
        };
        // A Workflow of another uid refuses the patch. The annotation makes each release a change: Argo can
        // miss one that comes while it first looks at the Workflow, and then looks no more.
        let annotations = json!({RELEASED: Timestamp::now().to_string()});
        let patch = json!({
            "metadata": {"uid": uid, "annotations": annotations},
            "spec": {"suspend": false, "activeDeadlineSeconds": deadline},
        });
        let (patch, parameters) = (Patch::Merge(patch), PatchParams::default());
        let patched = self.workflows.patch(name.as_str(), &parameters, &patch);
        let seen = self.wait(patched).map_err(failed)?;
        self.watch(name, seen);
        self.released.insert(name.clone(), Instant::now());
        Ok(())
    }

    fn lacks(&self, _: &Pipeline) -> Option<String> {
        None
    }

    fn stop(&mut self, run: &StoredRun) -> Result<(), EngineError> {
        self.shut_down(run).map_err(|refusal| refusal.of("stop", &run.run.name))
    }

    fn report(&self, run: &StoredRun, now: Timestamp) -> Result<Report, EngineError> {
        let name = &run.run.name;
        let failed = |refusal: Refusal| refusal.of("read", name);
        let Some(uid) = self.uid(run).map_err(failed)? else { return Ok(Report::Nothing) };
        let seen = match self.look(run).map_err(failed)? {
            Known::Gone => return Ok(Report::Vanished),
            Known::There(seen) => seen,
        };
        if seen.metadata.uid.as_deref() != Some(uid) {
            return Ok(Report::Vanished);
        }
        let pipeline = run.definition().ok_or_else(|| failed(Refusal::lasting(UNREADABLE)))?;
        let (stands, steps) = reading::read(&pipeline, run, &seen, now);
        Ok(Report::Stands(Box::new(stands), steps))
    }
}
