//! Aligned memory for packed operands and for the buffers of the contract.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;

use crate::error::{Error, Result};

/// One cache line, and one AVX-512 register.
pub(crate) const ALIGN: usize = 64;

/// A large page. With small pages, kernels wait for address translation: up to 7 % of a backward pass (measured 2026-11-22).
const LARGE: usize = 2 << 20;

/// Zeroed memory, aligned to [`ALIGN`] bytes. Never moves.
pub(crate) struct Aligned {
    ptr: NonNull<u8>,
    len: usize,
    layout: Layout,
}

// SAFETY: this value alone owns the memory; access goes through raw pointers whose users promise exclusion.
unsafe impl Send for Aligned {}
// SAFETY: as above.
unsafe impl Sync for Aligned {}

impl Aligned {
    pub(crate) fn new(len: usize) -> Result<Self> {
        let refused = || Error::allocation(format!("{len} bytes could not be allocated"));
        let size = Self::size_for(len).max(1);
        let (large, align) = match large_bytes(len) {
            0 => (0, ALIGN),
            large => (large, LARGE),
        };
        let layout = Layout::from_size_align(size, align).map_err(|_| refused())?;
        // SAFETY: the layout's size is not zero.
        let ptr = NonNull::new(unsafe { alloc(layout) }).ok_or_else(refused)?;
        // SAFETY: `large` bytes of this new allocation; then the `len` bytes that callers may read.
        unsafe {
            prefer_large_pages(ptr.as_ptr(), large);
            ptr.as_ptr().write_bytes(0, len);
        }
        Ok(Aligned { ptr, len, layout })
    }

    /// Bytes that [`Aligned::new`] asks the allocator for, to hold `len`.
    pub(crate) fn size_for(len: usize) -> usize {
        len.max(large_bytes(len))
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }
}

/// Bytes of `len` that large pages hold, rounded up if half of the last page is used.
fn large_bytes(len: usize) -> usize {
    len.saturating_add(LARGE / 2) / LARGE * LARGE
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.ptr.as_ptr(), self.layout) }
    }
}

/// Asks for large pages. Best effort: small pages also work.
///
/// # Safety
/// The memory is the caller's.
#[cfg(target_os = "linux")]
unsafe fn prefer_large_pages(at: *mut u8, len: usize) {
    use rustix::mm::{Advice, madvise};
    // SAFETY: advice does not change the contents of the caller's memory.
    let _ = unsafe { madvise(at.cast(), len, Advice::LinuxHugepage) };
}

#[cfg(not(target_os = "linux"))]
unsafe fn prefer_large_pages(_at: *mut u8, _len: usize) {}

/// Allocates typed arrays one after the other, each aligned. A first pass over no memory counts the bytes, a second one gives
/// the pointers.
///
/// Sizes saturate at `usize::MAX`, which no allocation gives: so no array is outside the memory.
#[derive(Clone, Copy, Default)]
pub(crate) struct Arena {
    base: usize,
    used: usize,
}

impl Arena {
    /// An arena over memory at `base`. With a null base it only counts.
    pub(crate) fn new(base: *mut u8) -> Self {
        Arena {
            base: base as usize,
            used: 0,
        }
    }

    /// Allocates the next `n` elements.
    pub(crate) fn alloc<T>(&mut self, n: usize) -> *mut T {
        let at = self.base.wrapping_add(self.used);
        let bytes = n.checked_mul(size_of::<T>());
        let bytes = bytes.and_then(|bytes| bytes.checked_next_multiple_of(ALIGN));
        self.used = self.used.saturating_add(bytes.unwrap_or(usize::MAX));
        at as *mut T
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }
}

/// Declares a struct of arrays in one arena. A field is declared as the array `[type; length]` and stored as the pointer to
/// its first element, aligned to [`ALIGN`] bytes. The body of `allocate` computes the names that lengths use.
macro_rules! scratch {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $name:ident {
            $($(#[$field_attribute:meta])* $field_visibility:vis $field:ident: [$type:ty; $length:expr],)+
        }

        fn allocate($($argument:ident: $argument_type:ty),* $(,)?) { $($body:tt)* }
    ) => {
        $(#[$attribute])*
        $visibility struct $name {
            $(
                $(#[$field_attribute])*
                #[doc = concat!("\n\nShape: `[", stringify!($type), "; ", stringify!($length), "]`.")]
                $field_visibility $field: *mut $type,
            )+
        }

        impl $name {
            /// Takes the arrays from an arena, in their order.
            $visibility fn allocate(
                arena: &mut $crate::runtime::memory::Arena,
                $($argument: $argument_type),*
            ) -> Self {
                $($body)*
                $name { $($field: arena.alloc($length)),+ }
            }
        }
    };
}
pub(crate) use scratch;

/// Memory of each worker, in equal parts.
#[derive(Clone, Copy)]
pub(crate) struct PerWorker {
    first: *mut u8,
    /// Bytes of a part.
    each: usize,
}

// SAFETY: addresses; each worker uses its own part.
unsafe impl Send for PerWorker {}
// SAFETY: as above.
unsafe impl Sync for PerWorker {}

impl PerWorker {
    /// Takes a part for each of `workers`, of the size that `allocate` takes from an arena.
    pub(crate) fn allocate<T>(
        arena: &mut Arena,
        workers: usize,
        allocate: impl FnOnce(&mut Arena) -> T,
    ) -> Self {
        let mut one = Arena::default();
        allocate(&mut one);
        let each = one.used();
        PerWorker {
            first: arena.alloc(each.saturating_mul(workers)),
            each,
        }
    }

    /// The arena of a worker, for the same allocations as in [`PerWorker::allocate`].
    pub(crate) fn part(&self, worker: usize) -> Arena {
        Arena::new(self.first.wrapping_add(worker * self.each))
    }
}

/// An empty list with capacity for `count`, or an error if the allocation fails. `what` names the elements.
pub(crate) fn reserve<T>(count: usize, what: &str) -> Result<Vec<T>> {
    let mut out = Vec::new();
    out.try_reserve_exact(count)
        .map_err(|_| Error::allocation(format!("no memory for {count} {what}")))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_past_the_address_space_saturate() {
        for n in [1 << 62, 1 << 63, usize::MAX / 4, usize::MAX] {
            let mut arena = Arena::default();
            arena.alloc::<f32>(n);
            assert_eq!(arena.used(), usize::MAX, "{n} floats");
            arena.alloc::<f32>(1);
            assert_eq!(arena.used(), usize::MAX);
        }
        assert!(Aligned::new(usize::MAX).is_err());
    }

    #[test]
    fn size_is_what_is_asked_for() {
        for len in [0, 1, 4096, LARGE / 2 - 1, LARGE / 2, LARGE, 3 * LARGE + 5] {
            let memory = Aligned::new(len).unwrap();
            assert_eq!(memory.layout.size(), Aligned::size_for(len).max(1));
        }
    }
}
