//! A context's handle.

use std::ffi::{CStr, c_void};
use std::ptr::null_mut;

use mfa_sys::{self as sys, Api, Driver};

use crate::device::Device;
use crate::error::{MfaError, Result};

/// A context's handle with the driver that it belongs to: what bindings to other languages build on.
///
/// Descriptors of `mfa_sys` go straight to the driver, without cost and without the checks that borrowing gives.
#[derive(Debug)]
pub struct Context {
    handle: *mut c_void,
    driver: &'static Driver,
}

// SAFETY: the contract allows calls on one context from several threads.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    pub(crate) fn on(device: &Device) -> Result<Self> {
        let driver = device.driver();
        let mut handle = null_mut();
        // SAFETY: a valid pointer.
        let status =
            unsafe { (driver.api().mfa_create_context_on)(device.index(), &raw mut handle) };
        check(driver.api(), null_mut(), status)?;
        Ok(Self { handle, driver })
    }

    /// The functions of the context's driver.
    #[must_use]
    pub fn api(&self) -> &'static Api {
        self.driver.api()
    }

    /// The driver.
    #[must_use]
    pub fn driver(&self) -> &'static Driver {
        self.driver
    }

    /// The handle that the driver's functions take. It is valid as long as `self`.
    #[must_use]
    pub fn handle(&self) -> *mut c_void {
        self.handle
    }

    /// Turns a status that a function of [`Self::api`] has just returned on this thread into a result.
    ///
    /// # Errors
    ///
    /// The variant for the status, with the driver's message.
    pub fn check(&self, status: i32) -> Result<()> {
        check(self.api(), self.handle, status)
    }

    /// `mfa_forward`.
    ///
    /// # Errors
    ///
    /// As the driver reports.
    ///
    /// # Safety
    ///
    /// Pointers in the descriptor must be null or valid, its buffers must be of this driver, and nothing else may use the
    /// memory that the call writes, or write the memory that it reads.
    pub unsafe fn forward(&self, desc: &sys::mfa_forward_desc) -> Result<()> {
        // SAFETY: the caller's promise.
        self.check(unsafe { (self.api().mfa_forward)(self.handle, desc) })
    }

    /// `mfa_backward`.
    ///
    /// # Errors
    ///
    /// As the driver reports.
    ///
    /// # Safety
    ///
    /// As [`Self::forward`].
    pub unsafe fn backward(&self, desc: &sys::mfa_backward_desc) -> Result<()> {
        // SAFETY: the caller's promise.
        self.check(unsafe { (self.api().mfa_backward)(self.handle, desc) })
    }

    /// `mfa_quantize`.
    ///
    /// # Errors
    ///
    /// As the driver reports.
    ///
    /// # Safety
    ///
    /// As [`Self::forward`].
    pub unsafe fn quantize(&self, desc: &sys::mfa_quantize_desc) -> Result<()> {
        // SAFETY: the caller's promise.
        self.check(unsafe { (self.api().mfa_quantize)(self.handle, desc) })
    }

    /// `mfa_dequantize`.
    ///
    /// # Errors
    ///
    /// As the driver reports.
    ///
    /// # Safety
    ///
    /// As [`Self::forward`].
    pub unsafe fn dequantize(
        &self,
        source: &sys::mfa_tensor,
        destination: &sys::mfa_tensor,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        self.check(unsafe { (self.api().mfa_dequantize)(self.handle, source, destination) })
    }

    pub(crate) fn set_num_threads(&self, threads: u32) -> Result<()> {
        // SAFETY: the handle is valid.
        self.check(unsafe { (self.api().mfa_set_num_threads)(self.handle, threads) })
    }

    pub(crate) fn num_threads(&self) -> Result<u32> {
        let mut threads = 0;
        // SAFETY: the handle and the pointer are valid.
        self.check(unsafe { (self.api().mfa_get_num_threads)(self.handle, &raw mut threads) })?;
        Ok(threads)
    }

    pub(crate) fn latency(&self) -> Result<f64> {
        let mut seconds = 0.0;
        // SAFETY: the handle and the pointer are valid.
        self.check(unsafe { (self.api().mfa_get_latency)(self.handle, &raw mut seconds) })?;
        Ok(seconds)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: created by this driver, destroyed once. A failure could not be acted upon.
        unsafe { (self.api().mfa_destroy_context)(self.handle) };
    }
}

/// A status as a result. The message is that of the calling thread's last failure.
pub(super) fn check(api: &Api, context: *mut c_void, status: i32) -> Result<()> {
    if status == sys::MFA_SUCCESS {
        return Ok(());
    }
    // SAFETY: any context will do; the text is valid until the thread's next failure.
    let message = unsafe { copied((api.mfa_last_error)(context)) };
    // SAFETY: any status will do; the text is static.
    let message = message
        .unwrap_or_else(|| unsafe { copied((api.mfa_error_string)(status)) }.unwrap_or_default());
    Err(MfaError::from_status(status, message))
}

/// The text, unless there is none.
///
/// # Safety
///
/// `text` must be null or a C string.
unsafe fn copied(text: *const std::ffi::c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    (!text.is_empty()).then(|| text.into_owned())
}
