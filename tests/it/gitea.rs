//! A real forge: Gitea, by HTTP with a token and by SSH with a key, and the webhooks that it signs.

use std::path::PathBuf;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::git::{HELLO, secret};
use crate::support::{Ended, Place, has, venv, wait_for};

struct Gitea {
    place: Place,
    server: Child,
    http: u16,
    ssh: u16,
    token: String,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

const ASK: &str = "
import json, sys, urllib.request
method, url, token, body = sys.argv[1:5]
headers = {'Authorization': 'token ' + token, 'Content-Type': 'application/json'}
asked = urllib.request.Request(url, method=method, headers=headers, data=body.encode() if body else None)
print(urllib.request.urlopen(asked, timeout=30).read().decode())
";

impl Gitea {
    fn new() -> Self {
        let mut place = Place::new();
        let (http, ssh) = (free_port(), free_port());
        let folder = place.beside("gitea");
        std::fs::create_dir_all(&folder).unwrap();
        let user = Ended::from(place.command("id").arg("-un").output().unwrap()).stdout;
        let settings = format!(
            "RUN_USER = {}\n[server]\nHTTP_ADDR = 127.0.0.1\nHTTP_PORT = {http}\nROOT_URL = http://127.0.0.1:{http}/\n\
             STATIC_ROOT_PATH = {}\nOFFLINE_MODE = true\nSTART_SSH_SERVER = true\nSSH_DOMAIN = 127.0.0.1\n\
             SSH_LISTEN_HOST = 127.0.0.1\nSSH_LISTEN_PORT = {ssh}\nSSH_PORT = {ssh}\nBUILTIN_SSH_SERVER_USER = git\n\
             [database]\nDB_TYPE = sqlite3\n[security]\nINSTALL_LOCK = true\nSECRET_KEY = abcdefghijklmnop\n\
             [webhook]\nALLOWED_HOST_LIST = loopback\n[cron]\nENABLED = false\n[log]\nLEVEL = warn\n",
            user.trim(),
            venv().join("gitea-static").display(),
        );
        std::fs::write(folder.join("app.ini"), settings).unwrap();
        for (name, value) in [
            ("GITEA_WORK_DIR", folder.display().to_string()),
            ("GITEA_I_AM_BEING_UNSAFE_RUNNING_AS_ROOT", "true".into()),
            ("GIT_AUTHOR_NAME", "ada".into()),
            ("GIT_AUTHOR_EMAIL", "ada@example.org".into()),
            ("GIT_COMMITTER_NAME", "ada".into()),
            ("GIT_COMMITTER_EMAIL", "ada@example.org".into()),
            ("JUPYTERFLOW_SECRETS", place.beside("secrets").display().to_string()),
        ] {
            place.env(name, value);
        }
        let gitea = |args: &[&str]| {
            let mut command = place.command(venv().join("bin/gitea"));
            command.arg("--config").arg(folder.join("app.ini")).args(args);
            command
        };
        Ended::from(gitea(&["migrate"]).output().unwrap()).expect(0);
        let user =
            ["--username", "ada", "--password", "correct-horse", "--email", "ada@example.org"];
        let create =
            [&["admin", "user", "create", "--must-change-password=false"][..], &user].concat();
        Ended::from(gitea(&create).output().unwrap()).expect(0);
        let token = [
            "admin",
            "user",
            "generate-access-token",
            "--username",
            "ada",
            "--raw",
            "--scopes",
            "all",
        ];
        let token = Ended::from(gitea(&token).output().unwrap()).expect(0).stdout;
        let token = token.lines().last().unwrap().trim().to_owned();
        let log = std::fs::File::create(folder.join("server.log")).unwrap();
        let server = gitea(&["web"]).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let forge = Self { place, server, http, ssh, token };
        wait_for("the forge", || {
            std::net::TcpStream::connect(("127.0.0.1", http)).is_ok()
                && std::net::TcpStream::connect(("127.0.0.1", ssh)).is_ok()
        });
        forge
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let url = format!("http://127.0.0.1:{}/api/v1{path}", self.http);
        let answer = self.place.python(ASK, &[method, &url, &self.token, &body.to_string()]);
        serde_json::from_str(&answer).unwrap_or_default()
    }

    fn git(&self, args: &[&str]) {
        let clone: PathBuf = self.place.beside("clone");
        let mut command = self.place.command("git");
        Ended::from(command.arg("-C").arg(clone).args(args).output().unwrap()).expect(0);
    }

    fn push(&self, text: &str) {
        std::fs::write(self.place.beside("clone/a.py"), text).unwrap();
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", "x"]);
        self.git(&["push", "-q", "origin", "main"]);
    }
}

impl Drop for Gitea {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
fn a_private_repository_of_a_forge_by_http_and_ssh_with_its_webhook() {
    if !has("Gitea", venv().join("bin/gitea").exists()) {
        return;
    }
    let forge = Gitea::new();
    let place = &forge.place;
    forge.ask(
        "POST",
        "/user/repos",
        &json!({"name": "flows", "private": true, "default_branch": "main"}),
    );
    // A key of its own for the program, and the host's key as it was compared once.
    let secrets = place.beside("secrets");
    let key = place.beside("key");
    let mut command = place.command("ssh-keygen");
    assert!(
        command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status().unwrap().success()
    );
    let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    forge.ask(
        "POST",
        "/repos/ada/flows/keys",
        &json!({"title": "up", "key": public, "read_only": true}),
    );
    let port = forge.ssh.to_string();
    let scan =
        place.command("ssh-keyscan").args(["-T", "60", "-p", &port, "127.0.0.1"]).output().unwrap();
    secret(secrets.join("key/known_hosts"), &Ended::from(scan).stdout);
    secret(secrets.join("key/ssh-privatekey"), &std::fs::read_to_string(&key).unwrap());
    secret(secrets.join("token/username"), "ada");
    secret(secrets.join("token/password"), &forge.token);
    secret(secrets.join("hook/key"), "s3cr3t-of-hooks");
    let clone = place.beside("clone");
    std::fs::create_dir_all(&clone).unwrap();
    forge.git(&["init", "-q", "-b", "main"]);
    let (http, token) = (forge.http, &forge.token);
    forge.git(&[
        "remote",
        "add",
        "origin",
        &format!("http://ada:{token}@127.0.0.1:{http}/ada/flows.git"),
    ]);
    std::fs::write(clone.join("jupyterflow.yaml"), HELLO).unwrap();
    forge.push("print(1)");
    let source = |name: &str, url: &str, more: &str| {
        format!(
            "apiVersion: jupyterflow.io/v1alpha1\nkind: NotebookSource\nmetadata: {{name: {name}}}\n\
             spec: {{git: {{url: '{url}', credentials: {{secret: {more}\n"
        )
    };
    let by_http = format!("http://127.0.0.1:{http}/ada/flows.git");
    let by_ssh = format!("ssh://git@127.0.0.1:{port}/ada/flows.git");
    let hook = "token}}, poll: 1h, webhook: {secret: hook, key: key}}";
    let all = [source("http", &by_http, hook), source("ssh", &by_ssh, "key}}, poll: 1s}")];
    place.write("sources.yaml", &all.join("---\n"));
    let up = place.spawn(&["up", "--config", "sources.yaml", "--listen", "127.0.0.1:0"]);
    let done = |source: &str| {
        let runs = place.runs();
        let good = |run: &&Value| run["source"] == source && run["phase"] == "Succeeded";
        runs.iter().filter(good).count()
    };
    wait_for("a run of each", || done("http") == 1 && done("ssh") == 1);
    let after = |words: &str| {
        let log = up.log();
        let line =
            log.lines().find_map(|line| line.split_once(words).map(|(_, rest)| rest.to_owned()));
        line.unwrap_or_else(|| panic!("no {words} in {log}"))
    };
    let url = after("listening on ") + &after("webhook of source http: ");
    let config = json!({"url": url, "content_type": "json", "secret": "s3cr3t-of-hooks"});
    let hook = json!({"type": "gitea", "active": true, "events": ["push"], "config": config});
    forge.ask("POST", "/repos/ada/flows/hooks", &hook);
    // The next poll by HTTP is an hour away; the forge's own call brings it forward.
    forge.push("print(2)");
    wait_for("the runs of the push", || done("http") == 2 && done("ssh") == 2);
    assert!(!up.log().contains("s3cr3t") && !up.log().contains(token.as_str()), "{}", up.log());
    // A repository that is gone takes nothing away.
    forge.ask("DELETE", "/repos/ada/flows", &Value::Null);
    wait_for("the loss to be told", || up.log().contains("source ssh: "));
    let status = place.document(&["status"]);
    let names = status["pipelines"].as_array().unwrap().iter().filter(|one| one["name"] == "hello");
    assert_eq!(names.count(), 2, "{status}");
}
