//! The arithmetic of the products: floats, integers, or sums of bf16 products.

use mfa_kernels::bf16_split::Bf16Products;

/// The arithmetic of Q Kᵀ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scores {
    F32,
    I8,
    /// FP32 sums of products of BF16 parts.
    Bf16(Bf16Products),
}

/// The arithmetic of P V.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Values {
    F32,
    /// P to 15 bits.
    I16,
    /// P to 8 bits.
    U8,
    /// FP32 sums of products of BF16 parts; P to as many as V has.
    Bf16(Bf16Products),
}

impl Scores {
    pub(crate) fn describe(self) -> String {
        match self {
            Scores::F32 => "FP32 products".into(),
            Scores::I8 => "INT8 products, INT32 sums".into(),
            Scores::Bf16(terms) => terms.describe(),
        }
    }
}

impl Values {
    pub(crate) fn describe(self) -> String {
        match self {
            Values::F32 => "FP32 products".into(),
            Values::I16 => "16-bit products, INT32 sums".into(),
            Values::U8 => "8-bit products, INT32 sums".into(),
            Values::Bf16(terms) => terms.describe(),
        }
    }
}
