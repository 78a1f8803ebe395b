//! Passes over one row of scores, or of an output (eq. 2, 3, 16, 17 of docs/math.md).

use crate::MOST_ALIBI;
use crate::base2::{BEND, BENT, LOG2_E, SLOPE};
use crate::exp2::CENTRED_6;
use crate::simd::Simd;

/// See [`crate::Softcap`].
///
/// `tanh y = e / (e + 2)` for `e = exp(2y) - 1`, which is taken apart into a power of two and a polynomial without a
/// constant term, so that small scores keep all their bits.
#[inline(always)]
pub(crate) unsafe fn softcap<S: Simd>(s: *mut f32, n: usize, cap2: f32) {
    let cap = S::splat(cap2);
    let one = S::splat(1.0);
    let two_log2e = S::splat(2.0 * LOG2_E);
    // tanh is 1 in f32 well before 2^64.
    let limit = S::splat(64.0);
    let mut j = 0;
    while j < n {
        let count = S::LANES.min(n - j);
        let y = S::div(S::load_n(s.add(j), count, 0.0), cap);
        let t = S::min(limit, S::mul(S::abs(y), two_log2e));
        let whole = S::round(t);
        let r = S::sub(t, whole);
        let mut p = S::splat(CENTRED_6[5]);
        for c in CENTRED_6.iter().rev().skip(1) {
            p = S::fma(p, r, S::splat(*c));
        }
        let power = S::pow2(whole);
        let e = S::fma(power, S::mul(p, r), S::sub(power, one));
        let tanh = S::div(e, S::add(e, S::splat(2.0)));
        S::store_n(s.add(j), count, S::mul(cap, S::copysign(tanh, y)));
        j += count;
    }
}

/// See [`crate::MaskBool`].
#[inline(always)]
pub(crate) unsafe fn mask_bool<S: Simd>(s: *mut f32, mask: *const u8, n: usize) {
    let none = S::splat(f32::NEG_INFINITY);
    let mut j = 0;
    while j < n {
        let count = S::LANES.min(n - j);
        let x = S::load_n(s.add(j), count, 0.0);
        let mask = S::to_f(S::load_u8(mask.add(j), count));
        let x = S::select_eq(mask, S::splat(0.0), none, x);
        S::store_n(s.add(j), count, x);
        j += count;
    }
}

/// See [`crate::MaskAdd`].
#[inline(always)]
pub(crate) unsafe fn mask_add<S: Simd>(s: *mut f32, mask: *const f32, n: usize) {
    let none = S::splat(f32::NEG_INFINITY);
    let mut j = 0;
    while j < n {
        let count = S::LANES.min(n - j);
        let x = S::load_n(s.add(j), count, 0.0);
        let mask = S::load_n(mask.add(j), count, 0.0);
        // As `to_base2`: the lines cross where they are to be exchanged.
        let steep = S::mul(mask, S::splat(LOG2_E));
        let above = S::fma(mask, S::splat(SLOPE), S::splat(BENT - BEND * SLOPE));
        let below = S::fma(mask, S::splat(SLOPE), S::splat(BEND * SLOPE - BENT));
        let bias = S::max(below, S::min(above, steep));
        let sum = S::add(x, bias);
        S::store_n(s.add(j), count, S::select_eq(mask, none, none, sum));
        j += count;
    }
}

/// See [`crate::Alibi`].
#[inline(always)]
pub(crate) unsafe fn alibi<S: Simd>(s: *mut f32, n: usize, slope2: f32, first: f32) {
    const COUNT: [f32; 16] = [
        0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0,
    ];
    let slope = S::splat(-slope2);
    let lanes = S::load(COUNT.as_ptr());
    let mut j = 0;
    while j < n {
        let count = S::LANES.min(n - j);
        let distance = S::abs(S::sub(S::splat(first - j as f32), lanes));
        let x = S::load_n(s.add(j), count, 0.0);
        let bias = S::mul(distance, slope);
        // Finite, however far: and without `max`, which may drop NaN.
        let (most, zero) = (S::splat(MOST_ALIBI), S::splat(0.0));
        let less = S::min(most, S::sub(zero, bias));
        let bias = S::min(most, S::sub(zero, less));
        S::store_n(s.add(j), count, S::add(x, bias));
        j += count;
    }
}

/// See [`crate::Scale`].
#[inline(always)]
pub(crate) unsafe fn scale<S: Simd>(x: *const f32, n: usize, factor: f32, out: *mut f32) {
    let factor = S::splat(factor);
    let mut j = 0;
    while j + S::LANES <= n {
        S::store(out.add(j), S::mul(factor, S::load(x.add(j))));
        j += S::LANES;
    }
    if j < n {
        let x = S::load_n(x.add(j), n - j, 0.0);
        S::store_n(out.add(j), n - j, S::mul(factor, x));
    }
}

/// See [`crate::ToBf16`]. Compilers turn it into vectors of whatever the caller enables.
#[inline(always)]
pub(crate) unsafe fn to_bf16(x: *const f32, n: usize, out: *mut u16) {
    for j in 0..n {
        let x = *x.add(j);
        let bits = x.to_bits();
        let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
        let quiet = bits | 0x0040_0000;
        *out.add(j) = ((if x.is_nan() { quiet } else { nearest }) >> 16) as u16;
    }
}

/// See [`crate::ToF16`].
#[inline(always)]
pub(crate) unsafe fn to_f16<S: Simd>(x: *const f32, n: usize, out: *mut u16) {
    let mut j = 0;
    while j < n {
        let count = S::LANES.min(n - j);
        S::store_f16(out.add(j), count, S::load_n(x.add(j), count, 0.0));
        j += count;
    }
}

/// See [`crate::Prefetch`].
#[inline(always)]
pub(crate) unsafe fn prefetch<S: Simd>(p: *const u8, bytes: usize) {
    let mut line = 0;
    while line < bytes {
        S::prefetch(p.wrapping_add(line));
        line += 64;
    }
}
