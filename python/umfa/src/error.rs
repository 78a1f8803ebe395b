//! From a status of the contract to the exception of `umfa._errors` that stands for it.

use mfa_sys as sys;
use pyo3::prelude::*;

mod python {
    #![allow(missing_docs)]
    pyo3::import_exception!(umfa._errors, BufferAllocation);
    pyo3::import_exception!(umfa._errors, InvalidArgument);
    pyo3::import_exception!(umfa._errors, InvalidContext);
    pyo3::import_exception!(umfa._errors, InvalidDimensions);
    pyo3::import_exception!(umfa._errors, InvalidType);
    pyo3::import_exception!(umfa._errors, KernelExecution);
    pyo3::import_exception!(umfa._errors, Unsupported);
}

/// An argument that is wrong in itself: `ValueError`.
pub(crate) fn argument(message: String) -> PyErr {
    python::InvalidArgument::new_err(message)
}

/// A context that is closed.
pub(crate) fn context(message: &str) -> PyErr {
    python::InvalidContext::new_err(message.to_owned())
}

/// A shape or a stride that is not legal: `ValueError`.
pub(crate) fn dimensions(message: String) -> PyErr {
    python::InvalidDimensions::new_err(message)
}

/// Something that is not an array, or of another element type: `TypeError`.
pub(crate) fn dtype(message: String) -> PyErr {
    python::InvalidType::new_err(message)
}

/// Legal, but this device cannot do it.
pub(crate) fn unsupported(message: String) -> PyErr {
    python::Unsupported::new_err(message)
}

/// The exception for a driver's status.
pub(crate) fn status(code: i32, message: String) -> PyErr {
    match code {
        sys::MFA_ERROR_INVALID_CONTEXT => python::InvalidContext::new_err(message),
        sys::MFA_ERROR_BUFFER_ALLOCATION => python::BufferAllocation::new_err(message),
        sys::MFA_ERROR_INVALID_DIMENSIONS => python::InvalidDimensions::new_err(message),
        sys::MFA_ERROR_INVALID_ARGUMENT => python::InvalidArgument::new_err(message),
        sys::MFA_ERROR_UNSUPPORTED => python::Unsupported::new_err(message),
        _ => python::KernelExecution::new_err(message),
    }
}
