//! Packing a tile's Q and a block's K and V: from the caller's precision, strides and scales to the kernels' layouts.

use mfa_kernels::Precision;
use std::ops::Range;
use std::ptr::null;

use crate::contract::quant_scheme::{Params, Quant};
use crate::contract::tensor::Tensor;
use crate::forward::prefill::Tile;
use crate::forward::schedule::TileRows;
use crate::operands::arithmetic::{Scores, Values};
use crate::operands::dequantize::Domain;
use mfa_kernels::bf16_split::FloatRows;
use mfa_kernels::{BLOCK_N, ScoreScales};

/// A packed block.
pub(super) struct Block {
    /// Of the sequence.
    pub first: usize,
    pub n: usize,
    /// Whether V holds no NaN and no infinity.
    pub finite: bool,
    /// The same of Q and K, where they are packed as parts.
    pub finite_scores: bool,
    pub scales: ScoreScales,
    /// Scales of V by key; null where those of all keys are `v_factor`.
    pub v_scale: *const f32,
    pub v_factor: f32,
    /// Whether some of the scales are not finite.
    pub non_finite_scales: bool,
    pub v_zero: i32,
}

/// The packed Q of a tile.
pub(super) struct Queries {
    /// Whether K must be rotated to meet it.
    pub rotate_k: bool,
    /// Whether it holds no NaN and no infinity, where it is packed as parts.
    pub finite: bool,
}

impl Tile<'_> {
    /// Packs the tile's Q.
    pub(super) unsafe fn pack_q(&self, rows: &TileRows) -> Queries {
        let (q, k) = (&self.problem.q, &self.problem.k);
        let mr = self.kernels.mr;
        let k_mean = k.mean(rows.sequence.batch, rows.kv_head);
        let mut finite = true;
        for strip in (0..rows.len()).step_by(mr) {
            let n = mr.min(rows.len() - strip);
            // SAFETY: a strip's rows fit `rows`; packed strips follow one another in `q`, as `allocate` sized it.
            unsafe {
                if self.plan.scores == Scores::I8 {
                    self.pack_q_i8(rows, strip, n, k_mean.as_deref());
                } else {
                    finite &= self.pack_q_floats(rows, strip, n);
                }
            }
        }
        Queries {
            rotate_k: q.is_rotated() && !k.is_rotated(),
            finite,
        }
    }

    /// A strip of floats; returns whether they are finite, where they are packed as parts.
    unsafe fn pack_q_floats(&self, rows: &TileRows, strip: usize, n: usize) -> bool {
        let (problem, kernels, scratch) = (self.problem, self.kernels, self.scratch);
        let (q, d, b) = (&problem.q, problem.d, rows.sequence.batch);
        let rotate = problem.k.is_rotated() && !q.is_rotated();
        let before = match self.plan.scores {
            Scores::Bf16(_) => self.factor().in_q,
            _ => 1.0,
        };
        let (staged, ld) = (scratch.rows.cast::<f32>(), d.next_multiple_of(16));
        let mut from = FloatRows::f32(staged, ld);
        let parts = matches!(self.plan.scores, Scores::Bf16(_));
        // SAFETY: as for `pack_q`.
        unsafe {
            for run in rows.runs(strip, strip + n) {
                let plain = q
                    .plain_floats(b, run.head, run.at)
                    .filter(|rows| parts || rows.precision == Precision::F32);
                if let Some(plain) = plain
                    && run.len == n
                    && !rotate
                    && before == 1.0
                {
                    from = plain;
                    break;
                }
                let mean = q.mean(b, run.head);
                let domain = Domain {
                    rotate,
                    mean: mean.as_ref().map_or(null(), |m| m.as_ptr()),
                };
                let out = staged.add((run.row - strip) * ld);
                q.dequantize_rows(kernels, (b, run.head), run.at, run.len, domain, out, ld);
                if before != 1.0 {
                    for r in 0..run.len {
                        let row = std::slice::from_raw_parts_mut(out.add(r * ld), d);
                        row.iter_mut().for_each(|x| *x *= before);
                    }
                }
            }
            if let Scores::Bf16(terms) = self.plan.scores {
                return self.pack_q_bf16(terms, from, strip, n);
            }
            let factor = problem.options.factor();
            let out = scratch.q.cast::<f32>().add(strip * d);
            (kernels.pack_q_f32)(from.ptr.cast(), from.ld, n, d, factor, out);
        }
        true
    }

    /// A strip of integers, and what their scores are multiplied by and added to.
    unsafe fn pack_q_i8(&self, rows: &TileRows, strip: usize, n: usize, k_mean: Option<&[f32]>) {
        let (problem, kernels, scratch) = (self.problem, self.kernels, self.scratch);
        let (q, d, b, mr) = (&problem.q, problem.d, rows.sequence.batch, kernels.mr);
        let quant = q.expect_quant();
        let factor = problem.options.factor();
        let k_scale = match &problem.k.quant {
            Some(Quant {
                params: Params::PerTensor { scale, .. },
                ..
            }) => *scale,
            _ => 1.0,
        };
        let (mut from, mut ld) = (scratch.rows.cast::<i8>(), d.next_multiple_of(16));
        // SAFETY: as for `pack_q`.
        unsafe {
            let scales = std::slice::from_raw_parts_mut(scratch.row_scale.add(strip), mr);
            let adds = std::slice::from_raw_parts_mut(scratch.row_add.add(strip), mr);
            adds.fill(0.0);
            scales[n..].fill(0.0);
            for run in rows.runs(strip, strip + n) {
                let r = run.row - strip;
                if run.len == n && q.is_plain_i8() {
                    (from, ld) = (q.at(b, run.head, run.at, 0).cast(), q.strides[2]);
                } else {
                    let out = from.add(r * ld);
                    q.unpack_rows(kernels, (b, run.head), run.at, run.len, out, ld);
                }
                quant.row_scales(b, run.head, run.at, &mut scales[r..r + run.len]);
                let Some(mean) = k_mean else { continue };
                for i in r..r + run.len {
                    let zero = quant.zero(b, run.head, run.at + i - r, 0) as f32;
                    let row = std::slice::from_raw_parts(from.add(i * ld), d);
                    let dot: f32 = (row.iter().zip(mean))
                        .map(|(x, m)| (f32::from(*x) - zero) * m)
                        .sum();
                    adds[i] = scales[i] * factor * dot;
                }
            }
            scales.iter_mut().for_each(|x| *x *= factor * k_scale);
            let sums = scratch.sums;
            sums.write_bytes(0, mr);
            let out = scratch.q.add(strip * 4 * d.div_ceil(4));
            (kernels.pack_q_i8)(from, ld, n, d, out, sums);
            for r in 0..mr {
                *scratch.row_sum.add(strip + r) = *sums.add(r) as f32;
            }
        }
    }

    /// Packs keys `range` of the sequence.
    pub(super) unsafe fn pack_block(
        &self,
        rows: &TileRows,
        range: Range<usize>,
        k_domain: Domain,
        v_domain: Domain,
        finite_scores: bool,
    ) -> Block {
        let (problem, kernels, scratch) = (self.problem, self.kernels, self.scratch);
        let (k, v, d, dv) = (&problem.k, &problem.v, problem.d, problem.dv);
        let at = (rows.sequence.batch, rows.kv_head);
        let (n, row) = (range.len(), rows.sequence.k0 + range.start);
        let mut block = Block {
            first: range.start,
            n,
            finite: true,
            finite_scores,
            scales: ScoreScales {
                col_bias: null(),
                col_scale: null(),
                col_zero: null(),
                row_scale: null(),
                row_sum: null(),
                row_add: null(),
            },
            v_scale: null(),
            v_factor: 1.0,
            non_finite_scales: false,
            v_zero: 0,
        };
        // SAFETY: `n <= block_keys <= BLOCK_N` rows fit every array of the scratch; rows are inside the tensors.
        unsafe {
            match self.plan.scores {
                Scores::F32 | Scores::Bf16(_) => {
                    let parts = matches!(self.plan.scores, Scores::Bf16(_));
                    let from = self.float_rows(k, at, row, n, k_domain, parts);
                    if let (Scores::Bf16(terms), Some(parts)) = (self.plan.scores, &kernels.bf16) {
                        let out = scratch.k.cast();
                        block.finite_scores &=
                            (parts.pack_columns)(terms.slices_of_b(), from, n, d, out);
                    } else {
                        (kernels.pack_k_f32)(from.ptr.cast(), from.ld, n, d, scratch.k.cast());
                    }
                }
                Scores::I8 => self.pack_k_i8(at, row, n, &mut block),
            }
            if matches!(self.plan.values, Values::F32 | Values::Bf16(_)) {
                let parts = matches!(self.plan.values, Values::Bf16(_));
                let from = self.float_rows(v, at, row, n, v_domain, parts);
                let out = scratch.v;
                block.finite = match (self.plan.values, &kernels.bf16) {
                    (Values::Bf16(terms), Some(parts)) => {
                        (parts.pack_panels)(terms.slices_of_b(), from, n, dv, out.cast())
                    }
                    _ => (kernels.pack_v_f32)(from.ptr.cast(), from.ld, n, dv, out.cast()),
                };
            } else {
                self.pack_v_int(at, row, n, &mut block);
            }
        }
        block
    }

    /// TileRows of K or V as they lie, if what packs them can read those, as kernels of `parts` can; or dequantized.
    unsafe fn float_rows(
        &self,
        tensor: &Tensor,
        at: (usize, usize),
        row: usize,
        n: usize,
        domain: Domain,
        parts: bool,
    ) -> FloatRows {
        let plain = tensor.plain_floats(at.0, at.1, row);
        let readable = |rows: &FloatRows| parts || rows.precision == Precision::F32;
        plain
            .filter(|rows| readable(rows) && !domain.rotate)
            .unwrap_or_else(|| {
                let (out, ld) = (
                    self.scratch.rows.cast(),
                    tensor.shape[3].next_multiple_of(16),
                );
                // SAFETY: as for `pack_block`.
                unsafe { tensor.dequantize_rows(self.kernels, at, row, n, domain, out, ld) };
                FloatRows::f32(out, ld)
            })
    }

    unsafe fn pack_k_i8(&self, at: (usize, usize), row: usize, n: usize, block: &mut Block) {
        let (problem, kernels, scratch) = (self.problem, self.kernels, self.scratch);
        let (k, d) = (&problem.k, problem.d);
        let (quant, q_quant) = (k.expect_quant(), problem.q.expect_quant());
        // SAFETY: as for `pack_block`.
        unsafe {
            let (from, ld) = if k.is_plain_i8() {
                (
                    k.at(at.0, at.1, row, 0).cast::<i8>().cast_const(),
                    k.strides[2],
                )
            } else {
                let ld = d.next_multiple_of(16);
                k.unpack_rows(kernels, at, row, n, scratch.rows.cast(), ld);
                (scratch.rows.cast::<i8>().cast_const(), ld)
            };
            scratch.sums.write_bytes(0, BLOCK_N);
            (kernels.pack_k_i8)(from, ld, n, d, scratch.k.cast(), scratch.sums);
            // The plan admits zero points of Q only where they are the same for all rows.
            let q_zero = q_quant.zero(0, 0, 0, 0);
            let has_zeros = quant.has_zeros();
            let one = matches!(quant.params, Params::PerTensor { .. });
            let padded = n.next_multiple_of(kernels.nr);
            let col_bias = std::slice::from_raw_parts_mut(scratch.col_bias, padded);
            let sums = std::slice::from_raw_parts(scratch.sums, padded);
            for (bias, sum) in col_bias.iter_mut().zip(sums) {
                *bias = -(kernels.q_offset + q_zero) * sum;
            }
            if has_zeros {
                let col_zero = std::slice::from_raw_parts_mut(scratch.col_zero, padded);
                for (j, (bias, zero)) in col_bias.iter_mut().zip(col_zero).enumerate() {
                    let inside = j < n;
                    let z = if inside {
                        quant.zero(at.0, at.1, row + j, 0)
                    } else {
                        0
                    };
                    *bias += d as i32 * q_zero * z;
                    *zero = z as f32;
                }
            }
            if !one {
                let col_scale = std::slice::from_raw_parts_mut(scratch.col_scale, padded);
                let (inside, outside) = col_scale.split_at_mut(n);
                quant.row_scales(at.0, at.1, row, inside);
                outside.fill(0.0);
            }
            block.scales.col_bias = scratch.col_bias;
            if !one {
                block.scales.col_scale = scratch.col_scale;
            }
            if has_zeros {
                block.scales.col_zero = scratch.col_zero;
            }
        }
    }

    unsafe fn pack_v_int(&self, at: (usize, usize), row: usize, n: usize, block: &mut Block) {
        let (problem, kernels, scratch) = (self.problem, self.kernels, self.scratch);
        let (v, dv) = (&problem.v, problem.dv);
        let quant = v.expect_quant();
        // SAFETY: as for `pack_block`.
        unsafe {
            let (from, ld) = if v.is_plain_i8() {
                (
                    v.at(at.0, at.1, row, 0).cast::<i8>().cast_const(),
                    v.strides[2],
                )
            } else {
                let ld = dv.next_multiple_of(16);
                v.unpack_rows(kernels, at, row, n, scratch.rows.cast(), ld);
                (scratch.rows.cast::<i8>().cast_const(), ld)
            };
            if !matches!(quant.params, Params::PerTensor { .. }) {
                let scales = std::slice::from_raw_parts_mut(scratch.v_scale, n);
                quant.row_scales(at.0, at.1, row, scales);
                let adds_nothing = |j: usize| {
                    let zero = quant.zero(at.0, at.1, row + j, 0);
                    (0..dv).all(|c| i32::from(*from.add(j * ld + c)) == zero)
                };
                match common_scale(scales, adds_nothing) {
                    Some(scale) => block.v_factor = scale,
                    None => {
                        block.non_finite_scales = !scales.iter().all(|scale| scale.is_finite());
                        block.v_scale = scratch.v_scale;
                    }
                }
            }
            if self.plan.values == Values::U8 {
                block.v_zero = quant.zero(at.0, at.1, row, 0);
                (kernels.pack_v_i8)(from, ld, n, dv, scratch.v.cast());
                return;
            }
            let mut zeros = null();
            if quant.has_zeros() {
                for j in 0..n {
                    *scratch.v_zero.add(j) = quant.zero(at.0, at.1, row + j, 0);
                }
                zeros = scratch.v_zero.cast_const();
            }
            (kernels.pack_v_i16)(from, ld, n, dv, zeros, scratch.v.cast());
        }
    }
}

/// The scale of all keys, if it is the same. A key whose values are all zero adds nothing: whatever its scale is, it is that
/// of the others, or 0, so that it does not set the size of a step of P.
fn common_scale(scales: &mut [f32], adds_nothing: impl Fn(usize) -> bool) -> Option<f32> {
    let mut common = None;
    let mut same = true;
    for (j, scale) in scales.iter_mut().enumerate() {
        if scale.is_finite() && adds_nothing(j) {
            *scale = 0.0;
            continue;
        }
        same &= *common.get_or_insert(*scale) == *scale;
    }
    same.then(|| common.unwrap_or(1.0))
}
