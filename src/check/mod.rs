//! The check port: questions to URLs whose answers say whether a run is needed.
//!
//! Owns the promise that asking never holds up a pass for long, and that nobody is asked more often
//! than a pipeline says. What an answer means is the plan's to say.

mod address;
mod http;

pub use address::{Allowed, InvalidAllowed};
pub use http::{Access, HttpChecks};

use crate::plan::CheckSeen;
use crate::spec::Check;
use crate::types::{PipelineId, Timestamp};

/// Whoever asks.
pub trait Checks {
    /// What is known of a check. Asks where nothing is known, where the last answer is older than the
    /// check's period, or where it is not newer than `end`, when the newest run ended.
    fn look(
        &mut self,
        pipeline: &PipelineId,
        check: &Check,
        end: Option<Timestamp>,
        now: Timestamp,
    ) -> CheckSeen;
}
