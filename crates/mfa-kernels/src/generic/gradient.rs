//! The backward pass (eq. 22, 25, 26 of docs/math.md).

use crate::SCORE_LD;
use crate::simd::Simd;

const MASKED: f32 = f32::NEG_INFINITY;

/// See [`crate::GradientKernels::ptv_f32`], for `rows <= R` rows.
#[inline(always)]
pub(crate) unsafe fn ptv_f32<S: Simd, const R: usize, const NV: usize, const P: usize>(
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
    let nr = NV * S::LANES;
    let mut done = 0;
    while done + P <= panels {
        let v = v.add(done * nr * packed);
        outputs::<S, R, NV, P>(p, v, packed, n, rows, alpha, o.add(done * nr), ldo);
        done += P;
    }
    while done < panels {
        let v = v.add(done * nr * packed);
        outputs::<S, R, NV, 1>(p, v, packed, n, rows, alpha, o.add(done * nr), ldo);
        done += 1;
    }
}

/// The distance of prefetches of P, in keys: its rows are too far apart for the hardware prefetcher.
const AHEAD: usize = 12;

#[inline(always)]
unsafe fn outputs<S: Simd, const R: usize, const NV: usize, const P: usize>(
    p: *const f32,
    v: *const f32,
    packed: usize,
    n: usize,
    rows: usize,
    alpha: *const f32,
    o: *mut f32,
    ldo: usize,
) {
    let mut acc = [[[S::splat(0.0); NV]; P]; R];
    for j in 0..n {
        let p = p.add(j * SCORE_LD);
        let ahead = p.wrapping_add(AHEAD * SCORE_LD);
        S::prefetch(ahead.cast());
        S::prefetch(ahead.wrapping_add(R - 1).cast());
        let mut vectors = [[S::splat(0.0); NV]; P];
        for (panel, vectors) in vectors.iter_mut().enumerate() {
            for (i, vector) in vectors.iter_mut().enumerate() {
                *vector = S::load(v.add((panel * packed + j) * NV * S::LANES + i * S::LANES));
            }
        }
        for (i, acc) in acc.iter_mut().enumerate() {
            let p = S::splat(*p.add(i));
            for panel in 0..P {
                for v in 0..NV {
                    acc[panel][v] = S::fma(p, vectors[panel][v], acc[panel][v]);
                }
            }
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        if i >= rows {
            break;
        }
        let alpha = S::splat(*alpha.add(i));
        for (panel, acc) in acc.iter().enumerate() {
            for (v, x) in acc.iter().enumerate() {
                let o = o.add(i * ldo + (panel * NV + v) * S::LANES);
                S::store(o, S::fma(alpha, S::load(o), *x));
            }
        }
    }
}

/// See [`crate::SoftmaxGradient`].
#[inline(always)]
pub(crate) unsafe fn softmax_gradient<S: Simd>(
    s: *mut f32,
    dp: *mut f32,
    rows: usize,
    n: usize,
    l: *const f32,
    d: *const f32,
) {
    let mut j = 0;
    while j < n {
        let count = S::LANES.min(n - j);
        let l = load::<S>(l.add(j), count);
        if dp.is_null() {
            for i in 0..rows {
                let s = s.add(i * SCORE_LD + j);
                let x = visible::<S>(load::<S>(s, count), l);
                store::<S>(s, count, weight::<S>(x, l));
            }
        } else {
            let d = load::<S>(d.add(j), count);
            for i in 0..rows {
                let (s, dp) = (s.add(i * SCORE_LD + j), dp.add(i * SCORE_LD + j));
                let x = visible::<S>(load::<S>(s, count), l);
                let p = weight::<S>(x, l);
                let g = S::mul(p, S::sub(load::<S>(dp, count), d));
                store::<S>(s, count, p);
                store::<S>(
                    dp,
                    count,
                    S::select_eq(x, S::splat(MASKED), S::splat(0.0), g),
                );
            }
        }
        j += count;
    }
}

/// A vector of which `n` elements are there; the others are masked. Functions, for closures do not have the target
/// features of the kernel that they stand in, and are called where they should be an instruction.
#[inline(always)]
unsafe fn load<S: Simd>(p: *const f32, n: usize) -> S::F {
    if n == S::LANES {
        S::load(p)
    } else {
        S::load_n(p, n, MASKED)
    }
}

#[inline(always)]
unsafe fn store<S: Simd>(p: *mut f32, n: usize, x: S::F) {
    if n == S::LANES {
        S::store(p, x);
    } else {
        S::store_n(p, n, x);
    }
}

/// The scores, masked where `l` says that the query has no keys.
#[inline(always)]
unsafe fn visible<S: Simd>(x: S::F, l: S::F) -> S::F {
    S::select_eq(l, S::splat(f32::INFINITY), S::splat(MASKED), x)
}

/// `exp2(x - l)`, or 0 where `x` is masked, whatever `l` is.
#[inline(always)]
unsafe fn weight<S: Simd>(x: S::F, l: S::F) -> S::F {
    let p = S::exp2::<5>(S::sub(x, l), 1.0);
    S::select_eq(x, S::splat(MASKED), S::splat(0.0), p)
}

/// See [`crate::WeightedSums`].
#[inline(always)]
pub(crate) unsafe fn weighted_sums<S: Simd>(
    s: *const f32,
    dp: *const f32,
    rows: usize,
    n: usize,
    l: *const f32,
    d: *mut f32,
) {
    let mut j = 0;
    while j < n {
        let count = S::LANES.min(n - j);
        let l = load::<S>(l.add(j), count);
        let mut sum = load::<S>(d.add(j), count);
        for i in 0..rows {
            let x = visible::<S>(load::<S>(s.add(i * SCORE_LD + j), count), l);
            let term = S::mul(
                weight::<S>(x, l),
                load::<S>(dp.add(i * SCORE_LD + j), count),
            );
            sum = S::add(sum, S::select_eq(x, S::splat(MASKED), S::splat(0.0), term));
        }
        store::<S>(d.add(j), count, sum);
        j += count;
    }
}

/// See [`crate::Transpose`].
#[inline(always)]
pub(crate) unsafe fn transpose<S: Simd>(
    rows: *const f32,
    ld: usize,
    n: usize,
    d: usize,
    out: *mut f32,
    out_ld: usize,
) {
    let mut i = 0;
    while i < n {
        let height = S::LANES.min(n - i);
        let mut j = 0;
        while j < d {
            let width = S::LANES.min(d - j);
            let (from, to) = (rows.add(i * ld + j), out.add(j * out_ld + i));
            if height == S::LANES && width == S::LANES {
                S::transpose(from, ld, to, out_ld);
            } else {
                for r in 0..height {
                    for c in 0..width {
                        *to.add(c * out_ld + r) = *from.add(r * ld + c);
                    }
                }
            }
            j += width;
        }
        i += height;
    }
}

/// See [`crate::gradient::RowDots`]. Eight lanes, which compilers know to be vectors.
#[inline(always)]
pub(crate) unsafe fn row_dots(
    a: *const f32,
    lda: usize,
    b: *const f32,
    ldb: usize,
    n: usize,
    d: usize,
    out: *mut f32,
) {
    const LANES: usize = 8;
    let whole = d / LANES * LANES;
    for i in 0..n {
        let (a, b) = (a.add(i * lda), b.add(i * ldb));
        let mut sums = [0f64; LANES];
        let mut c = 0;
        while c < whole {
            for (lane, sum) in sums.iter_mut().enumerate() {
                *sum += f64::from(*a.add(c + lane)) * f64::from(*b.add(c + lane));
            }
            c += LANES;
        }
        for (lane, sum) in sums.iter_mut().enumerate().take(d - whole) {
            *sum += f64::from(*a.add(c + lane)) * f64::from(*b.add(c + lane));
        }
        let mut total = 0.0;
        for sum in sums {
            total += sum;
        }
        *out.add(i) = total as f32;
    }
}
