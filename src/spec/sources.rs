//! `NotebookSource`: where pipeline files come from, as a file for `up --config` and a resource of a
//! cluster say it.
//!
//! Owns the schema and what is wrong with a document. Whether a repository or a folder is there is for
//! others to see.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;

use super::problem::Problem;
use super::shape::Report;
use super::yaml::{Place, options, place_of, yaml_error};
use crate::types::Period;

/// The documents' version.
const API_VERSION: &str = "jupyterflow.io/v1alpha1";
/// A file may have so many.
const SOURCES: usize = 3000;
/// Their kind.
const KIND: &str = "NotebookSource";

/// A source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NotebookSource {
    /// `jupyterflow.io/v1alpha1`
    pub api_version: String,
    /// `NotebookSource`
    pub kind: String,
    /// Its name.
    pub metadata: SourceMetadata,
    /// What it is.
    pub spec: SourceSpec,
}

/// The name of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceMetadata {
    /// The name, part of the identity of each of its pipelines.
    pub name: String,
    /// The namespace, of a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// What a source is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SourceSpec {
    /// A folder with pipeline files at any depth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<DirectorySpec>,
    /// A git repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitSpec>,
    /// How often it is looked at: 10 s for folders, 60 s for repositories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll: Option<Period>,
    /// How long it must stand still before a change counts: 30 s for folders, none for repositories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settle: Option<Period>,
    /// What first sight of a pipeline with a change trigger does.
    #[serde(default)]
    pub first_sight: FirstSight,
    /// Where results go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<ResultsSpec>,
    /// The secret that webhooks are signed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<SecretReference>,
    /// The most runs at work.
    #[serde(default)]
    pub limits: LimitsSpec,
    /// Images that runs may use, as patterns, of a cluster; those of the users' own servers unless given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
    /// Kinds of objects that resource steps may make, of a cluster, as `Job.batch` or `Pod`; none unless given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<String>,
    /// Private hosts and networks that checks may ask.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_private: Vec<String>,
}

/// A folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DirectorySpec {
    /// Its path; relative to the configuration file.
    pub path: String,
    /// The claim of the volume, of a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
}

/// A git repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GitSpec {
    /// A path, a https or ssh URL, or `user@host:path`.
    pub url: String,
    /// One branch; the repository's own first one unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// One tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// All branches whose names match a pattern.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branches: Option<String>,
    /// The secret with `username` and `password`, or `ssh-privatekey` and `known_hosts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CredentialsReference>,
    /// Whether only signed commits count.
    #[serde(default)]
    pub require_signed: bool,
}

/// A secret by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CredentialsReference {
    /// Its name.
    pub secret: String,
}

/// A key of a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretReference {
    /// The secret's name.
    pub secret: String,
    /// The key.
    pub key: String,
}

/// Where results go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResultsSpec {
    /// A folder; relative to the configuration file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// A claim, of a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// An object store, of a cluster: `s3://BUCKET/PREFIX`, where needed with `?endpoint=URL&region=NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The secret with `accessKey` and `secretKey` of the object store; the pods' own identity unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CredentialsReference>,
}

/// What first sight of a pipeline does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FirstSight {
    /// It runs.
    #[default]
    Run,
    /// It is recorded.
    Adopt,
}

/// The most runs at work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LimitsSpec {
    /// Of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_runs: Option<usize>,
    /// Of each folder at its top.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_runs_per_owner: Option<usize>,
}

impl NotebookSource {
    /// The name that stands in identities: with the namespace, where there is one.
    pub fn qualified(&self) -> String {
        match &self.metadata.namespace {
            Some(namespace) => format!("{namespace}/{}", self.metadata.name),
            None => self.metadata.name.clone(),
        }
    }

    /// What is wrong with it, in words.
    pub fn mistakes(&self) -> Vec<String> {
        let spec = &self.spec;
        let mut found = Vec::new();
        let mut wrong = |is: bool, words: &str| {
            if is {
                found.push(words.to_owned());
            }
        };
        wrong(self.api_version != API_VERSION, "`apiVersion` must be jupyterflow.io/v1alpha1");
        wrong(self.kind != KIND, "`kind` must be NotebookSource");
        let sound = |name: &str| {
            !name.is_empty()
                && name.len() <= 63
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !name.starts_with('-')
                && !name.ends_with('-')
        };
        wrong(!sound(&self.metadata.name), "`metadata.name` must be a DNS label");
        let space = self.metadata.namespace.as_deref();
        wrong(space.is_some_and(|name| !sound(name)), "`metadata.namespace` must be a DNS label");
        let one = spec.directory.is_some() != spec.git.is_some();
        wrong(!one, "`spec` must have exactly one of `directory` and `git`");
        if let Some(git) = &spec.git {
            let given = [&git.branch, &git.tag, &git.branches].into_iter().flatten();
            wrong(given.count() > 1, "`spec.git` may have one of `branch`, `tag` and `branches`");
            let names = [&git.branch, &git.tag];
            let bad = names.into_iter().flatten().any(|name| !is_reference(name));
            wrong(bad, "`spec.git.branch` or `tag` is no name that git allows");
            let pattern = git.branches.as_deref().map(globset::Glob::new);
            wrong(pattern.is_some_and(|glob| glob.is_err()), "`spec.git.branches` is no pattern");
        }
        let zero = spec.poll.is_some_and(|poll| poll.seconds() == 0);
        wrong(zero, "`spec.poll` must be at least 1s");
        found
    }
}

/// Whether git would take it as the name of a branch or tag (`git check-ref-format`).
fn is_reference(name: &str) -> bool {
    let bad = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && !part.ends_with(".lock")
            && !part.ends_with('.')
    };
    !name.starts_with('-')
        && !name.contains("..")
        && !name.contains("@{")
        && name != "@"
        && !name.chars().any(bad)
        && name.split('/').all(part)
}

/// Reads the documents of a configuration file; all problems come at once.
///
/// # Errors
/// The problems.
pub fn read_sources(text: &str, file: &str) -> Result<Vec<NotebookSource>, Vec<Problem>> {
    let mut report = Report::new(file, text);
    let parsed: Result<Vec<Spanned<NotebookSource>>, _> =
        serde_saphyr::from_multiple_with_options(text, options(SOURCES));
    let documents = match parsed {
        Ok(documents) => documents,
        Err(error) => {
            let error = yaml_error(&error);
            report.error(error.place, error.message);
            return Err(report.problems);
        }
    };
    let mut names: Vec<String> = Vec::new();
    for document in &documents {
        let name = document.value.qualified();
        let mut words = document.value.mistakes();
        if names.contains(&name) {
            words.push(format!("there is a source `{name}` already"));
        }
        names.push(name);
        for words in words {
            report.error(place_of(document.referenced), words);
        }
    }
    if documents.is_empty() {
        report.error(Place { line: 1, column: 1 }, "the file has no NotebookSource".to_owned());
    }
    if report.problems.is_empty() {
        return Ok(documents.into_iter().map(|document| document.value).collect());
    }
    Err(report.problems)
}

impl fmt::Display for NotebookSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.qualified())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(spec: &str) -> Vec<String> {
        let head =
            "apiVersion: jupyterflow.io/v1alpha1\nkind: NotebookSource\nmetadata: {name: a}\n";
        let read = read_sources(&format!("{head}spec: {spec}"), "sources.yaml");
        read.err().unwrap_or_default().iter().map(|one| one.message.clone()).collect()
    }

    #[test]
    fn sources_are_read_strictly() {
        assert!(problems("{directory: {path: x}, limits: {activeRuns: 3}, poll: 1m}").is_empty());
        assert!(problems("{git: {url: x, branches: 'release-*'}, firstSight: adopt}").is_empty());
        for (spec, words) in [
            ("{}", "exactly one of"),
            ("{directory: {path: x}, git: {url: y}}", "exactly one of"),
            ("{git: {url: x, branch: a, tag: b}}", "one of `branch`, `tag`"),
            ("{git: {url: x, branch: '--upload-pack=x'}}", "no name that git allows"),
            ("{git: {url: x, branch: 'a..b'}}", "no name that git allows"),
            ("{git: {url: x, branches: '['}}", "no pattern"),
            ("{directory: {path: x}, poll: 0s}", "at least 1s"),
            ("{directory: {path: x}, pol: 1s}", "pol"),
            ("{directory: {path: x}, firstSight: never}", "never"),
        ] {
            let found = problems(spec).join("; ");
            assert!(found.contains(words), "{spec}: {found}");
        }
    }

    #[test]
    fn names_are_told_apart() {
        let one = "apiVersion: jupyterflow.io/v1alpha1\nkind: NotebookSource\nmetadata: {name: a}\n\
                   spec: {directory: {path: x}}\n";
        assert_eq!(read_sources(one, "f").unwrap()[0].qualified(), "a");
        let two = format!("{one}---\n{one}");
        let found = read_sources(&two, "f").unwrap_err();
        assert!(found[0].message.contains("already") && found[0].line > 4, "{found:?}");
        assert!(read_sources("", "f").is_err());
        assert!(read_sources("kind: Pod", "f").is_err());
    }
}
