//! Splitting floats into slices, and the softmax and the rescaling between products of slices.

use crate::Precision;
use std::arch::x86_64::*;

use super::shape::{MR, NR};
use crate::RowState;
use crate::avx512::vector::{Plain, Zmm, vector_of_bf16, vector_of_f16};
use crate::bf16_split::{FloatRows, MAX_SLICES, STEP, long_row_len, panel_len, row_len};
use crate::generic::softmax;
use crate::simd::Simd;

/// The largest bits of a magnitude that does not round to infinity.
const TOP: i32 = 0x7f7f_7fff;

/// The slices of floats, in the upper halves of the elements; the lower halves are undefined. `rounds` says
/// which slices are rounded; the others are truncated. For floats that are finite and do not round to infinity.
#[inline(always)]
pub(super) unsafe fn upper_slices<const SLICES: usize>(
    x: __m512,
    rounds: impl Fn(usize) -> bool,
) -> [__m512i; SLICES] {
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    let mut rest = x;
    let mut slices = [_mm512_setzero_si512(); SLICES];
    for (p, slice) in slices.iter_mut().enumerate() {
        *slice = _mm512_castps_si512(rest);
        if rounds(p) {
            *slice = _mm512_add_epi32(*slice, _mm512_set1_epi32(0x8000));
        }
        if p + 1 < SLICES {
            let cut = _mm512_castsi512_ps(_mm512_and_si512(*slice, upper));
            rest = _mm512_sub_ps(rest, cut);
        }
    }
    slices
}

/// Pairs of bf16: the upper halves of `low` and of `high`.
#[inline(always)]
pub(super) unsafe fn pair(low: __m512i, high: __m512i) -> __m512i {
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    // Bit by bit: upper ? high : low.
    _mm512_ternarylogic_epi32::<0xca>(upper, high, _mm512_srli_epi32::<16>(low))
}

/// Slices of two vectors: element `t` of slice `p` is the pair `(x[t], y[t])`.
#[inline(always)]
unsafe fn split_by<const SLICES: usize>(
    x: __m512,
    y: __m512,
    rounds: impl Fn(usize) -> bool,
) -> [__m512i; SLICES] {
    let (x, y) = (
        upper_slices::<SLICES>(x, &rounds),
        upper_slices::<SLICES>(y, &rounds),
    );
    let mut out = [_mm512_setzero_si512(); SLICES];
    for (p, out) in out.iter_mut().enumerate() {
        *out = pair(x[p], y[p]);
    }
    out
}

/// Slices of operands: the remainder for a third slice is a bf16 already.
#[inline(always)]
unsafe fn split_tame<const SLICES: usize>(x: __m512, y: __m512) -> [__m512i; SLICES] {
    split_by::<SLICES>(x, y, |p| p < 2)
}

/// Slices of weights, rounded only where bits are lost: truncation leaves remainders up to twice as large, all of them
/// positive: negligible beside the other operand's rounded slices.
#[inline(always)]
unsafe fn split_weights<const SLICES: usize>(x: __m512, y: __m512) -> [__m512i; SLICES] {
    split_by::<SLICES>(x, y, |p| p + 1 == SLICES && SLICES < 3)
}

/// The first slice of any float, in the upper half of each element, and the remainder.
#[inline(always)]
unsafe fn first_wild(x: __m512) -> (__m512i, __m512) {
    let bits = _mm512_castps_si512(x);
    let magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(i32::MAX));
    let tame = _mm512_cmple_epi32_mask(magnitude, _mm512_set1_epi32(TOP));
    let finite = _mm512_cmplt_epi32_mask(magnitude, _mm512_set1_epi32(0x7f80_0000));
    let nan = _mm512_cmpgt_epi32_mask(magnitude, _mm512_set1_epi32(0x7f80_0000));
    let mut u = _mm512_mask_add_epi32(bits, tame, bits, _mm512_set1_epi32(0x8000));
    u = _mm512_mask_or_epi32(u, nan, u, _mm512_set1_epi32(0x0040_0000));
    u = _mm512_and_si512(u, _mm512_set1_epi32(0xffff_0000_u32 as i32));
    let rest = _mm512_maskz_sub_ps(finite, x, _mm512_castsi512_ps(u));
    (u, rest)
}

/// [`split_tame`] for any floats.
#[cold]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn split_wild<const SLICES: usize>(x: __m512, y: __m512) -> ([__m512i; SLICES], bool) {
    let ((u, x_rest), (v, y_rest)) = (first_wild(x), first_wild(y));
    let mut out = [_mm512_setzero_si512(); SLICES];
    out[0] = _mm512_or_si512(_mm512_srli_epi32::<16>(u), v);
    // Of rests there are at most two slices.
    let rest = split_tame::<2>(x_rest, y_rest);
    for (out, rest) in out.iter_mut().skip(1).zip(rest) {
        *out = rest;
    }
    let inf = _mm512_set1_epi32(0x7f80_0000);
    let non_finite = |x: __m512| {
        let exponent = _mm512_and_si512(_mm512_castps_si512(x), inf);
        _mm512_cmpeq_epi32_mask(exponent, inf)
    };
    (out, non_finite(x) | non_finite(y) == 0)
}

#[inline(always)]
unsafe fn split<const SLICES: usize>(x: __m512, y: __m512, finite: &mut bool) -> [__m512i; SLICES] {
    let all = _mm512_set1_epi32(i32::MAX);
    let largest = _mm512_max_epi32(
        _mm512_and_si512(_mm512_castps_si512(x), all),
        _mm512_and_si512(_mm512_castps_si512(y), all),
    );
    if _mm512_cmpgt_epi32_mask(largest, _mm512_set1_epi32(TOP)) != 0 {
        let (out, all_finite) = split_wild::<SLICES>(x, y);
        *finite &= all_finite;
        return out;
    }
    split_tame::<SLICES>(x, y)
}

/// Floats as they are stored.
pub(super) trait Stored {
    const BYTES: usize;

    /// 16 floats, of which `n <= 16` are there; the others are 0.
    unsafe fn first(p: *const u8, n: usize) -> __m512;

    /// The same of any `n`. A whole vector needs no mask, which takes longer to make than the vector to load.
    #[inline(always)]
    unsafe fn load(p: *const u8, n: usize) -> __m512 {
        if n >= 16 {
            return Self::first(p, 16);
        }
        Self::first(p, n)
    }
}

pub(super) enum F32 {}
pub(super) enum F16 {}
pub(super) enum Bf16 {}

impl Stored for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn first(p: *const u8, n: usize) -> __m512 {
        Zmm::<Plain>::load_n(p.cast(), n, 0.0)
    }
}

impl Stored for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn first(p: *const u8, n: usize) -> __m512 {
        vector_of_f16(p, n)
    }
}

impl Stored for Bf16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn first(p: *const u8, n: usize) -> __m512 {
        vector_of_bf16(p, n)
    }
}

/// Squares of 32-bit elements, one per slice.
#[repr(align(64))]
struct Squares([[i32; 256]; MAX_SLICES]);

impl Squares {
    #[inline(always)]
    unsafe fn put<const SLICES: usize>(&mut self, row: usize, x: [__m512i; SLICES]) {
        for (square, x) in self.0.iter_mut().zip(x) {
            _mm512_store_si512(square.as_mut_ptr().add(16 * row).cast(), x);
        }
    }

    /// Column `t` of each slice as a row at `out + slice * distance + t * ld`, in elements of 32 bits.
    #[inline(always)]
    unsafe fn transpose<const SLICES: usize>(&self, out: *mut u16, distance: usize, ld: usize) {
        for (p, square) in self.0.iter().enumerate().take(SLICES) {
            let out = out.cast::<f32>().add(p * distance);
            Zmm::<Plain>::transpose(square.as_ptr().cast(), 16, out, ld);
        }
    }
}

/// Packing, with the number of slices and the stored precision as constants.
macro_rules! packs {
    ($($name:ident),+) => {
        $(#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
        pub(super) unsafe fn $name(slices: usize, rows: FloatRows, n: usize, d: usize, out: *mut u16) -> bool {
            let FloatRows { ptr, ld, precision } = rows;
            macro_rules! of_stored {
                ($stored:ty) => {
                    match slices {
                        1 => of::$name::<$stored, 1>(ptr, ld, n, d, out),
                        2 => of::$name::<$stored, 2>(ptr, ld, n, d, out),
                        _ => of::$name::<$stored, 3>(ptr, ld, n, d, out),
                    }
                };
            }
            match precision {
                Precision::F16 => of_stored!(F16),
                Precision::Bf16 => of_stored!(Bf16),
                _ => of_stored!(F32),
            }
        })+
    };
}

packs!(pack_rows, pack_transposed, pack_columns, pack_panels);

/// See [`crate::bf16_split::SoftmaxBf16`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn softmax_bf16(
    slices: usize,
    s: *const f32,
    rows: usize,
    n: usize,
    state: RowState,
    scale: f32,
    p: *mut u16,
    ldp: usize,
) {
    match slices {
        1 => of::softmax_bf16::<1>(s, rows, n, state, scale, p, ldp),
        2 => of::softmax_bf16::<2>(s, rows, n, state, scale, p, ldp),
        _ => of::softmax_bf16::<3>(s, rows, n, state, scale, p, ldp),
    }
}

/// The same with constants.
mod of {
    use super::*;

    /// See [`crate::bf16_split::Bf16Kernels::pack_rows`].
    #[inline(always)]
    pub(super) unsafe fn pack_rows<S: Stored, const SLICES: usize>(
        rows: *const u8,
        ld: usize,
        n: usize,
        d: usize,
        out: *mut u16,
    ) -> bool {
        let mut finite = true;
        let len = row_len(d, SLICES);
        for i in 0..n {
            let mut out = out.add(i * len);
            for t in (0..d).step_by(STEP) {
                let row = rows.wrapping_add((i * ld + t) * S::BYTES);
                let x = S::load(row, d - t);
                let y = S::load(row.wrapping_add(16 * S::BYTES), (d - t).saturating_sub(16));
                for x in split::<SLICES>(x, y, &mut finite) {
                    _mm512_store_si512(out.cast(), x);
                    out = out.add(STEP);
                }
            }
        }
        out.add(n * len).write_bytes(0, (MR - n) * len);
        finite
    }

    /// See [`crate::bf16_split::Bf16Kernels::pack_transposed`].
    #[inline(always)]
    pub(super) unsafe fn pack_transposed<S: Stored, const SLICES: usize>(
        rows: *const u8,
        ld: usize,
        n: usize,
        d: usize,
        out: *mut u16,
    ) -> bool {
        let mut finite = true;
        let mut squares = Squares([[0; 256]; MAX_SLICES]);
        let len = long_row_len(n, SLICES);
        for c in (0..MR).step_by(16) {
            let width = d.saturating_sub(c);
            for t in (0..n).step_by(STEP) {
                for pair in 0..16 {
                    let row = |t: usize| {
                        let count = if t < n { width } else { 0 };
                        S::load(rows.wrapping_add((t * ld + c) * S::BYTES), count)
                    };
                    let slices = split::<SLICES>(row(t + pair), row(t + pair + 16), &mut finite);
                    squares.put(pair, slices);
                }
                let out = out.add(c * len + t * SLICES);
                squares.transpose::<SLICES>(out, STEP / 2, len / 2);
            }
        }
        finite
    }

    /// See [`crate::bf16_split::Bf16Kernels::pack_columns`].
    #[inline(always)]
    pub(super) unsafe fn pack_columns<S: Stored, const SLICES: usize>(
        rows: *const u8,
        ld: usize,
        n: usize,
        d: usize,
        out: *mut u16,
    ) -> bool {
        let mut finite = true;
        let mut squares = Squares([[0; 256]; MAX_SLICES]);
        for c in (0..n.next_multiple_of(NR)).step_by(16) {
            let panel = out.add(c / NR * panel_len(d, SLICES, NR) + c % NR * 2);
            for t in (0..d).step_by(STEP) {
                for i in 0..16 {
                    let row = rows.wrapping_add(((c + i) * ld + t) * S::BYTES);
                    let terms = if c + i < n { d - t } else { 0 };
                    let x = S::load(row, terms);
                    let y = S::load(row.wrapping_add(16 * S::BYTES), terms.saturating_sub(16));
                    squares.put(i, split::<SLICES>(x, y, &mut finite));
                }
                squares.transpose::<SLICES>(panel.add(t * SLICES * NR), STEP * NR / 2, NR);
            }
        }
        finite
    }

    /// See [`crate::bf16_split::Bf16Kernels::pack_panels`].
    #[inline(always)]
    pub(super) unsafe fn pack_panels<S: Stored, const SLICES: usize>(
        rows: *const u8,
        ld: usize,
        n: usize,
        d: usize,
        out: *mut u16,
    ) -> bool {
        let mut finite = true;
        for t in (0..n).step_by(STEP) {
            for pair in 0..16 {
                for c in (0..d.next_multiple_of(NR)).step_by(16) {
                    let row = |t: usize| {
                        let count = if t < n { d.saturating_sub(c) } else { 0 };
                        S::load(rows.wrapping_add((t * ld + c) * S::BYTES), count)
                    };
                    let slices = split::<SLICES>(row(t + pair), row(t + pair + 16), &mut finite);
                    let to = c / NR * panel_len(n, SLICES, NR) + (t * SLICES + pair * 2) * NR;
                    let mut out = out.add(to + c % NR * 2);
                    for x in slices {
                        _mm512_store_si512(out.cast(), x);
                        out = out.wrapping_add(STEP * NR);
                    }
                }
            }
        }
        finite
    }

    /// See [`crate::bf16_split::SoftmaxBf16`].
    #[inline(always)]
    pub(super) unsafe fn softmax_bf16<const SLICES: usize>(
        s: *const f32,
        rows: usize,
        n: usize,
        state: RowState,
        scale: f32,
        p: *mut u16,
        ldp: usize,
    ) {
        softmax::softmax_bf16::<Zmm<Plain>, Split<SLICES>>(s, rows, n, state, scale, p, ldp);
    }
}

/// Storage of weights, which are at most about 1. A NaN among them may be lost, except in the row's sum.
enum Split<const SLICES: usize> {}

impl<const SLICES: usize> softmax::StoreSlices<Zmm<Plain>> for Split<SLICES> {
    #[inline(always)]
    unsafe fn store(row: *mut u16, j: usize, x: [__m512; 2]) {
        for (p, x) in split_weights::<SLICES>(x[0], x[1]).into_iter().enumerate() {
            _mm512_store_si512(row.add(j * SLICES + p * STEP).cast(), x);
        }
    }
}

/// See [`crate::bf16_split::Rescale`].
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn rescale(
    alpha: *const f32,
    rows: usize,
    columns: usize,
    o: *mut f32,
    ldo: usize,
) {
    for i in 0..rows {
        // Maxima settle: most blocks leave most rows as they are.
        let alpha = *alpha.add(i);
        if alpha == 1.0 {
            continue;
        }
        let alpha = _mm512_set1_ps(alpha);
        for c in (0..columns).step_by(16) {
            let o = o.add(i * ldo + c);
            _mm512_storeu_ps(o, _mm512_mul_ps(alpha, _mm512_loadu_ps(o)));
        }
    }
}
