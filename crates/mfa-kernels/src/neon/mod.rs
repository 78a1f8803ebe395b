//! Advanced SIMD of AArch64, with and without the dot products of DotProd and I8MM.

mod table;
mod vector;

pub(crate) use table::{TABLE, TABLE_DOTPROD, TABLE_I8MM};
