//! The products of a block of keys and a block of queries, of bf16 parts.
//!
//! ```text
//! for each strip of 32 keys that any query of the block sees:
//!     S^T  = K Q^T, dP^T = V dO^T
//!     softcap, ALiBi, masks, limits         Bias
//!     P^T, dS^T                             softmax_gradient, whose results are operands of what follows
//!     dV  += P^T dO
//!     dK  += dS^T Q
//! dQ^T = K^T dS^T, added to dQ
//! ```

use std::ptr::null_mut;

use super::bias::Patch;
use super::cell::{Cells, Sum, Want, clear};
use super::pack::{Keys, Queries};
use super::plan::Parts;
use super::scratch::padded;
use crate::forward::LOG2_E;
use crate::kernels::SCORE_LD;
use crate::kernels::parts::{GradientStrip, MAX_PARTS, PartsKernels, STEP, TILE, Tiles};
use crate::problem::Sequence;

/// Rows (columns) of a group.
const GROUP: usize = STEP / 2;

/// An operand of `steps` steps, from step `from` of group `group` on.
fn operand(ptr: *const u16, steps: usize, parts: usize, group: usize, from: usize) -> Tiles {
    Tiles {
        ptr: ptr.wrapping_add((group * steps + from) * parts * TILE),
        group: steps * parts * TILE,
        parts,
    }
}

impl Cells<'_> {
    fn units(&self) -> Option<(&'static PartsKernels, Parts)> {
        self.kernels.gradient.parts.zip(self.plan.parts)
    }

    /// Packs a block of queries as parts; returns whether they are finite, and of use.
    pub(super) unsafe fn tile_queries(
        &self,
        sequence: &Sequence,
        block: &Queries,
        want: Want,
    ) -> bool {
        let Some((unit, parts)) = self.units() else {
            return false;
        };
        let (call, tiles, n) = (self.call, &self.scratch.tiles, block.n);
        let (d, dv) = (call.problem.d, call.problem.dv);
        let (at, row) = ((sequence.batch, block.head), sequence.q0 + block.first);
        // SAFETY: a block's rows, inside the tensor, and room for their tiles.
        unsafe {
            let rows = self.rows(&call.problem.q, at, row, n);
            let mut finite = (unit.rows_right)(rows.ptr, rows.ld, n, d, parts.q, tiles.q_scores);
            if want.dk {
                finite &= (unit.terms_right)(rows.ptr, rows.ld, n, d, parts.q, tiles.q_sums);
            }
            let rows = self.rows(&call.grad_output, at, row, n);
            let parts = parts.grad_output;
            if want.dp() {
                finite &= (unit.rows_right)(rows.ptr, rows.ld, n, dv, parts, tiles.do_scores);
            }
            if want.dv {
                finite &= (unit.terms_right)(rows.ptr, rows.ld, n, dv, parts, tiles.do_sums);
            }
            finite
        }
    }

    /// Packs a block of keys as parts; returns whether they are finite, and of use.
    pub(super) unsafe fn tile_keys(
        &self,
        sequence: &Sequence,
        kv_head: usize,
        block: &Keys,
        want: Want,
    ) -> bool {
        let Some((unit, parts)) = self.units() else {
            return false;
        };
        let (problem, tiles, n) = (&self.call.problem, &self.scratch.tiles, block.n);
        let (d, dv) = (problem.d, problem.dv);
        let (at, row) = ((sequence.batch, kv_head), sequence.k0 + block.first);
        // SAFETY: a block's rows, inside the tensor, and room for their tiles.
        unsafe {
            let rows = self.rows(&problem.k, at, row, n);
            let mut finite = (unit.rows_left)(rows.ptr, rows.ld, n, d, parts.k, tiles.k_scores);
            if want.dq {
                finite &= (unit.terms_left)(rows.ptr, rows.ld, n, d, parts.k, tiles.k_sums);
            }
            if want.dp() {
                let rows = self.rows(&problem.v, at, row, n);
                finite &= (unit.rows_left)(rows.ptr, rows.ld, n, dv, parts.v, tiles.v_scores);
            }
            finite
        }
    }

    /// [`Cells::add`] on parts.
    pub(super) unsafe fn add_tiles(&self, patch: &Patch<'_>, want: Want, dq: Sum) {
        let Some((unit, parts)) = self.units() else {
            return;
        };
        // SAFETY: strips and blocks of the scratch, which was laid out for them.
        unsafe {
            for strip in (0..patch.keys).step_by(STEP) {
                self.tile_strip(unit, parts, patch, strip, want);
            }
            if want.dq {
                self.add_dq_tiles(unit, parts, patch, dq);
            }
        }
    }

    /// One strip of keys.
    unsafe fn tile_strip(
        &self,
        unit: &PartsKernels,
        parts: Parts,
        patch: &Patch<'_>,
        strip: usize,
        want: Want,
    ) {
        let (problem, scratch, kernels) = (&self.call.problem, self.scratch, self.kernels);
        let (tiles, factor) = (&scratch.tiles, problem.options.scale * LOG2_E);
        let rows = STEP.min(patch.keys - strip);
        let seen = self.seen(patch, strip, rows, STEP);
        // SAFETY: a strip of the block's keys and whole steps of its queries, for which the scratch has room.
        unsafe {
            let (first, n) = match &seen {
                Some((seen, _)) => (seen.i0 - patch.i0, seen.n),
                None => (0, 0),
            };
            let wide = n.next_multiple_of(STEP);
            if want.ds {
                let ds = scratch.ds.add(strip * SCORE_LD);
                clear(ds, rows, 0, first);
                clear(ds, rows, first + n, patch.n);
            }
            if want.dq {
                let whole = patch.n.next_multiple_of(STEP);
                self.clear_ds(parts, patch, strip, 0, first);
                self.clear_ds(parts, patch, strip, first + wide, whole);
            }
            let Some((seen, ragged)) = seen else {
                return;
            };
            let (s, slope) = (scratch.s, scratch.slope);
            let steps = problem.d.div_ceil(STEP);
            let k = operand(tiles.k_scores, steps, parts.k, strip / GROUP, 0);
            let q = operand(tiles.q_scores, steps, parts.q, first / GROUP, 0);
            (unit.multiply)(k, q, STEP, wide, steps, MAX_PARTS, s, SCORE_LD, false);
            // Floats for what follows, or for other kernels, that take scores as they are.
            let scaled = self.bias.passes || want.d || want.ds;
            if scaled {
                (unit.scale_rows)(s, rows, n, factor);
            }
            if ragged || self.bias.passes {
                let mask = scratch.mask.wrapping_add(strip * SCORE_LD + first);
                self.bias.strip(&seen, s, slope, mask);
            }
            let (l, d) = (scratch.l.add(first), scratch.d.add(first));
            let mut dp = scratch.ds;
            if want.ds {
                dp = dp.add(strip * SCORE_LD + first);
            }
            if want.dp() {
                let steps = problem.dv.div_ceil(STEP);
                let v = operand(tiles.v_scores, steps, parts.v, strip / GROUP, 0);
                let grad = operand(tiles.do_scores, steps, parts.grad_output, first / GROUP, 0);
                (unit.multiply)(v, grad, STEP, wide, steps, MAX_PARTS, dp, SCORE_LD, false);
            }
            if want.d {
                (kernels.gradient.weighted_sums)(s, dp, rows, n, l, d);
                return;
            }
            if want.ds {
                (kernels.gradient.softmax_gradient)(s, dp, rows, n, l, d);
                return;
            }
            for row in rows..STEP {
                std::slice::from_raw_parts_mut(s.add(row * SCORE_LD), wide).fill(f32::NEG_INFINITY);
            }
            let (p_parts, ds_parts) = (parts.p(), parts.ds());
            let if_wanted = |wanted: bool, ptr: *mut u16| if wanted { ptr } else { null_mut() };
            let (queries, keys) = (patch.n.div_ceil(STEP), patch.keys.div_ceil(STEP));
            let right = (first / GROUP * keys + strip / STEP) * ds_parts * TILE;
            let gradient = GradientStrip {
                s,
                dp,
                n: wide,
                s_scale: if scaled { 1.0 } else { factor },
                l,
                d,
                slope: if problem.options.softcap > 0.0 {
                    slope
                } else {
                    null_mut()
                },
                p: if_wanted(want.dv, tiles.p),
                p_group: queries * p_parts,
                ds: if_wanted(want.dk, tiles.ds),
                ds_group: queries * ds_parts,
                right: if_wanted(want.dq, tiles.ds_right.wrapping_add(right)),
                right_group: keys * ds_parts,
            };
            let ds_parts = if want.dp() { ds_parts } else { 0 };
            let p_parts = if want.dv { p_parts } else { 0 };
            let masked = ragged || self.bias.passes || rows < STEP;
            (unit.softmax_gradient)(&gradient, p_parts, ds_parts, masked);
            let (from, steps) = (first / STEP, wide / STEP);
            if want.dv {
                let p = operand(tiles.p, queries, p_parts, 0, 0);
                let grad = operand(tiles.do_sums, queries, parts.grad_output, 0, from);
                let ld = padded(problem.dv, kernels);
                let dv = scratch.dv.add(strip * ld);
                (unit.multiply)(p, grad, STEP, ld, steps, p_parts, dv, ld, true);
            }
            if want.dk {
                let ds = operand(tiles.ds, queries, ds_parts, 0, 0);
                let q = operand(tiles.q_sums, queries, parts.q, 0, from);
                let ld = padded(problem.d, kernels);
                let dk = scratch.dk.add(strip * ld);
                (unit.multiply)(ds, q, STEP, ld, steps, ds_parts, dk, ld, true);
            }
        }
    }

    /// Zeroes dS of a strip and the queries `from..to`, which are whole steps.
    unsafe fn clear_ds(
        &self,
        parts: Parts,
        patch: &Patch<'_>,
        strip: usize,
        from: usize,
        to: usize,
    ) {
        let (keys, parts) = (patch.keys.div_ceil(STEP), parts.ds());
        for group in from / GROUP..to.max(from) / GROUP {
            let at = (group * keys + strip / STEP) * parts * TILE;
            // SAFETY: tiles of the block.
            unsafe {
                self.scratch
                    .tiles
                    .ds_right
                    .add(at)
                    .write_bytes(0, parts * TILE)
            };
        }
    }

    /// Adds the keys of the block to dQ of its queries.
    unsafe fn add_dq_tiles(&self, unit: &PartsKernels, parts: Parts, patch: &Patch<'_>, dq: Sum) {
        let (problem, tiles) = (&self.call.problem, &self.scratch.tiles);
        let d = problem.d;
        let steps = patch.keys.div_ceil(STEP);
        // The steps of keys that a step of queries sees.
        let visible = |at: usize| {
            let (i, rows) = (patch.i0 + at, STEP.min(patch.n - at));
            let (options, end) = (&problem.options, patch.j0 + patch.keys);
            let from = patch.sequence.visible(options, i).0;
            let to = patch.sequence.visible(options, i + rows - 1).1;
            let from = from.clamp(patch.j0, end) - patch.j0;
            let to = to.clamp(patch.j0, end) - patch.j0;
            (from / STEP, to.div_ceil(STEP))
        };
        let mut at = 0;
        while at < patch.n {
            let (from, to) = visible(at);
            let mut end = at + STEP;
            while end < patch.n && visible(end) == (from, to) {
                end += STEP;
            }
            if from < to {
                let rows = end.min(patch.n) - at;
                // SAFETY: steps of the block, and rows of its dQ.
                unsafe {
                    let k = operand(tiles.k_sums, steps, parts.k, 0, from);
                    let ds = operand(tiles.ds_right, steps, parts.ds(), at / GROUP, from);
                    let (wide, order) = (d.next_multiple_of(STEP), parts.ds());
                    let (sum, ld) = (tiles.dq, SCORE_LD);
                    (unit.multiply)(k, ds, wide, end - at, to - from, order, sum, ld, false);
                    let rows_of_dq = dq.ptr.add(at * dq.ld);
                    (unit.add_transposed)(sum, ld, rows, d, rows_of_dq, dq.ld);
                }
            }
            at = end;
        }
    }
}
