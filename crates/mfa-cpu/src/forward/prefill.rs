//! Prefill: a tile of query rows against blocks of packed keys.
//!
//! ```text
//! pack the tile's Q                                  once
//! for each block of keys that any row sees:
//!     pack K and V                                   into this worker's scratch: a block, never the whole
//!     for each strip of mr rows that sees any of it:
//!         scores = Q Kᵀ                              qk_*
//!         softcap, ALiBi, masks, limits              ScoreMod
//!         P, running max and sum                     softmax_*
//!         O = alpha O + P V                          pv_*
//! ```
//!
//! Packing a block costs each tile a few percent of the block's products, for the rows that the plan gives a tile (the benches of
//! kernels have both). In return workers share nothing, need no barrier, and take memory that is
//! independent of the sequence's length, which panels shared by all tiles would not be. Nor are those faster where a head is
//! cut into many tiles (N 512 on two threads): what one core has packed, the other gets no sooner than it packs it itself.
//!
//! Products of floats as sums of products of bf16 parts: see [`super::bf16_split`].

use std::ptr::null;

use crate::contract::problem::Problem;
use crate::forward::block_sizes::{bytes_of_k, bytes_of_q, bytes_of_v};
use crate::forward::pack::Block;
use crate::forward::plan::ForwardPlan;
use crate::forward::schedule::{TileRows, WorkTile};
use crate::forward::score_mod::ScoreMod;
use crate::operands::arithmetic::{Scores, Values};
use crate::operands::dequantize::Domain;
use crate::operands::padding::padded;
use crate::runtime::memory::Arena;
use mfa_kernels::TileConfigGuard;
use mfa_kernels::bf16_split::long_row_len;
use mfa_kernels::{BLOCK_N, Kernels, P8_LD, P16_LD, RowState, SCORE_LD, ScoreScales};

/// A worker's memory for a tile. Every pointer is 64-byte aligned.
pub(super) struct Scratch {
    /// Packed Q of the tile.
    pub q: *mut u8,
    /// Unnormalised O of the tile, `ldo` apart.
    pub o: *mut f32,
    /// Running maximum and sum, per row of the tile.
    pub m: *mut f32,
    pub l: *mut f32,
    /// See [`RowState::left`].
    pub left: *mut f32,
    pub row_scale: *mut f32,
    pub row_sum: *mut f32,
    pub row_add: *mut f32,
    /// Packed K and V of the block.
    pub k: *mut u8,
    pub v: *mut u8,
    /// Expanded rows, before packing.
    pub rows: *mut u8,
    pub s: *mut f32,
    pub p: *mut u8,
    pub alpha: *mut f32,
    pub p_scale: *mut f32,
    pub p_sum: *mut i32,
    pub sums: *mut i32,
    pub col_bias: *mut i32,
    pub col_scale: *mut f32,
    pub col_zero: *mut f32,
    pub v_scale: *mut f32,
    pub v_zero: *mut i32,
    /// A row of the mask; scales of V's columns.
    pub row_buffer: *mut f32,
    pub masked: *mut u8,
    /// For each strip, whether it sees none of the block's keys.
    pub fully_masked: *mut bool,
}

impl Scratch {
    pub(super) fn allocate(
        arena: &mut Arena,
        problem: &Problem,
        plan: &ForwardPlan,
        kernels: &Kernels,
    ) -> Self {
        let ldo = padded(problem.dv, kernels);
        let tile = plan.tile_rows;
        let widest = problem.d.max(problem.dv).next_multiple_of(16);
        // A whole number of panels of K, and of steps of each kernel along V.
        let keys = plan.block_keys.next_multiple_of(kernels.nr);
        let p_bytes = match plan.values {
            Values::F32 => 0,
            Values::I16 => 2 * P16_LD,
            Values::U8 => P8_LD,
            Values::Bf16(terms) => 2 * long_row_len(keys, terms.slices_of_a()),
        };
        let row_bytes = 4 * widest * plan.block_keys.max(kernels.mr);
        Scratch {
            q: arena.alloc(tile * bytes_of_q(plan.scores, problem.d)),
            o: arena.alloc(tile * ldo),
            m: arena.alloc(tile),
            l: arena.alloc(tile),
            left: arena.alloc(tile),
            row_scale: arena.alloc(tile),
            row_sum: arena.alloc(tile),
            row_add: arena.alloc(tile),
            k: arena.alloc(keys * bytes_of_k(plan.scores, problem.d)),
            v: arena.alloc(keys * bytes_of_v(plan.values, ldo)),
            rows: arena.alloc(row_bytes),
            s: arena.alloc(kernels.mr * SCORE_LD),
            p: arena.alloc(kernels.mr * p_bytes),
            alpha: arena.alloc(kernels.mr),
            p_scale: arena.alloc(kernels.mr),
            p_sum: arena.alloc(kernels.mr),
            sums: arena.alloc(BLOCK_N.max(tile)),
            col_bias: arena.alloc(BLOCK_N),
            col_scale: arena.alloc(BLOCK_N),
            col_zero: arena.alloc(BLOCK_N),
            v_scale: arena.alloc(BLOCK_N),
            v_zero: arena.alloc(BLOCK_N),
            row_buffer: arena.alloc(BLOCK_N.max(ldo)),
            masked: arena.alloc(kernels.mr * BLOCK_N),
            fully_masked: arena.alloc(tile.div_ceil(kernels.mr)),
        }
    }
}

/// The loops of one item.
pub(super) struct Tile<'a> {
    pub problem: &'a Problem,
    pub plan: &'a ForwardPlan,
    pub kernels: &'a Kernels,
    pub bias: &'a ScoreMod<'a>,
    pub scratch: &'a Scratch,
}

impl Tile<'_> {
    /// Computes the item's unnormalised O, maxima and sums into the scratch.
    ///
    /// # Safety
    /// The scratch was laid out for this problem and plan, and belongs to the calling worker.
    pub(super) unsafe fn run(&self, item: &WorkTile) {
        let (scratch, rows) = (self.scratch, &item.rows);
        let ldo = padded(self.problem.dv, self.kernels);
        let mr = self.kernels.mr;
        let options = &self.problem.options;
        let padded_rows = rows.len().next_multiple_of(mr);
        let _tile_config = TileConfigGuard::new(self.kernels);
        // SAFETY: everything stays inside the scratch, whose sizes follow from the plan; tensors were checked.
        unsafe {
            scratch.o.write_bytes(0, padded_rows * ldo);
            std::slice::from_raw_parts_mut(scratch.m, padded_rows).fill(f32::NEG_INFINITY);
            scratch.l.write_bytes(0, padded_rows);
            scratch.left.write_bytes(0, padded_rows);
            let (low, high) = rows.span(0, rows.len());
            let lo = options
                .key_range(&rows.sequence, low)
                .0
                .max(item.keys.start);
            let hi = options.key_range(&rows.sequence, high).1.min(item.keys.end);
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
            // Blocks start at multiples of their size, whatever the window, so that blocks of scales are not straddled.
            for first in (lo - lo % step..hi).step_by(step) {
                let end = (first + step).min(hi);
                let strips = (0..rows.len()).step_by(mr);
                let masked = std::slice::from_raw_parts_mut(scratch.fully_masked, strips.len());
                for (strip, masked) in strips.clone().zip(masked.iter_mut()) {
                    let to = (strip + mr).min(rows.len());
                    *masked = self.bias.masks_all(rows, strip, to, first..end);
                }
                if masked.iter().all(|masked| *masked) {
                    continue;
                }
                let block = self.pack_block(rows, first..end, k_domain, v_domain, packed.finite);
                for (strip, masked) in strips.zip(masked.iter()) {
                    if !masked {
                        self.strip(rows, strip, &block, ldo);
                    }
                }
            }
        }
    }

    /// One strip against one block.
    unsafe fn strip(&self, rows: &TileRows, strip: usize, block: &Block, ldo: usize) {
        let (problem, kernels, scratch) = (self.problem, self.kernels, self.scratch);
        let (options, sequence) = (&problem.options, &rows.sequence);
        let (mr, nr) = (kernels.mr, kernels.nr);
        let n_rows = mr.min(rows.len() - strip);
        let end = block.first + block.n;
        // Keys that any row of the strip sees, and whether some row does not see some of them.
        let (low, high) = rows.span(strip, strip + n_rows);
        let (lo, lo_last) = (
            options.key_range(sequence, low),
            options.key_range(sequence, high),
        );
        let from = lo.0.clamp(block.first, end);
        let to = lo_last.1.clamp(block.first, end);
        if from >= to {
            return;
        }
        let skipped = (from - block.first) / nr * nr;
        let first = block.first + skipped;
        let n = to - first;
        let boundary = first < lo_last.0 || to > lo.1;
        let panels = n.div_ceil(nr);
        // SAFETY: the strip's rows and the block's keys are inside the scratch arrays; `skipped` is a whole panel.
        unsafe {
            let (m, l) = (scratch.m.add(strip), scratch.l.add(strip));
            let state = RowState {
                m,
                l,
                alpha: scratch.alpha,
                left: scratch.left.add(strip),
            };
            let o = scratch.o.add(strip * ldo);
            // What the scores are still to be multiplied by, to be in base 2.
            let mut scale = 1.0;
            match self.plan.scores {
                Scores::Bf16(terms) => {
                    self.scores_bf16(terms, strip, skipped, n_rows, panels, block);
                    scale = self.factor().on_s;
                }
                Scores::F32 => {
                    let (q, k) = (scratch.q.cast::<f32>(), scratch.k.cast::<f32>());
                    (kernels.qk_f32)(
                        q.add(strip * problem.d),
                        k.add(skipped * problem.d),
                        problem.d,
                        n_rows,
                        panels,
                        scratch.s,
                    );
                }
                Scores::I8 => {
                    let d4 = problem.d.div_ceil(4);
                    let after = |p: *const f32| if p.is_null() { p } else { p.add(skipped) };
                    let scales = ScoreScales {
                        col_bias: block.scales.col_bias.add(skipped),
                        col_scale: after(block.scales.col_scale),
                        col_zero: after(block.scales.col_zero),
                        row_scale: scratch.row_scale.add(strip),
                        row_sum: scratch.row_sum.add(strip),
                        row_add: scratch.row_add.add(strip),
                    };
                    let (q, k) = (scratch.q, scratch.k.cast::<i8>());
                    (kernels.qk_i8)(
                        q.add(strip * 4 * d4),
                        k.add(skipped * 4 * d4),
                        d4,
                        n_rows,
                        panels,
                        &scales,
                        scratch.s,
                    );
                }
            }
            let non_finite = !block.finite && matches!(self.plan.values, Values::Bf16(_));
            if scale != 1.0 && (self.bias.passes || non_finite) {
                self.multiply(scale, n_rows, panels);
                scale = 1.0;
            }
            if boundary || self.bias.passes {
                let place = |r: usize| rows.head_and_row(strip + r);
                self.bias.strip(
                    sequence,
                    n_rows,
                    place,
                    first,
                    n,
                    scratch.s,
                    scratch.row_buffer,
                );
            }
            let skip_masked = !block.finite && (boundary || self.bias.passes);
            if skip_masked {
                self.record_masked(n_rows, n);
            }
            let panels = ldo / nr;
            let v_scale = if block.v_scale.is_null() {
                null()
            } else {
                block.v_scale.add(skipped)
            };
            match self.plan.values {
                Values::Bf16(terms) if non_finite => {
                    if !skip_masked {
                        scratch.masked.write_bytes(0, mr * BLOCK_N);
                    }
                    (kernels.softmax_f32)(scratch.s, n_rows, n, state);
                    self.values_non_finite(terms, skipped, block, n_rows, n, o, ldo);
                }
                Values::Bf16(terms) => {
                    self.values_bf16(terms, skipped, block, n_rows, n, state, scale, o, ldo);
                }
                Values::F32 => {
                    (kernels.softmax_f32)(scratch.s, n_rows, n, state);
                    let v = scratch.v.cast::<f32>().add(skipped * nr);
                    if skip_masked {
                        self.pv_skip_masked(v, block.n, n_rows, n, o, ldo);
                    } else {
                        (kernels.pv_f32)(
                            scratch.s,
                            v,
                            block.n,
                            n,
                            n_rows,
                            panels,
                            scratch.alpha,
                            o,
                            ldo,
                        );
                    }
                }
                Values::I16 => {
                    let p: *mut i16 = scratch.p.cast();
                    for (first, count) in self.softmax_groups(block, n_rows) {
                        let v_scale = self.unmasked_scales(block, first, v_scale, n);
                        (kernels.softmax_i16)(
                            scratch.s.add(first * SCORE_LD),
                            count,
                            n,
                            state.from(first),
                            v_scale,
                            p.add(first * P16_LD),
                            scratch.p_scale.add(first),
                        );
                    }
                    self.scale_p(n_rows, block.v_factor);
                    let v = scratch.v.cast::<i16>().add(skipped * nr);
                    let (alpha, p_scale) = (scratch.alpha, scratch.p_scale);
                    (kernels.pv_i16)(
                        p,
                        v,
                        block.n,
                        n,
                        n_rows,
                        panels,
                        alpha,
                        p_scale,
                        null(),
                        o,
                        ldo,
                    );
                }
                Values::U8 => {
                    let (p, p_scale, p_sum) = (scratch.p, scratch.p_scale, scratch.p_sum);
                    for (first, count) in self.softmax_groups(block, n_rows) {
                        let v_scale = self.unmasked_scales(block, first, v_scale, n);
                        (kernels.softmax_u8)(
                            scratch.s.add(first * SCORE_LD),
                            count,
                            n,
                            state.from(first),
                            v_scale,
                            p.add(first * P8_LD),
                            p_scale.add(first),
                            p_sum.add(first),
                        );
                    }
                    self.scale_p(n_rows, block.v_factor);
                    let v = scratch.v.cast::<i8>().add(skipped * nr);
                    let zero = block.v_zero;
                    (kernels.pv_u8)(
                        p,
                        v,
                        block.n,
                        n,
                        n_rows,
                        panels,
                        scratch.alpha,
                        p_scale,
                        p_sum,
                        zero,
                        o,
                        ldo,
                    );
                }
            }
        }
    }

    /// The rows of a strip that softmax takes at once: all of them, but where scales of V must be looked at row by row.
    fn softmax_groups(
        &self,
        block: &Block,
        rows: usize,
    ) -> impl Iterator<Item = (usize, usize)> + use<> {
        let step = if block.non_finite_scales { 1 } else { rows };
        (0..rows).step_by(step).map(move |first| (first, step))
    }

    /// Scales of V for a row of scores: without those of keys that it does not see, if some are not finite.
    unsafe fn unmasked_scales(
        &self,
        block: &Block,
        row: usize,
        scales: *const f32,
        n: usize,
    ) -> *const f32 {
        if !block.non_finite_scales {
            return scales;
        }
        let scratch = self.scratch;
        // SAFETY: a row of scores, as many scales, and a line that holds a block's keys.
        unsafe {
            for j in 0..n {
                let masked = *scratch.s.add(row * SCORE_LD + j) == f32::NEG_INFINITY;
                *scratch.row_buffer.add(j) = if masked { 0.0 } else { *scales.add(j) };
            }
        }
        scratch.row_buffer
    }

    /// Multiplies the scales of a strip of P.
    unsafe fn scale_p(&self, rows: usize, factor: f32) {
        // SAFETY: a scale per row of the strip.
        let scales = unsafe { std::slice::from_raw_parts_mut(self.scratch.p_scale, rows) };
        scales.iter_mut().for_each(|x| *x *= factor);
    }

    /// Remembers which scores are masked, before softmax makes them 0.
    unsafe fn record_masked(&self, rows: usize, n: usize) {
        for r in 0..rows {
            for j in 0..n {
                // SAFETY: a strip of scores, and as many flags.
                unsafe {
                    let masked = *self.scratch.s.add(r * SCORE_LD + j) == f32::NEG_INFINITY;
                    *self.scratch.masked.add(r * BLOCK_N + j) = u8::from(masked);
                }
            }
        }
    }

    /// `pv_f32` where V holds NaN or infinities and some keys are masked: 0 times NaN must not reach the rows that do not
    /// see that key. Slow, and rare.
    unsafe fn pv_skip_masked(
        &self,
        v: *const f32,
        packed: usize,
        rows: usize,
        n: usize,
        o: *mut f32,
        ldo: usize,
    ) {
        let (scratch, nr) = (self.scratch, self.kernels.nr);
        for r in 0..rows {
            for c in 0..ldo {
                // SAFETY: as for `pv_f32`.
                unsafe {
                    let at = o.add(r * ldo + c);
                    let column = v.add(c / nr * nr * packed + c % nr);
                    let mut sum = *scratch.alpha.add(r) * *at;
                    for j in 0..n {
                        if *scratch.masked.add(r * BLOCK_N + j) == 0 {
                            sum += *scratch.s.add(r * SCORE_LD + j) * *column.add(j * nr);
                        }
                    }
                    *at = sum;
                }
            }
        }
    }
}
