//! Who may call a webhook: whoever signs its body with the repository's secret.
//!
//! Owns the signatures of GitHub, GitLab, Gitea and Forgejo, and that of anything else that signs as
//! GitHub does. All comparisons take the same time whatever they find.

#![expect(clippy::disallowed_methods, reason = "reads the secret at each use")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use axum::http::HeaderMap;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::types::Digest;

/// The webhook of one repository.
#[derive(Clone, Debug)]
pub struct Hook {
    /// Its source.
    pub source: String,
    /// The file that holds the secret.
    pub secret: PathBuf,
    /// What stands in its path.
    pub id: String,
}

/// The part of a path that nobody guesses who does not know the secret.
pub fn id(source: &str, secret: &[u8]) -> String {
    let digest =
        Digest::of_bytes(&[secret, b"\njupyterflow/hook/v1\n", source.as_bytes()].concat());
    digest.hex()[..32].to_owned()
}

/// The secret in a file, without the line end that editors leave; none where others may read it.
fn read(path: &std::path::Path) -> Option<Vec<u8>> {
    let open = std::fs::metadata(path).ok()?.permissions().mode() & 0o077 != 0;
    if open {
        return None;
    }
    let text = std::fs::read(path).ok()?;
    let end = text.iter().rposition(|byte| *byte != b'\n').map_or(0, |at| at + 1);
    Some(text[..end].to_vec()).filter(|secret| !secret.is_empty())
}

impl Hook {
    /// The hook of a source; none where its secret cannot be read.
    pub fn new(source: &str, secret: PathBuf) -> Option<Self> {
        let id = id(source, &read(&secret)?);
        Some(Self { source: source.to_owned(), secret, id })
    }

    /// Whether a path is its own.
    pub fn has_id(&self, id: &str) -> bool {
        same(id.as_bytes(), self.id.as_bytes())
    }

    /// Whether a request knows the secret. All signatures that it carries must be right, and one at
    /// least.
    pub fn is_signed(&self, headers: &HeaderMap, body: &[u8]) -> bool {
        let Some(secret) = read(&self.secret) else { return false };
        let text = |name: &str| headers.get(name).map(axum::http::HeaderValue::as_bytes);
        let hex = |value: &[u8]| {
            let value = std::str::from_utf8(value).ok()?;
            let value = value.strip_prefix("sha256=").unwrap_or(value);
            let pairs = value
                .as_bytes()
                .chunks(2)
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
            pairs.collect::<Option<Vec<u8>>>()
        };
        let signed = |value: &[u8]| {
            let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&secret) else { return false };
            mac.update(body);
            hex(value).is_some_and(|value| mac.verify_slice(&value).is_ok())
        };
        let names = ["x-hub-signature-256", "x-gitea-signature", "x-forgejo-signature"];
        let signatures: Vec<bool> = names.into_iter().filter_map(text).map(signed).collect();
        let token = text("x-gitlab-token").map(|token| same(token, &secret));
        let all: Vec<bool> = signatures.into_iter().chain(token).collect();
        !all.is_empty() && all.iter().all(|right| *right)
    }
}

/// Whether two texts are the same, in a time that tells nothing.
fn same(a: &[u8], b: &[u8]) -> bool {
    let digest = |text: &[u8]| {
        let mut mac = Hmac::<Sha256>::new_from_slice(b"jupyterflow").ok()?;
        mac.update(text);
        Some(mac.finalize())
    };
    // The comparison of two codes takes the same time whatever they are.
    digest(a) == digest(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_knows_the_secret_is_heard() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "It's a Secret to Everybody\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Hook::new("team", path.clone()).is_none(), "others may read it");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let hook = Hook::new("team", path.clone()).unwrap();
        assert!(hook.has_id(&hook.id) && !hook.has_id("") && hook.id.len() == 32);
        // The example of GitHub's documentation.
        let right = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let prefixed = format!("sha256={right}");
        let wrong = right.replace('7', "8");
        for (headers, heard) in [
            (vec![("x-hub-signature-256", prefixed.as_str())], true),
            (vec![("x-gitea-signature", right)], true),
            (vec![("x-forgejo-signature", right), ("x-gitea-signature", right)], true),
            (vec![("x-gitlab-token", "It's a Secret to Everybody")], true),
            (vec![], false),
            (vec![("x-hub-signature-256", wrong.as_str())], false),
            (vec![("x-hub-signature-256", prefixed.as_str()), ("x-gitea-signature", "")], false),
            (vec![("x-gitea-signature", "")], false),
            (vec![("x-gitlab-token", "")], false),
            (vec![("x-gitlab-token", "It's a Secret")], false),
            (vec![("x-hub-signature", "sha1=1")], false),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in &headers {
                map.insert(*name, value.parse().unwrap());
            }
            assert_eq!(hook.is_signed(&map, b"Hello, World!"), heard, "{headers:?}");
        }
        std::fs::write(&path, "\n").unwrap();
        let mut map = HeaderMap::new();
        map.insert("x-gitlab-token", "".parse().unwrap());
        assert!(!hook.is_signed(&map, b""), "an empty secret is none");
    }
}
