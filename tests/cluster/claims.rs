//! No run is lost and none happens twice, whatever is killed or deleted on the way.

use crate::support::{step, wait_for};
use crate::user::User;

/// A pipeline whose step leaves a line for each time that it began, and waits for a file.
const WAITS: &str = "\
name: waits
steps:
  work:
    run: |
      echo began >>witness
      until [ -e go ]; do sleep 0.1; done
";

#[test]
fn a_run_goes_on_without_whoever_followed_it() {
    let user = User::new("left");
    user.write("p/jupyterflow.yaml", WAITS);
    let name = user.types("p", "jupyterflow run --detach --output name").expect(0).stdout;
    let name = name.trim();
    user.wait_for_file("p/witness");
    // Whoever looks sees it, though nobody followed it.
    let shown = || user.types("p", &format!("jupyterflow show {name} --output json")).json();
    wait_for("the run to show", || {
        let run = shown();
        run["phase"] == "Running" && step(&run, "work")["phase"] == "Running"
    });
    // A second one waits for it.
    let mut second = user.begins("p", "jupyterflow run");
    wait_for("the second run", || second.log().contains("engine: argo"));
    user.write("p/go", "");
    assert_eq!(second.end(), 0, "{}", second.log());
    assert_eq!(shown()["phase"], "Succeeded");
    assert_eq!(user.began("p"), 2);
}

#[test]
fn a_stopped_run_ends_its_pods() {
    let user = User::new("stopped");
    user.write("p/jupyterflow.yaml", WAITS);
    let name = user.types("p", "jupyterflow run --detach --output name").expect(0).stdout;
    user.wait_for_file("p/witness");
    user.types("p", &format!("jupyterflow stop {}", name.trim())).expect(0);
    let shown = user.types("p", &format!("jupyterflow show {} -o json", name.trim())).json();
    assert_eq!(shown["phase"], "Stopped", "{shown}");
    let at_work = || {
        let args =
            ["get", "pods", "-l", "jupyterflow.io/run", "--field-selector=status.phase=Running"];
        user.kubectl(&[&args[..], &["-o", "name"]].concat()).expect(0).stdout
    };
    wait_for("the end of the pods", || at_work().is_empty());
}

#[test]
fn a_lost_pod_is_an_interruption_and_no_failure() {
    let user = User::new("lost");
    user.write("p/jupyterflow.yaml", WAITS);
    let mut run = user.begins("p", "jupyterflow run --output json");
    user.wait_for_file("p/witness");
    let pods = ["delete", "pod", "-l", "jupyterflow.io/run", "--grace-period=0", "--force"];
    user.kubectl(&pods).expect(0);
    wait_for("the second attempt", || user.began("p") == 2);
    user.write("p/go", "");
    assert_eq!(run.end(), 0, "{}", run.log());
    let status = user.types("p", "jupyterflow status --output json").json();
    let work = step(&status["runs"][0], "work").clone();
    assert_eq!((&work["phase"], &work["attempt"]), (&"Succeeded".into(), &2.into()), "{work}");
}

#[test]
fn a_node_that_is_drained_takes_no_step_with_it() {
    let user = User::new("drained");
    user.write("p/jupyterflow.yaml", WAITS);
    let mut run = user.begins("p", "jupyterflow run --output json");
    user.wait_for_file("p/witness");
    // What an eviction does: a signal, and time to end.
    user.kubectl(&["delete", "pod", "-l", "jupyterflow.io/run", "--grace-period=20"]).expect(0);
    wait_for("the second attempt", || user.began("p") == 2);
    user.write("p/go", "");
    assert_eq!(run.end(), 0, "{}", run.log());
}

#[test]
fn a_deleted_workflow_is_not_run_again() {
    let user = User::new("deleted");
    user.write("p/jupyterflow.yaml", WAITS);
    let mut run = user.begins("p", "jupyterflow run");
    user.wait_for_file("p/witness");
    let name = user.workflows().into_keys().next().unwrap();
    user.kubectl(&["delete", "workflow", &name]).expect(0);
    assert_eq!(run.end(), 1, "{}", run.log());
    assert!(run.log().contains("nobody saw its end"), "{}", run.log());
    user.write("p/go", "");
    user.types("p", "jupyterflow run").expect(0);
    assert_eq!((user.workflows().len(), user.began("p")), (1, 2));
}

/// Killed at any moment between the request and the release: whoever goes on finishes the claim, once.
#[test]
fn a_claim_that_was_killed_is_finished_once() {
    let user = User::new("killed");
    user.write("p/jupyterflow.yaml", WAITS);
    user.write("p/go", "");
    for milliseconds in [40, 80, 120, 160, 240, 320] {
        let line = format!("jupyterflow run & sleep 0.{milliseconds:03}; kill -9 $!");
        let _ = user.types("p", &line);
    }
    user.types("p", "jupyterflow run").expect(0);
    let list = user.types("p", "jupyterflow status --output json").json();
    let runs = list["runs"].as_array().unwrap();
    assert!(runs.iter().all(|run| run["phase"] == "Succeeded"), "{list}");
    assert_eq!((runs.len(), user.workflows().len()), (user.began("p"), user.began("p")));
}
