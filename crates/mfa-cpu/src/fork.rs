//! What a fork does to this library: the child has a copy of all memory, and of all threads only the one that forked.
//!
//! So the tables of handles are held around a fork, or the child would wait for ever for a thread that it does not have. And a
//! context that the parent made is of no use in the child: its workers are gone, and a call may have been under way.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the forks on the way from the first process to this one.
static GENERATION: AtomicUsize = AtomicUsize::new(0);

/// What tells the contexts of this process from those of its parents.
pub(crate) fn generation() -> usize {
    GENERATION.load(Ordering::Relaxed)
}

#[cfg(unix)]
pub(crate) use unix::prepare;

/// Nothing forks.
#[cfg(not(unix))]
pub(crate) fn prepare() {}

#[cfg(unix)]
mod unix {
    use std::cell::RefCell;
    use std::sync::Once;
    use std::sync::atomic::Ordering;

    use super::GENERATION;
    use crate::buffer::Buffer;
    use crate::context::Context;
    use crate::handle::{BUFFERS, CONTEXTS, Held};

    thread_local! {
        /// The tables, while this thread forks.
        static HELD: RefCell<Option<(Held<Context>, Held<Buffer>)>> = const { RefCell::new(None) };
    }

    /// Makes forks safe from now on.
    pub(crate) fn prepare() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // SAFETY: functions that neither unwind nor wait for threads that wait for this one.
            // It can fail only for want of memory: then forks are as they were.
            let _ = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
        });
    }

    extern "C" fn before() {
        let _ = HELD.try_with(|held| {
            *held.borrow_mut() = Some((CONTEXTS.hold(), BUFFERS.hold()));
        });
    }

    extern "C" fn in_parent() {
        let _ = HELD.try_with(|held| held.borrow_mut().take());
    }

    extern "C" fn in_child() {
        GENERATION.fetch_add(1, Ordering::Relaxed);
        in_parent();
    }
}
