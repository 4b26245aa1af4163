//! Directories as sources: savers of all kinds, links, volumes that vanish, and the daemon that watches.

use std::os::unix::fs::symlink;

use serde_json::Value;

use crate::support::{Place, Running, can_mount, python, wait_for};

/// A daemon over a folder of its own configuration, which settles soon.
fn daemon(place: &Place, spec: &str) -> Running {
    configure(place, spec);
    place.spawn(&["up", "--config", "conf/sources.yaml"])
}

/// The configuration of a daemon over the folder `home`.
pub fn configure(place: &Place, spec: &str) {
    place.write(
        "conf/sources.yaml",
        &format!(
            "apiVersion: jupyterflow.io/v1alpha1\nkind: NotebookSource\nmetadata: {{name: home}}\n\
             spec: {{directory: {{path: ../home}}, poll: 1s{spec}}}\n"
        ),
    );
}

pub fn runs(place: &Place) -> Vec<Value> {
    let status = place.document(&["status", "conf"]);
    status["runs"].as_array().cloned().unwrap_or_default()
}

pub fn ended(place: &Place, count: usize) -> bool {
    let runs = runs(place);
    runs.len() == count && runs.iter().all(|run| run["phase"] == "Succeeded")
}

pub fn stop(mut up: Running) {
    up.signal(rustix::process::Signal::TERM);
    assert_eq!(up.end(), 143);
}

/// The ways in which editors and servers write: in place after truncating, by rename, with a copy of
/// the old content beside, in pieces.
const SAVE: &str = "
import os, pathlib, sys, time
path, text, way = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
if way == 'in place':
    path.write_text(text)
elif way == 'rename':
    new = path.with_name('.' + path.name + '.swp'); new.write_text(text); new.rename(path)
elif way == 'jupyter':
    copy = path.with_name('.~' + path.name); copy.write_bytes(path.read_bytes())
    with open(path, 'w') as file:
        time.sleep(2.5); file.write(text); file.flush(); os.fsync(file.fileno())
    copy.unlink()
elif way == 'pieces':
    with open(path, 'w') as file:
        for at in range(0, len(text), 7):
            file.write(text[at:at + 7]); file.flush(); time.sleep(0.2)
elif way == 'older':
    path.write_text(text); os.utime(path, (1000, 1000))
";

#[test]
fn however_a_file_is_saved_each_edit_is_one_run() {
    let place = Place::new();
    place
        .write("home/p/jupyterflow.yaml", "steps: {a: {run: python a.py}}")
        .write("home/p/a.py", "print(0)");
    // Longer than any pause of a machine with much to do.
    let up = daemon(&place, ", settle: 3s");
    wait_for("the first run", || ended(&place, 1));
    for (count, way) in (2..).zip(["in place", "rename", "jupyter", "pieces", "older"]) {
        let path = place.path("home/p/a.py").display().to_string();
        place.python(SAVE, &[&path, &format!("print({count}) # {}", "x".repeat(60)), way]);
        wait_for(way, || ended(&place, count));
        let name = runs(&place)[0]["name"].as_str().unwrap().to_owned();
        place.run(&["logs", "--path", "conf", &name, "a"]).expect(0).says(&format!("{count}\n"));
    }
    assert!(!up.log().contains("Orphaned"), "{}", up.log());
    // A pipeline file that is being written is no other pipeline, and none that is gone.
    let path = place.path("home/p/jupyterflow.yaml").display().to_string();
    place.python(SAVE, &[&path, "steps: {a: {run: python a.py}, b: {run: echo b}}", "jupyter"]);
    wait_for("the run of the new file", || ended(&place, 7));
    assert!(!up.log().contains("Orphaned"), "{}", up.log());
    // New folders are found, moved ones run nothing again.
    place.write("home/q/jupyterflow.yaml", "steps: {a: {run: 'true'}}");
    wait_for("the run of a new folder", || ended(&place, 8));
    std::fs::rename(place.path("home/q"), place.path("home/r")).unwrap();
    wait_for("the move", || up.log().contains("it is r:r now") || up.log().contains("moved"));
    assert!(ended(&place, 8));
    stop(up);
}

#[test]
fn a_real_jupyter_server_saves_and_nothing_torn_runs() {
    let place = Place::new();
    place.notebook("home/p/n.ipynb", &["#tag parameters\nx = 1", "print('x is', x)"]);
    place.write("home/p/jupyterflow.yaml", "steps: {a: {notebook: n.ipynb}}");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = place.command(python());
    server.args([
        "-m",
        "jupyter_server",
        "--allow-root",
        "--no-browser",
        "--ServerApp.token=t",
        "--ServerApp.ip=127.0.0.1",
    ]);
    let mut server = server
        .arg(format!("--port={port}"))
        .arg(format!("--ServerApp.root_dir={}", place.path("home").display()))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let up = daemon(&place, ", settle: 1s");
    wait_for("the first run", || ended(&place, 1));
    wait_for("the server", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    // Forty saves of the same cells with other outputs, then one edit.
    let save = "
import json, os, sys, time, urllib.request
url = f'http://127.0.0.1:{sys.argv[1]}/api/contents/p/n.ipynb?token=t'
for _ in range(100):
    try:
        book = json.load(urllib.request.urlopen(url, timeout=20))['content']; break
    except OSError:
        time.sleep(0.2)
def put():
    body = json.dumps({'type': 'notebook', 'format': 'json', 'content': book}).encode()
    urllib.request.urlopen(urllib.request.Request(url, data=body, method='PUT'), timeout=20)
for turn in range(40):
    book['cells'][1]['outputs'] = [{'output_type': 'stream', 'name': 'stdout', 'text': str(turn) * 20_000}]
    book['cells'][1]['execution_count'] = turn
    put(); time.sleep(0.1)
book['cells'][0]['source'] = 'x = 2'
# As collaboration does: saved every moment, whether or not the code changes; to the end of the run of the edit.
while not os.path.exists(sys.argv[2]):
    turn += 1
    book['cells'][1]['outputs'] = [{'output_type': 'stream', 'name': 'stdout', 'text': str(turn)}]
    put(); time.sleep(0.3)
";
    let (port, enough) = (port.to_string(), place.path("enough").display().to_string());
    let program = python().display().to_string();
    let mut saves = place.spawn_program(&program, &["-c", save, &port, &enough]);
    wait_for("the run of the edit", || ended(&place, 2));
    place.write("enough", "");
    assert_eq!(saves.end(), 0, "{}", saves.log());
    let log = up.log();
    assert!(!log.contains("Orphaned") && !log.contains("InvalidFile"), "{log}");
    let name = runs(&place)[0]["name"].as_str().unwrap().to_owned();
    place.run(&["logs", "--path", "conf", &name, "a"]).expect(0).says("x is 2");
    server.kill().unwrap();
    server.wait().unwrap();
    stop(up);
}

#[test]
fn a_volume_that_vanishes_takes_nothing_away() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    std::fs::create_dir_all(place.path("home")).unwrap();
    let home = place.path("home");
    let mount = |place: &Place| {
        place.command("mount").args(["-t", "tmpfs", "none"]).arg(&home).status().unwrap().success()
    };
    let unmount = || place.command("umount").arg("-l").arg(&home).status().unwrap().success();
    assert!(mount(&place));
    let fill = || {
        place
            .write("home/p/a.py", "print(0)")
            .write("home/p/jupyterflow.yaml", "steps: {a: {run: python a.py}}");
    };
    fill();
    let up = daemon(&place, ", settle: 1s");
    wait_for("the first run", || ended(&place, 1));
    assert!(unmount());
    wait_for("the trouble to be told", || up.log().contains("is its volume mounted?"));
    assert!(!up.log().contains("Orphaned"), "{}", up.log());
    assert!(mount(&place));
    fill();
    wait_for("it to be back", || {
        let status = place.document(&["status", "conf"]);
        status["sources"][0]["ready"] == true && status["pipelines"][0]["ready"] == true
    });
    place.write("home/p/a.py", "print(1)");
    wait_for("the run of an edit", || ended(&place, 2));
    stop(up);
    assert!(unmount());
}

#[test]
fn links_out_of_the_tree_are_refused_and_said() {
    let place = Place::new();
    place
        .write("secret.ipynb", "{}")
        .write("home/p/jupyterflow.yaml", "steps: {a: {notebook: n.ipynb}}");
    symlink(place.path("secret.ipynb"), place.path("home/p/n.ipynb")).unwrap();
    std::fs::create_dir_all(place.path("outside")).unwrap();
    place.write("outside/jupyterflow.yaml", "steps: {a: {run: 'true'}}");
    symlink(place.path("outside"), place.path("home/q")).unwrap();
    std::fs::create_dir_all(place.path("home/r")).unwrap();
    symlink(place.path("outside/jupyterflow.yaml"), place.path("home/r/jupyterflow.yaml")).unwrap();
    let ended = place.run(&["plan", "home"]);
    let all = format!("{}{}", ended.stdout, ended.stderr);
    assert_eq!(all.matches("symbolic link out of the source").count(), 3, "{all}");
    assert!(!all.contains("start"), "{all}");
}

#[test]
fn limits_hold_and_are_fair_among_owners() {
    let place = Place::new();
    for owner in ["ann", "bob"] {
        for number in 0..3 {
            let path = format!("home/{owner}/{number}/jupyterflow.yaml");
            place.write(&path, &format!("name: {owner}{number}\nsteps: {{a: {{run: 'while [ ! -e ../../../go ]; do sleep 0.05; done'}}}}"));
        }
    }
    let up = daemon(&place, ", settle: 1s, limits: {activeRuns: 3, activeRunsPerOwner: 2}");
    let running = || {
        let runs = runs(&place);
        let running = runs.into_iter().filter(|run| run["phase"] == "Running");
        let mut names: Vec<String> =
            running.map(|run| run["pipeline"].as_str().unwrap()[..3].to_owned()).collect();
        names.sort();
        names
    };
    wait_for("three runs", || running().len() == 3);
    assert!(running().contains(&"ann".to_owned()) && running().contains(&"bob".to_owned()));
    let plan = place.document(&["plan", "conf"]);
    let held =
        plan["notDone"].as_array().unwrap().iter().filter(|one| one["reason"] == "LimitReached");
    assert_eq!(held.count(), 3, "{plan}");
    place.write("go", "");
    wait_for("all runs", || ended(&place, 6));
    stop(up);
}
