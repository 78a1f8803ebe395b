//! Sizes and ranges that callers and the kernels of every instruction set share.

/// Keys of a block, at most: FlashAttention's block N. 32767 * 255 * BLOCK_N is below 2^31, so that the sums of `pv_i16` are
/// exact.
pub const BLOCK_N: usize = 256;
/// Distance of score rows, in elements: not a power of two, so that rows do not share L1 sets.
pub const SCORE_LD: usize = BLOCK_N + 16;
/// Distance of rows of 16-bit P, in elements.
pub const P16_LD: usize = BLOCK_N + 32;
/// Distance of rows of 8-bit P, in elements.
pub const P8_LD: usize = BLOCK_N + 64;
/// The largest bias of ALiBi: far keys have next to no weight, but are not masked.
pub const MOST_ALIBI: f32 = 3e38;
/// Keys that FP32 sums of P V add one after the other before the result joins the sum so far. Small weights are then rounded
/// to the size of a large one a few at a time.
pub const SUM_RUN: usize = 64;
/// The largest weight of 16-bit P: one less than the largest integer, because rounding may carry one into it.
pub const TOP16: f32 = 32766.0;
/// The largest weight of 8-bit P: one less than the largest integer, because rounding may carry one into it.
pub const TOP8: f32 = 254.0;
/// Rows of the decode kernels, at most.
pub const DECODE_ROWS: usize = 8;
/// The largest [`crate::Kernels::mr`] of any table.
pub const MAX_MR: usize = 32;
