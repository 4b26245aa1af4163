//! What a state needs to know of the machine and of the file system that it lies on.
//!
//! Owns telling a network file system from a local one, and this machine from another.

#![expect(clippy::disallowed_methods, reason = "reads what the machine says of itself")]

use std::path::Path;

/// Which journal the database keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journal {
    /// The write-ahead log, on local file systems.
    WriteAhead,
    /// A rollback journal, where several machines may share the file.
    Rollback,
}

impl Journal {
    /// The journal for a folder: `$JUPYTERFLOW_JOURNAL` (`wal` or `rollback`), else by the kind of
    /// its file system.
    pub fn for_folder(folder: &Path) -> Self {
        match std::env::var("JUPYTERFLOW_JOURNAL").as_deref() {
            Ok("rollback") => return Self::Rollback,
            Ok("wal") => return Self::WriteAhead,
            _ => {}
        }
        // NFS, SMB 1 to 3, CIFS, Ceph, FUSE, Lustre, GPFS, AFS, 9P, by the numbers of statfs(2).
        const NETWORK: [u64; 10] = [
            0x6969,
            0x517B,
            0xFF53_4D42,
            0xFE53_4D42,
            0x00C3_6400,
            0x6573_5546,
            0x0BD0_0BD0,
            0x4750_4653,
            0x5346_414F,
            0x0102_1997,
        ];
        match rustix::fs::statfs(folder) {
            Ok(stat) if NETWORK.contains(&u64::try_from(stat.f_type).unwrap_or(0)) => {
                Self::Rollback
            }
            _ => Self::WriteAhead,
        }
    }
}

/// This machine since its last start, as no other is.
pub fn machine() -> &'static str {
    static ID: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    ID.get_or_init(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        id.map_or_else(|_| "unknown".into(), |text| text.trim().to_owned())
    })
}
