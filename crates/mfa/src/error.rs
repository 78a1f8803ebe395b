//! What can go wrong.

use std::sync::Arc;

use mfa_sys as sys;

/// Why a call was refused or failed. The text says what was wrong, what was found and what was expected.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MfaError {
    /// The context is destroyed or not a context.
    #[error("invalid context: {0}")]
    InvalidContext(String),
    /// Memory could not be had.
    #[error("buffer allocation failed: {0}")]
    BufferAllocation(String),
    /// A shape, a stride or their product is not legal.
    #[error("invalid dimensions: {0}")]
    InvalidDimensions(String),
    /// The work began and failed; outputs are undefined.
    #[error("kernel execution failed: {0}")]
    KernelExecution(String),
    /// Anything else that is wrong with an argument.
    #[error("invalid argument: {0}")]
    InvalidArgument(String),
    /// Legal, but this device cannot do it.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// A status that this version of the contract does not know.
    #[error("unknown status {status}: {message}")]
    Unknown {
        /// What the driver returned.
        status: i32,
        /// What it said.
        message: String,
    },
    /// The driver library that the environment variable `MFA_DRIVER` names cannot be used.
    #[error("{variable}: {0}", variable = sys::DRIVER_VARIABLE)]
    Load(#[source] Arc<sys::LoadError>),
    /// No driver has the device that was asked for.
    #[error("no such device: {0}")]
    NoDevice(String),
}

/// The result of everything that can fail.
pub type Result<T> = std::result::Result<T, MfaError>;

impl MfaError {
    /// The error for a status of the contract other than 0.
    #[must_use]
    pub fn from_status(status: i32, message: String) -> Self {
        match status {
            sys::MFA_ERROR_INVALID_CONTEXT => Self::InvalidContext(message),
            sys::MFA_ERROR_BUFFER_ALLOCATION => Self::BufferAllocation(message),
            sys::MFA_ERROR_INVALID_DIMENSIONS => Self::InvalidDimensions(message),
            sys::MFA_ERROR_KERNEL_EXECUTION => Self::KernelExecution(message),
            sys::MFA_ERROR_INVALID_ARGUMENT => Self::InvalidArgument(message),
            sys::MFA_ERROR_UNSUPPORTED => Self::Unsupported(message),
            _ => Self::Unknown { status, message },
        }
    }

    /// The status of the contract, if the error has one.
    #[must_use]
    pub fn status(&self) -> Option<i32> {
        match self {
            Self::InvalidContext(_) => Some(sys::MFA_ERROR_INVALID_CONTEXT),
            Self::BufferAllocation(_) => Some(sys::MFA_ERROR_BUFFER_ALLOCATION),
            Self::InvalidDimensions(_) => Some(sys::MFA_ERROR_INVALID_DIMENSIONS),
            Self::KernelExecution(_) => Some(sys::MFA_ERROR_KERNEL_EXECUTION),
            Self::InvalidArgument(_) => Some(sys::MFA_ERROR_INVALID_ARGUMENT),
            Self::Unsupported(_) => Some(sys::MFA_ERROR_UNSUPPORTED),
            Self::Unknown { status, .. } => Some(*status),
            Self::Load(_) | Self::NoDevice(_) => None,
        }
    }

    /// The message without the kind of error before it.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::InvalidContext(message)
            | Self::BufferAllocation(message)
            | Self::InvalidDimensions(message)
            | Self::KernelExecution(message)
            | Self::InvalidArgument(message)
            | Self::Unsupported(message)
            | Self::NoDevice(message)
            | Self::Unknown { message, .. } => message.clone(),
            Self::Load(error) => error.to_string(),
        }
    }
}
