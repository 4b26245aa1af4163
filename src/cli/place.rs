//! Where a command works: the root of the source, the state, and the folder that was named.
//!
//! Owns the walk upwards to `.jupyterflow/`, as git walks to `.git`.

use std::path::{Path, PathBuf};

use super::error::CliError;
use crate::store::SqliteStore;

/// The folder of the state, inside the root that it serves.
pub const STATE: &str = ".jupyterflow";

/// Where a command works.
#[derive(Clone, Debug)]
pub struct Place {
    /// The source's root.
    pub root: PathBuf,
    /// The state's folder, there or not.
    pub state: PathBuf,
    /// The named folder, relative to the root; empty at the root.
    pub below: String,
}

impl Place {
    /// The place of a path. A state above it serves it; without one, its own folder is the root.
    ///
    /// # Errors
    /// The path is not there, or the named state serves another root.
    pub fn find(path: &Path, state: Option<&Path>) -> Result<Self, CliError> {
        let real = path.canonicalize().map_err(|error| {
            CliError::usage(format!("failed to find {}: {error}", path.display()))
        })?;
        let folder = if real.is_dir() { real } else { parent(&real) };
        let (root, state) = if let Some(state) = state {
            Self::of_state(&folder, state)?
        } else {
            let above = folder.ancestors().find(|folder| folder.join(STATE).is_dir());
            let root = above.unwrap_or(&folder).to_owned();
            (root.clone(), root.join(STATE))
        };
        let below = folder.strip_prefix(&root).unwrap_or(Path::new(""));
        Ok(Self { below: below.to_string_lossy().into_owned(), root, state })
    }

    /// The place of a root, whatever is above it.
    ///
    /// # Errors
    /// The named state serves another root.
    pub fn of_root(root: &Path, state: Option<&Path>) -> Result<Self, CliError> {
        let (root, state) = match state {
            Some(state) => Self::of_state(root, state)?,
            None => (root.to_owned(), root.join(STATE)),
        };
        Ok(Self { root, state, below: String::new() })
    }

    fn of_state(folder: &Path, state: &Path) -> Result<(PathBuf, PathBuf), CliError> {
        let state = std::path::absolute(state).map_err(|error| CliError::bug(&error))?;
        let known = SqliteStore::open_to_read(&state)?.and_then(|store| store.root());
        match known {
            Some(root) if folder.starts_with(&root) => Ok((root, state)),
            Some(root) => {
                let (state, root) = (state.display(), root.display());
                Err(CliError::usage(format!(
                    "the state in {state} belongs to {root}, not to {}",
                    folder.display()
                ))
                .hint("name a path below that root, or another --state"))
            }
            None => Ok((folder.to_owned(), state)),
        }
    }

    /// A path of this place as a person writes it: relative to where the command was typed.
    pub fn shown(&self, relative: &str) -> String {
        let full = self.root.join(relative);
        let here = std::env::current_dir().and_then(|here| here.canonicalize()).unwrap_or_default();
        match full.strip_prefix(&here) {
            Ok(inside) if inside.as_os_str().is_empty() => ".".into(),
            Ok(inside) => inside.display().to_string(),
            Err(_) => full.display().to_string(),
        }
    }

    /// A path, relative to the root.
    ///
    /// # Errors
    /// It lies elsewhere.
    pub fn relative(&self, path: &Path) -> Result<String, CliError> {
        let real = path.canonicalize().map_err(|error| {
            CliError::usage(format!("failed to find {}: {error}", path.display()))
        })?;
        let inside = real.strip_prefix(&self.root).map_err(|_| {
            let (path, root) = (real.display(), self.root.display());
            CliError::usage(format!("{path} lies outside of {root}"))
        })?;
        Ok(inside.to_string_lossy().into_owned())
    }
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
}
