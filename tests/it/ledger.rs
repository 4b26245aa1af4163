//! The ledger in use: backfill, history, and states of other versions.

use serde_json::Value;

use crate::support::{Place, wait_for};

const DAILY: &str = "triggers: {schedule: '0 3 * * *'}\nconcurrency: replace\n\
                     steps: {a: {run: 'echo {{ run.scheduledAt }} >> ../days'}}";

#[test]
fn a_backfill_runs_each_day_once_whatever_is_removed() {
    let place = Place::new();
    place.write("jupyterflow.yaml", &DAILY.replace("../days", "$PWD/../days"));
    let ask = |range: &str, more: &[&str]| -> Value {
        let mut args = vec!["backfill", "main", range];
        args.extend(more);
        place.document(&args)
    };
    let claimed = |document: &Value| document["claimed"].as_array().unwrap().len();
    place.run(&["up", "--once"]).expect(0);
    let dry = ask("2026-11-01..2026-11-05", &["--dry-run"]);
    assert_eq!((claimed(&dry), place.runs().len()), (4, 0), "{dry}");
    place.run(&["backfill", "main", "2026-01-01..2026-11-05"]).expect(2).says("--max");
    place.run(&["backfill", "main", "2026-11-05"]).expect(2).says("2026-11-01..");
    assert_eq!(claimed(&ask("2026-11-01T03:00:00Z..2026-11-03", &[])), 2);
    let again = ask("2026-11-01..2026-11-05", &[]);
    assert_eq!((claimed(&again), again["left"].as_array().unwrap().len()), (2, 2), "{again}");
    place.run(&["up", "--once"]).expect(0);
    let mut up = place.spawn(&["up", "--poll", "1s"]);
    let ended = || place.runs().iter().filter(|run| run["phase"] == "Succeeded").count() == 4;
    wait_for("four days", ended);
    up.signal(rustix::process::Signal::TERM);
    assert_eq!(up.end(), 143);
    let days = std::fs::read_to_string(place.beside("days")).unwrap();
    let wanted = ["01", "02", "03", "04"].map(|day| format!("2026-11-{day}T03:00:00Z\n"));
    assert_eq!(days, wanted.concat(), "in order, also where a newer run replaces an older");
    for run in place.runs() {
        place.run(&["delete", run["name"].as_str().unwrap()]).expect(0);
    }
    let gone = ask("2026-11-01..2026-11-05", &[]);
    assert_eq!(claimed(&gone), 0, "a removed record makes nothing wanted again: {gone}");
}

#[test]
fn up_keeps_as_many_runs_as_the_history_says() {
    let place = Place::new();
    let yaml = "triggers: []\nhistory: {successful: 2, failed: 1}\nsteps: {a: {run: 'test -e ok'}}";
    place.write("jupyterflow.yaml", yaml);
    place.run(&["up", "--once"]).expect(0);
    let mut up = place.spawn(&["up", "--poll", "1s"]);
    for ok in [false, false, true, true, true, true] {
        if ok {
            place.write("ok", "");
        }
        place.run(&["run", "."]).expect(i32::from(!ok));
    }
    place.run(&["run", ".", "--detach"]).expect(0);
    let folders = || std::fs::read_dir(place.path("jupyterflow-runs")).unwrap().count();
    wait_for("what is beyond the history to go", || place.runs().len() == 3 && folders() == 3);
    up.signal(rustix::process::Signal::TERM);
    assert_eq!(up.end(), 143);
}

/// Lets a state remember that ticks were skipped, as a pass after a weekend would.
const SKIP: &str = "
import json, sqlite3, sys
state = sqlite3.connect(sys.argv[1])
(text,) = state.execute('SELECT ledger FROM pipelines').fetchone()
ledger = json.loads(text)
ledger['skips'].append({'trigger': 'schedule', 'from': '2026-11-21T03:00:00Z', 'to': '2026-11-22T03:00:00Z', 'count': 2, 'reason': 'Missed'})
state.execute('UPDATE pipelines SET ledger = ?', [json.dumps(ledger)])
state.commit()
";

#[test]
fn ticks_that_did_not_run_are_explained_and_backfilled() {
    let place = Place::new();
    place.write("jupyterflow.yaml", DAILY);
    place.run(&["up", "--once"]).expect(0);
    place.python(SKIP, &[&place.path(".jupyterflow/state.db").display().to_string()]);
    place
        .run(&["explain", "main"])
        .expect(0)
        .says("Missed: 2 ticks from 2026-11-21T03:00:00Z to 2026-11-22T03:00:00Z did not run");
    let range = "2026-11-21T00:00:00Z..2026-11-22T12:00:00Z";
    let document = place.document(&["backfill", "main", range, "--dry-run"]);
    assert_eq!(document["claimed"].as_array().unwrap().len(), 2, "{document}");
}
