//! Whole files only: written beside their place and renamed into it.
//!
//! Owns that one rule. A reader sees the last whole version or the next, never half of one, also
//! when the disk is full.

use std::io::Write;
use std::path::Path;

/// Writes a file by rename.
///
/// # Errors
/// The file keeps its last whole content.
pub fn write_whole(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".~jupyterflow-").tempfile_in(folder)?;
    file.write_all(content)?;
    // A temporary file is its owner's alone; what takes its place is as open as any other file.
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666 & !umask());
    file.as_file().set_permissions(permissions)?;
    file.persist(path)?;
    Ok(())
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
