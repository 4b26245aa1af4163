//! A repository elsewhere: which commits its branches name, and their content.
//!
//! Owns the connection: credentials read at each use, host keys checked always, limits on time and
//! size, one branch without tags and submodules. Errors never hold a user, a password or a key.

#![expect(clippy::disallowed_methods, reason = "reads credentials and keeps to deadlines")]
#![expect(unsafe_code, reason = "libgit2's process-wide options, set once before its first use")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

use git2::{
    AutotagOption, CertificateCheckStatus, ConfigLevel, Cred, CredentialType, Direction,
    ErrorClass, ErrorCode, FetchOptions, Oid, Remote, RemoteCallbacks, Repository, opts,
};

use super::known_hosts::{self, Verdict};
use super::tips::Tip;
use super::{Address, Reference};

/// To be reached, and between two words of a server, in milliseconds.
const CONNECT_TIMEOUT: i32 = 10_000;
const SILENCE: i32 = 30_000;
/// A fetch may take this long,
const DEADLINE: Duration = Duration::from_secs(600);
/// and bring so many bytes.
const LARGEST: usize = 4 << 30;
/// The depth that is all of a history (libgit2's `GIT_FETCH_DEPTH_UNSHALLOW`).
const ALL: i32 = i32::MAX;

/// A repository, and what of it is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteRepository {
    /// Where.
    pub address: Address,
    /// Which branches.
    pub reference: Reference,
    /// The folder with credentials, and with the keys of those who may sign.
    pub credentials: Option<PathBuf>,
    /// Whether credentials that others may read are refused.
    pub guarded: bool,
    /// Whether somebody whom it knows must have signed a commit.
    pub require_signed: bool,
}

/// Why a repository could not be asked or fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GitError(pub String);

/// A branch and the commit that it names.
pub type Branch = (String, Tip);

/// Sets libgit2 up: no configuration but a repository's own, and no server that is silent for ever.
fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: called once, before any other use of libgit2 in this process.
        unsafe {
            for level in [
                ConfigLevel::System,
                ConfigLevel::Global,
                ConfigLevel::XDG,
                ConfigLevel::ProgramData,
            ] {
                let _ = opts::set_search_path(level, "/nonexistent");
            }
            let _ = opts::set_server_connect_timeout_in_milliseconds(CONNECT_TIMEOUT);
            let _ = opts::set_server_timeout_in_milliseconds(SILENCE);
            // A volume has its own owners; what is read there runs no program.
            let _ = opts::set_verify_owner_validation(false);
        }
    });
}

/// Opens a bare repository.
///
/// # Errors
/// There is none.
pub fn open(path: &Path) -> Result<Repository, git2::Error> {
    prepare();
    Repository::open_bare(path)
}

/// Whether an error says that objects are missing or broken, rather than that nothing can be read now.
pub fn is_damage(error: &git2::Error) -> bool {
    use ErrorClass::{
        Index, Indexer, Object, Odb, Reference, Repository as OfRepository, Tree, Zlib,
    };
    let classes = [Index, Indexer, Object, Odb, Reference, OfRepository, Tree, Zlib];
    classes.contains(&error.class())
}

/// Whether a mirror's own references can be read.
pub fn is_sound(mirror: &Path) -> bool {
    let all = |repository: &Repository| Ok(repository.references()?.all(|one| one.is_ok()));
    open(mirror).and_then(|repository| all(&repository)).unwrap_or(false)
}

/// Asks which commits the wanted branches name, and fetches into the mirror those that it lacks.
///
/// # Errors
/// The repository cannot be reached or read.
pub fn poll(wanted: &RemoteRepository, mirror: &Path) -> Result<Vec<Branch>, GitError> {
    prepare();
    match &wanted.address {
        Address::Path(path) => local(path, &wanted.reference),
        Address::Url { url, .. } => {
            let repository = mirror_at(mirror)?;
            let named = list(wanted, url)?;
            for (reference, commit) in &named {
                if repository.find_commit(*commit).is_err() {
                    let own = format!("refs/jupyterflow/{}", short(reference));
                    fetch(wanted, url, &repository, &format!("+{reference}:{own}"), 1)?;
                }
            }
            named.iter().map(|(name, commit)| tip(&repository, name, *commit)).collect()
        }
    }
}

/// Fetches one commit into a bare repository that is made for it: by its own name where the server gives
/// it so, else with the newest of the wanted references, else with all of their history. Says whether it
/// came.
///
/// # Errors
/// The repository cannot be reached or read.
pub fn fetch_commit(
    wanted: &RemoteRepository,
    into: &Path,
    commit: &str,
) -> Result<bool, GitError> {
    prepare();
    let Address::Url { url, .. } = &wanted.address else {
        return Err(GitError("a path is of one machine; a cluster needs a URL".into()));
    };
    let id = Oid::from_str(commit).map_err(|error| GitError(error.message().to_owned()))?;
    let repository = mirror_at(into)?;
    let own = "refs/jupyterflow/commit";
    let here = || repository.find_commit(id).is_ok();
    // What is wrong with the connection the next question tells too.
    if here() || fetch(wanted, url, &repository, &format!("+{commit}:{own}"), 1).is_ok() && here() {
        return Ok(true);
    }
    let named = list(wanted, url)?;
    for depth in [1, ALL] {
        for (reference, _) in &named {
            fetch(wanted, url, &repository, &format!("+{reference}:{own}"), depth)?;
            if here() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The branches of a repository on this machine, which is read in place.
fn local(path: &Path, wanted: &Reference) -> Result<Vec<Branch>, GitError> {
    let failed = |error: git2::Error| GitError(error.message().to_owned());
    let repository = open(&super::local_objects(path)).map_err(failed)?;
    let head = repository.find_reference("HEAD").ok();
    let head = head.and_then(|head| head.symbolic_target().ok().flatten().map(str::to_owned));
    let references = repository.references().map_err(failed)?;
    let mut found = Vec::new();
    for reference in references.flatten() {
        let Ok(name) = reference.name() else { continue };
        if wanted.wants(name, head.as_deref())
            && let Ok(commit) = reference.peel_to_commit()
        {
            found.push(tip(&repository, name, commit.id())?);
        }
    }
    some(found, wanted)
}

/// What was found, unless that is nothing and there should be something.
fn some<T>(found: Vec<T>, wanted: &Reference) -> Result<Vec<T>, GitError> {
    if found.is_empty() && !matches!(wanted, Reference::Pattern(_)) {
        return Err(GitError(format!("the repository has no {wanted}")));
    }
    Ok(found)
}

fn tip(repository: &Repository, reference: &str, commit: Oid) -> Result<Branch, GitError> {
    let commit =
        repository.find_commit(commit).map_err(|error| GitError(error.message().to_owned()))?;
    let tip = Tip { commit: commit.id().to_string(), time: commit.time().seconds() };
    Ok((short(reference).to_owned(), tip))
}

/// A branch's or tag's own name.
pub fn short(reference: &str) -> &str {
    let prefixes = ["refs/heads/", "refs/tags/"];
    prefixes.iter().find_map(|prefix| reference.strip_prefix(prefix)).unwrap_or(reference)
}

/// Opens the mirror, making it where there is none, and removes what a killed fetch left.
fn mirror_at(path: &Path) -> Result<Repository, GitError> {
    let failed = |error: &dyn std::fmt::Display| GitError(format!("{}: {error}", path.display()));
    if let Ok(entries) = std::fs::read_dir(path.join("objects/pack")) {
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("pack_git2_") || name.starts_with("tmp_") || name.ends_with(".lock")
            {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
    for lock in ["shallow.lock", "config.lock", "HEAD.lock", "packed-refs.lock"] {
        let _ = std::fs::remove_file(path.join(lock));
    }
    if let Ok(repository) = Repository::open_bare(path) {
        return Ok(repository);
    }
    // What is there and cannot be opened is no use: it is only a cache.
    let _ = std::fs::remove_dir_all(path);
    std::fs::create_dir_all(path).map_err(|error| failed(&error))?;
    Repository::init_bare(path).map_err(|error| failed(&error.message()))
}

/// The wanted references with the commits that they name.
fn list(wanted: &RemoteRepository, url: &str) -> Result<Vec<(String, Oid)>, GitError> {
    let mut access = Access::new(wanted);
    let asked = (|| {
        let mut remote = Remote::create_detached(url)?;
        let connection = remote.connect_auth(Direction::Fetch, Some(access.callbacks()), None)?;
        let heads = connection.list()?;
        let head = heads.iter().find(|head| head.name() == "HEAD");
        let head = head.and_then(|head| head.symref_target()).map(str::to_owned);
        let mut found: Vec<(String, Oid)> = Vec::new();
        for one in heads {
            // A tag's own object comes first, the commit behind it with this mark.
            let name = one.name().trim_end_matches("^{}");
            if wanted.reference.wants(name, head.as_deref()) {
                match found.iter_mut().find(|(known, _)| known == name) {
                    Some(known) => known.1 = one.oid(),
                    None => found.push((name.to_owned(), one.oid())),
                }
            }
        }
        Ok(found)
    })();
    some(asked.map_err(|error| access.explain(&error))?, &wanted.reference)
}

/// Fetches what a refspec says: so many commits of each history, where the server can do that.
fn fetch(
    wanted: &RemoteRepository,
    url: &str,
    repository: &Repository,
    spec: &str,
    mut depth: i32,
) -> Result<(), GitError> {
    loop {
        let mut access = Access::new(wanted);
        let fetched = (|| {
            let mut options = FetchOptions::new();
            options
                .remote_callbacks(access.callbacks())
                .depth(depth)
                .download_tags(AutotagOption::None)
                .update_fetchhead(false);
            let mut remote = repository.remote_anonymous(url)?;
            remote.fetch(&[spec], Some(&mut options), None)
        })();
        match fetched {
            // Old servers and dumb ones know no depth.
            Err(error) if depth > 0 && error.message().contains("shallow") => depth = 0,
            other => return other.map_err(|error| access.explain(&error)),
        }
    }
}

/// What a connection may use, and what went wrong on our side of it.
struct Access {
    credentials: Option<PathBuf>,
    guarded: bool,
    /// Whether the secret may be there for the keys of signers alone.
    signers_only: bool,
    host: String,
    port: u16,
    tried: u32,
    refusal: Option<String>,
    deadline: Instant,
}

impl Access {
    fn new(wanted: &RemoteRepository) -> Self {
        let (host, port) = match &wanted.address {
            Address::Url { host, port, .. } => (host.clone(), *port),
            Address::Path(_) => (String::new(), 0),
        };
        let credentials = wanted.credentials.clone();
        let deadline = Instant::now() + DEADLINE;
        let (guarded, signers_only) = (wanted.guarded, wanted.require_signed);
        Self { credentials, guarded, signers_only, host, port, tried: 0, refusal: None, deadline }
    }

    fn callbacks(&mut self) -> RemoteCallbacks<'_> {
        let this = std::cell::RefCell::new(self);
        let this = std::rc::Rc::new(this);
        let mut callbacks = RemoteCallbacks::new();
        let access = std::rc::Rc::clone(&this);
        callbacks
            .credentials(move |url, user, kinds| access.borrow_mut().credential(url, user, kinds));
        let access = std::rc::Rc::clone(&this);
        callbacks.certificate_check(move |certificate, host| {
            let Some(key) = certificate.as_hostkey() else {
                return Ok(CertificateCheckStatus::CertificatePassthrough);
            };
            access.borrow_mut().check_host(host, key.hostkey())
        });
        callbacks.transfer_progress(move |progress| {
            let mut access = this.borrow_mut();
            if Instant::now() > access.deadline {
                access.refusal =
                    Some(format!("the fetch took longer than {} s", DEADLINE.as_secs()));
                return false;
            }
            if progress.received_bytes() > LARGEST {
                access.refusal = Some(format!("the fetch brought more than {LARGEST} bytes"));
                return false;
            }
            true
        });
        callbacks
    }

    fn refuse<T>(&mut self, why: String) -> Result<T, git2::Error> {
        let error = git2::Error::new(ErrorCode::Auth, ErrorClass::Callback, &why);
        self.refusal = Some(why);
        Err(error)
    }

    fn credential(
        &mut self,
        url: &str,
        user: Option<&str>,
        kinds: CredentialType,
    ) -> Result<Cred, git2::Error> {
        if Address::parse(url).ok().and_then(|one| one.host().map(str::to_owned)).as_deref()
            != Some(self.host.as_str())
        {
            return self.refuse("it redirects to another host, which gets no credentials".into());
        }
        if kinds.contains(CredentialType::USERNAME) {
            return Cred::username(user.unwrap_or("git"));
        }
        self.tried += 1;
        if self.tried > 1 {
            return self.refuse("the credentials were refused".into());
        }
        // A secret that holds keys of signers alone is none to log in with.
        let holds = |folder: &PathBuf| {
            let own = ["ssh-privatekey", "password", "username"];
            own.iter().any(|key| folder.join(key).exists())
        };
        let folder = self.credentials.clone().filter(|folder| !self.signers_only || holds(folder));
        let open = ["password", "ssh-privatekey", "passphrase"].into_iter().find(|key| {
            let data = folder.as_ref().and_then(|folder| std::fs::metadata(folder.join(key)).ok());
            self.guarded && data.is_some_and(|data| data.permissions().mode() & 0o077 != 0)
        });
        if let Some(key) = open {
            return self
                .refuse(format!("`{key}` of its secret may be read by others: chmod 0600 it"));
        }
        let read = |key: &str| -> Option<String> {
            let text = std::fs::read_to_string(folder.as_ref()?.join(key)).ok()?;
            Some(text.trim_end_matches('\n').to_owned())
        };
        let ssh = kinds.intersects(CredentialType::SSH_KEY | CredentialType::SSH_MEMORY);
        if ssh {
            let user = user.unwrap_or("git");
            if let Some(key) = read("ssh-privatekey") {
                let key = format!("{key}\n");
                return Cred::ssh_key_from_memory(user, None, &key, read("passphrase").as_deref());
            }
            if folder.is_some() {
                return self.refuse("the secret has no `ssh-privatekey`".into());
            }
            return own_key(user).or_else(|_| Cred::ssh_key_from_agent(user));
        }
        if let Some(password) = read("password") {
            let user = read("username").or(user.map(str::to_owned));
            return Cred::userpass_plaintext(&user.unwrap_or_else(|| "git".into()), &password);
        }
        if let Some(folder) = &folder {
            let why = format!("{} has no `password`", folder.display());
            return self.refuse(why);
        }
        self.refuse("it wants credentials, and the source names none".into())
    }

    fn check_host(
        &mut self,
        host: &str,
        key: Option<&[u8]>,
    ) -> Result<CertificateCheckStatus, git2::Error> {
        let own = self.credentials.as_ref().map(|folder| folder.join("known_hosts"));
        let own = own.filter(|path| path.exists());
        let home = || std::env::home_dir().map(|home| home.join(".ssh/known_hosts"));
        let files = match own {
            Some(own) => vec![own],
            None => home().into_iter().chain([PathBuf::from("/etc/ssh/ssh_known_hosts")]).collect(),
        };
        let verdicts = files.iter().filter_map(|path| {
            let text = std::fs::read_to_string(path).ok()?;
            Some(known_hosts::judge(&text, host, self.port, key?))
        });
        let verdicts: Vec<Verdict> = verdicts.collect();
        if verdicts.contains(&Verdict::Other) {
            return self.refuse(format!(
                "the host key of {host} is another than known_hosts has: somebody may be in between"
            ));
        }
        if verdicts.contains(&Verdict::Known) {
            return Ok(CertificateCheckStatus::CertificateOk);
        }
        let port = self.port;
        let scan = if port == 22 { host.to_owned() } else { format!("-p {port} {host}") };
        self.refuse(format!(
            "the host key of {host} is not known: put what `ssh-keyscan {scan}` prints, once \
             compared, into known_hosts"
        ))
    }

    /// An error in words, without what nobody should see.
    fn explain(&self, error: &git2::Error) -> GitError {
        let words = match (&self.refusal, error.code()) {
            (Some(refusal), _) => refusal.clone(),
            (None, ErrorCode::Timeout) => "the server does not answer".into(),
            (None, _) if error.message().contains("certificate") => format!(
                "its certificate is not trusted ({}); own authorities go into $SSL_CERT_FILE",
                error.message()
            ),
            _ => error.message().to_owned(),
        };
        GitError(words)
    }
}

/// The key that ssh itself would use.
fn own_key(user: &str) -> Result<Cred, git2::Error> {
    let folder = std::env::home_dir().unwrap_or_default().join(".ssh");
    let names = ["id_ed25519", "id_ecdsa", "id_rsa"];
    let found = names.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    let path = found.ok_or_else(|| git2::Error::from_str("no key"))?;
    Cred::ssh_key(user, None, &path, None)
}
