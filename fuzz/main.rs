//! Any bytes as notebooks, messages of a kernel and parameters: `fuzz/run` builds this with coverage, and
//! `$FUZZ_TARGET` says which.
//!
//! The rooms that read what strangers wrote are compiled once more here, so that they alone carry what the
//! fuzzer counts: all else is as it was built for other tests. What all targets share is a bound on memory:
//! whatever an input holds, reading it may take ten times its size, and a fixed amount that small inputs need.

#![no_main]
#![allow(warnings, reason = "the rooms are held to the rules of the house where they belong")]
#![allow(unsafe_code, reason = "an allocator that counts")]

#[path = "../src/executor/mod.rs"]
mod executor;
#[path = "../src/notebook/mod.rs"]
mod notebook;
mod targets;
#[path = "../src/types.rs"]
mod types;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The system's allocator, which counts.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grow(bytes: usize) {
    let now = NOW.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(now, Relaxed);
}

// SAFETY: everything is left to the system's allocator; only sizes are counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        grow(size);
        NOW.fetch_sub(layout.size(), Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The fixed amount.
const FIXED: usize = 1 << 20;

/// Does something with an input and fails where that took too much memory.
fn bounded(input: &[u8], work: impl FnOnce()) {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    work();
    let took = PEAK.load(Relaxed) - before;
    let limit = 10 * input.len() + FIXED;
    assert!(took <= limit, "{} bytes of input took {took} bytes of memory", input.len());
}

type Target = fn(&[u8]);

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let named = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names what is fuzzed");
    match named.as_str() {
        "notebook" => targets::notebook,
        "message" => targets::message,
        "parameters" => targets::parameters,
        other => panic!("there is no target {other}"),
    }
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| (*TARGET)(data));
