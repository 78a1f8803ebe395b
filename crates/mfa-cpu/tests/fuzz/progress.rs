//! Where a child is: what its parent reads when the child has died.

use std::fs::OpenOptions;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// Seed, then 40 bytes with the entry's name.
const BYTES: usize = 64;

static PLACE: AtomicPtr<u8> = AtomicPtr::new(null_mut());

/// Opens the file that parent and child share.
pub(crate) fn open(path: &Path) {
    use std::os::fd::AsRawFd;
    let file = (OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false))
    .open(path)
    .unwrap();
    file.set_len(BYTES as u64).unwrap();
    let open = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: maps a file of this size; what is mapped stays when the file is closed.
    let place = unsafe {
        libc::mmap(
            null_mut(),
            BYTES,
            open,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    assert_ne!(place, libc::MAP_FAILED);
    PLACE.store(place.cast(), Ordering::Relaxed);
}

/// The child begins a seed.
pub(crate) fn at(seed: u64) {
    let place = PLACE.load(Ordering::Relaxed);
    // SAFETY: mapped by `open`, aligned to a page.
    unsafe { (*place.cast::<AtomicU64>()).store(seed, Ordering::SeqCst) };
}

/// The child calls an entry.
pub(crate) fn entered(entry: &str) {
    let place = PLACE.load(Ordering::Relaxed);
    let mut name = [0u8; 40];
    name[..entry.len()].copy_from_slice(entry.as_bytes());
    // SAFETY: mapped by `open`: there is room for 40 bytes after the seed.
    unsafe {
        place
            .add(8)
            .copy_from_nonoverlapping(name.as_ptr(), name.len())
    };
}

/// What the child wrote last.
pub(crate) fn read(path: &Path) -> (u64, String) {
    let bytes = std::fs::read(path).unwrap_or_default();
    let Some((seed, name)) = bytes.split_first_chunk::<8>() else {
        return (0, String::new());
    };
    let name: Vec<u8> = name.iter().copied().take_while(|&b| b != 0).collect();
    (
        u64::from_ne_bytes(*seed),
        String::from_utf8_lossy(&name).into_owned(),
    )
}
