//! The products of a block of keys and a block of queries, as products of parts (see [`mfa_kernels::bf16_split`]).
//!
//! ```text
//! for each strip of keys that any query of the block sees:
//!     S^T  = K Q^T, dP^T = V dO^T
//!     softcap, ALiBi, masks, limits         TransposedScoreMod
//!     P^T, dS^T                             softmax_gradient, whose results are operands of what follows
//!     dV  += P^T dO
//!     dK  += dS^T Q
//! dQ^T = K^T dS^T, added to dQ
//! ```
//!
//! Where nothing is masked, all that a strip does is one kernel.

use super::block_pair::{Accumulator, BlockCoords, GradSet};
use std::ptr::null_mut;

use super::pack::{PackedKeys, PackedQueries};
use super::plan::Products;
use super::products::{BlockPair, clear};
use crate::contract::sequences::Sequence;
use crate::contract::tensor::Tensor;
use crate::operands::padding::padded;
use mfa_kernels::Precision;
use mfa_kernels::SCORE_LD;
use mfa_kernels::bf16_split::{
    Bf16Kernels, Bf16Products, FloatRows, STEP, long_row_len, panel_len, row_len,
};
use mfa_kernels::gradient::{
    Bf16Accumulator, Bf16Factors, Bf16GradientKernels, Bf16GradientStrip, Bf16Strip,
};

/// Kernels and products of a plan that has them.
#[derive(Clone, Copy)]
struct Bf16Plan<'a> {
    parts: &'a Bf16Kernels,
    gradient: Bf16GradientKernels,
    products: Products,
}

/// Below this, a number may have parts below 2^-126, which a bf16 for bf16 takes for 0.
const SMALL: f32 = f32::from_bits((127 - 100) << 23);
/// The same for what is a product of two: dP, and what becomes of it.
const SMALL_PRODUCT: f32 = f32::from_bits((127 - 80) << 23);

/// Whether two blocks are packed as parts, and their gradients too are far enough from the smallest numbers.
pub(super) fn splits_exactly(queries: &PackedQueries, keys: &PackedKeys) -> bool {
    let (Some([q, grad]), Some([k, v])) = (queries.bf16_max, keys.bf16_max) else {
        return false;
    };
    let large = |x: f32| x == 0.0 || x >= SMALL;
    [q, grad, k, v].into_iter().all(large) && (grad == 0.0 || v == 0.0 || grad * v >= SMALL_PRODUCT)
}

/// The largest magnitude of rows of a tensor; 1 where none is too small for [`splits_exactly`]: FP16 ends at 2^-24.
unsafe fn max_abs(bf16: Bf16Plan<'_>, tensor: &Tensor, rows: FloatRows, n: usize) -> f32 {
    if tensor.precision == Precision::F16 {
        return 1.0;
    }
    // SAFETY: `n` rows of the tensor, by the caller.
    unsafe { (bf16.gradient.max_abs)(rows, n, tensor.shape[3]) }
}

/// Packs all strips of `n` rows; returns whether all floats are finite.
unsafe fn pack_strips(
    pack: &Bf16Kernels,
    parts: usize,
    rows: FloatRows,
    n: usize,
    columns: usize,
    out: *mut u16,
) -> bool {
    let mut finite = true;
    for strip in (0..n).step_by(STEP) {
        // SAFETY: rows and room for them, by the caller.
        unsafe {
            let (from, count) = (rows.from(strip, 0), STEP.min(n - strip));
            let out = out.add(strip * row_len(columns, parts));
            finite &= (pack.pack_rows)(parts, from, count, columns, out);
        }
    }
    finite
}

impl<'a> BlockPair<'a> {
    fn bf16(&self) -> Option<Bf16Plan<'a>> {
        Some(Bf16Plan {
            parts: self.kernels.bf16.as_ref()?,
            gradient: self.kernels.gradient.bf16?,
            products: self.plan.products?,
        })
    }

    /// Packs a block of queries as parts; returns the largest magnitudes if they are finite.
    pub(super) unsafe fn pack_query_bf16(
        &self,
        sequence: &Sequence,
        block: &PackedQueries,
        want: GradSet,
    ) -> Option<[f32; 2]> {
        let bf16 = self.bf16()?;
        // What is not packed is of no account.
        let mut largest = [1.0; 2];
        let (call, scratch, n) = (self.call, &self.scratch.bf16, block.n);
        let (d, dv) = (call.problem.d, call.problem.dv);
        let (at, row) = ((sequence.batch, block.head), sequence.q0 + block.first);
        let (pack, products) = (bf16.parts, bf16.products);
        // SAFETY: a block's rows, inside the tensor, and room for their parts.
        unsafe {
            let rows = self.float_rows(&call.problem.q, at, row, n);
            largest[0] = max_abs(bf16, &call.problem.q, rows, n);
            let parts = products.scores.slices_of_b();
            let mut finite = (pack.pack_columns)(parts, rows, n, d, scratch.q_columns);
            if want.dk {
                let parts = products.ds.slices_of_b();
                finite &= (pack.pack_panels)(parts, rows, n, d, scratch.q_panels);
            }
            if !want.dp() && !want.dv {
                return finite.then_some(largest);
            }
            let rows = self.float_rows(&call.grad_output, at, row, n);
            largest[1] = max_abs(bf16, &call.grad_output, rows, n);
            if want.dp() {
                let parts = products.dp.slices_of_b();
                finite &= (pack.pack_columns)(parts, rows, n, dv, scratch.do_columns);
            }
            if want.dv {
                let parts = products.p.slices_of_b();
                finite &= (pack.pack_panels)(parts, rows, n, dv, scratch.do_panels);
            }
            finite.then_some(largest)
        }
    }

    /// Packs a block of keys as parts; returns the largest magnitudes if they are finite.
    pub(super) unsafe fn pack_key_bf16(
        &self,
        sequence: &Sequence,
        kv_head: usize,
        block: &PackedKeys,
        want: GradSet,
    ) -> Option<[f32; 2]> {
        let bf16 = self.bf16()?;
        // What is not packed is of no account.
        let mut largest = [1.0; 2];
        let (problem, scratch, n) = (&self.call.problem, &self.scratch.bf16, block.n);
        let (d, dv) = (problem.d, problem.dv);
        let (at, row) = ((sequence.batch, kv_head), sequence.k0 + block.first);
        let (pack, products) = (bf16.parts, bf16.products);
        let mut finite = true;
        // SAFETY: a block's rows, inside the tensor, and room for their parts.
        unsafe {
            let rows = self.float_rows(&problem.k, at, row, n);
            largest[0] = max_abs(bf16, &problem.k, rows, n);
            let parts = products.scores.slices_of_a();
            finite &= pack_strips(pack, parts, rows, n, d, scratch.k);
            if want.dq {
                let parts = products.ds.slices_of_a();
                for c in (0..d).step_by(STEP) {
                    let out = scratch.k_transposed.add(c * long_row_len(n, parts));
                    let columns = STEP.min(d - c);
                    let from = rows.from(0, c);
                    finite &= (pack.pack_transposed)(parts, from, n, columns, out);
                }
            }
            if want.dp() {
                let rows = self.float_rows(&problem.v, at, row, n);
                largest[1] = max_abs(bf16, &problem.v, rows, n);
                let parts = products.dp.slices_of_a();
                finite &= pack_strips(pack, parts, rows, n, dv, scratch.v);
            }
        }
        finite.then_some(largest)
    }

    /// [`BlockPair::add`] on parts.
    pub(super) unsafe fn add_bf16(&self, coords: &BlockCoords<'_>, want: GradSet, dq: Accumulator) {
        let Some(bf16) = self.bf16() else {
            return;
        };
        // SAFETY: strips and blocks of the scratch, which was laid out for them.
        unsafe {
            for strip in (0..coords.keys).step_by(STEP) {
                self.strip_of_parts(bf16, coords, strip, want);
            }
            if want.dq {
                self.add_dq_parts(bf16, coords, dq);
            }
        }
    }

    /// One strip of keys.
    unsafe fn strip_of_parts(
        &self,
        bf16: Bf16Plan<'_>,
        coords: &BlockCoords<'_>,
        strip: usize,
        want: GradSet,
    ) {
        let scratch = &self.scratch;
        let rows = STEP.min(coords.keys - strip);
        let seen = self.in_range(coords, strip, rows, STEP);
        // SAFETY: a strip of the block's keys and whole steps of its queries, for which the scratch has room.
        unsafe {
            let (first, n) = match &seen {
                Some((seen, _)) => (seen.i0 - coords.i0, seen.n),
                None => (0, 0),
            };
            let wide = n.next_multiple_of(STEP);
            if want.ds {
                let ds = scratch.ds.add(strip * SCORE_LD);
                clear(ds, rows, 0, first);
                clear(ds, rows, first + n, coords.n);
            }
            if want.dq {
                let end = coords.n.next_multiple_of(STEP);
                self.clear_ds(bf16.products, coords, strip, 0, first);
                self.clear_ds(bf16.products, coords, strip, first + wide, end);
            }
            let Some((seen, boundary)) = seen else {
                return;
            };
            let mut call = self.strip_call(bf16, coords, [strip, first, wide], want);
            let masked = boundary || self.bias.passes || rows < STEP;
            if !masked && want.dp() && !want.d && !want.ds {
                return (bf16.gradient.strip)(&call);
            }
            let (s, dp, slope) = (scratch.s, call.strip.dp, scratch.slope);
            self.product_of_strip(bf16, &call.scores, wide, s);
            // Other kernels take scores in base 2; that of parts turns products into them.
            if self.bias.passes || want.d || want.ds {
                (bf16.gradient.scale_rows)(s, rows, n, call.strip.scale);
                call.strip.scale = 1.0;
            }
            if boundary || self.bias.passes {
                let mask = scratch.mask.wrapping_add(strip * SCORE_LD + first);
                self.bias.strip(&seen, s, slope, mask);
            }
            if want.dp() {
                self.product_of_strip(bf16, &call.dp, wide, dp);
            }
            let (l, d) = (call.strip.l, scratch.d.add(first));
            if want.d {
                return (self.kernels.gradient.weighted_sums)(s, dp, rows, n, l, d);
            }
            if want.ds {
                return (self.kernels.gradient.softmax_gradient)(s, dp, rows, n, l, d);
            }
            for row in rows..STEP {
                std::slice::from_raw_parts_mut(s.add(row * SCORE_LD), wide).fill(f32::NEG_INFINITY);
            }
            let (p_parts, ds_parts) = (call.dv.terms.slices_of_a(), call.dk.terms.slices_of_a());
            (bf16.gradient.softmax_gradient)(
                &call.strip,
                if want.dv { p_parts } else { 0 },
                if want.dp() { ds_parts } else { 0 },
                masked,
            );
            for (sum, a, lda) in [
                (&call.dv, call.strip.p, call.strip.ldp),
                (&call.dk, call.strip.ds, call.strip.ldds),
            ] {
                if !sum.out.is_null() {
                    let (terms, b, steps) = (sum.terms, sum.b, wide / STEP);
                    let (panel, panels, o, ld) = (sum.panel, sum.panels, sum.out, sum.ld);
                    let product = bf16.parts.product;
                    product(terms, a, lda, b, panel, steps, STEP, panels, true, o, ld);
                }
            }
        }
    }

    /// What a strip and `n` queries from `first` on are multiplied by, and where the results go.
    unsafe fn strip_call(
        &self,
        bf16: Bf16Plan<'_>,
        coords: &BlockCoords<'_>,
        [strip, first, n]: [usize; 3],
        want: GradSet,
    ) -> Bf16GradientStrip {
        let (problem, scratch, products) = (&self.call.problem, &self.scratch, bf16.products);
        let (parts, weights) = (&scratch.bf16, &scratch.weights);
        let (p_parts, ds_parts) = (products.p.slices_of_a(), products.ds.slices_of_a());
        let if_wanted = |wanted: bool, ptr: *mut u16| if wanted { ptr } else { null_mut() };
        let panel = panel_len(coords.keys, ds_parts, STEP);
        let step = first / STEP * panel + panel_len(strip, ds_parts, STEP);
        // SAFETY: as for `strip_of_parts`.
        unsafe {
            let factors =
                |terms: Bf16Products, columns: usize, a: *mut u16, b: *mut u16| Bf16Factors {
                    terms,
                    columns,
                    a: a.add(strip * row_len(columns, terms.slices_of_a())),
                    b: b.add(panel_len(columns, terms.slices_of_b(), STEP) * (first / STEP)),
                };
            let sum = |wanted, terms: Bf16Products, columns: usize, b: *mut u16, out: *mut f32| {
                let (parts, ld) = (terms.slices_of_b(), padded(columns, self.kernels));
                Bf16Accumulator {
                    terms,
                    b: b.add(panel_len(first, parts, STEP)),
                    panel: panel_len(coords.n, parts, STEP),
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
                    dp: match want.ds {
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
                    ldp: long_row_len(n, p_parts),
                    ds: if_wanted(want.dk, weights.ds),
                    ldds: long_row_len(n, ds_parts),
                    columns: if_wanted(want.dq, weights.ds_columns.wrapping_add(step)),
                    panel,
                },
                scores: factors(products.scores, problem.d, parts.k, parts.q_columns),
                dp: factors(products.dp, problem.dv, parts.v, parts.do_columns),
                dv: sum(want.dv, products.p, problem.dv, parts.do_panels, scratch.dv),
                dk: sum(want.dk, products.ds, problem.d, parts.q_panels, scratch.dk),
            }
        }
    }

    /// The products of a strip and `n` queries.
    unsafe fn product_of_strip(
        &self,
        bf16: Bf16Plan<'_>,
        of: &Bf16Factors,
        n: usize,
        out: *mut f32,
    ) {
        let (terms, a, b) = (of.terms, of.a, of.b);
        let lda = row_len(of.columns, terms.slices_of_a());
        let panel = panel_len(of.columns, terms.slices_of_b(), STEP);
        let (steps, panels) = (of.columns.div_ceil(STEP), n / STEP);
        // SAFETY: as for `strip_of_parts`.
        unsafe {
            (bf16.parts.product)(
                terms, a, lda, b, panel, steps, STEP, panels, false, out, SCORE_LD,
            );
        }
    }

    /// Zeroes dS of a strip and the queries `from..to`, which are whole steps.
    unsafe fn clear_ds(
        &self,
        products: Products,
        coords: &BlockCoords<'_>,
        strip: usize,
        from: usize,
        to: usize,
    ) {
        let parts = products.ds.slices_of_b();
        for query in (from..to).step_by(STEP) {
            let panel = query / STEP * panel_len(coords.keys, parts, STEP);
            let at = panel + panel_len(strip, parts, STEP);
            // SAFETY: a step of a panel of the block.
            unsafe {
                let step = self.scratch.weights.ds_columns.add(at);
                step.write_bytes(0, panel_len(STEP, parts, STEP));
            }
        }
    }

    /// Adds the keys of the block to dQ of its queries.
    unsafe fn add_dq_parts(&self, bf16: Bf16Plan<'_>, coords: &BlockCoords<'_>, dq: Accumulator) {
        let (problem, scratch) = (&self.call.problem, &self.scratch.bf16);
        let (d, terms) = (problem.d, bf16.products.ds);
        let lda = long_row_len(coords.keys, terms.slices_of_a());
        let panel = panel_len(coords.keys, terms.slices_of_b(), STEP);
        // The steps of keys that a step of queries sees.
        let visible = |at: usize| {
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
            let (from, to) = visible(at);
            let mut end = at + STEP;
            while end < coords.n && visible(end) == (from, to) {
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
                        let product = bf16.parts.product;
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
