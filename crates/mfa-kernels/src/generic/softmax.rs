//! Steps of online softmax.
//!
//! Maxima and sums stay spread over a vector while a row is read; those of `LANES` rows are then folded at once, and the
//! running statistics of these rows are brought up to date as one vector.
//!
//! See eq. 10, 12 of docs/math.md.

use std::mem::MaybeUninit;

use crate::simd::Simd;
use crate::{RowState, SCORE_LD};

/// A vector per row, for as many rows as a vector has elements.
#[repr(align(64))]
pub(super) struct Partial([MaybeUninit<f32>; 16 * 16]);

impl Partial {
    /// Not initialised. (A function that filled it would return it through `memcpy`.)
    pub(super) const NEW: Self = Partial([MaybeUninit::uninit(); 256]);

    /// Sets the vectors past the first `count` rows.
    #[inline(always)]
    pub(super) unsafe fn pad<S: Simd>(&mut self, count: usize, fill: f32) {
        for i in count..S::LANES {
            self.set::<S>(i, S::splat(fill));
        }
    }

    #[inline(always)]
    pub(super) unsafe fn set<S: Simd>(&mut self, i: usize, x: S::F) {
        S::store(self.0.as_mut_ptr().cast::<f32>().add(i * S::LANES), x);
    }

    /// The sum or the maximum of each row.
    #[inline(always)]
    pub(super) unsafe fn across<S: Simd, const SUM: bool>(&self) -> S::F {
        S::across::<SUM>(self.0.as_ptr().cast())
    }
}

/// A number per row.
#[repr(align(64))]
pub(super) struct PerRow(pub(super) [f32; 16]);

/// See [`crate::SoftmaxF32`].
#[inline(always)]
pub(crate) unsafe fn softmax_f32<S: Simd>(s: *mut f32, rows: usize, n: usize, state: RowState) {
    let mut first = 0;
    while first < rows {
        let count = S::LANES.min(rows - first);
        let s = s.add(first * SCORE_LD);
        let ahead = S::LANES < 16;
        let mut origins = Origins::of::<S>(s, n, count, state.m.add(first), ahead);
        let mut partial = Partial::NEW;
        partial.pad::<S>(count, 0.0);
        for i in 0..count {
            let minus = origins.minus::<S>(i);
            partial.set::<S>(i, exponentials::<S>(s.add(i * SCORE_LD), n, minus));
        }
        let sum = partial.across::<S, true>();
        let old = S::load_n(state.m.add(first), count, 0.0);
        let m = origins.maxima::<S>();
        let origin = finite_or_zero::<S>(m);
        let alpha = S::exp2::<5>(S::sub(old, origin), 1.0);
        let l = S::load_n(state.l.add(first), count, 0.0);
        S::store_n(state.l.add(first), count, S::fma(alpha, l, sum));
        S::store_n(state.alpha.add(first), count, alpha);
        S::store_n(state.m.add(first), count, m);
        first += count;
    }
}

/// Replaces the scores of a row by `exp2(s - origin)`, and returns their sum, spread over a vector.
#[inline(always)]
unsafe fn exponentials<S: Simd>(row: *mut f32, n: usize, minus: S::F) -> S::F {
    // Four sums, each of few weights: what P V makes of them is to be divided by the same number.
    let mut sums = [S::splat(0.0); 4];
    let mut j = 0;
    while j + 4 * S::LANES <= n {
        for (v, sum) in sums.iter_mut().enumerate() {
            let at = row.add(j + v * S::LANES);
            let w = S::exp2::<5>(S::add(S::load(at), minus), 1.0);
            S::store(at, w);
            *sum = S::add(*sum, w);
        }
        j += 4 * S::LANES;
    }
    let mut sum = S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3]));
    while j + S::LANES <= n {
        let w = S::exp2::<5>(S::add(S::load(row.add(j)), minus), 1.0);
        S::store(row.add(j), w);
        sum = S::add(sum, w);
        j += S::LANES;
    }
    if j < n {
        let x = S::load_n(row.add(j), n - j, f32::NEG_INFINITY);
        let w = S::exp2::<5>(S::add(x, minus), 1.0);
        S::store_n(row.add(j), n - j, w);
        sum = S::add(sum, w);
    }
    sum
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
        let mut sums = Partial::NEW;
        sums.pad::<S>(count, 0.0);
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
            sums.set::<S>(i, S::add(sum[0], sum[1]));
        }
        let sum = sums.across::<S, true>();
        let alpha = S::exp2::<5>(S::sub(old, origin), 1.0);
        let l = S::load_n(state.l.add(first), count, 0.0);
        S::store_n(state.l.add(first), count, S::fma(alpha, l, sum));
        S::store_n(state.alpha.add(first), count, alpha);
        S::store_n(state.m.add(first), count, m);
        first += count;
    }
}

/// The maxima and the origins of `count <= LANES` rows of scores.
pub(super) struct Origins {
    s: *const f32,
    n: usize,
    count: usize,
    /// Maxima before this block that count too; may be null.
    old: *const f32,
    /// Whether each maximum is taken a row ahead of its use, which thus does not wait for it. Otherwise, all are taken before
    /// the first row, at once, which is faster for vectors of many elements.
    ahead: bool,
    next: f32,
    maxima: PerRow,
    minus: PerRow,
}

impl Origins {
    #[inline(always)]
    pub(super) unsafe fn of<S: Simd>(
        s: *const f32,
        n: usize,
        count: usize,
        old: *const f32,
        ahead: bool,
    ) -> Self {
        let mut out = Origins {
            s,
            n,
            count,
            old,
            ahead,
            next: 0.0,
            maxima: PerRow([0.0; 16]),
            minus: PerRow([0.0; 16]),
        };
        if ahead {
            out.next = S::largest(maximum::<S>(s, n));
            return out;
        }
        let mut m = maxima::<S>(s, count, n);
        if !old.is_null() {
            m = S::max(S::load_n(old, count, 0.0), m);
        }
        out.maxima = per_row::<S>(m);
        out.minus = per_row::<S>(S::sub(S::splat(0.0), finite_or_zero::<S>(m)));
        out
    }

    /// The negative of the origin of row `i`, the one after that of the last call. A sum with it, unlike a difference, takes
    /// its other summand from memory.
    #[inline(always)]
    pub(super) unsafe fn minus<S: Simd>(&mut self, i: usize) -> S::F {
        if !self.ahead {
            return S::splat(self.minus.0[i]);
        }
        let mut m = self.next;
        if !self.old.is_null() && *self.old.add(i) > m {
            m = *self.old.add(i);
        }
        self.maxima.0[i] = m;
        if i + 1 < self.count {
            let row = self.s.add((i + 1) * SCORE_LD);
            self.next = S::largest(maximum::<S>(row, self.n));
        }
        S::splat(if m == f32::NEG_INFINITY { 0.0 } else { -m })
    }

    /// The maxima of all rows.
    #[inline(always)]
    pub(super) unsafe fn maxima<S: Simd>(&self) -> S::F {
        S::load(self.maxima.0.as_ptr())
    }
}

/// The maximum of a row, NaN left out, spread over a vector.
#[inline(always)]
unsafe fn maximum<S: Simd>(row: *const f32, n: usize) -> S::F {
    const NONE: f32 = f32::NEG_INFINITY;
    // Four chains, for a maximum takes as long as eight others can start in.
    let mut most = [S::splat(NONE); 4];
    let mut j = 0;
    while j + 4 * S::LANES <= n {
        for (v, most) in most.iter_mut().enumerate() {
            *most = S::max(S::load(row.add(j + v * S::LANES)), *most);
        }
        j += 4 * S::LANES;
    }
    while j + S::LANES <= n {
        most[0] = S::max(S::load(row.add(j)), most[0]);
        j += S::LANES;
    }
    if j < n {
        most[1] = S::max(S::load_n(row.add(j), n - j, NONE), most[1]);
    }
    let [a, b, c, d] = most;
    S::max(S::max(a, b), S::max(c, d))
}

/// The maximum of each of `count <= LANES` rows, NaN left out.
#[inline(always)]
unsafe fn maxima<S: Simd>(s: *const f32, count: usize, n: usize) -> S::F {
    let mut partial = Partial::NEW;
    partial.pad::<S>(count, f32::NEG_INFINITY);
    for i in 0..count {
        partial.set::<S>(i, maximum::<S>(s.add(i * SCORE_LD), n));
    }
    partial.across::<S, false>()
}

/// `V` vectors from `j` on; `fill` from `n` on.
#[inline(always)]
unsafe fn block<S: Simd, const V: usize>(
    row: *const f32,
    j: usize,
    n: usize,
    fill: f32,
) -> [S::F; V] {
    if j + V * S::LANES <= n {
        whole_block::<S, V>(row, j)
    } else {
        last_block::<S, V>(row, j, n, fill)
    }
}

/// `V` vectors from `j` on.
#[inline(always)]
pub(super) unsafe fn whole_block<S: Simd, const V: usize>(row: *const f32, j: usize) -> [S::F; V] {
    let mut x = [S::splat(0.0); V];
    for (v, x) in x.iter_mut().enumerate() {
        *x = S::load(row.add(j + v * S::LANES));
    }
    x
}

/// `V` vectors from `j` on; `fill` from `n` on.
#[inline(always)]
pub(super) unsafe fn last_block<S: Simd, const V: usize>(
    row: *const f32,
    j: usize,
    n: usize,
    fill: f32,
) -> [S::F; V] {
    let mut x = [S::splat(fill); V];
    for (v, x) in x.iter_mut().enumerate() {
        let from = (j + v * S::LANES).min(n);
        *x = S::load_n(row.add(from), (n - from).min(S::LANES), fill);
    }
    x
}

/// The origin of the exponentials; a row that is masked so far has none, and any finite value gives it weights of 0.
#[inline(always)]
pub(super) unsafe fn finite_or_zero<S: Simd>(m: S::F) -> S::F {
    S::select_eq(m, S::splat(f32::NEG_INFINITY), S::splat(0.0), m)
}

#[inline(always)]
pub(super) unsafe fn per_row<S: Simd>(x: S::F) -> PerRow {
    let mut out = PerRow([0.0; 16]);
    S::store(out.0.as_mut_ptr(), x);
    out
}
