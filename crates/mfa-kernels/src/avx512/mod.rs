//! AVX-512 (F, BW, DQ, VL), with and without VNNI, and with AMX, whose products of floats are those of bf16 slices.

pub(crate) mod amx;
mod table;
mod vector;

pub(crate) use table::{TABLE, TABLE_VNNI};
