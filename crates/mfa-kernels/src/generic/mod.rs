//! The kernels in terms of [`crate::simd::Simd`], and the macros that make the tables of an instruction set of them.

pub(crate) mod decode;
pub(crate) mod gradient;
pub(crate) mod int8;
pub(crate) mod pack;
pub(crate) mod row;
pub(crate) mod softmax;
pub(crate) mod softmax_integers;
mod table;
pub(crate) mod tile;

pub(crate) use table::{Integers, floats, integers, tables};
