//! Vectors of 512 bits.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use crate::exp2::{UNIT_4, UNIT_5};
use crate::simd::{Dot4, Simd};

/// Multiplication of integers.
pub(super) trait Dot {
    const DOT4: Dot4;
    unsafe fn dot4(acc: __m512i, a: __m512i, b: __m512i) -> __m512i;
    unsafe fn dot2(acc: __m512i, a: __m512i, b: __m512i) -> __m512i;
}

/// With AVX-512 VNNI.
pub(super) enum Vnni {}

impl Dot for Vnni {
    const DOT4: Dot4 = Dot4::Unsigned;
    #[inline(always)]
    unsafe fn dot4(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(acc, a, b)
    }
    #[inline(always)]
    unsafe fn dot2(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        _mm512_dpwssd_epi32(acc, a, b)
    }
}

/// Without it.
pub(super) enum Plain {}

impl Dot for Plain {
    const DOT4: Dot4 = Dot4::None;
    /// Bytes 0 and 2, then 1 and 3: `vpmaddubsw` would saturate.
    #[inline(always)]
    unsafe fn dot4(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        let even = _mm512_and_si512(a, _mm512_set1_epi16(0xff));
        let odd = _mm512_srli_epi16::<8>(a);
        let [b_even, b_odd] = split(b);
        Self::dot2(Self::dot2(acc, even, b_even), odd, b_odd)
    }
    #[inline(always)]
    unsafe fn dot2(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        _mm512_add_epi32(acc, _mm512_madd_epi16(a, b))
    }
}

#[inline(always)]
unsafe fn split(x: __m512i) -> [__m512i; 2] {
    [
        _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(x)),
        _mm512_srai_epi16::<8>(x),
    ]
}

/// The lowest `n` of 16 bits.
#[inline(always)]
unsafe fn mask16(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as __mmask16
}

#[inline(always)]
pub(super) unsafe fn vector_of_f16(p: *const u8, n: usize) -> __m512 {
    _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask16(n), p.cast()))
}

#[inline(always)]
pub(super) unsafe fn vector_of_bf16(p: *const u8, n: usize) -> __m512 {
    let x = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask16(n), p.cast()));
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x))
}

#[inline(always)]
unsafe fn vector_of_i8(p: *const u8, n: usize) -> __m512 {
    let x = _mm_maskz_loadu_epi8(mask16(n), p.cast());
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(x))
}

/// AVX-512 F, BW, DQ and VL, with the integer products of `D`.
pub(super) struct Zmm<D>(PhantomData<D>);

impl<D: Dot> Simd for Zmm<D> {
    type F = __m512;
    type I = __m512i;

    const LANES: usize = 16;
    const DOT4: Dot4 = D::DOT4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        _mm512_set1_ps(x)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        _mm512_loadu_ps(p)
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: __m512) {
        _mm512_storeu_ps(p, x);
    }
    #[inline(always)]
    unsafe fn load_n(p: *const f32, n: usize, fill: f32) -> __m512 {
        _mm512_mask_loadu_ps(_mm512_set1_ps(fill), mask16(n), p)
    }
    #[inline(always)]
    unsafe fn store_n(p: *mut f32, n: usize, x: __m512) {
        _mm512_mask_storeu_ps(p, mask16(n), x);
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        _mm512_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        _mm512_sub_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        _mm512_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        _mm512_div_ps(a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        _mm512_max_ps(a, b)
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        _mm512_min_ps(a, b)
    }
    #[inline(always)]
    unsafe fn abs(x: __m512) -> __m512 {
        _mm512_abs_ps(x)
    }
    #[inline(always)]
    unsafe fn copysign(magnitude: __m512, sign: __m512) -> __m512 {
        _mm512_or_ps(magnitude, _mm512_and_ps(sign, _mm512_set1_ps(-0.0)))
    }
    #[inline(always)]
    unsafe fn select_eq(a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b), no, yes)
    }
    #[inline(always)]
    unsafe fn round(x: __m512) -> __m512 {
        _mm512_roundscale_ps::<0>(x)
    }
    #[inline(always)]
    unsafe fn pow2(n: __m512) -> __m512 {
        _mm512_scalef_ps(_mm512_set1_ps(1.0), n)
    }
    /// `vreduceps` leaves the fraction (0 for infinities), `vscalefps` multiplies by the power of the floor.
    #[inline(always)]
    unsafe fn exp2<const DEGREE: usize>(x: __m512, top: f32) -> __m512 {
        let r = _mm512_reduce_ps::<1>(x);
        let coefficients: &[f32] = if DEGREE == 4 { &UNIT_4 } else { &UNIT_5 };
        let mut p = _mm512_set1_ps(coefficients[DEGREE - 1] * top);
        for c in coefficients[..DEGREE - 1].iter().rev() {
            p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c * top));
        }
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(top));
        _mm512_scalef_ps(p, x)
    }
    #[inline(always)]
    unsafe fn exp2_add<const DEGREE: usize>(x: __m512, top: f32, sum: __m512) -> __m512 {
        _mm512_add_ps(sum, Self::exp2::<DEGREE>(x, top))
    }

    #[inline(always)]
    unsafe fn across<const SUM: bool>(rows: *const f32) -> __m512 {
        let row = |i: usize| _mm512_loadu_ps(rows.add(16 * i));
        let op = |a: __m512, b: __m512| {
            if SUM {
                _mm512_add_ps(a, b)
            } else {
                _mm512_max_ps(a, b)
            }
        };
        // Within lanes of 128 bits: element i of lane l becomes what lane l of row i holds.
        let mut quads = [_mm512_setzero_ps(); 4];
        for (q, quad) in quads.iter_mut().enumerate() {
            let (a, b) = (row(4 * q), row(4 * q + 1));
            let (c, d) = (row(4 * q + 2), row(4 * q + 3));
            let ab = op(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let cd = op(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
            *quad = op(
                _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)),
                _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)),
            );
        }
        let fold = |a: __m512, b: __m512| {
            op(
                _mm512_shuffle_f32x4::<0x88>(a, b),
                _mm512_shuffle_f32x4::<0xdd>(a, b),
            )
        };
        fold(fold(quads[0], quads[1]), fold(quads[2], quads[3]))
    }

    #[inline(always)]
    unsafe fn largest(x: __m512) -> f32 {
        _mm512_reduce_max_ps(x)
    }
    #[inline(always)]
    unsafe fn butterfly<const HALF: usize>(x: __m512) -> __m512 {
        let (other, minus) = match HALF {
            1 => (_mm512_permute_ps::<0b10_11_00_01>(x), 0xaaaa),
            2 => (_mm512_permute_ps::<0b01_00_11_10>(x), 0xcccc),
            4 => (_mm512_shuffle_f32x4::<0b10_11_00_01>(x, x), 0xf0f0),
            _ => (_mm512_shuffle_f32x4::<0b01_00_11_10>(x, x), 0xff00),
        };
        _mm512_mask_sub_ps(_mm512_add_ps(other, x), minus, other, x)
    }

    #[inline(always)]
    unsafe fn transpose(rows: *const f32, ld: usize, out: *mut f32, out_ld: usize) {
        // 4 x 4 within lanes: quads[q][i] holds, in lane l, column 4 l + i of rows 4 q .. 4 q + 4.
        let mut quads = [[_mm512_setzero_ps(); 4]; 4];
        for (q, quad) in quads.iter_mut().enumerate() {
            let row = |i: usize| _mm512_loadu_ps(rows.add((4 * q + i) * ld));
            let (a, b, c, d) = (row(0), row(1), row(2), row(3));
            // Not `map`, whose closure would not have the target features, and be called.
            let ab = (
                _mm512_castps_pd(_mm512_unpacklo_ps(a, b)),
                _mm512_castps_pd(_mm512_unpackhi_ps(a, b)),
            );
            let cd = (
                _mm512_castps_pd(_mm512_unpacklo_ps(c, d)),
                _mm512_castps_pd(_mm512_unpackhi_ps(c, d)),
            );
            *quad = [
                _mm512_castpd_ps(_mm512_unpacklo_pd(ab.0, cd.0)),
                _mm512_castpd_ps(_mm512_unpackhi_pd(ab.0, cd.0)),
                _mm512_castpd_ps(_mm512_unpacklo_pd(ab.1, cd.1)),
                _mm512_castpd_ps(_mm512_unpackhi_pd(ab.1, cd.1)),
            ];
        }
        // 4 x 4 of lanes.
        let [first, second, third, fourth] = quads;
        for i in 0..4 {
            let (a, b, c, d) = (first[i], second[i], third[i], fourth[i]);
            let even = (
                _mm512_shuffle_f32x4::<0x88>(a, b),
                _mm512_shuffle_f32x4::<0x88>(c, d),
            );
            let odd = (
                _mm512_shuffle_f32x4::<0xdd>(a, b),
                _mm512_shuffle_f32x4::<0xdd>(c, d),
            );
            let columns = [
                _mm512_shuffle_f32x4::<0x88>(even.0, even.1),
                _mm512_shuffle_f32x4::<0x88>(odd.0, odd.1),
                _mm512_shuffle_f32x4::<0xdd>(even.0, even.1),
                _mm512_shuffle_f32x4::<0xdd>(odd.0, odd.1),
            ];
            for (l, column) in columns.into_iter().enumerate() {
                _mm512_storeu_ps(out.add((4 * l + i) * out_ld), column);
            }
        }
    }

    #[inline(always)]
    unsafe fn interleave(a: __m512, b: __m512) -> [__m512; 2] {
        let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
        [
            _mm512_permutex2var_ps(a, low, b),
            _mm512_permutex2var_ps(a, high, b),
        ]
    }
    #[inline(always)]
    unsafe fn deinterleave(a: __m512, b: __m512) -> [__m512; 2] {
        let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
        [
            _mm512_permutex2var_ps(a, even, b),
            _mm512_permutex2var_ps(a, odd, b),
        ]
    }

    #[inline(always)]
    unsafe fn splat_i(x: i32) -> __m512i {
        _mm512_set1_epi32(x)
    }
    #[inline(always)]
    unsafe fn load_i(p: *const i32) -> __m512i {
        _mm512_loadu_si512(p.cast())
    }
    #[inline(always)]
    unsafe fn store_i(p: *mut i32, x: __m512i) {
        _mm512_storeu_si512(p.cast(), x);
    }
    #[inline(always)]
    unsafe fn to_f(x: __m512i) -> __m512 {
        _mm512_cvtepi32_ps(x)
    }
    #[inline(always)]
    unsafe fn to_i(x: __m512) -> __m512i {
        _mm512_cvtps_epi32(x)
    }
    #[inline(always)]
    unsafe fn dot4(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        D::dot4(acc, a, b)
    }
    #[inline(always)]
    unsafe fn dot2(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        D::dot2(acc, a, b)
    }
    #[inline(always)]
    unsafe fn split_i8(x: __m512i) -> [__m512i; 2] {
        split(x)
    }

    #[inline(always)]
    unsafe fn load_u8(p: *const u8, n: usize) -> __m512i {
        _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask16(n), p.cast()))
    }
    #[inline(always)]
    unsafe fn or_shifted<const SHIFT: u32>(a: __m512i, b: __m512i) -> __m512i {
        _mm512_or_si512(a, _mm512_slli_epi32::<SHIFT>(b))
    }
    #[inline(always)]
    unsafe fn pair_i16(a: __m512i, b: __m512i) -> __m512i {
        _mm512_mask_blend_epi16(0xaaaa_aaaa, a, _mm512_slli_epi32::<16>(b))
    }
    #[inline(always)]
    unsafe fn sub_i(a: __m512i, b: __m512i) -> __m512i {
        _mm512_sub_epi32(a, b)
    }
    #[inline(always)]
    unsafe fn keep_n(x: __m512i, n: usize) -> __m512i {
        _mm512_maskz_mov_epi32(mask16(n), x)
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8, n: usize) -> __m512i {
        _mm512_maskz_loadu_epi8(u64::MAX >> (64 - n), p.cast())
    }
    #[inline(always)]
    unsafe fn xor_i(a: __m512i, b: __m512i) -> __m512i {
        _mm512_xor_si512(a, b)
    }
    #[inline(always)]
    unsafe fn sum_i8(acc: __m512i, x: __m512i) -> __m512i {
        // Products of two bytes stay below the saturation of `vpmaddubsw`.
        let pairs = _mm512_maddubs_epi16(_mm512_set1_epi8(1), x);
        _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
    }

    #[inline(always)]
    unsafe fn store_i16(p: *mut i16, x: [__m512i; 2]) {
        let packed = _mm512_packs_epi32(x[0], x[1]);
        // Packing works within lanes of 128 bits: quarters of the first vector alternate with those of the second.
        let order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
        _mm512_storeu_si512(p.cast(), _mm512_permutexvar_epi64(order, packed));
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, n: usize, x: __m512) {
        let halves = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x);
        if n == 16 {
            _mm256_storeu_si256(p.cast(), halves);
        } else {
            _mm256_mask_storeu_epi16(p.cast(), mask16(n), halves);
        }
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, x: [__m512; 4]) {
        let low = _mm512_packs_epi32(_mm512_cvtps_epi32(x[0]), _mm512_cvtps_epi32(x[1]));
        let high = _mm512_packs_epi32(_mm512_cvtps_epi32(x[2]), _mm512_cvtps_epi32(x[3]));
        let packed = _mm512_packs_epi16(low, high);
        // As `store_u8`.
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        _mm512_storeu_si512(p.cast(), _mm512_permutexvar_epi32(order, packed));
    }
    #[inline(always)]
    unsafe fn store_i8_n(p: *mut i8, n: usize, x: __m512) {
        let bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x));
        if n == 16 {
            _mm_storeu_si128(p.cast(), bytes);
        } else {
            _mm_mask_storeu_epi8(p, mask16(n), bytes);
        }
    }
    #[inline(always)]
    unsafe fn store_u8(p: *mut u8, x: [__m512i; 4]) {
        let (low, high) = (
            _mm512_packs_epi32(x[0], x[1]),
            _mm512_packs_epi32(x[2], x[3]),
        );
        let packed = _mm512_packus_epi16(low, high);
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        _mm512_storeu_si512(p.cast(), _mm512_permutexvar_epi32(order, packed));
    }

    #[inline(always)]
    unsafe fn f16_to_f32(p: *const u8, n: usize) -> [Self::F; 2] {
        let low = n.min(16);
        [
            vector_of_f16(p, low),
            vector_of_f16(p.add(2 * low), n - low),
        ]
    }
    #[inline(always)]
    unsafe fn bf16_to_f32(p: *const u8, n: usize) -> [Self::F; 2] {
        let low = n.min(16);
        [
            vector_of_bf16(p, low),
            vector_of_bf16(p.add(2 * low), n - low),
        ]
    }
    #[inline(always)]
    unsafe fn i8_to_f32(p: *const u8, n: usize) -> [Self::F; 2] {
        let low = n.min(16);
        [vector_of_i8(p, low), vector_of_i8(p.add(low), n - low)]
    }
    /// Two look-ups, of which the index is the nibble: the permutation reads no other bits.
    #[inline(always)]
    unsafe fn i4_to_f32(p: *const u8, n: usize) -> [__m512; 2] {
        let values = _mm512_setr_ps(
            0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0,
        );
        let x = Self::load_u8(p, n);
        [
            _mm512_permutexvar_ps(x, values),
            _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(x), values),
        ]
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(p.cast());
    }
}
