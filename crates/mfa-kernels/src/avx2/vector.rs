//! Vectors of 256 bits.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use crate::exp2::{CENTRED_4, CENTRED_5, EIGHTH_3, EIGHTHS, ROUNDER, ROUNDER_TO_EIGHTHS};
use crate::simd::{Dot4, Simd};

/// Multiplication of integers.
pub(super) trait Dot {
    const DOT4: Dot4;
    unsafe fn dot4(acc: __m256i, a: __m256i, b: __m256i) -> __m256i;
    unsafe fn dot2(acc: __m256i, a: __m256i, b: __m256i) -> __m256i;
}

/// With AVX-VNNI.
pub(super) enum Vnni {}

impl Dot for Vnni {
    const DOT4: Dot4 = Dot4::Unsigned;
    #[inline(always)]
    unsafe fn dot4(acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        _mm256_dpbusd_avx_epi32(acc, a, b)
    }
    #[inline(always)]
    unsafe fn dot2(acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        _mm256_dpwssd_avx_epi32(acc, a, b)
    }
}

/// Without it.
pub(super) enum Plain {}

impl Dot for Plain {
    const DOT4: Dot4 = Dot4::None;
    /// Bytes 0 and 2, then 1 and 3: `vpmaddubsw` would saturate.
    #[inline(always)]
    unsafe fn dot4(acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        let even = _mm256_and_si256(a, _mm256_set1_epi16(0xff));
        let odd = _mm256_srli_epi16::<8>(a);
        let [b_even, b_odd] = split(b);
        Self::dot2(Self::dot2(acc, even, b_even), odd, b_odd)
    }
    #[inline(always)]
    unsafe fn dot2(acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        _mm256_add_epi32(acc, _mm256_madd_epi16(a, b))
    }
}

#[inline(always)]
unsafe fn split(x: __m256i) -> [__m256i; 2] {
    [
        _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x)),
        _mm256_srai_epi16::<8>(x),
    ]
}

/// All bits of the first `n` of eight elements.
#[inline(always)]
unsafe fn mask8(n: usize) -> __m256i {
    const BITS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    _mm256_loadu_si256(BITS.as_ptr().add(8 - n).cast())
}

/// The first `n` of `N` bytes; zeros after them.
#[inline(always)]
unsafe fn padded<const N: usize>(p: *const u8, n: usize) -> [u8; N] {
    if n == N {
        return p.cast::<[u8; N]>().read();
    }
    let mut bytes = [0; N];
    std::ptr::copy_nonoverlapping(p, bytes.as_mut_ptr(), n);
    bytes
}

#[inline(always)]
unsafe fn padded16(p: *const u8, n: usize) -> __m128i {
    _mm_loadu_si128(padded::<16>(p, n).as_ptr().cast())
}

#[inline(always)]
unsafe fn padded8(p: *const u8, n: usize) -> __m128i {
    _mm_cvtsi64_si128(i64::from_ne_bytes(padded::<8>(p, n)))
}

#[inline(always)]
unsafe fn vector_of_f16(p: *const u8, n: usize) -> __m256 {
    _mm256_cvtph_ps(padded16(p, 2 * n))
}

#[inline(always)]
unsafe fn vector_of_bf16(p: *const u8, n: usize) -> __m256 {
    let x = _mm256_cvtepu16_epi32(padded16(p, 2 * n));
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x))
}

#[inline(always)]
unsafe fn vector_of_i8(p: *const u8, n: usize) -> __m256 {
    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(padded8(p, n)))
}

/// A polynomial times `top`, and the power of two that it is to be multiplied by. The biased exponent of the power is 0 from
/// -127 on, and so is the power.
#[inline(always)]
unsafe fn exp2_factors<const DEGREE: usize>(x: __m256, top: f32) -> [__m256; 2] {
    let magic = _mm256_set1_ps(ROUNDER);
    let x = _mm256_max_ps(_mm256_set1_ps(-127.0), x);
    let shifted = _mm256_add_ps(x, magic);
    let power = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(shifted)));
    // Not `x - (shifted - magic)`, for which compilers keep `-magic` in another register.
    let r = _mm256_add_ps(x, _mm256_sub_ps(magic, shifted));
    let coefficients: &[f32] = if DEGREE == 4 { &CENTRED_4 } else { &CENTRED_5 };
    let mut p = _mm256_set1_ps(coefficients[DEGREE - 1] * top);
    for c in coefficients[..DEGREE - 1].iter().rev() {
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(c * top));
    }
    [_mm256_fmadd_ps(p, r, _mm256_set1_ps(top)), power]
}

/// The same as a polynomial of `x` less its nearest eighth, and `top * 2^eighth`, from a table: fewer products, in
/// exchange for operations of other ports. The power is `top * 2^-127` from -127 on, next to nothing beside what it is added to.
#[inline(always)]
unsafe fn exp2_factors_of_eighths(x: __m256, top: f32) -> [__m256; 2] {
    let mut table = [0i32; 8];
    for (i, (entry, power)) in table.iter_mut().zip(EIGHTHS).enumerate() {
        // Less the eighths that the shifted integer has in the highest bits of its fraction.
        *entry = ((power * f64::from(top)) as f32).to_bits() as i32 - ((i as i32) << 20);
    }
    let table = _mm256_loadu_si256(table.as_ptr().cast());
    let magic = _mm256_set1_ps(ROUNDER_TO_EIGHTHS);
    let x = _mm256_max_ps(_mm256_set1_ps(-127.0), x);
    let shifted = _mm256_add_ps(x, magic);
    let eighths = _mm256_castps_si256(shifted);
    let power = _mm256_add_epi32(
        _mm256_slli_epi32::<20>(eighths),
        _mm256_permutevar8x32_epi32(table, eighths),
    );
    let r = _mm256_add_ps(x, _mm256_sub_ps(magic, shifted));
    let mut p = _mm256_set1_ps(EIGHTH_3[2]);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(EIGHTH_3[1]));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(EIGHTH_3[0]));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0));
    [p, _mm256_castsi256_ps(power)]
}

/// AVX2 with FMA and F16C, with the integer products of `D`.
pub(super) struct Ymm<D>(PhantomData<D>);

impl<D: Dot> Simd for Ymm<D> {
    type F = __m256;
    type I = __m256i;

    const LANES: usize = 8;
    const DOT4: Dot4 = D::DOT4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        _mm256_set1_ps(x)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m256 {
        _mm256_loadu_ps(p)
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: __m256) {
        _mm256_storeu_ps(p, x);
    }
    #[inline(always)]
    unsafe fn load_n(p: *const f32, n: usize, fill: f32) -> __m256 {
        if n == 8 {
            return _mm256_loadu_ps(p);
        }
        let mask = mask8(n);
        let x = _mm256_maskload_ps(p, mask);
        _mm256_blendv_ps(_mm256_set1_ps(fill), x, _mm256_castsi256_ps(mask))
    }
    #[inline(always)]
    unsafe fn store_n(p: *mut f32, n: usize, x: __m256) {
        if n == 8 {
            _mm256_storeu_ps(p, x);
        } else {
            _mm256_maskstore_ps(p, mask8(n), x);
        }
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        _mm256_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        _mm256_sub_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        _mm256_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        _mm256_div_ps(a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        _mm256_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        _mm256_max_ps(a, b)
    }
    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        _mm256_min_ps(a, b)
    }
    #[inline(always)]
    unsafe fn abs(x: __m256) -> __m256 {
        _mm256_andnot_ps(_mm256_set1_ps(-0.0), x)
    }
    #[inline(always)]
    unsafe fn copysign(magnitude: __m256, sign: __m256) -> __m256 {
        _mm256_or_ps(magnitude, _mm256_and_ps(sign, _mm256_set1_ps(-0.0)))
    }
    #[inline(always)]
    unsafe fn select_eq(a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
        _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_EQ_OQ>(a, b))
    }
    #[inline(always)]
    unsafe fn round(x: __m256) -> __m256 {
        _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x)
    }
    #[inline(always)]
    unsafe fn pow2(n: __m256) -> __m256 {
        let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
    }
    #[inline(always)]
    unsafe fn exp2<const DEGREE: usize>(x: __m256, top: f32) -> __m256 {
        let [p, power] = exp2_factors::<DEGREE>(x, top);
        _mm256_mul_ps(p, power)
    }
    #[inline(always)]
    unsafe fn exp2_add<const DEGREE: usize>(x: __m256, top: f32, sum: __m256) -> __m256 {
        let [p, power] = if DEGREE == 5 {
            exp2_factors_of_eighths(x, top)
        } else {
            exp2_factors::<DEGREE>(x, top)
        };
        _mm256_fmadd_ps(p, power, sum)
    }

    #[inline(always)]
    unsafe fn across<const SUM: bool>(rows: *const f32) -> __m256 {
        let row = |i: usize| _mm256_loadu_ps(rows.add(8 * i));
        let op = |a: __m256, b: __m256| {
            if SUM {
                _mm256_add_ps(a, b)
            } else {
                _mm256_max_ps(a, b)
            }
        };
        // Within lanes of 128 bits: element i of lane l becomes what lane l of row i holds.
        let mut quads = [_mm256_setzero_ps(); 2];
        for (q, quad) in quads.iter_mut().enumerate() {
            let (a, b) = (row(4 * q), row(4 * q + 1));
            let (c, d) = (row(4 * q + 2), row(4 * q + 3));
            let ab = op(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let cd = op(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            let (ab, cd) = (_mm256_castps_pd(ab), _mm256_castps_pd(cd));
            *quad = op(
                _mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd)),
                _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd)),
            );
        }
        op(
            _mm256_permute2f128_ps::<0x20>(quads[0], quads[1]),
            _mm256_permute2f128_ps::<0x31>(quads[0], quads[1]),
        )
    }

    #[inline(always)]
    unsafe fn largest(x: __m256) -> f32 {
        let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
    }
    #[inline(always)]
    unsafe fn butterfly<const HALF: usize>(x: __m256) -> __m256 {
        let (other, sign) = match HALF {
            1 => (
                _mm256_permute_ps::<0b10_11_00_01>(x),
                _mm256_setr_ps(1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0),
            ),
            2 => (
                _mm256_permute_ps::<0b01_00_11_10>(x),
                _mm256_setr_ps(1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -1.0, -1.0),
            ),
            _ => (
                _mm256_permute2f128_ps::<1>(x, x),
                _mm256_setr_ps(1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0),
            ),
        };
        // The product is exact.
        _mm256_fmadd_ps(x, sign, other)
    }

    #[inline(always)]
    unsafe fn transpose(rows: *const f32, ld: usize, out: *mut f32, out_ld: usize) {
        // 4 x 4 within lanes: quads[q][i] holds, in lane l, column 4 l + i of rows 4 q .. 4 q + 4.
        let mut quads = [[_mm256_setzero_ps(); 4]; 2];
        for (q, quad) in quads.iter_mut().enumerate() {
            let row = |i: usize| _mm256_loadu_ps(rows.add((4 * q + i) * ld));
            let (a, b, c, d) = (row(0), row(1), row(2), row(3));
            let ab = (
                _mm256_castps_pd(_mm256_unpacklo_ps(a, b)),
                _mm256_castps_pd(_mm256_unpackhi_ps(a, b)),
            );
            let cd = (
                _mm256_castps_pd(_mm256_unpacklo_ps(c, d)),
                _mm256_castps_pd(_mm256_unpackhi_ps(c, d)),
            );
            *quad = [
                _mm256_castpd_ps(_mm256_unpacklo_pd(ab.0, cd.0)),
                _mm256_castpd_ps(_mm256_unpackhi_pd(ab.0, cd.0)),
                _mm256_castpd_ps(_mm256_unpacklo_pd(ab.1, cd.1)),
                _mm256_castpd_ps(_mm256_unpackhi_pd(ab.1, cd.1)),
            ];
        }
        let [low, high] = quads;
        for (i, (a, b)) in low.into_iter().zip(high).enumerate() {
            _mm256_storeu_ps(out.add(i * out_ld), _mm256_permute2f128_ps::<0x20>(a, b));
            _mm256_storeu_ps(
                out.add((4 + i) * out_ld),
                _mm256_permute2f128_ps::<0x31>(a, b),
            );
        }
    }

    #[inline(always)]
    unsafe fn interleave(a: __m256, b: __m256) -> [__m256; 2] {
        let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        [
            _mm256_permute2f128_ps::<0x20>(low, high),
            _mm256_permute2f128_ps::<0x31>(low, high),
        ]
    }
    #[inline(always)]
    unsafe fn deinterleave(a: __m256, b: __m256) -> [__m256; 2] {
        let order = |x: __m256| {
            _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(_mm256_castps_pd(x)))
        };
        [
            order(_mm256_shuffle_ps::<0b10_00_10_00>(a, b)),
            order(_mm256_shuffle_ps::<0b11_01_11_01>(a, b)),
        ]
    }

    #[inline(always)]
    unsafe fn splat_i(x: i32) -> __m256i {
        _mm256_set1_epi32(x)
    }
    #[inline(always)]
    unsafe fn load_i(p: *const i32) -> __m256i {
        _mm256_loadu_si256(p.cast())
    }
    #[inline(always)]
    unsafe fn store_i(p: *mut i32, x: __m256i) {
        _mm256_storeu_si256(p.cast(), x);
    }
    #[inline(always)]
    unsafe fn to_f(x: __m256i) -> __m256 {
        _mm256_cvtepi32_ps(x)
    }
    #[inline(always)]
    unsafe fn to_i(x: __m256) -> __m256i {
        _mm256_cvtps_epi32(x)
    }
    #[inline(always)]
    unsafe fn dot4(acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        D::dot4(acc, a, b)
    }
    #[inline(always)]
    unsafe fn dot2(acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        D::dot2(acc, a, b)
    }
    #[inline(always)]
    unsafe fn split_i8(x: __m256i) -> [__m256i; 2] {
        split(x)
    }

    #[inline(always)]
    unsafe fn load_u8(p: *const u8, n: usize) -> __m256i {
        _mm256_cvtepu8_epi32(padded8(p, n))
    }
    #[inline(always)]
    unsafe fn or_shifted<const SHIFT: u32>(a: __m256i, b: __m256i) -> __m256i {
        _mm256_or_si256(a, _mm256_sll_epi32(b, _mm_cvtsi32_si128(SHIFT as i32)))
    }
    #[inline(always)]
    unsafe fn pair_i16(a: __m256i, b: __m256i) -> __m256i {
        _mm256_blend_epi16::<0xaa>(a, _mm256_slli_epi32::<16>(b))
    }
    #[inline(always)]
    unsafe fn sub_i(a: __m256i, b: __m256i) -> __m256i {
        _mm256_sub_epi32(a, b)
    }
    #[inline(always)]
    unsafe fn keep_n(x: __m256i, n: usize) -> __m256i {
        _mm256_and_si256(x, mask8(n))
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8, n: usize) -> __m256i {
        _mm256_loadu_si256(padded::<32>(p, n).as_ptr().cast())
    }
    #[inline(always)]
    unsafe fn xor_i(a: __m256i, b: __m256i) -> __m256i {
        _mm256_xor_si256(a, b)
    }
    #[inline(always)]
    unsafe fn sum_i8(acc: __m256i, x: __m256i) -> __m256i {
        // Sums of two bytes stay below the saturation of `vpmaddubsw`.
        let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), x);
        _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }

    #[inline(always)]
    unsafe fn store_i16(p: *mut i16, x: [__m256i; 2]) {
        let packed = _mm256_packs_epi32(x[0], x[1]);
        // Packing works within lanes of 128 bits: halves of the first vector alternate with those of the second.
        _mm256_storeu_si256(p.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(packed));
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, n: usize, x: __m256) {
        let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x);
        if n == 8 {
            return _mm_storeu_si128(p.cast(), halves);
        }
        let mut all = [0u16; 8];
        _mm_storeu_si128(all.as_mut_ptr().cast(), halves);
        std::ptr::copy_nonoverlapping(all.as_ptr(), p, n);
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, x: [__m256; 4]) {
        let low = _mm256_packs_epi32(_mm256_cvtps_epi32(x[0]), _mm256_cvtps_epi32(x[1]));
        let high = _mm256_packs_epi32(_mm256_cvtps_epi32(x[2]), _mm256_cvtps_epi32(x[3]));
        let packed = _mm256_packs_epi16(low, high);
        // As `store_u8`.
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        _mm256_storeu_si256(p.cast(), _mm256_permutevar8x32_epi32(packed, order));
    }
    #[inline(always)]
    unsafe fn store_i8_n(p: *mut i8, n: usize, x: __m256) {
        let x = _mm256_cvtps_epi32(x);
        let words = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
        let bytes = _mm_cvtsi128_si64(_mm_packs_epi16(words, words)).to_ne_bytes();
        if n == 8 {
            p.cast::<[u8; 8]>().write(bytes);
        } else {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), p.cast(), n);
        }
    }
    #[inline(always)]
    unsafe fn store_u8(p: *mut u8, x: [__m256i; 4]) {
        let (low, high) = (
            _mm256_packs_epi32(x[0], x[1]),
            _mm256_packs_epi32(x[2], x[3]),
        );
        let packed = _mm256_packus_epi16(low, high);
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        _mm256_storeu_si256(p.cast(), _mm256_permutevar8x32_epi32(packed, order));
    }

    #[inline(always)]
    unsafe fn f16_to_f32(p: *const u8, n: usize) -> [Self::F; 2] {
        let low = n.min(8);
        [
            vector_of_f16(p, low),
            vector_of_f16(p.add(2 * low), n - low),
        ]
    }
    #[inline(always)]
    unsafe fn bf16_to_f32(p: *const u8, n: usize) -> [Self::F; 2] {
        let low = n.min(8);
        [
            vector_of_bf16(p, low),
            vector_of_bf16(p.add(2 * low), n - low),
        ]
    }
    #[inline(always)]
    unsafe fn i8_to_f32(p: *const u8, n: usize) -> [Self::F; 2] {
        let low = n.min(8);
        [vector_of_i8(p, low), vector_of_i8(p.add(low), n - low)]
    }
    #[inline(always)]
    unsafe fn i4_to_f32(p: *const u8, n: usize) -> [__m256; 2] {
        let x = _mm256_cvtepi8_epi32(padded8(p, n));
        let even = _mm256_srai_epi32::<28>(_mm256_slli_epi32::<28>(x));
        [
            _mm256_cvtepi32_ps(even),
            _mm256_cvtepi32_ps(_mm256_srai_epi32::<4>(x)),
        ]
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(p.cast());
    }
}
