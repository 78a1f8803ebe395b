//! Decode: a few query rows against keys and values as they are stored.
//!
//! The rows of all query heads of a group form one tile, so that each key and value is read once. Kernels convert stored
//! numbers in registers. Scales and zero points that a row shares are applied to its score and its weight; for those that
//! differ within a row see [`super::decode_quantized`]. Only where K must be rotated, a few rows are dequantized into the
//! first-level cache first.

use std::cell::Cell;
use std::ptr::null;

use crate::contract::problem::Problem;
use crate::contract::tensor::Tensor;
use crate::forward::masked_keys::MaskedKeys;
use crate::forward::schedule::{TileRows, WorkTile};
use crate::forward::score_mod::ScoreMod;
use crate::forward::scratch::{DEQUANTIZED_KEYS, DecodeScratch, dequantized_ld};
use crate::operands::dequantize::{Domain, ScaleLayout};
use crate::operands::hadamard;
use crate::operands::padding::padded;
use crate::operands::row_buffer::RowBuffer;
use mfa_kernels::quantized::ChannelScales;
use mfa_kernels::{BLOCK_N, DECODE_ROWS, Kernels, RowState, SCORE_LD, SUM_RUN};

/// The decode loops of one call on one worker.
pub(super) struct Decode<'a> {
    pub problem: &'a Problem,
    pub kernels: &'a Kernels,
    pub score_mod: &'a ScoreMod<'a>,
    pub scratch: &'a DecodeScratch,
    /// The block of K's channels whose scales `q_folded` has.
    pub folded: Cell<Option<usize>>,
}

/// Keys of a block, within the tensors.
#[derive(Clone, Copy)]
pub(super) struct KeyBlock {
    /// Batch element and key/value head.
    pub at: (usize, usize),
    /// First row.
    pub row: usize,
    pub n: usize,
    /// Query rows.
    pub rows: usize,
}

/// The factor and the mean of V that [`Decode::run`] leaves to the epilogue: a scale that all keys share, and the mean.
pub(super) fn deferred(v: &Tensor, at: (usize, usize)) -> (f32, Option<RowBuffer>) {
    let scale = match v.scale_layout() {
        ScaleLayout::PerTensor { scale, .. } => scale,
        _ => 1.0,
    };
    (scale, v.mean(at.0, at.1))
}

impl<'a> Decode<'a> {
    pub(super) fn new(
        problem: &'a Problem,
        kernels: &'a Kernels,
        score_mod: &'a ScoreMod<'a>,
        scratch: &'a DecodeScratch,
    ) -> Self {
        Decode {
            problem,
            kernels,
            score_mod,
            scratch,
            folded: Cell::new(None),
        }
    }

    /// Computes the item's unnormalised O, maxima and sums into the scratch.
    ///
    /// # Safety
    /// The scratch was allocated for this problem and belongs to the calling worker.
    pub(super) unsafe fn run(&self, item: &WorkTile) {
        // SAFETY: by this function's contract.
        unsafe {
            let masked = self.attend(item, false);
            let n = item.rows.len() * padded(self.problem.dv, self.kernels);
            let o = std::slice::from_raw_parts(self.scratch.o, n);
            // A value that is masked for some row may have reached that row as 0 times NaN.
            if masked && !o.iter().fold(0.0f32, |sum, x| sum + x * 0.0).is_finite() {
                self.attend(item, true);
            }
        }
    }

    /// Attends to the item's keys; returns whether some key is masked for some row. With `skip_masked`, no value reaches a row
    /// that does not attend to its key, whatever the value is.
    unsafe fn attend(&self, item: &WorkTile, skip_masked: bool) -> bool {
        let (problem, scratch, rows) = (self.problem, self.scratch, &item.rows);
        let (sequence, n_rows) = (&rows.sequence, rows.len());
        let (low, high) = rows.row_range(0, n_rows);
        let first_range = problem.options.key_range(sequence, low);
        let last_range = problem.options.key_range(sequence, high);
        let lo = first_range.0.max(item.keys.start);
        let hi = last_range.1.min(item.keys.end);
        let mut any_masked = false;
        // SAFETY: everything stays inside the scratch; keys are inside the tensors.
        unsafe {
            self.clear();
            if lo >= hi {
                return false;
            }
            self.load_q(rows);
            for first in (lo..hi).step_by(BLOCK_N) {
                let n = BLOCK_N.min(hi - first);
                if self.score_mod.masks_all(rows, 0, n_rows, first..first + n) {
                    continue;
                }
                let keys = KeyBlock {
                    at: (sequence.batch, rows.kv_head),
                    row: sequence.k0 + first,
                    n,
                    rows: n_rows,
                };
                self.prefetch_scales(keys, hi - first);
                self.score_keys(keys);
                let is_boundary = first < last_range.0 || first + n > first_range.1;
                let mut masked = None;
                if is_boundary || self.score_mod.needs_score_pass {
                    let (s, row_buffer) = (scratch.s, scratch.row_buffer);
                    self.score_mod
                        .apply_strip(rows, 0, n_rows, first, n, s, row_buffer);
                    any_masked = true;
                    masked = skip_masked.then(|| self.record_masked(keys));
                }
                let state = RowState {
                    m: scratch.m,
                    l: scratch.l,
                    alpha: scratch.alpha,
                    left: scratch.left,
                };
                (self.kernels.softmax_f32)(scratch.s, n_rows, n, state);
                self.add_values(keys, masked.as_ref());
            }
            self.subtract_zeros(n_rows);
        }
        any_masked
    }

    /// Asks for the scales of the next block, if there is one: `left` keys are left. They are too few lines for the processor to
    /// see that they follow one another.
    fn prefetch_scales(&self, keys: KeyBlock, left: usize) {
        let count = BLOCK_N.min(left - keys.n);
        if count == 0 {
            return;
        }
        let tensors = [&self.problem.k, &self.problem.v];
        for quant in tensors.into_iter().filter_map(|x| x.quant.as_ref()) {
            quant.prefetch(self.kernels, keys.at, keys.row + keys.n, count);
        }
    }

    unsafe fn clear(&self) {
        let scratch = self.scratch;
        // SAFETY: arrays of the scratch.
        unsafe {
            let ldo = padded(self.problem.dv, self.kernels);
            scratch.o.write_bytes(0, DECODE_ROWS * ldo);
            std::slice::from_raw_parts_mut(scratch.m, DECODE_ROWS).fill(f32::NEG_INFINITY);
            scratch.l.write_bytes(0, DECODE_ROWS);
            scratch.left.write_bytes(0, DECODE_ROWS);
            scratch.zero_sum.write_bytes(0, DECODE_ROWS);
        }
    }

    /// Records the masked keys of a block, before softmax makes their scores 0.
    unsafe fn record_masked(&self, keys: KeyBlock) -> MaskedKeys<DECODE_ROWS> {
        let masked = MaskedKeys::new(self.scratch.masked);
        // SAFETY: a block of scores, and flags for it.
        unsafe { masked.record(self.scratch.s, keys.rows, keys.n) };
        masked
    }

    /// Subtracts the terms of V's zero points from O.
    unsafe fn subtract_zeros(&self, rows: usize) {
        let (scratch, ldo) = (self.scratch, padded(self.problem.dv, self.kernels));
        for r in 0..rows {
            // SAFETY: rows of the scratch.
            unsafe {
                let zeros = *scratch.zero_sum.add(r);
                if zeros != 0.0 {
                    let o = std::slice::from_raw_parts_mut(scratch.o.add(r * ldo), self.problem.dv);
                    o.iter_mut().for_each(|x| *x -= zeros);
                }
            }
        }
    }

    /// Whether K must be rotated, because Q is and K is not.
    fn rotates_k(&self) -> bool {
        self.problem.q.is_rotated() && !self.problem.k.is_rotated()
    }

    /// Loads the query rows, times the softmax scale and the scale of K if all keys share it. `q_add` receives the terms of
    /// K's zero point and mean.
    unsafe fn load_q(&self, rows: &TileRows) {
        let (problem, scratch) = (self.problem, self.scratch);
        let (q, k, d) = (&problem.q, &problem.k, problem.d);
        let b = rows.sequence.batch;
        let rotate = k.is_rotated() && !q.is_rotated();
        let mut k_mean = k.mean(b, rows.kv_head);
        if let (true, Some(mean)) = (self.rotates_k(), &mut k_mean) {
            hadamard::rotate(mean);
        }
        let (k_scale, k_zero) = match k.scale_layout() {
            ScaleLayout::PerTensor { scale, zero } if !self.rotates_k() => (scale, zero),
            _ => (1.0, 0.0),
        };
        let factor = problem.options.factor();
        self.folded.set(None);
        for r in 0..rows.len() {
            let (head, i) = rows.head_and_row(r);
            let mean = q.mean(b, head);
            let domain = Domain {
                rotate,
                mean: mean.as_ref().map_or(null(), |m| m.as_ptr()),
            };
            let i = rows.sequence.q0 + i;
            // SAFETY: the scratch has memory for `DECODE_ROWS` rows.
            unsafe {
                let ld = dequantized_ld(d);
                let out = scratch.q.add(r * ld);
                q.dequantize_rows(self.kernels, (b, head), i, 1, domain, out, ld);
                let row = std::slice::from_raw_parts_mut(out, d);
                row.iter_mut().for_each(|x| *x *= factor);
                let dot =
                    |mean: &RowBuffer| row.iter().zip(mean.iter()).map(|(x, m)| x * m).sum::<f32>();
                let add = k_mean.as_ref().map_or(0.0, dot);
                row.iter_mut().for_each(|x| *x *= k_scale);
                let sum: f32 = row.iter().sum();
                *scratch.q_sum.add(r) = sum;
                *scratch.q_add.add(r) = add - k_zero * sum;
            }
        }
    }

    /// Computes base-2 scores.
    unsafe fn score_keys(&self, keys: KeyBlock) {
        let (kernels, scratch, k, d) =
            (self.kernels, self.scratch, &self.problem.k, self.problem.d);
        let (ldq, KeyBlock { at, row, n, rows }) = (dequantized_ld(d), keys);
        // SAFETY: `n <= BLOCK_N` keys inside the tensor; scores and dequantized rows fit the scratch.
        unsafe {
            match k.scale_layout() {
                _ if self.rotates_k() => self.score_rotated(keys),
                ScaleLayout::WithinRow(quant) => self.score_within_row(quant, keys),
                _ => {
                    let dot = *kernels.dot_rows.of(k.precision);
                    let from = k.at(at.0, at.1, row, 0);
                    dot(scratch.q, ldq, rows, from, k.row_bytes(), n, d, scratch.s);
                    self.scale_scores(keys);
                }
            }
            for r in 0..rows {
                let add = *scratch.q_add.add(r);
                if add != 0.0 {
                    self.score_row(r, n).iter_mut().for_each(|x| *x += add);
                }
            }
        }
    }

    /// Scores of keys that are dequantized and rotated, a few at a time.
    unsafe fn score_rotated(&self, KeyBlock { at, row, n, rows }: KeyBlock) {
        let (kernels, scratch, k, d) =
            (self.kernels, self.scratch, &self.problem.k, self.problem.d);
        let ld = dequantized_ld(d);
        let domain = Domain {
            rotate: true,
            ..Domain::STORED
        };
        let bytes = scratch.rows.cast::<u8>().cast_const();
        for from in (0..n).step_by(DEQUANTIZED_KEYS) {
            let count = DEQUANTIZED_KEYS.min(n - from);
            // SAFETY: as for `score_keys`.
            unsafe {
                let s = scratch.s.add(from);
                k.dequantize_rows(kernels, at, row + from, count, domain, scratch.rows, ld);
                (kernels.dot_rows.f32)(scratch.q, ld, rows, bytes, 4 * ld, count, d, s);
            }
        }
    }

    /// The scores or weights of a row.
    #[allow(clippy::mut_from_ref)] // The scratch belongs to this worker, and each use ends before the next.
    pub(super) unsafe fn score_row(&self, r: usize, n: usize) -> &mut [f32] {
        // SAFETY: a row of the scratch, by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.scratch.s.add(r * SCORE_LD), n) }
    }

    /// Applies scales and zero points that differ by key.
    unsafe fn scale_scores(&self, keys: KeyBlock) {
        let KeyBlock { at, row, n, rows } = keys;
        let ScaleLayout::PerRow(quant) = self.problem.k.scale_layout() else {
            return;
        };
        let scratch = self.scratch;
        // SAFETY: a row buffer holds BLOCK_N floats; scores are those of `rows` rows.
        unsafe {
            if quant.has_zeros() {
                let zeros = std::slice::from_raw_parts_mut(scratch.row_buffer, n);
                quant.row_zeros(self.kernels, at, row, zeros);
                for r in 0..rows {
                    let sum = *scratch.q_sum.add(r);
                    (self.score_row(r, n).iter_mut().zip(zeros.iter()))
                        .for_each(|(x, zero)| *x -= sum * zero);
                }
            }
            let scales = std::slice::from_raw_parts_mut(scratch.row_buffer, n);
            quant.row_scales(self.kernels, at, row, scales);
            self.scale_columns(scales, null(), keys);
        }
    }

    /// Multiplies scores or weights by factors of keys. Returns the sums of the products with `zeros`, per row.
    unsafe fn scale_columns(
        &self,
        scales: &[f32],
        zeros: *const f32,
        KeyBlock { n, rows, .. }: KeyBlock,
    ) -> [f32; DECODE_ROWS] {
        let mut sums = [0.0; DECODE_ROWS];
        let scales = ChannelScales {
            scale: scales.as_ptr(),
            zero: zeros,
        };
        let (kernel, s) = (self.kernels.quantized.scale_columns, self.scratch.s);
        // SAFETY: rows of scores, in place, and as many factors, by the caller.
        unsafe { kernel(s, SCORE_LD, rows, n, scales, s, sums.as_mut_ptr()) };
        sums
    }

    /// Adds the weighted values to O, but for the scale and mean of [`deferred`]. Skips `masked` keys.
    unsafe fn add_values(&self, keys: KeyBlock, masked: Option<&MaskedKeys<DECODE_ROWS>>) {
        let (kernels, scratch, v, dv) =
            (self.kernels, self.scratch, &self.problem.v, self.problem.dv);
        let (o, alpha, ldo) = (scratch.o, scratch.alpha, padded(dv, kernels));
        let KeyBlock { at, row, n, rows } = keys;
        // SAFETY: as for `score_keys`.
        unsafe {
            let layout = v.scale_layout();
            let within_row = matches!(layout, ScaleLayout::WithinRow(_));
            if !within_row {
                self.scale_weights(keys, masked.is_some());
            }
            match (masked, layout) {
                (Some(masked), _) if within_row || v.precision.is_float() => {
                    self.axpy_skip_masked(keys, masked);
                }
                (_, ScaleLayout::WithinRow(quant)) => self.add_within_row(quant, keys),
                _ => {
                    let axpy = *kernels.axpy_rows.of(v.precision);
                    let from = v.at(at.0, at.1, row, 0).cast_const();
                    axpy(scratch.s, rows, from, v.row_bytes(), n, dv, alpha, o, ldo);
                }
            }
        }
    }

    /// Multiplies weights by the scales of V that differ by key, and sums the terms of V's zero points.
    unsafe fn scale_weights(&self, keys: KeyBlock, skip_masked: bool) {
        let (scratch, KeyBlock { at, row, n, rows }) = (self.scratch, keys);
        // SAFETY: buffers hold BLOCK_N floats; weights are those of `rows` rows.
        unsafe {
            let scales = std::slice::from_raw_parts_mut(scratch.row_buffer, n);
            let zeros = std::slice::from_raw_parts_mut(scratch.zeros, n);
            let (scales_differ, has_zeros) = match self.problem.v.scale_layout() {
                ScaleLayout::Unquantized | ScaleLayout::WithinRow(_) => return,
                ScaleLayout::PerTensor { zero: 0.0, .. } => return,
                ScaleLayout::PerTensor { zero, .. } => {
                    zeros.fill(zero);
                    (false, true)
                }
                ScaleLayout::PerRow(quant) => {
                    quant.row_scales(self.kernels, at, row, scales);
                    if quant.has_zeros() {
                        quant.row_zeros(self.kernels, at, row, zeros);
                    }
                    (true, quant.has_zeros())
                }
            };
            let mut sums = [None; DECODE_ROWS];
            if scales_differ && !skip_masked {
                let zeros = if has_zeros { zeros.as_ptr() } else { null() };
                sums = self.scale_columns(scales, zeros, keys).map(Some);
            }
            for (r, sum) in sums.into_iter().enumerate().take(rows) {
                let p = self.score_row(r, n);
                if scales_differ && skip_masked {
                    // A weight of 0 is that of a masked key, whose scale may be anything.
                    (p.iter_mut().zip(scales.iter()))
                        .for_each(|(x, scale)| *x = if *x == 0.0 { 0.0 } else { *x * scale });
                }
                if has_zeros {
                    let sum = sum.unwrap_or_else(|| sum_in_runs(p, zeros));
                    let zero_sum = scratch.zero_sum.add(r);
                    *zero_sum = *zero_sum * *scratch.alpha.add(r) + sum;
                }
            }
        }
    }

    /// Dequantizes one row of V.
    unsafe fn value_row(&self, at: (usize, usize), row: usize) -> &[f32] {
        let (v, dv, out) = (&self.problem.v, self.problem.dv, self.scratch.rows);
        // SAFETY: one row fits the dequantized rows.
        unsafe {
            let (domain, ld) = (Domain::STORED, dequantized_ld(dv));
            v.dequantize_rows(self.kernels, at, row, 1, domain, out, ld);
            std::slice::from_raw_parts(out, dv)
        }
    }

    /// `axpy_rows` without the products of masked keys. Slow, and rare.
    #[cold]
    unsafe fn axpy_skip_masked(
        &self,
        KeyBlock { at, row, n, rows }: KeyBlock,
        masked: &MaskedKeys<DECODE_ROWS>,
    ) {
        let (scratch, dv) = (self.scratch, self.problem.dv);
        let ldo = padded(dv, self.kernels);
        // SAFETY: as for `score_keys`; masked keys were recorded for the block.
        unsafe {
            for r in 0..rows {
                let o = std::slice::from_raw_parts_mut(scratch.o.add(r * ldo), dv);
                let alpha = *scratch.alpha.add(r);
                o.iter_mut().for_each(|x| *x *= alpha);
            }
            for j in 0..n {
                let value = self.value_row(at, row + j);
                for r in (0..rows).filter(|r| masked.attends(*r, j)) {
                    let p = *scratch.s.add(r * SCORE_LD + j);
                    let o = std::slice::from_raw_parts_mut(scratch.o.add(r * ldo), dv);
                    o.iter_mut().zip(value).for_each(|(x, v)| *x += p * v);
                }
            }
        }
    }
}

/// The sum of the products of two rows, in runs of as many keys as the sums of P V. Whole runs are summed beside each other.
fn sum_in_runs(a: &[f32], b: &[f32]) -> f32 {
    const RUNS: usize = BLOCK_N / SUM_RUN;
    let (whole_a, left_a) = a.as_chunks::<SUM_RUN>();
    let (whole_b, left_b) = b.as_chunks::<SUM_RUN>();
    let mut sums = [0f32; RUNS];
    let runs = whole_a.len();
    if runs == RUNS {
        for i in 0..SUM_RUN {
            for (run, sum) in sums.iter_mut().enumerate() {
                *sum += whole_a[run][i] * whole_b[run][i];
            }
        }
    } else {
        for (sum, (a, b)) in sums.iter_mut().zip(whole_a.iter().zip(whole_b)) {
            *sum = a.iter().zip(b).map(|(x, y)| x * y).sum();
        }
    }
    let left: f32 = left_a.iter().zip(left_b).map(|(x, y)| x * y).sum();
    sums[..runs].iter().sum::<f32>() + left
}
