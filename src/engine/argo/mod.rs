//! The engine of a cluster: each run is an Argo Workflow in the environment of its user.
//!
//! Owns making, releasing, watching and ending Workflows. What a run becomes is `compile`'s, what a
//! Workflow tells `reading`'s; `pod` is what runs inside of one.

#![expect(
    clippy::disallowed_methods,
    reason = "says when a Workflow was released, and waits for its turn"
)]

pub mod artifacts;
pub mod checkout;
pub mod compile;
pub mod environment;
mod names;
pub mod object;
pub mod pod;
pub mod rbac;
pub mod reading;
mod server;
mod sight;
mod told;
pub mod workflow;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::runtime::Runtime;

use self::compile::{IDENTITY, Site};
pub use self::server::{Address as ArgoAddress, ArgoServer};
pub use self::sight::{EachByItself, Known, Sight};
use self::workflow::{Seen, Workflow};
use super::{Engine, EngineError, Report};
use crate::plan::Observed;
use crate::spec::Pipeline;
use crate::store::{EngineName, StoredRun};
use crate::types::{PipelineId, RunName, Timestamp};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long Argo may take to notice that a Workflow was released.
const NOTICE: Duration = Duration::from_secs(5);
/// It has twice as long after each repetition, up to this.
const LONGEST_NOTICE: Duration = Duration::from_secs(300);
/// The annotation that says when.
const RELEASED: &str = "jupyterflow.io/released";
/// The annotation of a Workflow that another process made, and this one takes for its run.
const TAKEN: &str = "jupyterflow.io/taken";

/// The finalizer of Workflows whose end somebody takes note of.
pub const FINALIZER: &str = "jupyterflow.io/end";

/// Why a run of another version cannot be followed.
const UNREADABLE: &str = "its file can no longer be read";

/// For what, and where, runs are compiled.
pub trait Sites: Send + Sync {
    /// The namespace of a pipeline's runs; none where nobody may run it.
    fn namespace(&self, pipeline: &PipelineId) -> Option<String>;
    /// What a run is compiled for.
    ///
    /// # Errors
    /// In words: why it cannot be here, which may pass.
    fn site(&self, run: &StoredRun) -> Result<Site, String>;
    /// What a person must provide before a pipeline can run here, in words; none if nothing.
    fn lacks(&self, _: &PipelineId, _: &Pipeline) -> Option<String> {
        None
    }
}

/// One namespace and one site for all; without a site, and why there is none, what is there is looked after.
pub struct OneSite {
    /// The namespace.
    pub namespace: String,
    /// The site.
    pub site: Result<Site, String>,
}

impl Sites for OneSite {
    fn namespace(&self, _: &PipelineId) -> Option<String> {
        Some(self.namespace.clone())
    }

    fn site(&self, _: &StoredRun) -> Result<Site, String> {
        self.site.clone()
    }
}

/// The engine. A copy knows the same.
#[derive(Clone)]
pub struct ArgoEngine {
    runtime: Arc<Runtime>,
    client: Client,
    sites: Arc<dyn Sites>,
    sight: Arc<dyn Sight>,
    /// Whether a Workflow stays until its end is taken note of.
    holds: bool,
    pace: Option<Arc<Pace>>,
    server: Option<ArgoServer>,
    /// When each run was last released by us, and how long Argo has to notice.
    released: Arc<Mutex<HashMap<RunName, (Instant, Duration)>>>,
}

/// A limit on how many things are made in a second.
struct Pace {
    between: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    /// Waits for its turn.
    fn wait(&self) {
        let turn = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = (*next).max(Instant::now());
            *next = turn + self.between;
            turn
        };
        std::thread::sleep(turn.saturating_duration_since(Instant::now()));
    }
}

impl ArgoEngine {
    /// An engine that makes and follows Workflows.
    pub fn new(
        runtime: Arc<Runtime>,
        client: Client,
        sites: Arc<dyn Sites>,
        sight: Arc<dyn Sight>,
    ) -> Self {
        let released = Arc::default();
        Self { runtime, client, sites, sight, holds: false, pace: None, server: None, released }
    }

    /// Workflows stay until somebody who took note of their end lets them go, and no more than so many
    /// are made in a second.
    #[must_use]
    pub fn holding(self, most: u32) -> Self {
        let between = Duration::from_secs(1) / most.max(1);
        let pace = Pace { between, next: Mutex::new(Instant::now()) };
        Self { holds: true, pace: Some(Arc::new(pace)), ..self }
    }

    /// What Argo keeps in its database is asked of its server.
    #[must_use]
    pub fn asking(self, server: Option<ArgoServer>) -> Self {
        Self { server, ..self }
    }

    /// A Workflow that is in the cluster no more, out of Argo's archive.
    fn archived(&self, uid: &str) -> Result<Option<Arc<Seen>>, Refusal> {
        let Some(server) = &self.server else { return Ok(None) };
        let found = server.archived(uid).map_err(Refusal::passing)?;
        let own = |seen: &Seen| seen.is_over() && seen.metadata.uid.as_deref() == Some(uid);
        Ok(found.filter(own).map(Arc::new))
    }

    /// A Workflow with its nodes, where Argo keeps them in its database. Of one that goes on, it is not held up by
    /// a server that does not say.
    fn with_nodes(&self, seen: &Arc<Seen>) -> Result<Arc<Seen>, Refusal> {
        let Some(server) = self.server.as_ref().filter(|_| seen.are_nodes_offloaded()) else {
            return Ok(Arc::clone(seen));
        };
        match server.with_nodes(seen) {
            Err(message) if seen.is_over() => Err(Refusal::passing(message)),
            found => Ok(found.map_or_else(|_| Arc::clone(seen), Arc::new)),
        }
    }

    fn wait<T>(&self, what: impl Future<Output = kube::Result<T>>) -> Result<T, Refusal> {
        ask(&self.runtime, what)
    }

    fn workflows(&self, namespace: &str) -> Api<Seen> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Namespace and uid of what was made for a run; none where nothing was, and a refusal where that was in
    /// another namespace than the pipeline's, of which this engine knows nothing.
    fn made<'a>(&self, run: &'a StoredRun) -> Result<Option<(&'a str, &'a str)>, Refusal> {
        let Some(handle) = &run.spec.handle else { return Ok(None) };
        let (namespace, uid) = handle.split_once('/').unwrap_or_default();
        if self.sites.namespace(&run.pipeline).as_deref() == Some(namespace) {
            return Ok(Some((namespace, uid)));
        }
        Err(Refusal::passing(format!("its Workflow is in namespace {namespace}")))
    }

    /// Ends a Workflow. Of what waits for room Argo hears but one way; one whose objects are to be removed ends
    /// by the other, which lets it clean up.
    fn shut_down(&self, run: &StoredRun) -> Result<(), Refusal> {
        let Some((namespace, uid)) = self.made(run)? else { return Ok(()) };
        let workflows = self.workflows(namespace);
        let cleans = run.definition().is_some_and(|one| !object::annotations(&one).is_empty());
        let begun = || match self.sight.look(namespace, run.run.name.as_str())? {
            Known::There(seen) => {
                Ok(seen.has_pods() || seen.status.phase.as_deref() == Some("Running"))
            }
            Known::Gone => Ok(false),
        };
        let way = if cleans && begun()? { "Stop" } else { "Terminate" };
        // Without its suspension, what has not begun ends too.
        let spec = json!({"shutdown": way, "suspend": false});
        let annotations = cleans.then(|| json!({object::STOPPED: "true"}));
        let metadata = json!({"uid": uid, "annotations": annotations.unwrap_or_else(|| json!({}))});
        let patch = json!({"metadata": metadata, "spec": spec});
        let (patch, parameters) = (Patch::Merge(patch), PatchParams::default());
        let asked = workflows.patch(run.run.name.as_str(), &parameters, &patch);
        let gone =
            |error: &kube::Error| matches!(error, kube::Error::Api(status) if status.code == 404);
        self.wait(async {
            match asked.await {
                Err(error) if gone(&error) => Ok(()),
                other => other.map(|_| ()),
            }
        })
    }

    /// Whether Argo was asked to take a Workflow up a moment ago.
    fn was_asked(&self, run: &RunName, seen: &Seen) -> bool {
        let released = self.released.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = released.get(run).is_some_and(|(at, time)| at.elapsed() < *time);
        asked && seen.spec.suspend != Some(true)
    }
}

/// Whether Argo took a Workflow up.
fn has_begun(seen: &Seen) -> bool {
    // It waits for room, which it may do before it was released.
    let waits = seen.status.phase.as_deref() == Some("Pending");
    seen.is_over() || seen.has_pods() || (seen.spec.suspend != Some(true) && waits)
}

/// Why something was not done.
pub struct Refusal {
    /// In words.
    pub message: String,
    /// Whether it may be done later.
    passing: bool,
    /// Whether nothing but another request could do better.
    senseless: bool,
}

/// Asks a server, and waits for its answer as long as is sensible.
///
/// # Errors
/// It refuses, or does not answer.
pub fn ask<T>(
    runtime: &Runtime,
    what: impl Future<Output = kube::Result<T>>,
) -> Result<T, Refusal> {
    let answer = answer(runtime, what).map_err(Refusal::passing)?;
    answer.map_err(|error| Refusal {
        message: said(&error),
        passing: match &error {
            kube::Error::Api(status) => status.code == 429 || status.code >= 500,
            _ => true,
        },
        senseless: match &error {
            kube::Error::Api(status) => matches!(status.code, 400 | 413 | 422),
            _ => false,
        },
    })
}

/// What a server answers to a question.
///
/// # Errors
/// In words: it does not answer as long as is sensible.
pub fn answer<T>(
    runtime: &Runtime,
    what: impl Future<Output = kube::Result<T>>,
) -> Result<kube::Result<T>, String> {
    runtime
        .block_on(async { tokio::time::timeout(PATIENCE, what).await })
        .map_err(|_| format!("the API server did not answer within {} s", PATIENCE.as_secs()))
}

impl Refusal {
    fn lasting(message: impl Into<String>) -> Self {
        Self { message: message.into(), passing: false, senseless: true }
    }

    fn passing(message: impl Into<String>) -> Self {
        Self { message: message.into(), passing: true, senseless: false }
    }

    /// The same, where a later try may do better.
    fn again(self) -> Self {
        Self { passing: true, ..self }
    }

    /// The same; a later try may do better unless the request itself is at fault.
    fn unless_senseless(self) -> Self {
        Self { passing: !self.senseless, ..self }
    }

    fn of(self, what: &'static str, run: &RunName) -> EngineError {
        EngineError { what, run: run.clone(), message: self.message, passing: self.passing }
    }
}

/// What a server said, for a person.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => crate::types::causes(other),
    }
}

impl Engine for ArgoEngine {
    fn name(&self) -> EngineName {
        EngineName::Argo
    }

    fn observe(&self, run: &StoredRun) -> Observed<()> {
        let namespace = match self.made(run) {
            Ok(None) => return Observed::Absent,
            Ok(Some((namespace, _))) => namespace,
            Err(_) => return Observed::Unknown,
        };
        match self.sight.look(namespace, run.run.name.as_str()) {
            Ok(Known::There(seen)) if has_begun(&seen) || self.was_asked(&run.run.name, &seen) => {
                Observed::Known(())
            }
            Ok(Known::There(_)) => Observed::Absent,
            // It was there: nothing takes its place.
            Ok(Known::Gone) | Err(_) => Observed::Unknown,
        }
    }

    fn took_up(&self, run: &StoredRun) -> bool {
        let Ok(Some((namespace, _))) = self.made(run) else { return false };
        let known = self.sight.look(namespace, run.run.name.as_str());
        matches!(known, Ok(Known::There(seen)) if has_begun(&seen))
    }

    fn prepare(&mut self, run: &StoredRun) -> Result<Option<String>, EngineError> {
        let name = &run.run.name;
        let failed = |refusal: Refusal| refusal.of("start", name);
        let pipeline = run.definition().ok_or_else(|| failed(Refusal::lasting(UNREADABLE)))?;
        // What a run executes may not be what its file says now.
        if let Some(lacks) = self.sites.lacks(&run.pipeline, &pipeline) {
            return Err(failed(Refusal::passing(lacks)));
        }
        // Whoever is in the right place can make it.
        let site = self.sites.site(run).map_err(|message| failed(Refusal::passing(message)))?;
        if site.checkout.is_some() && run.run.revision.is_empty() {
            return Err(failed(Refusal::passing("the commit of its source is not known yet")));
        }
        let namespace = self.sites.namespace(&run.pipeline);
        let namespace = namespace.ok_or_else(|| failed(Refusal::passing("nobody may run it")))?;
        let made = compile::workflow(&site, &pipeline, run);
        let mut made = made.map_err(|message| failed(Refusal::lasting(message)))?;
        if self.holds {
            made.metadata.finalizers = Some(vec![FINALIZER.into()]);
        }
        if let Some(pace) = &self.pace {
            pace.wait();
        }
        let created = self.wait(async {
            let workflows: Api<Workflow> = Api::namespaced(self.client.clone(), &namespace);
            match workflows.create(&PostParams::default(), &made).await {
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
                other => other.map(Some),
            }
        });
        let handle = |uid: Option<String>| uid.map(|uid| format!("{namespace}/{uid}"));
        // A quota, or rights that are on their way: a controller tries again.
        let later =
            |refusal: Refusal| if self.holds { refusal.unless_senseless() } else { refusal };
        if let Some(created) = created.map_err(|refusal| failed(later(refusal)))? {
            return Ok(handle(created.metadata.uid));
        }
        // Somebody was here before: the same run, or another of its name.
        let there = self.wait(self.workflows(&namespace).get_opt(name.as_str())).map_err(failed)?;
        let there = there.ok_or_else(|| failed(Refusal::lasting("its Workflow comes and goes")))?;
        let identity = there.metadata.annotations.as_ref().and_then(|all| all.get(IDENTITY));
        if identity.map(String::as_str) == Some(&run.run.id.to_string()) {
            // What was released was kept before. Nobody knows of that any more, or this process not yet.
            let annotations = there.metadata.annotations.as_ref();
            let released = annotations.is_some_and(|all| all.contains_key(RELEASED));
            if there.metadata.deletion_timestamp.is_some() {
                return Err(failed(Refusal::passing("a Workflow of its name is on its way out")));
            }
            if released || there.is_over() || there.has_pods() {
                let message = format!(
                    "NameTaken: Workflow {namespace}/{name} was executed already, and no record says so; \
                     once it is deleted the run begins"
                );
                return Err(failed(Refusal::passing(message)));
            }
            // Whoever is about to remove it as nobody's finds it changed.
            let metadata = json!({
                "uid": there.metadata.uid,
                "resourceVersion": there.metadata.resource_version,
                "annotations": {TAKEN: Timestamp::now().to_string()},
            });
            let (patch, parameters) =
                (Patch::Merge(json!({"metadata": metadata})), PatchParams::default());
            let workflows = self.workflows(&namespace);
            let there = self.wait(workflows.patch(name.as_str(), &parameters, &patch));
            return Ok(handle(there.map_err(|refusal| failed(refusal.again()))?.metadata.uid));
        }
        let message = format!("NameTaken: a Workflow {name} of another identity is there");
        Err(failed(Refusal::lasting(message)))
    }

    fn start(&mut self, run: &StoredRun) -> Result<(), EngineError> {
        let name = &run.run.name;
        let failed = |refusal: Refusal| refusal.of("start", name);
        let made = self.made(run).map_err(failed)?;
        let made = made.ok_or_else(|| failed(Refusal::lasting("nothing was made to execute it")));
        let (namespace, uid) = made?;
        let limit = run.definition().and_then(|pipeline| pipeline.timeout());
        // Argo counts from when it first saw the Workflow, a person from its release.
        let deadline = match limit {
            None => None,
            Some(limit) => match self.sight.look(namespace, name.as_str()).map_err(failed)? {
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
        // Who wrote which field is of no use to anybody from here on, and dear: for each later write, Argo's
        // among them, the server would compare the whole object by a schema that is most of Kubernetes'.
        let annotations = json!({RELEASED: Timestamp::now().to_string()});
        let patch = json!({
            "metadata": {"uid": uid, "annotations": annotations, "managedFields": [{}]},
            "spec": {"suspend": false, "activeDeadlineSeconds": deadline},
        });
        let (patch, parameters) = (Patch::Merge(patch), PatchParams::default());
        let workflows = self.workflows(namespace);
        let patched = workflows.patch(name.as_str(), &parameters, &patch);
        let seen = self.wait(patched).map_err(failed)?;
        self.sight.took(seen);
        let mut released = self.released.lock().unwrap_or_else(PoisonError::into_inner);
        released.retain(|_, (at, time)| at.elapsed() < 2 * *time);
        // One that has much to do is not asked more and more.
        let time = released.get(name).map_or(NOTICE, |(_, time)| (2 * *time).min(LONGEST_NOTICE));
        released.insert(name.clone(), (Instant::now(), time));
        Ok(())
    }

    fn lacks(&self, id: &PipelineId, pipeline: &Pipeline) -> Option<String> {
        self.sites.lacks(id, pipeline)
    }

    fn stop(&mut self, run: &StoredRun) -> Result<(), EngineError> {
        self.shut_down(run).map_err(|refusal| refusal.of("stop", &run.run.name))
    }

    fn report(&self, run: &StoredRun, now: Timestamp) -> Result<Report, EngineError> {
        let name = &run.run.name;
        let failed = |refusal: Refusal| refusal.of("read", name);
        let Some((namespace, uid)) = self.made(run).map_err(failed)? else {
            return Ok(Report::Nothing);
        };
        let same = |seen: &Seen| seen.metadata.uid.as_deref() == Some(uid);
        let there = match self.sight.look(namespace, name.as_str()).map_err(failed)? {
            Known::Gone => None,
            Known::There(seen) if same(&seen) => Some(seen),
            // What is known may be older than the run's own Workflow.
            Known::There(_) => {
                let read = self.wait(self.workflows(namespace).get_opt(name.as_str()));
                read.map_err(failed)?.filter(same).map(|read| self.sight.took(read))
            }
        };
        let seen = match there {
            Some(seen) => match self.with_nodes(&seen) {
                // A person who wants its end waits for no server.
                Err(refusal) if !run.stop_requested => return Err(failed(refusal)),
                whole => whole.unwrap_or(seen),
            },
            None => match self.archived(uid) {
                Ok(Some(seen)) => seen,
                Err(refusal) if !run.stop_requested => return Err(failed(refusal)),
                _ => return Ok(Report::Vanished),
            },
        };
        let pipeline = run.definition().ok_or_else(|| failed(Refusal::lasting(UNREADABLE)))?;
        let (stands, steps) = reading::read(&pipeline, run, &seen, now);
        Ok(Report::Stands(Box::new(stands), steps))
    }
}
