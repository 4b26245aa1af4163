//! `backfill` through the ledger: claims for past instants, in one write.
//!
//! Owns that write. Which instants may run is the plan's to say.

use super::apply::{claim, claimed_run};
use super::look::Look;
use super::{RequestError, Scope, World};
use crate::plan::{Backfill, backfill as planned};
use crate::store::{Commit, StoreError, StoredRun};
use crate::types::{PipelineId, Timestamp};

/// What is asked for.
pub struct Backfilling {
    /// The first and the last instant.
    pub range: (Timestamp, Timestamp),
    /// The most runs.
    pub most: usize,
    /// Whether nothing is written.
    pub dry_run: bool,
}

/// Claims the instants of a pipeline that nothing answered.
///
/// # Errors
/// The pipeline has no schedule or is gone, there are more instants, or the store cannot be written.
pub fn backfill(
    world: &mut World<'_>,
    scope: &Scope,
    look: &Look,
    id: &PipelineId,
    asked: &Backfilling,
    now: Timestamp,
) -> Result<Backfill, RequestError> {
    let refused = |message| RequestError::Refused { message, hint: None };
    let known = look.pipelines.get(id).and_then(|seeing| Some((seeing, seeing.pipeline.as_ref()?)));
    let Some((seeing, pipeline)) = known else {
        return Err(refused(format!("nothing good is known of pipeline {id}")));
    };
    // What a source shows no more has a queue that nothing starts.
    let planned_gone = look.plan.pipelines.iter().find(|(other, _)| other == id);
    if planned_gone.is_some_and(|(_, plan)| plan.ledger.orphaned.is_some()) {
        return Err(refused(format!("pipeline {id} is gone from its source")));
    }
    loop {
        let row = world.store.pipelines()?.into_iter().find(|row| row.id == *id);
        let ledger = row.as_ref().map(|row| row.ledger.clone()).unwrap_or_default();
        let schedules = &pipeline.triggers().schedules;
        let done =
            planned(id, &ledger, schedules, asked.range, asked.most, now).map_err(refused)?;
        if asked.dry_run || done.claims.is_empty() {
            return Ok(done);
        }
        let engine = world.engine.name();
        let claims = done.claims.iter().filter_map(|claim| {
            let mut stored: StoredRun = claimed_run(scope, engine, id, seeing, claim, now)?;
            stored.spec.backfill = true;
            Some(stored)
        });
        let known = row.as_ref().and_then(|row| row.definition.as_ref());
        let commit = Commit {
            id,
            version: row.as_ref().map(|row| row.version),
            ledger: &done.ledger,
            definition: known.or(seeing.text.as_ref()),
            claims: claims.collect(),
            shown: None,
        };
        // They wait in the queue, one behind the other.
        match claim(&mut world.acting(), commit, |_| false) {
            // What is known of a cluster comes by watches: the next pass knows more.
            Err(StoreError::Conflict) if !world.store.announces() => {}
            other => return Ok(other.map(|_| done)?),
        }
    }
}
