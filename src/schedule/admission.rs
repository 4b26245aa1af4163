//! Which of the due instants run, and why the others do not.
//!
//! Owns the policy for missed ticks: what was due more than a minute ago is missed, and the
//! schedule says whether none, the last, or all of those run.

use serde::{Deserialize, Serialize};

use crate::types::{Period, Timestamp};

/// Later than this is missed, in seconds.
const GRACE: i64 = 60;
/// The most missed ticks that `all` runs.
const MOST: usize = 100;

/// What to do with ticks that passed while nobody was looking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MissedPolicy {
    /// Skip them.
    None,
    /// Run the newest.
    #[default]
    Last,
    /// Run all, oldest first, at most 100.
    All,
}

/// What becomes of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A run answers it.
    Run,
    /// Skipped: missed, and the policy does not run it.
    Missed,
    /// Skipped: later than `maxLateness`.
    TooLate,
}

/// Judges due instants, which come oldest first.
pub fn admit(
    due: &[Timestamp],
    policy: MissedPolicy,
    max_lateness: Option<Period>,
    now: Timestamp,
) -> Vec<(Timestamp, Verdict)> {
    let late = |instant: Timestamp| now.duration_since(instant).as_secs();
    let too_late = |instant: Timestamp| {
        max_lateness
            .is_some_and(|most| late(instant) > i64::try_from(most.seconds()).unwrap_or(i64::MAX))
    };
    let missed: Vec<Timestamp> =
        due.iter().copied().filter(|at| late(*at) > GRACE && !too_late(*at)).collect();
    let kept = match policy {
        MissedPolicy::None => 0,
        MissedPolicy::Last => 1,
        MissedPolicy::All => MOST,
    };
    let first_kept = missed.len().saturating_sub(kept);
    due.iter()
        .map(|&at| {
            let verdict = if late(at) <= GRACE {
                Verdict::Run
            } else if too_late(at) {
                Verdict::TooLate
            } else if missed[first_kept..].contains(&at) {
                Verdict::Run
            } else {
                Verdict::Missed
            };
            (at, verdict)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(policy: MissedPolicy, max_lateness: Option<&str>) -> String {
        let at = |minute: i8| jiff::civil::date(2026, 1, 1).at(3, minute, 0, 0);
        let instant = |minute| at(minute).to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp();
        let due: Vec<_> = [0, 10, 20, 30].map(instant).into();
        let lateness = max_lateness.map(|text| text.parse().unwrap());
        let verdicts = admit(&due, policy, lateness, instant(31));
        verdicts
            .iter()
            .map(|(_, verdict)| match verdict {
                Verdict::Run => 'r',
                Verdict::Missed => 'm',
                Verdict::TooLate => 'l',
            })
            .collect()
    }

    #[test]
    fn the_policy_decides_on_what_was_missed() {
        assert_eq!(verdicts(MissedPolicy::None, None), "mmmr");
        assert_eq!(verdicts(MissedPolicy::Last, None), "mmrr");
        assert_eq!(verdicts(MissedPolicy::All, None), "rrrr");
        assert_eq!(verdicts(MissedPolicy::All, Some("15m")), "llrr");
        assert_eq!(verdicts(MissedPolicy::Last, Some("5m")), "lllr");
    }
}
