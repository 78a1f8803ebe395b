//! Handles: numbers that are looked up and never dereferenced, so that a destroyed or foreign handle is refused.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, PoisonError, RwLock, RwLockWriteGuard};

/// The next handle. Handles of one process never repeat, and begin above small integers.
static NEXT: AtomicUsize = AtomicUsize::new(0x1000);
/// Distance of handles: they are aligned like pointers.
const STEP: usize = 16;

/// The live objects of one kind.
pub(crate) struct Table<T> {
    live: LazyLock<RwLock<HashMap<usize, Arc<T>>>>,
}

/// Exclusive access to a table.
pub(crate) type Held<T> = RwLockWriteGuard<'static, HashMap<usize, Arc<T>>>;

impl<T> Table<T> {
    pub(crate) const fn new() -> Self {
        Table {
            live: LazyLock::new(Default::default),
        }
    }

    pub(crate) fn insert(&self, value: Arc<T>) -> *mut c_void {
        let handle = NEXT.fetch_add(STEP, Ordering::Relaxed);
        self.live
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(handle, value);
        handle as *mut c_void
    }

    pub(crate) fn get(&self, handle: *const c_void) -> Option<Arc<T>> {
        self.live
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&(handle as usize))
            .cloned()
    }

    /// Locks the table until the guard is dropped.
    pub(crate) fn hold(&'static self) -> Held<T> {
        self.live.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn remove(&self, handle: *const c_void) -> Option<Arc<T>> {
        self.live
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&(handle as usize))
    }

    /// Calls `f` with each live object.
    pub(crate) fn each(&self, f: impl FnMut(&Arc<T>)) {
        self.live
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .for_each(f);
    }
}

/// The message for a handle that names no live object of its kind.
pub(crate) fn complaint(kind: &str, maker: &str, handle: *const c_void) -> String {
    if handle.is_null() {
        format!("the {kind} is NULL; expected a handle from {maker}")
    } else {
        format!(
            "{handle:p} is not a live {kind}; expected a handle from {maker} that was not destroyed"
        )
    }
}
