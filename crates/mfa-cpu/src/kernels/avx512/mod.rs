//! AVX-512 (F, BW, DQ, VL), with and without VNNI.

use super::{Isa, Kernels, scalar};

pub(crate) static TABLE: Kernels = Kernels {
    int8: false,
    ..scalar::table::<12, 32>(Isa::Avx512)
};

pub(crate) static TABLE_VNNI: Kernels = scalar::table::<12, 32>(Isa::Avx512Vnni);
