//! AVX-512 (F, BW, DQ, VL), with and without VNNI, and with AMX, whose products of floats are those of bf16 slices.
//!
//! A tile of 12 x 2 vectors keeps 24 sums in registers: each step loads two vectors, broadcasts twelve elements, and
//! starts twenty-four products, which the two ports of a core take twelve cycles to do.

pub(super) mod amx;
mod floats;
mod plain;
mod vector;
mod vnni;

use super::{Isa, Kernels};
pub(crate) use amx::TABLE as TABLE_AMX;

pub(crate) static TABLE: Kernels = floats::table(Isa::Avx512, plain::INTEGERS);
pub(crate) static TABLE_VNNI: Kernels = floats::table(Isa::Avx512Vnni, vnni::INTEGERS);
