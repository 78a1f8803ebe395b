//! The products of a block of keys and a block of queries.
//!
//! ```text
//! for each strip of mr keys that any query of the block sees:
//!     S^T  = K Q^T                          qk_*, with keys as rows
//!     softcap, ALiBi, masks, limits         TransposedScoreMod
//!     dP^T = V dO^T                         qk_f32
//!     P^T, dS^T = P^T (dP^T - D)            softmax_gradient
//!     dV  += P^T dO                         pv_f32
//!     dK  += dS^T Q                         pv_f32
//! for each strip of mr queries:
//!     dQ  += dS K                           ptv_f32: reads dS^T as it lies
//! ```
//!
//! With products of bf16 parts: see [`super::bf16_split`].

use super::block_pair::{Accumulator, BlockCoords, DValues, GradSet};
use std::ptr::{null, null_mut};

use super::check::Backward;
use super::pack::{PackedKeys, PackedQueries};
use super::plan::BackwardPlan;
use super::score_mod::TransposedScoreMod;
use super::scratch::BackwardScratch;
use crate::contract::sequences::Sequence;
use crate::contract::tensor::Tensor;
use crate::operands::arithmetic::ScoreArithmetic;
use crate::operands::padding::padded;
use mfa_kernels::bf16_split::TileConfigGuard;
use mfa_kernels::{Kernels, SCORE_LD, ScoreScales};

/// The products of pairs of blocks, in one worker's scratch.
pub(super) struct BlockPair<'a> {
    pub call: &'a Backward,
    pub plan: &'a BackwardPlan<'a>,
    pub kernels: &'a Kernels,
    pub bias: &'a TransposedScoreMod<'a>,
    pub d: DValues<'a>,
    pub scratch: BackwardScratch,
    /// For all products of an item.
    pub _tile_config: TileConfigGuard<'a>,
}

impl BlockPair<'_> {
    /// Adds the products of two packed blocks to the accumulators; `dq` is that of the block of queries.
    ///
    /// # Safety
    /// The blocks were packed for `want`; `dq` has room for the queries, in whole panels.
    pub(super) unsafe fn add(
        &self,
        sequence: &Sequence,
        kv_head: usize,
        queries: &PackedQueries,
        keys: &PackedKeys,
        want: GradSet,
        dq: Accumulator,
    ) {
        let coords = BlockCoords {
            sequence,
            head: queries.head,
            i0: queries.first,
            n: queries.n,
            j0: keys.first,
            keys: keys.n,
        };
        // SAFETY: by this function's contract; the scratch was laid out for the blocks.
        unsafe {
            if self.call.problem.options.mask.is_some() {
                self.bias
                    .mask_tile(&coords, self.scratch.mask, self.scratch.mask_rows);
            }
            if super::bf16_split::splits_exactly(queries, keys) {
                return self.add_bf16(&coords, want, dq);
            }
            if self.plan.products.is_none() {
                return self.add_floats(&coords, queries, keys, want, dq);
            }
            // Parts do not hold NaN, infinities, and the smallest numbers. They are few.
            let (mut queries, mut keys) = (queries.clone(), keys.clone());
            self.pack_query_floats(sequence, &mut queries, want);
            self.pack_key_floats(sequence, kv_head, &mut keys, want);
            self.add_floats(&coords, &queries, &keys, want, dq);
        }
    }

    /// [`BlockPair::add`] on floats.
    unsafe fn add_floats(
        &self,
        coords: &BlockCoords<'_>,
        queries: &PackedQueries,
        keys: &PackedKeys,
        want: GradSet,
        dq: Accumulator,
    ) {
        let mr = self.kernels.mr;
        // SAFETY: strips of the block's keys, tiles of its queries.
        unsafe {
            for strip in (0..keys.n).step_by(mr) {
                self.strip(coords, queries, strip, want);
            }
            if want.dq {
                for tile in (0..queries.n).step_by(mr) {
                    self.add_dq(coords, keys, tile, dq);
                }
            }
        }
    }

    /// The part of a coords that has `rows` keys from `strip` on and the queries that see any of them, in units of `bf16`
    /// queries; and whether some of these do not see some of the keys.
    pub(super) fn in_range<'p>(
        &self,
        coords: &BlockCoords<'p>,
        strip: usize,
        rows: usize,
        bf16: usize,
    ) -> Option<(BlockCoords<'p>, bool)> {
        let (options, sequence) = (&self.call.problem.options, coords.sequence);
        let j = coords.j0 + strip;
        let end = coords.i0 + coords.n;
        let (first, last) = (
            options.query_range(sequence, j),
            options.query_range(sequence, j + rows - 1),
        );
        let (from, to) = (first.0.clamp(coords.i0, end), last.1.clamp(coords.i0, end));
        if from >= to {
            return None;
        }
        let skipped = (from - coords.i0) / bf16 * bf16;
        let n = (to - coords.i0 - skipped)
            .next_multiple_of(bf16)
            .min(coords.n - skipped);
        let i0 = coords.i0 + skipped;
        let boundary = i0 < last.0 || i0 + n > first.1;
        let seen = BlockCoords {
            i0,
            n,
            j0: j,
            keys: rows,
            ..*coords
        };
        Some((seen, boundary))
    }

    /// One strip of keys.
    unsafe fn strip(
        &self,
        coords: &BlockCoords<'_>,
        queries: &PackedQueries,
        strip: usize,
        want: GradSet,
    ) {
        let (problem, scratch, kernels) = (&self.call.problem, &self.scratch, self.kernels);
        let options = &problem.options;
        let (mr, nr) = (kernels.mr, kernels.nr);
        let rows = mr.min(coords.keys - strip);
        // SAFETY: the strip is inside the block, whose arrays the scratch holds; `skipped` is whole panels.
        unsafe {
            let ds = scratch.ds.add(strip * SCORE_LD);
            let keeps_ds = want.dq || want.ds;
            let Some((seen, boundary)) = self.in_range(coords, strip, rows, nr) else {
                if keeps_ds {
                    clear(ds, rows, 0, coords.n);
                }
                return;
            };
            let (skipped, n) = (seen.i0 - coords.i0, seen.n);
            let panels = n.div_ceil(nr);
            let (s, slope) = (scratch.s, scratch.slope);
            self.scores(strip, rows, skipped, panels);
            if boundary || self.bias.passes {
                let mask = scratch.mask.wrapping_add(strip * SCORE_LD + skipped);
                self.bias.strip(&seen, s, slope, mask);
            }
            let (l, d) = (scratch.l.add(skipped), scratch.d.add(skipped));
            let dp = if want.dp() {
                let dp = ds.add(skipped);
                let v = scratch.v_strips.add(strip * problem.dv);
                let panel = scratch.do_panels.add(skipped * problem.dv);
                (kernels.qk_f32)(v, panel, problem.dv, rows, panels, dp);
                dp
            } else {
                null_mut()
            };
            if want.d {
                (kernels.gradient.weighted_sums)(s, dp, rows, n, l, d);
                return;
            }
            (kernels.gradient.softmax_gradient)(s, dp, rows, n, l, d);
            if want.dv {
                let ld = padded(problem.dv, kernels);
                let (columns, out) = (scratch.do_columns, scratch.dv.add(strip * ld));
                self.add_rows(s, columns.add(skipped * nr), coords.n, n, rows, out, ld);
                for i in queries.wild_do.iter() {
                    self.add_non_finite(&seen, &self.call.grad_output, skipped, i, s, out, ld);
                }
            }
            if options.caps() && (want.dq || want.dk) {
                multiply(dp, slope, rows, n);
            }
            if want.dk {
                let ld = padded(problem.d, kernels);
                let (columns, out) = (scratch.q_columns, scratch.dk.add(strip * ld));
                self.add_rows(dp, columns.add(skipped * nr), coords.n, n, rows, out, ld);
                for i in queries.wild_q.iter() {
                    self.add_non_finite(&seen, &problem.q, skipped, i, dp, out, ld);
                }
            }
            if keeps_ds {
                clear(ds, rows, 0, skipped);
                clear(ds, rows, skipped + n, coords.n);
            }
        }
    }

    /// Raw scores of a strip of keys and the queries from `skipped` on.
    unsafe fn scores(&self, strip: usize, rows: usize, skipped: usize, panels: usize) {
        let (problem, scratch, kernels) = (&self.call.problem, &self.scratch, self.kernels);
        let d = problem.d;
        // SAFETY: as for `strip`.
        unsafe {
            if matches!(self.plan.scores, ScoreArithmetic::F32) {
                let k = scratch.k_strips.cast::<f32>().add(strip * d);
                let q = scratch.q_panels.cast::<f32>().add(skipped * d);
                (kernels.qk_f32)(k, q, d, rows, panels, scratch.s);
                return;
            }
            let d4 = d.div_ceil(4);
            let has_zeros = problem.q.quant.as_ref().is_some_and(|q| q.has_zeros());
            let scales = ScoreScales {
                col_bias: scratch.col_bias.add(skipped),
                col_scale: scratch.col_scale.add(skipped),
                col_zero: if has_zeros {
                    scratch.col_zero.add(skipped)
                } else {
                    null()
                },
                row_scale: scratch.row_scale.add(strip),
                row_sum: scratch.row_sum.add(strip),
                row_add: scratch.row_add.add(strip),
            };
            let k = scratch.k_strips.add(strip * 4 * d4);
            let q = scratch.q_panels.cast::<i8>().add(skipped * 4 * d4);
            (kernels.qk_i8)(k, q, d4, rows, panels, &scales, scratch.s);
        }
    }

    /// Adds the product of a strip and `n` rows of packed columns to `out`.
    unsafe fn add_rows(
        &self,
        strip: *const f32,
        columns: *const f32,
        packed: usize,
        n: usize,
        rows: usize,
        out: *mut f32,
        ld: usize,
    ) {
        let (panels, ones) = (ld / self.kernels.nr, self.scratch.ones);
        // SAFETY: as for `strip`.
        unsafe {
            (self.kernels.pv_f32)(strip, columns, packed, n, rows, panels, ones, out, ld);
        }
    }

    /// Adds row `i` of the block of queries, which holds NaN or infinities, to the keys that it sees.
    unsafe fn add_non_finite(
        &self,
        seen: &BlockCoords<'_>,
        tensor: &Tensor,
        skipped: usize,
        i: usize,
        strip: *const f32,
        out: *mut f32,
        ld: usize,
    ) {
        if i < skipped || i - skipped >= seen.n {
            return;
        }
        let (i, sequence) = (i - skipped, seen.sequence);
        let (row, columns) = (seen.i0 + i, tensor.shape[3]);
        // SAFETY: a row of the tensor; `line` holds it.
        unsafe {
            let line = self.scratch.row_buffer;
            self.dequantize_rows(
                tensor,
                (sequence.batch, seen.head),
                sequence.q0 + row,
                1,
                line,
            );
            for r in 0..seen.keys {
                if !self.bias.masks(sequence, seen.head, row, seen.j0 + r) {
                    let weight = *strip.add(r * SCORE_LD + i);
                    add_row(out.add(r * ld), weight, line, columns);
                }
            }
        }
    }

    /// Adds the keys of the block to dQ of a tile of queries.
    unsafe fn add_dq(
        &self,
        coords: &BlockCoords<'_>,
        keys: &PackedKeys,
        tile: usize,
        dq: Accumulator,
    ) {
        let (problem, scratch, kernels) = (&self.call.problem, &self.scratch, self.kernels);
        let (options, sequence, nr) = (&problem.options, coords.sequence, kernels.nr);
        let rows = kernels.mr.min(coords.n - tile);
        let i = coords.i0 + tile;
        let end = coords.j0 + coords.keys;
        let from = options.key_range(sequence, i).0.clamp(coords.j0, end) - coords.j0;
        let to = options
            .key_range(sequence, i + rows - 1)
            .1
            .clamp(coords.j0, end)
            - coords.j0;
        if from >= to {
            return;
        }
        // SAFETY: keys `from..to` of the block and rows `tile..` of its queries.
        unsafe {
            let ds = scratch.ds.add(from * SCORE_LD + tile);
            let columns = scratch.k_columns.add(from * nr);
            let panels = padded(problem.d, kernels) / nr;
            let out = dq.ptr.add(tile * dq.ld);
            let (ones, n) = (scratch.ones, to - from);
            (kernels.gradient.ptv_f32)(ds, columns, coords.keys, n, rows, panels, ones, out, dq.ld);
            for j in keys.wild_k.iter().filter(|j| (from..to).contains(j)) {
                let at = (sequence.batch, coords.head / problem.group);
                let line = scratch.row_buffer;
                self.dequantize_rows(&problem.k, at, sequence.k0 + coords.j0 + j, 1, line);
                for r in 0..rows {
                    if !self.bias.masks(sequence, coords.head, i + r, coords.j0 + j) {
                        let weight = *scratch.ds.add(j * SCORE_LD + tile + r);
                        add_row(out.add(r * dq.ld), weight, line, problem.d);
                    }
                }
            }
        }
    }
}

/// `out += weight * row`
unsafe fn add_row(out: *mut f32, weight: f32, row: *const f32, columns: usize) {
    for c in 0..columns {
        // SAFETY: both hold `columns` floats, by the caller.
        unsafe { *out.add(c) += weight * *row.add(c) };
    }
}

/// Zeroes columns `from..to` of a strip.
pub(super) unsafe fn clear(strip: *mut f32, rows: usize, from: usize, to: usize) {
    for r in 0..rows {
        // SAFETY: columns of a strip, by the caller.
        unsafe {
            strip
                .add(r * SCORE_LD + from)
                .write_bytes(0, to.saturating_sub(from));
        }
    }
}

/// `strip *= slope`, but what is masked stays 0, whatever its score was.
unsafe fn multiply(strip: *mut f32, slope: *const f32, rows: usize, n: usize) {
    for r in 0..rows {
        // SAFETY: `n` columns of strips, by the caller.
        let (strip, slope) = unsafe {
            (
                std::slice::from_raw_parts_mut(strip.add(r * SCORE_LD), n),
                std::slice::from_raw_parts(slope.add(r * SCORE_LD), n),
            )
        };
        for (x, slope) in strip.iter_mut().zip(slope) {
            *x = if *x == 0.0 { 0.0 } else { *x * slope };
        }
    }
}
