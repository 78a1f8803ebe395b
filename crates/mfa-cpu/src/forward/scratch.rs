//! The memory of a worker of the forward pass, and the loops' view of a call.

#![forbid(unsafe_code)]

use crate::contract::problem::Problem;
use crate::forward::block_sizes::{k_row_bytes, q_row_bytes, v_row_bytes};
use crate::forward::plan::{Algorithm, ForwardPlan};
use crate::forward::score_mod::ScoreMod;
use crate::operands::arithmetic::ValueArithmetic;
use crate::operands::padding::padded;
use crate::runtime::memory::{Arena, scratch};
use mfa_kernels::bf16_split::long_row_len;
use mfa_kernels::{BLOCK_N, DECODE_ROWS, Kernels, P8_LD, P16_LD, SCORE_LD};

/// The prefill loops of one call on one worker.
pub(super) struct Prefill<'a> {
    pub problem: &'a Problem,
    pub plan: &'a ForwardPlan<'a>,
    pub kernels: &'a Kernels,
    pub score_mod: &'a ScoreMod<'a>,
    pub scratch: &'a PrefillScratch,
}

impl Prefill<'_> {
    /// Distance of the rows of O, in elements.
    pub(super) fn ldo(&self) -> usize {
        padded(self.problem.dv, self.kernels)
    }
}

scratch! {
    /// The memory of a worker that runs tiles. `tile`: query rows of a tile, a multiple of `mr`. `keys`: keys of a block.
    pub(super) struct PrefillScratch {
        /// Packed Q of the tile.
        pub q: [u8; tile * q_row_bytes(plan.scores, problem.d)],
        /// Unnormalised O of the tile, rows `ldo` apart.
        pub o: [f32; tile * ldo],
        /// Running maximum, per row of the tile: see [`mfa_kernels::RowState`].
        pub m: [f32; tile],
        /// Running sum of the weights, per row of the tile.
        pub l: [f32; tile],
        /// Rounding remainder of `l`, per row of the tile.
        pub left: [f32; tile],
        /// INT8 scores, per row of the tile: see [`mfa_kernels::ScoreScales`].
        pub row_scale: [f32; tile],
        /// As above.
        pub row_sum: [f32; tile],
        /// As above.
        pub row_add: [f32; tile],
        /// Packed K of the block.
        pub k: [u8; keys * k_row_bytes(kernels, plan.scores, problem.d)],
        /// Packed V of the block.
        pub v: [u8; keys * v_row_bytes(plan.values, ldo)],
        /// Dequantized or unpacked rows, before packing.
        pub rows: [u8; 4 * widest * plan.block_keys.max(mr)],
        /// S of a strip, then P in FP32; rows [`SCORE_LD`] apart.
        pub s: [f32; mr * SCORE_LD],
        /// P of a strip, as integers or slices.
        pub p: [u8; mr * p_row_bytes],
        /// Factors of the rows of O, per row of the strip.
        pub alpha: [f32; mr],
        /// Scale of integer P, per row of the strip.
        pub p_scale: [f32; mr],
        /// Sum of 8-bit P, per row of the strip.
        pub p_sum: [i32; mr],
        /// Sums of integers, per row of a strip of Q or per key of the block.
        pub sums: [i32; BLOCK_N.max(tile)],
        /// INT8 scores, per key of the block: see [`mfa_kernels::ScoreScales`].
        pub col_bias: [i32; BLOCK_N],
        /// As above.
        pub col_scale: [f32; BLOCK_N],
        /// As above.
        pub col_zero: [f32; BLOCK_N],
        /// Scales of V, per key of the block.
        pub v_scale: [f32; BLOCK_N],
        /// Zero points of V, per key of the block.
        pub v_zero: [i32; BLOCK_N],
        /// A row of the mask, or the scales of V that a row uses.
        pub row_buffer: [f32; BLOCK_N.max(ldo)],
        /// See [`super::masked_keys::MaskedKeys`].
        pub masked: [u8; mr * BLOCK_N],
        /// Whether no row of a strip attends to the block, per strip of the tile.
        pub fully_masked: [bool; tile.div_ceil(mr)],
    }

    fn allocate(problem: &Problem, plan: &ForwardPlan<'_>, kernels: &Kernels) {
        let (ldo, mr, tile) = (padded(problem.dv, kernels), kernels.mr, plan.tile_rows);
        let widest = dequantized_ld(problem.d.max(problem.dv));
        // A whole number of panels of K, and of steps of each kernel along V.
        let keys = plan.block_keys.next_multiple_of(kernels.nr);
        let p_row_bytes = match plan.values {
            ValueArithmetic::F32 => 0,
            ValueArithmetic::I16(_) => 2 * P16_LD,
            ValueArithmetic::U8(_) => P8_LD,
            ValueArithmetic::Bf16(products, _) => 2 * long_row_len(keys, products.slices_of_a()),
        };
    }
}

/// Keys that decode dequantizes at a time: 16 rows of 512 floats (32 KiB) fit the first-level cache. Chosen by model, not
/// measured.
pub(super) const DEQUANTIZED_KEYS: usize = 16;

/// Distance of dequantized rows, in elements.
pub(super) fn dequantized_ld(columns: usize) -> usize {
    columns.next_multiple_of(16)
}

scratch! {
    /// The memory of a worker that decodes.
    pub(super) struct DecodeScratch {
        /// Q times softmax scale, and times the scale of K if it has one; rows [`dequantized_ld`] apart.
        pub q: [f32; DECODE_ROWS * dequantized_ld(problem.d)],
        /// `q` times the scales of a block of K's channels, likewise.
        pub q_folded: [f32; DECODE_ROWS * dequantized_ld(problem.d)],
        /// Sum of the columns of `q`, per row: the factor of a zero point of K. Of channels: the term of their zero points.
        pub q_sum: [f32; DECODE_ROWS],
        /// Added to the scores, per row: from the mean and the zero point of K.
        pub q_add: [f32; DECODE_ROWS],
        /// Unnormalised O, rows `ldo` apart.
        pub o: [f32; DECODE_ROWS * ldo],
        /// Running maximum, per row: see [`mfa_kernels::RowState`].
        pub m: [f32; DECODE_ROWS],
        /// Running sum of the weights, per row.
        pub l: [f32; DECODE_ROWS],
        /// Rounding remainder of `l`, per row: 0, for P stays in FP32.
        pub left: [f32; DECODE_ROWS],
        /// Sum of weight times zero point of V, per row: subtracted from each column of O at the end.
        pub zero_sum: [f32; DECODE_ROWS],
        /// Factors of the rows of O, per row.
        pub alpha: [f32; DECODE_ROWS],
        /// S, then P; rows [`SCORE_LD`] apart.
        pub s: [f32; DECODE_ROWS * SCORE_LD],
        /// Dequantized rows of K or V, or scales and zero points of their groups.
        pub rows: [f32; DEQUANTIZED_KEYS * dequantized_ld(problem.d.max(problem.dv))],
        /// Sums of weighted integers of V, rows `ldo` apart.
        pub sums: [f32; DECODE_ROWS * ldo],
        /// Scales and zero points of the channels of K or V.
        pub channels: [f32; 2 * problem.d.max(problem.dv)],
        /// A row of the mask, or scales or zero points, per key of the block.
        pub row_buffer: [f32; BLOCK_N],
        /// Zero points of V, per key of the block.
        pub zeros: [f32; BLOCK_N],
        /// See [`super::masked_keys::MaskedKeys`].
        pub masked: [u8; BLOCK_N],
    }

    fn allocate(problem: &Problem, kernels: &Kernels) {
        let ldo = padded(problem.dv, kernels);
    }
}

/// The memory of a worker.
pub(super) enum ForwardScratch {
    Prefill(PrefillScratch),
    Decode(DecodeScratch),
}

/// Unnormalised results of an item, per row.
pub(super) struct RowResults {
    /// O, rows `ldo` apart.
    pub o: *mut f32,
    pub m: *mut f32,
    pub l: *mut f32,
    pub left: *mut f32,
}

impl ForwardScratch {
    pub(super) fn allocate(
        arena: &mut Arena,
        problem: &Problem,
        plan: &ForwardPlan<'_>,
        kernels: &Kernels,
    ) -> Self {
        match plan.path {
            Algorithm::Prefill => {
                ForwardScratch::Prefill(PrefillScratch::allocate(arena, problem, plan, kernels))
            }
            Algorithm::Decode => {
                ForwardScratch::Decode(DecodeScratch::allocate(arena, problem, kernels))
            }
        }
    }

    pub(super) fn results(&self) -> RowResults {
        let (o, m, l, left) = match self {
            ForwardScratch::Prefill(s) => (s.o, s.m, s.l, s.left),
            ForwardScratch::Decode(s) => (s.o, s.m, s.l, s.left),
        };
        RowResults { o, m, l, left }
    }
}
