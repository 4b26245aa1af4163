//! The triggers besides changes and ticks, and what `concurrency` does, on real servers and runs.

use std::process::Child;

use serde_json::Value;

use crate::support::{Place, python, wait_for};

/// A web server of the needsSync contract: what it answers is in a file of the place, by path.
const SERVER: &str = r"
import http.server, json, pathlib, sys, threading
folder = pathlib.Path(sys.argv[1])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with open(folder / 'asked', 'a') as log:
            print(self.path, file=log)
        path = self.path.partition('?')[0]
        if path == '/hang':
            return threading.Event().wait()
        if path == '/drip':
            self.send_response(200); self.send_header('Content-Length', '1000'); self.end_headers()
            while True:
                self.wfile.write(b' '); self.wfile.flush(); threading.Event().wait(0.5)
        if path.startswith('/to/'):
            self.send_response(302); self.send_header('Location', (folder / path[4:]).read_text().strip()); self.end_headers()
            return
        body = (folder / path[1:]).read_bytes() if path != '/huge' else b' ' * 3_000_000
        self.send_response(500 if path == '/broken' else 200)
        if path != '/huge':
            self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
server.daemon_threads = True
(folder / 'port.tmp').write_text(str(server.server_port))
(folder / 'port.tmp').rename(folder / 'port')
server.serve_forever()
";

struct Server(Child, u16);

impl Server {
    fn start(place: &Place) -> Self {
        let folder = place.beside("served");
        std::fs::create_dir(&folder).unwrap();
        let mut command = place.command(python());
        let child = command.args(["-c", SERVER]).arg(&folder).spawn().unwrap();
        let port = folder.join("port");
        wait_for("a port", || port.exists());
        Self(child, std::fs::read_to_string(port).unwrap().parse().unwrap())
    }

    fn asked(place: &Place) -> usize {
        std::fs::read_to_string(place.beside("served/asked")).unwrap_or_default().lines().count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(place: &Place, name: &str, text: &str) {
    let temporary = place.beside("served/.new");
    std::fs::write(&temporary, text).unwrap();
    std::fs::rename(temporary, place.beside(&format!("served/{name}"))).unwrap();
}

/// The runs that one `up --once` made, with trigger and key.
#[track_caller]
fn once(place: &Place) -> Vec<String> {
    let before = place.runs().len();
    let status = place.document(&["up", "--once"]);
    assert_eq!(status["kind"], "Status");
    let runs = place.runs();
    let new = runs.iter().take(runs.len() - before);
    let words = |run: &Value| {
        let trigger = &run["trigger"];
        format!("{} {}", trigger["kind"].as_str().unwrap(), trigger["key"].as_str().unwrap())
    };
    new.map(words).collect()
}

#[track_caller]
fn not_done(place: &Place, reason: &str) -> Value {
    let plan = place.document(&["plan"]);
    let found = plan["notDone"].as_array().unwrap().iter().find(|one| one["reason"] == reason);
    found.unwrap_or_else(|| panic!("no {reason} in {plan}")).clone()
}

#[test]
fn a_check_is_asked_and_its_parameters_reach_the_run() {
    let place = Place::new();
    let server = Server::start(&place);
    place.write(
        "jupyterflow.yaml",
        &format!(
            "triggers: {{check: {{url: 'http://127.0.0.1:{}/needsSync', params: {{model: automl-model}}}}}}\n\
             params: {{model: none}}\nsteps: {{a: {{run: 'echo model {{{{ params.model }}}}'}}}}",
            server.1
        ),
    );
    serve(&place, "needsSync", r#"{"kind": "NeedsSync", "needsSync": false, "parameters": {}}"#);
    assert!(once(&place).is_empty());
    serve(&place, "needsSync", r#"{"needsSync": true, "parameters": {"automl-model": "m 7"}}"#);
    assert_eq!(once(&place), ["check episode-1/1"]);
    let name = place.runs()[0]["name"].as_str().unwrap().to_owned();
    place.run(&["logs", &name, "a"]).expect(0).says("model m 7");
    assert_eq!(place.runs()[0]["params"]["model"], "m 7");
    // Still true: said so, with the next try, and no run.
    assert!(once(&place).is_empty());
    assert!(not_done(&place, "StillNeeded")["until"].is_string());
    let status = place.document(&["status"]);
    let trigger = &status["pipelines"][0]["triggers"][0];
    assert_eq!((&trigger["kind"], &trigger["state"]), (&"check".into(), &"Backoff".into()));
    assert!(trigger["nextAt"].is_string(), "{trigger}");
    // A key is another need, once.
    serve(
        &place,
        "needsSync",
        r#"{"needsSync": true, "key": "k", "parameters": {"automl-model": "m8"}}"#,
    );
    assert_eq!(once(&place), ["check k/1"]);
    assert!(once(&place).is_empty());
    place.run(&["explain", "main"]).expect(0).says("still needed");
}

#[test]
fn a_check_that_fails_starts_nothing_and_says_why() {
    let place = Place::new();
    let server = Server::start(&place);
    let port = server.1;
    serve(&place, "broken", r#"{"needsSync": true, "errors": [{"message": "no project"}]}"#);
    serve(&place, "html", "<html>");
    serve(&place, "words", r#"{"needsSync": "true"}"#);
    serve(&place, "yes", r#"{"needsSync": true}"#);
    for (name, to) in [
        ("same", format!("http://127.0.0.1:{port}/yes")),
        ("name", format!("http://localhost:{port}/yes")),
        ("number", format!("http://127.0.0.2:{port}/yes")),
        ("six", format!("http://[::ffff:127.0.0.3]:{port}/yes")),
        ("file", "file:///etc/passwd".into()),
        ("loop", "/to/loop".into()),
    ] {
        serve(&place, name, &to);
    }
    let yaml = |path: &str| {
        let url = format!("http://127.0.0.1:{port}{path}");
        format!(
            "triggers: {{check: {{url: '{url}', params: {{}}}}}}\nsteps: {{a: {{run: 'true'}}}}"
        )
    };
    for (path, words) in [
        ("/broken", "answered 500 Internal Server Error: no project"),
        ("/html", "not JSON"),
        ("/words", "no `needsSync"),
        ("/huge", "more than 1048576 bytes"),
        ("/to/name", "localhost is private"),
        ("/to/number", "127.0.0.2 is private"),
        ("/to/six", "::ffff:127.0.0.3 is private"),
        ("/to/file", "redirected to file:, which is not followed"),
        ("/to/loop", "redirects"),
        ("/hang", "no whole answer within 10 s"),
        ("/drip?token=secret", "no whole answer within 10 s"),
    ] {
        place.write("jupyterflow.yaml", &yaml(path));
        let unknown = not_done(&place, "Unknown");
        let message = unknown["message"].as_str().unwrap();
        assert!(message.contains(words), "{path}: {message}");
        assert!(!message.contains("secret"), "{message}");
    }
    place.write("jupyterflow.yaml", &yaml("/to/same"));
    assert_eq!(once(&place), ["check episode-1/1"], "a redirect to the same host is followed");
    drop(server);
    let refused = not_done(&place, "Unknown");
    assert!(refused["message"].as_str().unwrap().contains("onnect"), "{refused}");
}

#[test]
fn a_daemon_asks_as_often_as_it_is_told() {
    let place = Place::new();
    let server = Server::start(&place);
    serve(&place, "no", r#"{"needsSync": false}"#);
    place.write(
        "jupyterflow.yaml",
        &format!(
            "triggers: {{check: {{url: 'http://127.0.0.1:{}/no', every: 2s}}}}\nsteps: {{a: {{run: 'true'}}}}",
            server.1
        ),
    );
    let mut up = place.spawn(&["up", "--poll", "60s"]);
    wait_for("a third question", || Server::asked(&place) >= 3);
    serve(&place, "no", r#"{"needsSync": true}"#);
    wait_for("a run", || place.runs().iter().any(|run| run["phase"] == "Succeeded"));
    assert_eq!(place.runs().len(), 1, "{}", up.log());
    up.signal(rustix::process::Signal::TERM);
    assert_eq!(up.end(), 143);
}

#[test]
fn newer_successes_of_two_others_give_one_run() {
    let place = Place::new();
    let upstream = "triggers: []\nsteps: {a: {run: 'true'}}";
    place.write("left/jupyterflow.yaml", upstream);
    place.write("right/jupyterflow.yaml", upstream);
    place.write(
        "both/jupyterflow.yaml",
        "triggers: {pipelines: [left, right]}\nsteps: {a: {run: 'true'}}",
    );
    assert!(once(&place).is_empty());
    place.run(&["run", "left"]).expect(0);
    place.run(&["run", "left"]).expect(0);
    assert!(once(&place).is_empty(), "each must have a newer one");
    place.run(&["run", "right"]).expect(0);
    place.run(&["run", "left"]).expect(0);
    assert_eq!(once(&place), ["pipelines 1"]);
    assert!(once(&place).is_empty());
    place.run(&["explain", "both"]).expect(0).says("left succeeded");
    // Nobody knows which `left` is meant where two folders have one.
    place.write("more/left/jupyterflow.yaml", upstream);
    assert!(not_done(&place, "Unknown")["message"].as_str().unwrap().contains("more/left"));
}

#[test]
fn a_success_that_is_too_old_is_made_again() {
    let place = Place::new();
    place.write(
        "jupyterflow.yaml",
        "triggers: {stale: {maxAge: 1d}}\nsteps: {a: {run: 'test -e ok'}}",
    );
    let runs = once(&place);
    assert_eq!(runs, ["stale none/1"]);
    assert!(once(&place).is_empty());
    assert!(not_done(&place, "Backoff")["until"].is_string());
    place.write("ok", "");
    place.run(&["run", "."]).expect(0);
    let plan = place.document(&["plan", "--at", "2126-01-01T00:00:00Z"]);
    assert_eq!(plan["actions"][0]["run"]["trigger"]["kind"], "stale", "{plan}");
    assert!(once(&place).is_empty(), "a run by hand is a success too");
    let status = place.document(&["status"]);
    assert!(status["pipelines"][0]["nextRun"].is_string(), "{status}");
}

#[test]
fn replace_ends_the_running_one_and_allow_runs_beside_it() {
    let place = Place::new();
    let write = |policy: &str, text: &str| {
        let yaml = format!("concurrency: {policy}\nsteps: {{a: {{run: '{text}'}}}}");
        place.write("jupyterflow.yaml", &yaml);
    };
    let begin = |count: usize| {
        let mut up = place.spawn(&["up", "--once"]);
        let running =
            || place.runs().iter().filter(|run| run["phase"] == "Running").count() == count;
        wait_for("a run at work", running);
        up.signal(rustix::process::Signal::TERM);
        assert_eq!(up.end(), 143);
    };
    write("replace", "echo one; sleep 300");
    begin(1);
    let first = place.runs()[0]["name"].as_str().unwrap().to_owned();
    write("replace", "echo two");
    assert_eq!(once(&place), ["change 2"]);
    let old = place.document(&["show", &first]);
    assert_eq!((&old["phase"], &old["reason"]), (&"Stopped".into(), &"Superseded".into()));
    let second = place.runs()[0]["name"].as_str().unwrap().to_owned();
    assert!(old["message"].as_str().unwrap().contains(&second), "{old}");
    write("allow", "echo three; sleep 300");
    begin(1);
    write("allow", "echo four; sleep 300");
    begin(2);
    for run in place.runs().iter().filter(|run| run["phase"] == "Running") {
        place.run(&["stop", run["name"].as_str().unwrap()]).expect(0);
    }
}
