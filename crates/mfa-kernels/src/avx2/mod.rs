//! AVX2 with FMA and F16C, with and without AVX-VNNI.
//!
//! A tile of 6 x 2 vectors keeps 12 sums in the 16 registers, beside the two vectors and the element of a step.

mod floats;
mod plain;
mod vector;
mod vnni;

use super::{Isa, Kernels};

pub(crate) static TABLE: Kernels = floats::table(Isa::Avx2, plain::INTEGERS);
pub(crate) static TABLE_VNNI: Kernels = floats::table(Isa::Avx2Vnni, vnni::INTEGERS);
