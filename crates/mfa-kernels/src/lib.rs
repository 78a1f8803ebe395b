//! Micro-kernels of attention: one table of function pointers per instruction set, chosen once per process.
//!
//! `mfa-cpu` has the loops of attention: blocks, masks, threads. This crate has the kernels of a tile. Every kernel has a
//! scalar twin with the same signature, and the same tests run on both.
//!
//! # Tiles
//!
//! A *strip* is a micro-panel of A in the sense of BLIS: `mr` rows of Q or P. A *panel* is a micro-panel of B: `nr` keys of K
//! or `nr` columns of V. A *block* is up to [`BLOCK_N`] keys: FlashAttention's block N.
//! Both sizes depend on the instruction set: [`Kernels::mr`], [`Kernels::nr`].
//!
//! # Layouts
//!
//! | name | layout | made by |
//! |---|---|---|
//! | Q, f32 | `[d][mr]`, rows past the end are zero | `pack_q_f32` |
//! | K, f32 | per panel `[d][nr]`, keys past the end are zero | `pack_k_f32` |
//! | V, f32 | per panel `[packed][nr]`, columns past the end are zero | `pack_v_f32` |
//! | Q, i8 | `[d4][mr][4]` of `q + q_offset`, where `d4 = ceil(d / 4)`; padding is q = 0 | `pack_q_i8` |
//! | K, i8 | per panel `[d4][nr][4]`, padding is zero | `pack_k_i8` |
//! | K, i8, where [`Kernels::k_i8_bytes`] is 2 | per panel `[2][d4][nr][2]` of i16: elements 0 and 2 of each four, then 1 and 3 | `pack_k_i8` |
//! | V, i16 | per panel `[ceil(packed / 2)][nr][2]` of `v - zero_point`, padding is zero | `pack_v_i16` |
//! | V, i8 | per panel `[ceil(packed / 4)][nr][4]` of `v`, padding is zero | `pack_v_i8` |
//! | scores and P, f32 | `[mr]` rows, [`SCORE_LD`] apart | `qk_*`, `softmax_*` |
//! | P, i16 | `[mr]` rows, [`P16_LD`] apart; padded with zeros to an even number of keys | `softmax_i16` |
//! | P, u8 | `[mr]` rows, [`P8_LD`] apart; padded with zeros to a multiple of four keys | `softmax_u8` |
//! | O, f32 | `[mr]` rows, `ldo` apart, `ldo` a multiple of `nr` | `pv_*` |
//!
//! [`bf16_split`] has the layouts of operands that are bf16 slices.
//!
//! `packed` is the number of keys that `pack_v_*` was given. `pv_*` multiplies any run of them: it takes a pointer to the
//! first key, which is a multiple of `nr`, the length of the run, and `packed`.
//!
//! Only kernels read and write integer Q, and 16-bit P and V. [`IntegerLayout::Bytes`] has other layouts of them, of the same
//! size, except that V takes the room of a multiple of four keys. Columns past the end of O are undefined.
//!
//! Packed operands, scores, P and O are 64-byte aligned. Sources (`rows`, and `k` and `v` of the decode kernels) need no
//! alignment. Scores are in the base-2 domain: `pack_q_f32` multiplies the query by `softmax_scale * log2(e)`.

// A kernel is one unsafe contract from its first line to its last: pointers, lengths and layouts as its type says.
// Blocks inside it would repeat that message at every load.
#![allow(unsafe_op_in_unsafe_fn)]

pub mod base2;
pub mod bf16_split;
mod exp2;
mod generic;
pub mod gradient;
mod isa;
mod layout;
mod precision;
pub mod quantize;
pub mod quantized;
mod scalar;
mod select;
mod signatures;
mod simd;
mod table;
#[cfg(all(test, unix))]
mod tests;
mod tile_config;
mod tuning;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

pub use gradient::GradientKernels;
pub use isa::Isa;
pub use layout::{
    BLOCK_N, DECODE_ROWS, MAX_MR, MOST_ALIBI, P8_LD, P16_LD, SCORE_LD, SUM_RUN, TOP8, TOP16,
};
pub use precision::{Kind, PerInteger, PerPrecision, Precision, Traits};
pub use quantize::{QuantizeKernels, RowError, RowScales, ScaleRule};
pub use quantized::QuantizedKernels;
pub use scalar::rotate_row;
pub use select::kernels;
pub use signatures::{
    Alibi, AxpyRows, DotRows, MaskAdd, MaskBool, PackKF32, PackKI8, PackQF32, PackQI8, PackVF32,
    PackVI8, PackVI16, Prefetch, PvF32, PvI16, PvU8, QkF32, QkI8, RowState, Scale, ScoreScales,
    Softcap, SoftmaxF32, SoftmaxI16, SoftmaxU8, ToBf16, ToF16, ToF32, UnpackI4,
};
pub use table::{IntegerLayout, Kernels};
pub use tile_config::TileConfigGuard;
pub use tuning::{BackwardTuning, Bf16BlockSizes, BlockSizes, ForwardTuning, Tuning};
