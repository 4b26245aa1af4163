//! Who signed a commit, where a source wants that somebody whom it knows did.
//!
//! Owns which signatures count: those of SSH keys in `allowed_signers` (the file of git's
//! `gpg.ssh.allowedSignersFile`), and those of PGP keys in `keyring.gpg` (what `gpg --export` prints),
//! which `gpg` judges. Both files are read at each use, and only their owner may write to them. The newest commit vouches for what it shows.

#![expect(clippy::disallowed_methods, reason = "reads keys, and asks gpg")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use git2::{Oid, Repository};
use ssh_key::{PublicKey, SshSig};

use crate::types::Timestamp;

/// What git signs for.
const NAMESPACE: &str = "git";

/// Says that somebody who is known in a folder of keys signed a commit.
///
/// # Errors
/// Nobody did, or nobody can tell.
pub fn verify(repository: &Repository, commit: Oid, keys: &Path) -> Result<(), String> {
    let short = &commit.to_string()[..12];
    let extracted = repository.extract_signature(&commit, None);
    let (signature, signed) = extracted
        .map_err(|_| format!("commit {short} is not signed, and the source requires it"))?;
    let at = repository.find_commit(commit).map_err(|error| error.message().to_owned())?;
    let at = Timestamp::from_second(at.time().seconds()).unwrap_or(Timestamp::MAX);
    let text = signature.as_str().unwrap_or_default();
    let judged = if text.starts_with("-----BEGIN SSH SIGNATURE-----") {
        by_ssh(text, &signed, &keys.join("allowed_signers"), at)
    } else if text.starts_with("-----BEGIN PGP SIGNATURE-----") {
        by_pgp(text, &signed, &keys.join("keyring.gpg"))
    } else {
        Err("its signature is of a kind that is not known here".into())
    };
    judged.map_err(|why| format!("commit {short} is not trusted: {why}"))
}

/// The content of a file of keys, which nobody else may write to.
fn keys_in(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("failed to read {}: {error}", path.display());
    let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o022 != 0 {
        return Err(format!("others may write to {}: chmod go-w it", path.display()));
    }
    std::fs::read(path).map_err(failed)
}

fn by_ssh(text: &str, signed: &[u8], signers: &Path, at: Timestamp) -> Result<(), String> {
    let signature =
        SshSig::from_pem(text).map_err(|error| format!("its signature is broken: {error}"))?;
    let known = String::from_utf8_lossy(&keys_in(signers)?).into_owned();
    let wanted = PublicKey::from(signature.public_key().clone());
    let own = |signer: &Signer| signer.key.key_data() == wanted.key_data();
    let listed: Vec<Signer> = known.lines().filter_map(signer).filter(own).collect();
    let print = wanted.fingerprint(ssh_key::HashAlg::Sha256);
    if listed.is_empty() {
        return Err(format!("the key {print} that signed it is not among allowed_signers"));
    }
    if !listed.iter().any(|signer| signer.may_sign(at)) {
        return Err(format!(
            "the key {print} is among allowed_signers, but not for git's commits of {at:.0}"
        ));
    }
    wanted
        .verify(NAMESPACE, signed, &signature)
        .map_err(|_| "its signature is not that of its content".to_owned())
}

/// A line of `allowed_signers`.
struct Signer {
    key: PublicKey,
    options: Vec<(String, String)>,
}

impl Signer {
    /// Whether it may sign commits at an instant. Certificates are not judged here, so that the key of an
    /// authority signs nothing itself; an option that is not known allows nothing.
    fn may_sign(&self, at: Timestamp) -> bool {
        self.options.iter().all(|(name, value)| match name.as_str() {
            "namespaces" => value.split(',').any(|pattern| {
                let glob = globset::Glob::new(pattern.trim());
                glob.is_ok_and(|glob| glob.compile_matcher().is_match(NAMESPACE))
            }),
            "valid-after" => instant(value).is_some_and(|from| at >= from),
            "valid-before" => instant(value).is_some_and(|until| at < until),
            _ => false,
        })
    }
}

/// Splits a text outside of double quotes.
fn split(text: &str, at: impl Fn(char) -> bool) -> Vec<&str> {
    let mut quoted = false;
    let parts = text.split(|c: char| {
        quoted ^= c == '"';
        !quoted && at(c)
    });
    parts.filter(|part| !part.is_empty()).collect()
}

/// `PRINCIPALS [OPTIONS] TYPE KEY [COMMENT]`; none for comments and for what cannot be read.
fn signer(line: &str) -> Option<Signer> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let words = split(line, char::is_whitespace);
    let is_type = |word: &&str| {
        ["ssh-", "ecdsa-", "sk-"].iter().any(|kind| word.starts_with(kind)) && !word.contains('=')
    };
    let start = words.iter().skip(1).position(is_type)?;
    let (options, key) = words[1..].split_at(start);
    let [kind, data, ..] = key else { return None };
    let options = options.iter().flat_map(|options| split(options, |c| c == ',')).map(|option| {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        (name.to_ascii_lowercase(), value.trim_matches('"').to_owned())
    });
    let key = PublicKey::from_openssh(&format!("{kind} {data}")).ok()?;
    Some(Signer { key, options: options.collect() })
}

/// `YYYYMMDD[HHMM[SS]]`, in UTC with a `Z` behind and also without.
fn instant(text: &str) -> Option<Timestamp> {
    let digits = text.trim_end_matches('Z');
    let full = format!("{digits:0<14}");
    let civil = jiff::civil::DateTime::strptime("%Y%m%d%H%M%S", &full).ok()?;
    Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
}

/// What gpg says of a signature that does not count.
const REFUSED: [&str; 6] = ["BADSIG", "ERRSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG", "NODATA"];

fn by_pgp(text: &str, signed: &[u8], keyring: &Path) -> Result<(), String> {
    if !keyring.is_file() {
        return Err(format!("there is no {} to judge its PGP signature by", keyring.display()));
    }
    let keys = keys_in(keyring)?;
    let failed = |error: std::io::Error| format!("failed to keep its signature: {error}");
    // A home of its own: whom the person at this machine trusts is not the source's business.
    let home = tempfile::tempdir().map_err(failed)?;
    let file = |name: &str, content: &[u8]| {
        let path = home.path().join(name);
        std::fs::write(&path, content).map(|()| path).map_err(failed)
    };
    let keys = file("keys.gpg", &keys)?;
    let (signature, content) = (file("signature", text.as_bytes())?, file("content", signed)?);
    let asked = Command::new("gpg")
        .arg("--homedir")
        .arg(home.path())
        .args(["--batch", "--no-default-keyring", "--trust-model", "always", "--lock-never"])
        .args(["--weak-digest", "SHA1", "--status-fd", "1", "--keyring"])
        .arg(keys)
        .arg("--verify")
        .args([signature, content])
        .stdin(Stdio::null())
        .output();
    let asked = asked.map_err(|error| format!("gpg, which judges PGP signatures: {error}"))?;
    let said = String::from_utf8_lossy(&asked.stdout);
    let words: Vec<&str> =
        said.lines().filter_map(|line| line.strip_prefix("[GNUPG:] ")?.split(' ').next()).collect();
    let count = |word: &str| words.iter().filter(|known| **known == word).count();
    let refused = words.iter().find(|word| REFUSED.contains(word));
    match (asked.status.success(), count("GOODSIG"), count("VALIDSIG"), refused) {
        (true, 1, 1, None) => Ok(()),
        (_, _, _, Some(&"REVKEYSIG")) => Err("the PGP key that signed it was revoked".into()),
        (_, _, _, Some(&("EXPKEYSIG" | "EXPSIG"))) => {
            Err("its PGP signature, or the key of it, has expired".into())
        }
        _ => {
            let words = String::from_utf8_lossy(&asked.stderr);
            let why = words.lines().last().unwrap_or("gpg refused it");
            Err(format!("its PGP signature: {}", why.trim_start_matches("gpg: ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    #[test]
    fn lines_of_allowed_signers() {
        let at = "2026-11-25T12:00:00Z".parse().unwrap();
        let knows = |line: &str| signer(line).is_some_and(|signer| signer.may_sign(at));
        assert!(knows(&format!("ada@example.org {KEY} a comment")));
        assert!(knows(&format!("*@example.org namespaces=\"git\" {KEY}")));
        assert!(knows(&format!("a valid-after=\"20260101\",valid-before=\"20270101Z\" {KEY}")));
        assert!(!knows(&format!("a valid-before=\"202611251159\" {KEY}")));
        assert!(!knows(&format!("a valid-after=\"20261125120001Z\" {KEY}")));
        assert!(!knows(&format!("a namespaces=\"file\" {KEY}")));
        assert!(knows(&format!("a namespaces=\"file,git\",valid-after=\"20260101\" {KEY}")));
        assert!(knows(&format!("a namespaces=\"g*\" {KEY}")) && knows(&format!("\"a b\" {KEY}")));
        assert!(!knows(&format!("a no-touch-required {KEY}")), "what is not known allows nothing");
        assert!(!knows(&format!("a cert-authority {KEY}")), "certificates are not judged");
        assert!(!knows(&format!("# {KEY}")) && !knows("") && !knows("a ssh-ed25519 broken"));
    }
}
