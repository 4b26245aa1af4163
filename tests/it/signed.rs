//! Sources whose commits must be signed: by SSH keys of all kinds and by PGP, as git signs.

use crate::git::{HELLO, secret};
use crate::repository::Git;
use crate::support::wait_for;

struct Signed {
    git: Git,
    version: u32,
}

impl Signed {
    fn new() -> Self {
        let mut git = Git::new();
        let secrets = git.place.beside("secrets");
        git.place.env("JUPYTERFLOW_SECRETS", &secrets);
        git.place.env("GNUPGHOME", git.place.beside("gnupg"));
        std::fs::create_dir_all(git.place.beside("gnupg")).unwrap();
        std::fs::create_dir_all(git.place.beside("secrets/team")).unwrap();
        let spec = "git: {url: '@', branches: 'ma*', requireSigned: true, credentials: {secret: team}}, poll: 1s";
        git.configure(&format!("{{{}}}", spec.replace('@', &git.url())), "");
        git.write("jupyterflow.yaml", HELLO);
        Self { git, version: 0 }
    }

    /// Pushes a commit, signed as the options have it.
    fn push(&mut self, options: &[&str]) {
        self.version += 1;
        self.git.write("a.py", &format!("print({})", self.version));
        self.git.inside(&["add", "-A"]);
        let mut all: Vec<&str> = options.iter().flat_map(|option| ["-c", option]).collect();
        all.extend(["commit", "-q", "-m", "x"]);
        all.extend((!options.is_empty()).then_some("-S"));
        self.git.inside(&all);
        self.git.inside(&["push", "-q", "origin", "HEAD"]);
    }

    fn key(&self, kind: &str) -> (String, String) {
        let path = self.git.place.beside(kind).display().to_string();
        let mut command = self.git.place.command("ssh-keygen");
        let (kind, bits) = kind.split_once('-').unwrap_or((kind, ""));
        command.args(["-q", "-t", kind, "-N", "", "-C", "a b", "-f", &path]);
        command.args((!bits.is_empty()).then_some(["-b", bits]).into_iter().flatten());
        let made = command.status();
        assert!(made.unwrap().success());
        let public = std::fs::read_to_string(format!("{path}.pub")).unwrap();
        (format!("user.signingkey={path}"), public)
    }

    fn gpg(&self, args: &[&str]) -> Vec<u8> {
        let mut command = self.git.place.command("gpg");
        let output = command.args(["--batch", "--quiet"]).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    #[track_caller]
    fn shows(&self, version: u32) {
        self.git.once().expect(0);
        assert_eq!(self.git.log_of(&self.git.newest(), "a"), format!("{version}\n"));
    }

    #[track_caller]
    fn refused(&self, words: &str) {
        let runs = self.git.place.runs().len();
        self.git.once().expect(4).says(words);
        assert_eq!(self.git.place.runs().len(), runs, "what stood before stays in force");
    }
}

#[test]
fn only_commits_of_known_ssh_keys_count() {
    let mut signed = Signed::new();
    let signers = signed.git.place.beside("secrets/team/allowed_signers");
    signed.push(&[]);
    signed.refused("is not signed, and the source requires it");
    for kind in ["ed25519", "ecdsa-256", "ecdsa-384", "ecdsa-521", "rsa"] {
        let (key, public) = signed.key(kind);
        secret(signers.clone(), "# nobody\n");
        signed.push(&["gpg.format=ssh", &key]);
        signed.refused("is not among allowed_signers");
        secret(signers.clone(), &format!("ada@example.org namespaces=\"git\" {public}"));
        signed.shows(signed.version);
    }
    // A commit that says of itself what another's signature says.
    let raw = signed.git.inside(&["cat-file", "commit", "HEAD"]).replace("\n\nx", "\n\ny");
    let forged = signed.git.place.beside("forged");
    std::fs::write(&forged, raw + "\n").unwrap();
    let forged = forged.display().to_string();
    let commit = signed.git.inside(&["hash-object", "-t", "commit", "-w", &forged]);
    signed.git.inside(&["push", "-q", "-f", "origin", &format!("{commit}:main")]);
    signed.refused("its signature is not that of its content");
}

#[test]
fn only_commits_of_known_pgp_keys_count() {
    let mut signed = Signed::new();
    signed.gpg(&[
        "--passphrase",
        "",
        "--quick-generate-key",
        "ada <ada@example.org>",
        "default",
        "sign",
        "never",
    ]);
    let keyring = signed.gpg(&["--export", "ada@example.org"]);
    signed.push(&["user.signingkey=ada@example.org"]);
    signed.refused("keyring.gpg to judge its PGP signature by");
    let path = signed.git.place.beside("secrets/team/keyring.gpg");
    std::fs::write(&path, b"").unwrap();
    signed.refused("its PGP signature");
    std::fs::write(&path, keyring).unwrap();
    signed.shows(1);
    // Whoever can write the file decides who may sign.
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    signed.push(&["user.signingkey=ada@example.org"]);
    signed.refused("others may write to");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    // A key that was stolen is revoked, and what it signs no longer counts.
    let certificates =
        std::fs::read_dir(signed.git.place.beside("gnupg/openpgp-revocs.d")).unwrap();
    let certificate =
        certificates.map(|entry| entry.unwrap().path()).find(|path| path.extension().is_some());
    let text =
        std::fs::read_to_string(certificate.unwrap()).unwrap().replace(":-----BEGIN", "-----BEGIN");
    let revoked = signed.git.place.beside("revoked");
    std::fs::write(&revoked, text).unwrap();
    signed.gpg(&["--import", revoked.to_str().unwrap()]);
    std::fs::write(&path, signed.gpg(&["--export", "ada@example.org"])).unwrap();
    signed.refused("was revoked");
    let _ = signed.git.place.command("gpgconf").args(["--kill", "all"]).status();
}

/// A branch whose commit nobody vouches for shows what it did; the others go on at once.
#[test]
fn a_branch_that_is_refused_holds_up_no_other() {
    let mut signed = Signed::new();
    let (key, public) = signed.key("ed25519");
    let signers = signed.git.place.beside("secrets/team/allowed_signers");
    secret(signers, &format!("ada@example.org {public}"));
    let own = ["gpg.format=ssh", key.as_str()];
    signed.push(&own);
    signed.git.inside(&["push", "-q", "origin", "HEAD:refs/heads/maybe"]);
    let up = signed.git.place.spawn(&["up", "--config", "sources.yaml"]);
    let good = |source: &str, git: &Git| {
        let runs = git.place.runs();
        runs.iter().filter(|run| run["source"] == source && run["phase"] == "Succeeded").count()
    };
    let git = &signed.git;
    wait_for("a run of each", || good("team@main", git) == 1 && good("team@maybe", git) == 1);
    git.inside(&["commit", "-q", "--allow-empty", "-m", "x"]);
    git.inside(&["push", "-q", "origin", "HEAD:refs/heads/maybe"]);
    wait_for("the refusal", || up.log().contains("source team@maybe: commit"));
    git.inside(&["reset", "-q", "--hard", "HEAD~"]);
    signed.push(&own);
    let git = &signed.git;
    wait_for("the other branch", || good("team@main", git) == 2);
    assert_eq!(good("team@maybe", git), 1);
    assert!(!up.log().contains("source team@main: commit"), "{}", up.log());
}

#[test]
fn keys_are_wanted_where_signatures_are() {
    let git = Git::new();
    git.configure("{git: {url: 'https://example.org/a.git', requireSigned: true}}", "");
    git.once().expect(2).says("needs `credentials` whose secret holds `allowed_signers`");
}
