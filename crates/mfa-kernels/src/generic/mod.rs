//! The kernels in terms of [`crate::simd::Simd`], and the macros that make the tables of an instruction set of them.

pub(crate) mod decode;
pub(crate) mod gradient;
pub(crate) mod int8;
pub(crate) mod pack;
pub(crate) mod quantize;
pub(crate) mod quantize_table;
pub(crate) mod quantized;
mod quantized_table;
pub(crate) mod row;
pub(crate) mod softmax;
pub(crate) mod softmax_integers;
mod table;
pub(crate) mod tile;

pub(crate) use quantized_table::quantized;
pub(crate) use table::{Integers, floats, integers, tables};
