//! Forks: the child has a copy of all memory, and of the threads only the one that forked.
//!
//! The forking thread locks the tables of handles. Otherwise the child could wait for ever for a lock of a thread that it does
//! not have.

#[cfg(unix)]
pub(crate) use unix::prepare;

/// Nothing forks on this platform.
#[cfg(not(unix))]
pub(crate) fn prepare() {}

#[cfg(unix)]
mod unix {
    use std::cell::RefCell;
    use std::sync::Once;

    use crate::contract::buffer::BUFFERS;
    use crate::contract::buffer::Buffer;
    use crate::ffi::handles::CONTEXTS;
    use crate::runtime::context::Context;
    use crate::runtime::fork;
    use crate::runtime::handle::Held;

    thread_local! {
        /// The locked tables, while this thread forks.
        static HELD: RefCell<Option<(Held<Context>, Held<Buffer>)>> = const { RefCell::new(None) };
    }

    /// Registers the handlers that make forks safe.
    pub(crate) fn prepare() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // SAFETY: functions that neither unwind nor wait for threads that wait for this one.
            // It fails only without memory: then forks do not lock the tables.
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
        fork::count();
        in_parent();
    }
}
