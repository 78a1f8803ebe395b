//! Memory that ends at pages which must not be touched, and what has changed in it.

use std::ptr::null_mut;

/// The most that one piece can have.
pub(crate) const SLOT: usize = 1 << 18;
/// Pieces of one call, at most.
const SLOTS: usize = 96;
/// Bytes before a piece that are watched too.
const BEFORE: usize = 64;

/// A piece of memory: which slot, and where its bytes are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub slot: usize,
    pub at: *mut u8,
    pub bytes: usize,
}

/// Slots with a forbidden page after (and so before) each of them. A piece ends where its slot does.
pub(crate) struct Arena {
    base: *mut u8,
    pitch: usize,
    used: Vec<Piece>,
    before: Vec<u8>,
}

impl Arena {
    pub(crate) fn new() -> Self {
        // SAFETY: asks the system for its page size, then for fresh memory.
        unsafe {
            let page = libc::sysconf(libc::_SC_PAGESIZE) as usize;
            let pitch = SLOT.next_multiple_of(page) + page;
            let all = page + SLOTS * pitch;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANON;
            let base = libc::mmap(null_mut(), all, libc::PROT_NONE, flags, -1, 0);
            assert_ne!(base, libc::MAP_FAILED, "no memory for {all} bytes");
            let base = base.cast::<u8>().add(page);
            for slot in 0..SLOTS {
                let start = base.add(slot * pitch).cast();
                let open = libc::PROT_READ | libc::PROT_WRITE;
                assert_eq!(libc::mprotect(start, pitch - page, open), 0);
            }
            Arena {
                // Pieces are placed from the end of a slot.
                base: base.add(pitch - page),
                pitch,
                used: Vec::new(),
                before: Vec::new(),
            }
        }
    }

    /// Forgets all pieces.
    pub(crate) fn clear(&mut self) {
        self.used.clear();
    }

    /// A piece that ends at a forbidden page. Its bytes, and those before it, are what the last call left.
    pub(crate) fn take(&mut self, bytes: usize) -> Piece {
        let slot = self.used.len();
        assert!(
            bytes <= SLOT - BEFORE && slot < SLOTS,
            "{bytes} in slot {slot}"
        );
        // SAFETY: inside the slot.
        let at = unsafe { self.base.add(slot * self.pitch).sub(bytes) };
        let piece = Piece { slot, at, bytes };
        self.used.push(piece);
        piece
    }

    /// A copy of a value that ends at a forbidden page, cut or filled with `filling` to `bytes` bytes.
    pub(crate) fn put<T: Copy>(&mut self, value: &T, bytes: usize, filling: u8) -> *const T {
        let piece = self.take(bytes);
        // SAFETY: `bytes` are in the piece; no more than the value has are read.
        unsafe {
            piece.at.write_bytes(filling, bytes);
            let from = std::ptr::from_ref(value).cast::<u8>();
            piece
                .at
                .copy_from_nonoverlapping(from, bytes.min(size_of::<T>()));
        }
        piece.at.cast()
    }

    /// The piece of a slot.
    pub(crate) fn piece(&self, slot: usize) -> Piece {
        self.used[slot]
    }

    fn watched(piece: &Piece) -> &[u8] {
        // SAFETY: a slot has room for the bytes before a piece.
        unsafe { std::slice::from_raw_parts(piece.at.sub(BEFORE), piece.bytes + BEFORE) }
    }

    /// Remembers what all pieces hold.
    pub(crate) fn remember(&mut self) {
        self.before.clear();
        for piece in &self.used {
            self.before.extend_from_slice(Self::watched(piece));
        }
    }

    /// The first piece that changed since, other than those that may: its slot, and the byte (from the piece's start).
    pub(crate) fn changed(&self, may: &[usize]) -> Option<(usize, isize)> {
        let mut rest = self.before.as_slice();
        for piece in &self.used {
            let (was, others) = rest.split_at(piece.bytes + BEFORE);
            rest = others;
            let now = Self::watched(piece);
            // What is before an output must stay too.
            let end = if may.contains(&piece.slot) {
                BEFORE
            } else {
                was.len()
            };
            if was[..end] != now[..end] {
                let at = (was.iter().zip(now)).position(|(a, b)| a != b).unwrap_or(0);
                return Some((piece.slot, at as isize - BEFORE as isize));
            }
        }
        None
    }
}
