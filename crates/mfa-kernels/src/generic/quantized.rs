//! Kernels that apply scales which differ within a row of integers.

use crate::SCORE_LD;
use crate::generic::decode::{Element, Scaling, load2, ordered, store2};
use crate::quantized::{ChannelScales, GroupScales};
use crate::simd::Simd;

/// Scales of groups, with zero points if `ZEROS`.
#[derive(Clone, Copy)]
pub(crate) struct Groups<const ZEROS: bool>(pub(crate) GroupScales);

impl<S: Simd, const ZEROS: bool> Scaling<S> for Groups<ZEROS> {
    type Factor = [S::F; 2];
    #[inline(always)]
    fn group(self) -> usize {
        self.0.group
    }
    #[inline(always)]
    unsafe fn skip(self, j: usize) -> Self {
        Groups(self.0.from(j))
    }
    #[inline(always)]
    unsafe fn factor(self, j: usize, g: usize) -> [S::F; 2] {
        let at = j * self.0.ld + g;
        let zero = if ZEROS { *self.0.zero.add(at) } else { 0.0 };
        [S::splat(*self.0.scale.add(at)), S::splat(zero)]
    }
    #[inline(always)]
    unsafe fn apply([scale, zero]: [S::F; 2], x: [S::F; 2]) -> [S::F; 2] {
        let [mut low, mut high] = x;
        if ZEROS {
            (low, high) = (S::sub(low, zero), S::sub(high, zero));
        }
        [S::mul(low, scale), S::mul(high, scale)]
    }
}

/// See [`crate::quantized::DequantizeGroups`].
#[inline(always)]
pub(crate) unsafe fn dequantize_groups<S: Simd, E: Element<S>, G: Scaling<S>>(
    x: *const u8,
    stride: usize,
    n: usize,
    d: usize,
    scales: G,
    mean: *const f32,
    out: *mut f32,
    ld: usize,
) {
    let chunk = 2 * S::LANES;
    for j in 0..n {
        let (x, out) = (x.add(j * stride), out.add(j * ld));
        let (mut c, mut g) = (0, 0);
        while c < d {
            let end = d.min(c + scales.group());
            let factor = scales.factor(j, g);
            while c < end {
                let count = chunk.min(end - c);
                let x = G::apply(factor, E::chunk(x.add(E::bytes(c)), count));
                let x = add_mean::<S>(ordered::<S, E>(x), mean, c, count);
                store2::<S>(out.add(c), count, x);
                c += count;
            }
            g += 1;
        }
    }
}

/// See [`crate::quantized::DequantizeChannels`].
#[inline(always)]
pub(crate) unsafe fn dequantize_channels<S: Simd, E: Element<S>, const ZEROS: bool>(
    x: *const u8,
    stride: usize,
    n: usize,
    d: usize,
    scales: ChannelScales,
    mean: *const f32,
    out: *mut f32,
    ld: usize,
) {
    let chunk = 2 * S::LANES;
    for j in 0..n {
        let (x, out) = (x.add(j * stride), out.add(j * ld));
        let mut c = 0;
        while c < d {
            let count = chunk.min(d - c);
            let mut x = ordered::<S, E>(E::chunk(x.add(E::bytes(c)), count));
            if ZEROS {
                let zero = load2::<S>(scales.zero.add(c).cast(), count);
                x = [S::sub(x[0], zero[0]), S::sub(x[1], zero[1])];
            }
            let scale = load2::<S>(scales.scale.add(c).cast(), count);
            let x = [S::mul(x[0], scale[0]), S::mul(x[1], scale[1])];
            let x = add_mean::<S>(x, mean, c, count);
            store2::<S>(out.add(c), count, x);
            c += count;
        }
    }
}

/// Adds the means of `count` columns from `c` on, if there are any.
#[inline(always)]
unsafe fn add_mean<S: Simd>(x: [S::F; 2], mean: *const f32, c: usize, count: usize) -> [S::F; 2] {
    if mean.is_null() {
        return x;
    }
    let mean = load2::<S>(mean.add(c).cast(), count);
    [S::add(x[0], mean[0]), S::add(x[1], mean[1])]
}

/// See [`crate::quantized::ScaleColumns`].
#[inline(always)]
pub(crate) unsafe fn scale_columns<S: Simd>(
    q: *const f32,
    ld: usize,
    rows: usize,
    d: usize,
    scales: ChannelScales,
    out: *mut f32,
    sums: *mut f32,
) {
    for i in 0..rows {
        let (q, out) = (q.add(i * ld), out.add(i * ld));
        let mut sum = S::splat(0.0);
        let mut c = 0;
        while c < d {
            let count = S::LANES.min(d - c);
            let scale = S::load_n(scales.scale.add(c), count, 0.0);
            let x = S::mul(S::load_n(q.add(c), count, 0.0), scale);
            S::store_n(out.add(c), count, x);
            if !scales.zero.is_null() {
                sum = S::fma(x, S::load_n(scales.zero.add(c), count, 0.0), sum);
            }
            c += count;
        }
        *sums.add(i) = total::<S>(sum);
    }
}

/// See [`crate::quantized::AddChannels`].
#[inline(always)]
pub(crate) unsafe fn add_channels<S: Simd>(
    x: *const f32,
    p: *const f32,
    n: usize,
    rows: usize,
    d: usize,
    scales: ChannelScales,
    alpha: *const f32,
    o: *mut f32,
    ldo: usize,
) {
    for i in 0..rows {
        let (x, o, alpha) = (x.add(i * ldo), o.add(i * ldo), S::splat(*alpha.add(i)));
        let minus_weight = if scales.zero.is_null() {
            S::splat(0.0)
        } else {
            S::splat(-row_sum::<S>(p.add(i * SCORE_LD), n))
        };
        let mut c = 0;
        while c < d {
            let count = S::LANES.min(d - c);
            let mut x = S::load_n(x.add(c), count, 0.0);
            if !scales.zero.is_null() {
                let zero = S::load_n(scales.zero.add(c), count, 0.0);
                x = S::fma(minus_weight, zero, x);
            }
            let scale = S::load_n(scales.scale.add(c), count, 0.0);
            let old = S::mul(alpha, S::load_n(o.add(c), count, 0.0));
            S::store_n(o.add(c), count, S::fma(x, scale, old));
            c += count;
        }
    }
}

/// The sum of `n` floats.
#[inline(always)]
unsafe fn row_sum<S: Simd>(p: *const f32, n: usize) -> f32 {
    let mut sums = [S::splat(0.0); 2];
    let mut j = 0;
    while j < n {
        let count = (2 * S::LANES).min(n - j);
        let x = load2::<S>(p.add(j).cast(), count);
        sums = [S::add(sums[0], x[0]), S::add(sums[1], x[1])];
        j += count;
    }
    total::<S>(S::add(sums[0], sums[1]))
}

/// The sum of a vector's elements.
#[inline(always)]
unsafe fn total<S: Simd>(x: S::F) -> f32 {
    let mut lanes = [0f32; 16];
    S::store(lanes.as_mut_ptr(), x);
    let mut half = S::LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}
