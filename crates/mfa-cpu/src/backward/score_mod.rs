//! Softcap, ALiBi, masks, causality and window on transposed scores: a row is a key, a column a query.

use super::block_pair::Patch;
use std::ops::Range;

use crate::contract::problem::Problem;
use crate::contract::sequences::Sequence;
use crate::contract::tensor::Tensor;
use crate::operands::mask::{hides, hides_all};
use mfa_kernels::Precision;
use mfa_kernels::base2::to_base2;
use mfa_kernels::{Kernels, SCORE_LD};

/// The passes over transposed scores that a call needs.
pub(super) struct Bias<'a> {
    problem: &'a Problem,
    kernels: &'a Kernels,
    /// Whether scores need more than the limits of what is visible.
    pub passes: bool,
}

impl<'a> Bias<'a> {
    pub(super) fn new(problem: &'a Problem, kernels: &'a Kernels) -> Self {
        let options = &problem.options;
        Bias {
            problem,
            kernels,
            passes: options.caps() || options.alibi.is_some() || options.mask.is_some(),
        }
    }

    /// Whether key `j` is hidden from query `i` of `head`. Slow: for the few rows that hold NaN or infinities.
    pub(super) fn hides(&self, sequence: &Sequence, head: usize, i: usize, j: usize) -> bool {
        let options = &self.problem.options;
        let (lo, hi) = options.key_range(&sequence, i);
        if !(lo..hi).contains(&j) {
            return true;
        }
        let mask = options.mask.as_ref();
        mask.is_some_and(|mask| hides(mask, [sequence.index, head, i, j]))
    }

    /// Whether the mask hides all of these keys from all of these queries.
    pub(super) fn hides_all(
        &self,
        sequence: &Sequence,
        head: usize,
        queries: Range<usize>,
        keys: Range<usize>,
    ) -> bool {
        let mask = self.problem.options.mask.as_ref();
        mask.is_some_and(|mask| hides_all(mask, (sequence.index, head), queries, keys))
    }

    /// Writes the mask of a patch as numbers to add: `tile[key][query]`, keys [`SCORE_LD`] apart. False becomes -infinity.
    ///
    /// # Safety
    /// `tile` has room for the patch's keys; `stage` for its queries times its keys, and as many floats again as it has
    /// keys.
    pub(super) unsafe fn mask_tile(&self, patch: &Patch<'_>, tile: *mut f32, stage: *mut f32) {
        let Some(mask) = &self.problem.options.mask else {
            return;
        };
        let (n, keys) = (patch.n, patch.keys);
        // SAFETY: by this function's contract.
        unsafe {
            if mask.strides[2] == 0 {
                self.mask_row(mask, patch, 0, stage);
                for j in 0..keys {
                    std::slice::from_raw_parts_mut(tile.add(j * SCORE_LD), n).fill(*stage.add(j));
                }
                return;
            }
            for i in 0..n {
                self.mask_row(mask, patch, i, stage.add(i * keys));
            }
            (self.kernels.gradient.transpose)(stage, keys, n, keys, tile, SCORE_LD);
        }
    }

    /// The mask of query `i0 + i` on the patch's keys.
    unsafe fn mask_row(&self, mask: &Tensor, patch: &Patch<'_>, i: usize, out: *mut f32) {
        let at = mask.at(patch.sequence.index, patch.head, patch.i0 + i, patch.j0);
        let (stride, keys) = (mask.strides[3], patch.keys);
        let bytes = mask.precision.bytes();
        // SAFETY: the mask was broadcast to cover every row and key of each sequence; `out` holds a number per key.
        unsafe {
            let row = std::slice::from_raw_parts_mut(out, keys);
            let widen = *self.kernels.widen.of(mask.precision);
            if mask.precision == Precision::Bool {
                row.fill(0.0);
                if stride == 1 || keys == 1 {
                    (self.kernels.mask_bool)(out, at, keys);
                } else {
                    for (j, x) in row.iter_mut().enumerate() {
                        if *at.add(j * stride) == 0 {
                            *x = f32::NEG_INFINITY;
                        }
                    }
                }
            } else if stride == 1 || keys == 1 {
                widen(at, keys, out);
            } else if stride == 0 {
                widen(at, 1, out);
                let value = row[0];
                row.fill(value);
            } else {
                for j in 0..keys {
                    widen(at.add(j * stride * bytes), 1, out.add(j));
                }
            }
        }
    }

    /// Turns raw base-2 scores of the patch's keys (the rows, at most `mr`) and queries into those whose exponentials are
    /// the weights. With a softcap, `slope` receives its derivative.
    ///
    /// # Safety
    /// `s` and `slope` are strips of the patch's keys by its queries; `mask` is its tile, if there is a mask.
    pub(super) unsafe fn strip(
        &self,
        patch: &Patch<'_>,
        s: *mut f32,
        slope: *mut f32,
        mask: *const f32,
    ) {
        let (options, sequence, n) = (&self.problem.options, patch.sequence, patch.n);
        for r in 0..patch.keys {
            let j = patch.j0 + r;
            // SAFETY: all passes stay within the row's `n` scores.
            unsafe {
                let s = s.add(r * SCORE_LD);
                if options.caps() {
                    let cap2 = options.softcap_in_base2();
                    (self.kernels.softcap)(s, n, cap2);
                    for i in 0..n {
                        let t = *s.add(i) / cap2;
                        *slope.add(r * SCORE_LD + i) = 1.0 - t * t;
                    }
                }
                if let Some(slopes) = &options.alibi {
                    let slope = slopes.number(sequence.index, patch.head);
                    let at = j as i64 - sequence.shift - patch.i0 as i64;
                    (self.kernels.alibi)(s, n, to_base2(slope), at as f32);
                }
                if options.mask.is_some() {
                    (self.kernels.mask_add)(s, mask.add(r * SCORE_LD), n);
                }
                let (lo, hi) = options.query_range(&sequence, j);
                let end = patch.i0 + n;
                let (lo, hi) = (
                    lo.clamp(patch.i0, end) - patch.i0,
                    hi.clamp(patch.i0, end) - patch.i0,
                );
                let row = std::slice::from_raw_parts_mut(s, n);
                row[..lo].fill(f32::NEG_INFINITY);
                row[hi.max(lo)..].fill(f32::NEG_INFINITY);
            }
        }
    }
}
