//! The C interface: handles of objects, statuses instead of panics, messages for `mfa_last_error`.

mod buffers;
mod contexts;
mod explain;
mod fixed;
mod fork;
mod general;
mod handles;
mod vendor;

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use mfa_sys as sys;

use crate::error::{Error, Result, ensure};

pub use buffers::*;
pub use contexts::*;
pub use fixed::*;
pub use general::*;

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Runs an operation of the contract. Returns its status, and stores the message for the calling thread.
fn guard(operation: impl FnOnce() -> Result<()>) -> i32 {
    let result = catch_unwind(AssertUnwindSafe(operation)).unwrap_or_else(|panic| {
        Err(Error::execution(format!(
            "internal error: {}",
            panic_text(panic.as_ref())
        )))
    });
    match result {
        Ok(()) => sys::MFA_SUCCESS,
        Err(error) => {
            let text = CString::new(error.message.replace('\0', " ")).unwrap_or_default();
            // A thread that ends cannot store a message. The status is returned anyway.
            let _ = LAST.try_with(|last| *last.borrow_mut() = text);
            error.status
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

/// The calling thread's last message.
#[unsafe(no_mangle)]
pub extern "C" fn mfa_last_error(_context: *mut c_void) -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr())
        .unwrap_or(c"".as_ptr())
}

/// Static text for a status.
#[unsafe(no_mangle)]
pub extern "C" fn mfa_error_string(status: i32) -> *const c_char {
    let text: &'static CStr = match status {
        sys::MFA_SUCCESS => c"success",
        sys::MFA_ERROR_INVALID_CONTEXT => c"invalid context",
        sys::MFA_ERROR_BUFFER_ALLOCATION => c"buffer allocation failed",
        sys::MFA_ERROR_INVALID_DIMENSIONS => c"invalid dimensions",
        sys::MFA_ERROR_KERNEL_EXECUTION => c"kernel execution failed",
        sys::MFA_ERROR_INVALID_ARGUMENT => c"invalid argument",
        sys::MFA_ERROR_UNSUPPORTED => c"unsupported on this device",
        _ => c"unknown status",
    };
    text.as_ptr()
}

/// Writes through a pointer; refuses NULL.
///
/// # Safety
/// `to` is NULL or valid for writing.
unsafe fn write<T>(to: *mut T, value: T, what: &str) -> Result<()> {
    ensure!(
        !to.is_null(),
        argument,
        "{what} is NULL; expected where to write the result"
    );
    // SAFETY: not NULL, so valid by contract; callers in C may not align.
    unsafe { to.write_unaligned(value) };
    Ok(())
}

/// Copies text to a caller's array as the contract describes.
///
/// # Safety
/// `to` is NULL or has memory for `capacity` bytes; `length` is NULL or valid for writing.
unsafe fn write_text(
    text: &str,
    to: *mut c_char,
    capacity: usize,
    length: *mut usize,
    what: &str,
) -> Result<()> {
    ensure!(
        !to.is_null() || capacity == 0,
        argument,
        "{what} is NULL; expected room for {capacity} bytes"
    );
    if capacity > 0 {
        let mut cut = text.len().min(capacity - 1);
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        // SAFETY: `cut + 1 <= capacity` bytes fit.
        unsafe {
            to.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), cut);
            to.add(cut).write(0);
        }
    }
    if !length.is_null() {
        // SAFETY: not NULL, so valid by contract.
        unsafe { length.write_unaligned(text.len()) };
    }
    Ok(())
}
