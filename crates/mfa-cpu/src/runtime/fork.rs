//! The generation of this process: the number of forks between it and the first one.
//!
//! A child cannot use a context of its parent: the child has no worker threads, and a call may have held the context's locks.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the forks between the first process and this one.
static GENERATION: AtomicUsize = AtomicUsize::new(0);

/// The number of this process, by which contexts of its parents are recognised.
pub(crate) fn generation() -> usize {
    GENERATION.load(Ordering::Relaxed)
}

/// Begins a generation, in the child of a fork.
#[cfg(unix)]
pub(crate) fn count() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}
