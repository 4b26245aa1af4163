//! The records of a cluster, as its controller keeps them: pipelines, and their runs.
//!
//! Owns where they are looked for: in the namespace that is named, else, in a Jupyter server or with `--engine
//! argo`, in the own one, after the folder's state. What people ask for is written; what follows is the
//! controller's.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use super::cluster::{self, Cluster};
use super::error::{CliError, Code};
use super::global::Global;
use super::place::Place;
use super::print;
use super::run::pause;
use super::session::{Session, named_run, no_pipeline, no_run, pipelines_named, several};
use crate::controller::ClusterStore;
use crate::controller::kubernetes::Kubernetes;
use crate::controller::objects::{Key, Objects, Refused};
use crate::controller::published::{self, source_of};
use crate::controller::records::object_name;
use crate::controller::requests::{Requests, Unreadable, Wanted, record};
use crate::controller::resources::NotebookPipeline;
use crate::plan::Run;
use crate::store::{EngineName, Store, StoredPipeline, StoredRun};
use crate::types::{PipelineId, RunName, Timestamp};

/// How long the first lists may take.
const FIRST: Duration = Duration::from_secs(30);

/// How long a controller may take to see what a person asks of a pipeline.
pub const SEEN_WITHIN: Duration = Duration::from_secs(30);
/// What to look at where it takes longer.
pub const IS_ONE_AT_WORK: &str = "a controller takes note of it: is one at work in that namespace?";

/// Where a run or a pipeline is looked for.
#[derive(clap::Args, Debug)]
pub struct Where {
    /// The folder whose state is meant
    #[arg(long, default_value = ".", value_name = "PATH")]
    pub path: PathBuf,
    #[command(flatten)]
    pub of: Namespace,
}

/// A namespace of a cluster.
#[derive(clap::Args, Debug)]
pub struct Namespace {
    /// A namespace of the cluster, whose controller's records are meant in place of a folder's state
    #[arg(short = 'n', long, value_name = "NAME")]
    pub namespace: Option<String>,
}

/// A run, and what it was found in.
pub enum Found {
    /// The state of a folder.
    Here(Box<Session>, StoredRun),
    /// The records of a cluster.
    There(Box<Records>, StoredRun),
}

impl Found {
    /// Its name.
    pub fn run(&self) -> &RunName {
        match self {
            Self::Here(_, stored) | Self::There(_, stored) => &stored.run.name,
        }
    }
}

/// The records of a namespace.
pub struct Records {
    cluster: Cluster,
    /// What is known of them, as it changes.
    pub store: ClusterStore<Kubernetes>,
    /// What people ask for.
    pub requests: Requests,
    namespace: String,
    /// The source of the own server's pipelines, in one.
    own: Option<String>,
}

/// Finds a run by its name, or the beginning of it.
///
/// # Errors
/// There is none, or several.
pub fn find(global: &Global, place: &Where, name: &str) -> Result<Found, CliError> {
    if let Some(namespace) = &place.of.namespace {
        let records = Records::open(namespace)?;
        let stored = records.find_run(name)?;
        return Ok(Found::There(Box::new(records), stored));
    }
    let session = Session::to_read(global, &place.path)?;
    let here = match session.known_run(name)? {
        Some(stored) if stored.run.name.as_str() == name => {
            return Ok(Found::Here(Box::new(session), stored));
        }
        here => here,
    };
    // Where it is not here, records that cannot be read are no reason to call it nowhere.
    let need = if here.is_some() { Need::Look } else { Need::All };
    let records = Records::at_hand(global, need)?;
    let runs = records.as_ref().map(|records| records.runs(usize::MAX)).transpose()?;
    let there = named_run(runs.as_deref().unwrap_or_default(), name)?.cloned();
    match (here, records.zip(there)) {
        (Some(here), None) => Ok(Found::Here(Box::new(session), here)),
        (None, Some((records, there))) => Ok(Found::There(Box::new(records), there)),
        (Some(here), Some((_, there))) => Err(CliError::usage(format!(
            "{name:?} is the beginning of several runs: {}, {}",
            here.run.name, there.run.name
        ))),
        (None, None) => Err(no_run(name)),
    }
}

/// A pipeline of a cluster's records, where these are meant: those of the named namespace, or of a pipeline that
/// was published from here, or is known there alone.
///
/// # Errors
/// There is none in the named namespace, or several.
pub fn recorded(
    global: &Global,
    place: &Where,
    name: &str,
) -> Result<Option<(Records, StoredPipeline)>, CliError> {
    if let Some(namespace) = &place.of.namespace {
        let records = Records::open(namespace)?;
        let known = records.find_pipeline(name)?;
        return Ok(Some((records, known)));
    }
    let Some(records) = Records::at_hand(global, Need::All)? else { return Ok(None) };
    let mut session = Session::to_read(global, &place.path)?;
    let look = session.look_twice(Timestamp::now)?;
    let shown: Vec<&PipelineId> = look.pipelines().map(|(id, _)| id).collect();
    let here = pipelines_named(&shown, name);
    let known = records.pipelines()?;
    if let [id] = here[..] {
        if let Some(own) = records.that_of(&known, &session.place, id).cloned() {
            return Ok(Some((records, own)));
        }
        let row = look.pipelines().find(|(other, _)| *other == id);
        if row.is_some_and(|(_, seeing)| seeing.stored.is_some()) {
            return Ok(None);
        }
    }
    // A folder that was only looked at has no say where a controller has the pipeline.
    let there = records.named(&known, name);
    match (there.len(), here.len()) {
        (1, _) => Ok(there.first().map(|one| (*one).clone()).map(|one| (records, one))),
        (0, _) => Ok(None),
        (_, 1) => Ok(None),
        _ => Err(records.several(name, &there)),
    }
}

/// What a command does with records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It looks at what is there: what cannot be read is said.
    Look,
    /// It would do another thing without them.
    All,
}

/// What stands in the way of reading a namespace's records.
fn unreadable(namespace: &str, why: &Unreadable) -> CliError {
    let what = format!("failed to read the runs in namespace {namespace}");
    match why {
        Unreadable::Undefined => CliError::unreachable(format!(
            "{what}: the cluster lacks the custom resources of jupyterflow"
        ))
        .hint("its administrator applies what `jupyterflow generate manifests` prints"),
        Unreadable::Forbidden(why) | Unreadable::Failed(why) => {
            CliError::unreachable(format!("{what}: {why}"))
                .hint("`jupyterflow generate rbac` prints what a service account needs")
        }
    }
}

impl Records {
    /// The records of a namespace.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn open(namespace: &str) -> Result<Self, CliError> {
        Self::connect(Cluster::connect()?, Some(namespace))?
            .map_err(|why| unreadable(namespace, &why))
    }

    fn connect(
        cluster: Cluster,
        namespace: Option<&str>,
    ) -> Result<Result<Self, Unreadable>, CliError> {
        let own = namespace.is_none().then(Cluster::own_environment).flatten();
        let namespace = namespace.unwrap_or(cluster.namespace()).to_owned();
        let (runtime, client) = (cluster.runtime(), cluster.client());
        let requests = Requests::new(Arc::clone(runtime), client.clone());
        if let Err(why) = requests.may_read(&namespace) {
            return Ok(Err(why));
        }
        let pulse = Arc::new(AtomicI64::new(0));
        let objects = Kubernetes::new(Arc::clone(runtime), client.clone(), Some(&namespace), pulse);
        let begun = Instant::now();
        while !objects.is_ready() {
            if begun.elapsed() > FIRST {
                return Err(CliError::unreachable(format!(
                    "failed to read the runs in namespace {namespace}: the cluster does not answer"
                )));
            }
            pause(5);
        }
        let at = namespace.clone();
        let store = ClusterStore::new(objects, Arc::new(move |_| Some(at.clone())));
        let own = own.map(|environment| source_of(&namespace, &environment));
        Ok(Ok(Self { cluster, store, requests, namespace, own }))
    }

    /// The records that a person means who names no namespace: none where the engine is the local one, and none of a
    /// cluster that has no such objects, or none for this person.
    ///
    /// # Errors
    /// There is no such engine; for a command that needs all, they cannot be read.
    pub fn at_hand(global: &Global, need: Need) -> Result<Option<Self>, CliError> {
        let named = cluster::named(global)?;
        if named == Some(EngineName::Local) || named.is_none() && !cluster::is_inside() {
            return Ok(None);
        }
        let connected = match Cluster::connect() {
            // A Jupyter pod may have no access to its cluster.
            Err(error) if named.is_none() && error.code != Code::Usage => return Ok(None),
            connected => connected.and_then(|cluster| Self::connect(cluster, None)),
        };
        let failed = match connected {
            Ok(Ok(records)) => return Ok(Some(records)),
            Ok(Err(Unreadable::Undefined | Unreadable::Forbidden(_))) => return Ok(None),
            Ok(Err(why)) => unreadable("of this server", &why),
            Err(error) => error,
        };
        match need {
            Need::All => Err(failed),
            Need::Look => {
                print::talk(&format!("warning: {}", failed.message()));
                Ok(None)
            }
        }
    }

    /// The connection.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The pipelines: in a Jupyter server not those that other servers published.
    ///
    /// # Errors
    /// The store's.
    pub fn pipelines(&self) -> Result<Vec<StoredPipeline>, CliError> {
        let mut all = self.store.pipelines()?;
        all.retain(|known| self.is_shown(&known.id));
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }

    fn is_shown(&self, id: &PipelineId) -> bool {
        self.own.as_ref().is_none_or(|own| !id.source.contains("/~") || id.source == *own)
    }

    /// The newest runs of these pipelines.
    ///
    /// # Errors
    /// The store's.
    pub fn runs(&self, count: usize) -> Result<Vec<StoredRun>, CliError> {
        let mut all = self.store.runs(usize::MAX)?;
        all.retain(|stored| self.is_shown(&stored.pipeline));
        all.truncate(count);
        Ok(all)
    }

    /// A run by its name, or the beginning of it where that is unique.
    ///
    /// # Errors
    /// There is none, or several.
    pub fn find_run(&self, name: &str) -> Result<StoredRun, CliError> {
        named_run(&self.runs(usize::MAX)?, name)?.cloned().ok_or_else(|| no_run(name))
    }

    /// A run as it stands; none where its record is gone.
    ///
    /// # Errors
    /// The store's.
    pub fn run(&self, name: &RunName) -> Result<Option<Run>, CliError> {
        let mut known = self.store.run(name.as_str())?;
        // A watch that begins anew may not show what is new.
        if known.is_none() {
            let read = self.store.objects().read_run(&self.key_of(name));
            read.map_err(|why| self.error("read a run", &why))?;
            known = self.store.run(name.as_str())?;
        }
        Ok(known.map(|stored| stored.run))
    }

    /// A pipeline by its name where that is unique, else by `FOLDER:NAME` or the name of its object.
    ///
    /// # Errors
    /// There is none, or several.
    pub fn find_pipeline(&self, name: &str) -> Result<StoredPipeline, CliError> {
        let all = self.pipelines()?;
        match self.named(&all, name)[..] {
            [one] => Ok(one.clone()),
            [] => Err(no_pipeline(&all.iter().map(|known| &known.id).collect::<Vec<_>>(), name)),
            [..] => Err(self.several(name, &self.named(&all, name))),
        }
    }

    fn named<'a>(&self, all: &'a [StoredPipeline], name: &str) -> Vec<&'a StoredPipeline> {
        if let Some(one) = all.iter().find(|known| self.key(&known.id).name == name) {
            return vec![one];
        }
        let ids: Vec<&PipelineId> = all.iter().map(|known| &known.id).collect();
        let found = pipelines_named(&ids, name);
        all.iter().filter(|known| found.contains(&&known.id)).collect()
    }

    fn several(&self, name: &str, found: &[&StoredPipeline]) -> CliError {
        several(name, found.iter().map(|known| self.key(&known.id).name))
    }

    /// The record, among these, of a pipeline of a folder: one that was published from there, wherever it was typed.
    pub fn that_of<'a>(
        &self,
        known: &'a [StoredPipeline],
        place: &Place,
        id: &PipelineId,
    ) -> Option<&'a StoredPipeline> {
        let folder = place.root.join(&id.folder);
        let is_published_there = |known: &StoredPipeline| {
            let published = self.object(&known.id).and_then(|object| published::of(&object));
            published.is_some_and(|one| {
                !one.gone && Path::new(&one.root).join(&known.id.folder) == folder
            })
        };
        known.iter().find(|known| {
            known.id.name == id.name
                && self.own.as_ref() == Some(&known.id.source)
                && is_published_there(known)
        })
    }

    /// Where the object of a pipeline is.
    pub fn key(&self, id: &PipelineId) -> Key {
        Key { namespace: self.namespace.clone(), name: object_name(id) }
    }

    /// The object of a pipeline.
    pub fn object(&self, id: &PipelineId) -> Option<Arc<NotebookPipeline>> {
        self.store.object(id)
    }

    /// Asks for a run of a pipeline; says its name.
    ///
    /// # Errors
    /// The server's.
    pub fn ask_for(&self, id: &PipelineId, wanted: Wanted) -> Result<RunName, CliError> {
        let made = self.store.objects().create_run(&record(&self.key(id), id, wanted));
        let made = made.map_err(|why| self.error("ask for a run", &why))?;
        RunName::from_stored(&made.name_any()).map_err(|error| CliError::bug(&error))
    }

    /// Whether a pipeline is as it should be, as its controller says it.
    pub fn condition(&self, id: &PipelineId) -> Option<Condition> {
        let conditions = self.object(id)?.status.as_ref()?.conditions.clone();
        conditions.into_iter().find(|one| one.type_ == "Ready")
    }

    /// Where the record of a run is.
    pub fn key_of(&self, run: &RunName) -> Key {
        Key { namespace: self.namespace.clone(), name: run.to_string() }
    }

    /// The root of a pipeline's files, where this machine sees them.
    pub fn root(&self, id: &PipelineId) -> Option<PathBuf> {
        let published = published::of(&*self.object(id)?)?;
        let root = PathBuf::from(published.root);
        (self.own.as_ref() == Some(&id.source) && root.is_dir()).then_some(root)
    }

    /// Where the results of a pipeline are shown to lie.
    pub fn place(&self, id: &PipelineId) -> Place {
        let root = self.root(id).unwrap_or_default();
        Place { state: PathBuf::new(), below: String::new(), root }
    }

    /// What was refused, for a person.
    pub fn error(&self, what: &str, why: &Refused) -> CliError {
        let message = format!("failed to {what} in namespace {}: {why}", self.namespace);
        match why {
            Refused::Gone => CliError::usage(message).hint("it was removed a moment ago"),
            _ => CliError::unreachable(message)
                .hint("`jupyterflow generate rbac` prints what a service account needs"),
        }
    }
}
