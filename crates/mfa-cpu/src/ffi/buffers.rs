//! Buffers. The documentation of each function is in `mfa.h`.
#![allow(clippy::missing_safety_doc, missing_docs)]

use std::ffi::c_void;
use std::sync::Arc;

use super::handles::{self, CONTEXTS};
use super::{guard, write};
use crate::contract::buffer::{self, BUFFERS, Buffer};
use crate::error::{Result, ensure};
use crate::runtime::record::Record;

/// Makes a buffer, and writes its handle.
///
/// # Safety
/// `buffer` is NULL or valid for writing.
unsafe fn create(
    context: *mut c_void,
    buffer: *mut *mut c_void,
    make: impl FnOnce() -> Result<Buffer>,
) -> i32 {
    guard(|| {
        handles::context(context)?;
        ensure!(
            !buffer.is_null(),
            argument,
            "buffer is NULL; expected where to write the handle"
        );
        let new = Arc::new(make()?);
        // SAFETY: by this function's contract.
        unsafe { write(buffer, BUFFERS.insert(new), "buffer") }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mfa_create_buffer(
    context: *mut c_void,
    size: u64,
    buffer: *mut *mut c_void,
) -> i32 {
    // SAFETY: NULL or valid for writing, by contract.
    unsafe { create(context, buffer, || Buffer::new(size)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mfa_buffer_from_ptr(
    context: *mut c_void,
    data: *mut c_void,
    size: u64,
    buffer: *mut *mut c_void,
) -> i32 {
    // SAFETY: as above.
    unsafe { create(context, buffer, || Buffer::wrap(data.cast(), size)) }
}

#[cfg(target_vendor = "apple")]
#[unsafe(no_mangle)]
pub extern "C" fn mfa_buffer_from_mtl(
    context: *mut c_void,
    _mtl_buffer: *mut c_void,
    _buffer: *mut *mut c_void,
) -> i32 {
    guard(|| {
        handles::context(context)?;
        Err(crate::error::Error::unsupported(
            "the CPU driver takes no Metal buffers; expected a context of the Metal driver",
        ))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mfa_buffer_contents(
    buffer: *mut c_void,
    contents: *mut *mut c_void,
) -> i32 {
    guard(|| {
        let ptr = buffer::buffer(buffer, "buffer")?.ptr();
        // SAFETY: NULL or valid for writing, by contract.
        unsafe { write(contents, ptr.cast(), "contents") }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mfa_buffer_size(buffer: *mut c_void, size: *mut u64) -> i32 {
    guard(|| {
        let len = buffer::buffer(buffer, "buffer")?.len();
        // SAFETY: NULL or valid for writing, by contract.
        unsafe { write(size, len as u64, "size") }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn mfa_destroy_buffer(buffer: *mut c_void) -> i32 {
    guard(|| {
        if !buffer.is_null() {
            buffer::buffer(buffer, "buffer")?;
            BUFFERS.remove(buffer);
            CONTEXTS.each(|context| {
                // The thread that locked the records of a parent's context at the fork is not in this process.
                if context.is_of_this_process() {
                    let unnamed = |record: &Record| !record.operands.contains(&buffer);
                    context.records().retain(unnamed);
                }
            });
        }
        Ok(())
    })
}
