//! The sources of a state, each with what looks at it.
//!
//! Owns wiring them: a folder of its own, or those that a configuration names. A state remembers its
//! configuration, so that every command and every host sees the same.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::CliError;
use super::place::Place;
use super::print;
use crate::check::{Access, Allowed, HttpChecks};
use crate::plan::Limits;
use crate::reconcile::{Look, Memory, Scope, Settle};
use crate::source::git::{Address, Health, Mirror, Reference, RemoteRepository};
use crate::source::{DirectorySource, GitSource, Hints, Patient, Source};
use crate::spec::{FirstSight, GitSpec, NotebookSource, SourceSpec, read_sources};
use crate::store::{SqliteStore, StoreError};
use crate::types::{Digest, Period, counted, slug};
use crate::web::Hook;

/// The name of the source of a directory that no configuration names.
pub const LOCAL: &str = "local";
/// How long a directory must stand still before a change counts, unless it says so itself.
const SETTLE: Period = Period::from_seconds(30);
/// How often sources are looked at, unless they say so themselves.
const POLL_FOLDER: Period = Period::from_seconds(10);
const POLL_GIT: Period = Period::from_seconds(60);

/// A volume has this long to answer before others go on without it.
const VOLUME: Duration = Duration::from_secs(10);

/// The sources of a configuration, with the folder that its paths are relative to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Configuration {
    /// That folder.
    pub base: PathBuf,
    /// The sources.
    pub sources: Vec<NotebookSource>,
    /// Where the credentials of each source are put, of a cluster.
    #[serde(skip)]
    pub credentials: Option<PathBuf>,
}

/// One source, or one branch of it.
pub struct Lane {
    /// Its name, part of every identity.
    pub name: String,
    /// How passes look.
    pub scope: Scope,
    /// What looks.
    pub source: Box<dyn Source>,
    /// Who asks what its checks ask.
    pub checks: HttpChecks,
    /// What is remembered between looks.
    pub memory: Memory,
    /// How often it is looked at.
    pub poll: Period,
    /// Whether it is a repository's.
    pub is_repository: bool,
    /// Who tells that a look is worth while.
    pub hints: Option<Arc<Hints>>,
}

/// How lanes look.
#[derive(Clone, Copy, Debug)]
pub struct Looking {
    /// The most points of a sweep.
    pub max_points: usize,
    /// Whether they wait for sources to stand still, and for no answer.
    pub stays: bool,
}

impl Configuration {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// It cannot be read, or is not valid.
    pub fn read(path: &Path) -> Result<Self, CliError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| CliError::usage(format!("failed to read {shown}: {error}")))?;
        let sources = read_sources(&text, &shown).map_err(|problems| {
            problems.iter().for_each(print::problem);
            let count = counted(problems.len(), "problem", "problems");
            CliError::usage(format!("{shown} is not valid: {count}"))
        })?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let base = folder.unwrap_or(Path::new(".")).canonicalize();
        let base = base.map_err(|error| CliError::usage(format!("{shown}: {error}")))?;
        let configuration = Self { base, sources, credentials: None };
        for source in &configuration.sources {
            configuration.check(source)?;
        }
        Ok(configuration)
    }

    /// The one repository of `up URL`.
    ///
    /// # Errors
    /// It is no address.
    pub fn of_repository(url: &str, base: &Path, poll: Option<Period>) -> Result<Self, CliError> {
        let text = serde_json::json!({
            "apiVersion": "jupyterflow.io/v1alpha1", "kind": "NotebookSource",
            "metadata": {"name": LOCAL},
            "spec": {"git": {"url": url}, "results": {"path": "."}, "poll": poll},
        });
        let source: NotebookSource =
            serde_json::from_value(text).map_err(|error| CliError::bug(&error))?;
        let configuration =
            Self { base: base.to_owned(), sources: vec![source.clone()], credentials: None };
        configuration.check(&source)?;
        Ok(configuration)
    }

    /// Refuses what this machine cannot do.
    fn check(&self, source: &NotebookSource) -> Result<(), CliError> {
        let refuse = |words: String| Err(CliError::usage(format!("source `{source}`: {words}")));
        let spec = &source.spec;
        for text in &spec.allow_private {
            if let Err(error) = text.parse::<Allowed>() {
                return refuse(error.to_string());
            }
        }
        let claims = spec.directory.as_ref().and_then(|one| one.claim.as_ref());
        let results = spec.results.as_ref();
        if claims.is_some() || results.is_some_and(|one| one.claim.is_some() || one.url.is_some()) {
            return refuse("claims and object stores are for a cluster".into());
        }
        if !spec.images.is_empty() || !spec.kinds.is_empty() {
            return refuse("`images` and `kinds` are for a cluster".into());
        }
        if let Some(directory) = &spec.directory {
            if !self.base.join(&directory.path).is_dir() {
                return refuse(format!("there is no folder {}", directory.path));
            }
            if results.is_some() {
                return refuse(
                    "results of a folder lie in it; `results` is for repositories".into(),
                );
            }
        }
        if let Some(git) = &spec.git {
            if let Err(error) = Address::parse(&git.url) {
                return refuse(error.to_string());
            }
            if git.require_signed && git.credentials.is_none() {
                return refuse(
                    "`requireSigned` needs `credentials` whose secret holds `allowed_signers` or \
                     `keyring.gpg`: the keys of those who may sign"
                        .into(),
                );
            }
        }
        if spec.webhook.is_some() && spec.git.is_none() {
            return refuse("`webhook` is for repositories".into());
        }
        Ok(())
    }

    /// What a state remembers; none where its own folder is its source.
    ///
    /// # Errors
    /// The state, or what it remembers, cannot be read: without it its root would seem to be its source.
    pub fn of_state(store: &SqliteStore) -> Result<Option<Self>, StoreError> {
        let Some(text) = store.configuration()? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|error| StoreError::Database {
            folder: store.folder().display().to_string(),
            message: format!(
                "its sources cannot be read ({error}); `up --config` writes them anew"
            ),
        })
    }

    /// Lets a state remember it.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn keep(&self, store: &SqliteStore) -> Result<(), CliError> {
        let text = serde_json::to_string(self).map_err(|error| CliError::bug(&error))?;
        Ok(store.set_configuration(&text)?)
    }

    /// The mirrors of all repositories, with the name and the period of each source.
    pub fn mirrors(&self, state: &Path) -> Vec<(String, Period, Mirror)> {
        let mirror = |source: &NotebookSource| {
            let git = source.spec.git.as_ref()?;
            let poll = source.spec.poll.unwrap_or(POLL_GIT);
            Some((source.qualified(), poll, self.mirror(&source.qualified(), git, state)?))
        };
        self.sources.iter().filter_map(mirror).collect()
    }

    /// The webhooks, and the sources whose secret for one cannot be read.
    pub fn hooks(&self) -> (Vec<Hook>, Vec<String>) {
        let (mut hooks, mut lacking) = (Vec::new(), Vec::new());
        for source in &self.sources {
            let Some(webhook) = &source.spec.webhook else { continue };
            let path = secrets().join(&webhook.secret).join(&webhook.key);
            match Hook::new(&source.qualified(), path) {
                Some(hook) => hooks.push(hook),
                None => lacking.push(source.qualified()),
            }
        }
        (hooks, lacking)
    }

    fn mirror(&self, name: &str, git: &GitSpec, state: &Path) -> Option<Mirror> {
        let address = match Address::parse(&git.url).ok()? {
            Address::Path(path) => Address::Path(self.base.join(path)),
            url @ Address::Url { .. } => url,
        };
        let reference = match (&git.branch, &git.tag, &git.branches) {
            (Some(branch), _, _) => Reference::Branch(branch.clone()),
            (_, Some(tag), _) => Reference::Tag(tag.clone()),
            (_, _, Some(pattern)) => Reference::Pattern(globset::Glob::new(pattern).ok()?),
            _ => Reference::Default,
        };
        // Another repository under the same name has another mirror, and so has one whose commits
        // nobody vouched for.
        let signed = if git.require_signed { "\nsigned" } else { "" };
        let identity = format!("{name}\n{address}\n{reference}{signed}");
        let folder = folder_of(name, &identity);
        // Of a cluster they are put there under the source's name: no word of its owner leads anywhere.
        let credentials = git.credentials.as_ref().map(|one| match &self.credentials {
            Some(all) => all.join(source_folder(name)),
            None => secrets().join(&one.secret),
        });
        let require_signed = git.require_signed;
        let guarded = true;
        let repository =
            RemoteRepository { address, reference, credentials, guarded, require_signed };
        Some(Mirror { repository, folder: state.join("git").join(folder) })
    }

    /// The root of a source by the name that its runs carry, and its mirror.
    pub fn place_of(&self, name: &str, state: &Path) -> Option<(PathBuf, Option<Mirror>)> {
        let own = name.split_once('@').map_or(name, |(name, _)| name);
        let source = self.sources.iter().find(|source| source.qualified() == own)?;
        let mirror = source.spec.git.as_ref().and_then(|git| self.mirror(own, git, state));
        Some((self.root(source), mirror))
    }

    /// Where documents' paths are relative to: the folder, or where a repository's results go.
    fn root(&self, source: &NotebookSource) -> PathBuf {
        let results = source.spec.results.as_ref().and_then(|results| results.path.as_deref());
        let folder = source.spec.directory.as_ref().map(|directory| directory.path.as_str());
        let path = folder.or(results).map_or_else(
            || self.base.join(source.qualified().replace('/', "-")),
            |path| self.base.join(path),
        );
        path.canonicalize().unwrap_or(path)
    }

    /// The lanes as far as they are known: of a pattern one for each branch. Those that were there
    /// before keep what they remember.
    pub fn lanes(&self, state: &Path, looking: Looking, mut before: Vec<Lane>) -> Vec<Lane> {
        let mut take = |name: &str| {
            let at = before.iter().position(|lane| lane.name == name)?;
            Some(before.swap_remove(at))
        };
        let mut lanes = Vec::new();
        for source in &self.sources {
            let (name, root) = (source.qualified(), self.root(source));
            let Some(git) = &source.spec.git else {
                lanes.push(take(&name).unwrap_or_else(|| {
                    let mut folder = DirectorySource::new(&root, Path::new(""), looking.max_points);
                    // On a cluster, one that is no namespace's is many users'.
                    if self.credentials.is_some() && source.metadata.namespace.is_none() {
                        folder = folder.apart();
                    }
                    let hints = looking.stays.then(|| folder.watch());
                    // Of several volumes one may hang.
                    let shown = root.display().to_string();
                    let patient = Patient::new(Box::new(folder), shown, VOLUME);
                    Lane { hints, ..lane(name, source, Box::new(patient), looking) }
                }));
                continue;
            };
            let Some(mirror) = self.mirror(&name, git, state) else { continue };
            let commits = mirror.known().branches.into_iter();
            let commits =
                commits.map(|(branch, tips)| (branch, tips.accepted.map(|tip| tip.commit)));
            let branches: Vec<(String, Option<String>)> = match mirror.repository.reference {
                Reference::Pattern(_) => {
                    commits.map(|(branch, commit)| (format!("{name}@{branch}"), commit)).collect()
                }
                _ => vec![(name, commits.map(|(_, commit)| commit).next().flatten())],
            };
            for (name, commit) in branches {
                let mut lane = take(&name).unwrap_or_else(|| {
                    let tree = GitSource::new(&mirror, &root, None, looking.max_points);
                    lane(name, source, Box::new(tree), looking)
                });
                lane.source.show(commit);
                lanes.push(lane);
            }
        }
        lanes
    }
}

/// Says in a look what ails a repository.
pub fn tell_health(look: &mut Look, name: &str, health: Health) {
    for (branch, why) in health.refused {
        let lane = format!("{name}@{branch}");
        let own = look.sources.iter().any(|seen| seen.name == lane);
        look.ails(if own { &lane } else { name }, &why);
    }
    if let Some((since, why)) = health.failing {
        look.ails(name, &format!("{why} (since {since:.0})"));
    }
}

/// The folder of what a source is given, among those of others.
pub fn source_folder(name: &str) -> String {
    folder_of(name, name)
}

fn folder_of(name: &str, identity: &str) -> String {
    let hash = Digest::of_bytes(identity.as_bytes());
    format!("{}-{}", slug(name, 40), &hash.hex()[..8])
}

/// Where secrets are files.
fn secrets() -> PathBuf {
    std::env::var_os("JUPYTERFLOW_SECRETS").map_or_else(|| "/nonexistent".into(), PathBuf::from)
}

/// The lane of a folder that no configuration names.
pub fn of_place(place: &Place, looking: Looking) -> Lane {
    let below = Path::new(&place.below);
    let mut source = DirectorySource::new(&place.root, below, looking.max_points);
    let hints = looking.stays.then(|| source.watch());
    let spec = SourceSpec::default();
    let scope = Scope { below: place.below.clone(), ..scope(LOCAL.into(), &spec, false, looking) };
    Lane {
        name: LOCAL.into(),
        scope,
        source: Box::new(source),
        // Whoever starts this process writes these files: what they name may be private.
        checks: HttpChecks::new(Access { trusted: true, allowed: Vec::new() }, !looking.stays),
        memory: Memory::default(),
        poll: POLL_FOLDER,
        is_repository: false,
        hints,
    }
}

/// The lane of pipelines that are published: whoever did so waited until they stood still.
pub fn published(name: &str, source: Box<dyn Source>, looking: Looking) -> Lane {
    let spec = SourceSpec { settle: Some(Period::from_seconds(0)), ..SourceSpec::default() };
    Lane {
        scope: scope(name.to_owned(), &spec, false, looking),
        name: name.to_owned(),
        source,
        checks: HttpChecks::new(Access { trusted: false, allowed: Vec::new() }, !looking.stays),
        memory: Memory::default(),
        poll: Period::from_seconds(3600),
        is_repository: false,
        hints: None,
    }
}

fn lane(name: String, source: &NotebookSource, looks: Box<dyn Source>, looking: Looking) -> Lane {
    let spec = &source.spec;
    let allowed = spec.allow_private.iter().filter_map(|text| text.parse().ok()).collect();
    let git = spec.git.is_some();
    Lane {
        scope: scope(name.clone(), spec, git, looking),
        name,
        source: looks,
        checks: HttpChecks::new(Access { trusted: false, allowed }, !looking.stays),
        memory: Memory::default(),
        poll: spec.poll.unwrap_or(if git { POLL_GIT } else { POLL_FOLDER }),
        is_repository: git,
        hints: None,
    }
}

fn scope(source: String, spec: &SourceSpec, git: bool, looking: Looking) -> Scope {
    let settle = spec.settle.unwrap_or(if git { Period::from_seconds(0) } else { SETTLE });
    // A commit stands still by itself.
    let settle = if looking.stays || git { Settle::After(settle) } else { Settle::TwoLooks };
    Scope {
        source,
        settle,
        max_points: looking.max_points,
        below: String::new(),
        limits: Limits {
            active_runs: spec.limits.active_runs,
            active_runs_per_owner: spec.limits.active_runs_per_owner,
        },
        adopt: spec.first_sight == FirstSight::Adopt,
        shared: false,
    }
}
