//! Git repositories as sources: git's own http-backend and OpenSSH as servers, and what they and
//! hostile repositories do.

use std::path::PathBuf;

use crate::repository::Git;
use crate::support::wait_for;

/// Writes a secret, which only its owner may read.
pub fn secret(path: PathBuf, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

pub const HELLO: &str = "name: hello\nsteps: {a: {run: python a.py}}";

#[test]
fn a_push_gives_a_run_of_that_commit() {
    let git = Git::new();
    let first = git.write("p/jupyterflow.yaml", HELLO).write("p/a.py", "print('one')").push();
    let mut up = git.place.spawn(&["up", &git.url(), "--poll", "1s"]);
    let done = |count: usize| {
        let runs = git.place.runs();
        runs.len() == count && runs.iter().all(|run| run["phase"] == "Succeeded")
    };
    wait_for("the first run", || done(1));
    assert_eq!(git.newest()["revision"], first.as_str());
    let second = git.write("p/a.py", "print('two')").push();
    wait_for("the second run", || done(2));
    let run = git.newest();
    assert_eq!(run["revision"], second.as_str());
    assert_eq!(git.log_of(&run, "a"), "two\n");
    // A commit that touches nothing of the pipeline makes none; polls that find nothing fetch nothing.
    git.write("other/notes.md", "x").push();
    let polled = git.asked();
    wait_for("some polls", || git.asked() > polled + 6);
    assert!(done(2), "{}", up.log());
    let status = git.place.document(&["status"]);
    assert_eq!(status["sources"][0]["ready"], true, "{status}");
    assert_eq!(status["sources"][0]["revision"], git.inside(&["rev-parse", "HEAD"]).as_str());
    up.signal(rustix::process::Signal::TERM);
    assert_eq!(up.end(), 143);
}

#[test]
fn steps_begin_in_a_fresh_checkout_and_only_declared_files_travel() {
    let git = Git::new();
    git.write(
        "p/jupyterflow.yaml",
        "steps:
  make:
    run: 'echo declared > data/out.csv; echo not > data/other.csv; echo own > $JUPYTERFLOW_OUTPUT_DIR/own.txt; echo changed > tracked.txt; ln -s /etc link'
    outputs: {table: data/out.csv, own: own.txt}
  show:
    needs: make
    run: 'cat {{ steps.make.outputs.table }} data/out.csv {{ steps.make.outputs.own }} tracked.txt; ls data; ls'
  book: {notebook: show.ipynb, needs: make, params: {path: '{{ steps.make.outputs.table }}'}}
",
    );
    git.write("p/data/.keep", "").write("p/tracked.txt", "as committed\n");
    git.place.notebook(
        "../clone/p/show.ipynb",
        &["#tag parameters\npath = ''", "print(open(path).read(), open('tracked.txt').read())"],
    );
    git.push();
    git.configure(&format!("{{git: {{url: '{}'}}}}", git.url()), "");
    git.once().expect(0);
    let run = git.newest();
    assert_eq!(run["phase"], "Succeeded", "{run}");
    let shown = git.log_of(&run, "show");
    assert_eq!(
        shown,
        "declared\ndeclared\nown\nas committed\nout.csv\ndata\njupyterflow.yaml\nown.txt\nshow.ipynb\ntracked.txt\n"
    );
    assert!(git.log_of(&run, "book").contains("declared\n as committed"));
    let path = run["steps"][0]["artifacts"][0]["path"].as_str().unwrap();
    assert_eq!(git.place.read(&format!("team/{path}")), "declared\n");
    let left = std::fs::read_dir(git.place.path(".jupyterflow/work")).unwrap().count();
    assert_eq!(left, 0, "checkouts go with their attempts");
    // Again by hand, from what the state knows.
    git.place.run(&["run", "--pipeline", "p"]).expect(0);
    git.place.run(&["retry", run["name"].as_str().unwrap(), "--from", "show"]).expect(0);
}

#[test]
fn credentials_come_from_files_and_are_never_shown() {
    let mut git = Git::new();
    git.write("jupyterflow.yaml", HELLO).write("a.py", "").push();
    let secrets = git.place.beside("secrets");
    std::fs::create_dir_all(secrets.join("forge")).unwrap();
    git.place.env("JUPYTERFLOW_SECRETS", &secrets);
    git.mode("password me:hunter-22");
    git.configure(&format!("{{git: {{url: '{}'}}}}", git.url()), "");
    git.once().expect(4).says("it wants credentials, and the source names none");
    git.configure(
        &format!("{{git: {{url: '{}', credentials: {{secret: forge}}}}}}", git.url()),
        "",
    );
    git.once().expect(4).says("has no `password`");
    secret(secrets.join("forge/username"), "me\n");
    std::fs::write(secrets.join("forge/password"), "wrong-22\n").unwrap();
    git.once().expect(4).says("chmod 0600");
    secret(secrets.join("forge/password"), "wrong-22\n");
    git.once().expect(4).says("the credentials were refused");
    // Read at each use.
    secret(secrets.join("forge/password"), "hunter-22\n");
    git.once().expect(0);
    assert_eq!(git.newest()["phase"], "Succeeded");
    for word in ["hunter-22", "wrong-22"] {
        let found = git.place.command("grep").args(["-r", word, "."]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    }
    git.place
        .run(&["up", "--once", "https://me:hunter-22@127.0.0.1/x"])
        .expect(2)
        .says("belong into a secret");
    // No other host gets them.
    git.mode(&format!("redirect http://localhost:{}", git.port));
    git.once().expect(4);
    assert!(!git.place.read("sources.yaml").contains("hunter"));
}

#[test]
fn a_server_that_is_away_takes_nothing_away() {
    let git = Git::new();
    git.write("jupyterflow.yaml", HELLO).write("a.py", "").push();
    git.place.write("folder/jupyterflow.yaml", "name: folder\nsteps: {a: {run: 'true'}}");
    let other = "---\napiVersion: jupyterflow.io/v1alpha1\nkind: NotebookSource\nmetadata: {name: home}\nspec: {directory: {path: folder}, settle: 1s}\n";
    git.configure(&format!("{{git: {{url: '{}'}}, poll: 1s}}", git.url()), other);
    let mut up = git.place.spawn(&["up", "--config", "sources.yaml", "--poll", "1s"]);
    let phases = || {
        let runs = git.place.runs();
        let done =
            |name: &str| runs.iter().any(|r| r["pipeline"] == name && r["phase"] == "Succeeded");
        done("hello") && done("folder")
    };
    // Two sources, side by side.
    wait_for("a run of each source", phases);
    let message =
        || git.place.document(&["status"])["sources"][0]["message"].as_str().map(str::to_owned);
    for (mode, words) in [("status 500", "500"), ("status 404", "404"), ("status 403", "403")] {
        git.mode(mode);
        wait_for("the trouble to be told", || up.log().contains(words));
    }
    let runs = git.place.runs().len();
    git.mode("ok");
    git.write("a.py", "print(2)").push();
    wait_for("it to be back", || git.place.runs().len() > runs);
    assert_eq!(message(), None);
    // One that hangs holds up its own source alone.
    git.mode("hang");
    let asked = git.asked();
    wait_for("a question that hangs", || git.asked() > asked);
    let runs = git.place.runs().len();
    git.place.write("folder/jupyterflow.yaml", "name: folder\nsteps: {a: {run: 'echo new'}}");
    wait_for("the other source to go on", || git.place.runs().len() > runs);
    up.signal(rustix::process::Signal::TERM);
    assert_eq!(up.end(), 143);
}

#[test]
fn a_branch_that_is_forced_deleted_or_made_again_is_followed() {
    let git = Git::new();
    let first = git.write("jupyterflow.yaml", HELLO).write("a.py", "print(1)").push();
    git.configure(&format!("{{git: {{url: '{}', branch: main}}}}", git.url()), "");
    git.once().expect(0);
    git.write("a.py", "print(2)").push();
    git.once().expect(0);
    assert_eq!(git.place.runs().len(), 2);
    // Forced back: the content from before is a new change.
    git.inside(&["reset", "-q", "--hard", &first]);
    git.inside(&["push", "-q", "-f", "origin", "main"]);
    git.once().expect(0);
    let runs = git.place.runs();
    assert_eq!((runs.len(), &runs[0]["revision"]), (3, &first.as_str().into()));
    // Rewritten history with the same files is none.
    git.inside(&["commit", "-q", "--amend", "-m", "other words"]);
    git.push();
    git.once().expect(0);
    assert_eq!(git.place.runs().len(), 3);
    // Deleted: what was in force stays, nothing is gone.
    git.inside(&["push", "-q", "origin", ":main"]);
    git.once().says("the repository has no branch `main`");
    let status = git.place.document(&["status"]);
    assert_eq!(status["pipelines"][0]["name"], "hello", "{status}");
    // Another history altogether under the same name.
    git.inside(&["checkout", "-q", "--orphan", "new"]);
    git.write("a.py", "print(3)");
    git.inside(&["add", "-A"]);
    git.inside(&["commit", "-q", "-m", "new"]);
    git.inside(&["push", "-q", "-f", "origin", "new:main"]);
    git.once().expect(0);
    assert_eq!(git.place.runs().len(), 4);
}

#[test]
fn each_branch_that_matches_is_a_source_of_its_own() {
    let git = Git::new();
    git.write("jupyterflow.yaml", HELLO).write("a.py", "").push();
    for branch in ["release-1", "release-2", "topic"] {
        git.inside(&["push", "-q", "origin", &format!("HEAD:{branch}")]);
    }
    git.configure(&format!("{{git: {{url: '{}', branches: 'release-*'}}}}", git.url()), "");
    git.once().expect(0);
    let mut sources: Vec<String> =
        git.place.runs().iter().map(|run| run["source"].as_str().unwrap().to_owned()).collect();
    sources.sort();
    assert_eq!(sources, ["team@release-1", "team@release-2"]);
    git.inside(&["tag", "-a", "v1", "-m", "v1"]);
    git.inside(&["push", "-q", "origin", "v1"]);
    git.configure(&format!("{{git: {{url: '{}', tag: v1}}, firstSight: adopt}}", git.url()), "");
    git.once().expect(0);
    assert_eq!(git.place.runs().len(), 2, "first sight is adopted");
    let status = git.place.document(&["status"]);
    assert_eq!(status["sources"][0]["revision"], git.inside(&["rev-parse", "HEAD"]).as_str());
}

#[test]
fn hostile_repositories_do_nothing() {
    let git = Git::new();
    git.write("jupyterflow.yaml", HELLO).write("a.py", "print('fine')");
    // A link out, a link in, a pointer of LFS, a submodule, an attribute with a filter, and a hook.
    std::os::unix::fs::symlink("/etc/passwd", git.clone("out.ipynb")).unwrap();
    std::os::unix::fs::symlink("../../..", git.clone("up")).unwrap();
    std::os::unix::fs::symlink("a.py", git.clone("in.py")).unwrap();
    git.write("lfs.ipynb", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
    git.write(".gitattributes", "*.py filter=evil\n")
        .write(".gitmodules", "[submodule \"m\"]\n\tpath = m\n\turl = ../../x\n");
    for (folder, yaml) in [
        ("linked", "steps: {a: {notebook: ../out.ipynb}}"),
        ("pointer", "steps: {a: {notebook: ../lfs.ipynb}}"),
        ("module", "steps: {a: {notebook: ../m/x.ipynb}}"),
        ("inner", "steps: {a: {run: 'python ../in.py'}}"),
        ("huge", &"#".repeat(3 << 20)),
    ] {
        git.write(&format!("{folder}/jupyterflow.yaml"), yaml);
    }
    let hook = git.place.beside("served/repos/team.git/hooks/post-checkout");
    std::fs::write(&hook, format!("#!/bin/sh\ntouch {}\n", git.place.beside("evil").display()))
        .unwrap();
    let module = "160000,1234567890123456789012345678901234567890,m";
    git.inside(&["add", "-A"]);
    git.inside(&["update-index", "--add", "--cacheinfo", module]);
    git.inside(&["commit", "-q", "-m", "x"]);
    git.inside(&["push", "-q", "origin", "HEAD"]);
    git.configure(&format!("{{git: {{url: '{}'}}}}", git.url()), "");
    let ended = git.once();
    for words in [
        "out.ipynb: it is a symbolic link out of the source",
        "lfs.ipynb: it is a pointer of Git LFS",
        "m/x.ipynb: it lies in a submodule",
    ] {
        assert!(ended.stderr.contains(words), "no {words:?} in {}", ended.stderr);
    }
    let runs = git.place.runs();
    let done: Vec<&str> = runs
        .iter()
        .filter(|run| run["phase"] == "Succeeded")
        .map(|run| run["pipeline"].as_str().unwrap())
        .collect();
    assert!(done.contains(&"hello") && done.contains(&"inner"), "{runs:?}");
    assert!(!git.place.beside("evil").exists());
    // References that look like options, and very many of them.
    let tip = git.inside(&["rev-parse", "HEAD"]);
    let mut packed = String::from("# pack-refs with: peeled fully-peeled sorted \n");
    for number in 0..100_000 {
        packed += &format!("{tip} refs/heads/--upload-pack={number:06}\n");
    }
    packed += &format!("{tip} refs/heads/main\n");
    let bare = git.place.beside("served/repos/team.git");
    std::fs::write(bare.join("packed-refs"), packed).unwrap();
    let _ = std::fs::remove_file(bare.join("refs/heads/main"));
    git.write("a.py", "print('still')").push();
    git.once();
    assert_eq!(git.log_of(&git.newest(), "a"), "still\n");
    // A tree with a `.git` in it, as only a hostile client writes one.
    let blob = git.inside(&["hash-object", "-w", "a.py"]);
    let tree = git.place.beside("tree");
    std::fs::write(&tree, format!("100644 blob {blob}\t.GIT\n100644 blob {blob}\ta.py\n")).unwrap();
    let made =
        git.place.command("sh").args(["-c", "git -C ../clone mktree < ../tree"]).output().unwrap();
    let made = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let yaml = git.inside(&["rev-parse", "HEAD:jupyterflow.yaml"]);
    std::fs::write(&tree, format!("040000 tree {made}\tsub\n100644 blob {yaml}\tjupyterflow.yaml\n100644 blob {blob}\ta.py\n")).unwrap();
    let made =
        git.place.command("sh").args(["-c", "git -C ../clone mktree < ../tree"]).output().unwrap();
    let made = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let commit = git.inside(&["commit-tree", &made, "-m", "x"]);
    git.inside(&["push", "-q", "-f", "origin", &format!("{commit}:refs/heads/main")]);
    git.place.run(&["run", "--pipeline", "hello"]);
    git.once();
    git.place.run(&["run", "--pipeline", "hello"]).says("\".GIT\"");
}

#[test]
fn a_killed_fetch_leaves_a_mirror_that_heals() {
    let git = Git::new();
    git.write("jupyterflow.yaml", HELLO).write("a.py", "").push();
    git.configure(&format!("{{git: {{url: '{}'}}}}", git.url()), "");
    git.once().expect(0);
    let mirrors = git.place.path(".jupyterflow/git");
    let mirror = std::fs::read_dir(mirrors).unwrap().next().unwrap().unwrap().path();
    let objects = mirror.join("objects.git");
    std::fs::write(objects.join("objects/pack/pack_git2_half"), "half").unwrap();
    std::fs::write(objects.join("shallow.lock"), "").unwrap();
    git.write("a.py", "print(2)").push();
    git.once().expect(0);
    assert_eq!(git.place.runs().len(), 2);
    assert!(!objects.join("objects/pack/pack_git2_half").exists());
    // What cannot be opened any more is made anew.
    std::fs::write(objects.join("HEAD"), "broken").unwrap();
    std::fs::remove_dir_all(objects.join("objects")).unwrap();
    git.write("a.py", "print(3)").push();
    git.once().expect(0);
    assert_eq!(git.place.runs().len(), 3);
}

/// What a pod of a cluster does: any commit of the wanted branch, from servers that give commits by their
/// names and from those that do not.
#[test]
fn a_commit_is_fetched_by_its_name_or_out_of_its_branch() {
    use jupyterflow::source::git::{Address, Reference, RemoteRepository, export, fetch_commit};
    let git = Git::new();
    let commits: Vec<String> =
        (0..4).map(|number| git.write("n", &number.to_string()).push()).collect();
    let repository = RemoteRepository {
        address: Address::parse(&git.url()).unwrap(),
        reference: Reference::Default,
        credentials: None,
        guarded: false,
        require_signed: false,
    };
    let fetched = |commit: &str| {
        let folder = tempfile::tempdir().unwrap();
        let objects = folder.path().join("objects.git");
        let came = fetch_commit(&repository, &objects, commit).unwrap();
        came.then(|| {
            export(&objects, commit, &folder.path().join("tree")).unwrap();
            std::fs::read_to_string(folder.path().join("tree/n")).unwrap()
        })
    };
    for by_name in ["false", "true"] {
        let bare = ["-C", "../served/repos/team.git", "config"];
        git.git(&[&bare[..], &["uploadpack.allowAnySHA1InWant", by_name]].concat());
        for (number, commit) in commits.iter().enumerate() {
            assert_eq!(fetched(commit), Some(number.to_string()), "{by_name} {number}");
        }
    }
    // One that no branch has any more is there for whoever knows its name, where the server gives it so.
    git.inside(&["reset", "-q", "--hard", &commits[1]]);
    git.push();
    assert_eq!(fetched(&commits[3]), Some("3".into()));
    git.git(&[
        "-C",
        "../served/repos/team.git",
        "config",
        "uploadpack.allowAnySHA1InWant",
        "false",
    ]);
    assert_eq!(fetched(&commits[3]), None);
    assert_eq!(fetched(&commits[0]), Some("0".into()));
    git.mode("status 503");
    let folder = tempfile::tempdir().unwrap();
    assert!(fetch_commit(&repository, &folder.path().join("o"), &commits[0]).is_err());
}
