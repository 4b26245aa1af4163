//! Paths of a pipeline file: relative to it, and never out of its source.
//!
//! Owns the textual rule. Symbolic links are the source's to judge, which has files to look at.

use std::fmt;

use serde::Serialize;

/// A relative path, `/` between parts, without `.` and without a `..` that leaves the source.
/// The empty path is the folder itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct RelativePath(String);

impl RelativePath {
    /// Resolves a path as written in a file of `folder`, which is itself relative to the source's
    /// root. The result is relative to the root.
    ///
    /// # Errors
    /// Says why the path cannot be used.
    pub fn resolve(folder: &str, written: &str) -> Result<Self, String> {
        if written.is_empty() {
            return Err("the path is empty".into());
        }
        if written.starts_with('/') || written.starts_with('~') {
            return Err(format!("{written:?} is not relative to the pipeline file"));
        }
        if written.contains('\0') || written.contains('\\') {
            return Err(format!("{written:?} holds a character that paths may not"));
        }
        let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
        for part in written.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop().ok_or_else(|| format!("{written:?} leaves the source"))?;
                }
                part => parts.push(part),
            }
        }
        Ok(Self(parts.join("/")))
    }

    /// The path as text, relative to the source's root.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folder that the path lies in; empty at the root.
    pub fn parent(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    /// The last part without its ending.
    pub fn stem(&self) -> &str {
        let name = self.0.rsplit('/').next().unwrap_or_default();
        name.rsplit_once('.').map_or(name, |(stem, _)| stem)
    }
}

impl fmt::Display for RelativePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        let resolve = |folder: &str, path: &str| RelativePath::resolve(folder, path);
        assert_eq!(resolve("a/b", "x.ipynb").unwrap().as_str(), "a/b/x.ipynb");
        assert_eq!(resolve("a/b", "../c/./x y.py").unwrap().as_str(), "a/c/x y.py");
        assert_eq!(resolve("", ".").unwrap().as_str(), "");
        for path in ["../x", "/etc/passwd", "~/x", "", "a\\b", "a/../../x"] {
            assert!(resolve("", path).is_err(), "{path}");
        }
    }
}
