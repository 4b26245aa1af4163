//! A real repository for tests: bare, with a clone to push from and git's own web server over it.

use std::path::PathBuf;
use std::process::Child;

use serde_json::Value;

use crate::support::{Ended, Place, python, wait_for};

/// A bare repository, a clone to push from, and a web server over it.
pub struct Git {
    pub place: Place,
    server: Child,
    address: &'static str,
    pub port: u16,
}

impl Git {
    pub fn new() -> Self {
        Self::at(Place::new())
    }

    /// In a place that may hold a certificate for the server already.
    pub fn at(place: Place) -> Self {
        Self::served(place, "127.0.0.1")
    }

    /// Served at an address of this machine.
    pub fn served(mut place: Place, address: &'static str) -> Self {
        let served = place.beside("served");
        std::fs::create_dir_all(served.join("repos")).unwrap();
        for (name, value) in [
            ("GIT_AUTHOR_NAME", "a"),
            ("GIT_AUTHOR_EMAIL", "a@example"),
            ("GIT_COMMITTER_NAME", "a"),
            ("GIT_COMMITTER_EMAIL", "a@example"),
        ] {
            place.env(name, value);
        }
        std::fs::write(served.join("mode"), "ok").unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/git_server.py");
        let server = place.command(python()).arg(script).arg(&served).arg(address).spawn().unwrap();
        let port = served.join("port");
        wait_for("a port", || port.exists());
        let port = std::fs::read_to_string(port).unwrap().parse().unwrap();
        let git = Self { place, server, address, port };
        git.git(&["init", "-q", "--bare", "-b", "main", "../served/repos/team.git"]);
        git.git(&[
            "-C",
            "../served/repos/team.git",
            "config",
            "receive.denyDeleteCurrent",
            "ignore",
        ]);
        git.git(&["init", "-q", "-b", "main", "../clone"]);
        git.inside(&["remote", "add", "origin", "../served/repos/team.git"]);
        git
    }

    pub fn git(&self, args: &[&str]) -> String {
        let ended = Ended::from(self.place.command("git").args(args).output().unwrap());
        ended.expect(0).stdout.trim().to_owned()
    }

    /// git in the clone.
    pub fn inside(&self, args: &[&str]) -> String {
        let mut all = vec!["-C", "../clone"];
        all.extend(args);
        self.git(&all)
    }

    pub fn clone(&self, path: &str) -> PathBuf {
        self.place.beside("clone").join(path)
    }

    pub fn write(&self, path: &str, text: &str) -> &Self {
        let full = self.clone(path);
        std::fs::create_dir_all(full.parent().unwrap()).unwrap();
        std::fs::write(full, text).unwrap();
        self
    }

    /// Commits everything and pushes it; returns the commit.
    pub fn push(&self) -> String {
        self.inside(&["add", "-A"]);
        self.inside(&["commit", "-q", "--allow-empty", "-m", "x"]);
        self.inside(&["push", "-q", "-f", "origin", "HEAD"]);
        self.inside(&["rev-parse", "HEAD"])
    }

    pub fn mode(&self, mode: &str) {
        let folder = self.place.beside("served");
        std::fs::write(folder.join("mode.new"), mode).unwrap();
        std::fs::rename(folder.join("mode.new"), folder.join("mode")).unwrap();
    }

    pub fn asked(&self) -> usize {
        let log = std::fs::read_to_string(self.place.beside("served/asked")).unwrap_or_default();
        log.lines().count()
    }

    pub fn url(&self) -> String {
        let secure = self.place.beside("served/server.pem").exists();
        let scheme = if secure { "https" } else { "http" };
        format!("{scheme}://{}:{}/team.git", self.address, self.port)
    }

    /// A configuration with this repository, and whatever else.
    pub fn configure(&self, spec: &str, more: &str) {
        let text = format!(
            "apiVersion: jupyterflow.io/v1alpha1\nkind: NotebookSource\nmetadata: {{name: team}}\n\
             spec: {spec}\n{more}"
        );
        self.place.write("sources.yaml", &text);
    }

    pub fn once(&self) -> Ended {
        self.place.run(&["up", "--once", "--config", "sources.yaml"])
    }

    /// The newest run, whole.
    pub fn newest(&self) -> Value {
        self.place.runs().into_iter().next().unwrap_or_default()
    }

    pub fn log_of(&self, run: &Value, step: &str) -> String {
        self.place.run(&["logs", run["name"].as_str().unwrap(), step]).expect(0).stdout
    }
}

impl Drop for Git {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
