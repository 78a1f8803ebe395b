//! Score modifications between Q Kᵀ and softmax: softcap, ALiBi, masks, causality and window (eq. 3 of docs/math.md).

use std::ops::Range;

use crate::contract::problem::Problem;
use crate::contract::sequences::Sequence;
use crate::forward::schedule::{HeadSpan, TileRows};
use crate::operands::mask::{apply_mask_row, masks_all};
use mfa_kernels::base2::to_base2;
use mfa_kernels::{Kernels, SCORE_LD};

/// The score modifications of a call.
pub(crate) struct ScoreMod<'a> {
    problem: &'a Problem,
    kernels: &'a Kernels,
    /// Whether scores need more than the limits of the key ranges: softcap, ALiBi or a mask.
    pub needs_score_pass: bool,
}

impl<'a> ScoreMod<'a> {
    pub(crate) fn new(problem: &'a Problem, kernels: &'a Kernels) -> Self {
        let options = &problem.options;
        ScoreMod {
            problem,
            kernels,
            needs_score_pass: options.caps() || options.alibi.is_some() || options.mask.is_some(),
        }
    }

    /// Turns raw base-2 scores of query row `i` of `head` on keys `first..first + n` into those that softmax takes.
    ///
    /// # Safety
    /// `s` points to `n` scores, `row_buffer` to memory for `n` floats. `first + n` is within the sequence.
    pub(crate) unsafe fn apply_row(
        &self,
        sequence: &Sequence,
        head: usize,
        i: usize,
        first: usize,
        n: usize,
        s: *mut f32,
        row_buffer: *mut f32,
    ) {
        let options = &self.problem.options;
        // SAFETY: all kernels stay within the row's `n` scores; `row_buffer` has memory for a row of the mask.
        unsafe {
            if self.needs_score_pass {
                if options.caps() {
                    (self.kernels.softcap)(s, n, options.softcap_in_base2());
                }
                if let Some(slopes) = &options.alibi {
                    let slope = slopes.number(sequence.index, head);
                    let at = i as i64 + sequence.shift - first as i64;
                    (self.kernels.alibi)(s, n, to_base2(slope), at as f32);
                }
                if let Some(mask) = &options.mask {
                    let at = [sequence.index, head, i, first];
                    apply_mask_row(self.kernels, mask, at, n, s, row_buffer);
                }
            }
            let (lo, hi) = options.key_range(sequence, i);
            let (lo, hi) = (
                lo.clamp(first, first + n) - first,
                hi.clamp(first, first + n) - first,
            );
            let row = std::slice::from_raw_parts_mut(s, n);
            row[..lo].fill(f32::NEG_INFINITY);
            row[hi.max(lo)..].fill(f32::NEG_INFINITY);
        }
    }

    /// Whether the mask masks all of `keys` for all of the tile's rows `from..to`.
    pub(crate) fn masks_all(
        &self,
        rows: &TileRows,
        from: usize,
        to: usize,
        keys: Range<usize>,
    ) -> bool {
        let Some(mask) = &self.problem.options.mask else {
            return false;
        };
        let sequence = &rows.sequence;
        let mut spans = rows.head_spans(from, to);
        let is_masked = |span: HeadSpan| {
            let first = span.at - sequence.q0;
            let at = (sequence.index, span.head);
            masks_all(mask, at, first..first + span.len, keys.clone())
        };
        if mask.strides[1] == 0 && mask.strides[2] == 0 {
            // All heads and rows share one mask row: the first span decides.
            spans.next().is_none_or(is_masked)
        } else {
            spans.all(is_masked)
        }
    }

    /// Applies [`ScoreMod::apply_row`] to the tile's rows from `first_row` on.
    ///
    /// # Safety
    /// `s` points to `count` rows of `n` scores, [`SCORE_LD`] apart; otherwise as for [`ScoreMod::apply_row`].
    pub(crate) unsafe fn apply_strip(
        &self,
        rows: &TileRows,
        first_row: usize,
        count: usize,
        first: usize,
        n: usize,
        s: *mut f32,
        row_buffer: *mut f32,
    ) {
        for r in 0..count {
            let (head, i) = rows.head_and_row(first_row + r);
            // SAFETY: by this function's contract.
            unsafe {
                let s = s.add(r * SCORE_LD);
                self.apply_row(&rows.sequence, head, i, first, n, s, row_buffer);
            }
        }
    }
}
