//! How elements are stored.

use mfa_sys as sys;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Precision {
    F32,
    F64,
    F16,
    Bf16,
    I4,
    I8,
    Bool,
}

impl Precision {
    pub(crate) const FLOATS: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];
    pub(crate) const INTEGERS: [Self; 2] = [Self::I8, Self::I4];
    /// What queries, keys and values are stored in.
    pub(crate) const OPERANDS: [Self; 5] = [Self::F32, Self::F16, Self::Bf16, Self::I8, Self::I4];

    /// What tensors of floats beside an operand may be stored in: FP64 beside an FP64 one, and only there.
    pub(crate) fn floats_beside(self) -> &'static [Self] {
        match self {
            Self::F64 => &[Self::F64],
            _ => &Self::FLOATS,
        }
    }

    /// What statistics and gradients beside an operand are stored in.
    pub(crate) fn exact_beside(self) -> &'static [Self] {
        match self {
            Self::F64 => &[Self::F64],
            _ => &[Self::F32],
        }
    }

    pub(crate) fn from_code(code: i32) -> Option<Self> {
        Some(match code {
            sys::MFA_PRECISION_FP32 => Precision::F32,
            sys::MFA_PRECISION_FP16 => Precision::F16,
            sys::MFA_PRECISION_BF16 => Precision::Bf16,
            sys::MFA_PRECISION_INT4 => Precision::I4,
            sys::MFA_PRECISION_INT8 => Precision::I8,
            sys::MFA_PRECISION_BOOL => Precision::Bool,
            sys::MFA_PRECISION_FP64 => Precision::F64,
            _ => return None,
        })
    }

    pub(crate) fn bits(self) -> usize {
        match self {
            Precision::F64 => 64,
            Precision::F32 => 32,
            Precision::F16 | Precision::Bf16 => 16,
            Precision::I8 | Precision::Bool => 8,
            Precision::I4 => 4,
        }
    }

    /// Bytes of an element; INT4 counts by the byte that holds it.
    pub(crate) fn bytes(self) -> usize {
        self.bits().div_ceil(8)
    }

    pub(crate) fn is_quantized(self) -> bool {
        matches!(self, Precision::I4 | Precision::I8)
    }

    pub(crate) fn is_float(self) -> bool {
        matches!(
            self,
            Precision::F64 | Precision::F32 | Precision::F16 | Precision::Bf16
        )
    }

    /// The largest magnitude of a symmetrically quantized integer.
    pub(crate) fn symmetric_max(self) -> i32 {
        if self == Precision::I4 { 7 } else { 127 }
    }

    /// The smallest and largest integer that is stored.
    pub(crate) fn range(self) -> (i32, i32) {
        if self == Precision::I4 {
            (-8, 7)
        } else {
            (-128, 127)
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Precision::F64 => "FP64",
            Precision::F32 => "FP32",
            Precision::F16 => "FP16",
            Precision::Bf16 => "BF16",
            Precision::I4 => "INT4",
            Precision::I8 => "INT8",
            Precision::Bool => "BOOL",
        }
    }
}
