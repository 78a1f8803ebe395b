//! Packing a tile's Q and a block's K and V: from the caller's precision, strides and scales to the kernels' layouts.
//!
//! See eq. 1, 41, 48 of docs/math.md.

use std::ops::Range;
use std::ptr::null;

use crate::contract::quant_scheme::Quant;
use crate::contract::tensor::Tensor;
use crate::forward::schedule::{HeadSpan, TileRows};
use crate::forward::scratch::{Prefill, dequantized_ld};
use crate::operands::arithmetic::{Int8Scores, ScoreArithmetic, ValueArithmetic};
use crate::operands::dequantize::Domain;
use mfa_kernels::bf16_split::{FloatRows, row_len};
use mfa_kernels::{BLOCK_N, Precision, ScoreScales};

/// A packed block of keys and values.
pub(super) struct PackedBlock {
    /// First key, in the sequence.
    pub first: usize,
    /// Keys.
    pub n: usize,
    /// Whether V holds no NaN and no infinity; of floats.
    pub finite: bool,
    /// Whether Q and K hold none either; of BF16 slices.
    pub finite_scores: bool,
    /// Per key; the pointers of rows are null.
    pub scales: ScoreScales,
    /// Scales of V per key; null where `v_factor` is the scale of all of them.
    pub v_scale: *const f32,
    pub v_factor: f32,
    /// Whether some of `v_scale` are not finite.
    pub non_finite_scales: bool,
    /// Zero point of 8-bit V.
    pub v_zero: i32,
}

/// The packed Q of a tile.
pub(super) struct PackedQueries {
    /// Whether K must be rotated, because Q is and K is not.
    pub rotate_k: bool,
    /// Whether Q holds no NaN and no infinity; of BF16 slices.
    pub finite: bool,
}

/// Rows of integers as kernels read them.
struct Int8Rows {
    ptr: *const i8,
    /// Bytes from a row to the next.
    ld: usize,
}

impl Prefill<'_> {
    /// Packs the tile's Q.
    pub(super) unsafe fn pack_q(&self, rows: &TileRows) -> PackedQueries {
        let (q, k, d) = (&self.problem.q, &self.problem.k, self.problem.d);
        let (kernels, scratch, mr) = (self.kernels, self.scratch, self.kernels.mr);
        let k_mean = k.mean(rows.sequence.batch, rows.kv_head);
        let mut finite = true;
        for strip in (0..rows.len()).step_by(mr) {
            let n = mr.min(rows.len() - strip);
            // SAFETY: a strip's rows fit `rows`; packed strips follow one another in `q`, as `allocate` sized it.
            unsafe {
                match self.plan.scores {
                    ScoreArithmetic::F32 => {
                        let from = self.q_rows(rows, strip, n, 1.0, false);
                        let factor = self.problem.options.factor();
                        let out = scratch.q.cast::<f32>().add(strip * d);
                        (kernels.pack_q_f32)(from.ptr.cast(), from.ld, n, d, factor, out);
                    }
                    ScoreArithmetic::I8(quants) => {
                        self.pack_q_i8(quants, rows, strip, n, k_mean.as_deref());
                    }
                    ScoreArithmetic::Bf16(products, bf16) => {
                        let from = self.q_rows(rows, strip, n, self.plan.scale.in_q, true);
                        let slices = products.slices_of_a();
                        let out = scratch.q.cast::<u16>().add(strip * row_len(d, slices));
                        finite &= (bf16.pack_rows)(slices, from, n, d, out);
                    }
                }
            }
        }
        PackedQueries {
            rotate_k: q.is_rotated() && !k.is_rotated(),
            finite,
        }
    }

    /// `factor` times `n` rows of Q: where they are stored, if the packing kernel reads them there, or dequantized. A kernel
    /// of slices reads `any_float`, others FP32.
    unsafe fn q_rows(
        &self,
        rows: &TileRows,
        strip: usize,
        n: usize,
        factor: f32,
        any_float: bool,
    ) -> FloatRows {
        let (q, b) = (&self.problem.q, rows.sequence.batch);
        let rotate = self.problem.k.is_rotated() && !q.is_rotated();
        let ld = dequantized_ld(self.problem.d);
        let dequantized: *mut f32 = self.scratch.rows.cast();
        for span in rows.head_spans(strip, strip + n) {
            let stored = q
                .plain_floats(b, span.head, span.at)
                .filter(|rows| any_float || rows.precision == Precision::F32);
            if let Some(stored) = stored
                && span.len == n
                && !rotate
                && factor == 1.0
            {
                return stored;
            }
            // SAFETY: as for `pack_q`.
            unsafe {
                let out = dequantized.add((span.row - strip) * ld);
                self.dequantize_q(b, &span, rotate, factor, out, ld);
            }
        }
        FloatRows::f32(dequantized, ld)
    }

    unsafe fn dequantize_q(
        &self,
        b: usize,
        span: &HeadSpan,
        rotate: bool,
        factor: f32,
        out: *mut f32,
        ld: usize,
    ) {
        let (q, d) = (&self.problem.q, self.problem.d);
        let mean = q.mean(b, span.head);
        let domain = Domain {
            rotate,
            mean: mean.as_ref().map_or(null(), |m| m.as_ptr()),
        };
        // SAFETY: as for `pack_q`.
        unsafe {
            let at = (b, span.head);
            q.dequantize_rows(self.kernels, at, span.at, span.len, domain, out, ld);
            if factor != 1.0 {
                for r in 0..span.len {
                    let row = std::slice::from_raw_parts_mut(out.add(r * ld), d);
                    row.iter_mut().for_each(|x| *x *= factor);
                }
            }
        }
    }

    /// Packs a strip of integers, and computes the factors and terms of its rows of scores.
    unsafe fn pack_q_i8(
        &self,
        quants: Int8Scores<'_>,
        rows: &TileRows,
        strip: usize,
        n: usize,
        k_mean: Option<&[f32]>,
    ) {
        let (problem, kernels, scratch) = (self.problem, self.kernels, self.scratch);
        let (q, d, b, mr) = (&problem.q, problem.d, rows.sequence.batch, kernels.mr);
        let quant = quants.q;
        let factor = problem.options.factor();
        let k_scale = quants.k.constant().map_or(1.0, |(scale, _)| scale);
        let (mut from, mut ld) = (scratch.rows.cast::<i8>(), dequantized_ld(d));
        // SAFETY: as for `pack_q`.
        unsafe {
            let scales = std::slice::from_raw_parts_mut(scratch.row_scale.add(strip), mr);
            let adds = std::slice::from_raw_parts_mut(scratch.row_add.add(strip), mr);
            adds.fill(0.0);
            scales[n..].fill(0.0);
            for span in rows.head_spans(strip, strip + n) {
                let r = span.row - strip;
                if span.len == n && q.is_plain_i8() {
                    (from, ld) = (q.at(b, span.head, span.at, 0).cast(), q.strides[2]);
                } else {
                    let out = from.add(r * ld);
                    q.unpack_rows(kernels, (b, span.head), span.at, span.len, out, ld);
                }
                let of_span = &mut scales[r..r + span.len];
                quant.row_scales(kernels, (b, span.head), span.at, of_span);
                let Some(mean) = k_mean else { continue };
                for i in r..r + span.len {
                    let zero = quant.zero(b, span.head, span.at + i - r, 0) as f32;
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
    ) -> PackedBlock {
        let at = (rows.sequence.batch, rows.kv_head);
        let (n, row) = (range.len(), rows.sequence.k0 + range.start);
        let mut block = PackedBlock {
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
        let (kernels, scratch) = (self.kernels, self.scratch);
        let (k, v, d, dv) = (
            &self.problem.k,
            &self.problem.v,
            self.problem.d,
            self.problem.dv,
        );
        // SAFETY: `n <= block_keys <= BLOCK_N` rows fit every array of the scratch; rows are inside the tensors.
        unsafe {
            match self.plan.scores {
                ScoreArithmetic::F32 => {
                    let from = self.float_rows(k, at, row, n, k_domain, false);
                    (kernels.pack_k_f32)(from.ptr.cast(), from.ld, n, d, scratch.k.cast());
                }
                ScoreArithmetic::I8(quants) => self.pack_k_i8(quants, at, row, &mut block),
                ScoreArithmetic::Bf16(products, bf16) => {
                    let from = self.float_rows(k, at, row, n, k_domain, true);
                    let (slices, out) = (products.slices_of_b(), scratch.k.cast());
                    block.finite_scores &= (bf16.pack_columns)(slices, from, n, d, out);
                }
            }
            match self.plan.values {
                ValueArithmetic::F32 => {
                    let from = self.float_rows(v, at, row, n, v_domain, false);
                    let (ptr, out) = (from.ptr.cast(), scratch.v.cast());
                    block.finite = (kernels.pack_v_f32)(ptr, from.ld, n, dv, out);
                }
                ValueArithmetic::I16(quant) => self.pack_v_i16(quant, at, row, &mut block),
                ValueArithmetic::U8(quant) => self.pack_v_u8(quant, at, row, &mut block),
                ValueArithmetic::Bf16(products, bf16) => {
                    let from = self.float_rows(v, at, row, n, v_domain, true);
                    let (slices, out) = (products.slices_of_b(), scratch.v.cast());
                    block.finite = (bf16.pack_panels)(slices, from, n, dv, out);
                }
            }
        }
        block
    }

    /// Rows of K or V where they are stored, if the packing kernel reads them there, or dequantized. A kernel of slices reads
    /// `any_float`, others FP32.
    unsafe fn float_rows(
        &self,
        tensor: &Tensor,
        at: (usize, usize),
        row: usize,
        n: usize,
        domain: Domain,
        any_float: bool,
    ) -> FloatRows {
        let stored = tensor.plain_floats(at.0, at.1, row);
        let readable = |rows: &FloatRows| any_float || rows.precision == Precision::F32;
        stored
            .filter(|rows| readable(rows) && !domain.rotate)
            .unwrap_or_else(|| {
                let (out, ld) = (self.scratch.rows.cast(), dequantized_ld(tensor.shape[3]));
                // SAFETY: as for `pack_block`.
                unsafe { tensor.dequantize_rows(self.kernels, at, row, n, domain, out, ld) };
                FloatRows::f32(out, ld)
            })
    }

    /// Rows of integers of K or V where they are stored, if they are INT8, or unpacked.
    unsafe fn int8_rows(
        &self,
        tensor: &Tensor,
        at: (usize, usize),
        row: usize,
        n: usize,
    ) -> Int8Rows {
        if tensor.is_plain_i8() {
            return Int8Rows {
                ptr: tensor.at(at.0, at.1, row, 0).cast(),
                ld: tensor.strides[2],
            };
        }
        let (out, ld) = (self.scratch.rows.cast(), dequantized_ld(tensor.shape[3]));
        // SAFETY: as for `pack_block`.
        unsafe { tensor.unpack_rows(self.kernels, at, row, n, out, ld) };
        Int8Rows { ptr: out, ld }
    }

    /// Packs keys of integers, and computes the factors and terms of their columns of scores.
    unsafe fn pack_k_i8(
        &self,
        quants: Int8Scores<'_>,
        at: (usize, usize),
        row: usize,
        block: &mut PackedBlock,
    ) {
        let (kernels, scratch) = (self.kernels, self.scratch);
        let (k, d, n, quant) = (&self.problem.k, self.problem.d, block.n, quants.k);
        // SAFETY: as for `pack_block`.
        unsafe {
            let Int8Rows { ptr, ld } = self.int8_rows(k, at, row, n);
            scratch.sums.write_bytes(0, BLOCK_N);
            (kernels.pack_k_i8)(ptr, ld, n, d, scratch.k.cast(), scratch.sums);
            // The plan admits zero points of Q only where they are the same for all rows.
            let q_zero = quants.q.zero(0, 0, 0, 0);
            let has_zeros = quant.has_zeros();
            let per_key = quant.constant().is_none();
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
            if per_key {
                let col_scale = std::slice::from_raw_parts_mut(scratch.col_scale, padded);
                let (inside, outside) = col_scale.split_at_mut(n);
                quant.row_scales(kernels, at, row, inside);
                outside.fill(0.0);
            }
            let or_null = |used: bool, p: *mut f32| if used { p.cast_const() } else { null() };
            block.scales.col_bias = scratch.col_bias;
            block.scales.col_scale = or_null(per_key, scratch.col_scale);
            block.scales.col_zero = or_null(has_zeros, scratch.col_zero);
        }
    }

    /// Packs values of integers for 16-bit P, less their zero points.
    unsafe fn pack_v_i16(
        &self,
        quant: &Quant,
        at: (usize, usize),
        row: usize,
        block: &mut PackedBlock,
    ) {
        let (kernels, scratch) = (self.kernels, self.scratch);
        let (v, dv, n) = (&self.problem.v, self.problem.dv, block.n);
        // SAFETY: as for `pack_block`.
        unsafe {
            let from = self.int8_rows(v, at, row, n);
            self.scale_v(quant, at, row, &from, block);
            let mut zeros = null();
            if quant.has_zeros() {
                for j in 0..n {
                    *scratch.v_zero.add(j) = quant.zero(at.0, at.1, row + j, 0);
                }
                zeros = scratch.v_zero.cast_const();
            }
            (kernels.pack_v_i16)(from.ptr, from.ld, n, dv, zeros, scratch.v.cast());
        }
    }

    /// Packs values of integers for 8-bit P.
    unsafe fn pack_v_u8(
        &self,
        quant: &Quant,
        at: (usize, usize),
        row: usize,
        block: &mut PackedBlock,
    ) {
        let (v, dv, n) = (&self.problem.v, self.problem.dv, block.n);
        block.v_zero = quant.zero(at.0, at.1, row, 0);
        // SAFETY: as for `pack_block`.
        unsafe {
            let from = self.int8_rows(v, at, row, n);
            self.scale_v(quant, at, row, &from, block);
            (self.kernels.pack_v_i8)(from.ptr, from.ld, n, dv, self.scratch.v.cast());
        }
    }

    /// Sets the scales of a block of V.
    unsafe fn scale_v(
        &self,
        quant: &Quant,
        at: (usize, usize),
        row: usize,
        from: &Int8Rows,
        block: &mut PackedBlock,
    ) {
        if quant.constant().is_some() {
            // The epilogue multiplies by it.
            return;
        }
        let (dv, v_scale) = (self.problem.dv, self.scratch.v_scale);
        // SAFETY: as for `pack_block`.
        unsafe {
            let scales = std::slice::from_raw_parts_mut(v_scale, block.n);
            quant.row_scales(self.kernels, at, row, scales);
            let adds_nothing = |j: usize| {
                let zero = quant.zero(at.0, at.1, row + j, 0);
                (0..dv).all(|c| i32::from(*from.ptr.add(j * from.ld + c)) == zero)
            };
            match common_scale(scales, adds_nothing) {
                Some(scale) => block.v_factor = scale,
                None => {
                    block.non_finite_scales = !scales.iter().all(|scale| scale.is_finite());
                    block.v_scale = v_scale;
                }
            }
        }
    }
}

/// The scale of all keys, if it is the same.
///
/// A key whose values are all zero adds nothing, whatever its scale. It counts as having the scale of the others, or gets the
/// scale 0, so that it does not set the size of a step of P.
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
