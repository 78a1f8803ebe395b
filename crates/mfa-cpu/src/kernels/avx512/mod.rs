//! AVX-512 (F, BW, DQ, VL), with and without VNNI.
//!
//! A tile of 12 x 2 vectors keeps 24 sums in registers: each step loads two vectors, broadcasts twelve elements, and
//! starts twenty-four products, which the two ports of a core take twelve cycles to do.

mod plain;
mod vector;
mod vnni;

pub(crate) use plain::TABLE;
pub(crate) use vnni::TABLE as TABLE_VNNI;
