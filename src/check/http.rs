//! Checks over HTTP: a GET, with a limit on time, size and redirects.
//!
//! Owns the asking: each question in the background, one at a time for a pipeline, its answer kept
//! until the next. A server that hangs holds up its own pipeline only.

#![expect(clippy::disallowed_methods, reason = "an answer has the time at which it came")]

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, redirect};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use url::{Host, Url};

use super::Checks;
use super::address::{Allowed, is_private};
use crate::plan::{CheckSeen, Reply};
use crate::spec::Check;
use crate::types::{PipelineId, Timestamp, causes};

/// An answer may take this long in all.
const TIMEOUT: Duration = Duration::from_secs(10);
/// An answer may have this many bytes.
const LARGEST: usize = 1 << 20;
/// So many redirects are followed.
const REDIRECTS: usize = 5;
/// So many questions are on their way at a time.
const AT_A_TIME: usize = 32;

/// Asks over HTTP.
pub struct HttpChecks {
    known: Arc<Shared>,
    jobs: Option<UnboundedSender<(PipelineId, Check)>>,
    access: Access,
    /// Whether a look waits for the answer.
    waits: bool,
}

/// Which private hosts may be asked.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Whether a pipeline may name one itself: it is written by whoever runs this process.
    pub trusted: bool,
    /// Hosts that redirects may lead to as well.
    pub allowed: Vec<Allowed>,
}

#[derive(Default)]
struct Known {
    answers: HashMap<PipelineId, (Check, Timestamp, Result<Reply, String>)>,
    asking: HashMap<PipelineId, Check>,
    count: u64,
}

#[derive(Default)]
struct Shared {
    known: Mutex<Known>,
    answered: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HttpChecks {
    /// Asks on behalf of one source. With `waits`, a look waits for the answer.
    pub fn new(access: Access, waits: bool) -> Self {
        Self { known: Arc::default(), jobs: None, access, waits }
    }

    /// How many answers came so far.
    pub fn answers(&self) -> u64 {
        self.known.lock().count
    }

    /// Starts the thread that asks, once there is something to ask.
    fn jobs(&mut self) -> &UnboundedSender<(PipelineId, Check)> {
        let (known, access) = (Arc::clone(&self.known), self.access.clone());
        self.jobs.get_or_insert_with(|| {
            let (sender, mut jobs) = unbounded_channel::<(PipelineId, Check)>();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let Ok(runtime) = runtime else { return };
                let clients = Arc::new(Clients::new(access));
                let limit = Arc::new(Semaphore::new(AT_A_TIME));
                runtime.block_on(async move {
                    while let Some((pipeline, check)) = jobs.recv().await {
                        let (known, clients) = (Arc::clone(&known), Arc::clone(&clients));
                        let limit = Arc::clone(&limit);
                        tokio::spawn(async move {
                            let _permit = limit.acquire().await;
                            let answer = ask(&clients, &check).await;
                            let mut locked = known.lock();
                            locked.asking.remove(&pipeline);
                            locked.count += 1;
                            locked.answers.insert(pipeline, (check, Timestamp::now(), answer));
                            known.answered.notify_all();
                        });
                    }
                });
            });
            sender
        })
    }
}

impl Checks for HttpChecks {
    fn look(
        &mut self,
        pipeline: &PipelineId,
        check: &Check,
        end: Option<Timestamp>,
        now: Timestamp,
    ) -> CheckSeen {
        let shared = Arc::clone(&self.known);
        let every = i64::try_from(check.every.seconds()).unwrap_or(i64::MAX);
        let after = |at: Timestamp| {
            at.checked_add(jiff::SignedDuration::from_secs(every)).unwrap_or(Timestamp::MAX)
        };
        let mut known = shared.lock();
        let due = known.answers.get(pipeline).is_none_or(|(asked, at, answer)| {
            // A yes from before a run ended may be what that run answered. A clock that stepped
            // back must not make an answer last for ever.
            let old =
                answer.as_ref().is_ok_and(|one| one.needed) && end.is_some_and(|end| end >= *at);
            asked != check || old || after(*at) <= now || *at > now
        });
        if due && !known.asking.contains_key(pipeline) {
            known.asking.insert(pipeline.clone(), check.clone());
            drop(known);
            // The thread is gone only where no runtime could be made; then the wait below ends.
            let _ = self.jobs().send((pipeline.clone(), check.clone()));
            known = shared.lock();
            if self.waits {
                let asking = |known: &mut Known| known.asking.contains_key(pipeline);
                let waited = shared.answered.wait_timeout_while(known, TIMEOUT * 2, asking);
                known = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        match known.answers.get(pipeline) {
            Some((asked, at, answer)) if asked == check => match answer {
                Ok(reply) => CheckSeen::Reply(reply.clone(), after(*at)),
                Err(why) => CheckSeen::Unknown(why.clone(), after(*at)),
            },
            _ => CheckSeen::Asking,
        }
    }
}

/// A client for hosts that a pipeline itself may name, and one for all others.
struct Clients {
    access: Access,
    trusted: Client,
    guarded: Client,
}

impl Clients {
    fn new(access: Access) -> Self {
        // One implementation of TLS for all that speaks it here.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = |resolver: Option<Resolver>| {
            let builder = Client::builder()
                .user_agent("jupyterflow")
                .redirect(redirect::Policy::none())
                // A proxy would be asked instead of the address that was judged.
                .no_proxy();
            match resolver {
                Some(resolver) => builder.dns_resolver(Arc::new(resolver)),
                None => builder,
            }
            .build()
            .unwrap_or_default()
        };
        let guarded = client(Some(Resolver { access: access.clone() }));
        Self { access, trusted: client(None), guarded }
    }
}

impl Access {
    fn allows(&self, host: &str, address: IpAddr) -> bool {
        !is_private(address)
            || self.allowed.iter().any(|one| one.has_name(host) || one.has_address(address))
    }
}

/// Looks names up and drops the addresses that may not be asked, so that a name is judged by the
/// address that is then used.
struct Resolver {
    access: Access,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (host, access) = (name.as_str().to_owned(), self.access.clone());
        Box::pin(async move {
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            let (fine, other): (Vec<SocketAddr>, Vec<SocketAddr>) =
                found.partition(|one| access.allows(&host, one.ip()));
            if fine.is_empty() && !other.is_empty() {
                return Err(refused(&host).into());
            }
            Ok(Box::new(fine.into_iter()) as Addrs)
        })
    }
}

fn refused(host: &str) -> String {
    format!("{host} is private; the source's `allowPrivate` would have to name it")
}

async fn ask(clients: &Clients, check: &Check) -> Result<Reply, String> {
    match tokio::time::timeout(TIMEOUT, body(clients, &check.url)).await {
        Ok(body) => Reply::read(check, &body?, Timestamp::now()),
        Err(_) => Err(format!("no whole answer within {} s", TIMEOUT.as_secs())),
    }
}

/// The body of a good answer, after redirects.
async fn body(clients: &Clients, url: &str) -> Result<Vec<u8>, String> {
    let own = Url::parse(url).map_err(|error| format!("it is no URL: {error}"))?;
    let mut url = own.clone();
    for _ in 0..=REDIRECTS {
        let free = clients.access.trusted && url.host() == own.host();
        let address = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            _ => None,
        };
        if let Some(address) =
            address.filter(|address| !free && !clients.access.allows("", *address))
        {
            return Err(refused(&address.to_string()));
        }
        let client = if free { &clients.trusted } else { &clients.guarded };
        let request = client.get(url.clone()).header("Accept", "application/json");
        let mut response = request.send().await.map_err(words)?;
        let status = response.status();
        let target = response.headers().get("location").and_then(|value| value.to_str().ok());
        if let Some(target) = target.filter(|_| status.is_redirection()) {
            let next =
                url.join(target).map_err(|error| format!("redirected to no URL: {error}"))?;
            if !matches!(next.scheme(), "http" | "https") {
                return Err(format!("redirected to {}:, which is not followed", next.scheme()));
            }
            url = next;
            continue;
        }
        let good = status.is_success();
        if response.content_length().is_some_and(|length| length > LARGEST as u64) {
            return Err(format!("the answer has more than {LARGEST} bytes"));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(words)? {
            if body.len() + chunk.len() > LARGEST {
                return Err(format!("the answer has more than {LARGEST} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        if good {
            return Ok(body);
        }
        let words = Reply::errors(&body);
        let words =
            if words.is_empty() { String::new() } else { format!(": {}", words.join("; ")) };
        return Err(format!("answered {status}{words}"));
    }
    Err(format!("more than {REDIRECTS} redirects"))
}

/// An error in words, without the URL, which may carry secrets.
fn words(error: reqwest::Error) -> String {
    causes(&error.without_url())
}
