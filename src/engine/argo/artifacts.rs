//! Results in an object store: Argo carries them as artifacts, from each pod and to the pods that need them.
//!
//! Owns what travels and where it lies. Whoever carries it is not the step: credentials are given to Argo's own containers
//! alone. They read what a step wrote, so that one that means harm can get at them: a key should open no more than the
//! results of its source.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, SecretKeySelector, Volume, VolumeMount};
use url::Url;

use super::compile::{PLACE, Site};
use super::environment::Environment;
use super::workflow::{Archive, Artifact, Named, Node, S3Artifact, Seen, Template};
use crate::engine::step::leftovers::{results_folder, step_folder};
use crate::spec::Pipeline;
use crate::store::StepState;

/// Where Amazon's own is.
const AMAZON: &str = "s3.amazonaws.com";
/// Argo's word for the run's name, which is a part of each path.
const RUN: &str = "{{workflow.name}}";

/// An object store that speaks S3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectStore {
    bucket: String,
    /// Empty, or without a slash at its ends.
    prefix: String,
    /// Host and port.
    endpoint: String,
    /// Whether it is asked without TLS.
    insecure: bool,
    region: Option<String>,
    /// The secret with `accessKey` and `secretKey`, in the namespace of the run; none where pods have an identity of their
    /// own.
    pub credentials: Option<String>,
}

/// What becomes a part of a Workflow, where Argo looks for templates.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c))
}

impl ObjectStore {
    /// Reads `s3://BUCKET/PREFIX`, with `endpoint=URL` and `region=NAME` as its query.
    ///
    /// # Errors
    /// In words: it is no such URL.
    pub fn parse(text: &str, credentials: Option<String>) -> Result<Self, String> {
        let refused = |why: &str| format!("results.url: {why}");
        let url = Url::parse(text).map_err(|error| refused(&format!("it is no URL: {error}")))?;
        if url.scheme() != "s3" {
            return Err(refused(
                "only s3://BUCKET/PREFIX is known; other stores speak S3, too, by `?endpoint=`",
            ));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refused("credentials belong into a secret: `credentials: {secret: NAME}`"));
        }
        let bucket = url.host_str().unwrap_or_default().to_owned();
        let prefix = url.path().trim_matches('/').to_owned();
        if !is_plain(&bucket) || !(prefix.is_empty() || is_plain(&prefix)) {
            return Err(refused("bucket and prefix are letters, digits, `.`, `_`, `-` and `/`"));
        }
        let mut store = Self {
            bucket,
            prefix,
            endpoint: AMAZON.into(),
            insecure: false,
            region: None,
            credentials,
        };
        for (name, value) in url.query_pairs() {
            match &*name {
                "endpoint" => {
                    (store.endpoint, store.insecure) = endpoint(&value).ok_or_else(|| {
                        refused("endpoint: http:// or https://, a host and a port")
                    })?;
                }
                "region" if is_plain(&value) => store.region = Some(value.into_owned()),
                _ => return Err(refused(&format!("{name:?} is none of endpoint and region"))),
            }
        }
        Ok(store)
    }

    /// What lies at a path of the store.
    fn at(&self, path: &str) -> S3Artifact {
        let secret = |key: &str| {
            self.credentials.as_ref().map(|name| SecretKeySelector {
                name: name.clone(),
                key: key.into(),
                optional: None,
            })
        };
        S3Artifact {
            endpoint: self.endpoint.clone(),
            bucket: self.bucket.clone(),
            key: format!("{}/{path}", self.prefix).trim_start_matches('/').to_owned(),
            insecure: self.insecure,
            region: self.region.clone(),
            access_key_secret: secret("accessKey"),
            secret_key_secret: secret("secretKey"),
            use_sdk_creds: self.credentials.is_none(),
        }
    }
}

/// Host and port of an address, and whether it is asked without TLS.
fn endpoint(text: &str) -> Option<(String, bool)> {
    let (scheme, host) = text.split_once("://")?;
    let host = host.trim_end_matches('/');
    let plain = host.chars().all(|c| c.is_ascii_alphanumeric() || ".-:[]".contains(c));
    let known = matches!(scheme, "http" | "https") && !host.is_empty() && plain;
    known.then(|| (host.to_owned(), scheme == "http"))
}

/// Where a pod leaves what travels. Each is a volume, and nothing below one: Argo's containers, which have the credentials,
/// follow a link that a step put in the place of a folder, but none below it.
const RESULTS: Left = Left { name: "jupyterflow-results", path: "/var/run/jupyterflow-results" };
const TOLD: Left = Left { name: "jupyterflow-told", path: "/var/run/jupyterflow-told" };

struct Left {
    name: &'static str,
    path: &'static str,
}

/// Where a pod writes results that travel.
pub fn root() -> PathBuf {
    Path::new(PLACE).join("results")
}

/// Where a pod finds the results of earlier ones, as in a root. Below a volume of ours Argo would make folders that nobody but
/// its own user may enter; here each is a mount of its own.
pub fn before() -> PathBuf {
    format!("{PLACE}-before").into()
}

/// Where a pod tells others.
pub fn told() -> PathBuf {
    TOLD.path.into()
}

/// Where a pod finds what earlier ones told.
pub fn told_before() -> PathBuf {
    format!("{}-before", TOLD.path).into()
}

/// The volumes of what travels.
pub fn volumes(site: &Site) -> impl Iterator<Item = Volume> {
    let both = site.store.is_some().then_some([RESULTS, TOLD]);
    both.into_iter().flatten().map(|left| Volume {
        name: left.name.into(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    })
}

/// Whether a secret cannot be the one of a store: Argo makes a volume of its name.
fn refuses_name(secret: &str, environment: &Environment) -> Option<String> {
    let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let taken =
        ["input-artifacts", "var-run-argo", "tmp-dir-argo", "argo-staging", "argo-mainctr-fs"];
    let taken = taken.contains(&secret)
        || secret.starts_with("jupyterflow")
        || environment.volumes.iter().any(|volume| volume.name == secret);
    if taken {
        return Some(format!("results.credentials: {secret} is the name of a volume of its runs"));
    }
    let fits = secret.chars().all(label)
        && secret.len() <= 63
        && !secret.starts_with('-')
        && !secret.ends_with('-');
    (!fits).then(|| {
        format!("results.credentials: {secret} is more than small letters, digits and `-`, of which Argo makes a volume")
    })
}

/// Why the results of a pipeline cannot travel; none where they can.
pub fn refuses(site: &Site, pipeline: &Pipeline) -> Option<String> {
    let store = site.store.as_ref()?;
    if pipeline.folder().contains("{{") {
        return Some(format!(
            "folder {}: Argo would take its name for a template",
            pipeline.folder()
        ));
    }
    refuses_name(store.credentials.as_ref()?, &site.environment)
}

/// Lets the results of a template's pod travel, and those that it needs.
pub fn carry(
    site: &Site,
    pipeline: &Pipeline,
    (tasks, kept): (&[String], &[StepState]),
    at: usize,
    template: &mut Template,
) {
    let (Some(store), Some(container)) = (&site.store, &mut template.container) else { return };
    let steps = pipeline.steps();
    let folder = |at: usize| step_folder(pipeline.folder(), RUN, steps[at].name(), None);
    // A run that was executed in a former life under the same name left its own.
    let told_at =
        format!("{}/.run-{{{{workflow.uid}}}}/told", results_folder(pipeline.folder(), RUN));
    let artifact = |name: &str, path: &Path, key: &str| Artifact {
        name: name.into(),
        path: path.to_string_lossy().into_owned(),
        optional: true,
        archive: Some(Archive::default()),
        s3: store.at(key),
        ..Artifact::default()
    };
    // Whoever reads them is another user than Argo's.
    let mut take = |name: &str, path: &Path, key: &str| {
        let artifact = artifact(name, path, key);
        let taken = Artifact { mode: Some(0o755), recurse_mode: true, ..artifact };
        template.inputs.artifacts.push(taken);
    };
    take("told", &told_before(), &told_at);
    for earlier in pipeline.graph().ancestors(at) {
        if !steps[earlier].outputs().is_empty() {
            // What an earlier run left stays where it is: beside the step's log.
            let own = |state: &&StepState| state.record.name == steps[earlier].name();
            let log = kept.iter().find(own).map(|state| Path::new(&state.record.log));
            let left = log.and_then(Path::parent).and_then(Path::to_str).map(str::to_owned);
            let key = left.unwrap_or_else(|| folder(earlier));
            take(&format!("step-{}", tasks[earlier]), &before().join(&key), &key);
        }
    }
    let mut own = folder(at);
    if !steps[at].sweep().is_empty() {
        own.push_str("/{{inputs.parameters.index}}");
    }
    for (left, key) in [(RESULTS, own), (TOLD, told_at)] {
        container.volume_mounts.get_or_insert_default().push(VolumeMount {
            name: left.name.into(),
            mount_path: left.path.into(),
            ..VolumeMount::default()
        });
        template.outputs.artifacts.push(artifact(left.name, Path::new(left.path), &key));
    }
}

/// Whether the results of a pod that told of a success did not reach their store, or are to be replaced by those of
/// another: Argo passes on what a pod told also where it could not carry what it left.
pub fn are_missing(seen: &Seen, node: &Node) -> bool {
    let named = |all: &[Named]| all.iter().any(|one| one.name == RESULTS.name);
    let saved = node.outputs.as_ref().is_some_and(|outputs| named(&outputs.artifacts));
    let again = matches!(node.phase.as_deref(), Some("Error" | "Failed"));
    named(&seen.spec.volumes) && (again || !saved)
}

/// Leaves what a step's folder holds where Argo takes it from, so that Argo's user may read it. In the place of a link is what
/// it leads to, since a store knows none: a file, or a folder below the step's own.
///
/// # Errors
/// In words: a file cannot be read or written.
pub fn leave(folder: &Path) -> Result<(), String> {
    if !folder.exists() {
        return Ok(());
    }
    copy_all(folder, Path::new(RESULTS.path)).map_err(|error| error.to_string())
}

fn copy_all(folder: &Path, to: &Path) -> std::io::Result<()> {
    let own = folder.canonicalize()?;
    let inside = |path: &Path| path.canonicalize().is_ok_and(|real| real.starts_with(&own));
    let entries =
        walkdir::WalkDir::new(folder).follow_links(true).into_iter().filter_entry(|entry| {
            !entry.file_type().is_dir() || !entry.path_is_symlink() || inside(entry.path())
        });
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            // A link that leads nowhere, or in a circle.
            Err(error) if error.path().is_some_and(Path::is_symlink) => continue,
            Err(error) => return Err(error.into()),
        };
        let path = entry.path();
        let target = to.join(path.strip_prefix(folder).unwrap_or(path));
        let done = if entry.file_type().is_dir() && entry.depth() > 0 {
            std::fs::create_dir_all(&target).map(|()| 0o755)
        } else if entry.file_type().is_file() {
            std::fs::copy(path, &target).map(|_| 0o644)
        } else {
            continue;
        };
        match done
            .and_then(|mode| std::fs::set_permissions(&target, PermissionsExt::from_mode(mode)))
        {
            // What it leads to is somebody else's.
            Err(_) if entry.path_is_symlink() => {}
            Err(error) => {
                let words = format!("{}: {error}", path.display());
                return Err(std::io::Error::new(error.kind(), words));
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_bucket_prefix_endpoint_and_region() {
        let store = ObjectStore::parse("s3://data/a/b/", None).unwrap();
        let s3 = store.at("c/d");
        assert_eq!((&*s3.endpoint, &*s3.bucket, &*s3.key), (AMAZON, "data", "a/b/c/d"));
        assert!(!s3.insecure && s3.use_sdk_creds);
        let text = "s3://data?endpoint=http://minio.minio:9000&region=us-east-1";
        let s3 = ObjectStore::parse(text, Some("s".into())).unwrap().at("c");
        assert_eq!((&*s3.endpoint, &*s3.key, s3.insecure), ("minio.minio:9000", "c", true));
        assert_eq!(s3.region.as_deref(), Some("us-east-1"));
        assert_eq!(s3.secret_key_secret.unwrap().key, "secretKey");
        assert!(!s3.use_sdk_creds);
    }

    #[test]
    fn what_is_no_store_says_why() {
        for (text, words) in [
            ("data/a", "it is no URL"),
            ("gs://data/a", "only s3://BUCKET/PREFIX is known"),
            ("s3://key:secret@data/a", "credentials belong into a secret"),
            ("s3:///a", "bucket and prefix are letters"),
            ("s3://data/{{workflow.name}}", "bucket and prefix are letters"),
            ("s3://data?endpoint=minio", "endpoint: http:// or https://"),
            ("s3://data?endpoint=https://a:b@minio", "endpoint: http:// or https://"),
            ("s3://data?profile=x", "\"profile\" is none of endpoint and region"),
        ] {
            let refused = ObjectStore::parse(text, None).unwrap_err();
            assert!(refused.contains(words) && !refused.contains("secret@"), "{text}: {refused}");
        }
    }

    #[test]
    fn what_is_left_are_files_that_everybody_may_read() {
        let place = tempfile::tempdir().unwrap();
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        std::fs::create_dir_all(from.join("deep")).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(from.join("deep/a"), "a").unwrap();
        std::fs::set_permissions(from.join("deep/a"), PermissionsExt::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink("deep/a", from.join("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", from.join("broken")).unwrap();
        std::os::unix::fs::symlink("..", from.join("deep/circle")).unwrap();
        std::os::unix::fs::symlink("deep", from.join("latest")).unwrap();
        std::fs::create_dir(place.path().join("other")).unwrap();
        std::fs::write(place.path().join("other/b"), "b").unwrap();
        std::os::unix::fs::symlink("../other", from.join("elsewhere")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, from.join("pipe"), rustix::fs::Mode::RUSR).unwrap();
        copy_all(&from, &to).unwrap();
        let mode = std::fs::metadata(to.join("deep/a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        assert!(to.join("link").symlink_metadata().unwrap().is_file());
        assert!(to.join("latest/a").is_file());
        for name in ["broken", "pipe", "deep/circle", "elsewhere"] {
            assert!(to.join(name).symlink_metadata().is_err(), "{name}");
        }
    }

    #[test]
    fn a_secret_is_named_as_a_volume_can_be() {
        let environment =
            serde_json::from_value(serde_json::json!({"volumes": [{"name": "home"}]}));
        let environment: Environment = environment.unwrap();
        assert_eq!(refuses_name("bucket-1", &environment), None);
        for name in ["home", "jupyterflow", "input-artifacts", "team.bucket", "-a", ""] {
            assert!(name.is_empty() || refuses_name(name, &environment).is_some(), "{name}");
        }
    }
}
