//! The products of a block of keys and a block of queries, as products of bf16 slices (eq. 52, 53; see [`mfa_kernels::bf16_split`]).
//!
//! ```text
//! for each strip of keys that is in the key range of any query of the block:
//!     S^T  = K Q^T, dP^T = V dO^T
//!     softcap, ALiBi, masks, limits         TransposedScoreMod
//!     P^T, dS^T                             softmax_gradient, which packs them as operands
//!     dV  += P^T dO
//!     dK  += dS^T Q
//! dQ^T = K^T dS^T, added to dQ
//! ```
//!
//! Where nothing is masked, a strip is one kernel.
//!
//! See eq. 23 of docs/math.md.

use super::block::{Accumulator, BlockCoords, GradSet};
use std::ptr::null_mut;

use super::block_pair::{BlockPair, clear};
use super::plan::{Bf16Plan, Bf16ProductSet};
use crate::operands::padding::padded;
use mfa_kernels::SCORE_LD;
use mfa_kernels::bf16_split::{Bf16Products, STEP, long_row_len, panel_len, row_len};
use mfa_kernels::gradient::{Bf16Accumulator, Bf16Factors, Bf16GradientStrip, Bf16Strip};

impl BlockPair<'_> {
    /// [`BlockPair::add`] on bf16 slices.
    pub(super) unsafe fn add_bf16(
        &self,
        bf16: Bf16Plan,
        coords: &BlockCoords<'_>,
        grads: GradSet,
        dq: Accumulator,
    ) {
        // SAFETY: strips and blocks of the scratch, which was laid out for them.
        unsafe {
            for strip in (0..coords.keys).step_by(STEP) {
                self.strip_bf16(bf16, coords, strip, grads);
            }
            if grads.dq {
                self.add_dq_bf16(bf16, coords, dq);
            }
        }
    }

    /// One strip of keys.
    unsafe fn strip_bf16(
        &self,
        bf16: Bf16Plan,
        coords: &BlockCoords<'_>,
        strip: usize,
        grads: GradSet,
    ) {
        let scratch = &self.scratch;
        let rows = STEP.min(coords.keys - strip);
        let within = self.in_range(coords, strip, rows, STEP);
        // SAFETY: a strip of the block's keys and whole steps of its queries, for which the scratch has workspace.
        unsafe {
            let (first, n) = match &within {
                Some((within, _)) => (within.i0 - coords.i0, within.n),
                None => (0, 0),
            };
            let wide = n.next_multiple_of(STEP);
            if grads.ds {
                let ds = scratch.ds.add(strip * SCORE_LD);
                clear(ds, rows, 0, first);
                clear(ds, rows, first + n, coords.n);
            }
            if grads.dq {
                let end = coords.n.next_multiple_of(STEP);
                self.clear_ds(bf16.products, coords, strip, 0, first);
                self.clear_ds(bf16.products, coords, strip, first + wide, end);
            }
            let Some((within, boundary)) = within else {
                return;
            };
            let mut call = self.strip_call(bf16, coords, [strip, first, wide], grads);
            let masked = boundary || self.score_mod.passes || rows < STEP;
            if !masked && grads.dp() && !grads.d && !grads.ds {
                return (bf16.gradient.strip)(&call);
            }
            let (s, dp, slope) = (scratch.s, call.strip.dp, scratch.slope);
            self.product_of_strip(bf16, &call.scores, wide, s);
            // Other kernels take scores in base 2; that of bf16 slices scales products itself.
            if self.score_mod.passes || grads.d || grads.ds {
                (bf16.gradient.scale_rows)(s, rows, n, call.strip.scale);
                call.strip.scale = 1.0;
            }
            if boundary || self.score_mod.passes {
                let mask = scratch.mask.wrapping_add(strip * SCORE_LD + first);
                self.score_mod.strip(&within, s, slope, mask);
            }
            if grads.dp() {
                self.product_of_strip(bf16, &call.dp, wide, dp);
            }
            let (l, d) = (call.strip.l, scratch.d.add(first));
            if grads.d {
                return (self.kernels.gradient.weighted_sums)(s, dp, rows, n, l, d);
            }
            if grads.ds {
                return (self.kernels.gradient.softmax_gradient)(s, dp, rows, n, l, d);
            }
            for row in rows..STEP {
                std::slice::from_raw_parts_mut(s.add(row * SCORE_LD), wide).fill(f32::NEG_INFINITY);
            }
            let (p_slices, ds_slices) = (call.dv.terms.slices_of_a(), call.dk.terms.slices_of_a());
            (bf16.gradient.softmax_gradient)(
                &call.strip,
                if grads.dv { p_slices } else { 0 },
                if grads.dp() { ds_slices } else { 0 },
                masked,
            );
            for (sum, a, lda) in [
                (&call.dv, call.strip.p, call.strip.ldp),
                (&call.dk, call.strip.ds, call.strip.ldds),
            ] {
                if !sum.out.is_null() {
                    let (terms, b, steps) = (sum.terms, sum.b, wide / STEP);
                    let (panel, panels, o, ld) = (sum.panel, sum.panels, sum.out, sum.ld);
                    let product = bf16.kernels.product;
                    product(terms, a, lda, b, panel, steps, STEP, panels, true, o, ld);
                }
            }
        }
    }

    /// The operands and results of a strip and `n` queries from `first` on.
    unsafe fn strip_call(
        &self,
        bf16: Bf16Plan,
        coords: &BlockCoords<'_>,
        [strip, first, n]: [usize; 3],
        grads: GradSet,
    ) -> Bf16GradientStrip {
        let (problem, scratch, products) = (&self.call.problem, &self.scratch, bf16.products);
        let (operands, weights) = (&scratch.bf16, &scratch.weights);
        let (p_slices, ds_slices) = (products.p.slices_of_a(), products.ds.slices_of_a());
        let if_wanted = |wanted: bool, ptr: *mut u16| if wanted { ptr } else { null_mut() };
        let panel = panel_len(coords.keys, ds_slices, STEP);
        let step = first / STEP * panel + panel_len(strip, ds_slices, STEP);
        // SAFETY: as for `strip_bf16`.
        unsafe {
            let factors =
                |terms: Bf16Products, columns: usize, a: *mut u16, b: *mut u16| Bf16Factors {
                    terms,
                    columns,
                    a: a.add(strip * row_len(columns, terms.slices_of_a())),
                    b: b.add(panel_len(columns, terms.slices_of_b(), STEP) * (first / STEP)),
                };
            let sum = |wanted, terms: Bf16Products, columns: usize, b: *mut u16, out: *mut f32| {
                let (slices, ld) = (terms.slices_of_b(), padded(columns, self.kernels));
                Bf16Accumulator {
                    terms,
                    b: b.add(panel_len(first, slices, STEP)),
                    panel: panel_len(coords.n, slices, STEP),
                    panels: ld / STEP,
                    out: if wanted {
                        out.add(strip * ld)
                    } else {
                        null_mut()
                    },
                    ld,
                }
            };
            Bf16GradientStrip {
                strip: Bf16Strip {
                    s: scratch.s,
                    dp: match grads.ds {
                        true => scratch.ds.add(strip * SCORE_LD + first),
                        false => scratch.ds,
                    },
                    n,
                    scale: problem.options.factor(),
                    l: scratch.l.add(first),
                    d: scratch.d.add(first),
                    slope: if problem.options.caps() {
                        scratch.slope
                    } else {
                        null_mut()
                    },
                    p: weights.p,
                    ldp: long_row_len(n, p_slices),
                    ds: if_wanted(grads.dk, weights.ds),
                    ldds: long_row_len(n, ds_slices),
                    columns: if_wanted(grads.dq, weights.ds_columns.wrapping_add(step)),
                    panel,
                },
                scores: factors(products.scores, problem.d, operands.k, operands.q_columns),
                dp: factors(products.dp, problem.dv, operands.v, operands.do_columns),
                dv: sum(
                    grads.dv,
                    products.p,
                    problem.dv,
                    operands.do_panels,
                    scratch.dv,
                ),
                dk: sum(
                    grads.dk,
                    products.ds,
                    problem.d,
                    operands.q_panels,
                    scratch.dk,
                ),
            }
        }
    }

    /// The products of a strip and `n` queries.
    unsafe fn product_of_strip(&self, bf16: Bf16Plan, of: &Bf16Factors, n: usize, out: *mut f32) {
        let (terms, a, b) = (of.terms, of.a, of.b);
        let lda = row_len(of.columns, terms.slices_of_a());
        let panel = panel_len(of.columns, terms.slices_of_b(), STEP);
        let (steps, panels) = (of.columns.div_ceil(STEP), n / STEP);
        // SAFETY: as for `strip_bf16`.
        unsafe {
            (bf16.kernels.product)(
                terms, a, lda, b, panel, steps, STEP, panels, false, out, SCORE_LD,
            );
        }
    }

    /// Zeroes dS of a strip and the queries `from..to`, which are whole steps.
    unsafe fn clear_ds(
        &self,
        products: Bf16ProductSet,
        coords: &BlockCoords<'_>,
        strip: usize,
        from: usize,
        to: usize,
    ) {
        let slices = products.ds.slices_of_b();
        for query in (from..to).step_by(STEP) {
            let panel = query / STEP * panel_len(coords.keys, slices, STEP);
            let at = panel + panel_len(strip, slices, STEP);
            // SAFETY: a step of a panel of the block.
            unsafe {
                let step = self.scratch.weights.ds_columns.add(at);
                step.write_bytes(0, panel_len(STEP, slices, STEP));
            }
        }
    }

    /// Adds the keys of the block to dQ of its queries.
    unsafe fn add_dq_bf16(&self, bf16: Bf16Plan, coords: &BlockCoords<'_>, dq: Accumulator) {
        let (problem, scratch) = (&self.call.problem, &self.scratch.bf16);
        let (d, terms) = (problem.d, bf16.products.ds);
        let lda = long_row_len(coords.keys, terms.slices_of_a());
        let panel = panel_len(coords.keys, terms.slices_of_b(), STEP);
        // The range of key steps of a step of queries.
        let key_steps = |at: usize| {
            let (i, rows) = (coords.i0 + at, STEP.min(coords.n - at));
            let (options, end) = (&problem.options, coords.j0 + coords.keys);
            let from = options.key_range(coords.sequence, i).0;
            let to = options.key_range(coords.sequence, i + rows - 1).1;
            let from = from.clamp(coords.j0, end) - coords.j0;
            let to = to.clamp(coords.j0, end) - coords.j0;
            (from / STEP, to.div_ceil(STEP))
        };
        let mut at = 0;
        while at < coords.n {
            let (from, to) = key_steps(at);
            let mut end = at + STEP;
            while end < coords.n && key_steps(end) == (from, to) {
                end += STEP;
            }
            if from < to {
                let (steps, panels) = (to - from, (end - at) / STEP);
                // SAFETY: steps of the block, and rows of its dQ.
                unsafe {
                    let skipped = from * STEP;
                    let b = self.scratch.weights.ds_columns.add(at / STEP * panel);
                    let b = b.add(panel_len(skipped, terms.slices_of_b(), STEP));
                    for c in (0..d).step_by(STEP) {
                        let a = scratch.k_transposed.add(c * lda);
                        let a = a.add(row_len(skipped, terms.slices_of_a()));
                        let (o, rows) = (scratch.dq.add(c * SCORE_LD), STEP.min(d - c));
                        let product = bf16.kernels.product;
                        product(
                            terms, a, lda, b, panel, steps, rows, panels, false, o, SCORE_LD,
                        );
                    }
                    let (rows, sum) = (end.min(coords.n) - at, dq.ptr.add(at * dq.ld));
                    (bf16.gradient.add_transposed)(scratch.dq, SCORE_LD, rows, d, sum, dq.ld);
                }
            }
            at = end;
        }
    }
}
