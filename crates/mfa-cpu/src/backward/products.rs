//! The products of a block of keys and a block of queries (eq. 22 to 29).
//!
//! ```text
//! for each strip of mr keys that is in the key range of any query of the block:
//!     S^T  = K Q^T                          qk_*, with keys as rows
//!     softcap, ALiBi, masks, limits         TransposedScoreMod
//!     dP^T = V dO^T                         qk_f32
//!     P^T, dS^T = P^T (dP^T - D)            softmax_gradient
//!     dV  += P^T dO                         pv_f32
//!     dK  += dS^T Q                         pv_f32
//! for each strip of mr queries:
//!     dQ  += dS K                           ptv_f32: takes dS^T without transposing it
//! ```
//!
//! Sums of bf16 products: [`super::bf16_split`].

use super::block::{Accumulator, BlockCoords, GradSet};
use super::block_pair::{BlockPair, clear};
use std::ptr::{null, null_mut};

use super::pack::{PackedKeys, PackedQueries};
use crate::contract::sequences::Sequence;
use crate::contract::tensor::Tensor;
use crate::operands::arithmetic::ScoreArithmetic;
use crate::operands::padding::padded;
use mfa_kernels::{SCORE_LD, ScoreScales};

impl BlockPair<'_> {
    /// Adds the products of two packed blocks to the accumulators; `dq` is that of the block of queries.
    ///
    /// # Safety
    /// The blocks were packed for `grads`; `dq` has workspace for the queries, in whole panels.
    pub(super) unsafe fn add(
        &self,
        sequence: &Sequence,
        kv_head: usize,
        queries: &PackedQueries,
        keys: &PackedKeys,
        grads: GradSet,
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
                self.score_mod
                    .mask_tile(&coords, self.scratch.mask, self.scratch.mask_rows);
            }
            match self.plan.bf16 {
                None => self.add_floats(&coords, queries, keys, grads, dq),
                Some(bf16) if queries.splits_exactly(keys) => {
                    self.add_bf16(bf16, &coords, grads, dq);
                }
                // Slices do not hold NaN, infinities, and the smallest numbers. They are few.
                Some(_) => {
                    let (mut queries, mut keys) = (queries.clone(), keys.clone());
                    self.pack_query_floats(sequence, &mut queries, grads);
                    self.pack_key_floats(sequence, kv_head, &mut keys, grads);
                    self.add_floats(&coords, &queries, &keys, grads, dq);
                }
            }
        }
    }

    /// [`BlockPair::add`] on floats.
    unsafe fn add_floats(
        &self,
        coords: &BlockCoords<'_>,
        queries: &PackedQueries,
        keys: &PackedKeys,
        grads: GradSet,
        dq: Accumulator,
    ) {
        let mr = self.kernels.mr;
        // SAFETY: strips of the block's keys, tiles of its queries.
        unsafe {
            for strip in (0..keys.n).step_by(mr) {
                self.strip(coords, queries, strip, grads);
            }
            if grads.dq {
                for tile in (0..queries.n).step_by(mr) {
                    self.add_dq(coords, keys, tile, dq);
                }
            }
        }
    }

    /// One strip of keys.
    unsafe fn strip(
        &self,
        coords: &BlockCoords<'_>,
        queries: &PackedQueries,
        strip: usize,
        grads: GradSet,
    ) {
        let (problem, scratch, kernels) = (&self.call.problem, &self.scratch, self.kernels);
        let options = &problem.options;
        let (mr, nr) = (kernels.mr, kernels.nr);
        let rows = mr.min(coords.keys - strip);
        // SAFETY: the strip is inside the block, whose arrays the scratch holds; `skipped` is whole panels.
        unsafe {
            let ds = scratch.ds.add(strip * SCORE_LD);
            let keeps_ds = grads.dq || grads.ds;
            let Some((within, boundary)) = self.in_range(coords, strip, rows, nr) else {
                if keeps_ds {
                    clear(ds, rows, 0, coords.n);
                }
                return;
            };
            let (skipped, n) = (within.i0 - coords.i0, within.n);
            let panels = n.div_ceil(nr);
            let (s, slope) = (scratch.s, scratch.slope);
            self.scores(strip, rows, skipped, panels);
            if boundary || self.score_mod.passes {
                let mask = scratch.mask.wrapping_add(strip * SCORE_LD + skipped);
                self.score_mod.strip(&within, s, slope, mask);
            }
            let (l, d) = (scratch.l.add(skipped), scratch.d.add(skipped));
            let dp = if grads.dp() {
                let dp = ds.add(skipped);
                let v = scratch.v_strips.add(strip * problem.dv);
                let panel = scratch.do_panels.add(skipped * problem.dv);
                (kernels.qk_f32)(v, panel, problem.dv, rows, panels, dp);
                dp
            } else {
                null_mut()
            };
            if grads.d {
                (kernels.gradient.weighted_sums)(s, dp, rows, n, l, d);
                return;
            }
            (kernels.gradient.softmax_gradient)(s, dp, rows, n, l, d);
            if grads.dv {
                let ld = padded(problem.dv, kernels);
                let (columns, out) = (scratch.do_columns, scratch.dv.add(strip * ld));
                self.add_rows(s, columns.add(skipped * nr), coords.n, n, rows, out, ld);
                for i in queries.non_finite_do.iter() {
                    self.add_non_finite(&within, &self.call.grad_output, skipped, i, s, out, ld);
                }
            }
            if options.caps() && (grads.dq || grads.dk) {
                multiply(dp, slope, rows, n);
            }
            if grads.dk {
                let ld = padded(problem.d, kernels);
                let (columns, out) = (scratch.q_columns, scratch.dk.add(strip * ld));
                self.add_rows(dp, columns.add(skipped * nr), coords.n, n, rows, out, ld);
                for i in queries.non_finite_q.iter() {
                    self.add_non_finite(&within, &problem.q, skipped, i, dp, out, ld);
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
            let query_bytes = 4 * d4 * kernels.k_i8_bytes;
            let q = scratch.q_panels.cast::<i8>().add(skipped * query_bytes);
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

    /// Adds row `i` of the block of queries, which holds NaN or infinities, to the keys of its range that no mask hides.
    unsafe fn add_non_finite(
        &self,
        within: &BlockCoords<'_>,
        tensor: &Tensor,
        skipped: usize,
        i: usize,
        strip: *const f32,
        out: *mut f32,
        ld: usize,
    ) {
        if i < skipped || i - skipped >= within.n {
            return;
        }
        let (i, sequence) = (i - skipped, within.sequence);
        let (row, columns) = (within.i0 + i, tensor.shape[3]);
        // SAFETY: a row of the tensor; `line` holds it.
        unsafe {
            let line = self.scratch.row_buffer;
            self.dequantize_rows(
                tensor,
                (sequence.batch, within.head),
                sequence.q0 + row,
                1,
                line,
            );
            for r in 0..within.keys {
                if !self
                    .score_mod
                    .masks(sequence, within.head, row, within.j0 + r)
                {
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
            for j in keys.non_finite_k.iter().filter(|j| (from..to).contains(j)) {
                let at = (sequence.batch, coords.head / problem.group);
                let line = scratch.row_buffer;
                self.dequantize_rows(&problem.k, at, sequence.k0 + coords.j0 + j, 1, line);
                for r in 0..rows {
                    if !self
                        .score_mod
                        .masks(sequence, coords.head, i + r, coords.j0 + j)
                    {
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

/// `strip *= slope`, except that masked elements stay 0, whatever their scores were.
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
