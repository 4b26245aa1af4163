//! Backfill: which past instants of a pipeline's schedules may have a run now, and why the others not.
//!
//! Owns that nothing is answered twice: an instant runs only from before its schedule took effect, or
//! where the ledger recorded that it was skipped.

use super::action::Claim;
use super::ledger::{Covered, Ledger};
use crate::schedule::{Cron, Zone};
use crate::spec::Schedule;
use crate::types::{PipelineId, Timestamp, TriggerKind};

/// What a backfill does.
#[derive(Debug, PartialEq)]
pub struct Backfill {
    /// Runs to claim, oldest first.
    pub claims: Vec<Claim>,
    /// Instants that are left as they are, with the reason.
    pub left: Vec<(Timestamp, &'static str)>,
    /// The ledger after it.
    pub ledger: Ledger,
}

/// The instants of `FROM..TO`, each as in RFC 3339, or a day, of which the beginning in UTC is meant.
///
/// # Errors
/// In words: the text is no such range.
pub fn range(text: &str) -> Result<(Timestamp, Timestamp), String> {
    let parts = text.split_once("..").and_then(|(from, to)| Some((instant(from)?, instant(to)?)));
    match parts {
        Some((from, to)) if from <= to => Ok((from, to)),
        Some(_) => Err(format!("{text:?} ends before it begins")),
        None => Err(format!("{text:?} is no range of instants")),
    }
}

fn instant(text: &str) -> Option<Timestamp> {
    let day = || text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
    text.parse().ok().or_else(|| day().map(|at| at.timestamp()))
}

/// Plans the backfill of the instants from one up to another, at most so many.
///
/// # Errors
/// There is no schedule, or there are more instants.
pub fn backfill(
    id: &PipelineId,
    ledger: &Ledger,
    schedules: &[Schedule],
    (from, to): (Timestamp, Timestamp),
    most: usize,
    now: Timestamp,
) -> Result<Backfill, String> {
    if schedules.is_empty() {
        return Err("the pipeline has no schedule".into());
    }
    let before = just_before(from);
    let mut claims = Vec::new();
    let mut left = Vec::new();
    let mut after = ledger.clone();
    let mut instants = Vec::new();
    let (limit, mut more) = (most.saturating_mul(20), false);
    for schedule in schedules {
        // One more than may be tells that there are more.
        let found = schedule.cron.between(before, to, limit.saturating_add(1));
        more |= found.len() > limit;
        instants.extend(found.into_iter().map(|instant| (instant, schedule)));
        cover(&mut after.backfilled, Covered::new(&schedule.cron, from, to.min(now)));
    }
    instants.sort_by_key(|(instant, _)| *instant);
    instants.dedup_by_key(|(instant, _)| *instant);
    for (instant, schedule) in instants {
        if let Some(why) = covered(ledger, schedule, instant, now) {
            left.push((instant, why));
            continue;
        }
        let because =
            vec![format!("scheduled at {instant}"), "a person asked for a backfill".into()];
        claims.push(Claim::of_tick(id, instant, because, false));
    }
    if claims.len() > most || more {
        let count = claims.len();
        return Err(format!(
            "{count} instants or more would run, and at most {most} may; give a shorter range, or --max"
        ));
    }
    Ok(Backfill { claims, left, ledger: after })
}

/// The earliest instant has none before it.
fn just_before(instant: Timestamp) -> Timestamp {
    instant.checked_sub(jiff::SignedDuration::from_nanos(1)).unwrap_or(instant)
}

/// Adds what is covered; ranges of one line that meet become one.
fn cover(all: &mut Vec<Covered>, mut new: Covered) {
    if new.from > new.to {
        return;
    }
    all.retain(|known| {
        let own = (&known.cron, &known.timezone) == (&new.cron, &new.timezone);
        let meets = own && known.from <= new.to && new.from <= known.to;
        if meets {
            (new.from, new.to) = (new.from.min(known.from), new.to.max(known.to));
        }
        !meets
    });
    all.push(new);
}

/// Why an instant does not run.
fn covered(
    ledger: &Ledger,
    schedule: &Schedule,
    instant: Timestamp,
    now: Timestamp,
) -> Option<&'static str> {
    if instant > now {
        return Some("it is yet to come");
    }
    if ledger.backfilled.iter().any(|one| one.has(instant)) {
        return Some("an earlier backfill answered it");
    }
    let schedules = ledger.skips.iter().filter(|skip| skip.trigger == TriggerKind::Schedule);
    if schedules.into_iter().any(|skip| skip.from <= instant && instant <= skip.to) {
        return None;
    }
    if ledger.former.iter().any(|one| one.has(instant)) {
        return Some("the schedule from before an edit answered it");
    }
    let cursor = ledger.schedules.iter().find(|cursor| cursor.is_of(schedule))?;
    if instant <= cursor.effective {
        return None;
    }
    // A pass between the instant and now may not have been; then the next answers it.
    Some(if instant <= cursor.answered { "it is answered" } else { "the next pass answers it" })
}

impl Covered {
    /// The instants of a line.
    pub fn new(cron: &Cron, from: Timestamp, to: Timestamp) -> Self {
        let (line, zone) = (cron.line().to_owned(), cron.zone().name().to_owned());
        Self { cron: line, timezone: zone, from, to }
    }

    /// Whether an instant is one of them.
    fn has(&self, instant: Timestamp) -> bool {
        if instant < self.from || self.to < instant {
            return false;
        }
        let cron = Zone::named(&self.timezone).and_then(|zone| Cron::parse(&self.cron, zone));
        // A line that this version cannot read may have had it.
        cron.map_or(true, |cron| cron.next(just_before(instant)) == Some(instant))
    }
}
