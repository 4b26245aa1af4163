//! What a pass tells people of pipelines and sources, for `kubectl describe`.
//!
//! Owns which of it is worth an event. Each thing is told once, as in the log.

use std::collections::BTreeSet;

use crate::cli::up::tell;
use crate::controller::ClusterStore;
use crate::controller::events::{Events, Told};
use crate::controller::kubernetes::Kubernetes;
use crate::controller::records::bare;
use crate::controller::sources::Sources;
use crate::plan::{Action, Phase, Reason, Run};
use crate::reconcile::Look;
use crate::types::PipelineId;

/// Whom to tell, and of what.
pub struct Describing<'a> {
    /// Who sends.
    pub events: &'a Events,
    /// The pipelines.
    pub store: &'a ClusterStore<Kubernetes>,
    /// The sources.
    pub sources: &'a Sources,
}

impl Describing<'_> {
    /// Tells something of a pipeline.
    pub fn of_pipeline(&self, id: &PipelineId, told: Told) {
        self.store.object(id).into_iter().for_each(|one| self.events.tell(&*one, told.clone()));
    }

    /// Tells what a pass does, and not again what is merely tried again.
    pub fn actions(&self, look: &Look, told: &mut BTreeSet<String>) {
        let before = std::mem::take(told);
        for (id, action) in look.plan.actions() {
            let word = match action {
                Action::Claim(_) => "RunClaimed",
                Action::Start { .. } => "RunStarted",
                Action::Stop { .. } => "RunStopping",
                Action::Record { .. } => continue,
            };
            let run = action.run().map(|run| format!("{run}: ")).unwrap_or_default();
            let message = format!("{run}{}", action.reason());
            let key = format!("{word} {id} {message}");
            if !before.contains(&key) {
                self.of_pipeline(id, Told::normal(word, message));
            }
            told.insert(key);
        }
    }

    /// Tells what cannot be read and what is not done, unless that was told before.
    pub fn reasons(&self, look: &Look, before: &BTreeSet<String>) {
        for seen in &look.sources {
            let Some(message) = &seen.message else { continue };
            if !before.contains(&tell::source_key(seen)) {
                let reason = Reason::SourceUnreadable.to_string();
                self.sources.tell(
                    self.events,
                    bare(&seen.name),
                    Told::warning(&reason, message.clone()),
                );
            }
        }
        for (id, plan) in &look.plan.pipelines {
            let news = plan.not_done.iter().filter(|one| !before.contains(&tell::key(one)));
            for not_done in news {
                let reason = not_done.reason.to_string();
                let message = not_done.message.clone();
                match not_done.reason {
                    Reason::UpToDate | Reason::Settling => {}
                    Reason::InvalidFile
                    | Reason::MissingSecret
                    | Reason::MissingOutput
                    | Reason::NameTaken
                    | Reason::Forbidden
                    | Reason::TooLate
                    | Reason::Missed
                    | Reason::Unknown => self.of_pipeline(id, Told::warning(&reason, message)),
                    _ => self.of_pipeline(id, Told::normal(&reason, message)),
                }
            }
        }
    }

    /// Tells how a run ended.
    pub fn end(&self, run: &Run) {
        let Ok(Some(stored)) = crate::store::Store::run(self.store, run.name.as_str()) else {
            return;
        };
        let message = run.message.as_ref().map(|words| format!(": {words}")).unwrap_or_default();
        let (reason, message) = (format!("Run{}", run.phase), format!("{}{message}", run.name));
        let told = match run.phase {
            Phase::Failed | Phase::Unknown => Told::warning(&reason, message),
            _ => Told::normal(&reason, message),
        };
        self.of_pipeline(&stored.pipeline, told);
    }

    /// Tells that a pipeline's source is gone.
    pub fn orphaned(&self, id: &PipelineId) {
        let message = "its source is gone: nothing of it runs any more".to_owned();
        self.of_pipeline(id, Told::normal(&Reason::Orphaned.to_string(), message));
    }
}
