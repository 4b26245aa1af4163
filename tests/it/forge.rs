//! What is around a repository: SSH, webhooks, and a second daemon.

use std::path::PathBuf;

use crate::git::{HELLO, secret};
use crate::repository::Git;
use crate::support::{Ended, has, wait_for};

#[test]
fn a_refused_up_leaves_the_sources_of_the_running_one() {
    let git = Git::new();
    git.write("jupyterflow.yaml", HELLO).write("a.py", "").push();
    git.configure(&format!("{{git: {{url: '{}'}}, poll: 1s}}", git.url()), "");
    let _up = git.place.spawn(&["up", "--config", "sources.yaml"]);
    wait_for("a run", || git.newest()["phase"] == "Succeeded");
    std::fs::create_dir(git.place.path("other")).unwrap();
    git.configure("{directory: {path: other}}", "");
    git.once().expect(5);
    let status = git.place.document(&["status"]);
    assert_eq!(status["sources"][0]["revision"], git.inside(&["rev-parse", "HEAD"]).as_str());
    // What cannot be read is not taken for none.
    let state = git.place.path(".jupyterflow/state.db").display().to_string();
    git.place.python(
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute(\"UPDATE meta SET value = '{}' WHERE key = 'configuration'\"); db.commit()",
        &[&state],
    );
    git.place.run(&["status"]).expect(4).says("its sources cannot be read");
}

#[test]
fn ssh_hosts_are_known_or_refused() {
    let sshd = PathBuf::from("/usr/sbin/sshd");
    if !has(
        "OpenSSH's server, and root to run it",
        sshd.exists() && rustix::process::geteuid().is_root(),
    ) {
        return;
    }
    let mut git = Git::new();
    git.write("jupyterflow.yaml", HELLO).write("a.py", "").push();
    let folder = git.place.beside("ssh");
    let secrets = git.place.beside("secrets/forge");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::create_dir_all(&secrets).unwrap();
    git.place.env("JUPYTERFLOW_SECRETS", git.place.beside("secrets"));
    for (name, kind) in
        [("host", "ed25519"), ("other", "ed25519"), ("user", "ed25519"), ("stranger", "rsa")]
    {
        let path = folder.join(name).display().to_string();
        let made = git
            .place
            .command("ssh-keygen")
            .args(["-q", "-t", kind, "-N", "", "-f", &path])
            .output();
        Ended::from(made.unwrap()).expect(0);
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    std::fs::copy(folder.join("user.pub"), folder.join("authorized")).unwrap();
    let shown = folder.display();
    std::fs::write(
        folder.join("config"),
        format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {shown}/host\nAuthorizedKeysFile {shown}/authorized\n\
             StrictModes no\nPasswordAuthentication no\nUsePAM no\nPidFile none\nPermitRootLogin yes\nSetEnv GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0=*\n"
        ),
    )
    .unwrap();
    std::fs::create_dir_all("/run/sshd").unwrap();
    let config = folder.join("config");
    let mut server = git.place.command(sshd).arg("-D").arg("-f").arg(config).spawn().unwrap();
    wait_for("the server", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let url = format!(
        "ssh://root@127.0.0.1:{port}{}",
        git.place.beside("served/repos/team.git").display()
    );
    git.configure(&format!("{{git: {{url: '{url}', credentials: {{secret: forge}}}}}}"), "");
    let line = |key: &str| {
        let text = std::fs::read_to_string(folder.join(format!("{key}.pub"))).unwrap();
        format!("[127.0.0.1]:{port} {text}")
    };
    let give = |name: &str, text: &str| secret(secrets.join(name), text);
    let key = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    give("ssh-privatekey", &key("user"));
    give("known_hosts", "");
    git.once().expect(4).says("is not known").says(&format!("ssh-keyscan -p {port} 127.0.0.1"));
    give("known_hosts", &line("other"));
    git.once().expect(4).says("somebody may be in between");
    give("known_hosts", &line("host"));
    give("ssh-privatekey", &key("stranger"));
    git.once().expect(4).says("the credentials were refused");
    assert!(git.place.runs().is_empty());
    give("ssh-privatekey", &key("user"));
    git.once().expect(0);
    assert_eq!(git.newest()["phase"], "Succeeded");
    server.kill().unwrap();
    server.wait().unwrap();
}

/// Posts a body to a path, signed or not; prints the status.
const POST: &str = "
import hashlib, hmac, sys, urllib.error, urllib.request
base, path, secret, header, size = sys.argv[1:]
body = b'{\"ref\": \"refs/heads/evil\", \"after\": \"0000\"}' + b' ' * int(size)
signature = 'sha256=' + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
if header == 'X-Gitlab-Token': signature = secret
request = urllib.request.Request(base + path, data=body, headers={header: signature} if header != '-' else {})
try:
    print(urllib.request.urlopen(request, timeout=20).status)
except urllib.error.HTTPError as error:
    print(error.code)
";

#[test]
fn a_webhook_brings_the_next_poll_forward_and_is_believed_nothing() {
    let mut git = Git::new();
    git.write("jupyterflow.yaml", HELLO).write("a.py", "").push();
    let secrets = git.place.beside("secrets");
    std::fs::create_dir_all(secrets.join("hook")).unwrap();
    secret(secrets.join("hook/token"), "s3cr3t-of-hooks\n");
    git.place.env("JUPYTERFLOW_SECRETS", &secrets);
    let spec = format!(
        "{{git: {{url: '{}'}}, poll: 1h, webhook: {{secret: hook, key: token}}}}",
        git.url()
    );
    git.configure(&spec, "");
    let args = ["up", "--config", "sources.yaml", "--listen", "127.0.0.1:0"];
    let mut up = git.place.spawn(&args);
    let succeeded = || git.place.runs().iter().filter(|run| run["phase"] == "Succeeded").count();
    wait_for("the first run", || succeeded() == 1);
    let after = |words: &str| {
        let log = up.log();
        let line =
            log.lines().find_map(|line| line.split_once(words)).map(|(_, rest)| rest.to_owned());
        line.unwrap_or_else(|| panic!("no {words} in {log}"))
    };
    let base = after("listening on ");
    let path = after("webhook of source team: ");
    let post = |path: &str, secret: &str, header: &str, size: &str| -> String {
        git.place.python(POST, &[&base, path, secret, header, size]).trim().to_owned()
    };
    let second = git.write("a.py", "print(2)").push();
    let asked = git.asked();
    for (path, secret, header, size, status) in [
        (
            "/hooks/00000000000000000000000000000000",
            "s3cr3t-of-hooks",
            "X-Hub-Signature-256",
            "0",
            "404",
        ),
        (path.as_str(), "wrong", "X-Hub-Signature-256", "0", "401"),
        (path.as_str(), "", "-", "0", "401"),
        (path.as_str(), "s3cr3t", "X-Gitlab-Token", "0", "401"),
        (path.as_str(), "s3cr3t-of-hooks", "X-Hub-Signature-256", "1048534", "413"),
    ] {
        assert_eq!(post(path, secret, header, size), status, "{path} {header}");
    }
    assert_eq!(git.asked(), asked, "nobody was heard");
    assert_eq!(post(&path, "s3cr3t-of-hooks", "X-Gitea-Signature", "0"), "202");
    wait_for("the run of the push", || succeeded() == 2);
    assert_eq!(git.newest()["revision"], second.as_str(), "what the branch names, not the payload");
    git.write("a.py", "print(3)").push();
    assert_eq!(post(&path, "s3cr3t-of-hooks", "X-Gitlab-Token", "0"), "202");
    wait_for("the run of the next push", || succeeded() == 3);
    let get = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode())";
    let metrics = || git.place.python(get, &[&format!("{base}/metrics")]);
    wait_for("the figures", || {
        metrics().contains("jupyterflow_runs_ended_total{phase=\"Succeeded\"} 3")
    });
    assert!(metrics().contains("jupyterflow_source_ready{source=\"team\"} 1"));
    for path in ["/healthz", "/readyz"] {
        assert_eq!(git.place.python(get, &[&format!("{base}{path}")]).trim(), "ok");
    }
    assert!(!up.log().contains("s3cr3t"), "{}", up.log());
    up.signal(rustix::process::Signal::TERM);
    assert_eq!(up.end(), 143);
}
