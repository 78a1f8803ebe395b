//! The products of a block of keys and a block of queries, as products of parts (see [`crate::kernels::parts`]).
//!
//! ```text
//! for each strip of keys that any query of the block sees:
//!     S^T  = K Q^T, dP^T = V dO^T
//!     softcap, ALiBi, masks, limits         Bias
//!     P^T, dS^T                             softmax_gradient, whose results are operands of what follows
//!     dV  += P^T dO
//!     dK  += dS^T Q
//! dQ^T = K^T dS^T, added to dQ
//! ```

use std::ptr::null_mut;

use super::bias::Patch;
use super::cell::{Cells, Sum, Want, clear};
use super::pack::{Keys, Queries};
use super::plan::Products;
use super::scratch::padded;
use crate::forward::LOG2_E;
use crate::kernels::gradient::{GradientParts, PartsStrip};
use crate::kernels::parts::{PartKernels, STEP, Terms, panel_len, row_len};
use crate::kernels::{Kernels, SCORE_LD};
use crate::problem::Sequence;

/// Kernels and products of a plan that has them.
#[derive(Clone, Copy)]
struct Unit<'a> {
    parts: &'a PartKernels,
    gradient: GradientParts,
    products: Products,
}

/// From a row of P or dS as A to the next, for `queries` terms: never a multiple of 512 bytes, of which sixteen rows of a
/// tile would lie in few sets of the first-level cache.
pub(super) const fn weights_len(queries: usize, parts: usize) -> usize {
    row_len(queries, parts) + STEP
}

/// Whether an instruction set has the kernels of this module, with strips and panels of a step.
pub(super) fn supported(kernels: &Kernels) -> bool {
    let steps = kernels.mr == STEP && kernels.nr == STEP;
    steps && kernels.parts.is_some() && kernels.gradient.parts.is_some()
}

/// Below this, a number may have parts below 2^-126, which a unit for bf16 takes for 0.
const SMALL: f32 = f32::from_bits((127 - 100) << 23);
/// The same for what is a product of two: dP, and what becomes of it.
const SMALL_PRODUCT: f32 = f32::from_bits((127 - 80) << 23);

/// Whether two blocks are packed as parts, and their gradients too are far enough from the smallest numbers.
pub(super) fn fit(queries: &Queries, keys: &Keys) -> bool {
    let (Some([q, grad]), Some([k, v])) = (queries.parts, keys.parts) else {
        return false;
    };
    let large = |x: f32| x == 0.0 || x >= SMALL;
    [q, grad, k, v].into_iter().all(large) && (grad == 0.0 || v == 0.0 || grad * v >= SMALL_PRODUCT)
}

/// Packs all strips of `n` rows; returns whether all floats are finite.
unsafe fn pack_strips(
    pack: &PartKernels,
    parts: usize,
    rows: *const f32,
    ld: usize,
    n: usize,
    columns: usize,
    out: *mut u16,
) -> bool {
    let mut finite = true;
    for strip in (0..n).step_by(STEP) {
        // SAFETY: rows and room for them, by the caller.
        unsafe {
            let (from, count) = (rows.add(strip * ld), STEP.min(n - strip));
            let out = out.add(strip * row_len(columns, parts));
            finite &= (pack.pack_rows)(parts, from, ld, count, columns, out);
        }
    }
    finite
}

impl<'a> Cells<'a> {
    fn unit(&self) -> Option<Unit<'a>> {
        Some(Unit {
            parts: self.kernels.parts.as_ref()?,
            gradient: self.kernels.gradient.parts?,
            products: self.plan.products?,
        })
    }

    /// Packs a block of queries as parts; returns the largest magnitudes if they are finite.
    pub(super) unsafe fn pack_query_parts(
        &self,
        sequence: &Sequence,
        block: &Queries,
        want: Want,
    ) -> Option<[f32; 2]> {
        let unit = self.unit()?;
        // What is not packed is of no account.
        let mut largest = [1.0; 2];
        let (call, scratch, n) = (self.call, &self.scratch.parts, block.n);
        let (d, dv) = (call.problem.d, call.problem.dv);
        let (at, row) = ((sequence.batch, block.head), sequence.q0 + block.first);
        let (pack, products) = (unit.parts, unit.products);
        // SAFETY: a block's rows, inside the tensor, and room for their parts.
        unsafe {
            let rows = self.rows(&call.problem.q, at, row, n);
            largest[0] = (unit.gradient.largest)(rows.ptr, rows.ld, n, d);
            let parts = products.scores.parts_of_b();
            let mut finite = (pack.pack_columns)(parts, rows.ptr, rows.ld, n, d, scratch.q_columns);
            if want.dk {
                let parts = products.ds.parts_of_b();
                finite &= (pack.pack_panels)(parts, rows.ptr, rows.ld, n, d, scratch.q_panels);
            }
            if !want.dp() && !want.dv {
                return finite.then_some(largest);
            }
            let rows = self.rows(&call.grad_output, at, row, n);
            largest[1] = (unit.gradient.largest)(rows.ptr, rows.ld, n, dv);
            if want.dp() {
                let parts = products.dp.parts_of_b();
                finite &= (pack.pack_columns)(parts, rows.ptr, rows.ld, n, dv, scratch.do_columns);
            }
            if want.dv {
                let parts = products.p.parts_of_b();
                finite &= (pack.pack_panels)(parts, rows.ptr, rows.ld, n, dv, scratch.do_panels);
            }
            finite.then_some(largest)
        }
    }

    /// Packs a block of keys as parts; returns the largest magnitudes if they are finite.
    pub(super) unsafe fn pack_key_parts(
        &self,
        sequence: &Sequence,
        kv_head: usize,
        block: &Keys,
        want: Want,
    ) -> Option<[f32; 2]> {
        let unit = self.unit()?;
        // What is not packed is of no account.
        let mut largest = [1.0; 2];
        let (problem, scratch, n) = (&self.call.problem, &self.scratch.parts, block.n);
        let (d, dv) = (problem.d, problem.dv);
        let (at, row) = ((sequence.batch, kv_head), sequence.k0 + block.first);
        let (pack, products) = (unit.parts, unit.products);
        let mut finite = true;
        // SAFETY: a block's rows, inside the tensor, and room for their parts.
        unsafe {
            let rows = self.rows(&problem.k, at, row, n);
            largest[0] = (unit.gradient.largest)(rows.ptr, rows.ld, n, d);
            let parts = products.scores.parts_of_a();
            finite &= pack_strips(pack, parts, rows.ptr, rows.ld, n, d, scratch.k);
            if want.dq {
                let parts = products.ds.parts_of_a();
                for c in (0..d).step_by(STEP) {
                    let out = scratch.k_transposed.add(c * row_len(n, parts));
                    let columns = STEP.min(d - c);
                    let from = rows.ptr.add(c);
                    finite &= (pack.pack_transposed)(parts, from, rows.ld, n, columns, out);
                }
            }
            if want.dp() {
                let rows = self.rows(&problem.v, at, row, n);
                largest[1] = (unit.gradient.largest)(rows.ptr, rows.ld, n, dv);
                let parts = products.dp.parts_of_a();
                finite &= pack_strips(pack, parts, rows.ptr, rows.ld, n, dv, scratch.v);
            }
        }
        finite.then_some(largest)
    }

    /// [`Cells::add`] on parts.
    pub(super) unsafe fn add_parts(&self, patch: &Patch<'_>, want: Want, dq: Sum) {
        let Some(unit) = self.unit() else {
            return;
        };
        // SAFETY: strips and blocks of the scratch, which was laid out for them.
        unsafe {
            for strip in (0..patch.keys).step_by(STEP) {
                self.strip_of_parts(unit, patch, strip, want);
            }
            if want.dq {
                self.add_dq_parts(unit, patch, dq);
            }
        }
    }

    /// One strip of keys.
    unsafe fn strip_of_parts(&self, unit: Unit<'_>, patch: &Patch<'_>, strip: usize, want: Want) {
        let (problem, scratch, kernels) = (&self.call.problem, self.scratch, self.kernels);
        let rows = STEP.min(patch.keys - strip);
        let seen = self.seen(patch, strip, rows, STEP);
        // SAFETY: a strip of the block's keys and whole steps of its queries, for which the scratch has room.
        unsafe {
            let (first, n) = match &seen {
                Some((seen, _)) => (seen.i0 - patch.i0, seen.n),
                None => (0, 0),
            };
            let wide = n.next_multiple_of(STEP);
            if want.ds {
                let ds = scratch.ds.add(strip * SCORE_LD);
                clear(ds, rows, 0, first);
                clear(ds, rows, first + n, patch.n);
            }
            if want.dq {
                let end = patch.n.next_multiple_of(STEP);
                self.clear_ds(unit.products, patch, strip, 0, first);
                self.clear_ds(unit.products, patch, strip, first + wide, end);
            }
            let Some((seen, ragged)) = seen else {
                return;
            };
            let (s, slope) = (scratch.s, scratch.slope);
            // Other kernels take scores in base 2; that of parts turns products into them.
            let mut factor = problem.options.scale * LOG2_E;
            let (parts, at) = (&scratch.parts, [strip, first, wide]);
            let operands = [parts.k, parts.q_columns];
            self.product_of_strip(unit, unit.products.scores, problem.d, operands, at, s);
            if self.bias.passes || want.d || want.ds {
                (unit.gradient.scale_rows)(s, rows, n, factor);
                factor = 1.0;
            }
            if ragged || self.bias.passes {
                let mask = scratch.mask.wrapping_add(strip * SCORE_LD + first);
                self.bias.strip(&seen, s, slope, mask);
            }
            let (l, d) = (scratch.l.add(first), scratch.d.add(first));
            let dp = match want.ds {
                true => scratch.ds.add(strip * SCORE_LD + first),
                false => scratch.ds,
            };
            if want.dp() {
                let operands = [parts.v, parts.do_columns];
                self.product_of_strip(unit, unit.products.dp, problem.dv, operands, at, dp);
            }
            if want.d {
                return (kernels.gradient.weighted_sums)(s, dp, rows, n, l, d);
            }
            if want.ds {
                return (kernels.gradient.softmax_gradient)(s, dp, rows, n, l, d);
            }
            for row in rows..STEP {
                std::slice::from_raw_parts_mut(s.add(row * SCORE_LD), wide).fill(f32::NEG_INFINITY);
            }
            let p_parts = unit.products.p.parts_of_a();
            let ds_parts = unit.products.ds.parts_of_a();
            let if_wanted = |wanted: bool, ptr: *mut u16| if wanted { ptr } else { null_mut() };
            let panel = panel_len(patch.keys, ds_parts, STEP);
            let columns = first / STEP * panel + panel_len(strip, ds_parts, STEP);
            let gradient = PartsStrip {
                s,
                dp,
                n: wide,
                scale: factor,
                l,
                d,
                slope: if_wanted(problem.options.softcap > 0.0, slope.cast()).cast(),
                p: scratch.weights.p,
                ldp: weights_len(wide, p_parts),
                ds: if_wanted(want.dk, scratch.weights.ds),
                ldds: weights_len(wide, ds_parts),
                columns: if_wanted(want.dq, scratch.weights.ds_columns.wrapping_add(columns)),
                panel,
            };
            let masked = ragged || self.bias.passes || rows < STEP;
            (unit.gradient.softmax_gradient)(
                &gradient,
                if want.dv { p_parts } else { 0 },
                if want.dp() { ds_parts } else { 0 },
                masked,
            );
            let sums = [
                (
                    want.dv,
                    problem.dv,
                    unit.products.p,
                    gradient.p,
                    scratch.parts.do_panels,
                    scratch.dv,
                ),
                (
                    want.dk,
                    problem.d,
                    unit.products.ds,
                    gradient.ds,
                    scratch.parts.q_panels,
                    scratch.dk,
                ),
            ];
            for (wanted, columns, terms, a, b, sum) in sums {
                if wanted {
                    let (parts, ld) = (terms.parts_of_b(), padded(columns, kernels));
                    let (lda, panel) = (weights_len(wide, parts), panel_len(patch.n, parts, STEP));
                    let b = b.add(panel_len(first, parts, STEP));
                    let (steps, panels, o) = (wide / STEP, ld / STEP, sum.add(strip * ld));
                    let product = unit.parts.product;
                    product(terms, a, lda, b, panel, steps, STEP, panels, true, o, ld);
                }
            }
        }
    }

    /// The product of a strip of `rows` (keys, as A) and `n` queries from `first` on (as B), over `columns`.
    unsafe fn product_of_strip(
        &self,
        unit: Unit<'_>,
        terms: Terms,
        columns: usize,
        [rows, queries]: [*mut u16; 2],
        [strip, first, n]: [usize; 3],
        out: *mut f32,
    ) {
        let lda = row_len(columns, terms.parts_of_a());
        let panel = panel_len(columns, terms.parts_of_b(), STEP);
        // SAFETY: as for `strip_of_parts`.
        unsafe {
            let (a, b) = (rows.add(strip * lda), queries.add(first / STEP * panel));
            let (steps, panels) = (columns.div_ceil(STEP), n / STEP);
            (unit.parts.product)(
                terms, a, lda, b, panel, steps, STEP, panels, false, out, SCORE_LD,
            );
        }
    }

    /// Zeroes dS of a strip and the queries `from..to`, which are whole steps.
    unsafe fn clear_ds(
        &self,
        products: Products,
        patch: &Patch<'_>,
        strip: usize,
        from: usize,
        to: usize,
    ) {
        let parts = products.ds.parts_of_b();
        for query in (from..to).step_by(STEP) {
            let panel = query / STEP * panel_len(patch.keys, parts, STEP);
            let at = panel + panel_len(strip, parts, STEP);
            // SAFETY: a step of a panel of the block.
            unsafe {
                let step = self.scratch.weights.ds_columns.add(at);
                step.write_bytes(0, panel_len(STEP, parts, STEP));
            }
        }
    }

    /// Adds the keys of the block to dQ of its queries.
    unsafe fn add_dq_parts(&self, unit: Unit<'_>, patch: &Patch<'_>, dq: Sum) {
        let (problem, scratch) = (&self.call.problem, &self.scratch.parts);
        let (d, terms) = (problem.d, unit.products.ds);
        let lda = row_len(patch.keys, terms.parts_of_a());
        let panel = panel_len(patch.keys, terms.parts_of_b(), STEP);
        // The steps of keys that a step of queries sees.
        let visible = |at: usize| {
            let (i, rows) = (patch.i0 + at, STEP.min(patch.n - at));
            let (options, end) = (&problem.options, patch.j0 + patch.keys);
            let from = patch.sequence.visible(options, i).0;
            let to = patch.sequence.visible(options, i + rows - 1).1;
            let from = from.clamp(patch.j0, end) - patch.j0;
            let to = to.clamp(patch.j0, end) - patch.j0;
            (from / STEP, to.div_ceil(STEP))
        };
        let mut at = 0;
        while at < patch.n {
            let (from, to) = visible(at);
            let mut end = at + STEP;
            while end < patch.n && visible(end) == (from, to) {
                end += STEP;
            }
            if from < to {
                let (steps, panels) = (to - from, (end - at) / STEP);
                // SAFETY: steps of the block, and rows of its dQ.
                unsafe {
                    let skipped = from * STEP;
                    let b = self.scratch.weights.ds_columns.add(at / STEP * panel);
                    let b = b.add(panel_len(skipped, terms.parts_of_b(), STEP));
                    for c in (0..d).step_by(STEP) {
                        let a = scratch.k_transposed.add(c * lda);
                        let a = a.add(row_len(skipped, terms.parts_of_a()));
                        let (o, rows) = (scratch.dq.add(c * SCORE_LD), STEP.min(d - c));
                        let product = unit.parts.product;
                        product(
                            terms, a, lda, b, panel, steps, rows, panels, false, o, SCORE_LD,
                        );
                    }
                    let (rows, sum) = (end.min(patch.n) - at, dq.ptr.add(at * dq.ld));
                    (unit.gradient.add_transposed)(scratch.dq, SCORE_LD, rows, d, sum, dq.ld);
                }
            }
            at = end;
        }
    }
}
