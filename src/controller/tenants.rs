//! For whom sources act: namespace, environment, volumes and rights of each pipeline's runs.
//!
//! Owns that all of it comes from the source's object and the users' own servers, never from the pipeline's
//! file.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use globset::Glob;
use serde_json::Value;

use super::environments::Environments;
use super::kubernetes::Kubernetes;
use super::objects::{Key, Objects};
use super::records::bare;
use super::resources::Tenant;
use super::{published, records};
use crate::engine::argo::Sites;
use crate::engine::argo::artifacts::{self, ObjectStore};
use crate::engine::argo::checkout::Checkout;
use crate::engine::argo::compile::Site;
use crate::engine::argo::environment::Environment;
use crate::spec::manifest::{self, Mount, Needs};
use crate::spec::{NotebookSource, Pipeline, SourceSpec, Work};
use crate::store::StoredRun;
use crate::types::{PipelineId, slug};

/// The service account of runs whose user's server has none of its own.
const SERVICE_ACCOUNT: &str = "jupyterflow";

/// Where the results of repositories are in pods, unless their source says so.
const RESULTS: &str = "/var/lib/jupyterflow";

/// A source, and for whom it acts; nobody in particular for one of a namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    /// What it is.
    pub source: NotebookSource,
    /// For whom it acts, of one of the whole cluster.
    pub tenants: Vec<Tenant>,
    /// The generation of its object.
    pub generation: Option<i64>,
}

/// Who runs what, and with what.
#[derive(Clone)]
pub struct Tenants {
    served: Arc<Mutex<Vec<Served>>>,
    objects: Kubernetes,
    environments: Environments,
    program_image: String,
    /// Kinds of objects that pipelines which users published may make.
    kinds: Vec<String>,
    secrets: Arc<Mutex<HashMap<Key, Labelled>>>,
}

/// When a secret was looked at, and what was seen.
type Labelled = (Instant, Secret);

/// What is known of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Secret {
    Absent,
    /// With whom its label names.
    Of(Option<String>),
}

/// The label of a secret with the owner whose runs may use it.
pub const OWNER: &str = "jupyterflow.io/owner";
/// What is known of a secret counts for so long.
const KNOWN: Duration = Duration::from_secs(30);

/// The folder at the top of a source.
fn owner(id: &PipelineId) -> &str {
    id.folder.split('/').next().unwrap_or_default()
}

/// Whose runs those of a pipeline are: its folder's at the top of a volume, nobody's in particular of a
/// repository that is a namespace's own.
fn whose<'a>(id: &'a PipelineId, served: &Served, tenant: Option<&Tenant>) -> &'a str {
    if served.source.spec.git.is_some() && tenant.is_none() { "" } else { owner(id) }
}

/// The tenant of a folder; the first that matches counts.
pub fn tenant<'a>(tenants: &'a [Tenant], owner: &str) -> Option<&'a Tenant> {
    let fits = |tenant: &&Tenant| {
        tenant.folder == owner
            || Glob::new(&tenant.folder).is_ok_and(|one| one.compile_matcher().is_match(owner))
    };
    tenants.iter().find(fits).filter(|_| !owner.is_empty())
}

impl Tenants {
    /// Nobody yet.
    pub fn new(
        objects: Kubernetes,
        environments: Environments,
        program_image: String,
        kinds: Vec<String>,
    ) -> Self {
        let (served, secrets) = (Arc::default(), Arc::default());
        Self { served, objects, environments, program_image, kinds, secrets }
    }

    /// Serves these sources from now on.
    pub fn serve(&self, served: Vec<Served>) {
        *self.served.lock().unwrap_or_else(PoisonError::into_inner) = served;
    }

    fn of(&self, id: &PipelineId) -> Option<(Served, Option<Tenant>)> {
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        let found = served.iter().find(|one| one.source.qualified() == bare(&id.source))?;
        if found.source.metadata.namespace.is_some() {
            return Some((found.clone(), None));
        }
        let tenant = tenant(&found.tenants, owner(id))?;
        Some((found.clone(), Some(tenant.clone())))
    }

    /// The namespace of a pipeline's object and runs.
    pub fn namespace_of(&self, id: &PipelineId) -> Option<String> {
        match bare(&id.source).split_once('/') {
            // Whatever becomes of the source, its namespace is in its name.
            Some((namespace, _)) => Some(namespace.to_owned()),
            // One whose source or tenant is gone stays where it is.
            None => self.of(id).and_then(|(_, tenant)| Some(tenant?.namespace)).or_else(|| {
                let all = self.objects.pipelines();
                let own = all.iter().find(|one| records::identity(one).as_ref() == Some(id))?;
                own.metadata.namespace.clone()
            }),
        }
    }

    /// The site of a pipeline that was published by its user, or made by hand.
    fn published(&self, id: &PipelineId, namespace: String) -> Result<Site, String> {
        let by_hand = id.source == records::by_hand(&namespace);
        let name = if by_hand { id.name.to_string() } else { records::object_name(id) };
        let object = self.objects.pipeline(&Key { namespace: namespace.clone(), name });
        let told = object.and_then(|object| published::of(&object));
        let environment = match &told {
            Some(told) => self.environments.named(&namespace, &told.environment),
            None => self.environments.of(&namespace, "", None),
        };
        let mut environment = environment.ok_or_else(|| self.environments.why_none(&namespace))?;
        let claims = environment.volume_mounts.iter().map(|mount| mount.mount_path.clone());
        let first = claims.into_iter().find(|path| environment.shares(Path::new(path)));
        let root = told.map(|told| told.root).or(first).ok_or("the server has no volume")?;
        if !environment.shares(Path::new(&root)) {
            return Err(format!("{root} lies on no volume that other pods could mount"));
        }
        own_account(&mut environment);
        let program_image = self.program_image.clone();
        Ok(Site {
            environment,
            program_image,
            root,
            checkout: None,
            store: None,
            parallelism: None,
        })
    }

    fn compiled(&self, id: &PipelineId) -> Result<Site, String> {
        let namespace = self.namespace_of(id).ok_or("no source serves it")?;
        if is_published(id) {
            return self.published(id, namespace);
        }
        let (served, tenant) = self.of(id).ok_or("its source is gone")?;
        let whose = whose(id, &served, tenant.as_ref());
        let Place { path, claim, checkout, store } = Place::of(&served.source.spec, id)?;
        let mut environment =
            self.environments.of(&namespace, whose, claim.as_deref()).unwrap_or_default();
        let claims = tenant.as_ref().map(|tenant| tenant.claims.as_slice()).unwrap_or_default();
        // A tenant's claim is its folder's, and of one that all share each has its own folder alone.
        let own = || format!("{}/{}", path.trim_end_matches('/'), owner(id));
        match (&tenant, claims.first(), &claim) {
            // Nothing of a run is for a user's home.
            _ if store.is_some() => {
                environment.volumes.clear();
                environment.volume_mounts.clear();
            }
            (Some(_), Some(claim), _) => mount(&mut environment, claim, &own(), None),
            (Some(_), None, Some(claim)) => {
                mount(&mut environment, claim, &own(), Some(owner(id)));
            }
            (None, _, Some(claim)) => mount(&mut environment, claim, &path, None),
            (_, _, None) => return Err("its source names no claim that runs could mount".into()),
        }
        match tenant {
            Some(tenant) => {
                environment.service_account = Some(tenant.service_account);
                if let Some(uid) = tenant.uid {
                    run_as(&mut environment, uid);
                }
            }
            None => own_account(&mut environment),
        }
        Ok(Site {
            environment,
            program_image: self.program_image.clone(),
            root: path,
            checkout,
            store,
            parallelism: None,
        })
    }

    /// For whom a secret is labelled.
    fn labelled(&self, key: &Key) -> Result<Secret, String> {
        let mut known = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, labelled)) = known.get(key)
            && at.elapsed() < KNOWN
        {
            return Ok(labelled.clone());
        }
        let labels = self.objects.secret_labels(&key.namespace, &key.name);
        let labels = labels.map_err(|refused| format!("secret {key}: {refused}"))?;
        let labelled = labels.map_or(Secret::Absent, |mut labels| Secret::Of(labels.remove(OWNER)));
        known.insert(key.clone(), (Instant::now(), labelled.clone()));
        Ok(labelled)
    }

    /// Why a secret may not be used; none where it may.
    fn refuses_secret(&self, id: &PipelineId, site: &Site, name: &str) -> Option<String> {
        let namespace = self.namespace_of(id)?;
        let user = site.environment.owner.as_deref().filter(|_| is_published(id));
        let served = self.of(id);
        let own = served.as_ref().map(|(served, tenant)| whose(id, served, tenant.as_ref()));
        let owner = user.or(own).unwrap_or_else(|| owner(id));
        let owner = slug(if owner.is_empty() { &namespace } else { owner }, 63);
        let key = Key { namespace, name: name.to_owned() };
        match self.labelled(&key) {
            Err(message) => Some(message),
            Ok(Secret::Absent) => {
                Some(format!("there is no secret {name} in namespace {}", key.namespace))
            }
            Ok(Secret::Of(Some(for_whom))) if for_whom == owner => None,
            // Whose it is instead is not said.
            Ok(Secret::Of(_)) => Some(format!("secret {name} is not labelled {OWNER}={owner}")),
        }
    }

    /// Why an object may not be made; none where it may.
    fn refuses_object(&self, id: &PipelineId, site: &Site, object: &Value) -> Option<String> {
        if object.is_null() {
            return Some("its manifest is not known yet".into());
        }
        let (kind, needs) = (manifest::kind(object), Needs::of(object));
        let allowed = match self.of(id) {
            Some((_, Some(tenant))) => tenant.kinds,
            Some((served, None)) => served.source.spec.kinds,
            None => self.kinds.clone(),
        };
        if !allowed.contains(&kind) {
            let allowed = if allowed.is_empty() { "none is".into() } else { allowed.join(", ") };
            return Some(format!(
                "kind {kind} is none that resource steps here may make ({allowed})"
            ));
        }
        if let Some(what) = needs.node.first() {
            return Some(format!("{kind} reaches its node by {what}"));
        }
        let own = site.environment.service_account.as_deref();
        if let Some(other) = needs.accounts.iter().find(|name| Some(name.as_str()) != own) {
            return Some(format!(
                "{kind} names service account {other}, which is not that of its runs"
            ));
        }
        if let Some(refused) = needs.mounts.iter().find_map(|mount| refuses_mount(site, mount)) {
            return Some(format!("{kind} {refused}"));
        }
        let tenant = self.of(id).and_then(|(_, tenant)| tenant);
        if let Some(uid) = tenant.and_then(|tenant| tenant.uid)
            && (needs.users.iter().any(|user| *user != uid)
                || (needs.users.is_empty() && !needs.mounts.is_empty()))
        {
            return Some(format!("{kind} must say runAsUser {uid}, which is its tenant's"));
        }
        let refused = needs.images.iter().find_map(|image| self.refuses(id, image));
        let kept = needs.secrets.iter().find(|secret| site.keeps(secret));
        let kept = kept
            .map(|secret| format!("secret {secret} is for the results of runs, and for no step"));
        refused
            .or(kept)
            .or_else(|| needs.secrets.iter().find_map(|one| self.refuses_secret(id, site, one)))
    }

    /// Why an image may not be used; none where it may.
    fn refuses(&self, id: &PipelineId, image: &str) -> Option<String> {
        let namespace = self.namespace_of(id)?;
        let allowed = match self.of(id) {
            Some((_, Some(tenant))) => tenant.images,
            Some((served, None)) => served.source.spec.images,
            None => Vec::new(),
        };
        let allowed = Some(allowed).filter(|images| !images.is_empty());
        let own = || self.environments.images(&namespace);
        let allowed = allowed.unwrap_or_else(own);
        let fits = |pattern: &String| {
            pattern == image
                || Glob::new(pattern).is_ok_and(|one| one.compile_matcher().is_match(image))
        };
        (!allowed.iter().any(fits)).then(|| {
            let known =
                if allowed.is_empty() { "there is none yet".into() } else { allowed.join(", ") };
            format!("image {image} is none that runs here may use ({known})")
        })
    }
}

/// Why an object may not have a claim as it wants it: it gets what the runs get, and no more.
fn refuses_mount(site: &Site, mount: &Mount) -> Option<String> {
    let environment = &site.environment;
    let of_claim = |name: &str| {
        let volume = environment.volumes.iter().find(|volume| volume.name == name);
        let claim = volume.and_then(|volume| volume.persistent_volume_claim.as_ref());
        claim.is_some_and(|claim| claim.claim_name == mount.claim)
    };
    let own = environment.volume_mounts.iter().filter(|one| of_claim(&one.name));
    let own: Vec<(&str, bool)> = own
        .map(|one| (one.sub_path.as_deref().unwrap_or_default(), one.read_only == Some(true)))
        .collect();
    if own.is_empty() {
        return Some(format!("names claim {}, which its runs do not mount", mount.claim));
    }
    let fits = |(part, read_only): &(&str, bool)| {
        let inside = match &mount.part {
            Some(wanted) => Path::new(wanted).starts_with(part),
            // Where it is mounted is not the object's to say: the whole of it, to be written.
            None => part.is_empty(),
        };
        inside && (mount.read_only || !read_only)
    };
    (!own.iter().any(fits)).then(|| {
        let (part, read_only) = own[0];
        let only = if read_only { ", readOnly: true" } else { "" };
        format!("must mount claim {} as its runs do: subPath: {part:?}{only}", mount.claim)
    })
}

/// Whether a pipeline is of no source that is looked at here.
fn is_published(id: &PipelineId) -> bool {
    bare(&id.source).split_once('/').is_some_and(|(_, name)| name.starts_with(['~', '-']))
}

/// Where the files and the results of a source are in the pods of its runs.
struct Place {
    path: String,
    claim: Option<String>,
    checkout: Option<Checkout>,
    store: Option<ObjectStore>,
}

impl Place {
    fn of(spec: &SourceSpec, id: &PipelineId) -> Result<Self, String> {
        if let Some(directory) = &spec.directory {
            let (path, claim) = (directory.path.clone(), directory.claim.clone());
            return Ok(Self { path, claim, checkout: None, store: None });
        }
        let git = spec.git.as_ref().ok_or("its source names neither a folder nor a repository")?;
        let results = spec.results.clone().unwrap_or_default();
        if results.url.is_some() && (results.claim.is_some() || results.path.is_some()) {
            return Err(
                "results.url: results go to an object store or to a claim, not to both".into()
            );
        }
        let secret = results.credentials.map(|one| one.secret);
        let store = results.url.map(|url| ObjectStore::parse(&url, secret)).transpose()?;
        let path = match &store {
            Some(_) => artifacts::root().to_string_lossy().into_owned(),
            None => results.path.unwrap_or_else(|| RESULTS.into()),
        };
        let branch = id.source.split_once('@').map(|(_, branch)| branch.to_owned());
        Ok(Self {
            path,
            store,
            claim: results.claim,
            checkout: Some(Checkout {
                url: git.url.clone(),
                branch: branch.or_else(|| git.branch.clone()),
                tag: git.tag.clone(),
                credentials: git.credentials.as_ref().map(|one| one.secret.clone()),
            }),
        })
    }
}

/// The service account of the user's server, or that of runs.
fn own_account(environment: &mut Environment) {
    let own = environment.service_account.take().filter(|name| name != "default");
    environment.service_account = Some(own.unwrap_or_else(|| SERVICE_ACCOUNT.into()));
}

/// Mounts a claim at a path, where it is not there already.
fn mount(environment: &mut Environment, claim: &str, path: &str, below: Option<&str>) {
    let there = environment.volume_mounts.iter().any(|mount| {
        let volume = environment.volumes.iter().find(|volume| volume.name == mount.name);
        let own = volume.and_then(|volume| volume.persistent_volume_claim.as_ref());
        mount.mount_path.trim_end_matches('/') == path.trim_end_matches('/')
            && mount.sub_path.as_deref() == below
            && own.is_some_and(|own| own.claim_name == claim)
    });
    if !there {
        let same = |one: &str| one.trim_end_matches('/') == path.trim_end_matches('/');
        environment.volume_mounts.retain(|mount| !same(&mount.mount_path));
        environment.mount(claim, path, below);
    }
}

/// Runs all as a user.
fn run_as(environment: &mut Environment, uid: i64) {
    let pod = environment.security_context.get_or_insert_default();
    pod.run_as_user = Some(uid);
    if let Some(container) = &mut environment.container_security_context {
        container.run_as_user = Some(uid);
    }
}

impl Sites for Tenants {
    fn namespace(&self, pipeline: &PipelineId) -> Option<String> {
        self.namespace_of(pipeline)
    }

    fn site(&self, run: &StoredRun) -> Result<Site, String> {
        self.compiled(&run.pipeline)
    }

    fn lacks(&self, id: &PipelineId, pipeline: &Pipeline) -> Option<String> {
        let site = match self.compiled(id) {
            Ok(site) => site,
            Err(message) => return Some(message),
        };
        for step in pipeline.steps() {
            if let Work::Resource(resource) = step.work() {
                let refused = self.refuses_object(id, &site, &resource.manifest);
                if let Some(refused) = refused {
                    return Some(format!("step `{}`: {refused}", step.name()));
                }
                continue;
            }
            let image = step.image();
            match (image, &site.environment.image) {
                (Some(image), _) => {
                    if let Some(refused) = self.refuses(id, image) {
                        return Some(refused);
                    }
                }
                (None, Some(_)) => {}
                (None, None) => {
                    let namespace = self.namespace_of(id).unwrap_or_default();
                    let why = self.environments.why_none(&namespace);
                    return Some(format!("no image is known: {why}"));
                }
            }
        }
        let secrets = pipeline.steps().iter().flat_map(|step| step.secrets().values());
        let secrets = secrets.map(|secret| &secret.secret);
        if let Some(refused) = artifacts::refuses(&site, pipeline) {
            return Some(refused);
        }
        if let Some(kept) = secrets.clone().find(|secret| site.keeps(secret)) {
            return Some(format!("secret {kept} is for the results of runs, and for no step"));
        }
        // A pod whose secret is not there would wait for ever.
        let fetch = site.checkout.iter().filter_map(|checkout| checkout.credentials.as_ref());
        let keep = site.store.iter().filter_map(|store| store.credentials.as_ref());
        secrets.chain(fetch).chain(keep).find_map(|secret| self.refuses_secret(id, &site, secret))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_tenant_that_matches_counts() {
        let one = |folder: &str, namespace: &str| Tenant {
            folder: folder.into(),
            namespace: namespace.into(),
            ..Tenant::default()
        };
        let tenants = [one("ann", "ann"), one("team-*", "teams"), one("*", "others")];
        let of = |owner| tenant(&tenants, owner).map(|tenant| tenant.namespace.as_str());
        assert_eq!(of("ann"), Some("ann"));
        assert_eq!(of("team-b"), Some("teams"));
        assert_eq!(of("bob"), Some("others"));
        assert_eq!(of(""), None);
    }
}
