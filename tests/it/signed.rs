//! Sources whose commits must be signed: by SSH keys of all kinds and by PGP, as git signs.

use crate::git::{HELLO, secret};
use crate::repository::Git;

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
        let spec = "git: {url: '@', requireSigned: true, credentials: {secret: team}}, poll: 1s";
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
        let made = command.args(["-q", "-t", kind, "-N", "", "-C", "a b", "-f", &path]).status();
        assert!(made.unwrap().success());
        let public = std::fs::read_to_string(format!("{path}.pub")).unwrap();
        (format!("user.signingkey={path}"), public)
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
    for kind in ["ed25519", "ecdsa", "rsa"] {
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
    let gpg = |args: &[&str]| {
        let output =
            signed.git.place.command("gpg").args(["--batch", "--quiet"]).args(args).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    gpg(&[
        "--passphrase",
        "",
        "--quick-generate-key",
        "ada <ada@example.org>",
        "default",
        "sign",
        "never",
    ]);
    let keyring = gpg(&["--export", "ada@example.org"]);
    signed.push(&["user.signingkey=ada@example.org"]);
    signed.refused("keyring.gpg to judge its PGP signature by");
    let path = signed.git.place.beside("secrets/team/keyring.gpg");
    std::fs::write(&path, b"").unwrap();
    signed.refused("its PGP signature");
    std::fs::write(&path, keyring).unwrap();
    signed.shows(1);
    let _ = signed.git.place.command("gpgconf").args(["--kill", "all"]).status();
}

#[test]
fn keys_are_wanted_where_signatures_are() {
    let git = Git::new();
    git.configure("{git: {url: 'https://example.org/a.git', requireSigned: true}}", "");
    git.once().expect(2).says("needs `credentials` whose secret holds `allowed_signers`");
}
