//! The triggers stale, check and pipelines, and what `concurrency` does with all of them.

use super::*;
use crate::plan::{Reply, Success};
use crate::types::{RunId, TriggerKind};

pub fn success(run: &str, ordinal: u64, at: Timestamp) -> Success {
    Success { run: run_name(run), at, ordinal }
}

fn run_name(stem: &str) -> RunName {
    let id = PipelineId { source: "s".into(), folder: String::new(), name: stem.parse().unwrap() };
    RunId::new(&id, TriggerKind::Manual, stem).name(&id.name, None)
}

pub fn upstream(name: &str) -> Upstream {
    Upstream { name: name.into(), success: Ok(None) }
}

fn world(triggers: &str) -> World {
    World::new(&format!("triggers: {{{triggers}}}\nsteps: {{a: {{run: python a.py}}}}"))
}

impl World {
    /// One pass, applied; what it started, by trigger and key.
    fn starts(&mut self) -> Vec<String> {
        let plan = self.pass();
        self.apply(&plan);
        let claims = plan.actions.iter().filter_map(|action| match action {
            Action::Claim(claim) => Some(format!("{} {}", claim.trigger.kind, claim.trigger.key)),
            _ => None,
        });
        claims.collect()
    }

    fn end_all(&mut self, phase: Phase) {
        let open = self.runs.iter().filter(|run| !run.phase.is_ended());
        for name in open.map(|run| run.name.clone()).collect::<Vec<_>>() {
            self.end(&name, phase);
        }
    }

    fn reply(&mut self, needed: bool, key: Option<&str>) {
        let (at, key) = (self.now, key.map(str::to_owned));
        let reply = Reply { at, needed, key, params: [("m".to_owned(), "x".into())].into() };
        self.check = Some(CheckSeen::Reply(reply, at));
    }

    fn until(&mut self, reason: Reason) -> Timestamp {
        let plan = self.pass();
        let found = plan.not_done.iter().find(|one| one.reason == reason);
        found.unwrap_or_else(|| panic!("no {reason} in {plan:?}")).until.unwrap()
    }
}

#[test]
fn a_success_that_is_too_old_wants_another() {
    let mut world = world("stale: {maxAge: 1d}");
    assert_eq!(world.starts(), ["stale none/1"], "there is none yet");
    assert!(world.starts().is_empty(), "one is enough");
    world.end_all(Phase::Succeeded);
    let first = world.runs[0].name.clone();
    assert_eq!(world.until(Reason::UpToDate), world.now + jiff::SignedDuration::from_hours(24));
    world.later(86_399);
    assert!(world.starts().is_empty());
    world.later(1);
    assert_eq!(world.starts(), [format!("stale {first}/1")]);
    // A removed record does not make the success of any other run unknown.
    world.end_all(Phase::Succeeded);
    world.pass();
    let plan = world.pass();
    world.apply(&plan);
    world.runs.clear();
    assert!(world.starts().is_empty());
}

#[test]
fn tries_that_fail_are_an_hour_apart_then_twice_as_long() {
    let mut world = world("stale: {maxAge: 1d}");
    for (hours, key) in [(0, 1), (1, 2), (2, 3), (4, 4), (8, 5), (16, 6), (24, 7), (24, 8)] {
        if hours > 0 {
            let next = world.now + jiff::SignedDuration::from_hours(hours);
            assert_eq!(world.until(Reason::Backoff), next);
            world.later(hours * 3600 - 1);
            assert!(world.starts().is_empty(), "before its time");
            world.later(1);
        }
        assert_eq!(world.starts(), [format!("stale none/{key}")]);
        world.later(600);
        world.end_all(Phase::Failed);
    }
}

#[test]
fn any_success_is_fresh_and_a_change_takes_the_place_of_a_stale_run() {
    let mut world = world("change: , stale: {maxAge: 1d}");
    world.later(31);
    let plan = world.pass();
    assert_eq!(plan.not_done[0].reason, Reason::Superseded);
    assert_eq!(world.starts(), ["change 1"]);
    world.end_all(Phase::Succeeded);
    assert!(world.starts().is_empty());
}

#[test]
fn two_upstreams_that_finish_give_one_run() {
    let mut world = world("pipelines: [u, v]");
    let old = success("u", 1, world.now);
    world.upstreams = vec![upstream("u"), upstream("v")];
    world.upstreams[0].success = Ok(Some(old));
    assert!(world.starts().is_empty(), "first sight answers what was there");
    world.upstreams[0].success = Ok(Some(success("u", 2, world.now)));
    assert!(world.starts().is_empty(), "each of them must have a newer one");
    world.upstreams[0].success = Ok(Some(success("u", 3, world.now)));
    // A clock that stepped back between them does not matter.
    world.upstreams[1].success = Ok(Some(success("v", 4, "2020-01-01T00:00:00Z".parse().unwrap())));
    assert_eq!(world.starts(), ["pipelines 1"]);
    assert!(world.starts().is_empty());
    world.end_all(Phase::Failed);
    assert!(world.starts().is_empty(), "a failure is not repeated");
    // A record that is gone shows an older success: nothing new.
    world.upstreams[0].success = Ok(Some(success("u", 2, world.now)));
    assert!(world.starts().is_empty());
    world.upstreams[0].success = Ok(Some(success("u", 9, world.now)));
    world.upstreams[1].success = Ok(Some(success("v", 8, world.now)));
    assert_eq!(world.starts(), ["pipelines 2"]);
    world.upstreams[1].success = Err("it is not there".into());
    assert!(world.reasons().contains(&Reason::Unknown));
}

#[test]
fn upstreams_that_finish_during_a_run_give_one_more() {
    let mut world = world("pipelines: [u]");
    world.upstreams = vec![upstream("u")];
    world.starts();
    for ordinal in 1..4 {
        world.upstreams[0].success = Ok(Some(success("u", ordinal, world.now)));
        assert_eq!(world.starts().len(), usize::from(ordinal == 1));
    }
    world.end_all(Phase::Succeeded);
    assert_eq!(world.starts(), ["pipelines 2"]);
}

#[test]
fn a_check_gives_a_run_for_each_episode() {
    let mut world = world("check: {url: 'http://c/needsSync', params: {m: their-m}}");
    world.check = Some(CheckSeen::Asking);
    assert_eq!(world.reasons(), [Reason::Waiting]);
    world.check = Some(CheckSeen::Unknown("500".into(), world.now));
    assert_eq!(world.reasons(), [Reason::Unknown]);
    world.reply(false, None);
    assert!(world.starts().is_empty());
    world.reply(true, None);
    let plan = world.pass();
    assert!(matches!(&plan.actions[0], Action::Claim(claim) if claim.params["m"] == "x"));
    assert_eq!(world.starts(), ["check episode-1/1"]);
    world.later(60);
    world.end_all(Phase::Succeeded);
    assert_eq!(world.reasons(), [Reason::Waiting], "a yes from before the end says nothing");
    world.later(1);
    world.reply(true, None);
    let next = world.until(Reason::StillNeeded);
    assert_eq!(next, world.now + jiff::SignedDuration::from_secs(3599));
    world.reply(false, None);
    assert!(world.starts().is_empty());
    world.reply(true, None);
    assert_eq!(world.starts(), ["check episode-2/1"], "no and yes again is another need");
}

#[test]
fn a_check_that_flaps_while_its_run_fails_asks_for_the_same() {
    let mut world = world("check: {url: 'http://c/'}");
    world.reply(true, None);
    assert_eq!(world.starts(), ["check episode-1/1"]);
    world.end_all(Phase::Failed);
    for _ in 0..20 {
        world.later(30);
        world.reply(false, None);
        assert!(world.starts().is_empty());
        world.later(30);
        world.reply(true, None);
        assert!(world.starts().is_empty());
        assert!(world.until(Reason::Backoff) > world.now);
    }
    world.later(3600);
    world.reply(true, None);
    assert_eq!(world.starts(), ["check episode-1/2"]);
}

#[test]
fn a_key_is_answered_once_however_often_it_comes_back() {
    let mut world = world("check: {url: 'http://c/'}");
    for (key, wanted) in [("a", "check a/1"), ("b", "check b/1"), ("a", ""), ("b", "")] {
        world.later(300);
        world.reply(true, Some(key));
        assert_eq!(world.starts().join(" "), wanted);
        world.later(1);
        world.end_all(Phase::Succeeded);
    }
}

#[test]
fn replies_are_read_as_model_sync_wrote_them() {
    let yaml = "triggers: {check: {url: 'http://c', params: {model: automl-model, same: same}}}\n\
                steps: {a: {run: x}}";
    let documents = parse(yaml, "f", "", 100);
    let check = documents.pipelines[0].triggers().check.clone().unwrap();
    let read = |body: &str| Reply::read(&check, body.as_bytes(), Timestamp::MIN);
    let good = r#"{"kind":"NeedsSync","apiVersion":"v1alpha1","metadata":{},"needsSync":true,
        "parameters":{"automl-model":"m1","same":"s","other":"o"},"errors":[]}"#;
    let reply = read(good).unwrap();
    assert_eq!(serde_json::json!(reply.params), serde_json::json!({"model": "m1", "same": "s"}));
    assert!(!read(r#"{"needsSync": false}"#).unwrap().needed);
    for (body, words) in [
        ("", "not JSON"),
        ("[1]", "no `needsSync"),
        (r#"{"needsSync": "yes"}"#, "no `needsSync"),
        (r#"{"needsSync": true, "parameters": {"same": "s"}}"#, "no parameter `automl-model`"),
        (r#"{"needsSync": true, "errors": [{"message": "boom"}]}"#, "boom"),
        (r#"{"needsSync": false, "key": ""}"#, "`key`"),
        (r#"{"needsSync": false, "key": 3}"#, "`key`"),
    ] {
        let error = read(body).unwrap_err();
        assert!(error.contains(words), "{body}: {error}");
    }
}

fn concurrent(policy: &str) -> World {
    let yaml = "concurrency: POLICY\ntriggers: {change: , schedule: '0 * * * *'}\n\
                steps: {a: {run: python a.py}}";
    let mut world = World::new(&yaml.replace("POLICY", policy));
    world.later(31);
    assert_eq!(world.starts(), ["change 1"]);
    world.now = "2026-11-22T11:00:01Z".parse().unwrap();
    world
}

#[test]
fn forbid_skips_ticks_and_lets_changes_wait() {
    let mut world = concurrent("forbid");
    world.edit("2");
    assert!(world.starts().is_empty());
    assert_eq!(world.ledger.skips[0].reason, Reason::Forbidden);
    world.later(31);
    assert!(world.reasons().contains(&Reason::Forbidden));
    world.end_all(Phase::Succeeded);
    assert_eq!(world.starts(), ["change 2"], "an edit is never swallowed, a tick is");
}

#[test]
fn allow_runs_together() {
    let mut world = concurrent("allow");
    assert_eq!(world.starts(), ["schedule 2026-11-22T11:00:00Z"]);
    world.edit("2");
    world.later(31);
    assert_eq!(world.starts(), ["change 2"]);
    assert_eq!(world.runs.iter().filter(|run| run.phase == Phase::Running).count(), 3);
}

#[test]
fn replace_stops_the_running_one_and_says_for_which() {
    let mut world = concurrent("replace");
    let plan = world.pass();
    let first = world.runs[0].name.clone();
    let Action::Stop { run, by, hosted: true, .. } = &plan.actions[0] else { panic!("{plan:?}") };
    let Action::Claim(claim) = &plan.actions[1] else { panic!("{plan:?}") };
    assert_eq!((run, by.as_ref()), (&first, Some(&claim.name)));
    assert!(!claim.start, "it waits until the other is gone");
    // Killed after the claim and before the stop: the next pass stops it.
    world.ledger = plan.ledger.clone();
    let claim = plan.actions[1].clone();
    world.apply(&PipelinePlan { actions: vec![claim], ..plan });
    let plan = world.pass();
    assert!(matches!(&plan.actions[..], [Action::Stop { run, .. }] if *run == first), "{plan:?}");
    world.apply(&plan);
    assert_eq!(world.runs[0].phase, Phase::Stopped);
    let plan = world.pass();
    assert!(matches!(&plan.actions[..], [Action::Start { run, .. }] if *run == world.runs[1].name));
    // Of several ticks that were missed only the newest runs.
    world.yaml = world.yaml.replace("'0 * * * *'", "{cron: '0 * * * *', missed: all}");
    world.apply(&plan);
    world.pass();
    let plan = world.pass();
    world.apply(&plan);
    world.now = "2026-11-22T14:00:01Z".parse().unwrap();
    assert_eq!(world.starts(), ["schedule 2026-11-22T14:00:00Z"]);
    assert_eq!(world.ledger.skips.last().unwrap().reason, Reason::Superseded);
}

#[test]
fn first_sight_may_be_adopted() {
    let mut world = World::new(CHANGE);
    world.adopt = true;
    world.later(31);
    assert_eq!(world.reasons(), [Reason::Adopted]);
    assert!(world.starts().is_empty());
    world.edit("2");
    world.later(31);
    assert_eq!(world.starts(), ["change 1"]);
}

#[test]
fn a_full_house_lets_ticks_wait_as_records_and_changes_as_wants() {
    let mut world =
        World::new("triggers: {change: , schedule: '0 * * * *'}\nsteps: {a: {run: python a.py}}");
    world.room = 0;
    world.later(31);
    assert!(world.starts().is_empty());
    assert_eq!(world.reasons(), [Reason::LimitReached]);
    world.now = "2026-11-22T11:00:01Z".parse().unwrap();
    assert_eq!(world.starts(), ["schedule 2026-11-22T11:00:00Z"]);
    assert_eq!(world.runs[0].phase, Phase::Pending);
    world.room = 1;
    let plan = world.pass();
    assert!(matches!(&plan.actions[..], [Action::Start { .. }]), "{plan:?}");
}

#[test]
fn skips_on_both_sides_of_a_tick_with_a_run_are_two_records() {
    let mut world = concurrent("forbid");
    assert!(world.starts().is_empty(), "11:00 is skipped");
    world.end_all(Phase::Succeeded);
    world.now = "2026-11-22T12:00:01Z".parse().unwrap();
    assert_eq!(world.starts(), ["schedule 2026-11-22T12:00:00Z"]);
    world.now = "2026-11-22T13:00:01Z".parse().unwrap();
    assert!(world.starts().is_empty());
    assert_eq!(world.ledger.skips.len(), 2);
}

#[test]
fn ranges_of_backfills_that_meet_are_one() {
    let mut world = World::new("triggers: {schedule: '0 0 1 1 *'}\nsteps: {a: {run: x}}");
    let all = parse(&world.yaml, "f", "", 100).pipelines[0].triggers().schedules.clone();
    let mut ask = |range: &str, most: usize| {
        let range = crate::plan::range(range).unwrap();
        let done = crate::plan::backfill(&world.id, &world.ledger, &all, range, most, world.now)?;
        world.ledger = done.ledger;
        Ok::<_, String>((done.claims.len(), world.ledger.backfilled.len()))
    };
    assert!(ask("0001-01-01..2026-01-01", 5).unwrap_err().contains("at most 5"));
    assert_eq!(ask("2010-01-01..2011-06-01", 5), Ok((2, 1)));
    assert_eq!(ask("2014-01-01..2014-06-01", 5), Ok((1, 2)));
    assert_eq!(ask("2011-01-01..2014-01-01", 5), Ok((2, 1)));
    assert!(crate::plan::range("2011-01-02..2011-01-01").is_err());
    // Nothing comes before the first instant that can be written.
    assert!(ask(&format!("{}..2010-01-01", jiff::Timestamp::MIN), 5).is_ok());
}

#[test]
fn a_backfill_claims_what_nothing_answered() {
    let mut world = World::new(
        "triggers: {schedule: {cron: '0 * * * *', missed: none}}\nsteps: {a: {run: python a.py}}",
    );
    world.starts();
    let schedules =
        |world: &World| parse(&world.yaml, "f", "", 100).pipelines[0].triggers().schedules.clone();
    let ask = |world: &World, from: &str, to: &str| {
        let at = |text: &str| format!("2026-11-22T{text}:00Z").parse().unwrap();
        let (range, all) = ((at(from), at(to)), schedules(world));
        crate::plan::backfill(&world.id, &world.ledger, &all, range, 5, world.now)
    };
    let keys = |done: &crate::plan::Backfill| -> Vec<String> {
        done.claims.iter().map(|claim| claim.trigger.key.clone()).collect()
    };
    // 11:00 runs, 12:00 to 14:00 are missed, 15:00 runs.
    for now in ["2026-11-22T11:00:01Z", "2026-11-22T14:30:00Z", "2026-11-22T15:00:01Z"] {
        world.now = now.parse().unwrap();
        world.starts();
        world.end_all(Phase::Succeeded);
    }
    let done = ask(&world, "09:00", "16:00").unwrap();
    assert_eq!(keys(&done).len(), 5, "before it took effect, and what was skipped: {done:?}");
    assert_eq!(keys(&done)[0], "2026-11-22T09:00:00Z");
    let why: Vec<&str> = done.left.iter().map(|(_, why)| *why).collect();
    assert_eq!(why, ["it is answered", "it is answered", "it is yet to come"]);
    world.ledger = done.ledger;
    assert!(keys(&ask(&world, "09:00", "15:00").unwrap()).is_empty(), "once is enough");
    assert!(ask(&world, "00:00", "08:00").unwrap_err().contains("at most 5"));
    // What a schedule answered before an edit is not run again by the new one.
    world.yaml = world.yaml.replace("'0 * * * *'", "'0 11,15 * * *'");
    world.ledger.backfilled.clear();
    world.starts();
    assert!(keys(&ask(&world, "11:00", "15:00").unwrap()).is_empty());
}
