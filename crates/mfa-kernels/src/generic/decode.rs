//! Kernels that read operands as the caller stored them.
//!
//! A row is read in chunks of two vectors. INT4 fills one of them with the elements of low nibbles and the other with
//! those of high ones: the query is brought into that order before, the output out of it after.

use std::mem::MaybeUninit;

use crate::generic::row::prefetch;
use crate::simd::Simd;
use crate::{DECODE_ROWS, SCORE_LD, SUM_RUN};

/// Reads a chunk of a row.
pub(crate) trait Element<S: Simd> {
    /// Whether the vectors of a chunk hold its even and its odd elements, instead of its halves.
    const SPLIT: bool = false;
    /// Bytes of `n` elements (even, unless they end a row).
    fn bytes(n: usize) -> usize;
    /// The first `n <= 2 * LANES` elements of the chunk at `p`; others are 0, and not read.
    unsafe fn chunk(p: *const u8, n: usize) -> [S::F; 2];
}

pub(crate) enum F32 {}
pub(crate) enum F16 {}
pub(crate) enum BF16 {}
pub(crate) enum I8 {}
pub(crate) enum I4 {}

/// An element of whole bytes, by the function that reads a chunk of them.
macro_rules! whole {
    ($name:ident, $bytes:literal, $chunk:expr) => {
        impl<S: Simd> Element<S> for $name {
            #[inline(always)]
            fn bytes(n: usize) -> usize {
                n * $bytes
            }
            #[inline(always)]
            unsafe fn chunk(p: *const u8, n: usize) -> [S::F; 2] {
                $chunk(p, n)
            }
        }
    };
}

whole!(F32, 4, load2::<S>);
whole!(F16, 2, S::f16_to_f32);
whole!(BF16, 2, S::bf16_to_f32);
whole!(I8, 1, S::i8_to_f32);

#[inline(always)]
pub(super) unsafe fn load2<S: Simd>(p: *const u8, n: usize) -> [S::F; 2] {
    let (p, low) = (p.cast::<f32>(), n.min(S::LANES));
    [S::load_n(p, low, 0.0), S::load_n(p.add(low), n - low, 0.0)]
}

impl<S: Simd> Element<S> for I4 {
    const SPLIT: bool = true;
    #[inline(always)]
    fn bytes(n: usize) -> usize {
        n.div_ceil(2)
    }
    /// The element after an odd `n` is whatever shares its byte.
    #[inline(always)]
    unsafe fn chunk(p: *const u8, n: usize) -> [S::F; 2] {
        S::i4_to_f32(p, n.div_ceil(2))
    }
}

/// See [`crate::ToF32`].
#[inline(always)]
pub(crate) unsafe fn widen<S: Simd, E: Element<S>>(src: *const u8, n: usize, out: *mut f32) {
    let mut c = 0;
    while c < n {
        let count = (2 * S::LANES).min(n - c);
        let x = ordered::<S, E>(E::chunk(src.add(E::bytes(c)), count));
        store2::<S>(out.add(c), count, x);
        c += count;
    }
}

/// The distance of prefetches, in bytes of rows: the memory works while the rows before are computed.
const AHEAD: usize = 4096;

/// Asks for the row, of `bytes` bytes, that will be read some time after the one at `row`.
#[inline(always)]
unsafe fn prefetch_row<S: Simd>(row: *const u8, stride: usize, bytes: usize) {
    let row = row.wrapping_add(stride.wrapping_mul((AHEAD / bytes).max(2)));
    prefetch::<S>(row, bytes);
}

/// The scales that a row's elements get in registers.
pub(crate) trait Scaling<S: Simd>: Copy {
    /// The factor of a group of columns.
    type Factor: Copy;
    /// Columns that share a factor: a multiple of two vectors, or more than a row has.
    fn group(self) -> usize;
    /// The scales of the rows from `j` on.
    unsafe fn skip(self, j: usize) -> Self;
    /// The factor of group `g` of row `j`.
    unsafe fn factor(self, j: usize, g: usize) -> Self::Factor;
    unsafe fn apply(factor: Self::Factor, x: [S::F; 2]) -> [S::F; 2];
}

/// Elements as they are stored.
#[derive(Clone, Copy)]
pub(crate) struct Unscaled;

impl<S: Simd> Scaling<S> for Unscaled {
    type Factor = ();
    #[inline(always)]
    fn group(self) -> usize {
        usize::MAX
    }
    #[inline(always)]
    unsafe fn skip(self, _: usize) -> Self {
        self
    }
    #[inline(always)]
    unsafe fn factor(self, _: usize, _: usize) {}
    #[inline(always)]
    unsafe fn apply((): (), x: [S::F; 2]) -> [S::F; 2] {
        x
    }
}

/// See [`crate::DotRows`].
#[inline(always)]
pub(crate) unsafe fn dot_rows<
    S: Simd,
    E: Element<S>,
    G: Scaling<S>,
    const R: usize,
    const J: usize,
>(
    q: *const f32,
    ldq: usize,
    k: *const u8,
    stride: usize,
    n: usize,
    d: usize,
    scales: G,
    s: *mut f32,
) {
    let mut queries = Queries::new();
    let queries = queries.fill::<S, E, R>(q, ldq, d);
    let mut j = 0;
    while j + J <= n {
        let (k, scales) = (k.add(j * stride), scales.skip(j));
        keys::<S, E, G, R, J>(queries, k, stride, d, scales, s.add(j));
        j += J;
    }
    while j < n {
        let (k, scales) = (k.add(j * stride), scales.skip(j));
        keys::<S, E, G, R, 1>(queries, k, stride, d, scales, s.add(j));
        j += 1;
    }
}

/// Queries in chunks, `[chunk][row][2 * LANES]`, padded with zeros.
#[repr(align(64))]
struct Queries([MaybeUninit<f32>; DECODE_ROWS * 512]);

impl Queries {
    #[inline(always)]
    fn new() -> Self {
        Queries([MaybeUninit::uninit(); DECODE_ROWS * 512])
    }

    #[inline(always)]
    unsafe fn fill<S: Simd, E: Element<S>, const R: usize>(
        &mut self,
        q: *const f32,
        ldq: usize,
        d: usize,
    ) -> *const f32 {
        let out = self.0.as_mut_ptr().cast::<f32>();
        let mut c = 0;
        while c < d {
            let count = (2 * S::LANES).min(d - c);
            let low = count.min(S::LANES);
            for i in 0..R {
                let q = q.add(i * ldq + c);
                let mut x = [
                    S::load_n(q, low, 0.0),
                    S::load_n(q.add(low), count - low, 0.0),
                ];
                if E::SPLIT {
                    x = S::deinterleave(x[0], x[1]);
                }
                let to = out.add(c * R + i * 2 * S::LANES);
                S::store(to, x[0]);
                S::store(to.add(S::LANES), x[1]);
            }
            c += 2 * S::LANES;
        }
        out
    }
}

/// The scores of `R` rows and `J` keys.
#[inline(always)]
unsafe fn keys<S: Simd, E: Element<S>, G: Scaling<S>, const R: usize, const J: usize>(
    queries: *const f32,
    k: *const u8,
    stride: usize,
    d: usize,
    scales: G,
    s: *mut f32,
) {
    let chunk = 2 * S::LANES;
    let mut acc = [[S::splat(0.0); R]; J];
    let (mut c, mut g) = (0, 0);
    while c < d {
        let end = d.min(scales.group().saturating_add(c));
        let mut factors = [scales.factor(0, g); J];
        for (j, factor) in factors.iter_mut().enumerate() {
            *factor = scales.factor(j, g);
        }
        while c + chunk <= end {
            add_chunk::<S, E, G, R, J>(&mut acc, queries, k, stride, &factors, c, chunk);
            c += chunk;
        }
        if c < end {
            add_chunk::<S, E, G, R, J>(&mut acc, queries, k, stride, &factors, c, end - c);
            c = end;
        }
        g += 1;
    }
    for j in 0..J {
        prefetch_row::<S>(k.wrapping_add(j * stride), stride, E::bytes(d));
    }
    totals::<S, R, J>(&acc, s);
}

/// Adds the products of the `count` elements from `c` on.
#[inline(always)]
unsafe fn add_chunk<S: Simd, E: Element<S>, G: Scaling<S>, const R: usize, const J: usize>(
    acc: &mut [[S::F; R]; J],
    queries: *const f32,
    k: *const u8,
    stride: usize,
    factors: &[G::Factor; J],
    c: usize,
    count: usize,
) {
    let q = queries.add(c * R);
    for (j, acc) in acc.iter_mut().enumerate() {
        let x = E::chunk(k.add(j * stride + E::bytes(c)), count);
        let [low, high] = G::apply(factors[j], x);
        for (i, acc) in acc.iter_mut().enumerate() {
            let q = q.add(i * 2 * S::LANES);
            *acc = S::fma(low, S::load(q), *acc);
            *acc = S::fma(high, S::load(q.add(S::LANES)), *acc);
        }
    }
}

/// Folds the vectors of `acc` and stores their sums as scores.
#[inline(always)]
unsafe fn totals<S: Simd, const R: usize, const J: usize>(acc: &[[S::F; R]; J], s: *mut f32) {
    let acc = acc.as_flattened();
    let mut first = 0;
    while first < R * J {
        let count = S::LANES.min(R * J - first);
        let mut rows = Rows([0.0; 256]);
        for (at, x) in acc[first..first + count].iter().enumerate() {
            S::store(rows.0.as_mut_ptr().add(at * S::LANES), *x);
        }
        let mut sums = [0f32; 16];
        S::store(sums.as_mut_ptr(), S::across::<true>(rows.0.as_ptr()));
        for (at, sum) in sums.iter().take(count).enumerate() {
            let (j, i) = ((first + at) / R, (first + at) % R);
            *s.add(i * SCORE_LD + j) = *sum;
        }
        first += count;
    }
}

#[repr(align(64))]
struct Rows([f32; 16 * 16]);

/// See [`crate::AxpyRows`]. `C` chunks of columns are summed at once.
#[inline(always)]
pub(crate) unsafe fn axpy_rows<
    S: Simd,
    E: Element<S>,
    G: Scaling<S>,
    const R: usize,
    const C: usize,
>(
    p: *const f32,
    v: *const u8,
    stride: usize,
    n: usize,
    d: usize,
    scales: G,
    alpha: *const f32,
    o: *mut f32,
    ldo: usize,
) {
    let chunk = 2 * S::LANES;
    let mut first = 0;
    // All columns of a few rows before the next ones: memory is read in its order, and once.
    while first < n {
        let run = SUM_RUN.min(n - first);
        let (p, v) = (p.add(first), v.add(first * stride));
        let scales = scales.skip(first);
        let alpha = (first == 0).then_some(alpha);
        let mut c = 0;
        while c + C * chunk <= d {
            let at = Columns::new::<S, G>(scales, c, C * chunk);
            let v = v.add(E::bytes(c));
            column_run::<S, E, G, R, C>(p, v, stride, run, &at, scales, alpha, o.add(c), ldo);
            c += C * chunk;
        }
        while c < d {
            let at = Columns::new::<S, G>(scales, c, chunk.min(d - c));
            let v = v.add(E::bytes(c));
            column_run::<S, E, G, R, 1>(p, v, stride, run, &at, scales, alpha, o.add(c), ldo);
            c += at.width;
        }
        first += run;
    }
}

/// A run of columns of V: `width` of them (all of `C` chunks, if `C > 1`), and the group that each chunk is in.
struct Columns<const C: usize> {
    width: usize,
    groups: [usize; C],
}

impl<const C: usize> Columns<C> {
    #[inline(always)]
    unsafe fn new<S: Simd, G: Scaling<S>>(scales: G, first: usize, width: usize) -> Self {
        let mut groups = [0; C];
        for (c, group) in groups.iter_mut().enumerate() {
            *group = (first + c * 2 * S::LANES) / scales.group();
        }
        Columns { width, groups }
    }
}

/// The columns `at` of `R` rows and a few keys; without `alpha` the sums are added to those before.
#[inline(always)]
unsafe fn column_run<S: Simd, E: Element<S>, G: Scaling<S>, const R: usize, const C: usize>(
    p: *const f32,
    v: *const u8,
    stride: usize,
    n: usize,
    at: &Columns<C>,
    scales: G,
    alpha: Option<*const f32>,
    o: *mut f32,
    ldo: usize,
) {
    let chunk = 2 * S::LANES;
    let last = if C > 1 { chunk } else { at.width };
    let mut acc = [[[S::splat(0.0); 2]; C]; R];
    for j in 0..n {
        let row = v.add(j * stride);
        prefetch_row::<S>(row, stride, E::bytes(at.width));
        let mut x = [[S::splat(0.0); 2]; C];
        for (c, x) in x.iter_mut().enumerate() {
            let factor = scales.factor(j, at.groups[c]);
            *x = G::apply(factor, E::chunk(row.add(E::bytes(c * chunk)), last));
        }
        for (i, acc) in acc.iter_mut().enumerate() {
            let p = S::splat(*p.add(i * SCORE_LD + j));
            for (acc, x) in acc.iter_mut().zip(x) {
                acc[0] = S::fma(p, x[0], acc[0]);
                acc[1] = S::fma(p, x[1], acc[1]);
            }
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        let alpha = S::splat(match alpha {
            Some(alpha) => *alpha.add(i),
            None => 1.0,
        });
        for (c, x) in acc.iter().enumerate() {
            let o = o.add(i * ldo + c * chunk);
            let x = ordered::<S, E>(*x);
            let low = last.min(S::LANES);
            let old = [
                S::load_n(o, low, 0.0),
                S::load_n(o.add(low), last - low, 0.0),
            ];
            let new = [S::fma(alpha, old[0], x[0]), S::fma(alpha, old[1], x[1])];
            store2::<S>(o, last, new);
        }
    }
}

#[inline(always)]
pub(super) unsafe fn ordered<S: Simd, E: Element<S>>(x: [S::F; 2]) -> [S::F; 2] {
    if E::SPLIT {
        S::interleave(x[0], x[1])
    } else {
        x
    }
}

/// Stores the first `n` of two vectors.
#[inline(always)]
pub(super) unsafe fn store2<S: Simd>(p: *mut f32, n: usize, x: [S::F; 2]) {
    let low = n.min(S::LANES);
    S::store_n(p, low, x[0]);
    S::store_n(p.add(low), n - low, x[1]);
}
