//! Advanced SIMD of AArch64, with and without the dot products of DotProd and I8MM.
//!
//! A tile of 6 x 4 vectors keeps 24 sums in the 32 registers. There is no sum of two products of i16, so that values in
//! integers cost as much as in f32: they are expanded.

mod dotprod;
mod floats;
mod i8mm;
mod plain;
mod vector;

use super::{Isa, Kernels};

pub(crate) static TABLE: Kernels = floats::table(Isa::Neon, plain::INTEGERS);
pub(crate) static TABLE_DOTPROD: Kernels = floats::table(Isa::NeonDotProd, dotprod::INTEGERS);
pub(crate) static TABLE_I8MM: Kernels = floats::table(Isa::NeonI8mm, i8mm::INTEGERS);
