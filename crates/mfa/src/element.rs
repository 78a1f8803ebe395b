//! How elements are stored, and the Rust types that store them.

use bytemuck::NoUninit;
use half::{bf16, f16};
use mfa_sys as sys;

/// How an element is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
#[non_exhaustive]
pub enum Precision {
    /// IEEE single precision.
    Fp32 = sys::MFA_PRECISION_FP32,
    /// IEEE half precision.
    Fp16 = sys::MFA_PRECISION_FP16,
    /// The upper half of single precision.
    Bf16 = sys::MFA_PRECISION_BF16,
    /// Two's complement, two to a byte: element 2i of a row is the low nibble of byte i.
    Int4 = sys::MFA_PRECISION_INT4,
    /// Two's complement.
    Int8 = sys::MFA_PRECISION_INT8,
    /// One byte: 0 is false, anything else is true. For masks only.
    Bool = sys::MFA_PRECISION_BOOL,
    /// IEEE double precision: the slow, exact path of the CPU driver, where all floats are of this precision.
    Fp64 = sys::MFA_PRECISION_FP64,
}

impl Precision {
    /// The number that stands for it in the contract.
    #[must_use]
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// The precision that a number of the contract stands for.
    #[must_use]
    pub const fn from_code(code: i32) -> Option<Self> {
        match code {
            sys::MFA_PRECISION_FP32 => Some(Self::Fp32),
            sys::MFA_PRECISION_FP16 => Some(Self::Fp16),
            sys::MFA_PRECISION_BF16 => Some(Self::Bf16),
            sys::MFA_PRECISION_INT4 => Some(Self::Int4),
            sys::MFA_PRECISION_INT8 => Some(Self::Int8),
            sys::MFA_PRECISION_BOOL => Some(Self::Bool),
            sys::MFA_PRECISION_FP64 => Some(Self::Fp64),
            _ => None,
        }
    }

    /// Bits per element.
    #[must_use]
    pub const fn bits(self) -> usize {
        match self {
            Self::Fp64 => 64,
            Self::Fp32 => 32,
            Self::Fp16 | Self::Bf16 => 16,
            Self::Int8 | Self::Bool => 8,
            Self::Int4 => 4,
        }
    }

    /// Whether elements are integers that need a [`Quantization`](crate::Quantization).
    #[must_use]
    pub const fn is_quantized(self) -> bool {
        matches!(self, Self::Int8 | Self::Int4)
    }

    /// How numbers are stored that are not rounded to this precision, beside a query of it: logsumexp and gradients.
    #[must_use]
    pub const fn exact(self) -> Self {
        match self {
            Self::Fp64 => Self::Fp64,
            _ => Self::Fp32,
        }
    }

    /// Bytes of `elements` contiguous elements; `None` if no memory is that large.
    #[must_use]
    pub(crate) fn bytes(self, elements: usize) -> Option<usize> {
        match self {
            Self::Int4 => Some(elements.div_ceil(2)),
            _ => elements.checked_mul(self.bits() / 8),
        }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fp32 => "FP32",
            Self::Fp16 => "FP16",
            Self::Bf16 => "BF16",
            Self::Int4 => "INT4",
            Self::Int8 => "INT8",
            Self::Bool => "BOOL",
            Self::Fp64 => "FP64",
        })
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that stores an element: `f64`, `f32`, `f16`, `bf16`, `i8` (INT8), `bool` and `u8` (BOOL).
pub trait Element: NoUninit + sealed::Sealed {
    /// How it is stored.
    const PRECISION: Precision;
}

macro_rules! elements {
    ($($ty:ty => $precision:ident),* $(,)?) => {$(
        impl sealed::Sealed for $ty {}
        impl Element for $ty {
            const PRECISION: Precision = Precision::$precision;
        }
    )*};
}

elements!(f64 => Fp64, f32 => Fp32, f16 => Fp16, bf16 => Bf16, i8 => Int8, u8 => Bool, bool => Bool);
