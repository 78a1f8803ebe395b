//! What comes between the scores and their softmax: softcap, ALiBi, masks, causality and window.

use std::ops::Range;

use crate::contract::problem::Problem;
use crate::contract::sequences::Sequence;
use crate::forward::schedule::{HeadSpan, TileRows};
use crate::operands::mask::masks_all;
use mfa_kernels::Precision;
use mfa_kernels::base2::to_base2;
use mfa_kernels::{Kernels, SCORE_LD};

/// The passes over score rows that a call needs, if any.
pub(crate) struct ScoreMod<'a> {
    problem: &'a Problem,
    kernels: &'a Kernels,
    /// Whether rows need more than the limits of their visible keys.
    pub passes: bool,
}

impl<'a> ScoreMod<'a> {
    pub(crate) fn new(problem: &'a Problem, kernels: &'a Kernels) -> Self {
        let options = &problem.options;
        let passes = options.caps() || options.alibi.is_some() || options.mask.is_some();
        ScoreMod {
            problem,
            kernels,
            passes,
        }
    }

    /// Turns raw base-2 scores of query row `i` of `head` on keys `first..first + n` into those that softmax takes.
    ///
    /// # Safety
    /// `s` points to `n` scores; `scratch` to room for `n` floats. `first + n` is within the sequence.
    pub(crate) unsafe fn row(
        &self,
        sequence: &Sequence,
        head: usize,
        i: usize,
        first: usize,
        n: usize,
        s: *mut f32,
        scratch: *mut f32,
    ) {
        let options = &self.problem.options;
        // SAFETY: all passes stay within the row's `n` scores; `scratch` holds a row of the mask.
        unsafe {
            if self.passes {
                if options.caps() {
                    (self.kernels.softcap)(s, n, options.softcap_in_base2());
                }
                if let Some(slopes) = &options.alibi {
                    let slope = slopes.number(sequence.index, head);
                    let at = i as i64 + sequence.shift - first as i64;
                    (self.kernels.alibi)(s, n, to_base2(slope), at as f32);
                }
                if options.mask.is_some() {
                    self.mask(sequence, head, i, first, n, s, scratch);
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

    unsafe fn mask(
        &self,
        sequence: &Sequence,
        head: usize,
        i: usize,
        first: usize,
        n: usize,
        s: *mut f32,
        scratch: *mut f32,
    ) {
        let Some(mask) = &self.problem.options.mask else {
            return;
        };
        let at = mask.at(sequence.index, head, i, first);
        let stride = mask.strides[3];
        // SAFETY: the mask was broadcast to cover every row and key of each sequence; `scratch` holds `n` floats.
        unsafe {
            if mask.precision == Precision::Bool {
                if stride == 1 || n == 1 {
                    (self.kernels.mask_bool)(s, at, n);
                } else {
                    for j in 0..n {
                        if *at.add(j * stride) == 0 {
                            *s.add(j) = f32::NEG_INFINITY;
                        }
                    }
                }
                return;
            }
            let widen = *self.kernels.to_f32.of(mask.precision);
            if stride == 1 || n == 1 {
                if mask.precision == Precision::F32 {
                    (self.kernels.mask_add)(s, at.cast(), n);
                    return;
                }
                widen(at, n, scratch);
            } else {
                for j in 0..n {
                    widen(
                        at.add(j * stride * mask.precision.bytes()),
                        1,
                        scratch.add(j),
                    );
                    if stride == 0 {
                        std::slice::from_raw_parts_mut(scratch, n).fill(*scratch);
                        break;
                    }
                }
            }
            (self.kernels.mask_add)(s, scratch, n);
        }
    }

    /// Whether the mask hides `keys` from the tile's rows `from..to`.
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
        // Of heads that share a mask, the first stands for all.
        let mut runs = rows.runs(from, to);
        let hides = |run: HeadSpan| {
            let first = run.at - sequence.q0;
            let at = (sequence.index, run.head);
            masks_all(mask, at, first..first + run.len, keys.clone())
        };
        if mask.strides[1] == 0 && mask.strides[2] == 0 {
            runs.next().is_none_or(hides)
        } else {
            runs.all(hides)
        }
    }

    /// Applies [`ScoreMod::row`] to the rows of a strip; `place` gives head and row.
    ///
    /// # Safety
    /// `s` is a strip of at least `rows` rows of `n` scores.
    pub(crate) unsafe fn strip(
        &self,
        sequence: &Sequence,
        rows: usize,
        place: impl Fn(usize) -> (usize, usize),
        first: usize,
        n: usize,
        s: *mut f32,
        scratch: *mut f32,
    ) {
        for r in 0..rows {
            let (head, i) = place(r);
            // SAFETY: by this function's contract.
            unsafe { self.row(sequence, head, i, first, n, s.add(r * SCORE_LD), scratch) };
        }
    }
}
