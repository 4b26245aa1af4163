//! The controller on a real cluster: edits and schedules become runs, in the environment of whoever's server
//! was seen, and one run each, whatever stands still, is killed or is deleted.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use serde_json::json;

use crate::proxy::{Asked, Proxy, Verdict};
use crate::support::{PATIENCE, Running, wait_for};
use crate::user::{Released, User};

/// So many writes has the first claim of a new pipeline.
const WRITES: usize = 6;

/// A pipeline whose step leaves a line for each time that it began.
fn pipeline(name: &str, triggers: &str) -> String {
    format!("name: {name}\ntriggers: {triggers}\nsteps:\n  work: {{run: 'echo began >>witness'}}\n")
}

/// Ends a controller as Kubernetes does.
fn ends(mut controller: Running) {
    controller.signal(Signal::TERM);
    assert_eq!(controller.end(), 128 + 15, "{}", controller.log());
}

#[test]
fn edits_become_runs_and_what_people_see_of_them() {
    let user = User::new("edits");
    user.write("p/jupyterflow.yaml", &pipeline("churn", "[change]"));
    user.source();
    let controller = user.controller(&user.namespace, None);
    let run = user.wait_for_run("churn", "change", "Succeeded");
    assert_eq!(run["status"]["steps"][0]["phase"], "Succeeded", "{run}");
    assert_eq!(user.began("p"), 1);
    // Once its end is on record nothing holds the Workflow.
    let name = run["metadata"]["name"].as_str().unwrap();
    wait_for("the Workflow to be let go", || {
        let made = &user.workflows()[name];
        made["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty)
    });
    user.kubectl(&["delete", "workflow", name]).expect(0);
    let described = |words: &[&str]| {
        let text = user.kubectl(&["describe", "nbp"]).expect(0).stdout;
        words.iter().all(|word| text.contains(word))
    };
    wait_for("what happened to be told", || described(&["RunClaimed", "RunSucceeded", name]));
    let table = user.kubectl(&["get", "nbp,nbr,nbs"]).expect(0).stdout;
    for word in ["change", name, "True", "Succeeded"] {
        assert!(table.contains(word), "{word}: {table}");
    }
    // A schedule shows when it fires next.
    let (yearly, twice) = (pipeline("churn", "[change, '@yearly']"), "echo began >>witness; true");
    let edited = yearly.replace("'@yearly'", "schedule").replace("echo began >>witness", twice);
    let edited = edited.replace("[change, schedule]", "{change: {}, schedule: '@yearly'}");
    user.write("p/jupyterflow.yaml", &edited);
    wait_for("the edit's run", || user.began("p") == 2);
    wait_for("the next tick to show", || {
        let table = user.kubectl(&["get", "nbp"]).expect(0).stdout;
        table.contains("-01-01T00:00:00Z") && table.contains("@yearly")
    });
    // What is broken changes nothing, and the source says so.
    user.write("p/jupyterflow.yaml", "name: churn\nsteps: {a: {runn: x}}\n");
    wait_for("the pipeline to say so", || {
        let known = user.objects("notebookpipelines");
        let ready = &known.values().next().unwrap()["status"]["conditions"][0];
        ready["status"] == "False" && ready["reason"] == "InvalidFile"
    });
    assert_eq!(user.began("p"), 2);
    wait_for("that to be told", || described(&["Warning", "InvalidFile"]));
    // A source that goes takes its pipelines with it, as far as triggers go; one that comes back runs nothing.
    user.write("p/jupyterflow.yaml", &edited);
    let ready = |wanted: &str, reason: &str| {
        let known = user.objects("notebookpipelines");
        let ready = &known.values().next().unwrap()["status"]["conditions"][0];
        ready["status"] == *wanted && ready["reason"] == *reason
    };
    wait_for("it to be good again", || ready("True", "UpToDate"));
    user.kubectl(&["delete", "notebooksource", "home"]).expect(0);
    wait_for("it to be an orphan", || ready("False", "Orphaned"));
    user.source();
    wait_for("it to be taken up again", || ready("True", "UpToDate"));
    assert_eq!((user.began("p"), user.objects("notebookruns").len()), (2, 2));
    ends(controller);
}

#[test]
fn a_tick_fires_after_the_users_server_is_gone() {
    let user = User::new("culled");
    user.source();
    let controller = user.controller(&user.namespace, None);
    wait_for("the environment to be kept", || {
        user.objects("notebookenvironments").keys().any(|name| name.starts_with("ann-example-org-"))
    });
    user.kubectl(&["delete", "pod", "jupyter-ann", "--now"]).expect(0);
    user.write("p/jupyterflow.yaml", &pipeline("nightly", "{schedule: '* * * * *'}"));
    let run = user.wait_for_run("nightly", "schedule", "Succeeded");
    assert!(run["spec"]["trigger"]["scheduledAt"].is_string(), "{run}");
    assert!(user.began("p") >= 1);
    let pods = user.kubectl(&["get", "pods", "-o", "json"]).expect(0).stdout;
    assert!(pods.contains("docker.io/local/notebook:1"));
    assert!(!pods.contains(crate::user::TOKEN));
    ends(controller);
}

/// A home on a claim that no controller mounts: `up` in the user's server publishes, and all else happens
/// without it, also after the server is gone.
#[test]
fn what_a_user_publishes_runs_without_the_users_server() {
    let user = User::new("published");
    User::define();
    let controller = user.controller(&user.namespace, None);
    user.write("p/jupyterflow.yaml", &pipeline("churn", "{change: {}, schedule: '* * * * *'}"));
    user.write("q/jupyterflow.yaml", "name: broken\nsteps: {a: {runn: x}}\n");
    let published = user.types(".", "jupyterflow up --engine argo --once");
    published.expect(2).says("published p:churn").says("unknown key");
    user.wait_for_run("churn", "change", "Succeeded");
    // The same again says and does nothing.
    let again = user.types("p", "cd .. && jupyterflow up --engine argo --once");
    assert!(!again.stderr.contains("published p:churn"), "{}", again.stderr);
    user.kubectl(&["delete", "pod", "jupyter-ann", "--now"]).expect(0);
    user.wait_for_run("churn", "schedule", "Succeeded");
    let runs = user.objects("notebookruns");
    let changes = runs.values().filter(|run| run["spec"]["trigger"]["kind"] == "change");
    assert_eq!(changes.count(), 1);
    assert!(user.began("p") >= 2);
    let document = user.path("p/jupyterflow-runs");
    assert!(std::fs::read_dir(document).unwrap().count() >= 2);
    ends(controller);
}

/// A pipeline that somebody made by hand, with the spec of a file.
#[test]
fn a_pipeline_made_by_hand_runs_suspends_and_stops() {
    let user = User::new("by-hand");
    User::define();
    let controller = user.controller(&user.namespace, None);
    let steps = json!({"work": {"run": "echo began >>witness; sleep 600", "workdir": "."}});
    let object = json!({
        "apiVersion": "jupyterflow.io/v1alpha1", "kind": "NotebookPipeline",
        "metadata": {"name": "hand", "namespace": user.namespace},
        "spec": {"steps": steps},
    });
    crate::user::apply(&[object]);
    user.wait_for_file("witness");
    let run = user.wait_for_run("hand", "change", "Running");
    let annotate = |word: &str| {
        user.kubectl(&["annotate", "--overwrite", "nbp", "hand", word]).expect(0);
    };
    annotate("jupyterflow.io/suspend=true");
    let suspended = |is: bool| {
        let known = user.objects("notebookpipelines");
        known["hand"]["status"]["cursors"]["suspended"].is_null() != is
    };
    wait_for("it to be suspended", || suspended(true));
    let name = run["metadata"]["name"].as_str().unwrap();
    let stop = json!({"spec": {"stop": true}}).to_string();
    user.kubectl(&["patch", "nbr", name, "--type=merge", "-p", &stop]).expect(0);
    user.wait_for_run("hand", "change", "Stopped");
    annotate("jupyterflow.io/suspend=false");
    wait_for("it to be resumed", || suspended(false));
    assert_eq!(user.objects("notebookruns").len(), 1);
    ends(controller);
}

#[test]
fn a_workflow_that_is_deleted_is_stopped_and_never_runs_again() {
    let user = User::new("removed");
    let waits = "name: waits\nsteps: {work: {run: 'echo began >>witness; sleep 600'}}\n";
    user.write("p/jupyterflow.yaml", waits);
    user.source();
    let controller = user.controller(&user.namespace, None);
    user.wait_for_file("p/witness");
    let name = user.workflows().into_keys().next().unwrap();
    user.kubectl(&["delete", "workflow", &name, "--wait=false"]).expect(0);
    user.wait_for_run("waits", "change", "Stopped");
    wait_for("it to be gone", || user.workflows().is_empty());
    user.wait_for_pass("mark");
    assert_eq!((user.began("p"), user.workflows().len()), (1, 0));
    ends(controller);
}

/// Where a controller stands still at one of its writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Before,
    After,
}

/// Lets a controller stand still at its write of a number while another goes on to the end, its history is
/// removed and its Workflow deleted; then it goes on itself. Says which write that was, if there was one.
fn stands_still(user: &User, proxy: &Proxy, at: usize, place: Place) -> Option<String> {
    let name = format!("p{at}-{}", if place == Place::Before { "before" } else { "after" });
    let (here, stopped) = mpsc::channel();
    let (go, going) = mpsc::channel::<()>();
    let (count, going) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(Some(going))));
    let process: Arc<Mutex<Option<i32>>> = Arc::default();
    let known = Arc::clone(&process);
    let marked = name.clone();
    proxy.rule(move |asked: &Asked| {
        // What it writes about itself and its sources comes before and after.
        let made = ["/notebookruns?", "/workflows?"].iter().any(|kind| asked.path.contains(kind));
        let own = asked.path.contains(&marked) || (asked.method == "POST" && made);
        if !asked.writes() || !own {
            return Verdict::Pass;
        }
        let mut count = count.lock().unwrap();
        *count += 1;
        if *count != at {
            return Verdict::Pass;
        }
        let what = format!("{} {}", asked.method, asked.path);
        let (here, going) = (here.clone(), going.lock().unwrap().take().unwrap());
        let process = known.lock().unwrap().unwrap();
        let wait = Box::new(move || {
            let process = rustix::process::Pid::from_raw(process).unwrap();
            rustix::process::kill_process(process, Signal::STOP).unwrap();
            here.send(what).unwrap();
            let _ = going.recv();
            rustix::process::kill_process(process, Signal::CONT).unwrap();
        });
        if place == Place::Before { Verdict::Before(wait) } else { Verdict::After(wait) }
    });
    // Two leases: both work.
    let still = user.controller("default", Some(proxy.config()));
    *process.lock().unwrap() = i32::try_from(still.child.id()).ok();
    wait_for("the controller", || still.log().contains("this controller works"));
    user.write(&format!("{name}/jupyterflow.yaml"), &pipeline(&name, "[change]"));
    let what = stopped.recv_timeout(PATIENCE).ok();
    if what.is_some() {
        let other = user.controller(&user.namespace, None);
        user.wait_for_run(&name, "change", "Succeeded");
        assert_eq!(user.began(&name), 1, "{what:?}");
        wait_for("its end to be taken note of", || {
            let known = user.objects("notebookpipelines");
            let own = known.values().find(|one| one["spec"]["name"] == *name);
            own.is_some_and(|one| {
                one["status"]["active"].as_object().is_none_or(serde_json::Map::is_empty)
            })
        });
        ends(other);
        let own = format!("jupyterflow.io/pipeline={name}");
        user.kubectl(&["delete", "workflows,notebookruns", "-l", &own]).expect(0);
        go.send(()).unwrap();
    }
    user.wait_for_pass(&format!("mark-{name}"));
    if what.is_some() {
        // Nothing of it is left that could begin.
        wait_for("strays to be removed", || {
            let left = user.workflows();
            let left = left
                .values()
                .filter(|one| one["metadata"]["labels"]["jupyterflow.io/pipeline"] == *name);
            left.count() == 0
        });
    } else {
        user.wait_for_run(&name, "change", "Succeeded");
    }
    assert_eq!(user.began(&name), 1, "{what:?} {place:?}: {}", still.log());
    wait_for(&format!("no record to be open: {what:?} {place:?}"), || {
        let records = user.objects("notebookruns");
        let open = records.values().filter(|run| {
            run["metadata"]["labels"]["jupyterflow.io/pipeline"] == *name
                && run["status"]["finishedAt"].is_null()
        });
        open.count() == 0
    });
    ends(still);
    what
}

#[test]
fn two_controllers_at_once_make_one_run_wherever_one_stands_still() {
    let user = User::new("still");
    let released = Released::of(&user);
    user.source();
    let proxy = Proxy::new();
    for place in [Place::Before, Place::After] {
        let mut seen = Vec::new();
        for at in 1..=WRITES {
            let Some(what) = stands_still(&user, &proxy, at, place) else { break };
            seen.push(what);
        }
        // The pipeline, its first cursors, the record, the Workflow, the cursors, the release.
        assert_eq!(seen.len(), WRITES, "{seen:#?}");
        let words = ["PATCH", "status", "notebookruns", "workflows", "status", "PATCH"];
        for (what, word) in seen.iter().zip(words) {
            assert!(what.contains(word), "{seen:#?}");
        }
    }
    wait_for("the watch to see all", || released.count_each_once() == 2 * WRITES);
}

/// Which of several pipelines a request is about, by its name in path or body.
fn about<'a>(asked: &Asked, names: &'a [String]) -> Option<&'a String> {
    let named = |name: &&String| {
        let (path, body) = (format!("/{name}-"), format!("\"name\":\"{name}-"));
        asked.path.contains(&path) || asked.body.contains(&body)
    };
    names.iter().find(named)
}

/// The answer to each write of a claim is lost once, or is an error once; nothing is lost and nothing doubled.
#[test]
fn lost_answers_and_errors_at_each_write_lose_and_double_nothing() {
    let user = User::new("answers");
    let released = Released::of(&user);
    let kinds = ["lose", "e500", "e429"];
    let names: Vec<String> =
        kinds.iter().flat_map(|kind| (1..=WRITES).map(move |at| format!("{kind}-{at}x"))).collect();
    let proxy = Proxy::new();
    let (known, counts) = (names.clone(), Mutex::new(std::collections::HashMap::new()));
    let happened = Arc::new(Mutex::new(std::collections::BTreeSet::new()));
    let marks = Arc::clone(&happened);
    proxy.rule(move |asked: &Asked| {
        let Some(name) = about(asked, &known).filter(|_| asked.writes()) else {
            return Verdict::Pass;
        };
        let mut counts = counts.lock().unwrap();
        let count = counts.entry(name.clone()).or_insert(0);
        *count += 1;
        if !name.ends_with(&format!("-{count}x")) {
            return Verdict::Pass;
        }
        marks.lock().unwrap().insert(name.clone());
        match &name[..4] {
            "lose" => Verdict::Lose,
            "e500" => Verdict::Refuse(500),
            _ => Verdict::Refuse(429),
        }
    });
    for name in &names {
        user.write(&format!("{name}/jupyterflow.yaml"), &pipeline(name, "[change]"));
    }
    user.source();
    let controller = user.controller(&user.namespace, Some(proxy.config()));
    for name in &names {
        user.wait_for_run(name, "change", "Succeeded");
    }
    user.wait_for_pass("mark");
    for name in &names {
        assert_eq!(user.began(name), 1, "{name}: {}", controller.log());
    }
    assert_eq!(happened.lock().unwrap().len(), names.len(), "{happened:?}");
    assert_eq!(user.objects("notebookruns").len(), names.len());
    assert_eq!(user.workflows().len(), names.len());
    wait_for("the watch to see all", || released.count_each_once() == names.len());
    ends(controller);
}

/// SIGKILL at each write of a claim, before it reaches the server and after.
#[test]
fn a_controller_that_is_killed_at_each_write_loses_and_doubles_nothing() {
    let user = User::new("sigkill");
    let released = Released::of(&user);
    user.source();
    let proxy = Proxy::new();
    let mut names = Vec::new();
    for place in [Place::Before, Place::After] {
        for at in 1..=WRITES {
            let name = format!("k{at}{}", if place == Place::Before { "b" } else { "a" });
            names.push(name.clone());
            let process: Arc<Mutex<Option<i32>>> = Arc::default();
            let (known, own, count) = (Arc::clone(&process), vec![name.clone()], Mutex::new(0));
            proxy.rule(move |asked: &Asked| {
                if !asked.writes() || about(asked, &own).is_none() {
                    return Verdict::Pass;
                }
                let mut count = count.lock().unwrap();
                *count += 1;
                if *count != at {
                    return Verdict::Pass;
                }
                let process = known.lock().unwrap().unwrap();
                let kill = Box::new(move || {
                    let process = rustix::process::Pid::from_raw(process).unwrap();
                    let _ = rustix::process::kill_process(process, Signal::KILL);
                });
                if place == Place::Before { Verdict::Never(kill) } else { Verdict::After(kill) }
            });
            let mut controller = user.controller(&user.namespace, Some(proxy.config()));
            *process.lock().unwrap() = i32::try_from(controller.child.id()).ok();
            wait_for("the controller", || controller.log().contains("this controller works"));
            user.write(&format!("{name}/jupyterflow.yaml"), &pipeline(&name, "[change]"));
            assert_eq!(controller.end(), 128 + 9, "{place:?} {at}: {}", controller.log());
            // Nobody waits for the lease of one that is known to be gone.
            user.kubectl(&["delete", "lease", "jupyterflow-controller"]).expect(0);
        }
    }
    let controller = user.controller(&user.namespace, None);
    for name in &names {
        user.wait_for_run(name, "change", "Succeeded");
        assert_eq!(user.began(name), 1, "{name}: {}", controller.log());
    }
    user.wait_for_pass("mark");
    assert_eq!(user.objects("notebookruns").len(), names.len());
    assert_eq!(user.workflows().len(), names.len());
    wait_for("the watch to see all", || released.count_each_once() == names.len());
    ends(controller);
}

/// `argo suspend`, and `argo resume`: a release of ours is not repeated over a person's word.
#[test]
fn a_workflow_that_a_person_suspends_waits_for_them() {
    let user = User::new("paused");
    let work = "echo began >>witness; until [ -e go ]; do sleep 0.1; done";
    let yaml = format!(
        "name: paused\nsteps: {{a: {{run: '{work}'}}, b: {{needs: a, run: 'touch after'}}}}\n"
    );
    user.write("p/jupyterflow.yaml", &yaml);
    user.source();
    let controller = user.controller(&user.namespace, None);
    user.wait_for_file("p/witness");
    let name = user.workflows().into_keys().next().unwrap();
    let suspend = |word: &str| {
        let patch = format!("{{\"spec\": {{\"suspend\": {word}}}}}");
        user.kubectl(&["patch", "workflow", &name, "--type=merge", "-p", &patch]).expect(0);
    };
    suspend("true");
    user.write("p/go", "");
    let ended = |node: &serde_json::Value| node["type"] == "Pod" && node["phase"] == "Succeeded";
    wait_for("the first step to end", || {
        let known = &user.workflows()[&name];
        known["status"]["nodes"].as_object().is_some_and(|nodes| nodes.values().any(ended))
    });
    wait_for("its run to say so", || {
        let message = &user.objects("notebookruns")[&name]["status"]["message"];
        message.as_str().is_some_and(|message| message.contains("suspended"))
    });
    user.wait_for_pass("other");
    assert_eq!(user.workflows()[&name]["spec"]["suspend"], true);
    assert!(!user.path("p/after").exists());
    suspend("null");
    user.wait_for_run("paused", "change", "Succeeded");
    assert!(user.path("p/after").exists());
    assert_eq!(user.began("p"), 1);
    ends(controller);
}
