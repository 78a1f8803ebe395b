//! FP32 tiles: scores and outputs are the same product with different strides.

use crate::simd::Simd;
use crate::{SCORE_LD, SUM_RUN};

/// `R` rows times `P` panels of `NV` vectors each. `a[i][t]` is at `a + i * row + t * step`.
#[inline(always)]
pub(super) unsafe fn product<S: Simd, const R: usize, const NV: usize, const P: usize>(
    a: *const f32,
    row: usize,
    step: usize,
    b: *const f32,
    panel: usize,
    terms: usize,
) -> [[[S::F; NV]; P]; R] {
    let mut acc = [[[S::splat(0.0); NV]; P]; R];
    for t in 0..terms {
        let mut vectors = [[S::splat(0.0); NV]; P];
        for (p, vectors) in vectors.iter_mut().enumerate() {
            for (v, vector) in vectors.iter_mut().enumerate() {
                *vector = S::load(b.add(p * panel + (t * NV + v) * S::LANES));
            }
        }
        for (i, acc) in acc.iter_mut().enumerate() {
            let a = S::splat(*a.add(i * row + t * step));
            for p in 0..P {
                for v in 0..NV {
                    acc[p][v] = S::fma(a, vectors[p][v], acc[p][v]);
                }
            }
        }
    }
    acc
}

/// See [`crate::QkF32`], for `rows <= R` rows. Takes `P` panels at once while there are as many: few rows
/// alone have too few independent sums.
#[inline(always)]
pub(crate) unsafe fn qk_f32<
    S: Simd,
    const MR: usize,
    const R: usize,
    const NV: usize,
    const P: usize,
>(
    q: *const f32,
    k: *const f32,
    d: usize,
    rows: usize,
    panels: usize,
    s: *mut f32,
) {
    let nr = NV * S::LANES;
    let mut done = 0;
    while done + P <= panels {
        scores::<S, MR, R, NV, P>(q, k.add(done * nr * d), d, rows, s.add(done * nr));
        done += P;
    }
    while done < panels {
        scores::<S, MR, R, NV, 1>(q, k.add(done * nr * d), d, rows, s.add(done * nr));
        done += 1;
    }
}

#[inline(always)]
unsafe fn scores<S: Simd, const MR: usize, const R: usize, const NV: usize, const P: usize>(
    q: *const f32,
    k: *const f32,
    d: usize,
    rows: usize,
    s: *mut f32,
) {
    let acc = product::<S, R, NV, P>(q, 1, MR, k, NV * S::LANES * d, d);
    for (i, acc) in acc.iter().enumerate() {
        if i >= rows {
            break;
        }
        for (panel, acc) in acc.iter().enumerate() {
            for (v, x) in acc.iter().enumerate() {
                S::store(s.add(i * SCORE_LD + (panel * NV + v) * S::LANES), *x);
            }
        }
    }
}

/// See [`crate::PvF32`], for `rows <= R` rows.
#[inline(always)]
pub(crate) unsafe fn pv_f32<S: Simd, const R: usize, const NV: usize, const P: usize>(
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
    let nr = NV * S::LANES;
    let mut first = 0;
    while first < n {
        let run = SUM_RUN.min(n - first);
        let acc = product::<S, R, NV, P>(
            p.add(first),
            SCORE_LD,
            1,
            v.add(first * nr),
            nr * packed,
            run,
        );
        for (i, acc) in acc.iter().enumerate() {
            if i >= rows {
                break;
            }
            let alpha = S::splat(if first == 0 { *alpha.add(i) } else { 1.0 });
            for (panel, acc) in acc.iter().enumerate() {
                for (v, x) in acc.iter().enumerate() {
                    let o = o.add(i * ldo + (panel * NV + v) * S::LANES);
                    S::store(o, S::fma(alpha, S::load(o), *x));
                }
            }
        }
        first += run;
    }
}
