//! A fresh folder with the files of a commit, for a step to work in.
//!
//! Owns that nothing of a hostile commit leaves that folder: names are checked one by one, nothing that
//! stands there is written over, no filter, hook or attribute is read.

#![expect(clippy::disallowed_methods, reason = "writes the checkout of a step")]

use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path;

use git2::{ObjectType, Oid, Repository, Tree};

/// Writes the files of a commit into a folder that is made for it.
///
/// # Errors
/// The commit is not there or has names that no checkout has, or the folder cannot be written.
pub fn export(repository: &Path, commit: &str, folder: &Path) -> Result<(), String> {
    let words = |error: git2::Error| error.message().to_owned();
    let repository = super::remote::open(repository).map_err(words)?;
    let commit =
        Oid::from_str(commit).and_then(|oid| repository.find_commit(oid)).map_err(words)?;
    std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    write(&repository, &commit.tree().map_err(words)?, folder)
}

fn write(repository: &Repository, tree: &Tree<'_>, folder: &Path) -> Result<(), String> {
    let words = |error: git2::Error| error.message().to_owned();
    for entry in tree {
        let name = entry.name().map_err(|_| "a name is not UTF-8".to_owned())?;
        if !is_plain(name) {
            return Err(format!("the commit has a file with the name {name:?}"));
        }
        let path = folder.join(name);
        let failed = |error: std::io::Error| format!("failed to write {}: {error}", path.display());
        match (entry.kind(), entry.filemode()) {
            (Some(ObjectType::Tree), _) => {
                std::fs::create_dir(&path).map_err(failed)?;
                write(repository, &repository.find_tree(entry.id()).map_err(words)?, &path)?;
            }
            (Some(ObjectType::Blob), mode) => {
                let blob = repository.find_blob(entry.id()).map_err(words)?;
                if mode == 0o120_000 {
                    let target = std::str::from_utf8(blob.content()).map_err(|e| e.to_string())?;
                    symlink(target, &path).map_err(failed)?;
                    continue;
                }
                let mode = if mode == 0o100_755 { 0o777 } else { 0o666 };
                let mut options = std::fs::OpenOptions::new();
                let file = options.write(true).create_new(true).mode(mode).open(&path);
                file.and_then(|mut file| file.write_all(blob.content())).map_err(failed)?;
            }
            // A submodule is an empty folder, as with git itself.
            (Some(ObjectType::Commit), _) => std::fs::create_dir(&path).map_err(failed)?,
            _ => {}
        }
    }
    Ok(())
}

/// Whether a name is one that a checkout may have: no way out, and no `.git`.
fn is_plain(name: &str) -> bool {
    let git = name.trim_end_matches(['.', ' ']).eq_ignore_ascii_case(".git");
    !name.is_empty() && name != "." && name != ".." && !git && !name.contains(['/', '\0', '\\'])
}
