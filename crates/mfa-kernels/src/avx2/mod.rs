//! AVX2 with FMA and F16C, with and without AVX-VNNI.

mod table;
mod vector;

pub(crate) use table::{TABLE, TABLE_VNNI};
