//! Packing a tile's Q and a block's K and V: from the caller's precision, strides and scales to the kernels' layouts.

use std::ops::Range;
use std::ptr::null;

use crate::expand::Basis;
use crate::forward::bias::LOG2_E;
use crate::forward::schedule::Rows;
use crate::forward::tile::Tile;
use crate::kernels::{KB, ScoreScales};
use crate::plan::{Scores, Values};
use crate::quantization::{Params, Quant};

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
    pub v_scale: *const f32,
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
    pub(super) unsafe fn pack_q(&self, rows: &Rows) -> Queries {
        let (problem, kernels, scratch) = (self.problem, self.kernels, self.scratch);
        let (q, d) = (&problem.q, problem.d);
        let b = rows.sequence.batch;
        let factor = problem.options.scale * LOG2_E;
        let rotate_q = problem.k.is_rotated() && !q.is_rotated();
        let rotate_k = q.is_rotated() && !problem.k.is_rotated();
        let mr = kernels.mr;
        let k_scale = match &problem.k.quant {
            Some(Quant {
                params: Params::One { scale, .. },
                ..
            }) => *scale,
            _ => 1.0,
        };
        let mut finite = true;
        // SAFETY: a strip's rows fit `rows`; packed strips follow one another in `q`, as `lay_out` sized it.
        unsafe {
            let k_mean = problem.k.mean(b, rows.kv_head);
            for strip in (0..rows.len()).step_by(mr) {
                let n = mr.min(rows.len() - strip);
                let place = |r: usize| {
                    let (head, i) = rows.place(strip + r);
                    (head, rows.sequence.q0 + i)
                };
                if self.plan.scores == Scores::I8 {
                    let ld = d.next_multiple_of(16);
                    let staged: *mut i8 = scratch.rows.cast();
                    for r in 0..n {
                        let (head, i) = place(r);
                        q.expand_i8(kernels, (b, head), i, 1, staged.add(r * ld), ld);
                        let Some(quant) = &q.quant else { continue };
                        let scale = quant.scale(b, head, i, 0) * factor;
                        *scratch.row_scale.add(strip + r) = scale * k_scale;
                        *scratch.row_add.add(strip + r) = k_mean.as_ref().map_or(0.0, |mean| {
                            let zero = quant.zero(b, head, i, 0) as f32;
                            let row = std::slice::from_raw_parts(staged.add(r * ld), d);
                            scale
                                * row
                                    .iter()
                                    .zip(mean)
                                    .map(|(x, m)| (f32::from(*x) - zero) * m)
                                    .sum::<f32>()
                        });
                    }
                    for r in n..mr {
                        *scratch.row_scale.add(strip + r) = 0.0;
                        *scratch.row_add.add(strip + r) = 0.0;
                    }
                    let sums = scratch.sums;
                    sums.write_bytes(0, mr);
                    let out = scratch.q.add(strip * 4 * d.div_ceil(4));
                    (kernels.pack_q_i8)(staged, ld, n, d, out, sums);
                    for r in 0..mr {
                        *scratch.row_sum.add(strip + r) = *sums.add(r) as f32;
                    }
                } else {
                    let ld = d.next_multiple_of(16);
                    let staged: *mut f32 = scratch.rows.cast();
                    for r in 0..n {
                        let (head, i) = place(r);
                        let mean = q.mean(b, head);
                        let basis = Basis {
                            rotate: rotate_q,
                            mean: mean.as_ref().map_or(null(), |m| m.as_ptr()),
                        };
                        q.expand(kernels, (b, head), i, 1, basis, staged.add(r * ld), ld);
                    }
                    if let Scores::Parts(terms) = self.plan.scores {
                        finite &= self.pack_q_parts(terms, staged, ld, strip, n);
                    } else {
                        let out = scratch.q.cast::<f32>().add(strip * d);
                        (kernels.pack_q_f32)(staged, ld, n, d, factor, out);
                    }
                }
            }
        }
        Queries { rotate_k, finite }
    }

    /// Packs keys `range` of the sequence.
    pub(super) unsafe fn pack_block(
        &self,
        rows: &Rows,
        range: Range<usize>,
        k_basis: Basis,
        v_basis: Basis,
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
            v_zero: 0,
        };
        // SAFETY: `n <= block_keys <= KB` rows fit every array of the scratch; rows are inside the tensors.
        unsafe {
            match self.plan.scores {
                Scores::F32 | Scores::Parts(_) => {
                    let (from, ld) = if k.is_plain_f32() && !k_basis.rotate {
                        (
                            k.at(at.0, at.1, row, 0).cast::<f32>().cast_const(),
                            k.strides[2],
                        )
                    } else {
                        let ld = d.next_multiple_of(16);
                        k.expand(kernels, at, row, n, k_basis, scratch.rows.cast(), ld);
                        (scratch.rows.cast::<f32>().cast_const(), ld)
                    };
                    if let (Scores::Parts(terms), Some(parts)) = (self.plan.scores, &kernels.parts)
                    {
                        let out = scratch.k.cast();
                        block.finite_scores &=
                            (parts.pack_columns)(terms.parts_of_b(), from, ld, n, d, out);
                    } else {
                        (kernels.pack_k_f32)(from, ld, n, d, scratch.k.cast());
                    }
                }
                Scores::I8 => self.pack_k_i8(at, row, n, &mut block),
            }
            if matches!(self.plan.values, Values::F32 | Values::Parts(_)) {
                let (from, ld) = if v.is_plain_f32() {
                    (
                        v.at(at.0, at.1, row, 0).cast::<f32>().cast_const(),
                        v.strides[2],
                    )
                } else {
                    let ld = dv.next_multiple_of(16);
                    v.expand(kernels, at, row, n, v_basis, scratch.rows.cast(), ld);
                    (scratch.rows.cast::<f32>().cast_const(), ld)
                };
                let out = scratch.v;
                block.finite = match (self.plan.values, &kernels.parts) {
                    (Values::Parts(terms), Some(parts)) => {
                        (parts.pack_panels)(terms.parts_of_b(), from, ld, n, dv, out.cast())
                    }
                    _ => (kernels.pack_v_f32)(from, ld, n, dv, out.cast()),
                };
            } else {
                self.pack_v_int(at, row, n, &mut block);
            }
        }
        block
    }

    unsafe fn pack_k_i8(&self, at: (usize, usize), row: usize, n: usize, block: &mut Block) {
        let (problem, kernels, scratch) = (self.problem, self.kernels, self.scratch);
        let (k, d) = (&problem.k, problem.d);
        let (Some(quant), Some(q_quant)) = (&k.quant, &problem.q.quant) else {
            return;
        };
        // SAFETY: as for `pack_block`.
        unsafe {
            let (from, ld) = if k.is_plain_i8() {
                (
                    k.at(at.0, at.1, row, 0).cast::<i8>().cast_const(),
                    k.strides[2],
                )
            } else {
                let ld = d.next_multiple_of(16);
                k.expand_i8(kernels, at, row, n, scratch.rows.cast(), ld);
                (scratch.rows.cast::<i8>().cast_const(), ld)
            };
            scratch.sums.write_bytes(0, KB);
            (kernels.pack_k_i8)(from, ld, n, d, scratch.k.cast(), scratch.sums);
            // The plan admits zero points of Q only where they are the same for all rows.
            let q_zero = q_quant.zero(0, 0, 0, 0);
            let has_zeros = quant.has_zeros();
            let one = matches!(quant.params, Params::One { .. });
            for j in 0..n.next_multiple_of(kernels.nr) {
                let inside = j < n;
                let zero = if inside && has_zeros {
                    quant.zero(at.0, at.1, row + j, 0)
                } else {
                    0
                };
                *scratch.col_bias.add(j) =
                    -(kernels.q_offset + q_zero) * *scratch.sums.add(j) + d as i32 * q_zero * zero;
                *scratch.col_zero.add(j) = zero as f32;
                if !one {
                    *scratch.col_scale.add(j) = if inside {
                        quant.scale(at.0, at.1, row + j, 0)
                    } else {
                        0.0
                    };
                }
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
        let Some(quant) = &v.quant else { return };
        // SAFETY: as for `pack_block`.
        unsafe {
            let (from, ld) = if v.is_plain_i8() {
                (
                    v.at(at.0, at.1, row, 0).cast::<i8>().cast_const(),
                    v.strides[2],
                )
            } else {
                let ld = dv.next_multiple_of(16);
                v.expand_i8(kernels, at, row, n, scratch.rows.cast(), ld);
                (scratch.rows.cast::<i8>().cast_const(), ld)
            };
            if !matches!(quant.params, Params::One { .. }) {
                for j in 0..n {
                    *scratch.v_scale.add(j) = quant.scale(at.0, at.1, row + j, 0);
                }
                block.v_scale = scratch.v_scale;
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
