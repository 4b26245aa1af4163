//! How Workflows are seen.
//!
//! Owns what is known of a Workflow without asking, and when the server is asked. What it means is
//! `reading`'s to say.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::api::{WatchEvent, WatchParams};
use kube::{Api, Client, ResourceExt};
use tokio::runtime::Runtime;

use super::workflow::Seen;
use super::{PATIENCE, Refusal, ask};

/// How long a watch is asked for, in seconds; then it is asked for anew.
const WATCH_SECONDS: u32 = 50;
/// After a watch that failed.
const REST: Duration = Duration::from_secs(1);

/// What is known of a Workflow.
#[derive(Clone, Debug)]
pub enum Known {
    /// It is there.
    There(Arc<Seen>),
    /// It is not, by the server's own word.
    Gone,
}

/// How Workflows are seen.
pub trait Sight: Send + Sync {
    /// A Workflow as it stands.
    ///
    /// # Errors
    /// Nobody can say.
    fn look(&self, namespace: &str, name: &str) -> Result<Known, Refusal>;
    /// Takes what a server answered, and sees what follows.
    fn took(&self, seen: Seen) -> Arc<Seen>;
}

/// What watches see; of what is not here nothing is known.
type Watched = Arc<Mutex<HashMap<String, Known>>>;

/// Each Workflow by a watch of its own, from the first look at it on.
pub struct EachByItself {
    runtime: Arc<Runtime>,
    client: Client,
    watched: Watched,
}

impl EachByItself {
    /// Nothing is seen yet.
    pub fn new(runtime: Arc<Runtime>, client: Client) -> Self {
        Self { runtime, client, watched: Watched::default() }
    }
}

impl Sight for EachByItself {
    fn look(&self, namespace: &str, name: &str) -> Result<Known, Refusal> {
        let watched = self.watched.lock().map_err(|_| Refusal::lasting("a watch is broken"))?;
        if let Some(known) = watched.get(&format!("{namespace}/{name}")).cloned() {
            return Ok(known);
        }
        drop(watched);
        let workflows: Api<Seen> = Api::namespaced(self.client.clone(), namespace);
        let seen = ask(&self.runtime, workflows.get_opt(name))?;
        Ok(seen.map_or(Known::Gone, |seen| Known::There(self.took(seen))))
    }

    /// Once its watch ends, nothing is known any more, and whoever looks next asks the server.
    fn took(&self, seen: Seen) -> Arc<Seen> {
        let namespace = seen.namespace().unwrap_or_default();
        let (name, version) = (seen.name_any(), seen.resource_version().unwrap_or_default());
        let key = format!("{namespace}/{name}");
        let seen = Arc::new(seen);
        let Ok(mut watched) = self.watched.lock() else { return seen };
        // What a watch saw is newer than any answer.
        if !watched.contains_key(&key) {
            watched.insert(key.clone(), Known::There(Arc::clone(&seen)));
            drop(watched);
            let watched = Arc::clone(&self.watched);
            let workflows = Api::namespaced(self.client.clone(), &namespace);
            self.runtime.spawn(async move {
                follow(&workflows, &name, &key, version, &watched).await;
                if let Ok(mut watched) = watched.lock() {
                    watched.remove(&key);
                }
            });
        }
        seen
    }
}

/// Tells each change of a Workflow, until the watch ends or fails.
async fn follow(
    workflows: &Api<Seen>,
    name: &str,
    key: &str,
    mut version: String,
    watched: &Watched,
) {
    let tell = |known: Known| {
        if let Ok(mut watched) = watched.lock() {
            watched.insert(key.to_owned(), known);
        }
    };
    let own = WatchParams::default().fields(&format!("metadata.name={name}"));
    let parameters = own.timeout(WATCH_SECONDS);
    loop {
        let began = Instant::now();
        let Ok(stream) = workflows.watch(&parameters, &version).await else { break };
        let mut stream = std::pin::pin!(stream);
        // A connection of which nothing comes, not even its end, is no watch.
        while let Ok(Some(event)) = tokio::time::timeout(2 * PATIENCE, stream.next()).await {
            match event {
                Ok(WatchEvent::Added(seen) | WatchEvent::Modified(seen)) => {
                    version = seen.metadata.resource_version.clone().unwrap_or_default();
                    tell(Known::There(Arc::new(seen)));
                }
                Ok(WatchEvent::Deleted(_)) => return tell(Known::Gone),
                Ok(WatchEvent::Bookmark(mark)) => version = mark.metadata.resource_version,
                Ok(WatchEvent::Error(_)) | Err(_) => {
                    return tokio::time::sleep(REST).await;
                }
            }
        }
        // A watch that ends at once is asked for with a pause.
        tokio::time::sleep(REST.saturating_sub(began.elapsed())).await;
    }
    // Whoever looks next asks at once; a server that is away is not asked without a pause.
    tokio::time::sleep(REST).await;
}
