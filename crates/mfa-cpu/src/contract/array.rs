//! Arrays inside buffers, checked once, and the access of a call to its buffers.

#![forbid(unsafe_code)]

use std::sync::Arc;

use mfa_sys as sys;

use crate::contract::buffer::{self, Buffer};
use crate::error::{Result, ensure};

/// A contiguous array inside a buffer.
#[derive(Clone)]
pub(crate) struct Array {
    pub ptr: *mut u8,
    pub(super) owner: Option<Arc<Buffer>>,
}

/// The access of a call to the memory of its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// The call reads and writes it.
    Run,
    /// Only a plan is made: tensors need no memory, and one without a buffer is absent only if its shape is zero.
    Plan,
}

impl Access {
    /// The buffer of a handle.
    pub(super) fn buffer(
        self,
        handle: sys::mfa_buffer_t,
        what: &str,
    ) -> Result<Option<Arc<Buffer>>> {
        if handle.is_null() && self == Access::Plan {
            return Ok(None);
        }
        buffer::buffer(handle, what).map(Some)
    }

    /// `bytes` of an array inside a buffer, aligned to `align`.
    pub(crate) fn array(
        self,
        buffer: sys::mfa_buffer_t,
        offset: u64,
        bytes: u128,
        align: usize,
        what: &str,
    ) -> Result<Array> {
        let owner = self.buffer(buffer, what)?;
        let ptr = first_byte(owner.as_deref(), offset);
        if let Some(owner) = &owner {
            let end = u128::from(offset) + bytes;
            ensure!(
                end <= owner.len() as u128,
                argument,
                "{what}: {bytes} bytes at byte {offset} are needed; the buffer has {}",
                owner.len()
            );
            ensure!(
                (ptr as usize).is_multiple_of(align),
                argument,
                "{what}: starts at {ptr:p}; expected an address that is a multiple of {align}"
            );
        }
        Ok(Array { ptr, owner })
    }
}

/// The address `offset` bytes into a buffer; NULL without a buffer.
pub(super) fn first_byte(buffer: Option<&Buffer>, offset: u64) -> *mut u8 {
    buffer.map_or(std::ptr::null_mut(), |buffer| {
        buffer.ptr().wrapping_add(offset as usize)
    })
}

impl Array {
    /// Whether the array has memory.
    pub(crate) fn has_memory(&self) -> bool {
        self.owner.is_some()
    }
}
