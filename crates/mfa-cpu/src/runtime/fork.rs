//! The generation of this process: how many forks lie between it and the first one.
//!
//! A context that the parent made is of no use in the child: its workers are gone, and a call may have been under way.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the forks on the way from the first process to this one.
static GENERATION: AtomicUsize = AtomicUsize::new(0);

/// A number that tells the contexts of this process from those of its parents.
pub(crate) fn generation() -> usize {
    GENERATION.load(Ordering::Relaxed)
}

/// Begins a generation: in the child of a fork.
#[cfg(unix)]
pub(crate) fn count() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}
