//! Whole files only: written beside their place and renamed into it.
//!
//! Owns that one rule. A reader sees the last whole version or the next, never half of one, also
//! when the disk is full. What is no file is never replaced by one: devices, pipes and sockets that a
//! user names are written into, and symbolic links are followed.

#![expect(clippy::disallowed_methods, reason = "writes the files that others decide on")]

use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// So many links are followed, as the kernel of the machine does.
const MOST_LINKS: usize = 40;

/// Writes a file by rename. The path is one of ours: whatever stands there is replaced.
///
/// # Errors
/// The file keeps its last whole content.
pub fn write_whole(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".~jupyterflow-").tempfile_in(folder)?;
    file.write_all(content)?;
    // A temporary file is its owner's alone; what takes its place is as open as what stood there, or
    // as any other new file.
    let old = std::fs::symlink_metadata(path).ok().filter(std::fs::Metadata::is_file);
    let mode = old.as_ref().map_or(0o666 & !umask(), |old| old.mode() & 0o777);
    if let Some(old) = old {
        // Only root can give a file away; all others own what they replace.
        let _ = std::os::unix::fs::fchown(file.as_file(), Some(old.uid()), Some(old.gid()));
    }
    file.as_file().set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.persist(path)?;
    Ok(())
}

/// Writes what a user named: a file by rename, through symbolic links; anything else in place.
///
/// # Errors
/// A file keeps its last whole content. A pipe has no reader.
pub fn write_named(path: &Path, content: &[u8]) -> std::io::Result<()> {
    if !is_stream(path) {
        return write_whole(&behind_links(path)?, content);
    }
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    // Never waits for a reader who may not come; what is written then waits for the one who is there.
    let mut stream = std::fs::OpenOptions::new().write(true).custom_flags(flags).open(path)?;
    rustix::fs::fcntl_setfl(&stream, rustix::fs::fcntl_getfl(&stream)? - OFlags::NONBLOCK)?;
    stream.write_all(content)
}

/// Whether something stands there that is no regular file, so that it can only be written into, and
/// only once. A descriptor of this process is such a thing, also where a file is behind it.
pub fn is_stream(path: &Path) -> bool {
    let descriptor = path.canonicalize().is_ok_and(|path| path.starts_with("/proc"));
    let by_link = std::fs::read_link(path).is_ok_and(|target| target.starts_with("/proc/self/fd"));
    descriptor || by_link || std::fs::metadata(path).is_ok_and(|data| !data.is_file())
}

/// The path behind symbolic links, also where the last one leads to nothing yet.
fn behind_links(path: &Path) -> std::io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        match std::fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            // Not there, or no link.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => {
                return Ok(path);
            }
            Err(error) => return Err(error),
        }
    }
    Err(std::io::Error::other("too many symbolic links"))
}

/// The process's mask for new files, which can only be read by setting it.
fn umask() -> u32 {
    static MASK: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *MASK.get_or_init(|| {
        let mask = rustix::process::umask(rustix::fs::Mode::from_bits_truncate(0o077));
        rustix::process::umask(mask);
        mask.bits()
    })
}
