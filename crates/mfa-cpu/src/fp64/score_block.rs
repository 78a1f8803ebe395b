//! The scores of a few query rows on a block of keys.

use std::ops::Range;

use super::{KEYS, ROWS};
use crate::contract::problem::Problem;
use crate::contract::sequences::Sequence;
use crate::contract::tensor::Tensor;
use crate::operands::mask::masks;
use crate::runtime::memory::Arena;

/// Rows of an operand in the memory of a worker, [count][columns].
pub(super) struct RowBlock {
    ptr: *mut f64,
    count: usize,
    columns: usize,
}

impl RowBlock {
    pub(super) fn allocate(arena: &mut Arena, count: usize, columns: usize) -> Self {
        RowBlock {
            ptr: arena.alloc(count.saturating_mul(columns)),
            count,
            columns,
        }
    }

    pub(super) fn row(&self, i: usize) -> &[f64] {
        assert!(i < self.count);
        // SAFETY: laid out for `count` rows, in memory of the calling worker.
        unsafe { std::slice::from_raw_parts(self.ptr.add(i * self.columns), self.columns) }
    }

    pub(super) fn row_mut(&mut self, i: usize) -> &mut [f64] {
        assert!(i < self.count);
        // SAFETY: as for `row`; borrowed as a whole.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(i * self.columns), self.columns) }
    }

    /// Copies rows of a tensor.
    pub(super) fn load(&mut self, tensor: &Tensor, at: (usize, usize), rows: Range<usize>) {
        for (i, n) in rows.enumerate() {
            tensor.get_row([at.0, at.1, n, 0], self.row_mut(i));
        }
    }

    pub(super) fn clear(&mut self, rows: usize) {
        (0..rows).for_each(|i| self.row_mut(i).fill(0.0));
    }
}

/// Some query rows of a head, and some keys, within the sequence.
#[derive(Clone)]
pub(super) struct BlockCoords<'a> {
    pub sequence: &'a Sequence,
    pub head: usize,
    pub rows: Range<usize>,
    pub keys: Range<usize>,
}

/// ScoreBlock by query row, and with a softcap their derivative.
pub(super) struct ScoreBlock {
    pub s: RowBlock,
    pub slope: RowBlock,
}

impl ScoreBlock {
    pub(super) fn allocate(arena: &mut Arena) -> Self {
        ScoreBlock {
            s: RowBlock::allocate(arena, ROWS, KEYS),
            slope: RowBlock::allocate(arena, ROWS, KEYS),
        }
    }

    /// Computes them from loaded rows; a masked key has -infinity.
    pub(super) fn compute(
        &mut self,
        problem: &Problem,
        coords: &BlockCoords<'_>,
        q: &RowBlock,
        k: &RowBlock,
    ) {
        let (options, sequence) = (&problem.options, coords.sequence);
        let cap = f64::from(options.softcap);
        for (r, i) in coords.rows.clone().enumerate() {
            let (lo, hi) = options.key_range(sequence, i);
            for (c, j) in coords.keys.clone().enumerate() {
                let (mut s, mut slope) = (f64::NEG_INFINITY, 1.0);
                let at = [sequence.index, coords.head, i, j];
                let masked = options.mask.as_ref().is_some_and(|mask| masks(mask, at));
                if (lo..hi).contains(&j) && !masked {
                    s = options.exact_scale * dot(q.row(r), k.row(c));
                    if cap > 0.0 {
                        let t = (s / cap).tanh();
                        (s, slope) = (cap * t, 1.0 - t * t);
                    }
                    if let Some(mask) = options.mask.as_ref().filter(|m| m.precision.is_float()) {
                        s += mask.get(at);
                    }
                    if let Some(slopes) = &options.alibi {
                        let distance = (i as i64 + sequence.shift - j as i64).unsigned_abs();
                        s -= slopes.get([sequence.index, coords.head, 0, 0]) * distance as f64;
                    }
                }
                self.s.row_mut(r)[c] = s;
                self.slope.row_mut(r)[c] = slope;
            }
        }
    }
}

/// A product of rows, in eight sums.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = (a.remainder().iter().zip(b.remainder()))
        .map(|(x, y)| x * y)
        .sum();
    for (a, b) in a.zip(b) {
        for ((sum, x), y) in sums.iter_mut().zip(a).zip(b) {
            *sum += x * y;
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// `out += weight * row`
pub(super) fn add(out: &mut [f64], weight: f64, row: &[f64]) {
    out.iter_mut().zip(row).for_each(|(x, y)| *x += weight * y);
}

/// A range in runs of at most `length`.
pub(super) fn runs(range: Range<usize>, length: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range
        .step_by(length)
        .map(move |from| from..(from + length).min(end))
}
