//! Decode where scales differ within a row: K and V stay integers, and scales are applied in registers.
//!
//! - *Groups of columns*: kernels take the scales of a few keys as FP32, and multiply elements while they convert them.
//! - *Channels*: the keys of a block share a scale per column. Those of K are folded into Q, once per block; those of V are
//!   applied to the sums of P V of a block.

use crate::contract::quant_scheme::{Granularity, Quant};
use crate::forward::decode::{Decode, KeyBlock};
use crate::forward::scratch::dequantized_ld;
use crate::operands::padding::padded;
use mfa_kernels::{DECODE_ROWS, SUM_RUN};

/// Keys whose groups' scales are brought to FP32 at a time: scales and zero points of groups of 32 columns fit
/// [`super::scratch::DecodeScratch::rows`]. A multiple of [`SUM_RUN`].
const SCALED_KEYS: usize = 128;
const _: () = assert!(SCALED_KEYS.is_multiple_of(SUM_RUN));

impl KeyBlock {
    /// The keys in pieces of at most `most`, none of which crosses a multiple of `multiple` rows, each with its first key.
    fn pieces(self, most: usize, multiple: usize) -> impl Iterator<Item = (usize, KeyBlock)> {
        let mut from = 0;
        std::iter::from_fn(move || {
            let row = self.row + from;
            let n = (self.n - from).min(most).min(multiple - row % multiple);
            let piece = (from, KeyBlock { row, n, ..self });
            from += n;
            (n > 0).then_some(piece)
        })
    }
}

impl Decode<'_> {
    /// Computes scores, but for the terms of K's mean.
    ///
    /// # Safety
    /// As for the scores of other layouts: keys are inside the tensor, and scores fit the scratch.
    pub(super) unsafe fn score_within_row(&self, quant: &Quant, keys: KeyBlock) {
        let (kernels, scratch, k, d) =
            (self.kernels, self.scratch, &self.problem.k, self.problem.d);
        let (ldq, stride, at) = (dequantized_ld(d), k.row_bytes(), keys.at);
        // SAFETY: by this function's contract.
        unsafe {
            if quant.granularity == Granularity::Channel {
                let dot = *kernels.dot_rows.of(k.precision);
                for (from, KeyBlock { row, n, rows, .. }) in keys.pieces(keys.n, quant.block_rows) {
                    self.fold_channels(quant, at, row, rows);
                    let bytes = k.at(at.0, at.1, row, 0);
                    let s = scratch.s.add(from);
                    dot(scratch.q_folded, ldq, rows, bytes, stride, n, d, s);
                    for r in (0..rows).filter(|_| quant.has_zeros()) {
                        let zeros = *scratch.q_sum.add(r);
                        let s = &mut self.score_row(r, from + n)[from..];
                        s.iter_mut().for_each(|x| *x -= zeros);
                    }
                }
            } else {
                let dot = *kernels.quantized.dot_groups.of(k.precision);
                for (from, KeyBlock { row, n, rows, .. }) in keys.pieces(SCALED_KEYS, usize::MAX) {
                    let scales = quant.group_scales(kernels, at, row, n, 0..d, scratch.rows);
                    let bytes = k.at(at.0, at.1, row, 0);
                    let s = scratch.s.add(from);
                    dot(scratch.q, ldq, rows, bytes, stride, n, d, scales, s);
                }
            }
        }
    }

    /// Brings the scales of the block of channels that `row` is in into `q_folded`, and the terms of its zero points into
    /// `q_sum`.
    unsafe fn fold_channels(&self, quant: &Quant, at: (usize, usize), row: usize, rows: usize) {
        let (kernels, scratch, d) = (self.kernels, self.scratch, self.problem.d);
        let block = Some(row / quant.block_rows);
        if self.folded.replace(block) == block {
            return;
        }
        // SAFETY: the scratch has memory for rows of Q, and for scales and zero points of their columns.
        unsafe {
            let scales = quant.channel_scales(kernels, at, row, 0..d, scratch.channels);
            let (q, folded, sums) = (scratch.q, scratch.q_folded, scratch.q_sum);
            let fold = kernels.quantized.scale_columns;
            fold(q, dequantized_ld(d), rows, d, scales, folded, sums);
        }
    }

    /// Adds the weighted values to O, but for their mean.
    ///
    /// # Safety
    /// As for [`Decode::score_within_row`], with weights in place of scores.
    pub(super) unsafe fn add_within_row(&self, quant: &Quant, keys: KeyBlock) {
        let (kernels, scratch, v, dv) =
            (self.kernels, self.scratch, &self.problem.v, self.problem.dv);
        let (ldo, stride, at) = (padded(dv, kernels), v.row_bytes(), keys.at);
        let (zeros, ones) = ([0.0f32; DECODE_ROWS], [1.0f32; DECODE_ROWS]);
        let alpha = |from| match from {
            0 => scratch.alpha.cast_const(),
            _ => ones.as_ptr(),
        };
        // SAFETY: by this function's contract.
        unsafe {
            if quant.granularity == Granularity::Channel {
                let axpy = *kernels.axpy_rows.of(v.precision);
                let add = kernels.quantized.add_channels;
                for (from, KeyBlock { row, n, rows, .. }) in keys.pieces(keys.n, quant.block_rows) {
                    let bytes = v.at(at.0, at.1, row, 0).cast_const();
                    let (p, sums) = (scratch.s.add(from), scratch.sums);
                    sums.write_bytes(0, rows * ldo);
                    axpy(p, rows, bytes, stride, n, dv, zeros.as_ptr(), sums, ldo);
                    let scales = quant.channel_scales(kernels, at, row, 0..dv, scratch.channels);
                    add(sums, p, n, rows, dv, scales, alpha(from), scratch.o, ldo);
                }
            } else {
                let axpy = *kernels.quantized.axpy_groups.of(v.precision);
                for (from, KeyBlock { row, n, rows, .. }) in keys.pieces(SCALED_KEYS, usize::MAX) {
                    let scales = quant.group_scales(kernels, at, row, n, 0..dv, scratch.rows);
                    let bytes = v.at(at.0, at.1, row, 0).cast_const();
                    let (p, o) = (scratch.s.add(from), scratch.o);
                    axpy(p, rows, bytes, stride, n, dv, scales, alpha(from), o, ldo);
                }
            }
        }
    }
}
