//! Moves: a pipeline that vanished in one place and stands, unchanged, in another.
//!
//! Owns that rule. Cursors follow a move, so that nothing runs again because a folder was renamed;
//! with several candidates nobody can say, and nothing follows.

use super::ledger::Ledger;
use crate::types::{Digest, PipelineId, Timestamp};

/// How long a vanished pipeline may come back elsewhere, in seconds: 30 days.
const WITHIN: i64 = 30 * 86_400;

/// A pipeline that its source no longer shows.
pub struct Vanished<'a> {
    /// Which one.
    pub id: &'a PipelineId,
    /// Its cursors.
    pub ledger: &'a Ledger,
    /// Whether its name came from its folder.
    pub default_name: bool,
}

/// The pipeline whose cursors a newly seen one takes over: of the same source and digest, and of the
/// same name or both named by their folders. None where several fit.
pub fn moved_from<'a>(
    id: &PipelineId,
    default_name: bool,
    digest: &Digest,
    vanished: &'a [Vanished<'a>],
    now: Timestamp,
) -> Option<&'a Vanished<'a>> {
    let recent = |since: Option<Timestamp>| {
        since.is_none_or(|since| now.duration_since(since).as_secs() <= WITHIN)
    };
    let mut fitting = vanished.iter().filter(|other| {
        other.id != id
            && other.id.source == id.source
            && (other.id.name == id.name || (other.default_name && default_name))
            && other.ledger.moved.is_none()
            && recent(other.ledger.orphaned)
            && other.ledger.change.accepted.as_ref().is_some_and(|one| one.digest == *digest)
    });
    let first = fitting.next();
    if fitting.next().is_some() { None } else { first }
}
