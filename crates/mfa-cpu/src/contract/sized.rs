//! Versioned structs of the contract: each begins with its size, so that it can grow at its end.

use mfa_sys as sys;

use crate::error::{Error, Result, ensure};

/// A struct of the contract that begins with its size.
///
/// # Safety
/// All-zero bytes are a value of the type, and its first field is the `u32` `struct_size`.
pub(crate) unsafe trait SizedStruct: Copy {}

// SAFETY: generated `repr(C)` structs of integers, floats and raw pointers that begin with `struct_size`.
unsafe impl SizedStruct for sys::mfa_quantization {}
// SAFETY: as above.
unsafe impl SizedStruct for sys::mfa_attention_options {}
// SAFETY: as above.
unsafe impl SizedStruct for sys::mfa_forward_desc {}
// SAFETY: as above.
unsafe impl SizedStruct for sys::mfa_backward_desc {}
// SAFETY: as above.
unsafe impl SizedStruct for sys::mfa_quantize_desc {}
// SAFETY: as above.
unsafe impl SizedStruct for sys::mfa_merge_desc {}
// SAFETY: as above.
unsafe impl SizedStruct for sys::mfa_merge_backward_desc {}

/// Reads a sized struct. Fields that the caller's version lacks are zero; fields that this version lacks must be zero. NULL is
/// `None`.
///
/// # Safety
/// `from` is NULL or the address of at least `struct_size` readable bytes.
pub(crate) unsafe fn sized<T: SizedStruct>(from: *const T, what: &str) -> Result<Option<T>> {
    if from.is_null() {
        return Ok(None);
    }
    let known = size_of::<T>();
    // SAFETY: by contract at least the first field is readable; the address may be of any alignment.
    let size = unsafe { from.cast::<u32>().read_unaligned() } as usize;
    ensure!(
        size > 0 && size <= 1 << 16 && size.is_multiple_of(align_of::<T>()),
        argument,
        "{what}: struct_size is {size}; expected {known}, the size of the struct"
    );
    // SAFETY: `size` bytes are readable by contract; all-zero is a value of `T` by `SizedStruct`.
    unsafe {
        let bytes = std::slice::from_raw_parts(from.cast::<u8>(), size);
        ensure!(
            bytes[known.min(size)..].iter().all(|&b| b == 0),
            unsupported,
            "{what}: struct_size is {size} and fields past byte {known} are used; this library knows {known} bytes"
        );
        let mut out: T = std::mem::zeroed();
        std::ptr::from_mut(&mut out)
            .cast::<u8>()
            .copy_from_nonoverlapping(bytes.as_ptr(), size.min(known));
        Ok(Some(out))
    }
}

/// Reads a sized struct; refuses NULL.
///
/// # Safety
/// As for [`sized`].
pub(crate) unsafe fn sized_required<T: SizedStruct>(from: *const T, what: &str) -> Result<T> {
    // SAFETY: by this function's contract.
    unsafe { sized(from, what)? }
        .ok_or_else(|| Error::argument(format!("{what} is NULL; expected a descriptor")))
}
