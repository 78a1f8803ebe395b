//! From an error to the exception of `umfa._errors` that stands for it.

use mfa::MfaError;
use pyo3::prelude::*;

mod python {
    #![allow(missing_docs)]
    pyo3::import_exception!(umfa._errors, BufferAllocation);
    pyo3::import_exception!(umfa._errors, InvalidArgument);
    pyo3::import_exception!(umfa._errors, InvalidContext);
    pyo3::import_exception!(umfa._errors, InvalidDimensions);
    pyo3::import_exception!(umfa._errors, InvalidIndex);
    pyo3::import_exception!(umfa._errors, InvalidType);
    pyo3::import_exception!(umfa._errors, KernelExecution);
    pyo3::import_exception!(umfa._errors, MFAError);
    pyo3::import_exception!(umfa._errors, Unsupported);
}

/// Whether an exception is already one of these.
pub(crate) fn is_ours(py: Python<'_>, problem: &PyErr) -> bool {
    problem.is_instance_of::<python::MFAError>(py)
}

/// Memory that could not be had: `MemoryError`.
pub(crate) fn allocation(message: String) -> PyErr {
    python::BufferAllocation::new_err(message)
}

/// An argument that is wrong in itself: `ValueError`.
pub(crate) fn argument(message: String) -> PyErr {
    python::InvalidArgument::new_err(message)
}

/// A context that is closed.
pub(crate) fn context(message: &str) -> PyErr {
    python::InvalidContext::new_err(message.to_owned())
}

/// A position that an axis doesn't have: `IndexError`.
pub(crate) fn index(message: String) -> PyErr {
    python::InvalidIndex::new_err(message)
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

/// The exception for what the crate `mfa` reports.
pub(crate) fn from_mfa(error: MfaError) -> PyErr {
    from_mfa_renamed(error, &[])
}

/// As `from_mfa`; `names` has what the driver calls an argument, and what the caller does.
pub(crate) fn from_mfa_renamed(error: MfaError, names: &[(&str, &str)]) -> PyErr {
    let message = error.message();
    let (argument, rest) = message.split_once(':').unwrap_or_default();
    let renamed = names.iter().find(|(driver, _)| *driver == argument);
    let message = match renamed {
        Some((_, caller)) => format!("{caller}:{rest}"),
        None => message.to_owned(),
    };
    match error {
        MfaError::InvalidContext(_) => python::InvalidContext::new_err(message),
        MfaError::BufferAllocation(_) => python::BufferAllocation::new_err(message),
        MfaError::InvalidDimensions(_) => python::InvalidDimensions::new_err(message),
        MfaError::InvalidArgument(_) => python::InvalidArgument::new_err(message),
        MfaError::Unsupported(_) => python::Unsupported::new_err(message),
        // Named by the user: a device, and the driver in MFA_DRIVER.
        MfaError::NoDevice(_) => python::InvalidArgument::new_err(error.to_string()),
        MfaError::Load(_) => python::Unsupported::new_err(error.to_string()),
        _ => python::KernelExecution::new_err(message),
    }
}
