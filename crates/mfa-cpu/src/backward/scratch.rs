//! A worker's memory.

use super::check::Backward;
use super::plan::Plan;
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
        let queries = plan.block_queries.next_multiple_of(kernels.nr);
        let keys = plan.block_keys.next_multiple_of(kernels.mr);
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
            s: arena.take(kernels.mr * SCORE_LD),
            slope: arena.take(if capped { kernels.mr * SCORE_LD } else { 0 }),
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
        }
    }
}
