//! Results in an object store: Argo carries them as artifacts, from each pod and to the pods that need them.
//!
//! Owns what travels and where it lies. Whoever carries it is not the step: credentials are seen by Argo's own containers
//! alone.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::SecretKeySelector;
use serde::{Deserialize, Serialize};
use url::Url;

use super::compile::{PLACE, Site};
use super::workflow::{Archive, Artifact, S3Artifact, Template};
use crate::engine::step::leftovers::{results_folder, step_folder};
use crate::spec::Pipeline;

/// Where Amazon's own is.
const AMAZON: &str = "s3.amazonaws.com";
/// Argo's word for the run's name, which is a part of each path.
const RUN: &str = "{{workflow.name}}";
/// What the pods of a run told, among its results. A Workflow that is made anew under the same name has its own.
const TOLD: &str = ".run";

/// An object store that speaks S3.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// Where a pod writes results that travel.
pub fn root() -> PathBuf {
    Path::new(PLACE).join("results")
}

/// Where a pod finds the results of earlier ones, as in a root. Below a volume of ours Argo would make folders that nobody but
/// its own user may enter; here each is a mount of its own.
pub fn before() -> PathBuf {
    format!("{PLACE}-before").into()
}

/// Where pods of a run tell each other, below a folder of its results.
pub fn told(results: &Path) -> PathBuf {
    results.join(TOLD)
}

/// Lets the results of a template's pod travel, and those that it needs.
pub fn carry(
    site: &Site,
    pipeline: &Pipeline,
    tasks: &[String],
    at: usize,
    template: &mut Template,
) {
    let (Some(store), true) = (&site.store, template.container.is_some()) else { return };
    let steps = pipeline.steps();
    let folder = |at: usize| step_folder(pipeline.folder(), RUN, steps[at].name(), None);
    let run = results_folder(pipeline.folder(), RUN);
    let told_of = |this: &Path| told(&this.join(&run)).join("told").to_string_lossy().into_owned();
    // A run that was executed in a former life under the same name left its own.
    let told_at = format!("{run}/{TOLD}-{{{{workflow.uid}}}}/told");
    let left = |name: &str, path: String, key: &str| Artifact {
        name: name.into(),
        path,
        optional: true,
        archive: Some(Archive::default()),
        s3: store.at(key),
        ..Artifact::default()
    };
    // Whoever reads them is another user than Argo's.
    let taken = |name: &str, path: String, key: &str| Artifact {
        mode: Some(0o755),
        recurse_mode: true,
        ..left(name, path, key)
    };
    let path = |this: PathBuf, key: &str| this.join(key).to_string_lossy().into_owned();
    template.inputs.artifacts.push(taken("told", told_of(&before()), &told_at));
    for before_it in pipeline.graph().ancestors(at) {
        if steps[before_it].outputs().is_empty() {
            continue;
        }
        let key = folder(before_it);
        let name = format!("step-{}", tasks[before_it]);
        template.inputs.artifacts.push(taken(&name, path(before(), &key), &key));
    }
    let own = if steps[at].sweep().is_empty() {
        folder(at)
    } else {
        format!("{}/{{{{inputs.parameters.index}}}}", folder(at))
    };
    template.outputs.artifacts.push(left("results", path(root(), &own), &own));
    template.outputs.artifacts.push(left("told", told_of(&root()), &told_at));
}

/// Lets everybody read what a pod left: Argo's containers carry it as another user.
///
/// # Errors
/// A file cannot be read or written.
pub fn open(folder: &Path) -> std::io::Result<()> {
    for entry in walkdir::WalkDir::new(folder) {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let wanted = match (metadata.is_dir(), metadata.is_file()) {
            (true, _) => 0o555,
            (_, true) => 0o444,
            // What a link leads to is not what the step left.
            _ => continue,
        };
        let mode = metadata.permissions().mode();
        if mode & wanted != wanted {
            std::fs::set_permissions(entry.path(), PermissionsExt::from_mode(mode | wanted))?;
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
}
