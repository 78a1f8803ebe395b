//! Errors of refused and failed calls.

#![forbid(unsafe_code)]

use mfa_sys as sys;

/// A status of the contract, and the message for `mfa_last_error`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Error {
    pub status: i32,
    pub message: String,
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

macro_rules! constructors {
    ($($name:ident => $status:ident),* $(,)?) => {
        impl Error {
            $(pub(crate) fn $name(message: impl Into<String>) -> Self {
                Error { status: sys::$status, message: message.into() }
            })*
        }
    };
}

constructors! {
    context => MFA_ERROR_INVALID_CONTEXT,
    allocation => MFA_ERROR_BUFFER_ALLOCATION,
    dimensions => MFA_ERROR_INVALID_DIMENSIONS,
    execution => MFA_ERROR_KERNEL_EXECUTION,
    argument => MFA_ERROR_INVALID_ARGUMENT,
    unsupported => MFA_ERROR_UNSUPPORTED,
}

/// Returns early with an [`Error`] of the named kind unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $kind:ident, $($message:tt)+) => {
        // Not `!$condition`: a comparison with NaN is false, and must be refused.
        if $condition {
        } else {
            return Err($crate::error::Error::$kind(format!($($message)+)));
        }
    };
}
pub(crate) use ensure;
