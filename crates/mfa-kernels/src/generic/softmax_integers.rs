//! Steps of online softmax whose P leaves as integers (eq. 12, 50, 51 of docs/math.md).

use super::softmax::{Origins, Partial, finite_or_zero, last_block, per_row, whole_block};
use crate::simd::Simd;
use crate::{P8_LD, P16_LD, RowState, SCORE_LD, TOP8, TOP16};

/// The form in which `V` vectors of integer weights are stored.
pub(crate) trait StoreIntegers<S: Simd, const V: usize> {
    type Int;
    /// Distance of the rows of P, in elements.
    const LD: usize;
    /// The largest weight.
    const TOP: f32;
    /// Degree of the polynomial of the exponential.
    const DEGREE: usize;
    /// Stores the weights of the keys from `j` on into the row at `row`.
    unsafe fn store(row: *mut Self::Int, j: usize, x: [S::I; V]);
}

/// 16 bits, one after the other.
pub(crate) enum Words {}

impl<S: Simd, const V: usize> StoreIntegers<S, V> for Words {
    type Int = i16;
    const LD: usize = P16_LD;
    const TOP: f32 = TOP16;
    const DEGREE: usize = 5;
    #[inline(always)]
    unsafe fn store(row: *mut i16, j: usize, x: [S::I; V]) {
        for v in (0..V).step_by(2) {
            S::store_i16(row.add(j + v * S::LANES), [x[v], x[v + 1]]);
        }
    }
}

/// 8 bits without a sign, one after the other.
pub(crate) enum Bytes {}

impl<S: Simd> StoreIntegers<S, 4> for Bytes {
    type Int = u8;
    const LD: usize = P8_LD;
    const TOP: f32 = TOP8;
    const DEGREE: usize = 4;
    #[inline(always)]
    unsafe fn store(row: *mut u8, j: usize, x: [S::I; 4]) {
        S::store_u8(row.add(j), x);
    }
}

/// See [`crate::SoftmaxI16`] and [`crate::SoftmaxU8`]; `p_sum` may be null. Takes `V` vectors at once, in the chains of `C`.
#[inline(always)]
pub(crate) unsafe fn softmax_integers<
    S: Simd,
    P: StoreIntegers<S, V>,
    const V: usize,
    const C: usize,
>(
    s: *mut f32,
    rows: usize,
    n: usize,
    state: RowState,
    v_scale: *const f32,
    p: *mut P::Int,
    p_scale: *mut f32,
    p_sum: *mut i32,
) {
    let mut first = 0;
    while first < rows {
        let count = S::LANES.min(rows - first);
        let s = s.add(first * SCORE_LD);
        let p = p.add(first * P::LD);
        let ahead = S::LANES < 16 && v_scale.is_null();
        let mut origins = Origins::of::<S>(s, n, count, std::ptr::null(), ahead);
        let mut steps = Partial::NEW;
        steps.pad::<S>(count, 0.0);
        let mut left = Partial::NEW;
        left.pad::<S>(count, 0.0);
        let (mut inverse, mut weights) = (S::splat(P::TOP), S::splat(0.0));
        if v_scale.is_null() {
            for i in 0..count {
                let (row, p) = (s.add(i * SCORE_LD), p.add(i * P::LD));
                let minus = origins.minus::<S>(i);
                let chains = row_of_weights::<S, P, V, C>(row, n, minus, p);
                chains.finish(&mut steps, &mut left, i, P::TOP);
            }
        } else {
            let mut sums = Partial::NEW;
            sums.pad::<S>(count, 0.0);
            let mut largest = Partial::NEW;
            largest.pad::<S>(count, 0.0);
            for i in 0..count {
                let row = s.add(i * SCORE_LD);
                let minus = origins.minus::<S>(i);
                let (sum, top) = match P::DEGREE {
                    4 => scaled::<S, 4>(row, n, minus, v_scale),
                    _ => scaled::<S, 5>(row, n, minus, v_scale),
                };
                sums.set::<S>(i, sum);
                largest.set::<S>(i, top);
            }
            let largest = largest.across::<S, false>();
            weights = sums.across::<S, true>();
            inverse = S::min(S::splat(f32::MAX), S::div(S::splat(P::TOP), largest));
            let inverses = per_row::<S>(inverse);
            for i in 0..count {
                let (row, p) = (s.add(i * SCORE_LD), p.add(i * P::LD));
                let chains = row_of_products::<S, P, V, C>(row, n, S::splat(inverses.0[i]), p);
                chains.finish(&mut steps, &mut left, i, P::TOP);
            }
        }
        let left = left.across::<S, true>();
        let steps = steps.across::<S, true>();
        let sum = if v_scale.is_null() {
            // An integer cannot tell of NaN, what is left of the running sum can.
            S::fma(left, S::splat(0.0), S::div(steps, S::splat(P::TOP)))
        } else {
            S::sub(weights, left)
        };
        let beta = advance::<S>(state, first, count, origins.maxima::<S>(), sum, left);
        S::store_n(p_scale.add(first), count, S::div(beta, inverse));
        if !p_sum.is_null() {
            let steps = per_row::<S>(steps);
            for i in 0..count {
                *p_sum.add(first + i) = steps.0[i] as i32;
            }
        }
        first += count;
    }
}

/// Stores `TOP * exp2(s - origin)` of a row as integers.
#[inline(always)]
unsafe fn row_of_weights<S: Simd, P: StoreIntegers<S, V>, const V: usize, const C: usize>(
    row: *const f32,
    n: usize,
    minus: S::F,
    p: *mut P::Int,
) -> Chains<S, C> {
    let mut chains = Chains::new();
    let mut j = 0;
    while j + V * S::LANES <= n {
        let x = whole_block::<S, V>(row, j);
        P::store(p, j, chains.weights::<P, V>(x, minus));
        j += V * S::LANES;
    }
    if j < n {
        let x = last_block::<S, V>(row, j, n, f32::NEG_INFINITY);
        P::store(p, j, chains.weights::<P, V>(x, minus));
    }
    chains
}

/// Stores `w * inverse` of a row as integers.
#[inline(always)]
unsafe fn row_of_products<S: Simd, P: StoreIntegers<S, V>, const V: usize, const C: usize>(
    row: *const f32,
    n: usize,
    inverse: S::F,
    p: *mut P::Int,
) -> Chains<S, C> {
    let mut chains = Chains::new();
    let mut j = 0;
    while j + V * S::LANES <= n {
        let w = whole_block::<S, V>(row, j);
        P::store(p, j, chains.products::<V>(w, inverse));
        j += V * S::LANES;
    }
    if j < n {
        let w = last_block::<S, V>(row, j, n, 0.0);
        P::store(p, j, chains.products::<V>(w, inverse));
    }
    chains
}

/// Running sums of a row's weights, in `C * LANES` chains. The integer of a weight is the difference that it makes to the
/// rounded sum: what rounding leaves over of a key is thus carried to a later one, and the sum of any flat run of keys is
/// right to about one step, however small they are beside the largest. A weight of 0 makes no difference.
struct Chains<S: Simd, const C: usize> {
    sums: [S::F; C],
    rounded: [S::I; C],
}

impl<S: Simd, const C: usize> Chains<S, C> {
    #[inline(always)]
    unsafe fn new() -> Self {
        let table: &'static Staggered = match C * S::LANES {
            16 => &const { Staggered::new(16) },
            32 => &const { Staggered::new(32) },
            64 => &const { Staggered::new(64) },
            _ => unreachable!(),
        };
        let mut sums = [S::splat(0.0); C];
        for (v, sum) in sums.iter_mut().enumerate() {
            *sum = S::load(table.0.as_ptr().add(v * S::LANES));
        }
        Chains {
            sums,
            rounded: [S::splat_i(0); C],
        }
    }

    /// The integers of the weights `TOP * exp2(x + minus)`.
    #[inline(always)]
    unsafe fn weights<P: StoreIntegers<S, V>, const V: usize>(
        &mut self,
        x: [S::F; V],
        minus: S::F,
    ) -> [S::I; V] {
        let mut out = [S::splat_i(0); V];
        for (v, (x, out)) in x.into_iter().zip(&mut out).enumerate() {
            let (x, sum) = (S::add(x, minus), self.sums[v % C]);
            let sum = match P::DEGREE {
                4 => S::exp2_add::<4>(x, P::TOP, sum),
                _ => S::exp2_add::<5>(x, P::TOP, sum),
            };
            *out = self.step(v % C, sum);
        }
        out
    }

    /// The integers of the weights `w * inverse`.
    #[inline(always)]
    unsafe fn products<const V: usize>(&mut self, w: [S::F; V], inverse: S::F) -> [S::I; V] {
        let mut out = [S::splat_i(0); V];
        for (v, (w, out)) in w.into_iter().zip(&mut out).enumerate() {
            let sum = S::fma(w, inverse, self.sums[v % C]);
            *out = self.step(v % C, sum);
        }
        out
    }

    /// Brings chain `c` to `sum`, and returns the integers of its last weights.
    #[inline(always)]
    unsafe fn step(&mut self, c: usize, sum: S::F) -> S::I {
        let rounded = S::to_i(sum);
        let integers = S::sub_i(rounded, self.rounded[c]);
        self.sums[c] = sum;
        self.rounded[c] = rounded;
        integers
    }

    /// Stores the sum of the integers of row `i`, and the final rounding error where the largest weight is 1. Sums are below
    /// 2^24, where f32 is exact.
    #[inline(always)]
    unsafe fn finish(self, steps: &mut Partial, left: &mut Partial, i: usize, top: f32) {
        let (mut total, mut error) = (S::splat(0.0), S::splat(0.0));
        for (sum, rounded) in self.sums.into_iter().zip(self.rounded) {
            let rounded = S::to_f(rounded);
            total = S::add(total, rounded);
            error = S::fma(S::sub(sum, rounded), S::splat(1.0 / top), error);
        }
        steps.set::<S>(i, total);
        left.set::<S>(i, error);
    }
}

/// Vectors of chains: 16 or 32 chains. Each leaves up to half a step over: fewer chains lose less of a tail under a peak, and
/// fewer than 16 are no longer balanced.
pub(crate) const fn chains(lanes: usize) -> usize {
    if lanes == 4 { 4 } else { 2 }
}

/// The running sum before the first key, by chain: 0 in total, and different for each chain. A run of equal weights then
/// leaves over next to nothing either. In the order of reversed bits, so that few keys have balanced chains too.
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

/// Replaces the scores of a row by `exp2(s - origin) * v_scale`. Returns the sum without `v_scale`, and the largest magnitude
/// with it, each spread over a vector.
#[inline(always)]
unsafe fn scaled<S: Simd, const DEGREE: usize>(
    row: *mut f32,
    n: usize,
    minus: S::F,
    v_scale: *const f32,
) -> (S::F, S::F) {
    let mut sums = [S::splat(0.0); 2];
    let mut tops = [S::splat(0.0); 2];
    let mut j = 0;
    while j + 2 * S::LANES <= n {
        for (v, (sum, top)) in sums.iter_mut().zip(&mut tops).enumerate() {
            let at = row.add(j + v * S::LANES);
            let w = S::exp2::<DEGREE>(S::add(S::load(at), minus), 1.0);
            *sum = S::add(*sum, w);
            let w = S::mul(w, S::load(v_scale.add(j + v * S::LANES)));
            *top = S::max(S::abs(w), *top);
            S::store(at, w);
        }
        j += 2 * S::LANES;
    }
    let (mut sum, mut top) = (S::add(sums[0], sums[1]), S::max(tops[0], tops[1]));
    while j < n {
        let left = S::LANES.min(n - j);
        let x = S::load_n(row.add(j), left, f32::NEG_INFINITY);
        let w = S::exp2::<DEGREE>(S::add(x, minus), 1.0);
        sum = S::add(sum, w);
        let w = S::mul(w, S::load_n(v_scale.add(j), left, 0.0));
        top = S::max(S::abs(w), top);
        S::store_n(row.add(j), left, w);
        j += left;
    }
    (sum, top)
}

/// Brings the state of `count` rows up to date with a block whose maxima are `block`, whose weights sum to `sum`, and whose
/// rounding errors to `left`. Returns the factor of the block's weights relative to those of the blocks before.
#[inline(always)]
unsafe fn advance<S: Simd>(
    state: RowState,
    first: usize,
    count: usize,
    block: S::F,
    sum: S::F,
    left: S::F,
) -> S::F {
    let old = S::load_n(state.m.add(first), count, 0.0);
    let m = S::max(old, block);
    let origin = finite_or_zero::<S>(m);
    let alpha = S::exp2::<5>(S::sub(old, origin), 1.0);
    let beta = S::exp2::<5>(S::sub(block, origin), 1.0);
    for (at, of_block) in [(state.l, sum), (state.left, left)] {
        let before = S::load_n(at.add(first), count, 0.0);
        let both = S::fma(alpha, before, S::mul(beta, of_block));
        S::store_n(at.add(first), count, both);
    }
    S::store_n(state.alpha.add(first), count, alpha);
    S::store_n(state.m.add(first), count, m);
    beta
}
