//! Argo's own server, where there is one: it alone can say what lies in Argo's database, which is Workflows that
//! were archived, and nodes that were too many for an object.
//!
//! Owns the one question that it is asked. What it answers is a Workflow like any other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::api::GetParams;
use kube::client::Body;
use kube::config::AuthInfo;
use kube::{Client, Config};
use tokio::runtime::Runtime;

use super::workflow::Seen;
use crate::types::causes;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of so many Workflows the last answer is kept.
const KEPT: usize = 1000;

/// Answers by uid, each with the version of the nodes that it was about.
type Answers = Arc<Mutex<HashMap<String, (String, Arc<Seen>)>>>;

/// A connection.
#[derive(Clone)]
pub struct ArgoServer {
    runtime: Arc<Runtime>,
    client: Client,
    answers: Answers,
}

impl ArgoServer {
    /// Connects with the token of a cluster's connection, as Argo's command line does. No other proof of who we are
    /// is for it.
    ///
    /// # Errors
    /// In words: it is no address.
    pub fn connect(runtime: &Arc<Runtime>, cluster: &Config, url: &str) -> Result<Self, String> {
        let known = url.starts_with("http://") || url.starts_with("https://");
        let address = known.then(|| url.trim_end_matches('/').parse().ok()).flatten();
        // An address may hold a password.
        let address = address.ok_or("Argo's server: an address begins with http:// or https://")?;
        let AuthInfo { token, token_file, exec, auth_provider, .. } = cluster.auth_info.clone();
        let auth_info = AuthInfo { token, token_file, exec, auth_provider, ..AuthInfo::default() };
        let mut config = Config::new(address);
        config.auth_info = auth_info;
        let client = runtime.block_on(async { Client::try_from(config) });
        let client = client.map_err(|error| format!("Argo's server: {}", causes(&error)))?;
        Ok(Self { runtime: Arc::clone(runtime), client, answers: Answers::default() })
    }

    /// A Workflow with all its nodes, be it in the cluster or archived; none where it is in neither.
    ///
    /// # Errors
    /// In words: it does not say.
    pub fn workflow(&self, namespace: &str, name: &str, uid: &str) -> Result<Option<Seen>, String> {
        let failed = |why: String| format!("Argo's server, which keeps its nodes: {why}");
        let path = format!("/api/v1/workflows/{namespace}");
        let request = kube::core::Request::new(path).get(name, &GetParams::default());
        let mut request = request.map_err(|error| failed(causes(&error)))?;
        let whole = format!("{}?uid={uid}", request.uri());
        *request.uri_mut() = whole.parse().map_err(|_| failed("a name is none".into()))?;
        let asked = async {
            let answer = self.client.send(request.map(Body::from)).await?;
            let status = answer.status();
            Ok::<_, kube::Error>((status, answer.into_body().collect_bytes().await?))
        };
        let answer = self
            .runtime
            .block_on(async { tokio::time::timeout(PATIENCE, asked).await })
            .map_err(|_| failed(format!("no answer within {} s", PATIENCE.as_secs())))?;
        let (status, body) = answer.map_err(|error| failed(causes(&error)))?;
        if status.as_u16() == 404 {
            return Ok(None);
        }
        if !status.is_success() {
            return Err(failed(format!("it answers {status}")));
        }
        let seen: Seen =
            serde_json::from_slice(&body).map_err(|error| failed(error.to_string()))?;
        Ok(Some(seen).filter(|seen| seen.metadata.uid.as_deref() == Some(uid)))
    }

    /// The same of one whose nodes are in the database, asked once for each version of them.
    ///
    /// # Errors
    /// As [`Self::workflow`].
    pub fn with_nodes(&self, seen: &Seen) -> Result<Option<Arc<Seen>>, String> {
        let metadata = &seen.metadata;
        let (Some(uid), Some(version)) = (&metadata.uid, &seen.status.offload_node_status_version)
        else {
            return Ok(None);
        };
        let lock = || self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, answer)) = lock().get(uid)
            && known == version
        {
            return Ok(Some(Arc::clone(answer)));
        }
        let [namespace, name] =
            [&metadata.namespace, &metadata.name].map(|one| one.as_deref().unwrap_or_default());
        let Some(answer) = self.workflow(namespace, name, uid)?.map(Arc::new) else {
            return Ok(None);
        };
        let mut answers = lock();
        if answers.len() >= KEPT {
            answers.clear();
        }
        answers.insert(uid.clone(), (version.clone(), Arc::clone(&answer)));
        Ok(Some(answer))
    }
}
