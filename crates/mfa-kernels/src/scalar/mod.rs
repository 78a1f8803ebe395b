//! The kernels in plain Rust: the reference of every other table, and the table of processors without one.
//!
//! All are generic over the tile (`MR` rows, `NR` keys or columns) and over the offset of Q, so that each table has twins of
//! its own layout.

#[cfg(all(test, unix))]
pub(crate) mod bf16_gradient;
#[cfg(all(test, unix))]
pub(crate) mod bf16_split;
mod columns;
mod decode;
mod gradient;
mod pack;
mod pv;
mod qk;
mod quantize;
mod row;
mod softmax;
mod table;

pub use quantize::rotate_row;
pub(crate) use table::TABLE;
#[cfg(all(test, unix))]
pub(crate) use table::twin;
