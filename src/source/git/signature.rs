//! Who signed a commit, where a source wants that somebody whom it knows did.
//!
//! Owns which signatures count: those of SSH keys in `allowed_signers` (the file of git's
//! `gpg.ssh.allowedSignersFile`), and those of PGP keys in `keyring.gpg` (what `gpg --export` prints),
//! which `gpgv` judges. Both files are read at each use. The newest commit vouches for what it shows.

#![expect(clippy::disallowed_methods, reason = "reads keys, and asks gpgv")]

use std::io::Write;
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

fn by_ssh(text: &str, signed: &[u8], signers: &Path, at: Timestamp) -> Result<(), String> {
    let signature =
        SshSig::from_pem(text).map_err(|error| format!("its signature is broken: {error}"))?;
    let known = std::fs::read_to_string(signers)
        .map_err(|error| format!("failed to read {}: {error}", signers.display()))?;
    let wanted = PublicKey::from(signature.public_key().clone());
    let listed = known.lines().filter_map(|line| signer(line, at));
    let known = listed.into_iter().any(|key| key.key_data() == wanted.key_data());
    if !known {
        let print = wanted.fingerprint(ssh_key::HashAlg::Sha256);
        return Err(format!("the key {print} that signed it is not among allowed_signers"));
    }
    wanted
        .verify(NAMESPACE, signed, &signature)
        .map_err(|_| "its signature is not that of its content".to_owned())
}

/// The key of a line of `allowed_signers` that may sign commits at an instant; none for comments, for
/// authorities, whose certificates are not judged here, and for what cannot be read.
fn signer(line: &str, at: Timestamp) -> Option<PublicKey> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    // PRINCIPALS [OPTIONS] TYPE KEY [COMMENT]; quoted options may hold blanks.
    let mut words = Vec::new();
    let mut quoted = false;
    for part in line.split(|c: char| {
        quoted ^= c == '"';
        c.is_whitespace() && !quoted
    }) {
        if !part.is_empty() {
            words.push(part);
        }
    }
    let start =
        words.iter().skip(1).position(|word| word.contains("ssh-") || word.contains("ecdsa-"))?;
    let (options, key) = words[1..].split_at(start);
    let fits = options.iter().flat_map(|options| options.split(',')).all(|option| {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let value = value.trim_matches('"');
        match name.to_ascii_lowercase().as_str() {
            "namespaces" => value == NAMESPACE,
            "valid-after" => instant(value).is_some_and(|from| at >= from),
            "valid-before" => instant(value).is_some_and(|until| at < until),
            _ => false,
        }
    });
    let [kind, data, ..] = key else { return None };
    if !fits {
        return None;
    }
    PublicKey::from_openssh(&format!("{kind} {data}")).ok()
}

/// `YYYYMMDD[HHMM[SS]]`, in UTC with a `Z` behind and also without.
fn instant(text: &str) -> Option<Timestamp> {
    let digits = text.trim_end_matches('Z');
    let full = format!("{digits:0<14}");
    let civil = jiff::civil::DateTime::strptime("%Y%m%d%H%M%S", &full).ok()?;
    Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
}

fn by_pgp(text: &str, signed: &[u8], keyring: &Path) -> Result<(), String> {
    if !keyring.is_file() {
        return Err(format!("there is no {} to judge its PGP signature by", keyring.display()));
    }
    let file = |content: &[u8]| -> std::io::Result<tempfile::NamedTempFile> {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(content)?;
        Ok(file)
    };
    let failed = |error: std::io::Error| format!("failed to keep its signature: {error}");
    let (signature, content) =
        (file(text.as_bytes()).map_err(failed)?, file(signed).map_err(failed)?);
    let asked = Command::new("gpgv")
        .arg("--keyring")
        .arg(keyring)
        .args([signature.path(), content.path()])
        .stdin(Stdio::null())
        .output();
    let asked = asked.map_err(|error| format!("gpgv, which judges PGP signatures: {error}"))?;
    if asked.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&asked.stderr);
    let why = words.lines().last().unwrap_or("gpgv refused it").trim_start_matches("gpgv: ");
    Err(format!("its PGP signature: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    #[test]
    fn lines_of_allowed_signers() {
        let at = "2026-11-25T12:00:00Z".parse().unwrap();
        let knows = |line: &str| signer(line, at).is_some();
        assert!(knows(&format!("ada@example.org {KEY} a comment")));
        assert!(knows(&format!("*@example.org namespaces=\"git\" {KEY}")));
        assert!(knows(&format!("a valid-after=\"20260101\",valid-before=\"20270101Z\" {KEY}")));
        assert!(!knows(&format!("a valid-before=\"202611251159\" {KEY}")));
        assert!(!knows(&format!("a valid-after=\"20261125120001Z\" {KEY}")));
        assert!(!knows(&format!("a namespaces=\"file\" {KEY}")));
        assert!(!knows(&format!("a cert-authority {KEY}")), "certificates are not judged");
        assert!(!knows(&format!("# {KEY}")) && !knows("") && !knows("a ssh-ed25519 broken"));
    }
}
