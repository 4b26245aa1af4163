//! Controllers whose clocks are wrong.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::wait_for;
use crate::user::{Released, User};

/// The instants of a pipeline's ticks that were claimed, by run.
fn ticks(user: &User) -> BTreeMap<String, String> {
    let runs = user.objects("notebookruns");
    let ticks = runs.into_iter().filter(|(_, run)| run["spec"]["trigger"]["kind"] == "schedule");
    let text = |run: &Value| run["spec"]["trigger"]["scheduledAt"].as_str().unwrap().to_owned();
    ticks.map(|(name, run)| (name, text(&run))).collect()
}

/// A clock that is three hours ahead fires what it sees as due; one that comes after it and is right fires none of
/// that again, and loses no edit. Two at once make each run once.
#[test]
fn hours_of_difference_lose_nothing_and_double_nothing() {
    let user = User::new("clocks");
    user.source();
    let released = Released::of(&user);
    let line = "run: 'echo began >>witness'";
    let nightly = format!(
        "name: ticks\ntriggers: {{schedule: '* * * * *'}}\nhistory: {{successful: 1000}}\nsteps: {{a: {{{line}}}}}\n"
    );
    user.write("ticks/jupyterflow.yaml", &nightly);
    let edited = |n: usize| format!("name: edits\nsteps: {{a: {{run: 'echo {n} >>witness'}}}}\n");
    user.write("edits/jupyterflow.yaml", &edited(0));
    let right = user.controller(&user.namespace, None);
    user.wait_for_run("edits", "change", "Succeeded");
    drop(right);
    let before = ticks(&user).len();
    let mut ahead = user.controller_whose_clock_is_wrong("kube-public", "+3h");
    wait_for("a tick of three hours ahead", || ticks(&user).len() > before);
    user.write("edits/jupyterflow.yaml", &edited(1));
    wait_for("an edit to run", || user.began("edits") == 2);
    // Both at once, each with a lease of its own.
    let right = user.controller(&user.namespace, None);
    user.wait_for_pass("both");
    for n in 2..5 {
        user.write("edits/jupyterflow.yaml", &edited(n));
        wait_for("an edit to run", || user.began("edits") == n + 1);
    }
    // Asked to, so that no claim of it is left half done.
    ahead.signal(rustix::process::Signal::TERM);
    ahead.end();
    // What was claimed for a time to come is not claimed again once it comes, nor anything from before it.
    let known = ticks(&user);
    let last = known.values().max().unwrap().clone();
    user.write("edits/jupyterflow.yaml", &edited(5));
    wait_for("an edit to run", || user.began("edits") == 6);
    let minute = jiff::Timestamp::now().as_second() / 60;
    wait_for("another minute", || jiff::Timestamp::now().as_second() / 60 > minute);
    user.wait_for_pass("later");
    let after = ticks(&user);
    assert_eq!(after.values().max(), Some(&last), "{after:?}");
    let mut instants: Vec<&String> = after.values().collect();
    instants.dedup();
    assert_eq!(instants.len(), after.len(), "{after:?}");
    for name in after.keys() {
        wait_for("each tick to end", || {
            user.objects("notebookruns")[name]["status"]["phase"] == "Succeeded"
        });
    }
    assert_eq!(user.began("ticks"), after.len(), "{}", right.log());
    wait_for("the watch to see all", || released.count_each_once() == after.len() + 6);
}
