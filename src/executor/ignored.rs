//! Signals that whoever started this process wants ignored, as `nohup` does for hang-ups.
//!
//! Owns that one look. A handler must not take such a signal back.

#![expect(clippy::disallowed_methods, reason = "reads what the kernel says of this process")]

/// Whether a signal is ignored, by its number.
pub fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0);
    signal > 0 && mask >> (signal - 1) & 1 == 1
}
