//! Advanced SIMD of AArch64.

use super::{Isa, Kernels, scalar};

pub(crate) static TABLE: Kernels = Kernels {
    int8: false,
    ..scalar::table::<6, 16>(Isa::Neon)
};
