//! The crontab line in its time zone.
//!
//! Owns the rule for clock changes: a schedule is fixed where neither minute nor hour begins with
//! `*`. In a gap only fixed ones fire, once, right after it; in a fold fixed ones fire once, at
//! the first pass. The fields themselves are croner's, matched in civil time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use croner::Cron as Pattern;
use croner::parser::{CronParser, Seconds, Year};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, ToSpan};

use crate::types::Timestamp;

/// So many parsed patterns are remembered.
const REMEMBERED: usize = 256;

/// No clock change anywhere moves by more than this.
const MARGIN: SignedDuration = SignedDuration::from_hours(26);

/// A time zone of the embedded IANA database, by name.
#[derive(Clone, PartialEq, Eq)]
pub struct Zone {
    name: String,
    zone: TimeZone,
}

impl Zone {
    /// Coordinated universal time.
    pub fn utc() -> Self {
        Self { name: "UTC".into(), zone: TimeZone::UTC }
    }

    /// Looks a name up.
    ///
    /// # Errors
    /// Says that the name is unknown.
    pub fn named(name: &str) -> Result<Self, String> {
        if name == "UTC" {
            return Ok(Self::utc());
        }
        let zone = jiff::tz::db().get(name).map_err(|_| {
            format!("{name:?} is no time zone: wanted an IANA name such as Asia/Seoul or UTC")
        })?;
        Ok(Self { name: name.to_owned(), zone })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

/// A validated crontab line in its zone.
#[derive(Clone, Debug)]
pub struct Cron {
    line: String,
    zone: Zone,
    fixed: bool,
}

/// A parsed pattern takes 5 KB, which thousands of schedules do not keep: the patterns that were used
/// last are remembered, many or few lines as there may be.
fn pattern(line: &str) -> Result<Arc<Pattern>, String> {
    static KNOWN: Mutex<BTreeMap<String, Arc<Pattern>>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pattern) = known.get(line) {
        return Ok(Arc::clone(pattern));
    }
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    let words: Vec<&str> = fields(line).split_whitespace().collect();
    let parsed = parser.parse(&words.join(" ")).map_err(|error| format!("{line:?}: {error}"))?;
    if known.len() >= REMEMBERED {
        known.clear();
    }
    let parsed = Arc::new(parsed);
    known.insert(line.to_owned(), Arc::clone(&parsed));
    Ok(parsed)
}

/// The five fields of a line.
fn fields(line: &str) -> &str {
    match line {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => line,
    }
}

impl PartialEq for Cron {
    fn eq(&self, other: &Self) -> bool {
        self.line == other.line && self.zone == other.zone
    }
}

impl Cron {
    /// Parses five fields, or one of `@yearly @annually @monthly @weekly @daily @midnight @hourly`.
    ///
    /// # Errors
    /// Says which field is wrong, or that the line never fires.
    pub fn parse(line: &str, zone: Zone) -> Result<Self, String> {
        let fields = fields(line.trim());
        if fields.starts_with('@') {
            return Err(format!(
                "{fields:?} is not known: wanted five fields, or @yearly, @monthly, @weekly, @daily \
                 or @hourly"
            ));
        }
        let parts: Vec<&str> = fields.split_whitespace().collect();
        let [minute, hour, ..] = parts[..] else { return Err(field_count(parts.len())) };
        if parts.len() != 5 {
            return Err(field_count(parts.len()));
        }
        for (index, part) in parts.iter().enumerate() {
            lint(index, part)?;
        }
        let fixed = !minute.starts_with('*') && !hour.starts_with('*');
        let cron = Self { line: line.trim().to_owned(), zone, fixed };
        let pattern = pattern(&cron.line)?;
        // A leap day may be eight years away; what does not fire from here never does.
        let start = jiff::civil::date(2096, 3, 1).at(0, 0, 0, 0);
        if next_civil(&pattern, start, true).is_none() {
            return Err(format!("{line:?} never fires"));
        }
        Ok(cron)
    }

    /// The line as written.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// The zone in which the fields count.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// The first instant after `after` at which it fires.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let pattern = pattern(&self.line).ok()?;
        let mut civil = self.civil(after.checked_sub(MARGIN).ok()?);
        let mut inclusive = true;
        let mut best: Option<(Timestamp, DateTime)> = None;
        while let Some(time) = next_civil(&pattern, civil, inclusive) {
            if best.is_some_and(|(_, until)| time > until) {
                break;
            }
            for instant in self.instants(time).into_iter().flatten() {
                if instant > after && best.is_none_or(|(earliest, _)| instant < earliest) {
                    let until = self.civil(instant.checked_add(MARGIN).ok()?);
                    best = Some((instant, until));
                }
            }
            (civil, inclusive) = (time, false);
        }
        best.map(|(instant, _)| instant)
    }

    /// All instants after `after` and up to `until`, in order, at most `limit` of them, oldest
    /// first.
    pub fn between(&self, after: Timestamp, until: Timestamp, limit: usize) -> Vec<Timestamp> {
        let mut found = BTreeSet::new();
        let (Ok(start), Ok(end), Ok(pattern)) =
            (after.checked_sub(MARGIN), until.checked_add(MARGIN), pattern(&self.line))
        else {
            return Vec::new();
        };
        let (mut civil, end) = (self.civil(start), self.civil(end));
        let mut inclusive = true;
        while let Some(time) = next_civil(&pattern, civil, inclusive) {
            if time > end {
                break;
            }
            let instants = self.instants(time).into_iter().flatten();
            found.extend(instants.filter(|instant| *instant > after && *instant <= until));
            // Instants come in order but for one fold, which is shorter than this surplus.
            if found.len() > limit.saturating_add(4 * 24 * 60) {
                break;
            }
            (civil, inclusive) = (time, false);
        }
        found.into_iter().take(limit).collect()
    }

    fn civil(&self, instant: Timestamp) -> DateTime {
        instant.to_zoned(self.zone.zone.clone()).datetime()
    }

    /// The instants at which a civil time happens in the zone: none, one or two.
    fn instants(&self, civil: DateTime) -> [Option<Timestamp>; 2] {
        let zone = &self.zone.zone;
        let at = |offset: jiff::tz::Offset| offset.to_timestamp(civil).ok();
        match zone.to_ambiguous_zoned(civil).offset() {
            AmbiguousOffset::Unambiguous { offset } => [at(offset), None],
            AmbiguousOffset::Fold { before, .. } if self.fixed => [at(before), None],
            AmbiguousOffset::Fold { before, after } => [at(before), at(after)],
            AmbiguousOffset::Gap { before, .. } if self.fixed => {
                // The clock went from `before` over this civil time: the change itself is the
                // last one at or before the instant that the old offset would give.
                let change = at(before)
                    .and_then(|instant| instant.checked_add(1.nanosecond()).ok())
                    .and_then(|instant| zone.preceding(instant).next());
                [change.map(|change| change.timestamp()), None]
            }
            AmbiguousOffset::Gap { .. } => [None, None],
        }
    }
}

/// The next civil time that the fields match: croner in a zone without clock changes.
fn next_civil(pattern: &Pattern, after: DateTime, inclusive: bool) -> Option<DateTime> {
    let as_utc = after.to_zoned(TimeZone::UTC).ok()?;
    pattern.find_next_occurrence(&as_utc, inclusive).ok().map(|zoned| zoned.datetime())
}

impl fmt::Display for Cron {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.line, self.zone.name)
    }
}

fn field_count(count: usize) -> String {
    format!("a crontab line has five fields (minute hour day month weekday), not {count}")
}

/// Refuses what croner lets through though no crontab knows it.
fn lint(index: usize, field: &str) -> Result<(), String> {
    const NAMES: [&str; 5] = ["minute", "hour", "day of month", "month", "day of week"];
    const LIMITS: [u32; 5] = [59, 23, 31, 12, 7];
    const WORDS: &str =
        "jan feb mar apr may jun jul aug sep oct nov dec sun mon tue wed thu fri sat";
    let name = NAMES[index];
    for item in field.split(',') {
        let refuse = || Err(format!("{name} {field:?}: {item:?} is not understood"));
        let (range, step) = item.split_once('/').map_or((item, None), |(r, s)| (r, Some(s)));
        if range.is_empty() {
            return refuse();
        }
        if let Some(step) = step {
            match step.parse::<u32>() {
                Ok(step) if (1..=LIMITS[index]).contains(&step) => {}
                _ => {
                    return Err(format!(
                        "{name} {field:?}: a step goes from 1 to {}",
                        LIMITS[index]
                    ));
                }
            }
        }
        for end in range.split('-') {
            let word = index >= 3 && WORDS.split(' ').any(|word| word.eq_ignore_ascii_case(end));
            let number = end.parse::<u32>().is_ok_and(|number| number <= LIMITS[index]);
            let star = end == "*" && range == "*";
            if !(word || number || star) {
                return refuse();
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fires(line: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let zone = Zone::named(zone).unwrap();
        let cron = Cron::parse(line, zone.clone()).unwrap();
        let mut at: Timestamp = after.parse().unwrap();
        let mut out = Vec::new();
        for _ in 0..count {
            at = cron.next(at).unwrap();
            out.push(at.to_zoned(zone.zone.clone()).strftime("%m-%d %H:%M%:z").to_string());
        }
        let start: Timestamp = after.parse().unwrap();
        let all = cron.between(start, at, count + 5);
        assert_eq!(all.len(), count, "next and between agree");
        out
    }

    #[test]
    fn fields_are_those_of_crontab() {
        let utc = |line| fires(line, "UTC", "2026-11-22T00:00:00Z", 2);
        assert_eq!(utc("0 3 * * mon"), ["11-23 03:00+00:00", "11-30 03:00+00:00"]);
        assert_eq!(utc("0 3 * * 0"), utc("0 3 * * 7"));
        assert_eq!(utc("0 0 1 * mon"), ["11-23 00:00+00:00", "11-30 00:00+00:00"]);
        assert_eq!(utc("@daily"), ["11-23 00:00+00:00", "11-24 00:00+00:00"]);
        assert_eq!(utc("*/30 1-2 * * *")[1], "11-22 01:30+00:00");
    }

    #[test]
    fn a_gap_fires_fixed_ones_once_right_after_it() {
        // Berlin, 2026-03-29: 02:00 becomes 03:00.
        let berlin = |line| fires(line, "Europe/Berlin", "2026-03-29T00:30:00Z", 2);
        assert_eq!(berlin("30 2 * * *"), ["03-29 03:00+02:00", "03-30 02:30+02:00"]);
        assert_eq!(berlin("10,20 2 * * *")[0..2], ["03-29 03:00+02:00", "03-30 02:10+02:00"]);
        assert_eq!(berlin("*/30 2 * * *"), ["03-30 02:00+02:00", "03-30 02:30+02:00"]);
    }

    #[test]
    fn a_fold_fires_fixed_ones_once_and_others_in_real_time() {
        // Berlin, 2026-10-25: 03:00 becomes 02:00.
        let berlin = |line, n| fires(line, "Europe/Berlin", "2026-10-24T23:30:00Z", n);
        assert_eq!(berlin("30 2 * * *", 2), ["10-25 02:30+02:00", "10-26 02:30+01:00"]);
        assert_eq!(
            berlin("*/30 * * * *", 4),
            ["10-25 02:00+02:00", "10-25 02:30+02:00", "10-25 02:00+01:00", "10-25 02:30+01:00"]
        );
        // Lord Howe changes by half an hour: 2026-04-05 02:00 becomes 01:30.
        let howe = fires("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T14:00:00Z", 2);
        assert_eq!(howe, ["04-05 01:45+11:00", "04-06 01:45+10:30"]);
    }

    #[test]
    fn what_no_crontab_knows_is_refused() {
        for line in [
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "*/60 * * * *",
            "1,,2 * * * *",
            "0 0 30 2 *",
            "@every 5m",
            "@reboot",
            "0 0 L * *",
            "0 0 * * 8",
            "x * * * *",
            "",
            "5-1 * * * *",
        ] {
            assert!(Cron::parse(line, Zone::utc()).is_err(), "{line}");
        }
        assert!(Zone::named("Mars/Olympus").unwrap_err().contains("IANA"));
    }
}
