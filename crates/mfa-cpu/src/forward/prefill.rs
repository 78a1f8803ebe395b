//! Prefill: a tile of query rows against blocks of packed keys.
//!
//! ```text
//! pack the tile's Q                                  once
//! for each block of keys that any row attends to:
//!     pack K and V                                   into this worker's scratch: a block, never the whole
//!     for each strip of mr rows that attends to any of it:
//!         S = Q Kᵀ                                   scores_*: qk_*
//!         softcap, ALiBi, masks, limits              modify_scores: ScoreMod
//!         P, running max and sum                     values_*: softmax_*
//!         O = alpha O + P V                          values_*: pv_*
//! ```
//!
//! Packing a block costs each tile a few percent of the block's products at the plan's tile heights (the benches of kernels
//! have both). In return workers share nothing, need no barrier, and take memory that does not depend on the sequence's
//! length, as panels shared by all tiles would. Shared panels are not faster either where a head is cut into many tiles (N 512
//! on two threads): another core's panel arrives no sooner than a core packs it itself.
//!
//! For FP32 products as sums of products of BF16 slices see [`super::bf16_split`].

use std::ptr::null;

use crate::forward::masked_keys::MaskedKeys;
use crate::forward::schedule::WorkTile;
use crate::forward::scratch::Prefill;
use crate::forward::strip::StripBlock;
use crate::operands::arithmetic::{ScoreArithmetic, ValueArithmetic};
use crate::operands::dequantize::Domain;
use mfa_kernels::TileConfigGuard;
use mfa_kernels::{P8_LD, P16_LD, SCORE_LD, ScoreScales};

impl Prefill<'_> {
    /// Computes the item's unnormalised O, maxima and sums into the scratch.
    ///
    /// # Safety
    /// The scratch was allocated for this problem and plan, and belongs to the calling worker.
    pub(super) unsafe fn run(&self, item: &WorkTile) {
        let (scratch, rows) = (self.scratch, &item.rows);
        let (ldo, mr) = (self.ldo(), self.kernels.mr);
        let options = &self.problem.options;
        let padded_rows = rows.len().next_multiple_of(mr);
        let _tile_config = TileConfigGuard::new(self.kernels);
        // SAFETY: everything stays inside the scratch, whose sizes follow from the plan; tensors were checked.
        unsafe {
            scratch.o.write_bytes(0, padded_rows * ldo);
            std::slice::from_raw_parts_mut(scratch.m, padded_rows).fill(f32::NEG_INFINITY);
            scratch.l.write_bytes(0, padded_rows);
            scratch.left.write_bytes(0, padded_rows);
            let (low, high) = rows.row_range(0, rows.len());
            let (lo, _) = options.key_range(&rows.sequence, low);
            let (_, hi) = options.key_range(&rows.sequence, high);
            let (lo, hi) = (lo.max(item.keys.start), hi.min(item.keys.end));
            if lo >= hi {
                return;
            }
            let packed = self.pack_q(rows);
            let k_mean = self.problem.k.mean(rows.sequence.batch, rows.kv_head);
            let v_mean = self.problem.v.mean(rows.sequence.batch, rows.kv_head);
            let v_domain = Domain {
                rotate: false,
                mean: v_mean.as_ref().map_or(null(), |m| m.as_ptr()),
            };
            let k_domain = Domain {
                rotate: packed.rotate_k,
                mean: k_mean.as_ref().map_or(null(), |m| m.as_ptr()),
            };
            let step = self.plan.block_keys;
            // Blocks start at multiples of their size, whatever the window, so that no block of scales is in two of them.
            for first in (lo - lo % step..hi).step_by(step) {
                let end = (first + step).min(hi);
                let strips = (0..rows.len()).step_by(mr);
                let masked = std::slice::from_raw_parts_mut(scratch.fully_masked, strips.len());
                for (strip, masked) in strips.clone().zip(masked.iter_mut()) {
                    let to = (strip + mr).min(rows.len());
                    *masked = self.score_mod.masks_all(rows, strip, to, first..end);
                }
                if masked.iter().all(|masked| *masked) {
                    continue;
                }
                let block = self.pack_block(rows, first..end, k_domain, v_domain, packed.finite);
                for (strip, masked) in strips.zip(masked.iter()) {
                    if !masked && let Some(strip) = self.strip_block(rows, strip, &block, ldo) {
                        self.attend(&strip);
                    }
                }
            }
        }
    }

    /// Adds the keys of a block to the results of a strip.
    #[inline(always)]
    unsafe fn attend(&self, at: &StripBlock<'_>) {
        // SAFETY: the strip's rows and the block's keys are inside the scratch; `skipped` is whole panels.
        unsafe {
            // The factor that the scores still lack.
            let scale = match self.plan.scores {
                ScoreArithmetic::F32 => self.scores_f32(at),
                ScoreArithmetic::I8(_) => self.scores_i8(at),
                ScoreArithmetic::Bf16(products, bf16) => self.scores_bf16(products, bf16, at),
            };
            let masked = self.modify_scores(at);
            match self.plan.values {
                ValueArithmetic::F32 => self.values_f32(at, masked),
                ValueArithmetic::I16(_) => self.values_i16(at),
                ValueArithmetic::U8(_) => self.values_u8(at),
                ValueArithmetic::Bf16(products, bf16) => {
                    self.values_bf16(products, bf16, at, scale, masked);
                }
            }
        }
    }

    /// Applies softcap, ALiBi, masks and limits. Beside NaN or infinities in V, returns the masked keys, if any can be.
    #[inline(always)]
    unsafe fn modify_scores(&self, at: &StripBlock<'_>) -> Option<MaskedKeys<1>> {
        if !at.is_boundary && !self.score_mod.needs_score_pass {
            return None;
        }
        let scratch = self.scratch;
        // SAFETY: a strip of scores, and memory for a row of the mask.
        unsafe {
            self.score_mod.apply_strip(
                at.rows,
                at.strip,
                at.n_rows,
                at.first,
                at.n,
                scratch.s,
                scratch.row_buffer,
            );
            (!at.block.finite).then(|| {
                let masked = self.masked_keys();
                masked.record(scratch.s, at.n_rows, at.n);
                masked
            })
        }
    }

    #[inline(always)]
    unsafe fn scores_f32(&self, at: &StripBlock<'_>) -> f32 {
        let (scratch, kernels, d) = (self.scratch, self.kernels, self.problem.d);
        // SAFETY: as for `attend`.
        unsafe {
            let q = scratch.q.cast::<f32>().add(at.strip * d);
            let k = scratch.k.cast::<f32>().add(at.skipped * d);
            (kernels.qk_f32)(q, k, d, at.n_rows, self.key_panels(at), scratch.s);
        }
        1.0
    }

    #[inline(always)]
    unsafe fn scores_i8(&self, at: &StripBlock<'_>) -> f32 {
        let (scratch, kernels) = (self.scratch, self.kernels);
        let (d4, columns) = (self.problem.d.div_ceil(4), &at.block.scales);
        // SAFETY: as for `attend`.
        unsafe {
            let skip = |p: *const f32| if p.is_null() { p } else { p.add(at.skipped) };
            let scales = ScoreScales {
                col_bias: columns.col_bias.add(at.skipped),
                col_scale: skip(columns.col_scale),
                col_zero: skip(columns.col_zero),
                row_scale: scratch.row_scale.add(at.strip),
                row_sum: scratch.row_sum.add(at.strip),
                row_add: scratch.row_add.add(at.strip),
            };
            let q = scratch.q.add(at.strip * 4 * d4);
            let key_bytes = 4 * d4 * kernels.k_i8_bytes;
            let k = scratch.k.cast::<i8>().add(at.skipped * key_bytes);
            let panels = self.key_panels(at);
            (kernels.qk_i8)(q, k, d4, at.n_rows, panels, &scales, scratch.s);
        }
        1.0
    }

    #[inline(always)]
    unsafe fn values_f32(&self, at: &StripBlock<'_>, masked: Option<MaskedKeys<1>>) {
        let (scratch, kernels, nr) = (self.scratch, self.kernels, self.kernels.nr);
        // SAFETY: as for `attend`.
        unsafe {
            (kernels.softmax_f32)(scratch.s, at.n_rows, at.n, at.state);
            let v = scratch.v.cast::<f32>().add(at.skipped * nr);
            if let Some(masked) = masked {
                return self.pv_skip_masked(at, v, &masked);
            }
            let (packed, panels) = (at.block.n, at.ldo / nr);
            let (s, alpha, o) = (scratch.s, scratch.alpha, at.o);
            (kernels.pv_f32)(s, v, packed, at.n, at.n_rows, panels, alpha, o, at.ldo);
        }
    }

    #[inline(always)]
    unsafe fn values_i16(&self, at: &StripBlock<'_>) {
        let (scratch, kernels, nr) = (self.scratch, self.kernels, self.kernels.nr);
        let (p, p_scale): (*mut i16, _) = (scratch.p.cast(), scratch.p_scale);
        // SAFETY: as for `attend`.
        unsafe {
            for (first, count) in softmax_groups(at) {
                (kernels.softmax_i16)(
                    scratch.s.add(first * SCORE_LD),
                    count,
                    at.n,
                    at.state.from(first),
                    self.v_scales(at, first),
                    p.add(first * P16_LD),
                    p_scale.add(first),
                );
            }
            self.scale_p(at);
            let v = scratch.v.cast::<i16>().add(at.skipped * nr);
            (kernels.pv_i16)(
                p,
                v,
                at.block.n,
                at.n,
                at.n_rows,
                at.ldo / nr,
                scratch.alpha,
                p_scale,
                null(),
                at.o,
                at.ldo,
            );
        }
    }

    #[inline(always)]
    unsafe fn values_u8(&self, at: &StripBlock<'_>) {
        let (scratch, kernels, nr) = (self.scratch, self.kernels, self.kernels.nr);
        let (p, p_scale, p_sum) = (scratch.p, scratch.p_scale, scratch.p_sum);
        // SAFETY: as for `attend`.
        unsafe {
            for (first, count) in softmax_groups(at) {
                (kernels.softmax_u8)(
                    scratch.s.add(first * SCORE_LD),
                    count,
                    at.n,
                    at.state.from(first),
                    self.v_scales(at, first),
                    p.add(first * P8_LD),
                    p_scale.add(first),
                    p_sum.add(first),
                );
            }
            self.scale_p(at);
            let v = scratch.v.cast::<i8>().add(at.skipped * nr);
            (kernels.pv_u8)(
                p,
                v,
                at.block.n,
                at.n,
                at.n_rows,
                at.ldo / nr,
                scratch.alpha,
                p_scale,
                p_sum,
                at.block.v_zero,
                at.o,
                at.ldo,
            );
        }
    }

    /// Scales of V for the strip's row `row`, from the first key on: 0 for masked keys if some scales are not finite.
    unsafe fn v_scales(&self, at: &StripBlock<'_>, row: usize) -> *const f32 {
        if at.block.v_scale.is_null() {
            return null();
        }
        let scratch = self.scratch;
        // SAFETY: a row of scores, as many scales, and memory for a block's keys.
        unsafe {
            let scales = at.block.v_scale.add(at.skipped);
            if !at.block.non_finite_scales {
                return scales;
            }
            for j in 0..at.n {
                let masked = *scratch.s.add(row * SCORE_LD + j) == f32::NEG_INFINITY;
                *scratch.row_buffer.add(j) = if masked { 0.0 } else { *scales.add(j) };
            }
        }
        scratch.row_buffer
    }

    /// Multiplies the scales of P by the scale of V that all keys of the block share.
    unsafe fn scale_p(&self, at: &StripBlock<'_>) {
        // SAFETY: a scale per row of the strip.
        let scales = unsafe { std::slice::from_raw_parts_mut(self.scratch.p_scale, at.n_rows) };
        scales.iter_mut().for_each(|x| *x *= at.block.v_factor);
    }

    /// `pv_f32` without the products of masked keys. Slow, and rare.
    #[cold]
    unsafe fn pv_skip_masked(&self, at: &StripBlock<'_>, v: *const f32, masked: &MaskedKeys<1>) {
        let (scratch, nr) = (self.scratch, self.kernels.nr);
        for r in 0..at.n_rows {
            for c in 0..at.ldo {
                // SAFETY: as for `pv_f32`; masked keys were recorded for the strip.
                unsafe {
                    let o = at.o.add(r * at.ldo + c);
                    let column = v.add(c / nr * nr * at.block.n + c % nr);
                    let mut sum = *scratch.alpha.add(r) * *o;
                    for j in 0..at.n {
                        if masked.attends(r, j) {
                            sum += *scratch.s.add(r * SCORE_LD + j) * *column.add(j * nr);
                        }
                    }
                    *o = sum;
                }
            }
        }
    }
}

/// The rows of a strip that softmax takes at once, as first row and count. Where a scale of V is not finite, each row needs
/// scales of its own.
fn softmax_groups(at: &StripBlock<'_>) -> impl Iterator<Item = (usize, usize)> + use<> {
    let rows = at.n_rows;
    let step = if at.block.non_finite_scales { 1 } else { rows };
    (0..rows).step_by(step).map(move |first| (first, step))
}
