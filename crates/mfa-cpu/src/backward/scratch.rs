//! The memory of a worker.

use super::check::Backward;
use super::plan::{BackwardPlan, Bf16ProductSet, DSource};
use super::row_statistics::BUFFERED_ROWS;
use crate::operands::padding::padded;
use crate::runtime::memory::Arena;
use mfa_kernels::bf16_split::{Bf16Products, STEP, long_row_len};
use mfa_kernels::{Kernels, SCORE_LD};

/// Elements from a dequantized row to the next.
pub(super) fn stride(columns: usize) -> usize {
    columns.next_multiple_of(16)
}

/// The memory of a worker: packed operands and accumulators of a block of queries and a block of keys.
///
/// N is the queries of a block in whole panels, M the keys of a block in whole strips; D and Dv are the columns of Q and V, Dp
/// and Dvp the same in whole panels. Every pointer is 64-byte aligned.
pub(super) struct BackwardScratch {
    /// Q as panels of rows (the K of `qk_*`), [N / nr][D][nr] f32 or INT8 K as `pack_k_i8` lays it out.
    pub q_panels: *mut u8,
    /// Q as panels of columns (the V of `pv_f32`), [Dp / nr][N][nr].
    pub q_columns: *mut f32,
    /// dO as panels of rows, [N / nr][Dv][nr].
    pub do_panels: *mut f32,
    /// dO as panels of columns, [Dvp / nr][N][nr].
    pub do_columns: *mut f32,
    /// K as strips (the Q of `qk_*`), [M / mr][D][mr] f32 or [M / mr][D / 4][mr][4] i8.
    pub k_strips: *mut u8,
    /// K as panels of columns, [Dp / nr][M][nr].
    pub k_columns: *mut f32,
    /// V as strips, [M / mr][Dv][mr].
    pub v_strips: *mut f32,
    /// logsumexp in base 2, +infinity where it is -infinity, [N].
    pub l: *mut f32,
    /// D, [N].
    pub d: *mut f32,
    /// S, then P of a strip, [mr][SCORE_LD].
    pub s: *mut f32,
    /// The derivative of the softcap, [mr][SCORE_LD]; empty without one.
    pub slope: *mut f32,
    /// dP, then dS of all keys of the block, [M][SCORE_LD].
    pub ds: *mut f32,
    /// dQ of the block, [N][Dp].
    pub dq: *mut f32,
    /// dK of the block, [M][Dp].
    pub dk: *mut f32,
    /// dV of the block, [M][Dvp].
    pub dv: *mut f32,
    /// Ones, [mr].
    pub ones: *mut f32,
    /// Dequantized rows before packing, [max(N, M)][stride(max(D, Dv))].
    pub rows: *mut f32,
    /// One dequantized row, [stride(max(D, Dv))].
    pub row_buffer: *mut f32,
    /// Rows of O and dO, for D, [BUFFERED_ROWS][Dv]; empty unless D comes from O.
    pub row_buffers: *mut f32,
    /// For INT8 scores: sums of integers per row that is packed, [max(N, mr)].
    pub sums: *mut i32,
    /// For INT8 scores: [`mfa_kernels::ScoreScales::col_bias`] and the next two, [N] each.
    pub col_bias: *mut i32,
    pub col_scale: *mut f32,
    pub col_zero: *mut f32,
    /// For INT8 scores: [`mfa_kernels::ScoreScales::row_scale`] and the next two, [M] each.
    pub row_scale: *mut f32,
    pub row_sum: *mut f32,
    pub row_add: *mut f32,
    /// The mask of the pair of blocks, transposed, [M][SCORE_LD]; empty without a mask.
    pub mask: *mut f32,
    /// The mask as it is stored, [N][M] and one row [M]; dS on its way back to the gradient of the mask.
    pub mask_rows: *mut f32,
    /// Operands of bf16 products.
    pub bf16: Bf16Scratch,
    /// P and dS of bf16 products.
    pub weights: Bf16Weights,
}

/// Operands of bf16 products; empty without them. Layouts are those of [`mfa_kernels::bf16_split`].
pub(super) struct Bf16Scratch {
    /// Q as B of S, [N][D].
    pub q_columns: *mut u16,
    /// Q as B of dK, [D][N].
    pub q_panels: *mut u16,
    /// dO as B of dP, [N][Dv].
    pub do_columns: *mut u16,
    /// dO as B of dV, [Dv][N].
    pub do_panels: *mut u16,
    /// K as A of S, [M][D].
    pub k: *mut u16,
    /// V as A of dP, [M][Dv].
    pub v: *mut u16,
    /// K as A of dQ transposed, [D][M].
    pub k_transposed: *mut u16,
    /// dQ transposed, [D in whole steps][SCORE_LD].
    pub dq: *mut f32,
}

/// P and dS of bf16 products; empty without them.
pub(super) struct Bf16Weights {
    /// P of a strip as A, [STEP][N].
    pub p: *mut u16,
    /// dS of a strip as A, [STEP][N].
    pub ds: *mut u16,
    /// dS of all keys of the block as B, [N][M].
    pub ds_columns: *mut u16,
}

impl Bf16Weights {
    fn allocate(arena: &mut Arena, plan: &BackwardPlan) -> Self {
        let (queries, keys) = (plan.block_queries, plan.block_keys);
        let strip = |terms: fn(Bf16ProductSet) -> Bf16Products| {
            let row = |p: Bf16ProductSet| long_row_len(queries, terms(p).slices_of_a());
            plan.bf16.map_or(0, |bf16| STEP * row(bf16.products))
        };
        Bf16Weights {
            p: arena.alloc(strip(|p| p.p)),
            ds: arena.alloc(strip(|p| p.ds)),
            ds_columns: arena.alloc(elements(plan, keys, queries, |p| p.ds)),
        }
    }
}

/// Elements of an operand, whichever of its dimensions is summed over.
fn elements(
    plan: &BackwardPlan,
    rows: usize,
    columns: usize,
    terms: fn(Bf16ProductSet) -> Bf16Products,
) -> usize {
    let squares = rows.div_ceil(STEP) * columns.div_ceil(STEP);
    let slices = plan
        .bf16
        .map_or(0, |bf16| terms(bf16.products).slices_of_b());
    squares * slices * STEP * STEP
}

impl Bf16Scratch {
    fn allocate(arena: &mut Arena, call: &Backward, plan: &BackwardPlan) -> Self {
        let (d, dv) = (call.problem.d, call.problem.dv);
        let (queries, keys) = (plan.block_queries, plan.block_keys);
        let size = |rows, columns, terms| elements(plan, rows, columns, terms);
        let transposed = d.next_multiple_of(STEP) * SCORE_LD;
        Bf16Scratch {
            q_columns: arena.alloc(size(queries, d, |p| p.scores)),
            q_panels: arena.alloc(size(queries, d, |p| p.ds)),
            do_columns: arena.alloc(size(queries, dv, |p| p.dp)),
            do_panels: arena.alloc(size(queries, dv, |p| p.p)),
            k: arena.alloc(size(keys, d, |p| p.scores)),
            v: arena.alloc(size(keys, dv, |p| p.dp)),
            k_transposed: arena.alloc(plan.bf16.map_or(0, |bf16| {
                d.next_multiple_of(STEP) * long_row_len(keys, bf16.products.ds.slices_of_a())
            })),
            dq: arena.alloc(plan.bf16.map_or(0, |_| transposed)),
        }
    }
}

// SAFETY: each worker uses its own scratch.
unsafe impl Sync for BackwardScratch {}

impl BackwardScratch {
    pub(super) fn allocate(
        arena: &mut Arena,
        call: &Backward,
        plan: &BackwardPlan,
        kernels: &Kernels,
    ) -> Self {
        let problem = &call.problem;
        let (d, dv) = (problem.d, problem.dv);
        let (wide_d, wide_dv) = (padded(d, kernels), padded(dv, kernels));
        let queries = plan.block_queries.next_multiple_of(kernels.nr);
        let keys = plan.block_keys.next_multiple_of(kernels.mr);
        let most = queries.max(keys);
        let masked = problem.options.mask.is_some();
        let if_masked = |n: usize| if masked { n } else { 0 };
        let capped = problem.options.caps();
        // Blocks of floats and bf16 slices of P and dS are never in use together: they share their memory.
        let (mut floats, mut slices) = (*arena, *arena);
        let q_panels = floats.alloc(queries * 4 * d.max(2));
        let q_columns = floats.alloc(queries * wide_d);
        let do_panels = floats.alloc(queries * dv);
        let do_columns = floats.alloc(queries * wide_dv);
        let k_strips = floats.alloc(keys * 4 * d);
        let k_columns = floats.alloc(keys * wide_d);
        let v_strips = floats.alloc(keys * dv);
        let weights = Bf16Weights::allocate(&mut slices, plan);
        *arena = if floats.used() > slices.used() {
            floats
        } else {
            slices
        };
        BackwardScratch {
            q_panels,
            q_columns,
            do_panels,
            do_columns,
            k_strips,
            k_columns,
            v_strips,
            l: arena.alloc(queries),
            d: arena.alloc(queries),
            s: arena.alloc(kernels.mr * SCORE_LD),
            slope: arena.alloc(if capped { kernels.mr * SCORE_LD } else { 0 }),
            ds: arena.alloc(keys * SCORE_LD),
            dq: arena.alloc(queries.next_multiple_of(kernels.mr) * wide_d),
            dk: arena.alloc(keys * wide_d),
            dv: arena.alloc(keys * wide_dv),
            ones: arena.alloc(kernels.mr),
            rows: arena.alloc(most * stride(d.max(dv))),
            row_buffer: arena.alloc(stride(d.max(dv))),
            row_buffers: arena.alloc(match plan.d {
                DSource::Output => BUFFERED_ROWS * dv,
                _ => 0,
            }),
            sums: arena.alloc(queries.max(kernels.mr)),
            col_bias: arena.alloc(queries),
            col_scale: arena.alloc(queries),
            col_zero: arena.alloc(queries),
            row_scale: arena.alloc(keys),
            row_sum: arena.alloc(keys),
            row_add: arena.alloc(keys),
            mask: arena.alloc(if_masked(keys * SCORE_LD)),
            mask_rows: arena.alloc(if_masked(queries * keys + keys)),
            bf16: Bf16Scratch::allocate(arena, call, plan),
            weights,
        }
    }
}
