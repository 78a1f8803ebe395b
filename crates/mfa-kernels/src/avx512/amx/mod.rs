//! Tiles with AMX. Integers with AMX-INT8: 16 x 64 bytes times 64 x 16 bytes per instruction, in as many cycles as it has rows.
//!
//! Strips are two tiles high. Panels of K and 8-bit V are those of the other tables: they are what the instruction takes.
//! These differ, and nothing outside knows:
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
mod floats;
mod gradient;
mod pack;
mod product;
mod pv_i16;
mod pv_u8;
mod qk_i8;
mod softmax;
mod strip;
mod tile_state;

pub(crate) use tile_state::runs_here;

use super::super::Kernels;
use super::Isa;
use crate::bf16_split::{Bf16Kernels, TileConfig};
use crate::generic::Integers;
use crate::gradient::{Bf16GradientKernels, GradientKernels};
use crate::{BLOCK_N, MAX_MR, P16_LD};

/// Rows of a tile.
const ROWS: usize = 16;
/// Rows of a strip.
const MR: usize = 2 * ROWS;
/// Keys, or columns, of a panel: two tiles.
const NR: usize = 32;
/// Bytes of a row of a tile.
const TILE: usize = 64;
/// Groups of four bytes that a tile has along the sum.
const GROUPS: usize = 16;
/// Where a row's high bytes of 15-bit P follow its low ones.
const HIGH: usize = BLOCK_N;
/// Bytes of four keys in a panel of V in the exact mode.
const EXACT_GROUP: usize = 8 * NR;

/// The kernels of vectors, and the integer tiles.
const VECTORS: Kernels = floats::table(
    Isa::Avx512Amx,
    Integers {
        scores: true,
        values: true,
        q_offset: 0,
        pack_q_i8: qk_i8::pack_q_i8,
        qk_i8: qk_i8::qk_i8,
        pv_i16: pv_i16::pv_i16,
        pv_u8: pv_u8::pv_u8,
    },
);

pub(crate) static TABLE: Kernels = Kernels {
    pack_v_i16: pv_i16::pack_v_i16,
    softmax_i16: softmax::softmax_i16,
    bf16: Some(Bf16Kernels {
        pack_rows: pack::pack_rows,
        pack_transposed: pack::pack_transposed,
        pack_columns: pack::pack_columns,
        pack_panels: pack::pack_panels,
        product: product::product,
        softmax: pack::softmax_bf16,
        rescale: pack::rescale,
        tile_config: TileConfig {
            load: tile_state::load,
            release: tile_state::release,
        },
    }),
    gradient: GradientKernels {
        bf16: Some(Bf16GradientKernels {
            softmax_gradient: gradient::softmax_gradient,
            strip: strip::strip,
            add_transposed: gradient::add_transposed,
            scale_rows: gradient::scale_rows,
            max_abs: gradient::max_abs,
        }),
        ..VECTORS.gradient
    },
    ..VECTORS
};

const _: () = assert!(BLOCK_N.is_multiple_of(TILE) && MR <= MAX_MR && 2 * P16_LD >= 2 * HIGH);
