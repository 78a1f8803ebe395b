//! Memory of large results, kept for the next ones when they are dropped.
//!
//! What an allocator hands back to the system comes again as pages that are mapped and cleared one by one. That takes as long
//! as a tenth of a backward pass of a thousand rows, and comes with every call of a loop that drops its results.

use std::alloc::{Layout, alloc, dealloc};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;

/// Smaller results are NumPy's: allocators keep those themselves.
pub(crate) const SMALLEST: usize = 512 << 10;
/// Bytes that are kept at most.
const KEPT: usize = 32 << 20;
/// One cache line.
const ALIGN: usize = 64;

/// A piece of memory.
#[derive(Clone, Copy)]
struct Block {
    ptr: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a block is in one list or has one owner, which hands out nothing but its address.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

/// Dropped blocks, the last one last.
static FREED: Mutex<Vec<Block>> = Mutex::new(Vec::new());

fn freed() -> MutexGuard<'static, Vec<Block>> {
    FREED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Block {
    /// A freed block that is at most twice as large as needed, else a new one.
    fn of(bytes: usize) -> Option<Block> {
        let mut blocks = freed();
        let fits = |block: &Block| (bytes..=2 * bytes).contains(&block.layout.size());
        if let Some(at) = blocks.iter().rposition(fits) {
            return Some(blocks.remove(at));
        }
        drop(blocks);
        let layout = Layout::from_size_align(bytes, ALIGN).ok()?;
        // SAFETY: the size is not zero: at least `SMALLEST`.
        let ptr = NonNull::new(unsafe { alloc(layout) })?;
        Some(Block { ptr, layout })
    }

    /// Keeps the block, and lets go of the oldest ones that are too many with it.
    fn free(self) {
        let mut blocks = freed();
        blocks.push(self);
        let mut total: usize = blocks.iter().map(|block| block.layout.size()).sum();
        while total > KEPT {
            let Block { ptr, layout } = blocks.remove(0);
            total -= layout.size();
            // SAFETY: allocated in `of` with this layout; nobody else has it.
            unsafe { dealloc(ptr.as_ptr(), layout) };
        }
    }
}

/// What an array over reused memory keeps alive.
#[pyclass(frozen, module = "umfa._native", name = "ResultMemory")]
pub(crate) struct ResultMemory(Block);

impl ResultMemory {
    /// At least `bytes` bytes, uninitialised: their address and their owner.
    pub(crate) fn new(py: Python<'_>, bytes: usize) -> PyResult<(*mut c_void, Py<Self>)> {
        let block = Block::of(bytes.max(SMALLEST)).ok_or_else(|| {
            PyMemoryError::new_err(format!("{bytes} bytes for a result could not be allocated"))
        })?;
        let data = block.ptr.as_ptr().cast();
        Ok((data, Py::new(py, ResultMemory(block))?))
    }
}

impl Drop for ResultMemory {
    fn drop(&mut self) {
        self.0.free();
    }
}
