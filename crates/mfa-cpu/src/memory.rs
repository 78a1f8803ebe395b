//! Aligned memory for packed operands and for the buffers of the contract.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use crate::error::{Error, Result};

/// One cache line, and one AVX-512 register.
pub(crate) const ALIGN: usize = 64;

/// Zeroed memory, aligned to [`ALIGN`] bytes. Never moves.
pub(crate) struct Aligned {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory belongs to this value alone; access goes through raw pointers whose users promise exclusion.
unsafe impl Send for Aligned {}
// SAFETY: as above.
unsafe impl Sync for Aligned {}

impl Aligned {
    pub(crate) fn new(len: usize) -> Result<Self> {
        let refused = || Error::allocation(format!("{len} bytes could not be allocated"));
        let layout = Layout::from_size_align(len.max(1), ALIGN).map_err(|_| refused())?;
        // SAFETY: the layout's size is not zero.
        let ptr = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(refused)?;
        Ok(Aligned { ptr, len })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this very layout, which was valid then.
        unsafe {
            dealloc(
                self.ptr.as_ptr(),
                Layout::from_size_align_unchecked(self.len.max(1), ALIGN),
            )
        }
    }
}

/// Lays out typed arrays one after the other, each aligned: sizes first, pointers once the memory is there.
#[derive(Clone, Copy, Default)]
pub(crate) struct Arena {
    base: usize,
    used: usize,
}

impl Arena {
    /// An arena over memory at `base`; with a null base it only counts.
    pub(crate) fn new(base: *mut u8) -> Self {
        Arena {
            base: base as usize,
            used: 0,
        }
    }

    /// The place of the next `n` elements.
    pub(crate) fn take<T>(&mut self, n: usize) -> *mut T {
        let at = self.base + self.used;
        self.used += (n * size_of::<T>()).next_multiple_of(ALIGN);
        at as *mut T
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }
}
