//! A case's buffers.

use std::ffi::c_void;
use std::ptr::null_mut;

use mfa::raw::Context;

use crate::vectors::Case;

/// Memory of exactly the sizes that a case gives, wrapped for the driver.
pub(crate) struct Memory<'a> {
    context: &'a Context,
    buffers: Vec<Wrapped>,
}

struct Wrapped {
    handle: *mut c_void,
    /// The driver has its address, which stays as it is.
    words: Box<[u64]>,
    size: usize,
}

impl<'a> Memory<'a> {
    pub(crate) fn new(context: &'a Context, case: &Case) -> Result<Self, String> {
        let mut memory = Self {
            context,
            buffers: Vec::new(),
        };
        for buffer in &case.buffers {
            let mut words = vec![u64::MAX; buffer.size.div_ceil(8)].into_boxed_slice();
            let address: *mut c_void = words.as_mut_ptr().cast();
            if let Some(offset) = buffer.data {
                let bytes = &case.bytes[offset..offset + buffer.size];
                // SAFETY: room for `size` bytes, and no other reference to it.
                unsafe { address.cast::<u8>().copy_from(bytes.as_ptr(), bytes.len()) };
            }
            let mut handle = null_mut();
            // SAFETY: the memory lives until the buffer is destroyed, in `drop`.
            let status = unsafe {
                (context.api().mfa_buffer_from_ptr)(
                    context.handle(),
                    address,
                    buffer.size as u64,
                    &raw mut handle,
                )
            };
            context
                .check(status)
                .map_err(|error| format!("mfa_buffer_from_ptr: {error}"))?;
            memory.buffers.push(Wrapped {
                handle,
                words,
                size: buffer.size,
            });
        }
        Ok(memory)
    }

    pub(crate) fn handle(&self, buffer: usize) -> *mut c_void {
        self.buffers[buffer].handle
    }

    /// The bytes of a buffer, between calls.
    pub(crate) fn bytes(&self, buffer: usize) -> &[u8] {
        let Wrapped { words, size, .. } = &self.buffers[buffer];
        // SAFETY: initialised bytes that only a call of the driver writes, and none is running.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), *size) }
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        for buffer in &self.buffers {
            // SAFETY: a handle of this driver that was not destroyed yet.
            unsafe { (self.context.api().mfa_destroy_buffer)(buffer.handle) };
        }
    }
}
