//! Buffers: memory of this library, or the caller's memory, wrapped in place.

use std::ffi::c_void;
use std::sync::Arc;

use crate::error::{Error, Result, ensure};
use crate::runtime::handle::{Table, complaint};
use crate::runtime::memory::Aligned;

/// A block of memory.
pub(crate) struct Buffer {
    memory: Memory,
}

enum Memory {
    Owned(Aligned),
    Wrapped { ptr: *mut u8, len: usize },
}

// SAFETY: the contract makes the caller promise that wrapped memory stays valid and unshared during calls.
unsafe impl Send for Buffer {}
// SAFETY: as above; access goes through raw pointers.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// New zero-filled memory.
    pub(crate) fn new(size: u64) -> Result<Self> {
        let len = usize::try_from(size).unwrap_or(usize::MAX);
        Ok(Buffer {
            memory: Memory::Owned(Aligned::new(len)?),
        })
    }

    /// The caller's memory.
    pub(crate) fn wrap(ptr: *mut u8, size: u64) -> Result<Self> {
        ensure!(
            !ptr.is_null() || size == 0,
            argument,
            "data is NULL; expected the address of {size} bytes"
        );
        let len = usize::try_from(size).unwrap_or(usize::MAX);
        ensure!(
            len <= isize::MAX as usize && (ptr as usize).checked_add(len).is_some(),
            argument,
            "size is {size}; expected bytes that fit the address space after {ptr:p}"
        );
        Ok(Buffer {
            memory: Memory::Wrapped { ptr, len },
        })
    }

    pub(crate) fn ptr(&self) -> *mut u8 {
        match &self.memory {
            Memory::Owned(memory) => memory.ptr(),
            Memory::Wrapped { ptr, .. } => *ptr,
        }
    }

    pub(crate) fn len(&self) -> usize {
        match &self.memory {
            Memory::Owned(memory) => memory.len(),
            Memory::Wrapped { len, .. } => *len,
        }
    }
}

/// The live buffers of the process.
pub(crate) static BUFFERS: Table<Buffer> = Table::new();

/// The buffer behind a handle; `what` names the argument.
pub(crate) fn buffer(handle: *const c_void, what: &str) -> Result<Arc<Buffer>> {
    BUFFERS.get(handle).ok_or_else(|| {
        Error::argument(format!(
            "{what}: {}",
            complaint("buffer", "mfa_create_buffer", handle)
        ))
    })
}
