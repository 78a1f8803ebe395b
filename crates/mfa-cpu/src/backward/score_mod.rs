//! Softcap, ALiBi, masks, causality and window on transposed scores: a row is a key, a column a query.

use super::block::BlockCoords;
use std::ops::Range;

use crate::contract::problem::Problem;
use crate::contract::sequences::Sequence;
use crate::contract::tensor::Tensor;
use crate::operands::mask::{masks, masks_all, read_mask_row};
use mfa_kernels::base2::to_base2;
use mfa_kernels::{Kernels, SCORE_LD};

/// The passes over transposed scores that a call needs.
pub(super) struct TransposedScoreMod<'a> {
    problem: &'a Problem,
    kernels: &'a Kernels,
    /// Whether scores need more than their key ranges.
    pub passes: bool,
}

impl<'a> TransposedScoreMod<'a> {
    pub(super) fn new(problem: &'a Problem, kernels: &'a Kernels) -> Self {
        let options = &problem.options;
        TransposedScoreMod {
            problem,
            kernels,
            passes: options.caps() || options.alibi.is_some() || options.mask.is_some(),
        }
    }

    /// Whether key `j` is masked from query `i` of `head`. Slow: for the few rows that hold NaN or infinities.
    pub(super) fn masks(&self, sequence: &Sequence, head: usize, i: usize, j: usize) -> bool {
        let options = &self.problem.options;
        let (lo, hi) = options.key_range(sequence, i);
        if !(lo..hi).contains(&j) {
            return true;
        }
        let mask = options.mask.as_ref();
        mask.is_some_and(|mask| masks(mask, [sequence.index, head, i, j]))
    }

    /// Whether the mask hides all of these keys from all of these queries.
    pub(super) fn masks_all(
        &self,
        sequence: &Sequence,
        head: usize,
        queries: Range<usize>,
        keys: Range<usize>,
    ) -> bool {
        let mask = self.problem.options.mask.as_ref();
        mask.is_some_and(|mask| masks_all(mask, (sequence.index, head), queries, keys))
    }

    /// Writes the mask of a coords as numbers to add: `tile[key][query]`, keys [`SCORE_LD`] apart. False becomes -infinity.
    ///
    /// # Safety
    /// `tile` has workspace for the coords's keys; `mask_rows` for its queries times its keys, and as many floats again as it has
    /// keys.
    pub(super) unsafe fn mask_tile(
        &self,
        coords: &BlockCoords<'_>,
        tile: *mut f32,
        mask_rows: *mut f32,
    ) {
        let Some(mask) = &self.problem.options.mask else {
            return;
        };
        let (n, keys) = (coords.n, coords.keys);
        // SAFETY: by this function's contract.
        unsafe {
            if mask.strides[2] == 0 {
                self.mask_row(mask, coords, 0, mask_rows);
                for j in 0..keys {
                    std::slice::from_raw_parts_mut(tile.add(j * SCORE_LD), n)
                        .fill(*mask_rows.add(j));
                }
                return;
            }
            for i in 0..n {
                self.mask_row(mask, coords, i, mask_rows.add(i * keys));
            }
            (self.kernels.gradient.transpose)(mask_rows, keys, n, keys, tile, SCORE_LD);
        }
    }

    /// Reads the mask of query `i0 + i` on the block's keys.
    unsafe fn mask_row(&self, mask: &Tensor, coords: &BlockCoords<'_>, i: usize, out: *mut f32) {
        let at = [coords.sequence.index, coords.head, coords.i0 + i, coords.j0];
        // SAFETY: `out` has memory for a number per key.
        unsafe { read_mask_row(self.kernels, mask, at, coords.keys, out) };
    }

    /// Turns raw base-2 scores of the coords's keys (the rows, at most `mr`) and queries into those whose exponentials are
    /// the weights. With a softcap, `slope` receives its derivative (eq. 27).
    ///
    /// # Safety
    /// `s` and `slope` are strips of the coords's keys by its queries; `mask` is its tile, if there is a mask.
    pub(super) unsafe fn strip(
        &self,
        coords: &BlockCoords<'_>,
        s: *mut f32,
        slope: *mut f32,
        mask: *const f32,
    ) {
        let (options, sequence, n) = (&self.problem.options, coords.sequence, coords.n);
        for r in 0..coords.keys {
            let j = coords.j0 + r;
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
                    let slope = slopes.number(sequence.index, coords.head);
                    let at = j as i64 - sequence.shift - coords.i0 as i64;
                    (self.kernels.alibi)(s, n, to_base2(slope), at as f32);
                }
                if options.mask.is_some() {
                    (self.kernels.mask_add)(s, mask.add(r * SCORE_LD), n);
                }
                let (lo, hi) = options.query_range(sequence, j);
                let end = coords.i0 + n;
                let (lo, hi) = (
                    lo.clamp(coords.i0, end) - coords.i0,
                    hi.clamp(coords.i0, end) - coords.i0,
                );
                let row = std::slice::from_raw_parts_mut(s, n);
                row[..lo].fill(f32::NEG_INFINITY);
                row[hi.max(lo)..].fill(f32::NEG_INFINITY);
            }
        }
    }
}
