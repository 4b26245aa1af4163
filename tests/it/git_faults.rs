//! Repositories in trouble: mirrors that break, servers that lie, are slow, old or strangers, disks that
//! are full, references that move.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::git::HELLO;
use crate::repository::Git;
use crate::support::{Place, can_mount, wait_for};

fn hello() -> Git {
    let git = Git::new();
    git.write("jupyterflow.yaml", HELLO).write("a.py", "print(1)").push();
    git.configure(&format!("{{git: {{url: '{}'}}}}", git.url()), "");
    git.once().expect(0);
    git
}

fn objects(git: &Git) -> PathBuf {
    let mirrors = git.place.path(".jupyterflow/git");
    let mirror = std::fs::read_dir(mirrors).unwrap().next().unwrap().unwrap().path();
    mirror.join("objects.git")
}

fn packs(objects: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(objects.join("objects/pack")).unwrap();
    let files = entries.map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|end| end == "pack")).collect()
}

type Break = fn(&Path);

#[test]
fn mirrors_that_break_heal_by_themselves() {
    let git = hello();
    let mut runs = 1;
    let breaks: [(&str, Break); 6] = [
        ("truncated packs", |objects| {
            for pack in packs(objects) {
                make_writable(&pack);
                let file = std::fs::File::options().write(true).open(&pack).unwrap();
                file.set_len(file.metadata().unwrap().len() / 2).unwrap();
            }
        }),
        ("missing packs", |objects| {
            packs(objects).iter().for_each(|pack| std::fs::remove_file(pack).unwrap());
        }),
        ("no objects at all", |objects| std::fs::remove_dir_all(objects.join("objects")).unwrap()),
        ("broken packed-refs", |objects| {
            std::fs::write(objects.join("packed-refs"), "\0garbage\n").unwrap();
        }),
        ("stale locks", |objects| {
            for lock in ["shallow.lock", "config.lock", "HEAD.lock", "packed-refs.lock"] {
                std::fs::write(objects.join(lock), "").unwrap();
            }
        }),
        ("half a fetch", |objects| {
            std::fs::write(objects.join("objects/pack/pack_git2_half"), "half").unwrap();
        }),
    ];
    for (what, break_it) in breaks {
        break_it(&objects(&git));
        // Whatever shows, nothing is gone and nothing runs for it.
        git.once();
        git.once().expect(0);
        assert_eq!(git.place.runs().len(), runs, "{what}");
        break_it(&objects(&git));
        git.write("a.py", &format!("print('{what}')")).push();
        git.once();
        git.once().expect(0);
        runs += 1;
        assert_eq!(git.place.runs().len(), runs, "{what}");
        assert_eq!(git.log_of(&git.newest(), "a"), format!("{what}\n"));
    }
}

/// What a mirror had before it was made anew stays for the runs that need it.
#[test]
fn a_mirror_that_is_made_anew_keeps_what_it_had() {
    let git = hello();
    let first = git.inside(&["rev-parse", "HEAD"]);
    let mirror = objects(&git).parent().unwrap().to_owned();
    std::fs::write(mirror.join("damaged"), &first).unwrap();
    git.write("a.py", "print(2)").push();
    git.once().expect(0);
    assert!(!mirror.join("damaged").exists() && mirror.join("old.git").exists());
    let there = format!("{first}^{{commit}}");
    git.git(&["-C", objects(&git).to_str().unwrap(), "cat-file", "-e", &there]);
    git.once().expect(0);
    assert_eq!(git.place.runs().len(), 2);
}

fn make_writable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
}

#[test]
fn servers_that_lie_are_slow_or_old() {
    let git = hello();
    git.mode("lie");
    git.write("a.py", "print(2)").push();
    git.once().expect(4);
    assert_eq!(git.place.runs().len(), 1, "what came broken is not believed");
    git.mode("slow");
    git.once().expect(0);
    assert_eq!(git.log_of(&git.newest(), "a"), "2\n");
    // One that cannot give the newest commit alone gives all of them.
    git.mode("old");
    git.write("a.py", "print(3)").push();
    git.once().expect(0);
    assert_eq!(git.log_of(&git.newest(), "a"), "3\n");
    for (status, words) in [(401, "authentication"), (429, "429"), (503, "503")] {
        git.mode(&format!("status {status}"));
        git.once().expect(4).says(words);
    }
    assert_eq!(git.place.runs().len(), 3);
}

/// Half an answer, and then nothing: thirty seconds of silence are enough.
#[test]
fn a_server_that_stalls_is_given_up() {
    let git = hello();
    git.mode("stall");
    git.write("a.py", "print(2)").push();
    let begin = std::time::Instant::now();
    git.once().expect(4);
    assert!(begin.elapsed().as_secs() < 120, "{:?}", begin.elapsed());
    git.mode("ok");
    git.once().expect(0);
    assert_eq!(git.log_of(&git.newest(), "a"), "2\n");
}

#[test]
fn certificates_are_checked() {
    let place = Place::new();
    std::fs::create_dir_all(place.beside("served")).unwrap();
    let pem = place.beside("served/server.pem");
    let mut command = place.command("openssl");
    command.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=a"]);
    command.args(["-addext", "subjectAltName=IP:127.0.0.1"]);
    command.arg("-keyout").arg(&pem).arg("-out").arg(place.beside("trusted.pem"));
    assert!(command.output().unwrap().status.success());
    let own = std::fs::read_to_string(place.beside("trusted.pem")).unwrap();
    let key = std::fs::read_to_string(&pem).unwrap();
    std::fs::write(&pem, key + &own).unwrap();
    let mut git = Git::at(place);
    git.write("jupyterflow.yaml", HELLO).write("a.py", "print(1)").push();
    git.configure(&format!("{{git: {{url: '{}'}}}}", git.url()), "");
    assert!(git.url().starts_with("https"));
    git.once().expect(4).says("its certificate is not trusted");
    git.place.env("SSL_CERT_FILE", git.place.beside("trusted.pem"));
    git.once().expect(0);
    assert_eq!(git.place.runs().len(), 1);
}

#[test]
fn a_full_disk_is_told_and_heals() {
    if !can_mount() {
        return;
    }
    let mut git = Git::new();
    let state = git.place.beside("state");
    std::fs::create_dir_all(&state).unwrap();
    let mount = |options: &str| {
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(&state)
            .status();
        assert!(status.unwrap().success());
    };
    mount("size=3m");
    let unmount = Unmount(state.clone());
    git.place.env("JUPYTERFLOW_STATE", &state);
    git.write("jupyterflow.yaml", HELLO).write("a.py", "print(1)").push();
    git.configure(&format!("{{git: {{url: '{}'}}}}", git.url()), "");
    git.once().expect(0);
    // More than the disk holds, in bytes that nothing can make fewer.
    git.place.python(
        "import os, sys; open(sys.argv[1], 'wb').write(os.urandom(6 << 20))",
        &[&git.clone("big.bin").display().to_string()],
    );
    git.write("a.py", "print(2)").push();
    let ended = git.once().expect(4);
    assert!(
        ended.stderr.contains("No space left") || ended.stderr.contains("full"),
        "{}",
        ended.stderr
    );
    assert_eq!(git.place.runs().len(), 1, "the ledger stands");
    mount("remount,size=64m");
    git.once().expect(0);
    assert_eq!(git.log_of(&git.newest(), "a"), "2\n");
    drop(unmount);
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn tags_move_and_default_branches_are_renamed() {
    let git = Git::new();
    git.write("jupyterflow.yaml", HELLO).write("a.py", "print(1)").push();
    git.inside(&["tag", "-a", "v1", "-m", "x"]);
    git.inside(&["push", "-q", "origin", "v1"]);
    git.configure(&format!("{{git: {{url: '{}', tag: v1}}}}", git.url()), "");
    git.once().expect(0);
    git.write("a.py", "print(2)").push();
    git.once().expect(0);
    assert_eq!(git.place.runs().len(), 1, "the tag stands where it did");
    git.inside(&["tag", "-f", "-a", "v1", "-m", "y"]);
    git.inside(&["push", "-q", "-f", "origin", "v1"]);
    git.once().expect(0);
    assert_eq!(git.log_of(&git.newest(), "a"), "2\n");
    // Without a word on branches it is the one that the repository calls its own.
    git.configure(&format!("{{git: {{url: '{}'}}}}", git.url()), "");
    git.once().expect(0);
    let runs = git.place.runs().len();
    git.inside(&["checkout", "-q", "-b", "trunk"]);
    git.write("a.py", "print(3)").push();
    git.once().expect(0);
    assert_eq!(git.place.runs().len(), runs);
    git.git(&["-C", "../served/repos/team.git", "symbolic-ref", "HEAD", "refs/heads/trunk"]);
    git.once().expect(0);
    assert_eq!(git.log_of(&git.newest(), "a"), "3\n");
}

/// A replica that lags shows what was there before: a tip that goes back must stand for a minute.
#[test]
fn a_replica_that_lags_starts_nothing() {
    let git = Git::new();
    git.write("jupyterflow.yaml", HELLO).write("a.py", "print(1)").push();
    git.git(&["clone", "-q", "--bare", "../served/repos/team.git", "../served/lagging.git"]);
    git.configure(&format!("{{git: {{url: '{}'}}, poll: 1s}}", git.url()), "");
    let up = git.place.spawn(&["up", "--config", "sources.yaml"]);
    let done = |count: usize| {
        let runs = git.place.runs();
        runs.len() == count && runs.iter().all(|run| run["phase"] == "Succeeded")
    };
    wait_for("the first run", || done(1));
    let second = git.write("a.py", "print(2)").push();
    wait_for("the second run", || done(2));
    let served = git.place.beside("served");
    let swap = || {
        std::fs::rename(served.join("repos/team.git"), served.join("other.git")).unwrap();
        std::fs::rename(served.join("lagging.git"), served.join("repos/team.git")).unwrap();
        std::fs::rename(served.join("other.git"), served.join("lagging.git")).unwrap();
    };
    for _ in 0..2 {
        swap();
        let asked = git.asked();
        wait_for("some polls", || git.asked() > asked + 3);
        assert!(done(2), "{}", up.log());
        let status = git.place.document(&["status"]);
        assert_eq!(status["sources"][0]["revision"], second.as_str(), "what was in force stays");
    }
}

/// A run that waits for its turn, of a commit that is gone by then, takes the one in force.
#[test]
fn a_waiting_run_whose_commit_is_gone_takes_the_newest() {
    let git = Git::new();
    let gate = git.place.beside("gate");
    let script = |text: &str| {
        format!(
            "import os, time\nwhile not os.path.exists({gate:?}): time.sleep(0.05)\nprint({text:?})"
        )
    };
    git.write("jupyterflow.yaml", &format!("triggers: []\n{HELLO}"));
    git.write("a.py", &script("old")).push();
    git.configure(&format!("{{git: {{url: '{}'}}, poll: 1s}}", git.url()), "");
    git.once().expect(0);
    for _ in 0..2 {
        git.place.run(&["run", "--pipeline", "hello", "--detach"]).expect(0);
    }
    git.inside(&["checkout", "-q", "--orphan", "other"]);
    let newest = git.write("a.py", &script("new")).push();
    git.inside(&["push", "-q", "-f", "origin", "HEAD:main"]);
    let mirror = objects(&git).parent().unwrap().to_owned();
    std::fs::remove_dir_all(mirror).unwrap();
    let up = git.place.spawn(&["up", "--config", "sources.yaml"]);
    wait_for("the new commit", || {
        git.place.document(&["status"])["sources"][0]["revision"] == newest.as_str()
    });
    std::fs::write(&gate, "").unwrap();
    let ended = || git.place.runs().iter().all(|run| run["finishedAt"].is_string());
    wait_for("the end of both", ended);
    let second = git.newest();
    assert_eq!(second["phase"], "Succeeded", "{second}\n{}", up.log());
    assert_eq!(second["revision"], newest.as_str());
    assert_eq!(git.log_of(&second, "a"), "new\n");
}
