//! Argo's own server, where there is one: it alone can say what lies in Argo's database, which is Workflows that
//! were archived, and nodes that were too many for an object.
//!
//! Owns the questions that it is asked, of an archived Workflow and of nodes, and when it is left alone.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indexmap::IndexMap;
use kube::api::GetParams;
use kube::client::Body;
use kube::config::AuthInfo;
use kube::{Client, Config};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::runtime::Runtime;

use super::workflow::{Node, Seen, Status};
use crate::types::causes;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// One that did not answer is left alone so long: many runs ask.
const REST: Duration = Duration::from_secs(30);
/// Of so many Workflows that go on the nodes are kept: they are large, or they would not be there.
const KEPT: usize = 32;

/// Nodes by the uid of their Workflow, each with their version.
type Known = Arc<Mutex<HashMap<String, (String, Nodes)>>>;

/// The nodes of a Workflow.
type Nodes = Arc<IndexMap<String, Node>>;

/// Where Argo's server is, and how it is asked.
#[derive(Clone, Debug, Default)]
pub struct Address {
    /// Its address.
    pub url: String,
    /// A file with the certificates that vouch for it; those of the machine unless given.
    pub certificates: Option<PathBuf>,
    /// A file with the token that it is shown; that of the cluster's connection unless given.
    pub token: Option<PathBuf>,
}

/// A connection.
#[derive(Clone)]
pub struct ArgoServer {
    runtime: Arc<Runtime>,
    client: Client,
    known: Known,
    /// Why it did not answer, and when.
    trouble: Arc<Mutex<Option<(Instant, String)>>>,
}

fn failed(why: &str) -> String {
    format!("Argo's server: {why}")
}

fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let read: Vec<CertificateDer<'_>> =
        read.map_err(|error| failed(&format!("{}: {}", path.display(), causes(&error))))?;
    if read.is_empty() {
        return Err(failed(&format!("{} holds no certificate", path.display())));
    }
    Ok(read.into_iter().map(|one| one.to_vec()).collect())
}

impl ArgoServer {
    /// Connects with a token, as Argo's command line does. No other proof of who we are is for it.
    ///
    /// # Errors
    /// In words: it is no address, or a file cannot be read.
    pub fn connect(
        runtime: &Arc<Runtime>,
        cluster: &Config,
        address: &Address,
    ) -> Result<Self, String> {
        let url = address.url.trim_end_matches('/');
        let known = url.starts_with("http://") || url.starts_with("https://");
        // An address may hold a password.
        let url = known.then(|| url.parse().ok()).flatten();
        let mut config = Config::new(url.ok_or_else(|| failed("http:// or https://, and a host"))?);
        config.root_cert = address.certificates.as_deref().map(certificates).transpose()?;
        config.auth_info = if let Some(path) = &address.token {
            let shown = path.display();
            let token = std::fs::read_to_string(path);
            let token = token.map_err(|error| failed(&format!("{shown}: {error}")))?;
            if token.is_empty() || token.contains(char::is_whitespace) {
                return Err(failed(&format!(
                    "{shown} holds more than a token, such as a line break"
                )));
            }
            // It may be another later.
            let token_file = Some(path.to_string_lossy().into_owned());
            AuthInfo { token_file, ..AuthInfo::default() }
        } else {
            let own = cluster.auth_info.clone();
            let AuthInfo { token, token_file, exec, auth_provider, .. } = own;
            AuthInfo { token, token_file, exec, auth_provider, ..AuthInfo::default() }
        };
        let client = runtime.block_on(async { Client::try_from(config) });
        let client = client.map_err(|error| failed(&causes(&error)))?;
        let (known, trouble) = (Known::default(), Arc::default());
        Ok(Self { runtime: Arc::clone(runtime), client, known, trouble })
    }

    /// A Workflow that is in the cluster no more, out of the archive; none where it is not there, or we may not see it.
    ///
    /// # Errors
    /// In words: it does not say.
    pub fn archived(&self, uid: &str) -> Result<Option<Seen>, String> {
        match self.ask("/api/v1/archived-workflows", uid)? {
            (200, body) => read(&body).map(Some),
            (403 | 404, _) => Ok(None),
            // It has no archive.
            (500.., body) if contains(&body, "not supported") => Ok(None),
            // Of its own trouble, or of ours with it, nothing follows.
            (code, _) => Err(failed(&format!("its archive answers {code}"))),
        }
    }

    /// A Workflow with its nodes, which are asked for once in each version; as it is where the server will not tell.
    ///
    /// # Errors
    /// In words: it does not say.
    pub fn with_nodes(&self, seen: &Seen) -> Result<Seen, String> {
        let Seen { metadata, spec, status } = seen;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (uid, version) = (text(&metadata.uid), text(&status.offload_node_status_version));
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().get(&uid).filter(|(known, _)| *known == version).cloned();
        let nodes = if let Some((_, nodes)) = known {
            nodes
        } else {
            let path = format!("/api/v1/workflows/{}", text(&metadata.namespace));
            let nodes = match self.ask(&path, &text(&metadata.name))? {
                (200, body) => read(&body)?.status.nodes.unwrap_or_default(),
                (code @ (408 | 429 | 500..), _) => {
                    return Err(failed(&format!("it answers {code}")));
                }
                _ => return Ok(seen.clone()),
            };
            let nodes = Arc::new(nodes);
            let mut known = lock();
            known.remove(&uid);
            if known.len() >= KEPT {
                known.clear();
            }
            if !seen.is_over() {
                known.insert(uid, (version, Arc::clone(&nodes)));
            }
            nodes
        };
        // Only the nodes: of all else the cluster knows more.
        let nodes = Some(IndexMap::clone(&nodes));
        let status = Status { nodes, ..status.clone() };
        Ok(Seen { metadata: metadata.clone(), spec: spec.clone(), status })
    }

    /// What lies at a path, with the answer's code.
    fn ask(&self, folder: &str, name: &str) -> Result<(u16, Vec<u8>), String> {
        let lock = || self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, why)) = &*lock()
            && at.elapsed() < REST
        {
            return Err(why.clone());
        }
        let request = kube::core::Request::new(folder).get(name, &GetParams::default());
        let request = request.map_err(|error| failed(&causes(&error)))?;
        let answer = self.wait(self.client.send(request.map(Body::from)));
        *lock() = answer.as_ref().err().map(|why| (Instant::now(), why.clone()));
        let answer = answer?;
        let code = answer.status().as_u16();
        // One that is long says nothing of others.
        Ok((code, self.wait(answer.into_body().collect_bytes())?.to_vec()))
    }

    fn wait<T>(&self, asked: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
        match self.runtime.block_on(async { tokio::time::timeout(PATIENCE, asked).await }) {
            Ok(answer) => answer.map_err(|error| failed(&causes(&error))),
            Err(_) => Err(failed(&format!("no answer within {} s", PATIENCE.as_secs()))),
        }
    }
}

fn read(body: &[u8]) -> Result<Seen, String> {
    serde_json::from_slice(body).map_err(|error| failed(&error.to_string()))
}

fn contains(body: &[u8], words: &str) -> bool {
    String::from_utf8_lossy(body).contains(words)
}
