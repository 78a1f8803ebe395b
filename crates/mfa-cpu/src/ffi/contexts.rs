//! Library, devices and contexts. The documentation of each function is in `mfa.h`.
#![allow(clippy::missing_safety_doc, missing_docs)]

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use mfa_sys as sys;

use super::fork;
use super::handles::{self, CONTEXTS};
use super::{guard, vendor, write, write_text};
use crate::error::{Error, Result, ensure};
use crate::runtime::context::Context;
use mfa_kernels as kernels;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mfa_get_version(major: *mut u32, minor: *mut u32, patch: *mut u32) -> i32 {
    guard(|| {
        let version = [
            sys::MFA_VERSION_MAJOR,
            sys::MFA_VERSION_MINOR,
            sys::MFA_VERSION_PATCH,
        ];
        for (to, number) in [major, minor, patch].into_iter().zip(version) {
            if !to.is_null() {
                // SAFETY: not NULL, so valid for writing by contract.
                unsafe { write(to, number, "version")? };
            }
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mfa_device_count(count: *mut u32) -> i32 {
    // SAFETY: NULL or valid for writing, by contract.
    guard(|| unsafe { write(count, 1, "count") })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mfa_device_name(
    index: u32,
    name: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> i32 {
    guard(|| {
        check_index(index)?;
        let kernels = kernels::kernels().map_err(Error::argument)?;
        // SAFETY: as this function's contract.
        unsafe {
            write_text(
                &format!("CPU ({})", kernels.isa),
                name,
                capacity,
                length,
                "name",
            )
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mfa_device_kind(index: u32, kind: *mut i32) -> i32 {
    guard(|| {
        check_index(index)?;
        // SAFETY: NULL or valid for writing, by contract.
        unsafe { write(kind, sys::MFA_DEVICE_CPU, "kind") }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mfa_device_vendor(
    index: u32,
    vendor: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> i32 {
    guard(|| {
        check_index(index)?;
        // SAFETY: as this function's contract.
        unsafe { write_text(&vendor::vendor(), vendor, capacity, length, "vendor") }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mfa_device_backend(
    index: u32,
    backend: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> i32 {
    guard(|| {
        check_index(index)?;
        // SAFETY: as this function's contract.
        unsafe { write_text("cpu", backend, capacity, length, "backend") }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mfa_device_registry_id(index: u32, registry_id: *mut u64) -> i32 {
    guard(|| {
        ensure!(
            !registry_id.is_null(),
            argument,
            "registry_id is NULL; expected where to write the result"
        );
        check_index(index)?;
        Err(Error::unsupported(
            "the system has no registry id for device 0: it is the processor",
        ))
    })
}

fn check_index(index: u32) -> Result<()> {
    ensure!(
        index == 0,
        argument,
        "device index is {index}; expected 0: this driver has one device, the CPU"
    );
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mfa_create_context(context: *mut *mut c_void) -> i32 {
    // SAFETY: as this function's contract.
    guard(|| unsafe { create_context(0, context) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mfa_create_context_on(index: u32, context: *mut *mut c_void) -> i32 {
    // SAFETY: as this function's contract.
    guard(|| unsafe { create_context(index, context) })
}

/// Creates a context. Exported functions do not call one another: where two drivers are loaded, the other one's would run.
///
/// # Safety
/// `context` is NULL or valid for writing.
unsafe fn create_context(index: u32, context: *mut *mut c_void) -> Result<()> {
    ensure!(
        !context.is_null(),
        argument,
        "context is NULL; expected where to write the handle"
    );
    check_index(index)?;
    let new = Context::new()?;
    fork::prepare();
    // SAFETY: checked above.
    unsafe { write(context, CONTEXTS.insert(Arc::new(new)), "context") }
}

#[unsafe(no_mangle)]
pub extern "C" fn mfa_destroy_context(context: *mut c_void) -> i32 {
    guard(|| {
        if !context.is_null() {
            // Also of a parent process: what can be freed here is.
            handles::any_context(context)?;
            CONTEXTS.remove(context);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn mfa_set_num_threads(context: *mut c_void, threads: u32) -> i32 {
    guard(|| {
        handles::context(context)?
            .lock()
            .set_threads(threads as usize)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mfa_get_num_threads(context: *mut c_void, threads: *mut u32) -> i32 {
    guard(|| {
        let count = handles::context(context)?.lock().threads();
        // SAFETY: NULL or valid for writing, by contract.
        unsafe { write(threads, count as u32, "threads") }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mfa_get_latency(context: *mut c_void, seconds: *mut f64) -> i32 {
    guard(|| {
        let latency = handles::context(context)?.latency();
        // SAFETY: NULL or valid for writing, by contract.
        unsafe { write(seconds, latency, "seconds") }
    })
}
