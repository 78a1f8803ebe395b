//! From operands to packed blocks.
//!
//! Both are in the caller's domain: quantized rows are dequantized, given their mean and rotated back, so that the gradients
//! need no turning. Only INT8 scores are taken from the stored integers, as in forward.
//!
//! Rows that hold NaN or infinities are packed as zeros where they are factors of a sum over rows, and reported: 0 times
//! NaN must not reach the gradients of rows that are masked from each other.
//!
//! See eq. 22 of docs/math.md.

use super::block::GradSet;
use std::ptr::null;

use super::block_pair::BlockPair;
use super::scratch::stride;
use crate::contract::sequences::Sequence;
use crate::contract::tensor::Tensor;
use crate::operands::arithmetic::{Int8Scores, ScoreArithmetic};
use crate::operands::dequantize::Domain;
use crate::operands::padding::padded;
use crate::operands::row_buffer::RowSet;
use mfa_kernels::base2::{BEND, to_base2};
use mfa_kernels::bf16_split::{FloatRows, STEP};

/// Below this, a number may have slices below 2^-126, which a matrix unit for bf16 takes for 0.
const SMALL: f32 = f32::from_bits((127 - 100) << 23);
/// The same for products of two numbers: dP, and dS.
const SMALL_PRODUCT: f32 = f32::from_bits((127 - 80) << 23);

/// A packed block of queries of one head.
#[derive(Clone)]
pub(super) struct PackedQueries {
    pub head: usize,
    /// First row within the sequence.
    pub first: usize,
    pub n: usize,
    /// Rows (of the block) of Q and dO that hold NaN or infinities.
    pub non_finite_q: RowSet,
    pub non_finite_do: RowSet,
    /// The largest magnitudes of Q and dO, if they are packed as bf16 slices: of finite numbers only.
    pub bf16_max: Option<[f32; 2]>,
}

/// A packed block of keys.
#[derive(Clone)]
pub(super) struct PackedKeys {
    pub first: usize,
    pub n: usize,
    pub non_finite_k: RowSet,
    /// As in [`PackedQueries`], of K and V.
    pub bf16_max: Option<[f32; 2]>,
}

impl PackedQueries {
    /// Whether two blocks are packed as bf16 slices, and their gradients too are far enough from the smallest numbers.
    pub(super) fn splits_exactly(&self, keys: &PackedKeys) -> bool {
        let (Some([q, grad]), Some([k, v])) = (self.bf16_max, keys.bf16_max) else {
            return false;
        };
        let large = |x: f32| x == 0.0 || x >= SMALL;
        [q, grad, k, v].into_iter().all(large)
            && (grad == 0.0 || v == 0.0 || grad * v >= SMALL_PRODUCT)
    }
}

/// Rows of floats [n][ld].
#[derive(Clone, Copy)]
pub(super) struct F32Rows {
    pub ptr: *const f32,
    pub ld: usize,
}

impl BlockPair<'_> {
    /// Rows `row..row + n` of a tensor, in place or dequantized.
    pub(super) unsafe fn rows(
        &self,
        tensor: &Tensor,
        at: (usize, usize),
        row: usize,
        n: usize,
    ) -> F32Rows {
        if tensor.is_plain_f32() {
            return F32Rows {
                ptr: tensor.at(at.0, at.1, row, 0).cast(),
                ld: tensor.strides[2],
            };
        }
        let ld = stride(tensor.shape[3]);
        let out = self.scratch.rows;
        // SAFETY: a block's rows fit the scratch.
        unsafe { self.dequantize_rows(tensor, at, row, n, out) };
        F32Rows { ptr: out, ld }
    }

    /// The same for kernels that read any float.
    pub(super) unsafe fn float_rows(
        &self,
        tensor: &Tensor,
        at: (usize, usize),
        row: usize,
        n: usize,
    ) -> FloatRows {
        tensor
            .plain_floats(at.0, at.1, row)
            // SAFETY: the caller's.
            .unwrap_or_else(|| unsafe {
                let rows = self.rows(tensor, at, row, n);
                FloatRows::f32(rows.ptr, rows.ld)
            })
    }

    /// Dequantizes rows to the original domain.
    ///
    /// # Safety
    /// `out` has workspace for `n` rows, [`stride`] apart.
    pub(super) unsafe fn dequantize_rows(
        &self,
        tensor: &Tensor,
        at: (usize, usize),
        row: usize,
        n: usize,
        out: *mut f32,
    ) {
        let mean = tensor.mean(at.0, at.1);
        let domain = Domain {
            rotate: tensor.is_rotated(),
            mean: mean.as_ref().map_or(null(), |m| m.as_ptr()),
        };
        let ld = stride(tensor.shape[3]);
        // SAFETY: by this function's contract.
        unsafe { tensor.dequantize_rows(self.kernels, at, row, n, domain, out, ld) };
    }

    /// Packs rows as panels of columns, and returns the rows that were replaced by zeros, for they hold NaN or infinities.
    unsafe fn columns(&self, rows: F32Rows, n: usize, columns: usize, out: *mut f32) -> RowSet {
        let pack = self.kernels.pack_v_f32;
        // SAFETY: `n` rows are readable, by the caller; staged rows fit the scratch.
        unsafe {
            if pack(rows.ptr, rows.ld, n, columns, out) {
                return RowSet::default();
            }
            let staged = self.scratch.rows;
            let ld = stride(columns);
            let mut non_finite = RowSet::default();
            for i in 0..n {
                let from = rows.ptr.add(i * rows.ld);
                let to = staged.add(i * ld);
                if from != to.cast_const() {
                    to.copy_from_nonoverlapping(from, columns);
                }
                let row = std::slice::from_raw_parts_mut(to, columns);
                if !row.iter().all(|x| x.is_finite()) {
                    row.fill(0.0);
                    non_finite.insert(i);
                }
            }
            pack(staged, ld, n, columns, out);
            non_finite
        }
    }

    /// Packs queries `first..first + n` of a head, as `grads` needs them.
    pub(super) unsafe fn pack_queries(
        &self,
        sequence: &Sequence,
        head: usize,
        first: usize,
        n: usize,
        grads: GradSet,
    ) -> PackedQueries {
        let mut block = PackedQueries {
            head,
            first,
            n,
            non_finite_q: RowSet::default(),
            non_finite_do: RowSet::default(),
            bf16_max: None,
        };
        // SAFETY: `n <= block_queries` rows fit every array of the scratch; rows are inside the tensors.
        unsafe {
            self.load_statistics((sequence.batch, head), sequence.q0 + first, n);
            match self.plan.bf16 {
                Some(bf16) => block.bf16_max = self.pack_query_bf16(bf16, sequence, &block, grads),
                None => self.pack_query_floats(sequence, &mut block, grads),
            }
        }
        block
    }

    /// The rest of [`BlockPair::pack_queries`] for products of floats.
    pub(super) unsafe fn pack_query_floats(
        &self,
        sequence: &Sequence,
        block: &mut PackedQueries,
        grads: GradSet,
    ) {
        let (call, scratch, kernels) = (self.call, &self.scratch, self.kernels);
        let problem = &call.problem;
        let (d, dv, n) = (problem.d, problem.dv, block.n);
        let (at, row) = ((sequence.batch, block.head), sequence.q0 + block.first);
        // SAFETY: as for `pack_queries`.
        unsafe {
            if let ScoreArithmetic::I8(quants) = self.plan.scores {
                self.pack_q_i8(quants, sequence, block.head, row, n);
            }
            if matches!(self.plan.scores, ScoreArithmetic::F32) || grads.dk {
                let rows = self.rows(&problem.q, at, row, n);
                if matches!(self.plan.scores, ScoreArithmetic::F32) {
                    (kernels.pack_k_f32)(rows.ptr, rows.ld, n, d, scratch.q_panels.cast());
                }
                if grads.dk {
                    block.non_finite_q = self.columns(rows, n, d, scratch.q_columns);
                }
            }
            if grads.dp() || grads.dv {
                let rows = self.rows(&call.grad_output, at, row, n);
                if grads.dp() {
                    (kernels.pack_k_f32)(rows.ptr, rows.ld, n, dv, scratch.do_panels);
                }
                if grads.dv {
                    block.non_finite_do = self.columns(rows, n, dv, scratch.do_columns);
                }
            }
        }
    }

    /// Logsumexp and D of a block of queries.
    unsafe fn load_statistics(&self, at: (usize, usize), row: usize, n: usize) {
        for i in 0..n {
            // SAFETY: rows inside the tensor; a number per query of the block.
            unsafe {
                let l = self.call.logsumexp.at(at.0, at.1, row + i, 0);
                let l = l.cast::<f32>().read();
                // A row without keys: every weight must be 0. A row with a score of +infinity: every weight is NaN.
                *self.scratch.l.add(i) = match l {
                    f32::NEG_INFINITY => f32::INFINITY,
                    f32::INFINITY => f32::NAN,
                    _ if l.is_nan() => f32::NAN,
                    _ if l.abs() > BEND => to_base2(l),
                    _ => (f64::from(l) * std::f64::consts::LOG2_E) as f32,
                };
                *self.scratch.d.add(i) = self.d.rest(self.call, at.0, at.1, row + i);
            }
        }
        if self.plan.bf16.is_some() {
            // Queries without keys, and those that fill the last step.
            for i in 0..n.next_multiple_of(STEP) {
                // SAFETY: a number per query of the block, in whole steps.
                let (l, d) = unsafe { (&mut *self.scratch.l.add(i), &mut *self.scratch.d.add(i)) };
                if i >= n {
                    *l = f32::INFINITY;
                }
                if *l == f32::INFINITY {
                    *d = 0.0;
                } else if d.is_nan() {
                    *d = f32::NAN;
                }
            }
        }
    }

    unsafe fn pack_q_i8(
        &self,
        Int8Scores {
            q: q_quant,
            k: k_quant,
        }: Int8Scores<'_>,
        sequence: &Sequence,
        head: usize,
        row: usize,
        n: usize,
    ) {
        let (scratch, kernels) = (&self.scratch, self.kernels);
        let (q, k, d) = (
            &self.call.problem.q,
            &self.call.problem.k,
            self.call.problem.d,
        );
        let (b, kv_head) = (sequence.batch, head / self.call.problem.group);
        // SAFETY: as for `pack_queries`.
        unsafe {
            let (rows, ld) = if q.is_plain_i8() {
                (
                    q.at(b, head, row, 0).cast::<i8>().cast_const(),
                    q.strides[2],
                )
            } else {
                let staged: *mut i8 = scratch.rows.cast();
                let ld = stride(d);
                q.unpack_rows(kernels, (b, head), row, n, staged, ld);
                (staged.cast_const(), ld)
            };
            (kernels.pack_k_i8)(rows, ld, n, d, scratch.q_panels.cast(), scratch.sums);
            // The plan admits zero points of K only where they are the same for all rows.
            let k_zero = k_quant.zero(0, 0, 0, 0);
            let k_mean = k.mean(b, kv_head);
            for j in 0..padded(n, kernels) {
                let (scale, zero) = if j < n {
                    (
                        q_quant.scale(b, head, row + j, 0),
                        q_quant.zero(b, head, row + j, 0),
                    )
                } else {
                    (0.0, 0)
                };
                *scratch.col_bias.add(j) =
                    -(kernels.q_offset + k_zero) * *scratch.sums.add(j) + d as i32 * k_zero * zero;
                *scratch.col_scale.add(j) = scale;
                *scratch.col_zero.add(j) = zero as f32;
                if let (Some(mean), true) = (&k_mean, j < n) {
                    // Q times the mean of K is the same for all keys: taken from the logsumexp, not added to the scores.
                    let row = std::slice::from_raw_parts(rows.add(j * ld), d);
                    let dot: f32 = row
                        .iter()
                        .zip(mean.iter())
                        .map(|(x, m)| (f32::from(*x) - zero as f32) * m)
                        .sum();
                    *scratch.l.add(j) -= dot * scale * self.call.problem.options.factor();
                }
            }
        }
    }

    /// Packs keys `first..first + n` of a key/value head, as `grads` needs them.
    pub(super) unsafe fn pack_keys(
        &self,
        sequence: &Sequence,
        kv_head: usize,
        first: usize,
        n: usize,
        grads: GradSet,
    ) -> PackedKeys {
        let mut block = PackedKeys {
            first,
            n,
            non_finite_k: RowSet::default(),
            bf16_max: None,
        };
        // SAFETY: `n <= block_keys` rows fit every array of the scratch; rows are inside the tensors.
        unsafe {
            match self.plan.bf16 {
                Some(bf16) => {
                    block.bf16_max = self.pack_key_bf16(bf16, sequence, kv_head, &block, grads);
                }
                None => self.pack_key_floats(sequence, kv_head, &mut block, grads),
            }
        }
        block
    }

    /// [`BlockPair::pack_keys`] for products of floats.
    pub(super) unsafe fn pack_key_floats(
        &self,
        sequence: &Sequence,
        kv_head: usize,
        block: &mut PackedKeys,
        grads: GradSet,
    ) {
        let (scratch, kernels) = (&self.scratch, self.kernels);
        let problem = &self.call.problem;
        let (d, dv, mr, n) = (problem.d, problem.dv, kernels.mr, block.n);
        let factor = problem.options.factor();
        let (at, row) = ((sequence.batch, kv_head), sequence.k0 + block.first);
        // SAFETY: as for `pack_keys`.
        unsafe {
            if let ScoreArithmetic::I8(quants) = self.plan.scores {
                self.pack_k_i8(quants, at, row, n, factor);
            }
            if matches!(self.plan.scores, ScoreArithmetic::F32) || grads.dq {
                let rows = self.rows(&problem.k, at, row, n);
                if matches!(self.plan.scores, ScoreArithmetic::F32) {
                    let out: *mut f32 = scratch.k_strips.cast();
                    for strip in (0..n).step_by(mr) {
                        let (from, count) = (rows.ptr.add(strip * rows.ld), mr.min(n - strip));
                        (kernels.pack_q_f32)(from, rows.ld, count, d, factor, out.add(strip * d));
                    }
                }
                if grads.dq {
                    block.non_finite_k = self.columns(rows, n, d, scratch.k_columns);
                }
            }
            if grads.dp() {
                let rows = self.rows(&problem.v, at, row, n);
                for strip in (0..n).step_by(mr) {
                    let (from, count) = (rows.ptr.add(strip * rows.ld), mr.min(n - strip));
                    let out = scratch.v_strips.add(strip * dv);
                    (kernels.pack_q_f32)(from, rows.ld, count, dv, 1.0, out);
                }
            }
        }
    }

    unsafe fn pack_k_i8(
        &self,
        Int8Scores { k: quant, .. }: Int8Scores<'_>,
        at: (usize, usize),
        row: usize,
        n: usize,
        factor: f32,
    ) {
        let (scratch, kernels) = (&self.scratch, self.kernels);
        let (k, d, mr) = (&self.call.problem.k, self.call.problem.d, self.kernels.mr);
        // SAFETY: as for `pack_keys`.
        unsafe {
            let staged: *mut i8 = scratch.rows.cast();
            let ld = stride(d);
            for strip in (0..n).step_by(mr) {
                let count = mr.min(n - strip);
                k.unpack_rows(kernels, at, row + strip, count, staged, ld);
                let out = scratch.k_strips.add(strip * 4 * d.div_ceil(4));
                scratch.sums.write_bytes(0, mr);
                (kernels.pack_q_i8)(staged, ld, count, d, out, scratch.sums);
                for r in 0..mr {
                    let scale = if r < count {
                        quant.scale(at.0, at.1, row + strip + r, 0)
                    } else {
                        0.0
                    };
                    *scratch.row_scale.add(strip + r) = scale * factor;
                    *scratch.row_sum.add(strip + r) = *scratch.sums.add(r) as f32;
                    *scratch.row_add.add(strip + r) = 0.0;
                }
            }
        }
    }
}
