//! Schedules against croniter and zoneinfo: fire times over changed clocks, and a simulated year in
//! which the daemon is killed, away, and given clocks that jump.

use std::collections::{BTreeMap, BTreeSet};

use jupyterflow::plan::{
    Action, Definition, Ledger, Observed, Phase, PipelineFacts, RunFact, Seen, plan,
};
use jupyterflow::schedule::{Cron, Zone};
use jupyterflow::spec::{Fingerprint, fingerprint::Files, parse};
use jupyterflow::types::{PipelineId, Timestamp};
use serde_json::json;

use crate::support::{Random, number, oracle};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// Each line in each zone, two days around each change of its clock, and over some plain weeks.
#[test]
fn fire_times_are_those_of_croniter_by_our_rule_for_changed_clocks() {
    let lines = [
        "0 3 * * *",
        "30 2 * * *",
        "0 0 * * *",
        "15 1,2,3 * * *",
        "0 */2 * * *",
        "*/20 * * * *",
        "5 * * * *",
        "0 2-4 * * mon-fri",
        "30 1 1 * *",
        "0 0 1,15 * 1",
        "0 12 29 2 *",
        "*/7 2 * * *",
        "10 0-3/3 * * sun",
        "@daily",
        "@hourly",
        "59 23 31 12 *",
        "0 4 * * 7",
        "45 2 * 3,10,11 0",
    ];
    // Instants near which clocks change, in seconds since 1970; the last of each is a plain day.
    let zones: [(&str, &[&str]); 6] = [
        (
            "Europe/Berlin",
            &[
                "2026-03-29T01:00:00Z",
                "2026-10-25T01:00:00Z",
                "2024-03-31T01:00:00Z",
                "2026-07-01T00:00:00Z",
            ],
        ),
        (
            "America/Sao_Paulo",
            &[
                "2018-11-04T03:00:00Z",
                "2018-02-18T02:00:00Z",
                "2019-02-17T02:00:00Z",
                "2026-01-15T00:00:00Z",
            ],
        ),
        (
            "Australia/Lord_Howe",
            &["2026-04-04T15:00:00Z", "2026-10-03T15:30:00Z", "2026-07-01T00:00:00Z"],
        ),
        (
            "Africa/Casablanca",
            &["2026-02-15T02:00:00Z", "2026-03-22T02:00:00Z", "2026-06-01T00:00:00Z"],
        ),
        ("Asia/Seoul", &["2026-03-29T01:00:00Z", "1988-05-07T17:00:00Z", "2026-12-30T00:00:00Z"]),
        ("UTC", &["2024-02-28T00:00:00Z", "2026-12-31T00:00:00Z"]),
    ];
    let mut questions = Vec::new();
    for (zone, instants) in zones {
        for instant in instants {
            let middle = instant.parse::<Timestamp>().unwrap().as_second();
            for line in lines {
                let (from, until) = (middle - 2 * 86_400, middle + 2 * 86_400);
                questions.push(json!({"line": line, "zone": zone, "from": from, "until": until}));
            }
        }
    }
    let wanted = oracle(&json!(questions));
    assert_eq!(wanted.len(), questions.len());
    let mut fired = 0;
    for (question, wanted) in questions.iter().zip(wanted) {
        let zone = Zone::named(question["zone"].as_str().unwrap()).unwrap();
        let cron = Cron::parse(question["line"].as_str().unwrap(), zone).unwrap();
        let bound = |name: &str| at(question[name].as_i64().unwrap());
        let ours: Vec<i64> = cron
            .between(bound("from"), bound("until"), usize::MAX)
            .into_iter()
            .map(Timestamp::as_second)
            .collect();
        let shown = |all: &[i64]| all.iter().map(|one| at(*one).to_string()).collect::<Vec<_>>();
        assert_eq!(shown(&ours), shown(&wanted), "{question}");
        fired += ours.len();
    }
    assert!(fired > 3000, "{fired}");
}

/// What a year left behind.
struct Year {
    claimed: BTreeSet<i64>,
    /// Runs of ticks that were skipped: the first, the last, and how many.
    skipped: BTreeMap<i64, (i64, u64)>,
    effective: i64,
    answered: i64,
}

/// One year of one pipeline: passes at odd times, away for days, killed before and after each write,
/// clocks that jump back and forth. Every tick of the year has exactly one record.
fn year(line: &str, zone: &str, missed: &str, policy: &str, seed: u64) -> Year {
    let yaml = format!(
        "concurrency: {policy}\ntriggers: {{schedule: {{cron: '{line}', timezone: {zone}, missed: {missed}, maxLateness: 2d}}}}\nsteps: {{a: {{run: 'true'}}}}"
    );
    let documents = parse(&yaml, "jupyterflow.yaml", "p", 100);
    let pipeline = &documents.pipelines[0];
    let fingerprint = Fingerprint::new(pipeline, &Files::new());
    let id = PipelineId { source: "s".into(), folder: "p".into(), name: pipeline.name().clone() };
    let begin = "2026-01-01T00:00:30Z".parse::<Timestamp>().unwrap().as_second();
    let (mut dice, mut now, mut ended) = (Random(seed), begin, 0);
    let (mut ledger, mut runs) = (Ledger::default(), Vec::<RunFact>::new());
    let (mut claimed, mut skipped) = (BTreeSet::new(), BTreeMap::new());
    while now < begin + 365 * 86_400 {
        let definition = Definition {
            pipeline,
            fingerprint: &fingerprint,
            schedules: &pipeline.triggers().schedules,
            revision: "r",
            still_since: at(begin),
            inputs_written: None,
        };
        let facts = PipelineFacts::new(&id, Seen::Good, Some(definition), &ledger, &runs);
        let planned = plan(&facts, at(now));
        // Killed before the write: nothing of it ever was.
        if dice.next(7) != 0 {
            ledger = planned.ledger;
            for skip in &ledger.skips {
                skipped.insert(skip.from.as_second(), (skip.to.as_second(), skip.count));
            }
            let killed = dice.next(9) == 0;
            for action in planned.actions {
                match action {
                    Action::Claim(claim) => {
                        let instant = claim.trigger.scheduled_at.unwrap().as_second();
                        assert!(claimed.insert(instant), "{} twice", at(instant));
                        let host = if claim.start && !killed {
                            Observed::Known(())
                        } else {
                            Observed::Absent
                        };
                        runs.push(RunFact {
                            name: claim.name,
                            trigger: claim.trigger,
                            phase: Phase::Pending,
                            started_at: None,
                            finished_at: None,
                            ended: None,
                            stop_requested: false,
                            requested: false,
                            host,
                        });
                    }
                    Action::Start { run, .. } if !killed => {
                        runs.iter_mut()
                            .filter(|one| one.name == run)
                            .for_each(|one| one.host = Observed::Known(()));
                    }
                    Action::Stop { run, .. } => {
                        runs.iter_mut()
                            .filter(|one| one.name == run)
                            .for_each(|one| one.stop_requested = true);
                    }
                    Action::Start { .. } | Action::Record { .. } => {}
                }
            }
        }
        for run in
            runs.iter_mut().filter(|run| run.host == Observed::Known(()) || run.stop_requested)
        {
            if run.stop_requested || dice.next(3) == 0 {
                ended += 1;
                (run.phase, run.host, run.ended) =
                    (Phase::Succeeded, Observed::Absent, Some(ended));
                run.finished_at = Some(at(now));
            }
        }
        // Records go as histories have it; what a cursor covers is answered all the same.
        runs.retain(|run| {
            !run.phase.is_ended() || run.ended.is_some_and(|place| place + 3 > ended)
        });
        now += match dice.next(40) {
            0 => 3 * 86_400,
            1 => -7_200,
            2..6 => 3_600,
            _ => i64::try_from(dice.next(600)).unwrap() + 1,
        };
        now = now.max(begin);
    }
    // The first pass may be killed as well, and the schedule take effect days later.
    let cursor = &ledger.schedules[0];
    let (effective, answered) = (cursor.effective.as_second(), cursor.answered.as_second());
    Year { claimed, skipped, effective, answered }
}

#[test]
fn each_tick_of_a_year_has_exactly_one_record() {
    let rounds = number("YEARS", 3);
    let begin = "2026-01-01T00:00:30Z".parse::<Timestamp>().unwrap().as_second();
    let cases = [
        ("0 */3 * * *", "Europe/Berlin", "last", "queue"),
        ("30 2 * * *", "Australia/Lord_Howe", "all", "queue"),
        ("15 1,2,3 * * *", "Africa/Casablanca", "none", "forbid"),
        ("0 0 * * *", "America/Sao_Paulo", "all", "replace"),
        ("*/30 * * * *", "Asia/Seoul", "last", "allow"),
    ];
    let question = |(line, zone, ..): &(&str, &str, &str, &str)| json!({"line": line, "zone": zone, "from": begin, "until": begin + 370 * 86_400});
    let wanted = oracle(&cases.iter().map(question).collect());
    for ((line, zone, missed, policy), ticks) in cases.into_iter().zip(wanted) {
        for seed in 1..=rounds {
            let Year { claimed, skipped, effective, answered } =
                year(line, zone, missed, policy, seed);
            let due: BTreeSet<i64> = ticks
                .iter()
                .copied()
                .filter(|tick| effective < *tick && *tick <= answered)
                .collect();
            let mut covered: BTreeMap<i64, u64> = BTreeMap::new();
            for tick in &claimed {
                *covered.entry(*tick).or_default() += 1;
            }
            for (from, (to, count)) in &skipped {
                let inside: Vec<i64> = due.range(from..=to).copied().collect();
                let own: Vec<i64> =
                    inside.into_iter().filter(|tick| !claimed.contains(tick)).collect();
                let both: Vec<_> = due
                    .range(from..=to)
                    .filter(|tick| claimed.contains(tick))
                    .map(|tick| at(*tick))
                    .collect();
                assert_eq!(
                    own.len() as u64,
                    *count,
                    "{line}: {} to {}: {both:?}",
                    at(*from),
                    at(*to)
                );
                own.into_iter().for_each(|tick| *covered.entry(tick).or_default() += 1);
            }
            let twice = covered.iter().find(|(_, count)| **count > 1);
            assert_eq!(twice, None, "{line} {zone} {missed} {policy} {seed}");
            let covered: BTreeSet<i64> = covered.into_keys().collect();
            let lost: Vec<_> =
                due.symmetric_difference(&covered).map(|tick| at(*tick).to_string()).collect();
            assert!(lost.is_empty(), "{line} {zone} {missed} {policy} {seed}: {lost:?}");
            assert!(covered.len() > 300 && !claimed.is_empty(), "{}", covered.len());
        }
    }
}
