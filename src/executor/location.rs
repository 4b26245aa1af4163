//! Where notebooks and parameter files are read and written: files, standard input and output, URLs
//! of web servers and of object stores.
//!
//! Owns what a name means, and whole writes: a reader sees the last whole version or the next. It
//! must not know notebooks.

#![expect(clippy::disallowed_methods, reason = "reads and writes what the user names")]

use std::fmt;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::save::{is_stream, write_named};

/// A place that can be read, written or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// `-`: standard input or standard output.
    Standard,
    /// A file.
    File(PathBuf),
    /// Anything with a scheme that we know.
    Url(String),
}

impl Location {
    /// What a word on the command line names.
    pub fn parse(word: &str) -> Self {
        match word {
            "-" => Self::Standard,
            word if word.contains("://") => Self::Url(word.to_owned()),
            path => Self::File(path.into()),
        }
    }

    /// The file, where it is one.
    pub fn file(&self) -> Option<&Path> {
        if let Self::File(path) = self { Some(path) } else { None }
    }

    /// Whether it is read and written over a network.
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Url(_))
    }

    /// Whether it can be written only once, at the end: standard output, a device, a pipe.
    pub fn is_stream(&self) -> bool {
        match self {
            Self::Standard => true,
            Self::File(path) => is_stream(path),
            Self::Url(_) => false,
        }
    }

    /// Reads all of it.
    ///
    /// # Errors
    /// Says what failed, with the name of the place and without its secrets.
    pub async fn read(&self) -> Result<Vec<u8>, String> {
        let content = match self {
            Self::Standard => {
                let mut bytes = Vec::new();
                std::io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
            }
            Self::File(path) => std::fs::read(path),
            Self::Url(url) => return super::remote::read(url).await,
        };
        content.map_err(|error| format!("failed to read {self}: {error}"))
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// Says what failed; what stood there stays.
    pub async fn write(&self, content: Vec<u8>) -> Result<(), String> {
        let written = match self {
            Self::Url(url) => return super::remote::write(url, content).await,
            Self::File(path) if !self.is_stream() => write_named(path, &content),
            _ => self.clone().write_slowly(content).await,
        };
        written.map_err(|error| format!("failed to write {self}: {error}"))
    }

    /// Writes into what may wait for its reader. On a thread of its own, so that whoever waits for it
    /// can give up, and this process then end.
    async fn write_slowly(self, content: Vec<u8>) -> std::io::Result<()> {
        let (tell, told) = tokio::sync::oneshot::channel();
        std::thread::Builder::new().name("write".into()).spawn(move || {
            let mut stdout = std::io::stdout();
            let _ = tell.send(match self.file() {
                Some(path) => write_named(path, &content),
                None => stdout.write_all(&content).and_then(|()| stdout.flush()),
            });
        })?;
        told.await.map_err(std::io::Error::other)?
    }
}

impl fmt::Display for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard => formatter.write_str("-"),
            Self::File(path) => path.display().fmt(formatter),
            Self::Url(url) => super::remote::without_secrets(url).fmt(formatter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_a_file_a_url_or_a_pipe() {
        assert_eq!(Location::parse("-"), Location::Standard);
        assert_eq!(Location::parse("./a b.ipynb"), Location::File("./a b.ipynb".into()));
        assert!(Location::parse("s3://bucket/a.ipynb").is_remote());
        assert_eq!(Location::parse("https://u:p@h/a?sig=x").to_string(), "https://h/a");
    }
}
