//! A worker's memory.

use super::check::Backward;
use super::plan::{Parts, Plan};
use crate::kernels::parts::{STEP, TILE};
use crate::kernels::{Kernels, SCORE_LD};
use crate::memory::Arena;

/// Columns padded to whole panels.
pub(super) fn padded(columns: usize, kernels: &Kernels) -> usize {
    columns.next_multiple_of(kernels.nr)
}

/// Distance of expanded rows.
pub(super) fn stride(columns: usize) -> usize {
    columns.next_multiple_of(16)
}

/// What a worker packs and accumulates for a block of queries and a block of keys. Every pointer is 64-byte aligned.
pub(super) struct Scratch {
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
    pub line: *mut f32,
    /// For INT8 scores: per query and per key, as in [`crate::kernels::ScoreScales`].
    pub sums: *mut i32,
    pub col_bias: *mut i32,
    pub col_scale: *mut f32,
    pub col_zero: *mut f32,
    pub row_scale: *mut f32,
    pub row_sum: *mut f32,
    pub row_add: *mut f32,
    /// The mask of the two blocks, transposed, and as it is read; the gradient of the mask on its way back.
    pub mask: *mut f32,
    pub stage: *mut f32,
    pub tiles: TileScratch,
}

/// Operands of products of bf16 parts, and dQ transposed, where there are such products.
pub(super) struct TileScratch {
    /// Q and dO as right operands of scores and dP, and of dK and dV.
    pub q_scores: *mut u16,
    pub q_sums: *mut u16,
    pub do_scores: *mut u16,
    pub do_sums: *mut u16,
    /// K and V as left operands of scores and dP; K as left operand of dQ transposed.
    pub k_scores: *mut u16,
    pub k_sums: *mut u16,
    pub v_scores: *mut u16,
    /// P and dS of a strip as left operands; dS of all keys of the block as right operand.
    pub p: *mut u16,
    pub ds: *mut u16,
    pub ds_right: *mut u16,
    pub dq: *mut f32,
}

impl TileScratch {
    fn lay_out(arena: &mut Arena, call: &Backward, plan: &Plan) -> Self {
        let (d, dv) = (call.problem.d, call.problem.dv);
        let (queries, keys) = (plan.block_queries, plan.block_keys);
        // Elements of `rows` by `columns` as parts.
        let size = |rows: usize, columns: usize, parts: fn(Parts) -> usize| {
            let tiles = rows.div_ceil(STEP) * columns.div_ceil(STEP) * 2;
            plan.parts.map_or(0, |p| tiles * parts(p) * TILE)
        };
        let transposed = d.next_multiple_of(STEP) * SCORE_LD;
        TileScratch {
            q_scores: arena.take(size(queries, d, |p| p.q)),
            q_sums: arena.take(size(queries, d, |p| p.q)),
            do_scores: arena.take(size(queries, dv, |p| p.grad_output)),
            do_sums: arena.take(size(queries, dv, |p| p.grad_output)),
            k_scores: arena.take(size(keys, d, |p| p.k)),
            k_sums: arena.take(size(keys, d, |p| p.k)),
            v_scores: arena.take(size(keys, dv, |p| p.v)),
            p: arena.take(size(STEP, queries, Parts::p)),
            ds: arena.take(size(STEP, queries, Parts::ds)),
            ds_right: arena.take(size(keys, queries, Parts::ds)),
            dq: arena.take(plan.parts.map_or(0, |_| transposed)),
        }
    }
}

// SAFETY: each worker uses its own scratch.
unsafe impl Sync for Scratch {}

impl Scratch {
    pub(super) fn lay_out(
        arena: &mut Arena,
        call: &Backward,
        plan: &Plan,
        kernels: &Kernels,
    ) -> Self {
        let problem = &call.problem;
        let (d, dv) = (problem.d, problem.dv);
        let (wide_d, wide_dv) = (padded(d, kernels), padded(dv, kernels));
        // Strips of floats are of `mr` keys, those of parts of a step: the accumulators have room for whole ones.
        let (unit, strip) = match plan.parts {
            Some(_) => (STEP.max(kernels.nr), STEP.max(kernels.mr)),
            None => (kernels.nr, kernels.mr),
        };
        let queries = plan.block_queries.next_multiple_of(unit);
        let keys = plan
            .block_keys
            .next_multiple_of(kernels.mr)
            .max(plan.block_keys.next_multiple_of(strip));
        let most = queries.max(keys);
        let masked = problem.options.mask.is_some();
        let if_masked = |n: usize| if masked { n } else { 0 };
        let capped = problem.options.softcap > 0.0;
        Scratch {
            q_panels: arena.take(queries * 4 * d),
            q_columns: arena.take(queries * wide_d),
            do_panels: arena.take(queries * dv),
            do_columns: arena.take(queries * wide_dv),
            k_strips: arena.take(keys * 4 * d),
            k_columns: arena.take(keys * wide_d),
            v_strips: arena.take(keys * dv),
            l: arena.take(queries),
            d: arena.take(queries),
            s: arena.take(strip * SCORE_LD),
            slope: arena.take(if capped { strip * SCORE_LD } else { 0 }),
            ds: arena.take(keys * SCORE_LD),
            dq: arena.take(queries.next_multiple_of(kernels.mr) * wide_d),
            dk: arena.take(keys * wide_d),
            dv: arena.take(keys * wide_dv),
            ones: arena.take(kernels.mr),
            rows: arena.take(most * stride(d.max(dv))),
            line: arena.take(stride(d.max(dv))),
            sums: arena.take(queries.max(kernels.mr)),
            col_bias: arena.take(queries),
            col_scale: arena.take(queries),
            col_zero: arena.take(queries),
            row_scale: arena.take(keys),
            row_sum: arena.take(keys),
            row_add: arena.take(keys),
            mask: arena.take(if_masked(keys * SCORE_LD)),
            stage: arena.take(if_masked(queries * keys + keys)),
            tiles: TileScratch::lay_out(arena, call, plan),
        }
    }
}
