//! Where a repository lies, and which of its branches are meant.
//!
//! Owns telling paths from URLs, what may not stand in either, and what of an address may be shown.

use std::fmt;
use std::path::PathBuf;

use globset::Glob;
use url::Url;

/// Where a repository lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// On this machine; it is read in place.
    Path(PathBuf),
    /// On a server.
    Url {
        /// The address, without a password.
        url: String,
        /// The server.
        host: String,
        /// Its port.
        port: u16,
    },
}

/// A text that is no address of a repository.
#[derive(Debug, thiserror::Error)]
#[error("{shown:?} is no address of a repository: {why}")]
pub struct InvalidAddress {
    shown: String,
    why: &'static str,
}

impl Address {
    /// Reads a path, a `https`, `http` or `ssh` URL, or `user@host:path`.
    ///
    /// # Errors
    /// It is another kind of URL, or carries a password.
    pub fn parse(text: &str) -> Result<Self, InvalidAddress> {
        let invalid = |why| InvalidAddress {
            shown: text
                .split(['?', '#'])
                .next()
                .unwrap_or_default()
                .rsplit('@')
                .next()
                .unwrap_or_default()
                .to_owned(),
            why,
        };
        if text.is_empty() || text.starts_with('-') || text.contains(char::is_control) {
            return Err(invalid("it is empty, begins with `-` or holds control characters"));
        }
        if let Some(path) = text.strip_prefix("file://") {
            return Ok(Self::Path(path.into()));
        }
        if text.contains("://") {
            let url = Url::parse(text).map_err(|_| invalid("it is no URL"))?;
            let port = match url.scheme() {
                "https" => 443,
                "http" => 80,
                "ssh" | "git+ssh" => 22,
                _ => return Err(invalid("only https, http, ssh and file are known")),
            };
            if url.password().is_some() || (url.scheme() != "ssh" && !url.username().is_empty()) {
                return Err(invalid("credentials belong into a secret, not into the address"));
            }
            if url.query().is_some() || url.fragment().is_some() {
                return Err(invalid("it has a query or a fragment"));
            }
            let host = url.host_str().filter(|host| !host.is_empty() && !host.starts_with('-'));
            let host = host.ok_or_else(|| invalid("it names no host"))?.to_owned();
            return Ok(Self::Url { url: text.into(), host, port: url.port().unwrap_or(port) });
        }
        // As git has it: what has a colon before its first slash is no path.
        if let Some((place, path)) = text.split_once(':').filter(|(place, _)| !place.contains('/'))
        {
            let host = place.rsplit('@').next().unwrap_or_default();
            if host.is_empty() || host.starts_with('-') || path.is_empty() || path.starts_with(':')
            {
                return Err(invalid("it is neither a path nor user@host:path"));
            }
            return Ok(Self::Url { url: text.into(), host: host.into(), port: 22 });
        }
        Ok(Self::Path(text.into()))
    }

    /// The server.
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Path(_) => None,
            Self::Url { host, .. } => Some(host),
        }
    }

    /// A name for what it holds: its last part.
    pub fn name(&self) -> String {
        let text = self.to_string();
        let last = text.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default();
        last.trim_end_matches(".git").to_owned()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(formatter),
            Self::Url { url, .. } => formatter.write_str(url),
        }
    }
}

/// Which branches or tags are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// The branch that the repository itself puts first.
    Default,
    /// A branch.
    Branch(String),
    /// A tag.
    Tag(String),
    /// All branches whose names match; each is a source of its own.
    Pattern(Glob),
}

impl Reference {
    /// Whether a full name such as `refs/heads/main` is meant; `head` is what HEAD names.
    pub fn wants(&self, name: &str, head: Option<&str>) -> bool {
        let is = |prefix: &str, own: &str| name.strip_prefix(prefix) == Some(own);
        match self {
            Self::Default => head == Some(name) && name.starts_with("refs/heads/"),
            Self::Branch(branch) => is("refs/heads/", branch),
            Self::Tag(tag) => is("refs/tags/", tag),
            Self::Pattern(glob) => name
                .strip_prefix("refs/heads/")
                .is_some_and(|branch| glob.compile_matcher().is_match(branch)),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default branch"),
            Self::Branch(branch) => write!(formatter, "branch `{branch}`"),
            Self::Tag(tag) => write!(formatter, "tag `{tag}`"),
            Self::Pattern(glob) => write!(formatter, "branch like `{}`", glob.glob()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_paths_and_urls_without_secrets() {
        let host = |text: &str| match Address::parse(text).unwrap() {
            Address::Path(path) => path.display().to_string(),
            Address::Url { host, port, .. } => format!("{host} {port}"),
        };
        for (text, read) in [
            ("https://git.example/a/b.git", "git.example 443"),
            ("http://localhost:3000/a", "localhost 3000"),
            ("ssh://git@git.example:2222/a", "git.example 2222"),
            ("git@git.example:a/b.git", "git.example 22"),
            ("/srv/a:b", "/srv/a:b"),
            ("./a", "./a"),
            ("file:///srv/a", "/srv/a"),
        ] {
            assert_eq!(host(text), read);
        }
        for text in [
            "https://me:hunter2@git.example/a",
            "https://hunter2@git.example/a",
            "ext::sh -c x",
            "--upload-pack=x",
            "ssh://-oProxyCommand=x/a",
            "-x:y",
            "https://git.example/a?token=hunter2",
            "git://git.example/a",
            "",
        ] {
            let error = Address::parse(text).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert_eq!(Address::parse("git@h:a/b.git").unwrap().name(), "b");
    }

    #[test]
    fn references_are_whole_names() {
        let pattern = Reference::Pattern(Glob::new("release-*").unwrap());
        for (reference, name, wanted) in [
            (Reference::Default, "refs/heads/main", true),
            (Reference::Default, "refs/heads/other", false),
            (Reference::Branch("main".into()), "refs/heads/main", true),
            (Reference::Branch("main".into()), "refs/tags/main", false),
            (Reference::Tag("v1".into()), "refs/tags/v1", true),
            (pattern.clone(), "refs/heads/release-1", true),
            (pattern, "refs/heads/main", false),
        ] {
            assert_eq!(
                reference.wants(name, Some("refs/heads/main")),
                wanted,
                "{reference} {name}"
            );
        }
    }
}
