//! The precisions that tensors of a call may have together.

#![forbid(unsafe_code)]

use mfa_kernels::Precision;

/// Floats of FP32 arithmetic.
pub(crate) const FLOATS: [Precision; 3] = [Precision::F32, Precision::F16, Precision::Bf16];
/// Integers that need a scale.
pub(crate) const INTEGERS: [Precision; 2] = [Precision::I8, Precision::I4];
/// The precisions of queries, keys and values of FP32 arithmetic.
pub(crate) const OPERANDS: [Precision; 5] = [
    Precision::F32,
    Precision::F16,
    Precision::Bf16,
    Precision::I8,
    Precision::I4,
];

/// The precisions of float tensors beside an operand: FP64 beside FP64, and only there.
pub(crate) fn floats_beside(operand: Precision) -> &'static [Precision] {
    match operand {
        Precision::F64 => &[Precision::F64],
        _ => &FLOATS,
    }
}

/// The precisions of statistics and gradients beside an operand.
pub(crate) fn exact_beside(operand: Precision) -> &'static [Precision] {
    match operand {
        Precision::F64 => &[Precision::F64],
        _ => &[Precision::F32],
    }
}

#[cfg(test)]
mod tests {
    use mfa_sys as sys;

    use super::*;

    #[test]
    fn codes_are_those_of_the_contract() {
        let codes = [
            (Precision::F32, sys::MFA_PRECISION_FP32),
            (Precision::F16, sys::MFA_PRECISION_FP16),
            (Precision::Bf16, sys::MFA_PRECISION_BF16),
            (Precision::I4, sys::MFA_PRECISION_INT4),
            (Precision::I8, sys::MFA_PRECISION_INT8),
            (Precision::Bool, sys::MFA_PRECISION_BOOL),
            (Precision::F64, sys::MFA_PRECISION_FP64),
        ];
        assert_eq!(codes.map(|(precision, _)| precision), Precision::ALL);
        for (precision, code) in codes {
            assert_eq!(Precision::from_code(code), Some(precision));
        }
        assert_eq!(Precision::from_code(3), None);
    }
}
