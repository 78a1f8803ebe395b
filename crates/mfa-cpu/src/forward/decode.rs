//! Decode: a few query rows against keys and values as they are stored.
//!
//! The rows of all query heads of a group are folded into one tile, so that each key and value is read once. Stored
//! numbers are widened in registers; scales and zero points that hold for a row are applied to its score and its weight.
//! Scales within a row (and rotations that the storage lacks) expand a block into first-level cache first.

use std::ptr::null;

use crate::contract::problem::Problem;
use crate::contract::tensor::Tensor;
use crate::forward::schedule::{TileRows, WorkTile};
use crate::forward::score_mod::ScoreMod;
use crate::operands::dequantize::Domain;
use crate::operands::hadamard;
use crate::operands::padding::padded;
use crate::operands::row_buffer::RowBuffer;
use crate::runtime::memory::Arena;
use mfa_kernels::{BLOCK_N, DECODE_ROWS, Kernels, RowState, SCORE_LD, SUM_RUN};

/// Keys that are dequantized at a time, where they must be: 16 rows of 512 floats fit first-level cache.
const EXPANDED: usize = 16;

/// A worker's memory.
pub(super) struct Scratch {
    q: *mut f32,
    q_sum: *mut f32,
    q_add: *mut f32,
    pub o: *mut f32,
    pub m: *mut f32,
    pub l: *mut f32,
    /// Nothing is rounded here.
    pub left: *mut f32,
    zero_sum: *mut f32,
    alpha: *mut f32,
    s: *mut f32,
    rows: *mut f32,
    row_buffer: *mut f32,
    zeros: *mut f32,
    masked: *mut u8,
}

impl Scratch {
    pub(super) fn allocate(arena: &mut Arena, problem: &Problem, kernels: &Kernels) -> Self {
        let ldo = padded(problem.dv, kernels);
        Scratch {
            q: arena.alloc(DECODE_ROWS * stride(problem.d)),
            q_sum: arena.alloc(DECODE_ROWS),
            q_add: arena.alloc(DECODE_ROWS),
            o: arena.alloc(DECODE_ROWS * ldo),
            m: arena.alloc(DECODE_ROWS),
            l: arena.alloc(DECODE_ROWS),
            left: arena.alloc(DECODE_ROWS),
            zero_sum: arena.alloc(DECODE_ROWS),
            alpha: arena.alloc(DECODE_ROWS),
            s: arena.alloc(DECODE_ROWS * SCORE_LD),
            rows: arena.alloc(EXPANDED * stride(problem.d.max(problem.dv))),
            row_buffer: arena.alloc(BLOCK_N),
            zeros: arena.alloc(BLOCK_N),
            masked: arena.alloc(BLOCK_N),
        }
    }
}

/// Distance of dequantized rows.
fn stride(columns: usize) -> usize {
    columns.next_multiple_of(16)
}

/// The loops of one item.
pub(super) struct Decode<'a> {
    pub problem: &'a Problem,
    pub kernels: &'a Kernels,
    pub bias: &'a ScoreMod<'a>,
    pub scratch: &'a Scratch,
}

/// What [`Decode::run`] leaves to the end: a scale of V that all keys share, and its mean.
pub(super) fn deferred(v: &Tensor, at: (usize, usize)) -> (f32, Option<RowBuffer>) {
    let constant = v.quant.as_ref().and_then(|quant| quant.constant());
    let scale = if v.has_scales_within_rows() {
        1.0
    } else {
        constant.map_or(1.0, |(scale, _)| scale)
    };
    (scale, v.mean(at.0, at.1))
}

impl Decode<'_> {
    /// Computes the item's unnormalised O, maxima and sums into the scratch.
    ///
    /// # Safety
    /// The scratch was laid out for this problem and belongs to the calling worker.
    pub(super) unsafe fn run(&self, item: &WorkTile) {
        // SAFETY: by this function's contract.
        unsafe {
            let masked = self.attend(item, false);
            let n = item.rows.len() * padded(self.problem.dv, self.kernels);
            let o = std::slice::from_raw_parts(self.scratch.o, n);
            // A value that some row does not see may have reached it as 0 times NaN.
            if masked && !o.iter().fold(0.0f32, |sum, x| sum + x * 0.0).is_finite() {
                self.attend(item, true);
            }
        }
    }

    /// Attends to the item's keys; returns whether some row did not see some of them. `skip_masked`: no value reaches a row
    /// that does not see its key, whatever it is.
    unsafe fn attend(&self, item: &WorkTile, skip_masked: bool) -> bool {
        let (problem, kernels, scratch, rows) =
            (self.problem, self.kernels, self.scratch, &item.rows);
        let ldo = padded(problem.dv, kernels);
        let sequence = &rows.sequence;
        let n_rows = rows.len();
        // SAFETY: everything stays inside the scratch; keys are inside the tensors.
        unsafe {
            scratch.o.write_bytes(0, DECODE_ROWS * ldo);
            std::slice::from_raw_parts_mut(scratch.m, DECODE_ROWS).fill(f32::NEG_INFINITY);
            scratch.l.write_bytes(0, DECODE_ROWS);
            scratch.left.write_bytes(0, DECODE_ROWS);
            scratch.zero_sum.write_bytes(0, DECODE_ROWS);
            let (low, high) = rows.span(0, n_rows);
            let (first_visible, last_visible) = (
                problem.options.key_range(sequence, low),
                problem.options.key_range(sequence, high),
            );
            let lo = first_visible.0.max(item.keys.start);
            let hi = last_visible.1.min(item.keys.end);
            if lo >= hi {
                return false;
            }
            let mut any_masked = false;
            self.load_q(rows);
            let at = (sequence.batch, rows.kv_head);
            for first in (lo..hi).step_by(BLOCK_N) {
                let n = BLOCK_N.min(hi - first);
                if self.bias.masks_all(rows, 0, n_rows, first..first + n) {
                    continue;
                }
                self.scores(at, sequence.k0 + first, n, n_rows);
                let boundary = first < last_visible.0 || first + n > first_visible.1;
                let masked = boundary || self.bias.passes;
                if masked {
                    self.bias.strip(
                        sequence,
                        n_rows,
                        |r| rows.head_and_row(r),
                        first,
                        n,
                        scratch.s,
                        scratch.row_buffer,
                    );
                    if skip_masked {
                        self.record_masked(n_rows, n);
                    }
                    any_masked = true;
                }
                let state = RowState {
                    m: scratch.m,
                    l: scratch.l,
                    alpha: scratch.alpha,
                    left: scratch.left,
                };
                (kernels.softmax_f32)(scratch.s, n_rows, n, state);
                self.values(
                    at,
                    sequence.k0 + first,
                    n,
                    n_rows,
                    masked && skip_masked,
                    ldo,
                );
            }
            for r in 0..n_rows {
                let zeros = *scratch.zero_sum.add(r);
                if zeros != 0.0 {
                    let o = std::slice::from_raw_parts_mut(scratch.o.add(r * ldo), problem.dv);
                    o.iter_mut().for_each(|x| *x -= zeros);
                }
            }
            any_masked
        }
    }

    /// Whether K is dequantized to the queries' domain and scales before it meets them.
    fn expands_k(&self) -> bool {
        self.rotates_k() || self.problem.k.has_scales_within_rows()
    }

    /// Whether K must be rotated to meet Q.
    fn rotates_k(&self) -> bool {
        self.problem.q.is_rotated() && !self.problem.k.is_rotated()
    }

    /// Loads the query rows, times the softmax scale and what scale and mean all keys share.
    unsafe fn load_q(&self, rows: &TileRows) {
        let (problem, scratch) = (self.problem, self.scratch);
        let (q, k, d) = (&problem.q, &problem.k, problem.d);
        let b = rows.sequence.batch;
        let rotate = k.is_rotated() && !q.is_rotated();
        let mut k_mean = k.mean(b, rows.kv_head);
        if let (true, Some(mean)) = (self.rotates_k(), &mut k_mean) {
            hadamard::rotate(mean);
        }
        let (k_scale, k_zero) = match &k.quant {
            Some(quant) if !self.expands_k() => quant.constant().unwrap_or((1.0, 0.0)),
            _ => (1.0, 0.0),
        };
        let factor = problem.options.factor();
        for r in 0..rows.len() {
            let (head, i) = rows.head_and_row(r);
            let mean = q.mean(b, head);
            let domain = Domain {
                rotate,
                mean: mean.as_ref().map_or(null(), |m| m.as_ptr()),
            };
            let i = rows.sequence.q0 + i;
            // SAFETY: the scratch has room for `DECODE_ROWS` rows.
            unsafe {
                let out = scratch.q.add(r * stride(d));
                q.dequantize_rows(self.kernels, (b, head), i, 1, domain, out, stride(d));
                let row = std::slice::from_raw_parts_mut(out, d);
                row.iter_mut().for_each(|x| *x *= factor);
                let meet =
                    |mean: &RowBuffer| row.iter().zip(mean.iter()).map(|(x, m)| x * m).sum::<f32>();
                let add = k_mean.as_ref().map_or(0.0, meet);
                row.iter_mut().for_each(|x| *x *= k_scale);
                let sum: f32 = row.iter().sum();
                *scratch.q_sum.add(r) = sum;
                *scratch.q_add.add(r) = add - k_zero * sum;
            }
        }
    }

    /// Base-2 scores of keys `row..row + n` of the tensor.
    unsafe fn scores(&self, at: (usize, usize), row: usize, n: usize, rows: usize) {
        let (kernels, scratch, k, d) =
            (self.kernels, self.scratch, &self.problem.k, self.problem.d);
        let ldq = stride(d);
        // SAFETY: `n <= BLOCK_N` keys inside the tensor; scores and staged rows fit the scratch.
        unsafe {
            if self.expands_k() {
                let domain = Domain {
                    rotate: self.rotates_k(),
                    ..Domain::STORED
                };
                let bytes = scratch.rows.cast::<u8>().cast_const();
                for from in (0..n).step_by(EXPANDED) {
                    let run = EXPANDED.min(n - from);
                    let s = scratch.s.add(from);
                    k.dequantize_rows(kernels, at, row + from, run, domain, scratch.rows, ldq);
                    (kernels.dot_rows.f32)(scratch.q, ldq, rows, bytes, 4 * ldq, run, d, s);
                }
            } else {
                let dot = *kernels.dot_rows.of(k.precision);
                let from = k.at(at.0, at.1, row, 0);
                dot(scratch.q, ldq, rows, from, k.row_bytes(), n, d, scratch.s);
                self.scale_scores(at, row, n, rows);
            }
            for r in 0..rows {
                let add = *scratch.q_add.add(r);
                if add != 0.0 {
                    let s = std::slice::from_raw_parts_mut(scratch.s.add(r * SCORE_LD), n);
                    s.iter_mut().for_each(|x| *x += add);
                }
            }
        }
    }

    /// Applies scales and zero points that differ by key.
    unsafe fn scale_scores(&self, at: (usize, usize), row: usize, n: usize, rows: usize) {
        let Some(quant) = &self.problem.k.quant else {
            return;
        };
        if quant.constant().is_some() {
            return;
        }
        let scratch = self.scratch;
        // SAFETY: a line holds BLOCK_N floats; scores are those of `rows` rows.
        unsafe {
            if quant.has_zeros() {
                let zeros = std::slice::from_raw_parts_mut(scratch.row_buffer, n);
                quant.row_zeros(at.0, at.1, row, zeros);
                for r in 0..rows {
                    let sum = *scratch.q_sum.add(r);
                    let s = std::slice::from_raw_parts_mut(scratch.s.add(r * SCORE_LD), n);
                    s.iter_mut()
                        .zip(zeros.iter())
                        .for_each(|(x, zero)| *x -= sum * zero);
                }
            }
            let scales = std::slice::from_raw_parts_mut(scratch.row_buffer, n);
            quant.row_scales(at.0, at.1, row, scales);
            for r in 0..rows {
                let s = std::slice::from_raw_parts_mut(scratch.s.add(r * SCORE_LD), n);
                s.iter_mut()
                    .zip(scales.iter())
                    .for_each(|(x, scale)| *x *= scale);
            }
        }
    }

    /// Adds the weighted values of keys `row..row + n` to O, but for what [`deferred`] leaves to the end.
    unsafe fn values(
        &self,
        at: (usize, usize),
        row: usize,
        n: usize,
        rows: usize,
        skip_masked: bool,
        ldo: usize,
    ) {
        let (kernels, scratch, v, dv) =
            (self.kernels, self.scratch, &self.problem.v, self.problem.dv);
        let (o, alpha) = (scratch.o, scratch.alpha.cast_const());
        // SAFETY: as for `scores`.
        unsafe {
            if v.has_scales_within_rows() && skip_masked {
                return self.axpy_skip_masked(at, row, n, rows, ldo);
            }
            if v.has_scales_within_rows() {
                let ones = [1.0f32; DECODE_ROWS];
                let ld = stride(dv);
                let bytes = scratch.rows.cast::<u8>().cast_const();
                for from in (0..n).step_by(EXPANDED) {
                    let run = EXPANDED.min(n - from);
                    let p = scratch.s.add(from);
                    v.dequantize_rows(
                        kernels,
                        at,
                        row + from,
                        run,
                        Domain::STORED,
                        scratch.rows,
                        ld,
                    );
                    let alpha = if from == 0 { alpha } else { ones.as_ptr() };
                    (kernels.axpy_rows.f32)(p, rows, bytes, 4 * ld, run, dv, alpha, o, ldo);
                }
                return;
            }
            self.scale_weights(at, row, n, rows, skip_masked);
            if skip_masked && v.precision.is_float() {
                return self.axpy_skip_masked(at, row, n, rows, ldo);
            }
            let axpy = *kernels.axpy_rows.of(v.precision);
            let from = v.at(at.0, at.1, row, 0).cast_const();
            axpy(scratch.s, rows, from, v.row_bytes(), n, dv, alpha, o, ldo);
        }
    }

    /// Multiplies weights by the scales of V that differ by key, and sums what zero points take off every column.
    unsafe fn scale_weights(
        &self,
        at: (usize, usize),
        row: usize,
        n: usize,
        rows: usize,
        skip_masked: bool,
    ) {
        let scratch = self.scratch;
        let Some(quant) = &self.problem.v.quant else {
            return;
        };
        let has_zeros = quant.has_zeros();
        // SAFETY: lines hold BLOCK_N floats; weights are those of `rows` rows.
        unsafe {
            let scales = std::slice::from_raw_parts_mut(scratch.row_buffer, n);
            let zeros = std::slice::from_raw_parts_mut(scratch.zeros, n);
            let constant = quant.constant().is_some();
            if !constant {
                quant.row_scales(at.0, at.1, row, scales);
            }
            if has_zeros {
                quant.row_zeros(at.0, at.1, row, zeros);
            }
            for r in 0..rows {
                let p = std::slice::from_raw_parts_mut(scratch.s.add(r * SCORE_LD), n);
                if !constant && skip_masked {
                    // A weight of 0 is that of a masked key, whose scale may be anything.
                    (p.iter_mut().zip(scales.iter()))
                        .for_each(|(x, scale)| *x = if *x == 0.0 { 0.0 } else { *x * scale });
                } else if !constant {
                    (p.iter_mut().zip(scales.iter())).for_each(|(x, scale)| *x *= scale);
                }
                if has_zeros {
                    // As many at a time as P V adds up.
                    let runs = p.chunks(SUM_RUN).zip(zeros.chunks(SUM_RUN));
                    let of_run = |(p, zeros): (&[f32], &[f32])| {
                        let terms = p.iter().zip(zeros.iter()).map(|(x, zero)| x * zero);
                        terms.sum::<f32>()
                    };
                    let sum = runs.map(of_run).sum::<f32>();
                    let zero_sum = scratch.zero_sum.add(r);
                    *zero_sum = *zero_sum * *scratch.alpha.add(r) + sum;
                }
            }
        }
    }

    /// Notes keys that some row does not see, before softmax makes their scores 0: a bit per row.
    unsafe fn record_masked(&self, rows: usize, n: usize) {
        for j in 0..n {
            let mut bits = 0;
            for r in 0..rows {
                // SAFETY: a score of a row and key of the block.
                let masked = unsafe { *self.scratch.s.add(r * SCORE_LD + j) == f32::NEG_INFINITY };
                bits |= u8::from(masked) << r;
            }
            // SAFETY: a flag per key.
            unsafe { *self.scratch.masked.add(j) = bits };
        }
    }

    unsafe fn value_row(&self, at: (usize, usize), row: usize) -> &[f32] {
        let (v, dv) = (&self.problem.v, self.problem.dv);
        // SAFETY: one row fits the staging area.
        unsafe {
            v.dequantize_rows(
                self.kernels,
                at,
                row,
                1,
                Domain::STORED,
                self.scratch.rows,
                stride(dv),
            );
            std::slice::from_raw_parts(self.scratch.rows, dv)
        }
    }

    /// `axpy_rows` where a value that some row must not see holds NaN or an infinity. Slow, and rare.
    unsafe fn axpy_skip_masked(
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
                let masked = *scratch.masked.add(j);
                let value = self.value_row(at, row + j);
                for r in (0..rows).filter(|r| masked >> r & 1 == 0) {
                    let p = *scratch.s.add(r * SCORE_LD + j);
                    let o = std::slice::from_raw_parts_mut(scratch.o.add(r * ldo), self.problem.dv);
                    o.iter_mut().zip(value).for_each(|(x, v)| *x += p * v);
                }
            }
        }
    }
}

// TileRows of a tile are bits of a byte.
const _: () = assert!(DECODE_ROWS <= 8);
