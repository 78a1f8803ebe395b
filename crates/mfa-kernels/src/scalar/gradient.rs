//! The backward pass.

use super::columns::columns;
use crate::SCORE_LD;

/// See [`crate::GradientKernels::ptv_f32`].
pub(super) unsafe fn ptv_f32<const NR: usize>(
    p: *const f32,
    v: *const f32,
    packed: usize,
    n: usize,
    rows: usize,
    panels: usize,
    alpha: *const f32,
    o: *mut f32,
    ldo: usize,
) {
    for panel in 0..panels {
        let v = columns::<_, NR>(v.add(panel * packed * NR), n);
        for i in 0..rows {
            let o = std::slice::from_raw_parts_mut(o.add(i * ldo + panel * NR), NR);
            let mut sums = [0f32; NR];
            for (j, v) in v.iter().enumerate() {
                let p = *p.add(j * SCORE_LD + i);
                for (sum, v) in sums.iter_mut().zip(v) {
                    *sum += p * v;
                }
            }
            for (o, sum) in o.iter_mut().zip(sums) {
                *o = *alpha.add(i) * *o + sum;
            }
        }
    }
}

/// See [`crate::SoftmaxGradient`].
pub(super) unsafe fn softmax_gradient(
    s: *mut f32,
    dp: *mut f32,
    rows: usize,
    n: usize,
    l: *const f32,
    d: *const f32,
) {
    let l = std::slice::from_raw_parts(l, n);
    for i in 0..rows {
        let s = std::slice::from_raw_parts_mut(s.add(i * SCORE_LD), n);
        for (j, (s, l)) in s.iter_mut().zip(l).enumerate() {
            let masked = is_masked(*s, *l);
            let p = if masked { 0.0 } else { (*s - l).exp2() };
            *s = p;
            if !dp.is_null() {
                let dp = dp.add(i * SCORE_LD + j);
                *dp = if masked { 0.0 } else { p * (*dp - *d.add(j)) };
            }
        }
    }
}

fn is_masked(s: f32, l: f32) -> bool {
    s == f32::NEG_INFINITY || l == f32::INFINITY
}

/// See [`crate::WeightedSums`].
pub(super) unsafe fn weighted_sums(
    s: *const f32,
    dp: *const f32,
    rows: usize,
    n: usize,
    l: *const f32,
    d: *mut f32,
) {
    for i in 0..rows {
        for j in 0..n {
            let s = *s.add(i * SCORE_LD + j);
            if !is_masked(s, *l.add(j)) {
                *d.add(j) += (s - *l.add(j)).exp2() * *dp.add(i * SCORE_LD + j);
            }
        }
    }
}

/// See [`crate::Transpose`].
pub(super) unsafe fn transpose(
    rows: *const f32,
    ld: usize,
    n: usize,
    d: usize,
    out: *mut f32,
    out_ld: usize,
) {
    for i in 0..n {
        for j in 0..d {
            *out.add(j * out_ld + i) = *rows.add(i * ld + j);
        }
    }
}

/// See [`crate::gradient::RowDots`].
pub(super) unsafe fn row_dots(
    a: *const f32,
    lda: usize,
    b: *const f32,
    ldb: usize,
    n: usize,
    d: usize,
    out: *mut f32,
) {
    for i in 0..n {
        let mut sums = [0f64; 8];
        for c in 0..d {
            sums[c % 8] += f64::from(*a.add(i * lda + c)) * f64::from(*b.add(i * ldb + c));
        }
        *out.add(i) = sums.iter().fold(0.0, |total, sum| total + sum) as f32;
    }
}
