//! Files below a root, and nothing beyond it.
//!
//! Owns opening without a race: the kernel of the machine resolves a path below the root's own
//! descriptor and refuses to leave it, whatever links are put in its way meanwhile.

#![expect(clippy::disallowed_methods, reason = "opens the source's files")]

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io::Errno;

/// What is said of a path that leads out.
pub const OUT: &str = "it is a symbolic link out of the source";

/// Opens a file below a root for reading. Links are followed where they stay inside.
///
/// # Errors
/// There is no such file, or it lies outside.
pub fn open_inside(root: &Path, relative: &Path) -> std::io::Result<File> {
    // Never waits for whoever might write into a pipe.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let folder = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match openat2(&folder, relative, flags, Mode::empty(), beneath) {
        Ok(file) => Ok(file.into()),
        // An absolute link may lead back inside: its end is then opened without any.
        Err(Errno::XDEV) => {
            let real = root.join(relative).canonicalize()?;
            let Ok(inside) = real.strip_prefix(root) else { return Err(Error::other(OUT)) };
            let strict = beneath | ResolveFlags::NO_SYMLINKS;
            openat2(&folder, inside, flags, Mode::empty(), strict).map(Into::into).map_err(
                |error| {
                    if matches!(error, Errno::XDEV | Errno::LOOP) {
                        Error::other(OUT)
                    } else {
                        error.into()
                    }
                },
            )
        }
        // A system without the call.
        Err(Errno::NOSYS | Errno::PERM) => {
            let real = root.join(relative).canonicalize()?;
            if !real.starts_with(root) {
                return Err(Error::other(OUT));
            }
            File::open(real)
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether an error says that there is certainly no such file.
pub fn is_absent(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_inside_and_refused_outside() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap().join("root");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::write(root.join("sub/a"), "in").unwrap();
        std::fs::write(folder.path().join("b"), "out").unwrap();
        symlink("sub/a", root.join("relative")).unwrap();
        symlink(root.join("sub/a"), root.join("absolute")).unwrap();
        symlink("../b", root.join("up")).unwrap();
        symlink("/etc", root.join("etc")).unwrap();
        symlink("/proc/self/root", root.join("magic")).unwrap();
        let read = |path: &str| -> Result<String, String> {
            let mut text = String::new();
            let mut file = open_inside(&root, Path::new(path)).map_err(|e| e.to_string())?;
            file.read_to_string(&mut text).map_err(|e| e.to_string())?;
            Ok(text)
        };
        for path in ["sub/a", "relative", "absolute"] {
            assert_eq!(read(path).unwrap(), "in", "{path}");
        }
        for path in ["up", "etc/passwd", "magic/etc/passwd", "../b"] {
            assert!(read(path).is_err(), "{path}");
        }
        assert!(is_absent(&open_inside(&root, Path::new("none")).unwrap_err()));
    }

    /// While a link is turned to and fro between inside and outside, what is read is inside.
    #[test]
    fn no_race_leads_out() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap().join("root");
        for (path, text) in [("root/home/f", "in"), ("secret/f", "out")] {
            let full = folder.path().join(path);
            std::fs::create_dir_all(full.parent().unwrap()).unwrap();
            std::fs::write(full, text).unwrap();
        }
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let link = root.join("link");
                for turn in 0.. {
                    if stop.load(std::sync::atomic::Ordering::Relaxed) {
                        break;
                    }
                    let target = if turn % 2 == 0 {
                        root.join("home")
                    } else {
                        folder.path().join("secret")
                    };
                    let next = root.join(".next");
                    symlink(target, &next).unwrap();
                    std::fs::rename(&next, &link).unwrap();
                }
            });
            for _ in 0..20_000 {
                if let Ok(mut file) = open_inside(&root, Path::new("link/f")) {
                    let mut text = String::new();
                    file.read_to_string(&mut text).unwrap();
                    assert_eq!(text, "in");
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}
