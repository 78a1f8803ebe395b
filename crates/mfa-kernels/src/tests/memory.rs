//! Memory that shows what a kernel touches.

use std::ops::{Deref, DerefMut};

/// The bytes around the elements.
const CANARY: u8 = 0xa5;
/// Bytes of canary on each side, at least.
const MARGIN: usize = 256;

/// Elements on 64-byte aligned memory. The last one is followed by less than 64 bytes of canary, and these by a page that
/// cannot be touched.
pub(super) struct Guarded<T> {
    base: *mut u8,
    mapped: usize,
    at: *mut T,
    len: usize,
}

impl<T: Copy> Guarded<T> {
    pub(super) fn new(len: usize, fill: T) -> Self {
        Self::from_fn(len, |_| fill)
    }

    pub(super) fn from_slice(x: &[T]) -> Self {
        Self::from_fn(x.len(), |i| x[i])
    }

    pub(super) fn from_fn(len: usize, mut f: impl FnMut(usize) -> T) -> Self {
        let bytes = len * size_of::<T>();
        let (base, mapped, end) = map(bytes + MARGIN + 64);
        // SAFETY: both addresses are inside the mapping, which ends at `end`.
        let at = unsafe {
            std::ptr::write_bytes(base, CANARY, end);
            let slack = (end - bytes) % 64;
            base.add(end - bytes - slack).cast::<T>()
        };
        for i in 0..len {
            // SAFETY: `len` elements fit between `at` and the end.
            unsafe { at.add(i).write(f(i)) };
        }
        Guarded {
            base,
            mapped,
            at,
            len,
        }
    }

    /// Fails if anything but the elements was written.
    #[track_caller]
    pub(super) fn check(&self, what: &str) {
        let first = self.at as usize - self.base as usize;
        let last = first + self.len * size_of::<T>();
        // SAFETY: the mapping without its last page is readable.
        let all = unsafe { std::slice::from_raw_parts(self.base, self.mapped - page()) };
        for (i, byte) in all.iter().enumerate() {
            if i < first || i >= last {
                assert_eq!(
                    *byte,
                    CANARY,
                    "{what}: byte {} was written",
                    i as isize - first as isize
                );
            }
        }
    }
}

impl<T> Deref for Guarded<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements were written at `at`.
        unsafe { std::slice::from_raw_parts(self.at, self.len) }
    }
}

impl<T> DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and `self` is borrowed for as long.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.len) }
    }
}

fn page() -> usize {
    // SAFETY: no arguments to get wrong.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

/// At least `bytes`, which end at the returned offset, then a page without access.
fn map(bytes: usize) -> (*mut u8, usize, usize) {
    let end = bytes.next_multiple_of(page());
    let mapped = end + page();
    // SAFETY: a new private mapping; its last page is taken out of use.
    unsafe {
        let base = libc::mmap(
            std::ptr::null_mut(),
            mapped,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert_ne!(base, libc::MAP_FAILED);
        let base = base.cast::<u8>();
        assert_eq!(
            libc::mprotect(base.add(end).cast(), page(), libc::PROT_NONE),
            0
        );
        (base, mapped, end)
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: what `map` returned, once.
        unsafe { libc::munmap(self.base.cast(), self.mapped) };
    }
}
