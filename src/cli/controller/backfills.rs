//! Runs of past instants, as people ask a controller for them.
//!
//! Owns that each request is answered: claims come first, and then its annotation goes. Repeated in between it
//! claims nothing more.

use tracing::{info, warn};

use super::{Controller, Troubles};
use crate::cli::lanes::Lane;
use crate::cli::print::printable;
use crate::controller::events::Told;
use crate::controller::requests::MOST_BACKFILLED;
use crate::plan::range;
use crate::reconcile::{self, Backfilling, Look, RequestError, World};
use crate::store::StoreError;
use crate::types::{PipelineId, Timestamp};

/// Requests, each with its words.
pub(super) type Asked = Vec<(PipelineId, String)>;

impl Controller {
    /// The requests that may be answered: each pass begins with another one.
    pub(super) fn asked(&self, troubles: &mut Troubles) -> Asked {
        let (gone, mut asked): (Vec<_>, Vec<_>) =
            self.store.backfills().into_iter().partition(|(id, _)| self.store.is_orphaned(id));
        for (id, words) in gone {
            self.refuse(&id, &words, "its source is gone", troubles);
        }
        let first = usize::try_from(self.figures.passes).unwrap_or(0) % asked.len().max(1);
        asked.rotate_left(first);
        asked
    }

    /// Claims what the first request wants that can be answered, and leaves the others to the next pass, since all else
    /// waits meanwhile. What was planned of that pipeline is no longer good then.
    pub(super) fn backfill(
        &mut self,
        lane: usize,
        look: &mut Look,
        asked: &mut Asked,
        now: Timestamp,
        troubles: &mut Troubles,
    ) {
        let own: Asked = asked.iter().filter(|(id, _)| look.sees(id)).cloned().collect();
        for (id, words) in own {
            match self.claim(lane, look, (&id, &words), now) {
                Ok(count) => {
                    info!(pipeline = %id, "{id}: backfill {}: {count} runs", printable(&words));
                    troubles.of(self.store.backfilled(&id, &words));
                    let told = Told::normal("BackfillClaimed", format!("{words}: {count} runs"));
                    self.describing().of_pipeline(&id, told);
                }
                Err(RequestError::Refused { message, .. }) => {
                    self.refuse(&id, &words, &message, troubles);
                    continue;
                }
                Err(RequestError::Store(StoreError::Conflict)) => {}
                // It is tried again, and holds up no other.
                Err(RequestError::Store(error)) => {
                    troubles.note(error);
                    continue;
                }
            }
            look.plan.pipelines.retain(|(planned, _)| *planned != id);
            troubles.soon = true;
            asked.clear();
            return;
        }
    }

    fn refuse(&self, id: &PipelineId, words: &str, why: &str, troubles: &mut Troubles) {
        warn!(pipeline = %id, "warning: {id}: backfill {}: {}", printable(words), printable(why));
        troubles.of(self.store.backfilled(id, words));
        self.describing()
            .of_pipeline(id, Told::warning("BackfillRefused", format!("{words}: {why}")));
    }

    fn claim(
        &mut self,
        lane: usize,
        look: &Look,
        (id, words): (&PipelineId, &str),
        now: Timestamp,
    ) -> Result<usize, RequestError> {
        let refused = |message| RequestError::Refused { message, hint: None };
        let range = range(words).map_err(refused)?;
        let Self { lanes, store, engine, .. } = self;
        let Lane { source, checks, scope, .. } = &mut lanes[lane];
        let mut world = World { source: source.as_mut(), store, engine, checks };
        let asked = Backfilling { range, most: MOST_BACKFILLED, dry_run: false };
        let done = reconcile::backfill(&mut world, scope, look, id, &asked, now)?;
        Ok(done.claims.len())
    }
}
