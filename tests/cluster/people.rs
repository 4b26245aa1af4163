//! What people type about the runs that a controller makes, in their servers and elsewhere.

use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Ended, step, wait_for};
use crate::user::User;

const CHURN: &str = "\
name: churn
params: {limit: 3}
steps:
  prepare: {run: 'echo began >>witness; echo prepared $JUPYTERFLOW_RUN'}
  train: {needs: [prepare], run: 'echo trained'}
";
const LONG: &str = "\
name: long
steps:
  work: {run: 'echo began >>witness; echo at work; sleep 600'}
";

/// The program on a machine that sees no volume, as an administrator types it.
pub fn elsewhere(user: &User, words: &[&str]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jupyterflow"));
    command.args(words).args(["-n", &user.namespace]).current_dir("/").stdin(Stdio::null());
    command.output().unwrap().into()
}

fn name_of(run: &Value) -> String {
    run["metadata"]["name"].as_str().unwrap().to_owned()
}

fn named<'a>(all: &'a Value, name: &str) -> Vec<&'a Value> {
    all.as_array().unwrap().iter().filter(|one| one["name"] == name).collect()
}

#[test]
fn runs_of_a_controller_are_seen_stopped_and_repeated() {
    let user = User::new("people");
    User::define();
    let mut controller = user.controller(&user.namespace, None);
    user.write("p/jupyterflow.yaml", CHURN);
    user.write("q/jupyterflow.yaml", LONG);
    user.types(".", "jupyterflow up --engine argo --once").expect(0);
    let churn = name_of(&user.wait_for_run("churn", "change", "Succeeded"));
    user.wait_for_file("q/witness");
    let long = name_of(&user.wait_for_run("long", "change", "Running"));

    // A pipeline that is published is shown as the controller has it, and once.
    let status = user.types(".", "jupyterflow status --output json").expect(0).json();
    let own = named(&status["pipelines"], "churn");
    assert_eq!(own.len(), 1, "{status}");
    assert!(own[0]["source"].as_str().unwrap().starts_with(&format!("{}/~", user.namespace)));
    assert_eq!((&own[0]["lastRun"], &own[0]["ready"]), (&churn.as_str().into(), &true.into()));
    assert_eq!(named(&status["runs"], &long)[0]["phase"], "Running");
    user.types(".", "jupyterflow status").expect(0).says("p:churn").says(&churn);
    // Of another server's user they are not, though that may read them.
    let other = user.types(".", "JUPYTERHUB_USER=bob jupyterflow status --output json").expect(0);
    assert!(!other.stdout.contains(&churn), "{}", other.stdout);

    let shown = user.types("p", &format!("jupyterflow show {}", &churn[..10])).expect(0);
    shown.says("Succeeded").says(&format!("jupyterflow-runs/{churn}/run.json"));
    user.types(".", &format!("jupyterflow explain {churn}")).expect(0).says("trigger: change");
    user.types(".", "jupyterflow explain long").expect(0).says(&long);
    user.types(".", &format!("jupyterflow logs {churn} prepare"))
        .expect(0)
        .says(&format!("prepared {churn}"));
    // Elsewhere the pods tell.
    elsewhere(&user, &["status"]).expect(0).says("churn").says(&long);
    elsewhere(&user, &["show", &churn]).expect(0).says("train");
    let logs = elsewhere(&user, &["logs", &churn]).expect(0);
    assert!(logs.stdout.contains(&format!("prepared {churn}\n")), "{}", logs.stdout);
    assert!(logs.stdout.contains("trained\n"), "{}", logs.stdout);
    let one = elsewhere(&user, &["logs", &churn, "train"]).expect(0);
    assert!(!one.stdout.contains("prepared") && one.stdout.contains("trained"), "{}", one.stdout);
    elsewhere(&user, &["logs", "nothing"]).expect(2).says("there is no run");
    user.types(".", &format!("jupyterflow delete {churn}")).expect(2).says("kubectl delete nbr");
    let step = elsewhere(&user, &["logs", "-f", &long, "train"]).expect(2);
    step.says("has no step \"train\"").says("it has work");

    // Typed beside the file: that it was published from above is found.
    let beside = user.types("p", "jupyterflow status --output json").expect(0).json();
    assert_eq!(named(&beside["pipelines"], "churn").len(), 1, "{beside}");
    // Two follow a run that a third ends.
    let mut follows = Command::new(env!("CARGO_BIN_EXE_jupyterflow"));
    follows.args(["logs", "-f", &long, "-n", &user.namespace]).stdout(Stdio::piped());
    let follows = follows.stderr(Stdio::piped()).spawn().unwrap();
    let mut inside = user.begins(".", &format!("jupyterflow logs -f {long}"));
    wait_for("the log", || inside.log().contains("at work"));
    user.types(".", &format!("jupyterflow retry {long}")).expect(2).says("has not ended");
    user.types(".", &format!("jupyterflow stop {long}")).expect(0).says("Stopped");
    user.types(".", &format!("jupyterflow stop {long}")).expect(0).says("ended already: Stopped");
    let followed: Ended = follows.wait_with_output().unwrap().into();
    assert!(followed.expect(0).stdout.contains("at work\n"));
    assert_eq!(inside.end(), 0, "{}", inside.log());

    let backfill = "jupyterflow backfill churn 2026-11-01..2026-11-02";
    user.types(".", backfill).expect(2).says("has no schedule");
    // Again, with other parameters: the run is the controller's, and whoever asked sees its end.
    let again = format!("jupyterflow retry {churn} -p limit 4 --output json");
    let again = user.types(".", &again).expect(0).json();
    assert_eq!((&again["phase"], &again["params"]["limit"]), (&"Succeeded".into(), &4.into()));
    assert_eq!(again["trigger"]["retryOf"], churn.as_str());
    assert_eq!(user.began("p"), 2);
    let nothing = format!("jupyterflow retry {churn} --strict -p limt 4");
    user.types(".", &nothing).expect(2).says("did you mean `limit`?");
    let later = elsewhere(&user, &["retry", &churn, "--detach"]).expect(0).stdout;
    wait_for("it to be repeated", || user.began("p") == 3);
    let later = later.trim();
    wait_for("its end", || {
        let shown = elsewhere(&user, &["show", later, "--output", "json"]);
        shown.code == 0 && shown.json()["phase"] == "Succeeded"
    });

    // What is suspended starts nothing; resumed it starts what it did not.
    user.types(".", "jupyterflow suspend churn").expect(0).says("is suspended");
    user.types(".", "jupyterflow suspend p:churn").expect(0).says("is suspended already");
    user.types(".", "jupyterflow status").expect(0).says("suspended");
    user.write("p/jupyterflow.yaml", &CHURN.replace("echo trained", "echo trained once more"));
    user.types(".", "jupyterflow up --engine argo --once").expect(0).says("published p:churn");
    wait_for("a pass that sees the edit", || {
        let known = user.objects("notebookpipelines");
        let own = known.values().find(|one| one["spec"]["name"] == "churn").unwrap();
        let seen = &own["status"]["conditions"][0]["observedGeneration"];
        *seen == own["metadata"]["generation"] && seen.as_i64() > Some(1)
    });
    assert_eq!(user.began("p"), 3);
    elsewhere(&user, &["resume", "churn"]).expect(0).says("is resumed");
    wait_for("the edit to run", || user.began("p") == 4);
    controller.signal(Signal::TERM);
    assert_eq!(controller.end(), 128 + 15, "{}", controller.log());

    // Nobody is there who would take note: said, and recorded.
    let asked = elsewhere(&user, &["suspend", "churn"]).expect(1);
    asked.says("is one at work in that namespace?");
}

const NIGHTLY: &str = "\
name: nightly
triggers: {schedule: '0 3 1-3 11 *'}
steps: {a: {run: 'echo {{ run.scheduledAt }} >>witness'}}
";

/// Of a pipeline that a controller has, from within the server and from without.
#[test]
fn past_instants_are_made_up_for() {
    let user = User::new("past");
    User::define();
    let mut controller = user.controller(&user.namespace, None);
    user.write("p/jupyterflow.yaml", NIGHTLY);
    user.types(".", "jupyterflow up --engine argo --once").expect(0).says("published p:nightly");
    wait_for("its cursors", || {
        let known = user.objects("notebookpipelines");
        known.values().any(|one| one["status"]["nextRun"].is_string())
    });
    let witness = || std::fs::read_to_string(user.path("p/witness")).unwrap_or_default();
    let typed = "jupyterflow backfill nightly 2026-11-01..2026-11-03";
    let would = user.types(".", &format!("{typed} --dry-run --output json")).expect(0).json();
    let document = user.types(".", &format!("{typed} --output json")).expect(0).json();
    let claimed = document["claimed"].as_array().unwrap();
    assert_eq!((claimed.len(), &document["left"]), (2, &serde_json::json!([])), "{document}");
    assert_eq!((&document["claimed"], &would["dryRun"]), (&would["claimed"], &true.into()));
    let first = claimed[0]["name"].as_str().unwrap();
    assert!(first.starts_with("nightly-20261101t0300z-"), "{document}");
    let all = "2026-11-01T03:00:00Z\n2026-11-02T03:00:00Z\n";
    wait_for("both runs, the oldest first", || witness() == all);
    // What was answered is left, also where it is asked for again, from elsewhere.
    let again = ["backfill", "nightly", "2026-11-01..2026-11-04", "--output", "json"];
    let again = elsewhere(&user, &again).expect(0).json();
    let left = again["left"].as_array().unwrap();
    assert_eq!(again["claimed"].as_array().unwrap().len(), 1, "{again}");
    assert!(left.iter().all(|one| one["reason"] == "an earlier backfill answered it"), "{again}");
    wait_for("the third", || witness() == format!("{all}2026-11-03T03:00:00Z\n"));
    elsewhere(&user, &["backfill", "nightly", "1900-01-01..2026-11-01"])
        .expect(2)
        .says("give a shorter range");

    // What a person writes by hand is read too, or refused.
    let object = user.objects("notebookpipelines").into_keys().next().unwrap();
    let annotate = |words: &str| {
        let words = format!("jupyterflow.io/backfill={words}");
        user.kubectl(&["annotate", "nbp", &object, &words]).expect(0);
        wait_for("its answer", || {
            let own = &user.objects("notebookpipelines")[&object];
            own["metadata"]["annotations"]["jupyterflow.io/backfill"].is_null()
        });
    };
    annotate("2025-11-03..2025-11-04");
    wait_for("the fourth", || witness().ends_with("2025-11-03T03:00:00Z\n"));
    annotate("all");
    wait_for("a word of that", || {
        user.kubectl(&["events"]).stdout.contains("\"all\" is no range of instants")
    });
    assert_eq!(witness().lines().count(), 4);
    controller.signal(Signal::TERM);
    assert_eq!(controller.end(), 128 + 15, "{}", controller.log());
}

/// A sweep whose best point the next step needs, as a value and as a file; that step fails at first.
const BROKEN: &str = r#"
name: broken
triggers: []
steps:
  fit:
    run: |
      echo began >>witness
      echo {{ params.n }} >"$JUPYTERFLOW_OUTPUT_DIR/model.txt"; echo "loss={{ params.n }}" >>$JUPYTERFLOW_OUTPUTS
    sweep: {n: [3, 2]}
    best: {metric: loss, goal: min}
    outputs: {model: model.txt}
  report:
    needs: fit
    run: |
      echo "report {{ steps.fit.outputs.loss }} of $(cat "{{ steps.fit.outputs.model }}")" >>reports; test -e fixed
      echo total=7 >>$JUPYTERFLOW_OUTPUTS
  send: {needs: report, run: 'echo "sent {{ steps.report.outputs.total }}" >>reports'}
"#;

/// By the run's own Workflow, and by a controller's.
#[test]
fn a_retry_from_a_step_keeps_what_came_before() {
    let user = User::new("from");
    User::define();
    let document = |line: &str, code: i32| {
        user.types(".", &format!("{line} --output json")).expect(code).json()
    };
    let fit = |run: &Value| -> Vec<Value> {
        let steps = run["steps"].as_array().unwrap();
        steps
            .iter()
            .filter(|step| step["name"].as_str().unwrap().starts_with("fit"))
            .cloned()
            .collect()
    };
    let lines = |folder: &str| {
        let text = std::fs::read_to_string(user.path(folder).join("reports")).unwrap_or_default();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let (report, sent) = ("report 2 of 2", "sent 7");
    let check = |folder: &str, engine: &str, first: &Value| {
        let name = first["name"].as_str().unwrap();
        assert_eq!((lines(folder), user.began(folder)), (vec![report.to_owned()], 2), "{first}");
        let retry = format!("cd {folder} && jupyterflow retry {name} {engine} --from");
        user.types(".", &format!("{retry} send")).expect(2).says("retry from `report`");
        user.types(".", &format!("{retry} sent")).expect(2).says("its steps are fit, report, send");
        user.write(&format!("{folder}/fixed"), "");
        let again = document(&format!("{retry} report"), 0);
        assert_eq!(
            (&again["phase"], &again["trigger"]["retryOf"]),
            (&"Succeeded".into(), &name.into())
        );
        assert_eq!(fit(&again), fit(first));
        assert_eq!(
            (lines(folder), user.began(folder)),
            ([report, report, sent].map(str::to_owned).to_vec(), 2)
        );
        // Of that run again, which has nothing but what it kept itself.
        let once_more = retry.replace(name, again["name"].as_str().unwrap());
        let last = document(&format!("{once_more} send"), 0);
        assert_eq!((fit(&last), lines(folder).len()), (fit(first), 4), "{last}");
        // What is another by now is not used.
        let model = fit(first)[0]["artifacts"][0]["path"].as_str().unwrap().to_owned();
        let (_, model) = model.split_once("jupyterflow-runs/").unwrap();
        std::fs::write(user.path(folder).join("jupyterflow-runs").join(model), "9").unwrap();
        format!("{retry} report --output json")
    };
    user.write("own/jupyterflow.yaml", BROKEN);
    let first = document("cd own && jupyterflow run --engine argo", 1);
    let last = check("own", "--engine argo", &first);
    user.types(".", &last).expect(2).says("MissingOutput");

    let mut controller = user.controller(&user.namespace, None);
    user.write("told/jupyterflow.yaml", &BROKEN.replace("triggers: []\n", ""));
    user.types(".", "jupyterflow up --engine argo --once").expect(0);
    let first = name_of(&user.wait_for_run("broken", "change", "Failed"));
    let first = elsewhere(&user, &["show", &first, "--output", "json"]).expect(0).json();
    let last = check("told", "", &first);
    let failed = user.types(".", &last).expect(1).json();
    assert!(
        step(&failed, "report")["message"].as_str().unwrap().contains("MissingOutput"),
        "{failed}"
    );
    controller.signal(Signal::TERM);
    assert_eq!(controller.end(), 128 + 15, "{}", controller.log());
}

/// A folder that the controller reads itself: nothing of it is in the server's own state.
#[test]
fn runs_of_a_source_are_seen_in_the_server() {
    let user = User::new("beside");
    user.write("p/jupyterflow.yaml", CHURN);
    user.source();
    let mut controller = user.controller(&user.namespace, None);
    let churn = name_of(&user.wait_for_run("churn", "change", "Succeeded"));
    let status = user.types("p", "jupyterflow status --output json").expect(0).json();
    let own = named(&status["pipelines"], "churn");
    assert_eq!(own.len(), 1, "{status}");
    assert_eq!(own[0]["lastRun"], churn.as_str());
    // With the rights of `generate rbac`, from the pods.
    let logs = user.types("p", &format!("jupyterflow logs {churn}")).expect(0);
    assert!(logs.stdout.contains(&format!("prepared {churn}\n")), "{}", logs.stdout);
    user.types("p", "jupyterflow suspend churn").expect(0).says("is suspended");
    let known = user.objects("notebookpipelines");
    let own = known.values().find(|one| one["spec"]["name"] == "churn").unwrap();
    assert!(own["status"]["cursors"]["suspended"].is_string(), "{own}");
    assert!(!user.path("p/.jupyterflow").exists());
    // By the name of its object, where several have that name.
    let object = own["metadata"]["name"].as_str().unwrap();
    elsewhere(&user, &["resume", object]).expect(0).says("is resumed");
    let unreadable = ["status", "-n", "kube-public"];
    let mut typed = Command::new(env!("CARGO_BIN_EXE_jupyterflow"));
    let away = typed.args(unreadable).env("KUBECONFIG", "/nowhere").current_dir("/");
    let away: Ended = away.stdin(Stdio::null()).output().unwrap().into();
    away.expect(4).says("failed to reach a cluster");
    controller.signal(Signal::TERM);
    assert_eq!(controller.end(), 128 + 15, "{}", controller.log());
}
