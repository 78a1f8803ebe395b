//! Tiles with AMX. Integers with AMX-INT8: 16 x 64 bytes times 64 x 16 bytes per instruction, in as many cycles as it has rows.
//!
//! Strips are two tiles high. Panels of K and 8-bit V are those of the other tables: the instruction takes them as they are.
//! These layouts differ ([`crate::IntegerLayout::Bytes`]):
//!
//! | name | layout |
//! |---|---|
//! | Q, i8 | `[mr][4 d4]`, signed |
//! | V, i16 | per panel and four keys, `[nr][4]` of `v` as i8, then the keys' zero points as four i16, and whether any key of the block has one; 256 bytes in all |
//! | P, i16 | per row, [`BLOCK_N`] low bytes, then [`BLOCK_N`] high bytes |
//!
//! Sums of P's halves are put together as `256 * high + low`, and zero points are taken off at the end: 15 bits times 8
//! bits times [`BLOCK_N`] keys fit into an i32, so that all of it is exact.
//!
//! Floats with AMX-BF16, as sums of slices: see [`crate::bf16_split`].

mod column_sums;
mod gradient;
mod pack;
mod product;
mod pv_i16;
mod pv_u8;
mod qk_i8;
mod shape;
mod softmax;
mod strip;
mod table;
mod tile_state;

pub(crate) use table::TABLE;
pub(crate) use tile_state::runs_here;
