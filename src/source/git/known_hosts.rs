//! Host keys of SSH servers, against files of OpenSSH's `known_hosts` format.
//!
//! Owns that check; there is no way round it. The format is that of
//! `sshd(8)`; certificates of host authorities are not known here.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

/// What a file says of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The host has this key.
    Known,
    /// The host has other keys, or this one is revoked.
    Other,
    /// Nothing is known of the host.
    Unknown,
}

/// Looks a host's key up, as the server sent it.
pub fn judge(file: &str, host: &str, port: u16, key: &[u8]) -> Verdict {
    let name = if port == 22 {
        host.to_ascii_lowercase()
    } else {
        format!("[{host}]:{port}").to_lowercase()
    };
    let mut verdict = Verdict::Unknown;
    for line in file.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace().peekable();
        let marker = words.next_if(|word| word.starts_with('@'));
        let (Some(hosts), Some(_kind), Some(text)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        if !has_host(hosts, &name) {
            continue;
        }
        let same = BASE64_STANDARD.decode(text).is_ok_and(|known| known == key);
        match (marker, same) {
            (Some("@revoked"), true) => return Verdict::Other,
            (None, true) => verdict = Verdict::Known,
            (None, false) if verdict == Verdict::Unknown => verdict = Verdict::Other,
            _ => {}
        }
    }
    verdict
}

fn has_host(patterns: &str, name: &str) -> bool {
    if let Some(hashed) = patterns.strip_prefix("|1|") {
        return hashed.split_once('|').is_some_and(|(salt, hash)| {
            let (Ok(salt), Ok(hash)) = (BASE64_STANDARD.decode(salt), BASE64_STANDARD.decode(hash))
            else {
                return false;
            };
            let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(&salt) else { return false };
            mac.update(name.as_bytes());
            mac.verify_slice(&hash).is_ok()
        });
    }
    let mut found = false;
    for pattern in patterns.split(',') {
        let (negated, pattern) = match pattern.strip_prefix('!') {
            Some(pattern) => (true, pattern),
            None => (false, pattern),
        };
        if matches(&pattern.to_lowercase(), name) {
            if negated {
                return false;
            }
            found = true;
        }
    }
    found
}

/// `*` for any characters, `?` for one.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.chars().next() {
        None => name.is_empty(),
        Some('*') => {
            let rest = &pattern[1..];
            name.char_indices()
                .map(|(at, _)| at)
                .chain([name.len()])
                .any(|at| matches(rest, &name[at..]))
        }
        Some(first) => {
            let Some(character) = name.chars().next() else { return false };
            (first == '?' || first == character)
                && matches(&pattern[first.len_utf8()..], &name[character.len_utf8()..])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_file_and_no_others() {
        let (key, other) = (BASE64_STANDARD.encode(b"key"), BASE64_STANDARD.encode(b"other"));
        // `ssh-keygen -H` over `git.example`, with this salt.
        let salt = BASE64_STANDARD.encode(b"01234567890123456789");
        let mut mac = Hmac::<Sha1>::new_from_slice(b"01234567890123456789").unwrap();
        mac.update(b"git.example");
        let hash = BASE64_STANDARD.encode(mac.finalize().into_bytes());
        for (line, host, port, verdict) in [
            (format!("git.example ssh-ed25519 {key} comment"), "Git.Example", 22, Verdict::Known),
            (format!("a,git.example ssh-rsa {other}"), "git.example", 22, Verdict::Other),
            (format!("[git.example]:2222 ssh-rsa {key}"), "git.example", 2222, Verdict::Known),
            (format!("git.example ssh-rsa {key}"), "git.example", 2222, Verdict::Unknown),
            (format!("*.example,!git.example ssh-rsa {key}"), "git.example", 22, Verdict::Unknown),
            (format!("g?t.* ssh-rsa {key}"), "git.example", 22, Verdict::Known),
            (format!("@revoked git.example ssh-rsa {key}"), "git.example", 22, Verdict::Other),
            (format!("@cert-authority * ssh-rsa {key}"), "git.example", 22, Verdict::Unknown),
            (format!("# git.example ssh-rsa {key}"), "git.example", 22, Verdict::Unknown),
            (format!("|1|{salt}|{hash} ssh-rsa {key}"), "git.example", 22, Verdict::Known),
            (format!("|1|{salt}|{hash} ssh-rsa {key}"), "other.example", 22, Verdict::Unknown),
            (
                format!("git.example ssh-rsa {other}\ngit.example ssh-ed25519 {key}"),
                "git.example",
                22,
                Verdict::Known,
            ),
        ] {
            assert_eq!(judge(&line, host, port, b"key"), verdict, "{line}");
        }
    }
}
