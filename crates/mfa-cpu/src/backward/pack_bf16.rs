//! Packing of blocks as bf16 slices (see [`mfa_kernels::bf16_split`]).

use super::block::GradSet;
use super::block_pair::BlockPair;
use super::pack::{PackedKeys, PackedQueries};
use super::plan::Bf16Plan;
use crate::contract::sequences::Sequence;
use crate::contract::tensor::Tensor;
use mfa_kernels::Precision;
use mfa_kernels::bf16_split::{Bf16Kernels, FloatRows, STEP, long_row_len, row_len};

/// The largest magnitude of rows of a tensor; 1 where none is too small for [`PackedQueries::splits_exactly`]: FP16 ends at 2^-24.
unsafe fn max_abs(bf16: Bf16Plan, tensor: &Tensor, rows: FloatRows, n: usize) -> f32 {
    if tensor.precision == Precision::F16 {
        return 1.0;
    }
    // SAFETY: `n` rows of the tensor, by the caller.
    unsafe { (bf16.gradient.max_abs)(rows, n, tensor.shape[3]) }
}

/// Packs all strips of `n` rows; returns whether all floats are finite.
unsafe fn pack_strips(
    pack: &Bf16Kernels,
    slices: usize,
    rows: FloatRows,
    n: usize,
    columns: usize,
    out: *mut u16,
) -> bool {
    let mut finite = true;
    for strip in (0..n).step_by(STEP) {
        // SAFETY: rows and workspace for them, by the caller.
        unsafe {
            let (from, count) = (rows.from(strip, 0), STEP.min(n - strip));
            let out = out.add(strip * row_len(columns, slices));
            finite &= (pack.pack_rows)(slices, from, count, columns, out);
        }
    }
    finite
}

impl BlockPair<'_> {
    /// Packs a block of queries as slices; returns the largest magnitudes if they are finite.
    pub(super) unsafe fn pack_query_bf16(
        &self,
        bf16: Bf16Plan,
        sequence: &Sequence,
        block: &PackedQueries,
        grads: GradSet,
    ) -> Option<[f32; 2]> {
        // 1 where nothing is packed: it is never too small.
        let mut largest = [1.0; 2];
        let (call, scratch, n) = (self.call, &self.scratch.bf16, block.n);
        let (d, dv) = (call.problem.d, call.problem.dv);
        let (at, row) = ((sequence.batch, block.head), sequence.q0 + block.first);
        let (pack, products) = (bf16.kernels, bf16.products);
        // SAFETY: a block's rows, inside the tensor, and workspace for their slices.
        unsafe {
            let rows = self.float_rows(&call.problem.q, at, row, n);
            largest[0] = max_abs(bf16, &call.problem.q, rows, n);
            let slices = products.scores.slices_of_b();
            let mut finite = (pack.pack_columns)(slices, rows, n, d, scratch.q_columns);
            if grads.dk {
                let slices = products.ds.slices_of_b();
                finite &= (pack.pack_panels)(slices, rows, n, d, scratch.q_panels);
            }
            if !grads.dp() && !grads.dv {
                return finite.then_some(largest);
            }
            let rows = self.float_rows(&call.grad_output, at, row, n);
            largest[1] = max_abs(bf16, &call.grad_output, rows, n);
            if grads.dp() {
                let slices = products.dp.slices_of_b();
                finite &= (pack.pack_columns)(slices, rows, n, dv, scratch.do_columns);
            }
            if grads.dv {
                let slices = products.p.slices_of_b();
                finite &= (pack.pack_panels)(slices, rows, n, dv, scratch.do_panels);
            }
            finite.then_some(largest)
        }
    }

    /// Packs a block of keys as slices; returns the largest magnitudes if they are finite.
    pub(super) unsafe fn pack_key_bf16(
        &self,
        bf16: Bf16Plan,
        sequence: &Sequence,
        kv_head: usize,
        block: &PackedKeys,
        grads: GradSet,
    ) -> Option<[f32; 2]> {
        // 1 where nothing is packed: it is never too small.
        let mut largest = [1.0; 2];
        let (problem, scratch, n) = (&self.call.problem, &self.scratch.bf16, block.n);
        let (d, dv) = (problem.d, problem.dv);
        let (at, row) = ((sequence.batch, kv_head), sequence.k0 + block.first);
        let (pack, products) = (bf16.kernels, bf16.products);
        let mut finite = true;
        // SAFETY: a block's rows, inside the tensor, and workspace for their slices.
        unsafe {
            let rows = self.float_rows(&problem.k, at, row, n);
            largest[0] = max_abs(bf16, &problem.k, rows, n);
            let slices = products.scores.slices_of_a();
            finite &= pack_strips(pack, slices, rows, n, d, scratch.k);
            if grads.dq {
                let slices = products.ds.slices_of_a();
                for c in (0..d).step_by(STEP) {
                    let out = scratch.k_transposed.add(c * long_row_len(n, slices));
                    let columns = STEP.min(d - c);
                    let from = rows.from(0, c);
                    finite &= (pack.pack_transposed)(slices, from, n, columns, out);
                }
            }
            if grads.dp() {
                let rows = self.float_rows(&problem.v, at, row, n);
                largest[1] = max_abs(bf16, &problem.v, rows, n);
                let slices = products.dp.slices_of_a();
                finite &= pack_strips(pack, slices, rows, n, dv, scratch.v);
            }
        }
        finite.then_some(largest)
    }
}
