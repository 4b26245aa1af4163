//! Large blocks of memory go back to the machine when they are free.
//!
//! Owns one setting of the C library, and the call that gives back what is free already: it learns from large blocks that were freed to keep such blocks,
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

/// Gives memory that is free back to the machine: after work that needed much more than what stays.
pub fn return_free_memory() {
    // SAFETY: the call only releases pages that hold nothing.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
