//! The repositories of a cluster's sources: polled in the background, with credentials from its secrets.
//!
//! Owns which are polled, and where credentials are put for that. Which commits are in force is the source's
//! own status to say (`controller::sources`).

#![expect(clippy::disallowed_methods, reason = "writes credentials for the time of this process")]

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cli::lanes::{Configuration, Lane, source_folder, tell_health};
use crate::controller::kubernetes::Kubernetes;
use crate::controller::sources::{Found, STANDS, Sources};
use crate::controller::tenants::{OWNER, Served};
use crate::reconcile::Look;
use crate::source::git::{Address, Mirror, Polled, Poller, Tips};
use crate::types::{Period, Timestamp, slug};

/// Credentials that do not do are read again after so long, others for what was taken away.
const AGAIN: Duration = Duration::from_secs(20);
const ANYWAY: Duration = Duration::from_secs(600);

/// The repositories.
pub struct Repositories {
    cache: PathBuf,
    /// The namespace of the credentials of sources that are no namespace's.
    namespace: String,
    poller: Option<Poller>,
    mirrors: Vec<(String, Period, Mirror)>,
    /// Why a source is not looked at at all.
    refused: BTreeMap<String, String>,
    /// When the credentials of a source were read.
    read: HashMap<String, Instant>,
}

impl Repositories {
    /// None yet. They are mirrored below `cache`.
    pub fn new(cache: &Path, namespace: &str) -> Self {
        Self {
            cache: cache.to_owned(),
            namespace: namespace.to_owned(),
            poller: None,
            mirrors: Vec::new(),
            refused: BTreeMap::new(),
            read: HashMap::new(),
        }
    }

    /// Where the credentials of each source are put.
    pub fn credentials(&self) -> PathBuf {
        self.cache.join("credentials")
    }

    /// Whether there are any.
    pub fn any(&self) -> bool {
        !self.read.is_empty()
    }

    /// Rises with each poll that found something new, or changed how a repository does.
    pub fn changes(&self) -> u64 {
        self.poller.as_ref().map_or(0, Poller::changes)
    }

    /// Whether a source may be looked at.
    pub fn may(&self, source: &str) -> bool {
        !self.refused.contains_key(source)
    }

    /// Whether a person has something to provide before all can be polled.
    pub fn lack(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Stops polling and forgets all credentials: another controller works now.
    pub fn rest(&mut self) {
        if self.any() {
            let _ = std::fs::remove_dir_all(self.credentials());
            *self = Self::new(&self.cache, &self.namespace);
        }
    }

    /// Takes what is served. Credentials are read where a source is new (`kept` are those that are not),
    /// where they do not do, and now and then, since they may have been taken away.
    pub fn take(&mut self, served: &[Served], kept: &[String], objects: &Kubernetes) {
        if self.read.is_empty() {
            // What a process of before left.
            let _ = std::fs::remove_dir_all(self.credentials());
        }
        let health = self.poller.iter().flat_map(Poller::health);
        let failing = health.filter(|(_, one)| one.failing.is_some() || !one.refused.is_empty());
        let failing: Vec<String> = failing.map(|(name, _)| name).collect();
        for one in served {
            let name = one.source.qualified();
            let mistakes = one.source.mistakes();
            let Some(git) = one.source.spec.git.as_ref().filter(|_| mistakes.is_empty()) else {
                // Of a folder nothing is read here.
                let wrong = (!mistakes.is_empty()).then(|| mistakes.join("; "));
                self.mark(&name, wrong);
                continue;
            };
            let fails = failing.contains(&name) || self.refused.contains_key(&name);
            let secret = git.credentials.as_ref().map(|one| one.secret.as_str());
            let rests = match (fails, secret) {
                (true, _) => AGAIN,
                (false, Some(_)) => ANYWAY,
                (false, None) => Duration::MAX,
            };
            let fresh = self.read.get(&name).is_some_and(|read| read.elapsed() < rests);
            if fresh && kept.contains(&name) {
                continue;
            }
            let given = match Address::parse(&git.url) {
                Err(error) => Err(error.to_string()),
                Ok(Address::Path(_)) => Err("a path is of one machine: give a URL".into()),
                Ok(Address::Url { .. }) => self.provide(&name, one, secret, objects),
            };
            self.read.insert(name.clone(), Instant::now());
            self.mark(&name, given.err());
        }
        let is_served = |name: &String| served.iter().any(|one| one.source.qualified() == *name);
        let is_read = |name: &String| {
            let own = |one: &&Served| one.source.qualified() == *name;
            served.iter().find(own).is_some_and(|one| one.source.spec.git.is_some())
        };
        self.refused.retain(|name, _| is_served(name));
        let all = self.credentials();
        self.read.retain(|name, _| {
            let stays = is_read(name);
            if !stays {
                let _ = std::fs::remove_dir_all(all.join(source_folder(name)));
            }
            stays
        });
    }

    fn mark(&mut self, name: &str, wrong: Option<String>) {
        match wrong {
            Some(why) => drop(self.refused.insert(name.to_owned(), why)),
            None => drop(self.refused.remove(name)),
        }
    }

    /// Puts the credentials of a source where its polls find them, and nobody else does.
    fn provide(
        &self,
        name: &str,
        served: &Served,
        secret: Option<&str>,
        objects: &Kubernetes,
    ) -> Result<(), String> {
        let folder = self.credentials().join(source_folder(name));
        let remove = || match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
            _ => Ok(()),
        };
        let Some(secret) = secret else { return remove() };
        let own = served.source.metadata.namespace.as_deref();
        let namespace = own.unwrap_or(&self.namespace);
        let found = match objects.secret(namespace, secret) {
            Ok(found) => found,
            // A server that does not answer takes nothing away.
            Err(_) if folder.exists() => return Ok(()),
            Err(refused) => return Err(format!("secret {secret}: {refused}")),
        };
        let Some(found) = found else {
            remove()?;
            return Err(format!("there is no secret {secret} in namespace {namespace}"));
        };
        // Whoever may name a source must not thereby send any secret anywhere.
        let labels = found.metadata.labels.unwrap_or_default();
        if let Some(own) = own
            && labels.get(OWNER) != Some(&slug(own, 63))
        {
            remove()?;
            return Err(format!("secret {secret} is not labelled {OWNER}={}", slug(own, 63)));
        }
        let data = found.data.unwrap_or_default();
        let data: Vec<(String, Vec<u8>)> =
            data.into_iter().map(|(key, value)| (key, value.0)).collect();
        let same = |(key, value): &(String, Vec<u8>)| {
            std::fs::read(folder.join(key)).is_ok_and(|there| there == *value)
        };
        let count = std::fs::read_dir(&folder).map_or(0, Iterator::count);
        if count == data.len() && data.iter().all(same) {
            return Ok(());
        }
        remove()?;
        let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&folder).map_err(failed)?;
        for (key, value) in data {
            let mut options = std::fs::OpenOptions::new();
            let file = options.write(true).create_new(true).mode(0o600).open(folder.join(key));
            file.and_then(|mut file| file.write_all(&value)).map_err(failed)?;
        }
        Ok(())
    }

    /// Polls the repositories of a configuration from now on.
    pub fn poll(&mut self, configuration: &Configuration) {
        let mirrors = configuration.mirrors(&self.cache);
        if mirrors == self.mirrors {
            return;
        }
        let polled = mirrors.iter().cloned();
        let polled = polled.map(|(name, every, mirror)| Polled { name, every, mirror });
        let polled: Vec<Polled> = polled.collect();
        // What goes back must stand by the word of the source's own status.
        let patience = Period::from_seconds(0);
        self.poller = (!polled.is_empty()).then(|| Poller::start(polled, patience));
        self.mirrors = mirrors;
    }

    /// Lets lanes show the commits that are in force. Says when that may be others without any poll, and
    /// what the server refuses.
    pub fn show(
        &self,
        lanes: &mut [Lane],
        sources: &Sources,
        now: Timestamp,
    ) -> (Option<Timestamp>, Vec<String>) {
        let (mut next, mut troubles) = (None, Vec::new());
        let health: HashMap<_, _> = self.poller.iter().flat_map(Poller::health).collect();
        for (name, _, mirror) in &self.mirrors {
            let known = mirror.known().branches.into_iter();
            let tips = known.filter_map(|(branch, tips)| Some((branch, tips.accepted?)));
            let refused = health.get(name).map(|one| one.refused.keys().cloned().collect());
            let found = Found {
                // A folder of its own has each repository, reference and demand for signatures.
                repository: mirror.folder.file_name().unwrap_or_default().display().to_string(),
                tips: tips.collect(),
                refused: refused.unwrap_or_default(),
            };
            let in_force = sources.advance(name, &found, now).unwrap_or_else(|message| {
                troubles.push(format!("source {name}: {message}"));
                BTreeMap::new()
            });
            let counts = in_force.values().filter_map(|tips| tips.counts_at(STANDS));
            next = next.into_iter().chain(counts).min();
            for branch in found.tips.keys() {
                let tip = in_force.get(branch).and_then(|tips: &Tips| tips.accepted.as_ref());
                // A clone that lags behind shows nothing rather than what was.
                let commit = tip.map(|tip| tip.commit.clone());
                let commit = commit.filter(|commit| mirror.holds(commit));
                let own = format!("{name}@{branch}");
                let shows = lanes.iter_mut().find(|lane| lane.name == *name || lane.name == own);
                shows.into_iter().for_each(|lane| lane.source.show(commit.clone()));
            }
        }
        let credentials =
            self.mirrors.iter().any(|(_, _, one)| one.repository.credentials.is_some());
        let read = credentials.then(|| now.checked_add(ANYWAY).ok()).flatten();
        (next.into_iter().chain(read).min(), troubles)
    }

    /// Says what ails them.
    pub fn tell(&self, look: &mut Look) {
        let health = self.poller.iter().flat_map(Poller::health);
        health.for_each(|(name, health)| tell_health(look, &name, health));
        self.refused.iter().for_each(|(name, why)| look.ails(name, why));
    }
}
