//! What a daemon says and serves: its log, its limits on connections, the age of an error.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use crate::support::{Place, Running, wait_for};

fn address(up: &Running) -> String {
    let line = |log: &str| {
        let line = log.lines().find(|line| line.contains("listening on"))?.to_owned();
        line.split("http://").nth(1).map(|rest| rest.trim_end_matches(['"', '}']).to_owned())
    };
    wait_for("the address", || line(&up.log()).is_some());
    line(&up.log()).unwrap()
}

/// The answer to a request, as far as it came.
fn get(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(30)))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map(|_| text)
}

#[test]
fn the_log_is_an_object_a_line_for_collectors() {
    let mut place = Place::new();
    place.env("JUPYTERFLOW_LOG", "json");
    place.write("bad/jupyterflow.yaml", "steps: {a: {run: x, retry: 2}}");
    place.write("good/jupyterflow.yaml", "name: good\nsteps: {a: {run: exit 3}}");
    let ended = place.run(&["up", "--once", "--quiet"]).expect(2);
    assert!(
        ended.stderr.lines().all(|line| line.contains("\"level\":\"ERROR\"")),
        "{}",
        ended.stderr
    );
    place.write("good/jupyterflow.yaml", "name: good\nsteps: {a: {run: exit 4}}");
    let ended = place.spawn(&["up", "--poll", "1s"]);
    let lines = || -> Vec<Value> {
        let log = ended.log();
        // The last line may be half written.
        let whole = log.rfind('\n').unwrap_or(0);
        log[..whole]
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
            .collect()
    };
    wait_for("the end of a run", || lines().iter().any(|line| line["phase"] == "Failed"));
    let all = lines();
    let find =
        |field: &str, value: &str| all.iter().find(|line| line[field] == value).cloned().unwrap();
    let end = find("phase", "Failed");
    assert_eq!(
        (&end["pipeline"], &end["source"], &end["level"]),
        (&"good".into(), &"local".into(), &"INFO".into())
    );
    assert!(end["message"].as_str().unwrap().contains("Failed: step a"), "{end}");
    assert!(end["timestamp"].as_str().unwrap().parse::<jupyterflow::types::Timestamp>().is_ok());
    let problem = find("file", "bad/jupyterflow.yaml");
    assert_eq!((&problem["line"], &problem["level"]), (&1.into(), &"ERROR".into()));
    assert!(problem["hint"].as_str().unwrap().contains("retries"), "{problem}");
    let start = find("trigger", "change");
    assert_eq!(start["run"], end["run"]);
    // Of a failure the status tells the age.
    place.env("JUPYTERFLOW_LOG", "text");
    let status = place.document(&["status"]);
    let message = status["pipelines"][0]["message"].as_str().unwrap();
    assert!(message.contains("failed") && message.contains("s ago: step a"), "{message}");
}

#[test]
fn whoever_holds_connections_holds_up_nobody() {
    let place = Place::new();
    place.write("jupyterflow.yaml", "triggers: []\nsteps: {a: {run: x}}");
    let up = place.spawn(&["up", "--listen", "127.0.0.1:0"]);
    let address = address(&up);
    let files = || std::fs::read_dir(format!("/proc/{}/fd", up.child.id())).unwrap().count();
    let before = files();
    let mut silent: Vec<TcpStream> =
        (0..400).map(|_| TcpStream::connect(&address).unwrap()).collect();
    wait_for("connections", || files() >= before + 15);
    // Some say half a word.
    silent.iter_mut().step_by(3).for_each(|stream| stream.write_all(b"GET /hea").unwrap());
    assert!(files() <= before + 30, "{} files", files());
    let answers = || get(&address, "/healthz").is_ok_and(|text| text.contains("200 OK"));
    wait_for("an answer", answers);
    // Those that always say a little more are closed as well.
    let mut dripping: Vec<TcpStream> =
        (0..20).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let mut next = std::time::Instant::now();
    wait_for("an answer beside those that drip", || {
        if std::time::Instant::now() > next {
            next += std::time::Duration::from_secs(2);
            dripping.iter_mut().for_each(|stream| drop(stream.write_all(b"G")));
        }
        answers()
    });
    assert!(files() <= before + 30, "{} files", files());
}

/// What is called as somebody likes it forges no line of the log.
#[test]
fn names_of_folders_forge_nothing() {
    let place = Place::new();
    place.write(
        "x\nforged: all is well\u{1b}[2J/jupyterflow.yaml",
        "name: a\nsteps: {a: {run: x}, b: {rn: x}}",
    );
    place.write("y\nforged: started/jupyterflow.yaml", "name: b\nsteps: {a: {run: 'true'}}");
    let ended = place.run(&["up", "--once"]);
    let forged = ended.stderr.lines().any(|line| line.starts_with("forged"));
    assert!(!forged && !ended.stderr.contains('\u{1b}'), "{}", ended.stderr);
}
