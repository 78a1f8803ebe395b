//! Quantizing, and its inverse.

use std::ptr::null_mut;

use mfa_sys as sys;

use super::tensor::Tensor;
use crate::error::Result;
use crate::ffi::context::Context;

/// Rounding `source` to `destination`, whose scales, zero points and means are written too.
#[derive(Clone, Copy, Debug)]
pub struct Quantize {
    /// `MFA_QUANTIZE_*`.
    pub flags: u32,
    /// Floats.
    pub source: Tensor,
    /// Integers with their quantization, written.
    pub destination: Tensor,
}

impl Quantize {
    /// Computes, and measures the error if that is asked for.
    ///
    /// # Errors
    ///
    /// As the driver reports.
    ///
    /// # Safety
    ///
    /// See the module.
    pub unsafe fn run(
        &self,
        context: &Context,
        measure: bool,
    ) -> Result<sys::mfa_quantization_error> {
        let mut error = sys::mfa_quantization_error::default();
        let desc = sys::mfa_quantize_desc {
            flags: self.flags,
            source: self.source.lower(),
            destination: self.destination.lower(),
            error: if measure { &raw mut error } else { null_mut() },
            ..sys::mfa_quantize_desc::new()
        };
        // SAFETY: the caller's promise; the descriptor points into `self` and to a local variable.
        unsafe { context.quantize(&desc) }?;
        Ok(error)
    }
}

/// Writing the real values of `source`.
#[derive(Clone, Copy, Debug)]
pub struct Dequantize {
    /// Integers with their quantization.
    pub source: Tensor,
    /// Floats, written.
    pub destination: Tensor,
}

impl Dequantize {
    /// Computes.
    ///
    /// # Errors
    ///
    /// As the driver reports.
    ///
    /// # Safety
    ///
    /// See the module.
    pub unsafe fn run(&self, context: &Context) -> Result<()> {
        // SAFETY: the caller's promise; the descriptors point into `self`.
        unsafe { context.dequantize(&self.source.lower(), &self.destination.lower()) }
    }
}
