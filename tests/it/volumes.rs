//! Volumes: events as hints where there are some, and file systems that send none and fail on cue.

use crate::directory::{ended, stop};
use crate::support::{Place, has, wait_for};

fn configure(place: &Place, spec: &str) {
    place.write(
        "conf/sources.yaml",
        &format!(
            "apiVersion: jupyterflow.io/v1alpha1\nkind: NotebookSource\nmetadata: {{name: home}}\n\
             spec: {{directory: {{path: ../home}}, {spec}}}\n"
        ),
    );
}

const HELLO: &str = "name: hello\nsteps: {a: {run: python a.py}}";

/// The next poll is ten minutes away, and more events come than the queue of the kernel holds.
#[test]
fn events_bring_the_next_look_forward() {
    let place = Place::new();
    configure(&place, "poll: 10m, settle: 0s");
    place.write("home/p/jupyterflow.yaml", HELLO).write("home/p/a.py", "print(1)");
    let up = place.spawn(&["up", "--config", "conf/sources.yaml"]);
    wait_for("the first run", || ended(&place, 1));
    place.write("home/p/a.py", "print(2)");
    wait_for("the run of an edit", || ended(&place, 2));
    let queue = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let queue: u32 = queue.trim().parse().unwrap();
    // A folder that is not watched yet when the edit comes.
    place.write("home/q/jupyterflow.yaml", HELLO).write("home/q/a.py", "print(1)");
    for number in 0..queue + 100 {
        std::fs::write(place.path(&format!("home/p/{}", number % 50)), "").unwrap();
    }
    wait_for("the run of a new folder", || ended(&place, 3));
    place.write("home/q/a.py", "print(2)");
    wait_for("the run of an edit in it", || ended(&place, 4));
    stop(up);
}

#[test]
fn watches_that_run_out_are_told_with_their_cure() {
    let place = Place::new();
    let limit = "echo 1 > /proc/sys/user/max_inotify_watches";
    let works = place.command("unshare").args(["-Ur", "sh", "-c", limit]).status();
    if !has("user namespaces", works.is_ok_and(|status| status.success())) {
        return;
    }
    configure(&place, "poll: 1s, settle: 0s");
    place.write("home/p/jupyterflow.yaml", HELLO).write("home/p/a.py", "print(1)");
    let script = format!("{limit}; exec \"$@\"");
    let bin = env!("CARGO_BIN_EXE_jupyterflow");
    let args = ["-Ur", "sh", "-c", &script, "sh", bin, "up", "--config", "conf/sources.yaml"];
    let up = place.spawn_program("unshare", &args);
    wait_for("the first run", || ended(&place, 1));
    let log = up.log();
    assert!(log.contains("1 of 2 folders are watched"), "{log}");
    assert!(log.contains("raise it by sysctl"), "{log}");
    // What is not watched is polled.
    place.write("home/p/a.py", "print(2)");
    wait_for("the run of an edit", || ended(&place, 2));
    stop(up);
}
