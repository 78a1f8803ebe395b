//! Steps of online softmax.
//!
//! Maxima and sums stay spread over a vector while a row is read; those of `LANES` rows are then folded at once, and the
//! running statistics of these rows are brought up to date as one vector.
//!
//! See eq. 10, 12, 50, 51 of docs/math.md.

use crate::simd::Simd;
use crate::{P8_LD, P16_LD, RowState, SCORE_LD, TOP8, TOP16};

/// A vector per row.
#[repr(align(64))]
struct Partial([f32; 16 * 16]);

/// A number per row.
#[repr(align(64))]
struct PerRow([f32; 16]);

/// See [`crate::SoftmaxF32`].
#[inline(always)]
pub(crate) unsafe fn softmax_f32<S: Simd>(s: *mut f32, rows: usize, n: usize, state: RowState) {
    let mut first = 0;
    while first < rows {
        let count = S::LANES.min(rows - first);
        let s = s.add(first * SCORE_LD);
        let old = S::load_n(state.m.add(first), count, 0.0);
        let m = S::max(old, maxima::<S>(s, count, n));
        let origin = finite_or_zero::<S>(m);
        let origins = per_row::<S>(origin);
        let mut partial = Partial([0.0; 256]);
        for i in 0..count {
            let row = s.add(i * SCORE_LD);
            let origin = S::splat(origins.0[i]);
            // Four sums, each of few weights: what P V makes of them is to be divided by the same number.
            let mut sums = [S::splat(0.0); 4];
            let mut j = 0;
            while j + 4 * S::LANES <= n {
                for (v, sum) in sums.iter_mut().enumerate() {
                    let at = row.add(j + v * S::LANES);
                    let w = S::exp2::<5>(S::sub(S::load(at), origin), 1.0);
                    S::store(at, w);
                    *sum = S::add(*sum, w);
                }
                j += 4 * S::LANES;
            }
            let mut sum = S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3]));
            while j + S::LANES <= n {
                let w = S::exp2::<5>(S::sub(S::load(row.add(j)), origin), 1.0);
                S::store(row.add(j), w);
                sum = S::add(sum, w);
                j += S::LANES;
            }
            if j < n {
                let x = S::load_n(row.add(j), n - j, f32::NEG_INFINITY);
                let w = S::exp2::<5>(S::sub(x, origin), 1.0);
                S::store_n(row.add(j), n - j, w);
                sum = S::add(sum, w);
            }
            S::store(partial.0.as_mut_ptr().add(i * S::LANES), sum);
        }
        let sum = S::across::<true>(partial.0.as_ptr());
        let alpha = S::exp2::<5>(S::sub(old, origin), 1.0);
        let l = S::load_n(state.l.add(first), count, 0.0);
        S::store_n(state.l.add(first), count, S::fma(alpha, l, sum));
        S::store_n(state.alpha.add(first), count, alpha);
        S::store_n(state.m.add(first), count, m);
        first += count;
    }
}

/// Storage of two vectors of weights as slices.
pub(crate) trait StoreSlices<S: Simd> {
    /// Splits the weights of the keys from `j` on and stores them into the row at `row`.
    unsafe fn store(row: *mut u16, j: usize, x: [S::F; 2]);
}

/// See [`crate::bf16_split::SoftmaxBf16`].
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "only AMX uses it")
)]
#[inline(always)]
pub(crate) unsafe fn softmax_bf16<S: Simd, P: StoreSlices<S>>(
    s: *const f32,
    rows: usize,
    n: usize,
    state: RowState,
    scale: f32,
    p: *mut u16,
    ldp: usize,
) {
    let scale = S::splat(scale);
    let zero = S::splat(0.0);
    let mut first = 0;
    while first < rows {
        let count = S::LANES.min(rows - first);
        let s = s.add(first * SCORE_LD);
        let old = S::load_n(state.m.add(first), count, 0.0);
        let m = S::max(old, S::mul(scale, maxima::<S>(s, count, n)));
        let origin = finite_or_zero::<S>(m);
        let minus = per_row::<S>(S::sub(zero, origin));
        let mut sums = Partial([0.0; 256]);
        for i in 0..count {
            let (row, p) = (s.add(i * SCORE_LD), p.add((first + i) * ldp));
            let minus = S::splat(minus.0[i]);
            let mut sum = [zero; 2];
            let mut j = 0;
            while j < n {
                let mut w = block::<S, 2>(row, j, n, f32::NEG_INFINITY);
                for (w, sum) in w.iter_mut().zip(&mut sum) {
                    *w = S::exp2::<5>(S::fma(*w, scale, minus), 1.0);
                    *sum = S::add(*sum, *w);
                }
                P::store(p, j, w);
                j += 2 * S::LANES;
            }
            S::store(
                sums.0.as_mut_ptr().add(i * S::LANES),
                S::add(sum[0], sum[1]),
            );
        }
        let sum = S::across::<true>(sums.0.as_ptr());
        let alpha = S::exp2::<5>(S::sub(old, origin), 1.0);
        let l = S::load_n(state.l.add(first), count, 0.0);
        S::store_n(state.l.add(first), count, S::fma(alpha, l, sum));
        S::store_n(state.alpha.add(first), count, alpha);
        S::store_n(state.m.add(first), count, m);
        first += count;
    }
}

/// Storage of `V` vectors of 16-bit weights.
pub(crate) trait Store16<S: Simd, const V: usize> {
    /// Rounds the weights of the keys from `j` on and stores them into the row at `row`.
    unsafe fn store(row: *mut i16, j: usize, x: [S::F; V]);
}

/// One after the other.
pub(crate) enum InOrder {}

impl<S: Simd> Store16<S, 2> for InOrder {
    #[inline(always)]
    unsafe fn store(row: *mut i16, j: usize, x: [S::F; 2]) {
        S::store_i16(row.add(j), x);
    }
}

/// See [`crate::SoftmaxI16`].
#[inline(always)]
pub(crate) unsafe fn softmax_i16<S: Simd, P: Store16<S, V>, const V: usize>(
    s: *mut f32,
    rows: usize,
    n: usize,
    state: RowState,
    v_scale: *const f32,
    p: *mut i16,
    p_scale: *mut f32,
) {
    let mut first = 0;
    while first < rows {
        let count = S::LANES.min(rows - first);
        let s = s.add(first * SCORE_LD);
        let p = p.add(first * P16_LD);
        let most = maxima::<S>(s, count, n);
        let origins = per_row::<S>(finite_or_zero::<S>(most));
        let mut sums = Partial([0.0; 256]);
        let mut left = Partial([0.0; 256]);
        let mut inverse = S::splat(TOP16);
        if v_scale.is_null() {
            for i in 0..count {
                let row = s.add(i * SCORE_LD);
                let origin = S::splat(origins.0[i]);
                let mut sum = S::splat(0.0);
                let mut carry = staggered::<S, V>();
                let mut j = 0;
                while j < n {
                    let w = weights::<S, V, 5>(row, j, n, origin, TOP16);
                    let w = rounded::<S, V>(w, &mut carry);
                    for pair in w.chunks_exact(2) {
                        sum = S::add(sum, S::add(pair[0], pair[1]));
                    }
                    P::store(p.add(i * P16_LD), j, w);
                    j += V * S::LANES;
                }
                S::store(sums.0.as_mut_ptr().add(i * S::LANES), sum);
                left_over::<S, V>(&mut left, i, carry, TOP16);
            }
        } else {
            let largest = scaled::<S, 5>(s, count, n, &origins, v_scale, &mut sums);
            inverse = S::min(S::splat(f32::MAX), S::div(S::splat(TOP16), largest));
            let inverses = per_row::<S>(inverse);
            for i in 0..count {
                let inverse = S::splat(inverses.0[i]);
                let mut carry = staggered::<S, V>();
                let mut j = 0;
                while j < n {
                    let w = block::<S, V>(s.add(i * SCORE_LD), j, n, 0.0);
                    let w = rounded_products::<S, V>(w, inverse, &mut carry);
                    P::store(p.add(i * P16_LD), j, w);
                    j += V * S::LANES;
                }
                left_over::<S, V>(&mut left, i, carry, TOP16);
            }
        }
        let summed = Summed {
            sums: &sums,
            top: if v_scale.is_null() { TOP16 } else { 1.0 },
            left: &left,
            rounded: v_scale.is_null(),
        };
        let beta = advance::<S>(state, first, count, most, &summed);
        S::store_n(p_scale.add(first), count, S::div(beta, inverse));
        first += count;
    }
}

/// See [`crate::SoftmaxU8`].
#[inline(always)]
pub(crate) unsafe fn softmax_u8<S: Simd>(
    s: *mut f32,
    rows: usize,
    n: usize,
    state: RowState,
    v_scale: *const f32,
    p: *mut u8,
    p_scale: *mut f32,
    p_sum: *mut i32,
) {
    let mut first = 0;
    while first < rows {
        let count = S::LANES.min(rows - first);
        let s = s.add(first * SCORE_LD);
        let p = p.add(first * P8_LD);
        let most = maxima::<S>(s, count, n);
        let origins = per_row::<S>(finite_or_zero::<S>(most));
        let mut sums = Partial([0.0; 256]);
        let mut left = Partial([0.0; 256]);
        let mut p_sums = Partial([0.0; 256]);
        let mut inverse = S::splat(TOP8);
        if v_scale.is_null() {
            for i in 0..count {
                let row = s.add(i * SCORE_LD);
                let origin = S::splat(origins.0[i]);
                let mut sum = S::splat(0.0);
                let mut p_sum = S::splat_i(0);
                let mut carry = staggered::<S, 4>();
                let mut j = 0;
                while j < n {
                    let w = weights::<S, 4, 4>(row, j, n, origin, TOP8);
                    let w = rounded::<S, 4>(w, &mut carry);
                    sum = S::add(sum, S::add(S::add(w[0], w[1]), S::add(w[2], w[3])));
                    p_sum = S::store_u8(p.add(i * P8_LD + j), w, p_sum);
                    j += 4 * S::LANES;
                }
                S::store(sums.0.as_mut_ptr().add(i * S::LANES), sum);
                S::store(p_sums.0.as_mut_ptr().add(i * S::LANES), S::to_f(p_sum));
                left_over::<S, 4>(&mut left, i, carry, TOP8);
            }
        } else {
            let largest = scaled::<S, 4>(s, count, n, &origins, v_scale, &mut sums);
            inverse = S::min(S::splat(f32::MAX), S::div(S::splat(TOP8), largest));
            let inverses = per_row::<S>(inverse);
            for i in 0..count {
                let inverse = S::splat(inverses.0[i]);
                let mut p_sum = S::splat_i(0);
                let mut carry = staggered::<S, 4>();
                let mut j = 0;
                while j < n {
                    let w = block::<S, 4>(s.add(i * SCORE_LD), j, n, 0.0);
                    let w = rounded_products::<S, 4>(w, inverse, &mut carry);
                    p_sum = S::store_u8(p.add(i * P8_LD + j), w, p_sum);
                    j += 4 * S::LANES;
                }
                S::store(p_sums.0.as_mut_ptr().add(i * S::LANES), S::to_f(p_sum));
                left_over::<S, 4>(&mut left, i, carry, TOP8);
            }
        }
        let summed = Summed {
            sums: &sums,
            top: if v_scale.is_null() { TOP8 } else { 1.0 },
            left: &left,
            rounded: v_scale.is_null(),
        };
        let beta = advance::<S>(state, first, count, most, &summed);
        S::store_n(p_scale.add(first), count, S::div(beta, inverse));
        let totals = per_row::<S>(S::across::<true>(p_sums.0.as_ptr()));
        for i in 0..count {
            *p_sum.add(first + i) = totals.0[i] as i32;
        }
        first += count;
    }
}

/// The rounding error before the first key, by chain: 0 in total, and different for each chain. A run of equal
/// weights then leaves over next to nothing either. In the order of reversed bits, so that few keys have balanced chains too.
#[repr(align(64))]
struct Staggered([f32; 64]);

impl Staggered {
    const fn new(chains: u32) -> Self {
        let mut out = [0.0; 64];
        let mut chain = 0;
        while chain < chains {
            let at = chain.reverse_bits() >> (32 - chains.ilog2());
            out[chain as usize] = (at as f32 + 0.5) / chains as f32 - 0.5;
            chain += 1;
        }
        Staggered(out)
    }
}

#[inline(always)]
unsafe fn staggered<S: Simd, const V: usize>() -> [S::F; V] {
    let table: &'static Staggered = match V * S::LANES {
        0..=16 => &const { Staggered::new(16) },
        17..=32 => &const { Staggered::new(32) },
        _ => &const { Staggered::new(64) },
    };
    let mut out = [S::splat(0.0); V];
    for (v, out) in out.iter_mut().enumerate() {
        *out = S::load(table.0.as_ptr().add(v * S::LANES));
    }
    out
}

/// Weights as integers. What rounding leaves over of a key is carried to a later one: so the sum of any flat run of keys is
/// right to about one step, however small they are beside the largest. Nothing is carried to a key of weight 0.
#[inline(always)]
unsafe fn rounded<S: Simd, const V: usize>(x: [S::F; V], carry: &mut [S::F; V]) -> [S::F; V] {
    let mut out = x;
    for (out, carry) in out.iter_mut().zip(carry) {
        let with = S::add(*out, *carry);
        *out = S::round(with);
        *carry = S::sub(with, *out);
    }
    out
}

/// The same of `w * inverse`.
#[inline(always)]
unsafe fn rounded_products<S: Simd, const V: usize>(
    w: [S::F; V],
    inverse: S::F,
    carry: &mut [S::F; V],
) -> [S::F; V] {
    let mut out = w;
    for (out, carry) in out.iter_mut().zip(carry) {
        let with = S::fma(*out, inverse, *carry);
        *out = S::round(with);
        *carry = S::sub(with, *out);
    }
    out
}

/// Stores the final rounding error of row `i`, where the largest weight is 1.
#[inline(always)]
unsafe fn left_over<S: Simd, const V: usize>(
    left: &mut Partial,
    i: usize,
    carry: [S::F; V],
    top: f32,
) {
    let mut sum = S::splat(0.0);
    for carry in carry {
        sum = S::fma(carry, S::splat(1.0 / top), sum);
    }
    S::store(left.0.as_mut_ptr().add(i * S::LANES), sum);
}

/// The sums of the weights of a block, by row.
struct Summed<'a> {
    /// Times `top`.
    sums: &'a Partial,
    top: f32,
    /// The rounding errors.
    left: &'a Partial,
    /// Whether `sums` is of rounded weights.
    rounded: bool,
}

/// The maximum of each of `count <= LANES` rows, NaN left out.
#[inline(always)]
unsafe fn maxima<S: Simd>(s: *const f32, count: usize, n: usize) -> S::F {
    const NONE: f32 = f32::NEG_INFINITY;
    let mut partial = Partial([NONE; 256]);
    for i in 0..count {
        let row = s.add(i * SCORE_LD);
        // Two chains, for a maximum takes as long as four others can start in.
        let mut even = S::splat(NONE);
        let mut odd = S::splat(NONE);
        let mut j = 0;
        while j + 2 * S::LANES <= n {
            even = S::max(S::load(row.add(j)), even);
            odd = S::max(S::load(row.add(j + S::LANES)), odd);
            j += 2 * S::LANES;
        }
        if j + S::LANES <= n {
            even = S::max(S::load(row.add(j)), even);
            j += S::LANES;
        }
        if j < n {
            odd = S::max(S::load_n(row.add(j), n - j, NONE), odd);
        }
        S::store(partial.0.as_mut_ptr().add(i * S::LANES), S::max(odd, even));
    }
    S::across::<false>(partial.0.as_ptr())
}

/// `top * exp2(s - origin)` of `V` vectors from `j` on; 0 from `n` on.
#[inline(always)]
unsafe fn weights<S: Simd, const V: usize, const DEGREE: usize>(
    row: *const f32,
    j: usize,
    n: usize,
    origin: S::F,
    top: f32,
) -> [S::F; V] {
    let mut x = block::<S, V>(row, j, n, f32::NEG_INFINITY);
    for x in &mut x {
        *x = S::exp2::<DEGREE>(S::sub(*x, origin), top);
    }
    x
}

/// `V` vectors from `j` on; `fill` from `n` on.
#[inline(always)]
unsafe fn block<S: Simd, const V: usize>(
    row: *const f32,
    j: usize,
    n: usize,
    fill: f32,
) -> [S::F; V] {
    let mut x = [S::splat(fill); V];
    if j + V * S::LANES <= n {
        for (v, x) in x.iter_mut().enumerate() {
            *x = S::load(row.add(j + v * S::LANES));
        }
    } else {
        for (v, x) in x.iter_mut().enumerate() {
            let from = (j + v * S::LANES).min(n);
            *x = S::load_n(row.add(from), (n - from).min(S::LANES), fill);
        }
    }
    x
}

/// Replaces scores by `exp2(s - origin) * v_scale`, leaves the sums without `v_scale` in `sums`, and returns the largest
/// magnitude of each row.
#[inline(always)]
unsafe fn scaled<S: Simd, const DEGREE: usize>(
    s: *mut f32,
    count: usize,
    n: usize,
    origins: &PerRow,
    v_scale: *const f32,
    sums: &mut Partial,
) -> S::F {
    let mut largest = Partial([0.0; 256]);
    for i in 0..count {
        let row = s.add(i * SCORE_LD);
        let origin = S::splat(origins.0[i]);
        let mut sum = S::splat(0.0);
        let mut top = S::splat(0.0);
        let mut j = 0;
        while j + S::LANES <= n {
            let w = S::exp2::<DEGREE>(S::sub(S::load(row.add(j)), origin), 1.0);
            sum = S::add(sum, w);
            let w = S::mul(w, S::load(v_scale.add(j)));
            top = S::max(S::abs(w), top);
            S::store(row.add(j), w);
            j += S::LANES;
        }
        if j < n {
            let x = S::load_n(row.add(j), n - j, f32::NEG_INFINITY);
            let w = S::exp2::<DEGREE>(S::sub(x, origin), 1.0);
            sum = S::add(sum, w);
            let w = S::mul(w, S::load_n(v_scale.add(j), n - j, 0.0));
            top = S::max(S::abs(w), top);
            S::store_n(row.add(j), n - j, w);
        }
        S::store(sums.0.as_mut_ptr().add(i * S::LANES), sum);
        S::store(largest.0.as_mut_ptr().add(i * S::LANES), top);
    }
    S::across::<false>(largest.0.as_ptr())
}

/// Brings the state of `count` rows up to date with a block whose maxima are `block`. Returns the factor of the
/// block's weights relative to those of the blocks before.
#[inline(always)]
unsafe fn advance<S: Simd>(
    state: RowState,
    first: usize,
    count: usize,
    block: S::F,
    summed: &Summed<'_>,
) -> S::F {
    let old = S::load_n(state.m.add(first), count, 0.0);
    let m = S::max(old, block);
    let origin = finite_or_zero::<S>(m);
    let alpha = S::exp2::<5>(S::sub(old, origin), 1.0);
    let beta = S::exp2::<5>(S::sub(block, origin), 1.0);
    let left = S::across::<true>(summed.left.0.as_ptr());
    let sum = S::across::<true>(summed.sums.0.as_ptr());
    let mut sum = S::div(sum, S::splat(summed.top));
    if !summed.rounded {
        sum = S::sub(sum, left);
    }
    for (at, of_block) in [(state.l, sum), (state.left, left)] {
        let before = S::load_n(at.add(first), count, 0.0);
        let both = S::fma(alpha, before, S::mul(beta, of_block));
        S::store_n(at.add(first), count, both);
    }
    S::store_n(state.alpha.add(first), count, alpha);
    S::store_n(state.m.add(first), count, m);
    beta
}

/// The origin of the exponentials; a row that is masked so far has none, and any finite value gives it weights of 0.
#[inline(always)]
unsafe fn finite_or_zero<S: Simd>(m: S::F) -> S::F {
    S::select_eq(m, S::splat(f32::NEG_INFINITY), S::splat(0.0), m)
}

#[inline(always)]
unsafe fn per_row<S: Simd>(x: S::F) -> PerRow {
    let mut out = PerRow([0.0; 16]);
    S::store(out.0.as_mut_ptr(), x);
    out
}
