//! Decode: a few query rows against keys and values as they are stored.
//!
//! The rows of all query heads of a group are folded into one tile, so that each key and value is read once. Stored
//! numbers are widened in registers; scales and zero points that hold for a row are applied to its score and its weight.
//! Scales within a row (and rotations that the storage lacks) expand a block into first-level cache first.

use std::ptr::null;

use crate::expand::Basis;
use crate::forward::bias::{Bias, LOG2_E};
use crate::forward::schedule::{Item, Rows};
use crate::kernels::{DECODE_ROWS, KB, Kernels, RowState, SCORE_LD};
use crate::memory::Arena;
use crate::problem::Problem;
use crate::tensor::{Granularity, Tensor};

/// Keys that are expanded at a time, where they must be: 16 rows of 512 floats fit first-level cache.
const EXPANDED: usize = 16;

/// A worker's memory.
pub(super) struct Scratch {
    q: *mut f32,
    q_sum: *mut f32,
    q_mean: *mut f32,
    pub o: *mut f32,
    pub m: *mut f32,
    pub l: *mut f32,
    zero_sum: *mut f32,
    alpha: *mut f32,
    s: *mut f32,
    rows: *mut f32,
    line: *mut f32,
    hidden: *mut u8,
}

impl Scratch {
    pub(super) fn lay_out(arena: &mut Arena, problem: &Problem, kernels: &Kernels) -> Self {
        let ldo = super::tile::padded(problem.dv, kernels);
        Scratch {
            q: arena.take(DECODE_ROWS * stride(problem.d)),
            q_sum: arena.take(DECODE_ROWS),
            q_mean: arena.take(DECODE_ROWS),
            o: arena.take(DECODE_ROWS * ldo),
            m: arena.take(DECODE_ROWS),
            l: arena.take(DECODE_ROWS),
            zero_sum: arena.take(DECODE_ROWS),
            alpha: arena.take(DECODE_ROWS),
            s: arena.take(DECODE_ROWS * SCORE_LD),
            rows: arena.take(EXPANDED * stride(problem.d.max(problem.dv))),
            line: arena.take(KB),
            hidden: arena.take(KB),
        }
    }
}

/// Distance of expanded rows.
fn stride(columns: usize) -> usize {
    columns.next_multiple_of(16)
}

/// The loops of one item.
pub(super) struct Decode<'a> {
    pub problem: &'a Problem,
    pub kernels: &'a Kernels,
    pub bias: &'a Bias<'a>,
    pub scratch: &'a Scratch,
}

/// Whether one scale and zero point hold for each stored row.
fn row_scaled(tensor: &Tensor) -> bool {
    tensor.quant.as_ref().is_none_or(|q| match q.granularity {
        Granularity::Tensor | Granularity::Block => true,
        Granularity::Row => q.group >= tensor.shape[3],
        Granularity::Channel => false,
    })
}

impl Decode<'_> {
    /// Computes the item's unnormalised O, maxima and sums into the scratch.
    ///
    /// # Safety
    /// The scratch was laid out for this problem and belongs to the calling worker.
    pub(super) unsafe fn run(&self, item: &Item) {
        let (problem, kernels, scratch, rows) =
            (self.problem, self.kernels, self.scratch, &item.rows);
        let ldo = super::tile::padded(problem.dv, kernels);
        let sequence = &rows.sequence;
        let n_rows = rows.len();
        // SAFETY: everything stays inside the scratch; keys are inside the tensors.
        unsafe {
            scratch.o.write_bytes(0, DECODE_ROWS * ldo);
            std::slice::from_raw_parts_mut(scratch.m, DECODE_ROWS).fill(f32::NEG_INFINITY);
            scratch.l.write_bytes(0, DECODE_ROWS);
            scratch.zero_sum.write_bytes(0, DECODE_ROWS);
            let (low, high) = rows.span(0, n_rows);
            let (first_visible, last_visible) = (
                sequence.visible(&problem.options, low),
                sequence.visible(&problem.options, high),
            );
            let lo = first_visible.0.max(item.keys.start);
            let hi = last_visible.1.min(item.keys.end);
            if lo >= hi {
                return;
            }
            let rotate_k = self.load_q(rows);
            let at = (sequence.batch, rows.kv_head);
            let v_mean = problem.v.mean(at.0, at.1);
            let v_mean = v_mean.as_ref().map_or(null(), |m| m.as_ptr());
            for first in (lo..hi).step_by(KB) {
                let n = KB.min(hi - first);
                self.scores(at, sequence.k0 + first, n, n_rows, rotate_k);
                let ragged = first < last_visible.0 || first + n > first_visible.1;
                let masked = ragged || self.bias.passes;
                if masked {
                    self.bias.strip(
                        sequence,
                        n_rows,
                        |r| rows.place(r),
                        first,
                        n,
                        scratch.s,
                        scratch.line,
                    );
                    self.note_hidden(n_rows, n);
                }
                let state = RowState {
                    m: scratch.m,
                    l: scratch.l,
                    alpha: scratch.alpha,
                };
                (kernels.softmax_f32)(scratch.s, n_rows, n, state);
                self.values(at, sequence.k0 + first, n, n_rows, v_mean, masked, ldo);
            }
            for r in 0..n_rows {
                let zeros = *scratch.zero_sum.add(r);
                if zeros != 0.0 {
                    let o = std::slice::from_raw_parts_mut(scratch.o.add(r * ldo), problem.dv);
                    o.iter_mut().for_each(|x| *x -= zeros);
                }
            }
        }
    }

    /// Loads the query rows, times the softmax scale; returns whether K must be rotated to meet them.
    unsafe fn load_q(&self, rows: &Rows) -> bool {
        let (problem, scratch) = (self.problem, self.scratch);
        let (q, k, d) = (&problem.q, &problem.k, problem.d);
        let b = rows.sequence.batch;
        let rotate = k.is_rotated() && !q.is_rotated();
        let k_mean = k.mean(b, rows.kv_head);
        let factor = problem.options.scale * LOG2_E;
        for r in 0..rows.len() {
            let (head, i) = rows.place(r);
            let mean = q.mean(b, head);
            let basis = Basis {
                rotate,
                mean: mean.as_ref().map_or(null(), |m| m.as_ptr()),
            };
            // SAFETY: the scratch has room for `DECODE_ROWS` rows.
            unsafe {
                let out = scratch.q.add(r * stride(d));
                q.expand(
                    self.kernels,
                    (b, head),
                    rows.sequence.q0 + i,
                    1,
                    basis,
                    out,
                    stride(d),
                );
                let row = std::slice::from_raw_parts_mut(out, d);
                row.iter_mut().for_each(|x| *x *= factor);
                *scratch.q_sum.add(r) = row.iter().sum();
                *scratch.q_mean.add(r) = k_mean
                    .as_ref()
                    .map_or(0.0, |mean| row.iter().zip(mean).map(|(x, m)| x * m).sum());
            }
        }
        q.is_rotated() && !k.is_rotated()
    }

    /// Base-2 scores of keys `row..row + n` of the tensor.
    unsafe fn scores(&self, at: (usize, usize), row: usize, n: usize, rows: usize, rotate: bool) {
        let (kernels, scratch, k, d) =
            (self.kernels, self.scratch, &self.problem.k, self.problem.d);
        let ldq = stride(d);
        // SAFETY: `n <= KB` keys inside the tensor; scores and staged rows fit the scratch.
        unsafe {
            if rotate || !row_scaled(k) {
                let basis = Basis {
                    rotate,
                    ..Basis::STORED
                };
                for from in (0..n).step_by(EXPANDED) {
                    let run = EXPANDED.min(n - from);
                    k.expand(kernels, at, row + from, run, basis, scratch.rows, ldq);
                    let bytes = scratch.rows.cast::<u8>().cast_const();
                    (kernels.dot_rows.f32)(
                        scratch.q,
                        ldq,
                        rows,
                        bytes,
                        4 * ldq,
                        run,
                        d,
                        scratch.s.add(from),
                    );
                }
            } else {
                let dot = *kernels.dot_rows.of(k.precision);
                dot(
                    scratch.q,
                    ldq,
                    rows,
                    k.at(at.0, at.1, row, 0),
                    k.row_bytes(),
                    n,
                    d,
                    scratch.s,
                );
                if let Some(quant) = &k.quant {
                    let line = std::slice::from_raw_parts_mut(scratch.line, n);
                    line.iter_mut()
                        .enumerate()
                        .for_each(|(j, x)| *x = quant.scale(at.0, at.1, row + j, 0));
                    for r in 0..rows {
                        let s = std::slice::from_raw_parts_mut(scratch.s.add(r * SCORE_LD), n);
                        if quant.has_zeros() {
                            let sum = *scratch.q_sum.add(r);
                            s.iter_mut().enumerate().for_each(|(j, x)| {
                                *x -= sum * quant.zero(at.0, at.1, row + j, 0) as f32
                            });
                        }
                        s.iter_mut()
                            .zip(line.iter())
                            .for_each(|(x, scale)| *x *= scale);
                    }
                }
            }
            for r in 0..rows {
                let add = *scratch.q_mean.add(r);
                if add != 0.0 {
                    let s = std::slice::from_raw_parts_mut(scratch.s.add(r * SCORE_LD), n);
                    s.iter_mut().for_each(|x| *x += add);
                }
            }
        }
    }

    /// Adds the weighted values of keys `row..row + n` to O.
    unsafe fn values(
        &self,
        at: (usize, usize),
        row: usize,
        n: usize,
        rows: usize,
        mean: *const f32,
        masked: bool,
        ldo: usize,
    ) {
        let (kernels, scratch, v, dv) =
            (self.kernels, self.scratch, &self.problem.v, self.problem.dv);
        // SAFETY: as for `scores`.
        unsafe {
            if !row_scaled(v) || (v.precision.is_quantized() && !mean.is_null()) {
                let basis = Basis {
                    rotate: false,
                    mean,
                };
                let ones = [1.0f32; DECODE_ROWS];
                let ld = stride(dv);
                for from in (0..n).step_by(EXPANDED) {
                    let run = EXPANDED.min(n - from);
                    v.expand(kernels, at, row + from, run, basis, scratch.rows, ld);
                    let alpha = if from == 0 {
                        scratch.alpha.cast_const()
                    } else {
                        ones.as_ptr()
                    };
                    let bytes = scratch.rows.cast::<u8>().cast_const();
                    (kernels.axpy_rows.f32)(
                        scratch.s.add(from),
                        rows,
                        bytes,
                        4 * ld,
                        run,
                        dv,
                        alpha,
                        scratch.o,
                        ldo,
                    );
                }
                return;
            }
            for r in 0..rows {
                let zero_sum = scratch.zero_sum.add(r);
                *zero_sum *= *scratch.alpha.add(r);
                let Some(quant) = &v.quant else { continue };
                let p = std::slice::from_raw_parts_mut(scratch.s.add(r * SCORE_LD), n);
                for (j, x) in p.iter_mut().enumerate() {
                    *x *= quant.scale(at.0, at.1, row + j, 0);
                }
                if quant.has_zeros() {
                    *zero_sum += p
                        .iter()
                        .enumerate()
                        .map(|(j, x)| x * quant.zero(at.0, at.1, row + j, 0) as f32)
                        .sum::<f32>();
                }
            }
            let from = v.at(at.0, at.1, row, 0).cast_const();
            if masked && v.precision.is_float() && self.any_hidden_is_not_finite(at, row, n) {
                self.axpy_careful(at, row, n, rows, ldo);
                return;
            }
            let axpy = *kernels.axpy_rows.of(v.precision);
            axpy(
                scratch.s,
                rows,
                from,
                v.row_bytes(),
                n,
                dv,
                scratch.alpha,
                scratch.o,
                ldo,
            );
        }
    }

    /// Notes keys that some row does not see, before softmax makes their scores 0: a bit per row.
    unsafe fn note_hidden(&self, rows: usize, n: usize) {
        for j in 0..n {
            let mut bits = 0;
            for r in 0..rows {
                // SAFETY: a score of a row and key of the block.
                let hidden = unsafe { *self.scratch.s.add(r * SCORE_LD + j) == f32::NEG_INFINITY };
                bits |= u8::from(hidden) << r;
            }
            // SAFETY: a flag per key.
            unsafe { *self.scratch.hidden.add(j) = bits };
        }
    }

    unsafe fn any_hidden_is_not_finite(&self, at: (usize, usize), row: usize, n: usize) -> bool {
        (0..n).any(|j| {
            // SAFETY: keys of the block; one staged row.
            unsafe {
                *self.scratch.hidden.add(j) != 0
                    && !self.value_row(at, row + j).iter().all(|x| x.is_finite())
            }
        })
    }

    unsafe fn value_row(&self, at: (usize, usize), row: usize) -> &[f32] {
        let (v, dv) = (&self.problem.v, self.problem.dv);
        // SAFETY: one row fits the staging area.
        unsafe {
            v.expand(
                self.kernels,
                at,
                row,
                1,
                Basis::STORED,
                self.scratch.rows,
                stride(dv),
            );
            std::slice::from_raw_parts(self.scratch.rows, dv)
        }
    }

    /// `axpy_rows` where a value that some row must not see holds NaN or an infinity. Slow, and rare.
    unsafe fn axpy_careful(
        &self,
        at: (usize, usize),
        row: usize,
        n: usize,
        rows: usize,
        ldo: usize,
    ) {
        let scratch = self.scratch;
        // SAFETY: as for `scores`.
        unsafe {
            for r in 0..rows {
                let o = std::slice::from_raw_parts_mut(scratch.o.add(r * ldo), self.problem.dv);
                let alpha = *scratch.alpha.add(r);
                o.iter_mut().for_each(|x| *x *= alpha);
            }
            for j in 0..n {
                let hidden = *scratch.hidden.add(j);
                let value = self.value_row(at, row + j);
                for r in (0..rows).filter(|r| hidden >> r & 1 == 0) {
                    let p = *scratch.s.add(r * SCORE_LD + j);
                    let o = std::slice::from_raw_parts_mut(scratch.o.add(r * ldo), self.problem.dv);
                    o.iter_mut().zip(value).for_each(|(x, v)| *x += p * v);
                }
            }
        }
    }
}

// Rows of a tile are bits of a byte.
const _: () = assert!(DECODE_ROWS <= 8);
