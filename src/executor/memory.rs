//! Large blocks of memory go back to the machine when they are free.
//!
//! Owns one setting of the C library: it learns from large blocks that were freed to keep such blocks,
//! which for messages of many megabytes means that memory peaks at the sum of what never lived together.

#![expect(unsafe_code, reason = "the setting has no safe name")]

/// Blocks of this size and more are the machine's, not the library's.
#[cfg(target_env = "gnu")]
const LARGE: i32 = 1 << 20;

/// Makes the setting, for this process.
pub fn return_large_blocks() {
    // SAFETY: the call changes a number that later allocations look at, and nothing else.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}
