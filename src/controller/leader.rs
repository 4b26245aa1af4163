//! Which of several controllers works: the holder of a Lease.
//!
//! Owns taking, renewing and giving it back. No run depends on it: two holders at once only get in each
//! other's way. The age of a lease is what this process saw of it, never a comparison of two clocks.

#![expect(clippy::disallowed_methods, reason = "writes when it renewed, for people")]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::runtime::Runtime;

use crate::types::Timestamp;

/// The name of the lease.
pub const NAME: &str = "jupyterflow-controller";
/// A lease that was not renewed for so long is nobody's.
const LENGTH: Duration = Duration::from_secs(15);
/// Whoever could not renew it for so long stops working.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often it is renewed, or looked at.
const PERIOD: Duration = Duration::from_secs(3);

/// A contender.
pub struct Leader {
    until: Arc<Mutex<Option<Instant>>>,
    task: tokio::task::JoinHandle<()>,
    leases: Api<Lease>,
    identity: String,
}

/// What is known of another's lease: its state, and since when it stands.
type Seen = Option<(Option<MicroTime>, Instant)>;

/// What to do about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Take or renew it.
    Hold,
    /// Another holds it.
    Wait,
}

/// Decides.
fn decide(spec: &LeaseSpec, identity: &str, seen: &mut Seen, now: Instant) -> Step {
    let holder = spec.holder_identity.as_deref().filter(|holder| !holder.is_empty());
    if holder.is_none_or(|holder| holder == identity) {
        *seen = None;
        return Step::Hold;
    }
    let since = match seen {
        Some((beat, since)) if *beat == spec.renew_time => *since,
        _ => {
            *seen = Some((spec.renew_time.clone(), now));
            now
        }
    };
    if now.saturating_duration_since(since) >= LENGTH { Step::Hold } else { Step::Wait }
}

impl Leader {
    /// Contends for the lease of a namespace from now on.
    pub fn contend(runtime: &Runtime, client: Client, namespace: &str, identity: String) -> Self {
        let leases: Api<Lease> = Api::namespaced(client, namespace);
        let until = Arc::new(Mutex::new(None));
        let (own, shared, name) = (leases.clone(), Arc::clone(&until), identity.clone());
        let task = runtime.spawn(async move {
            let mut seen = None;
            loop {
                let asked = Instant::now();
                let once = tokio::time::timeout(DEADLINE, once(&own, &name, &mut seen));
                match once.await {
                    Ok(Ok(true)) => set(&shared, Some(asked + DEADLINE)),
                    Ok(Ok(false)) => set(&shared, None),
                    // What was held is held until its time is over.
                    Ok(Err(error)) => tracing::debug!("the lease: {error}"),
                    Err(_) => {}
                }
                tokio::time::sleep(PERIOD).await;
            }
        });
        Self { until, task, leases, identity }
    }

    /// Whether this process works.
    pub fn is_leading(&self) -> bool {
        let until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Gives the lease back, so that the next one begins at once.
    pub fn resign(self, runtime: &Runtime) {
        self.task.abort();
        let leading = self.is_leading();
        let give = async {
            let Some(mut lease) = self.leases.get_opt(NAME).await? else { return Ok(()) };
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(&self.identity) {
                spec.holder_identity = Some(String::new());
                self.leases.replace(NAME, &PostParams::default(), &lease).await?;
            }
            Ok::<(), kube::Error>(())
        };
        if leading {
            let _ = runtime.block_on(async { tokio::time::timeout(PERIOD, give).await });
        }
    }
}

fn set(until: &Mutex<Option<Instant>>, to: Option<Instant>) {
    *until.lock().unwrap_or_else(PoisonError::into_inner) = to;
}

/// Looks at the lease and holds it where that may be. Says whether it is ours.
async fn once(leases: &Api<Lease>, identity: &str, seen: &mut Seen) -> kube::Result<bool> {
    let now = MicroTime(Timestamp::now());
    let found = leases.get_opt(NAME).await?;
    let there = found.is_some();
    let mut lease = found.unwrap_or_default();
    lease.metadata.name = Some(NAME.into());
    let spec = lease.spec.get_or_insert_default();
    if decide(spec, identity, seen, Instant::now()) == Step::Wait {
        return Ok(false);
    }
    if spec.holder_identity.as_deref() != Some(identity) {
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0) + i32::from(there));
        spec.acquire_time = Some(now.clone());
    }
    spec.holder_identity = Some(identity.to_owned());
    spec.lease_duration_seconds = i32::try_from(LENGTH.as_secs()).ok();
    spec.renew_time = Some(now);
    let written = if there {
        leases.replace(NAME, &PostParams::default(), &lease).await
    } else {
        leases.create(&PostParams::default(), &lease).await
    };
    match written {
        Ok(_) => Ok(true),
        // Another was first.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_once_it_stood_still_for_its_length() {
        let begin = Instant::now();
        let beat = |second: i64| Some(MicroTime(Timestamp::from_second(second).unwrap()));
        // The other's clock is hours away, which says nothing.
        let mut spec = LeaseSpec {
            holder_identity: Some("other".into()),
            renew_time: beat(0),
            ..LeaseSpec::default()
        };
        let mut seen = None;
        assert_eq!(decide(&spec, "own", &mut seen, begin), Step::Wait);
        assert_eq!(decide(&spec, "own", &mut seen, begin + LENGTH / 2), Step::Wait);
        spec.renew_time = beat(3);
        assert_eq!(decide(&spec, "own", &mut seen, begin + LENGTH), Step::Wait);
        assert_eq!(decide(&spec, "own", &mut seen, begin + LENGTH * 2), Step::Hold);
        spec.holder_identity = Some("own".into());
        assert_eq!(decide(&spec, "own", &mut seen, begin), Step::Hold);
        spec.holder_identity = Some(String::new());
        assert_eq!(decide(&spec, "own", &mut seen, begin), Step::Hold);
    }
}
