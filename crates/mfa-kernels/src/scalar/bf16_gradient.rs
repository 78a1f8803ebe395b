//! The backward pass on slices, element by element.

use super::bf16_split::{self, float, split};
use crate::SCORE_LD;
use crate::bf16_split::{FloatRows, STEP, at_a, at_b, panel_len, row_len};
use crate::gradient::{Bf16GradientKernels, Bf16GradientStrip, Bf16Strip};

/// The twins of every table that has such kernels.
pub(crate) const TABLE: Bf16GradientKernels = Bf16GradientKernels {
    softmax_gradient,
    strip,
    add_transposed,
    scale_rows,
    max_abs,
};

/// Stores the slices of `x` at `to`, `distance` apart.
unsafe fn put(x: f32, slices: usize, to: *mut u16, distance: usize) {
    for (p, slice) in split(x, slices).iter().enumerate().take(slices) {
        *to.add(p * distance) = *slice;
    }
}

unsafe fn softmax_gradient(strip: &Bf16Strip, p_slices: usize, ds_slices: usize, masked: bool) {
    for i in 0..STEP {
        for j in 0..strip.n {
            let at = i * SCORE_LD + j;
            let (s, l) = (*strip.s.add(at), *strip.l.add(j));
            let masked = masked && (s == f32::NEG_INFINITY || l == f32::INFINITY);
            let shown = |x: f32| if masked { 0.0 } else { x };
            let p = shown((s * strip.scale - l).exp2());
            if p_slices > 0 {
                put(
                    p,
                    p_slices,
                    strip.p.add(i * strip.ldp + at_a(j, p_slices)),
                    STEP,
                );
            }
            if ds_slices == 0 {
                continue;
            }
            let mut ds = p * (*strip.dp.add(at) - *strip.d.add(j));
            if masked && !strip.slope.is_null() {
                ds *= *strip.slope.add(at);
            }
            let ds = shown(ds);
            if !strip.ds.is_null() {
                let to = strip.ds.add(i * strip.ldds + at_a(j, ds_slices));
                put(ds, ds_slices, to, STEP);
            }
            if !strip.columns.is_null() {
                let panel = strip.columns.add(j / STEP * strip.panel);
                let to = panel.add(at_b(i, j % STEP, STEP, ds_slices, STEP));
                put(ds, ds_slices, to, STEP * STEP);
            }
        }
    }
}

unsafe fn strip(call: &Bf16GradientStrip) {
    let product = bf16_split::table::<STEP, STEP>().product;
    let strip = &call.strip;
    let queries = strip.n / STEP;
    for (of, out) in [(&call.scores, strip.s), (&call.dp, strip.dp)] {
        let lda = row_len(of.columns, of.terms.slices_of_a());
        let panel = panel_len(of.columns, of.terms.slices_of_b(), STEP);
        let steps = of.columns.div_ceil(STEP);
        product(
            of.terms, of.a, lda, of.b, panel, steps, STEP, queries, false, out, SCORE_LD,
        );
    }
    let p_slices = call.dv.terms.slices_of_a();
    let p_slices = if call.dv.out.is_null() { 0 } else { p_slices };
    softmax_gradient(strip, p_slices, call.dk.terms.slices_of_a(), false);
    for (sum, a, lda) in [
        (&call.dv, strip.p, strip.ldp),
        (&call.dk, strip.ds, strip.ldds),
    ] {
        if !sum.out.is_null() {
            product(
                sum.terms, a, lda, sum.b, sum.panel, queries, STEP, sum.panels, true, sum.out,
                sum.ld,
            );
        }
    }
}

unsafe fn add_transposed(
    columns: *const f32,
    ld: usize,
    n: usize,
    d: usize,
    rows: *mut f32,
    ld_rows: usize,
) {
    for i in 0..n {
        for c in 0..d {
            *rows.add(i * ld_rows + c) += *columns.add(c * ld + i);
        }
    }
}

unsafe fn scale_rows(s: *mut f32, rows: usize, n: usize, factor: f32) {
    for i in 0..rows {
        for j in 0..n {
            *s.add(i * SCORE_LD + j) *= factor;
        }
    }
}

unsafe fn max_abs(rows: FloatRows, n: usize, d: usize) -> f32 {
    let mut top = 0f32;
    for i in 0..n {
        for c in 0..d {
            top = top.max(float(&rows, i, c).abs());
        }
    }
    top
}
