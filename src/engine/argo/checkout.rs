//! The files of a run that comes from a repository: fetched in each of its pods, before the step.
//!
//! Owns that whoever fetches is not the step: the container of the step never sees the credentials.

#![expect(
    clippy::disallowed_methods,
    reason = "fetches to the volume of the pod, and waits between tries"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container, ResourceRequirements, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Serialize};

use super::compile::{PLACE, Site};
use super::told::{Assignment, unpack};
use crate::engine::step::workplace::Files;
use crate::source::git::{Address, Reference, RemoteRepository, fetch_commit};

/// Where the container that fetches finds credentials.
const CREDENTIALS: &str = "/var/run/jupyterflow-credentials";
/// The name of their volume.
const VOLUME: &str = "jupyterflow-credentials";
/// A fetch that fails is tried so often, with pauses that double.
const TRIES: u32 = 5;

/// Where the files of a run's commit come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkout {
    /// The address of the repository.
    pub url: String,
    /// The branch that has the commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The tag that names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The secret with credentials, in the namespace of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
}

/// What came of a fetch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fetched {
    /// The commit is there.
    Here,
    /// The repository no longer has it.
    Gone,
    /// It could not be asked, and why.
    Failed(String),
}

/// The container that fetches before a step, of a run that has a commit.
pub fn container(
    site: &Site,
    place: VolumeMount,
    restricted: SecurityContext,
) -> Option<Container> {
    let checkout = site.checkout.as_ref()?;
    let credentials = checkout.credentials.is_some().then(|| VolumeMount {
        name: VOLUME.into(),
        mount_path: CREDENTIALS.into(),
        read_only: Some(true),
        ..VolumeMount::default()
    });
    let amounts = |amounts: [(&str, &str); 2]| -> Option<BTreeMap<String, Quantity>> {
        Some(amounts.map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned()))).into())
    };
    let args = ["--assignment", "{{workflow.parameters.assignment}}"];
    Some(Container {
        name: "checkout".into(),
        image: Some(site.program_image.clone()),
        image_pull_policy: Some("IfNotPresent".into()),
        command: Some(vec!["/jupyterflow".into(), "internal-fetch".into()]),
        args: Some(args.map(str::to_owned).to_vec()),
        volume_mounts: Some([place].into_iter().chain(credentials).collect()),
        resources: Some(ResourceRequirements {
            requests: amounts([("cpu", "100m"), ("memory", "64Mi")]),
            limits: amounts([("cpu", "1"), ("memory", "1Gi")]),
            ..ResourceRequirements::default()
        }),
        security_context: Some(restricted),
        ..Container::default()
    })
}

/// The volume with the credentials of a fetch.
pub fn volume(site: &Site) -> Option<Volume> {
    let secret = SecretVolumeSource {
        secret_name: Some(site.checkout.as_ref()?.credentials.clone()?),
        ..SecretVolumeSource::default()
    };
    Some(Volume { name: VOLUME.into(), secret: Some(secret), ..Volume::default() })
}

fn objects() -> PathBuf {
    Path::new(PLACE).join("objects.git")
}

fn verdict() -> PathBuf {
    Path::new(PLACE).join("fetched.json")
}

/// Fetches the commit of a run, and leaves word of it: what failed is the step's to tell.
///
/// # Errors
/// In words: the volume cannot be written, or the assignment is none.
pub fn fetch(assignment: &str) -> Result<(), String> {
    let assignment: Assignment = unpack(assignment)?;
    let checkout = assignment.checkout.ok_or("the run has no commit")?;
    // The step works as another user.
    rustix::process::umask(rustix::fs::Mode::empty());
    let commit = &assignment.run.revision;
    let fetched = checkout.fetch(commit).unwrap_or_else(Fetched::Failed);
    let text = serde_json::to_string(&fetched).map_err(|error| error.to_string())?;
    std::fs::write(verdict(), text).map_err(|error| error.to_string())
}

impl Checkout {
    fn fetch(&self, commit: &str) -> Result<Fetched, String> {
        let repository = RemoteRepository {
            address: Address::parse(&self.url).map_err(|error| error.to_string())?,
            reference: match (&self.branch, &self.tag) {
                (Some(branch), _) => Reference::Branch(branch.clone()),
                (_, Some(tag)) => Reference::Tag(tag.clone()),
                _ => Reference::Default,
            },
            credentials: self.credentials.is_some().then(|| CREDENTIALS.into()),
            // Nobody else is in this container, and a volume's modes are the cluster's.
            guarded: false,
            require_signed: false,
        };
        let mut tried = 1;
        loop {
            match fetch_commit(&repository, &objects(), commit) {
                Ok(true) => return Ok(Fetched::Here),
                Ok(false) => return Ok(Fetched::Gone),
                Err(error) if tried == TRIES => {
                    let short = commit.get(..12).unwrap_or(commit);
                    return Err(format!(
                        "commit {short} could not be fetched from {}: {error}",
                        repository.address
                    ));
                }
                Err(_) => std::thread::sleep(Duration::from_secs(1 << tried)),
            }
            tried += 1;
        }
    }
}

/// What the container before this one left.
///
/// # Errors
/// In words: it left nothing, or could not fetch.
pub fn fetched() -> Result<bool, String> {
    let text = std::fs::read_to_string(verdict());
    let text = text.map_err(|error| format!("nothing was fetched: {error}"))?;
    match serde_json::from_str(&text).map_err(|error| error.to_string())? {
        Fetched::Here => Ok(true),
        Fetched::Gone => Ok(false),
        Fetched::Failed(message) => Err(message),
    }
}

/// Where the files of a run are.
pub fn files(assignment: &Assignment) -> Files {
    match assignment.checkout {
        None => Files::Folder,
        Some(_) => Files::Commit { objects: objects(), commit: assignment.run.revision.clone() },
    }
}
