//! What people see with `kubectl describe`: events of pipelines and sources.
//!
//! Owns sending them. They are for people alone: nothing is decided by them, a pass never waits for one, and
//! in a storm most are left out.

use std::sync::Arc;
use std::time::Duration;

use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::manifests::NAME;

/// So many wait to be sent; what comes while all wait is left out.
const WAITING: usize = 64;
/// Between two that are sent.
const BETWEEN: Duration = Duration::from_millis(100);
/// The longest words that a server takes, in bytes.
const LONGEST: usize = 1000;

/// One thing to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Whether somebody should do something about it.
    pub is_warning: bool,
    /// One word, such as `RunStarted`.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Told {
    /// Something that goes as it should.
    pub fn normal(reason: &str, message: String) -> Self {
        Self { is_warning: false, reason: reason.to_owned(), message }
    }

    /// Something that somebody should do something about.
    pub fn warning(reason: &str, message: String) -> Self {
        Self { is_warning: true, ..Self::normal(reason, message) }
    }
}

/// Who tells.
#[derive(Clone)]
pub struct Events {
    sender: Sender<(k8s_openapi::api::core::v1::ObjectReference, Told)>,
}

impl Events {
    /// Begins to send. `instance` tells this process from others.
    pub fn new(runtime: &Arc<Runtime>, client: Client, instance: &str) -> Self {
        let (sender, receiver) = channel(WAITING);
        let reporter = Reporter { controller: NAME.into(), instance: Some(instance.to_owned()) };
        runtime.spawn(send(Recorder::new(client, reporter), receiver));
        Self { sender }
    }

    /// Tells something of an object.
    pub fn tell<K: Resource<DynamicType = ()>>(&self, of: &K, told: Told) {
        // Too many at once: the log has them all.
        let _ = self.sender.try_send((of.object_ref(&()), told));
    }
}

async fn send(
    recorder: Recorder,
    mut receiver: Receiver<(k8s_openapi::api::core::v1::ObjectReference, Told)>,
) {
    while let Some((of, told)) = receiver.recv().await {
        let event = Event {
            type_: if told.is_warning { EventType::Warning } else { EventType::Normal },
            action: "Reconcile".into(),
            reason: told.reason,
            note: Some(shortened(&told.message)),
            secondary: None,
        };
        if let Err(error) = recorder.publish(&event, &of).await {
            tracing::debug!("an event was not taken: {error}");
        }
        tokio::time::sleep(BETWEEN).await;
    }
}

fn shortened(message: &str) -> String {
    if message.len() <= LONGEST {
        return message.to_owned();
    }
    let end = (0..=LONGEST).rev().find(|&at| message.is_char_boundary(at)).unwrap_or(0);
    format!("{}…", &message[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_are_cut_between_characters() {
        assert_eq!(shortened("a"), "a");
        let cut = shortened(&"ä".repeat(2000));
        assert!(cut.len() < 1024 && cut.ends_with("ä…"));
    }
}
