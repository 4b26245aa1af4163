//! Volumes: events as hints where there are some, and file systems that send none and fail on cue.

use crate::directory::{ended, stop};
use crate::support::{Place, can_mount, has, python, wait_for};

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
    // A script comes before the file that names it: what is not there yet is a change when it comes.
    place.write("home/p/a.py", "print(1)").write("home/p/jupyterflow.yaml", HELLO);
    let up = place.spawn(&["up", "--config", "conf/sources.yaml"]);
    wait_for("the first run", || ended(&place, 1));
    place.write("home/p/a.py", "print(2)");
    wait_for("the run of an edit", || ended(&place, 2));
    let queue = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let queue: u32 = queue.trim().parse().unwrap();
    // A folder that is not watched yet when the edit comes.
    place.write("home/q/a.py", "print(1)").write("home/q/jupyterflow.yaml", HELLO);
    for number in 0..queue + 100 {
        std::fs::write(place.path(&format!("home/p/{}", number % 50)), "").unwrap();
    }
    wait_for("the run of a new folder", || ended(&place, 3));
    place.write("home/q/a.py", "print(2)");
    wait_for("the run of an edit in it", || ended(&place, 4));
    // One that is made again at the same place.
    std::fs::remove_file(place.path("home/q/jupyterflow.yaml")).unwrap();
    std::fs::remove_dir_all(place.path("home/q")).unwrap();
    wait_for("its loss to be told", || up.log().contains("Orphaned"));
    place.write("home/q/a.py", "print(3)").write("home/q/jupyterflow.yaml", HELLO);
    wait_for("the run of what came back", || ended(&place, 5));
    place.write("home/q/a.py", "print(4)");
    wait_for("the run of an edit in that", || ended(&place, 6));
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

/// A folder that is seen through a mount which fails on cue.
struct Volume {
    place: Place,
    server: std::process::Child,
}

impl Volume {
    fn new() -> Self {
        let place = Place::new();
        for folder in ["real", "home"] {
            std::fs::create_dir(place.path(folder)).unwrap();
        }
        place.write("cue", "ok");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/volume.py");
        let mut command = place.command(python());
        command.arg(script).args(["real", "home", "cue"].map(|name| place.path(name)));
        let log = std::fs::File::create(place.beside("volume.log")).unwrap();
        let server = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let volume = Self { place, server };
        let home = volume.place.path("home").display().to_string();
        wait_for("the mount", || std::fs::read_to_string("/proc/mounts").unwrap().contains(&home));
        volume
    }

    fn cue(&self, cue: &str) {
        self.place.write("cue.new", cue);
        std::fs::rename(self.place.path("cue.new"), self.place.path("cue")).unwrap();
    }

    /// What the daemon says of the source or its pipeline; nothing where all is well.
    fn trouble(&self) -> String {
        let status = self.place.document(&["status", "conf"]);
        let words =
            |one: &serde_json::Value| one["message"].as_str().unwrap_or_default().to_owned();
        let source = &status["sources"][0];
        let pipeline = &status["pipelines"][0];
        let bad = |one: &serde_json::Value| one["ready"] != true;
        if bad(source) {
            words(source)
        } else if bad(pipeline) {
            words(pipeline)
        } else {
            String::new()
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.place.write("cue", "ok");
        let _ = self.place.command("umount").arg("-l").arg(self.place.path("home")).status();
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Whatever fails, nothing is taken away and nothing runs; what was edited meanwhile runs afterwards.
#[test]
fn a_volume_without_events_that_fails_on_cue() {
    if !can_mount() || !has("/dev/fuse", std::path::Path::new("/dev/fuse").exists()) {
        return;
    }
    let volume = Volume::new();
    let place = &volume.place;
    configure(place, "poll: 1s, settle: 0s");
    let text = place.read("conf/sources.yaml");
    let other = text.replace("{name: home}", "{name: other}").replace("../home", "../other");
    place.write("conf/sources.yaml", &format!("{text}---\n{other}"));
    place.write("other/notes.md", "");
    place.write("real/p/jupyterflow.yaml", HELLO).write("real/p/a.py", "print(1)");
    let up = place.spawn(&["up", "--config", "conf/sources.yaml"]);
    wait_for("the first run", || ended(place, 1));
    let mut version = 1;
    for (cue, words) in [
        ("all 116", "Stale file handle"),
        ("all 116 jupyterflow.yaml", "Stale file handle"),
        ("all 5 a.py", "Input/output error"),
        ("read 5 a.py", "Input/output error"),
        ("read 5 jupyterflow.yaml", "Input/output error"),
        ("all 13 p", "Permission denied"),
        // Its times are told as ever.
        ("list 5 p", "Input/output error"),
        ("zero 0 jupyterflow.yaml", "1 problem"),
        ("zero 0 a.py", "empty"),
    ] {
        volume.cue(cue);
        let mut seen = String::new();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while !seen.contains(words) {
            assert!(std::time::Instant::now() < deadline, "{cue}: {seen:?}\n{}", up.log());
            seen = volume.trouble();
        }
        // An edit that nobody can see: the mount sends no event, and cannot be read.
        version += 1;
        place.write("real/p/a.py", &format!("print({version})"));
        assert!(ended(place, version - 1), "{cue}: {:#?}", crate::directory::runs(place));
        volume.cue("ok");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !ended(place, version) {
            let (trouble, log) = (volume.trouble(), up.log());
            assert!(std::time::Instant::now() < deadline, "{cue}, then: {trouble:?}\n{log}");
        }
        assert_eq!(volume.trouble(), "", "{cue}");
    }
    // A mount that hangs stalls itself alone: the daemon says so, and goes on elsewhere.
    volume.cue("hang");
    wait_for("the hang to be told", || up.log().contains("answer"));
    version += 1;
    place.write("other/a.py", "print(1)");
    place.write("other/jupyterflow.yaml", &HELLO.replace("hello", "other"));
    // Whoever asks the mount waits for it, and cannot even end: only the daemon's words tell.
    wait_for("the run of another source", || {
        up.log().lines().any(|line| line.starts_with("other-") && line.ends_with("Succeeded"))
    });
    version += 1;
    place.write("real/p/a.py", &format!("print({version})"));
    volume.cue("ok");
    wait_for("the run of what was edited", || ended(place, version));
    stop(up);
}
