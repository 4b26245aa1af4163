//! Whoever answers the checks of a simulated world.

use crate::check::Checks;
use crate::plan::{CheckSeen, Reply};
use crate::spec::Check;
use crate::types::{PipelineId, Timestamp};

/// The answer to all checks.
#[derive(Debug, Default)]
pub struct SimulatedChecks {
    /// The body of the reply, or why there is none.
    pub reply: Option<Result<String, String>>,
}

impl Checks for SimulatedChecks {
    fn look(
        &mut self,
        _: &PipelineId,
        check: &Check,
        _: Option<Timestamp>,
        now: Timestamp,
    ) -> CheckSeen {
        let next = now + check.every.duration();
        let read = match &self.reply {
            None => return CheckSeen::Asking,
            Some(Ok(body)) => Reply::read(check, body.as_bytes(), now),
            Some(Err(why)) => Err(why.clone()),
        };
        match read {
            Ok(reply) => CheckSeen::Reply(reply, next),
            Err(why) => CheckSeen::Unknown(why, next),
        }
    }
}
