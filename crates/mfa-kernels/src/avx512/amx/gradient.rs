//! The backward pass: from scores and dP to slices of P and dS, and dQ out of its transpose.

use crate::Precision;
use std::arch::x86_64::*;

use super::pack::{Bf16, F16, F32, Stored, pair, upper_slices};
use crate::SCORE_LD;
use crate::avx512::vector::{Plain, Zmm};
use crate::bf16_split::{FloatRows, MAX_SLICES, STEP};
use crate::gradient::Bf16Strip;
use crate::simd::Simd;

/// Floats of a vector.
const LANES: usize = 16;

/// Three slices hold every bit as they are. NaN is that of arithmetic, which does not overflow.
#[inline(always)]
unsafe fn split<const N: usize>(x: __m512) -> [__m512i; N] {
    upper_slices::<N>(x, |_| N < MAX_SLICES)
}

/// See [`crate::gradient::SoftmaxGradientBf16`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn softmax_gradient(
    strip: &Bf16Strip,
    p_slices: usize,
    ds_slices: usize,
    masked: bool,
) {
    match ds_slices {
        0 => with_ds::<0>(strip, p_slices, masked),
        1 => with_ds::<1>(strip, p_slices, masked),
        2 => with_ds::<2>(strip, p_slices, masked),
        _ => with_ds::<3>(strip, p_slices, masked),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn with_ds<const DS: usize>(strip: &Bf16Strip, p_slices: usize, masked: bool) {
    match (p_slices, masked) {
        (0, false) => slices::<0, DS, false>(strip),
        (0, true) => slices::<0, DS, true>(strip),
        (1, false) => slices::<1, DS, false>(strip),
        (1, true) => slices::<1, DS, true>(strip),
        (2, false) => slices::<2, DS, false>(strip),
        (2, true) => slices::<2, DS, true>(strip),
        (_, false) => slices::<3, DS, false>(strip),
        (_, true) => slices::<3, DS, true>(strip),
    }
}

/// Two keys and two vectors of queries at a time: they are pairs of terms, both of sums over queries and over keys.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn slices<const P: usize, const DS: usize, const MASKED: bool>(strip: &Bf16Strip) {
    for j in (0..strip.n).step_by(STEP) {
        let step = j / STEP;
        let l = vectors(strip.l.add(j));
        let d = vectors(strip.d.add(j));
        for t in 0..LANES {
            let mut ds = [[[_mm512_setzero_si512(); DS]; 2]; 2];
            for (half, ds) in ds.iter_mut().enumerate() {
                let key = t + half * LANES;
                let mut p = [[_mm512_setzero_si512(); P]; 2];
                for v in 0..2 {
                    let at = key * SCORE_LD + j + v * LANES;
                    let (weight, gradient) = element::<DS, MASKED>(strip, at, l[v], d[v]);
                    p[v] = split::<P>(weight);
                    ds[v] = split::<DS>(gradient);
                }
                if P > 0 {
                    let to = strip.p.add(key * strip.ldp + step * P * STEP);
                    store::<P, STEP>(to, p[0], p[1]);
                }
                if DS > 0 && !strip.ds.is_null() {
                    let to = strip.ds.add(key * strip.ldds + step * DS * STEP);
                    store::<DS, STEP>(to, ds[0], ds[1]);
                }
            }
            if DS > 0 && !strip.columns.is_null() {
                let to = strip.columns.add(step * strip.panel + t * 2 * STEP);
                store::<DS, { STEP * STEP }>(to, ds[0][0], ds[1][0]);
                store::<DS, { STEP * STEP }>(to.add(STEP), ds[0][1], ds[1][1]);
            }
        }
    }
}

/// P and dS of sixteen queries and a key.
#[inline(always)]
unsafe fn element<const DS: usize, const MASKED: bool>(
    strip: &Bf16Strip,
    at: usize,
    l: __m512,
    d: __m512,
) -> (__m512, __m512) {
    let s = _mm512_loadu_ps(strip.s.add(at));
    let x = _mm512_fmsub_ps(s, _mm512_set1_ps(strip.scale), l);
    let mut p = Zmm::<Plain>::exp2::<5>(x, 1.0);
    let mut ds = _mm512_setzero_ps();
    if DS > 0 {
        ds = _mm512_mul_ps(p, _mm512_sub_ps(_mm512_loadu_ps(strip.dp.add(at)), d));
    }
    if MASKED {
        let infinity = _mm512_set1_ps(f32::INFINITY);
        let shown = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(s, _mm512_set1_ps(f32::NEG_INFINITY))
            & _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(l, infinity);
        p = _mm512_maskz_mov_ps(shown, p);
        if DS > 0 && !strip.slope.is_null() {
            ds = _mm512_mul_ps(ds, _mm512_loadu_ps(strip.slope.add(at)));
        }
        ds = _mm512_maskz_mov_ps(shown, ds);
    }
    (p, ds)
}

#[inline(always)]
unsafe fn vectors(p: *const f32) -> [__m512; 2] {
    [_mm512_loadu_ps(p), _mm512_loadu_ps(p.add(LANES))]
}

/// Stores pairs, the slices `DISTANCE` elements apart.
#[inline(always)]
unsafe fn store<const N: usize, const DISTANCE: usize>(
    to: *mut u16,
    low: [__m512i; N],
    high: [__m512i; N],
) {
    for slice in 0..N {
        _mm512_store_si512(
            to.add(slice * DISTANCE).cast(),
            pair(low[slice], high[slice]),
        );
    }
}

/// See [`crate::gradient::AddTransposed`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn add_transposed(
    columns: *const f32,
    ld: usize,
    n: usize,
    d: usize,
    rows: *mut f32,
    ld_rows: usize,
) {
    let mut square = [0f32; LANES * LANES];
    for i in (0..n).step_by(LANES) {
        for c in (0..d).step_by(LANES) {
            Zmm::<Plain>::transpose(columns.add(c * ld + i), ld, square.as_mut_ptr(), LANES);
            let mask = (u32::MAX >> (32 - LANES.min(d - c))) as __mmask16;
            for r in 0..LANES.min(n - i) {
                let row = rows.add((i + r) * ld_rows + c);
                let more = _mm512_loadu_ps(square.as_ptr().add(r * LANES));
                let sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, row), more);
                _mm512_mask_storeu_ps(row, mask, sum);
            }
        }
    }
}

/// See [`crate::gradient::ScaleRows`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn scale_rows(s: *mut f32, rows: usize, n: usize, factor: f32) {
    let factor = _mm512_set1_ps(factor);
    for i in 0..rows {
        for j in (0..n).step_by(LANES) {
            let mask = (u32::MAX >> (32 - LANES.min(n - j))) as __mmask16;
            let at = s.add(i * SCORE_LD + j);
            let x = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, at), factor);
            _mm512_mask_storeu_ps(at, mask, x);
        }
    }
}

/// See [`crate::gradient::MaxAbs`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
pub(super) unsafe fn max_abs(rows: FloatRows, n: usize, d: usize) -> f32 {
    match rows.precision {
        Precision::F16 => max_abs_of::<F16>(rows, n, d),
        Precision::Bf16 => max_abs_of::<Bf16>(rows, n, d),
        _ => max_abs_of::<F32>(rows, n, d),
    }
}

#[inline(always)]
unsafe fn max_abs_of<S: Stored>(rows: FloatRows, n: usize, d: usize) -> f32 {
    let mut top = _mm512_setzero_ps();
    for i in 0..n {
        for c in (0..d).step_by(LANES) {
            let x = S::load(rows.from(i, c).ptr, d - c);
            top = _mm512_max_ps(_mm512_abs_ps(x), top);
        }
    }
    _mm512_reduce_max_ps(top)
}
