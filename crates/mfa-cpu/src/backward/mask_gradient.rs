//! The gradient of an additive mask (eq. 30): dS, summed over the dimensions in which the mask is broadcast.
//!
//! An item owns a part of the gradient and adds everything that belongs there, in order: the same bits every run,
//! without atomics. That costs S and dP once more.

use super::block::{Accumulator, BlockCoords, GradSet};
use std::ops::Range;

use super::block_pair::BlockPair;
use super::plan::BackwardPlan;
use crate::contract::sequences::Sequence;
use crate::contract::tensor::Tensor;
use mfa_kernels::SCORE_LD;

const MASK_ONLY: GradSet = GradSet {
    d: false,
    dq: false,
    dk: false,
    dv: false,
    ds: true,
};

/// The items of the gradient of a mask: its batches, heads, blocks of rows and blocks of columns.
pub(super) struct MaskItems<'a> {
    gradient: &'a Tensor,
    counts: [usize; 4],
}

impl<'a> MaskItems<'a> {
    pub(super) fn new(gradient: &'a Tensor, plan: &BackwardPlan) -> Self {
        let [batch, heads, rows, columns] = gradient.shape;
        MaskItems {
            gradient,
            counts: [
                batch,
                heads,
                rows.div_ceil(plan.block_queries),
                columns.div_ceil(plan.block_keys),
            ],
        }
    }

    pub(super) fn count(&self) -> usize {
        self.counts.iter().product()
    }

    fn coords(&self, item: usize) -> [usize; 4] {
        let [_, heads, rows, columns] = self.counts;
        [
            item / columns / rows / heads,
            item / columns / rows % heads,
            item / columns % rows,
            item % columns,
        ]
    }
}

/// The range of one dimension that a part of the gradient sums over: its own elements, or all where the mask is broadcast.
fn covered(size: usize, block: usize, length: usize, broadcast: bool) -> Range<usize> {
    if broadcast {
        0..size
    } else {
        (block * length).min(size)..((block + 1) * length).min(size)
    }
}

impl BlockPair<'_> {
    /// Computes an item.
    ///
    /// # Safety
    /// The scratch was laid out for this call, and belongs to the calling worker.
    pub(super) unsafe fn mask_item(&self, items: &MaskItems<'_>, item: usize) {
        let problem = &self.call.problem;
        let gradient = items.gradient;
        let [b, h, row, column] = items.coords(item);
        let shape = gradient.shape;
        let (queries, keys) = (self.plan.block_queries, self.plan.block_keys);
        for i in covered(shape[2], row, queries, false) {
            for j in covered(shape[3], column, keys, false) {
                // SAFETY: an element of the gradient, owned by this item.
                unsafe { gradient.at(b, h, i, j).cast::<f32>().write(0.0) };
            }
        }
        let heads = covered(problem.heads, h, 1, shape[1] == 1);
        let sequences = covered(problem.sequences.len(), b, 1, shape[0] == 1);
        for sequence in sequences.map(|index| problem.sequences.get(index)) {
            let rows = covered(sequence.nq, row, queries, shape[2] == 1);
            let columns = covered(sequence.nk, column, keys, shape[3] == 1);
            for head in heads.clone() {
                // SAFETY: by this function's contract.
                unsafe {
                    let at = (gradient, b, h);
                    self.mask_head(&sequence, head, rows.clone(), columns.clone(), at);
                };
            }
        }
    }

    /// Adds dS of some queries and keys of a head.
    unsafe fn mask_head(
        &self,
        sequence: &Sequence,
        head: usize,
        rows: Range<usize>,
        columns: Range<usize>,
        at: (&Tensor, usize, usize),
    ) {
        let options = &self.call.problem.options;
        let kv_head = head / self.call.problem.group;
        for i in rows.clone().step_by(self.plan.block_queries) {
            let n = self.plan.block_queries.min(rows.end - i);
            let lo = options.key_range(sequence, i).0.max(columns.start);
            let hi = options.key_range(sequence, i + n - 1).1.min(columns.end);
            if lo >= hi {
                continue;
            }
            // SAFETY: by `mask_item`'s contract; blocks are no longer than the plan's.
            unsafe {
                let queries = self.pack_queries(sequence, head, i, n, MASK_ONLY);
                for j in (lo..hi).step_by(self.plan.block_keys) {
                    let count = self.plan.block_keys.min(hi - j);
                    let keys = self.pack_keys(sequence, kv_head, j, count, MASK_ONLY);
                    let none = Accumulator {
                        ptr: self.scratch.dq,
                        ld: 0,
                    };
                    self.add(sequence, kv_head, &queries, &keys, MASK_ONLY, none);
                    let coords = BlockCoords {
                        sequence,
                        head,
                        i0: i,
                        n,
                        j0: j,
                        keys: count,
                    };
                    self.add_to_mask(&coords, at);
                }
            }
        }
    }

    /// Adds dS of a block, which the scratch holds transposed, to the gradient.
    unsafe fn add_to_mask(
        &self,
        coords: &BlockCoords<'_>,
        (gradient, b, h): (&Tensor, usize, usize),
    ) {
        let (ds, mask_rows) = (self.scratch.ds, self.scratch.mask_rows);
        let (n, keys) = (coords.n, coords.keys);
        let one_row = gradient.shape[2] == 1;
        let one_column = gradient.shape[3] == 1;
        // SAFETY: the scratch holds the block; elements of the gradient that this item owns.
        unsafe {
            let row = |j: usize| std::slice::from_raw_parts(ds.add(j * SCORE_LD), n);
            if one_row {
                let mut total = 0f64;
                for j in 0..keys {
                    let sum: f64 = row(j).iter().map(|x| f64::from(*x)).sum();
                    total += sum;
                    if !one_column {
                        add(gradient, [b, h, 0, coords.j0 + j], sum as f32);
                    }
                }
                if one_column {
                    add(gradient, [b, h, 0, 0], total as f32);
                }
                return;
            }
            (self.kernels.gradient.transpose)(ds, SCORE_LD, keys, n, mask_rows, keys);
            for i in 0..n {
                let line = std::slice::from_raw_parts(mask_rows.add(i * keys), keys);
                if one_column {
                    let sum: f64 = line.iter().map(|x| f64::from(*x)).sum();
                    add(gradient, [b, h, coords.i0 + i, 0], sum as f32);
                    continue;
                }
                let out = gradient.at(b, h, coords.i0 + i, coords.j0).cast::<f32>();
                for (j, x) in line.iter().enumerate() {
                    *out.add(j * gradient.strides[3]) += x;
                }
            }
        }
    }
}

unsafe fn add(tensor: &Tensor, at: [usize; 4], x: f32) {
    // SAFETY: an element of the gradient, by the caller.
    unsafe { *tensor.at(at[0], at[1], at[2], at[3]).cast::<f32>() += x };
}
