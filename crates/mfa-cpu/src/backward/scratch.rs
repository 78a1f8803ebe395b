//! A worker's memory.

use super::check::Backward;
use super::plan::{BackwardPlan, DSource, Products};
use super::row_statistics::BUFFERED_ROWS;
use crate::operands::padding::padded;
use crate::runtime::memory::Arena;
use mfa_kernels::bf16_split::{Bf16Products, STEP, long_row_len};
use mfa_kernels::{Kernels, SCORE_LD};

/// Distance of dequantized rows.
pub(super) fn stride(columns: usize) -> usize {
    columns.next_multiple_of(16)
}

/// What a worker packs and accumulates for a block of queries and a block of keys. Every pointer is 64-byte aligned.
pub(super) struct BackwardScratch {
    /// Q and dO as panels of rows (the K of `qk_*`), and as panels of columns (the V of `pv_f32`).
    pub q_panels: *mut u8,
    pub q_columns: *mut f32,
    pub do_panels: *mut f32,
    pub do_columns: *mut f32,
    /// K and V as strips (the Q of `qk_*`), and K as panels of columns.
    pub k_strips: *mut u8,
    pub k_columns: *mut f32,
    pub v_strips: *mut f32,
    /// Per query: logsumexp in base 2, +infinity where it is -infinity, and D.
    pub l: *mut f32,
    pub d: *mut f32,
    /// A strip of scores, then of P; with a softcap, the derivative of the scores.
    pub s: *mut f32,
    pub slope: *mut f32,
    /// dP, then the gradient of the scores, of all keys of the block.
    pub ds: *mut f32,
    pub dq: *mut f32,
    pub dk: *mut f32,
    pub dv: *mut f32,
    /// As many ones as a strip has rows.
    pub ones: *mut f32,
    /// Expanded rows, before packing.
    pub rows: *mut f32,
    pub row_buffer: *mut f32,
    /// Rows of O and dO, for D.
    pub row_buffers: *mut f32,
    /// For INT8 scores: per query and per key, as in [`mfa_kernels::ScoreScales`].
    pub sums: *mut i32,
    pub col_bias: *mut i32,
    pub col_scale: *mut f32,
    pub col_zero: *mut f32,
    pub row_scale: *mut f32,
    pub row_sum: *mut f32,
    pub row_add: *mut f32,
    /// The mask of the two blocks, transposed, and as it is read; the gradient of the mask on its way back.
    pub mask: *mut f32,
    pub mask_rows: *mut f32,
    pub bf16: Bf16Scratch,
    pub weights: Bf16Weights,
}

/// Operands of products of parts, and dQ transposed, where there are such products.
pub(super) struct Bf16Scratch {
    /// Q and dO as B of S and dP, and of dK and dV.
    pub q_columns: *mut u16,
    pub q_panels: *mut u16,
    pub do_columns: *mut u16,
    pub do_panels: *mut u16,
    /// K and V as A of S and dP; K as A of dQ transposed.
    pub k: *mut u16,
    pub v: *mut u16,
    pub k_transposed: *mut u16,
    pub dq: *mut f32,
}

/// P and dS of a strip as A; dS of all keys of the block as B.
pub(super) struct Bf16Weights {
    pub p: *mut u16,
    pub ds: *mut u16,
    pub ds_columns: *mut u16,
}

impl Bf16Weights {
    fn allocate(arena: &mut Arena, plan: &BackwardPlan) -> Self {
        let (queries, keys) = (plan.block_queries, plan.block_keys);
        let strip = |terms: fn(Products) -> Bf16Products| {
            let row = |p: Products| long_row_len(queries, terms(p).slices_of_a());
            plan.products.map_or(0, |p| STEP * row(p))
        };
        Bf16Weights {
            p: arena.alloc(strip(|p| p.p)),
            ds: arena.alloc(strip(|p| p.ds)),
            ds_columns: arena.alloc(elements(plan, keys, queries, |p| p.ds)),
        }
    }
}

/// Elements of an operand, whichever of its sides has the terms of the sum.
fn elements(
    plan: &BackwardPlan,
    rows: usize,
    columns: usize,
    terms: fn(Products) -> Bf16Products,
) -> usize {
    let squares = rows.div_ceil(STEP) * columns.div_ceil(STEP);
    let parts = plan.products.map_or(0, |p| terms(p).slices_of_b());
    squares * parts * STEP * STEP
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
            k_transposed: arena.alloc(plan.products.map_or(0, |p| {
                d.next_multiple_of(STEP) * long_row_len(keys, p.ds.slices_of_a())
            })),
            dq: arena.alloc(plan.products.map_or(0, |_| transposed)),
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
        // Blocks of floats and parts of P and dS are never in use together: they share their memory.
        let (mut floats, mut parts) = (*arena, *arena);
        let q_panels = floats.alloc(queries * 4 * d);
        let q_columns = floats.alloc(queries * wide_d);
        let do_panels = floats.alloc(queries * dv);
        let do_columns = floats.alloc(queries * wide_dv);
        let k_strips = floats.alloc(keys * 4 * d);
        let k_columns = floats.alloc(keys * wide_d);
        let v_strips = floats.alloc(keys * dv);
        let weights = Bf16Weights::allocate(&mut parts, plan);
        *arena = if floats.used() > parts.used() {
            floats
        } else {
            parts
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
