//! The passes over pairs of blocks, and their items.

use super::block::{Accumulator, GradSet};
use crate::operands::rows::{clear_row, load_row};
use std::ops::Range;
use std::ptr::null_mut;

use super::block_pair::BlockPair;
use super::check::Backward;
use super::epilogue::GradientEpilogue;
use super::plan::{BackwardPlan, Head};
use crate::contract::problem::Problem;
use crate::contract::sequences::{Numbering, Sequence};
use crate::contract::tensor::Tensor;
use crate::operands::padding::padded;
use crate::operands::rows::store_row;
use crate::runtime::memory::Arena;

/// The axis that a pass cuts into blocks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Axis {
    Query,
    Key,
}

/// The blocks of queries of all query heads, or of keys of all key/value heads, by number.
pub(super) struct Blocks<'a> {
    problem: &'a Problem,
    heads: usize,
    length: usize,
    axis: Axis,
    blocks: Numbering<'a>,
}

/// A block of a head; rows within the sequence.
pub(super) struct Block {
    sequence: Sequence,
    head: usize,
    rows: Range<usize>,
}

impl<'a> Blocks<'a> {
    /// Allocates the numbering that [`Blocks::new`] fills.
    pub(super) fn allocate(arena: &mut Arena, call: &Backward) -> *mut usize {
        Numbering::allocate(arena, &call.problem.sequences)
    }

    /// # Safety
    /// `workspace` comes from `allocate` for this call, in memory that nobody else uses for `'a`.
    pub(super) unsafe fn new(
        call: &'a Backward,
        plan: &BackwardPlan,
        axis: Axis,
        workspace: *mut usize,
    ) -> Self {
        let problem = &call.problem;
        let (heads, length) = match axis {
            Axis::Query => (problem.heads, plan.block_queries),
            Axis::Key => (problem.kv_heads, plan.block_keys),
        };
        Blocks {
            problem,
            heads,
            length,
            axis,
            // SAFETY: by this function's contract.
            blocks: unsafe {
                Numbering::new(workspace, &problem.sequences, |sequence| {
                    heads.saturating_mul(rows(sequence, axis).div_ceil(length))
                })
            },
        }
    }

    pub(super) fn count(&self) -> usize {
        self.blocks.total()
    }

    pub(super) fn item(&self, number: usize) -> Block {
        let (index, within) = self.blocks.find(number);
        let sequence = self.problem.sequences.get(index);
        let rows = rows(&sequence, self.axis);
        let blocks = rows.div_ceil(self.length);
        // Under a causal mask late queries and early keys have the most to do: start with them, end with short ones.
        let block = match self.axis {
            Axis::Query => blocks - 1 - within / self.heads,
            Axis::Key => within / self.heads,
        };
        Block {
            sequence,
            head: within % self.heads,
            rows: block * self.length..((block + 1) * self.length).min(rows),
        }
    }
}

fn rows(sequence: &Sequence, axis: Axis) -> usize {
    match axis {
        Axis::Query => sequence.nq,
        Axis::Key => sequence.nk,
    }
}

/// Cuts a range into runs of at most `length`.
fn runs(range: Range<usize>, length: usize) -> impl Iterator<Item = (usize, usize)> {
    let end = range.end;
    range
        .step_by(length)
        .map(move |from| (from, length.min(end - from)))
}

/// dQ, which blocks of keys add to where it is written. Its rows are zeroed just before the first block adds to them and
/// finished just after the last did, while they are in the cache.
struct Accumulated<'a> {
    epilogue: GradientEpilogue<'a>,
    gradient: &'a Tensor,
    /// Whether the block of keys is the first, and the last.
    first: bool,
    last: bool,
}

impl Accumulated<'_> {
    /// Rows that a block of keys adds nothing to.
    fn pass_over(&self, sequence: &Sequence, head: usize, rows: Range<usize>) {
        self.begin(sequence, head, rows.clone());
        self.end(sequence, head, rows);
    }

    /// Before a block of keys adds to these rows.
    fn begin(&self, sequence: &Sequence, head: usize, rows: Range<usize>) {
        if self.first {
            for row in rows {
                clear_row(self.gradient, sequence.batch, head, sequence.q0 + row);
            }
        }
    }

    /// After it.
    fn end(&self, sequence: &Sequence, head: usize, rows: Range<usize>) {
        if self.last {
            for row in rows {
                self.epilogue
                    .row_in_place(sequence.batch, head, sequence.q0 + row);
            }
        }
    }
}

const NO_SUM: Accumulator = Accumulator {
    ptr: null_mut(),
    ld: 0,
};

impl BlockPair<'_> {
    /// D of a block of queries, from P and dP.
    ///
    /// # Safety
    /// The scratch was laid out for this call, and belongs to the calling worker; so for the other items.
    pub(super) unsafe fn d_item(&self, block: &Block) {
        let grads = GradSet {
            d: true,
            ..GradSet::default()
        };
        let (sequence, head) = (&block.sequence, block.head);
        let n = block.rows.len();
        // SAFETY: by this function's contract.
        unsafe {
            let queries = self.pack_queries(sequence, head, block.rows.start, n, grads);
            self.scratch.d.write_bytes(0, n);
            self.over_keys(block, |keys_at, count| {
                let kv_head = head / self.call.problem.group;
                let keys = self.pack_keys(sequence, kv_head, keys_at, count, grads);
                self.add(sequence, kv_head, &queries, &keys, grads, NO_SUM);
            });
            for i in 0..n {
                let row = sequence.q0 + block.rows.start + i;
                self.d
                    .write(sequence.batch, head, row, *self.scratch.d.add(i));
            }
        }
    }

    /// dQ of a block of queries.
    ///
    /// # Safety
    /// As for [`BlockPair::d_item`].
    pub(super) unsafe fn query_item(&self, gradient: &Tensor, block: &Block) {
        let epilogue = self.query_epilogue(gradient);
        let grads = GradSet {
            dq: true,
            ..GradSet::default()
        };
        let (sequence, head) = (&block.sequence, block.head);
        let (n, d) = (block.rows.len(), self.call.problem.d);
        let sum = self.dq_scratch();
        // SAFETY: by this function's contract.
        unsafe {
            sum.ptr.write_bytes(0, n * sum.ld);
            let queries = self.pack_queries(sequence, head, block.rows.start, n, grads);
            self.over_keys(block, |keys_at, count| {
                let kv_head = head / self.call.problem.group;
                let keys = self.pack_keys(sequence, kv_head, keys_at, count, grads);
                self.add(sequence, kv_head, &queries, &keys, grads, sum);
            });
            for i in 0..n {
                let row = std::slice::from_raw_parts_mut(sum.ptr.add(i * sum.ld), d);
                let at = sequence.q0 + block.rows.start + i;
                epilogue.row(sequence.batch, head, at, row);
            }
        }
    }

    /// Calls `each` with first and number of every run of keys in the key range of a block of queries.
    unsafe fn over_keys(&self, block: &Block, each: impl Fn(usize, usize)) {
        let (sequence, options) = (&block.sequence, &self.call.problem.options);
        let lo = options.key_range(sequence, block.rows.start).0;
        let hi = options.key_range(sequence, block.rows.end - 1).1;
        for (first, n) in runs(lo..hi, self.plan.block_keys) {
            let rows = block.rows.clone();
            if !(self.score_mod).masks_all(sequence, block.head, rows, first..first + n) {
                each(first, n);
            }
        }
    }

    /// dK and dV of a block of keys.
    ///
    /// # Safety
    /// As for [`BlockPair::d_item`].
    pub(super) unsafe fn key_item(&self, block: &Block) {
        // SAFETY: by this function's contract.
        unsafe { self.keys(block, None) };
    }

    /// All gradients of a key/value head.
    ///
    /// # Safety
    /// As for [`BlockPair::d_item`].
    pub(super) unsafe fn fused_item(&self, gradient: &Tensor, at: Head) {
        let problem = &self.call.problem;
        let sequence = problem.sequences.get(at.sequence);
        let mut query = Accumulated {
            epilogue: self.query_epilogue(gradient),
            gradient,
            first: true,
            last: sequence.nk == 0,
        };
        if query.last {
            for head in self.group(at.kv_head) {
                query.begin(&sequence, head, 0..sequence.nq);
                query.end(&sequence, head, 0..sequence.nq);
            }
        }
        for (first, n) in runs(0..sequence.nk, self.plan.block_keys) {
            let block = Block {
                sequence,
                head: at.kv_head,
                rows: first..first + n,
            };
            query.first = first == 0;
            query.last = first + n == sequence.nk;
            // SAFETY: by this function's contract.
            unsafe { self.keys(&block, Some(&query)) };
        }
    }

    /// The query heads of a key/value head.
    fn group(&self, kv_head: usize) -> Range<usize> {
        let group = self.call.problem.group;
        kv_head * group..(kv_head + 1) * group
    }

    /// dK and dV of a block of keys; adds to dQ, if it is given.
    unsafe fn keys(&self, block: &Block, dq: Option<&Accumulated<'_>>) {
        let (call, scratch) = (self.call, &self.scratch);
        let (problem, options) = (&call.problem, &call.problem.options);
        let (sequence, n) = (&block.sequence, block.rows.len());
        let ldk = padded(problem.d, self.kernels);
        let ldv = padded(problem.dv, self.kernels);
        // SAFETY: a block's rows fit the scratch; packed rows are inside the tensors.
        unsafe {
            scratch.dk.write_bytes(0, n * ldk);
            scratch.dv.write_bytes(0, n * ldv);
            let lo = options.query_range(sequence, block.rows.start).0;
            let hi = options.query_range(sequence, block.rows.end - 1).1;
            let (lo, hi) = if lo < hi { (lo, hi) } else { (0, 0) };
            if let Some(dq) = dq {
                for head in self.group(block.head) {
                    for out_of_range in [0..lo, hi..sequence.nq] {
                        dq.pass_over(sequence, head, out_of_range);
                    }
                }
            }
            if lo < hi {
                self.add_queries(block, lo..hi, dq);
            }
            let dk = Accumulator {
                ptr: scratch.dk,
                ld: ldk,
            };
            let dv = Accumulator {
                ptr: scratch.dv,
                ld: ldv,
            };
            if let Some(gradient) = &call.grad_key {
                let epilogue = self.epilogue(gradient, &problem.k, options.scale);
                self.store_keys(block, &epilogue, dk);
            }
            if let Some(gradient) = &call.grad_value {
                let epilogue = self.epilogue(gradient, &problem.v, 1.0);
                self.store_keys(block, &epilogue, dv);
            }
        }
    }

    /// Adds the blocks of the queries `rows` of all heads of a group to dK and dV of a block of keys, and to dQ.
    unsafe fn add_queries(&self, block: &Block, rows: Range<usize>, dq: Option<&Accumulated<'_>>) {
        let (call, sequence, kv_head) = (self.call, &block.sequence, block.head);
        let grads = GradSet {
            dq: dq.is_some(),
            dk: call.grad_key.is_some(),
            dv: call.grad_value.is_some(),
            ..GradSet::default()
        };
        // Packed for the first block of queries that no mask hides.
        let mut packed = None;
        for head in self.group(kv_head) {
            for (first, n) in runs(rows.clone(), self.plan.block_queries) {
                let of_q = first..first + n;
                if (self.score_mod).masks_all(sequence, head, of_q.clone(), block.rows.clone()) {
                    if let Some(dq) = dq {
                        dq.pass_over(sequence, head, of_q);
                    }
                    continue;
                }
                // SAFETY: by the caller, as for `keys`.
                unsafe {
                    let keys = packed.get_or_insert_with(|| {
                        let (from, count) = (block.rows.start, block.rows.len());
                        self.pack_keys(sequence, kv_head, from, count, grads)
                    });
                    let queries = self.pack_queries(sequence, head, first, n, grads);
                    let at = (sequence.batch, head, sequence.q0 + first);
                    let in_place = dq.and_then(|dq| self.in_place(dq.gradient, at));
                    let sum = in_place.unwrap_or(self.dq_scratch());
                    if let Some(dq) = dq {
                        dq.begin(sequence, head, of_q.clone());
                        if in_place.is_none() {
                            sum.ptr.write_bytes(0, n * sum.ld);
                        }
                    }
                    self.add(sequence, kv_head, &queries, keys, grads, sum);
                    if let Some(dq) = dq {
                        if in_place.is_none() {
                            self.add_to_rows(dq.gradient, at, n, sum);
                        }
                        dq.end(sequence, head, of_q);
                    }
                }
            }
        }
    }

    /// Writes the accumulated rows of a block of keys.
    unsafe fn store_keys(&self, block: &Block, epilogue: &GradientEpilogue<'_>, sum: Accumulator) {
        let (sequence, columns) = (&block.sequence, epilogue.operand.shape[3]);
        for i in 0..block.rows.len() {
            // SAFETY: rows of the accumulator, which has one per key of the block.
            let row = unsafe { std::slice::from_raw_parts_mut(sum.ptr.add(i * sum.ld), columns) };
            let at = sequence.k0 + block.rows.start + i;
            epilogue.row(sequence.batch, block.head, at, row);
        }
    }

    fn epilogue<'t>(
        &'t self,
        gradient: &'t Tensor,
        operand: &'t Tensor,
        scale: f32,
    ) -> GradientEpilogue<'t> {
        GradientEpilogue {
            kernels: self.kernels,
            gradient,
            operand,
            scale,
            clip: self.call.clip,
        }
    }

    fn query_epilogue<'t>(&'t self, gradient: &'t Tensor) -> GradientEpilogue<'t> {
        let problem = &self.call.problem;
        self.epilogue(gradient, &problem.q, problem.options.scale)
    }

    /// The scratch's dQ.
    fn dq_scratch(&self) -> Accumulator {
        Accumulator {
            ptr: self.scratch.dq,
            ld: padded(self.call.problem.d, self.kernels),
        }
    }

    /// The rows of dQ themselves, where they can be accumulated: whole panels of consecutive columns.
    fn in_place(&self, tensor: &Tensor, (b, h, row): (usize, usize, usize)) -> Option<Accumulator> {
        let columns = tensor.shape[3];
        let whole = columns.is_multiple_of(self.kernels.nr) && tensor.strides[3] == 1;
        whole.then(|| Accumulator {
            ptr: tensor.at(b, h, row, 0).cast(),
            ld: tensor.strides[2],
        })
    }

    /// Adds a block of the scratch's dQ to the rows of the gradient.
    unsafe fn add_to_rows(
        &self,
        tensor: &Tensor,
        (b, h, row): (usize, usize, usize),
        n: usize,
        sum: Accumulator,
    ) {
        // SAFETY: the scratch's line has workspace for a row; `sum` has `n` rows.
        let line =
            unsafe { std::slice::from_raw_parts_mut(self.scratch.row_buffer, tensor.shape[3]) };
        for i in 0..n {
            load_row(tensor, b, h, row + i, line);
            // SAFETY: as above.
            let part = unsafe { std::slice::from_raw_parts(sum.ptr.add(i * sum.ld), line.len()) };
            line.iter_mut().zip(part).for_each(|(x, y)| *x += y);
            store_row(self.kernels, tensor, b, h, row + i, line);
        }
    }
}
