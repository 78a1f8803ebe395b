//! Vectors of 128 bits.

use std::arch::aarch64::*;
use std::arch::asm;
use std::marker::PhantomData;

use crate::exp2::{CENTRED_4, CENTRED_5, ROUNDER};
use crate::simd::{Dot4, Simd};

/// Multiplication of bytes. The intrinsics are not stable.
pub(super) trait Dot {
    const DOT4: Dot4;
    unsafe fn dot4(acc: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t;
}

/// The instruction of `dot4`, by name.
macro_rules! dot4 {
    ($op:literal) => {
        #[inline(always)]
        unsafe fn dot4(mut acc: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
            asm!(
                concat!($op, " {acc:v}.4s, {a:v}.16b, {b:v}.16b"),
                acc = inout(vreg) acc,
                a = in(vreg) a,
                b = in(vreg) b,
                options(pure, nomem, nostack, preserves_flags),
            );
            acc
        }
    };
}

/// With I8MM: bytes without sign times bytes with it.
pub(super) enum I8mm {}

impl Dot for I8mm {
    const DOT4: Dot4 = Dot4::Unsigned;
    dot4!("usdot");
}

/// With DotProd: both have a sign.
pub(super) enum DotProd {}

impl Dot for DotProd {
    const DOT4: Dot4 = Dot4::Signed;
    dot4!("sdot");
}

/// Without either.
pub(super) enum Plain {}

impl Dot for Plain {
    const DOT4: Dot4 = Dot4::None;
    #[inline(always)]
    unsafe fn dot4(acc: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        let a = vreinterpretq_s16_s32(a);
        let even = vreinterpretq_s32_s16(vandq_s16(a, vdupq_n_s16(0xff)));
        let odd = vreinterpretq_u16_s16(a);
        let odd = vreinterpretq_s32_u16(vshrq_n_u16::<8>(odd));
        let [b_even, b_odd] = split(b);
        dot2(dot2(acc, even, b_even), odd, b_odd)
    }
}

#[inline(always)]
unsafe fn dot2(acc: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
    let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
    let low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
    vaddq_s32(acc, vpaddq_s32(low, vmull_high_s16(a, b)))
}

#[inline(always)]
unsafe fn split(x: int32x4_t) -> [int32x4_t; 2] {
    let x = vreinterpretq_s16_s32(x);
    [
        vreinterpretq_s32_s16(vshrq_n_s16::<8>(vshlq_n_s16::<8>(x))),
        vreinterpretq_s32_s16(vshrq_n_s16::<8>(x)),
    ]
}

/// The first `n` of `N` bytes; those of `fill` after them.
#[inline(always)]
unsafe fn padded<const N: usize>(p: *const u8, n: usize, fill: [u8; N]) -> [u8; N] {
    if n == N {
        return p.cast::<[u8; N]>().read();
    }
    let mut all = fill;
    std::ptr::copy_nonoverlapping(p, all.as_mut_ptr(), n);
    all
}

#[inline(always)]
unsafe fn from_f16(x: uint16x4_t) -> float32x4_t {
    let out: float32x4_t;
    asm!(
        "fcvtl {out:v}.4s, {x:v}.4h",
        out = lateout(vreg) out,
        x = in(vreg) x,
        options(pure, nomem, nostack, preserves_flags),
    );
    out
}

#[inline(always)]
unsafe fn halves(p: *const u8, n: usize) -> uint16x8_t {
    vreinterpretq_u16_u8(vld1q_u8(padded::<16>(p, 2 * n, [0; 16]).as_ptr()))
}

/// A polynomial times `top`, and the power of two that it is to be multiplied by. The biased exponent of the power is 0 from
/// -127 on, and so is the power.
#[inline(always)]
unsafe fn exp2_factors<const DEGREE: usize>(x: float32x4_t, top: f32) -> [float32x4_t; 2] {
    let rounder = vdupq_n_f32(ROUNDER);
    let x = vmaxq_f32(vdupq_n_f32(-127.0), x);
    let shifted = vaddq_f32(x, rounder);
    let power = vreinterpretq_f32_s32(vshlq_n_s32::<23>(vreinterpretq_s32_f32(shifted)));
    let r = vsubq_f32(x, vsubq_f32(shifted, rounder));
    let coefficients: &[f32] = if DEGREE == 4 { &CENTRED_4 } else { &CENTRED_5 };
    let mut p = vdupq_n_f32(coefficients[DEGREE - 1] * top);
    for c in coefficients[..DEGREE - 1].iter().rev() {
        p = vfmaq_f32(vdupq_n_f32(c * top), p, r);
    }
    [vfmaq_f32(vdupq_n_f32(top), p, r), power]
}

/// Advanced SIMD, with the integer products of `D`.
pub(super) struct Neon<D>(PhantomData<D>);

impl<D: Dot> Simd for Neon<D> {
    type F = float32x4_t;
    type I = int32x4_t;

    const LANES: usize = 4;
    const DOT4: Dot4 = D::DOT4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> float32x4_t {
        vdupq_n_f32(x)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> float32x4_t {
        vld1q_f32(p)
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: float32x4_t) {
        vst1q_f32(p, x);
    }
    #[inline(always)]
    unsafe fn load_n(p: *const f32, n: usize, fill: f32) -> float32x4_t {
        if n == 4 {
            return vld1q_f32(p);
        }
        let mut all = [fill; 4];
        let to = all.as_mut_ptr().cast::<u8>();
        std::ptr::copy_nonoverlapping(p.cast::<u8>(), to, 4 * n);
        vld1q_f32(all.as_ptr())
    }
    #[inline(always)]
    unsafe fn store_n(p: *mut f32, n: usize, x: float32x4_t) {
        if n == 4 {
            return vst1q_f32(p, x);
        }
        let mut all = [0f32; 4];
        vst1q_f32(all.as_mut_ptr(), x);
        std::ptr::copy_nonoverlapping(all.as_ptr().cast::<u8>(), p.cast::<u8>(), 4 * n);
    }
    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vaddq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vsubq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vmulq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vdivq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        vfmaq_f32(c, a, b)
    }
    #[inline(always)]
    unsafe fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vmaxnmq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        vminq_f32(a, b)
    }
    #[inline(always)]
    unsafe fn abs(x: float32x4_t) -> float32x4_t {
        vabsq_f32(x)
    }
    #[inline(always)]
    unsafe fn copysign(magnitude: float32x4_t, sign: float32x4_t) -> float32x4_t {
        vbslq_f32(vdupq_n_u32(0x8000_0000), sign, magnitude)
    }
    #[inline(always)]
    unsafe fn select_eq(
        a: float32x4_t,
        b: float32x4_t,
        yes: float32x4_t,
        no: float32x4_t,
    ) -> float32x4_t {
        vbslq_f32(vceqq_f32(a, b), yes, no)
    }
    #[inline(always)]
    unsafe fn round(x: float32x4_t) -> float32x4_t {
        vrndnq_f32(x)
    }
    #[inline(always)]
    unsafe fn pow2(n: float32x4_t) -> float32x4_t {
        let biased = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
        vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
    }
    #[inline(always)]
    unsafe fn exp2<const DEGREE: usize>(x: float32x4_t, top: f32) -> float32x4_t {
        let [p, power] = exp2_factors::<DEGREE>(x, top);
        vmulq_f32(p, power)
    }
    #[inline(always)]
    unsafe fn exp2_add<const DEGREE: usize>(
        x: float32x4_t,
        top: f32,
        sum: float32x4_t,
    ) -> float32x4_t {
        let [p, power] = exp2_factors::<DEGREE>(x, top);
        vfmaq_f32(sum, p, power)
    }

    #[inline(always)]
    unsafe fn across<const SUM: bool>(rows: *const f32) -> float32x4_t {
        let (a, b) = (vld1q_f32(rows), vld1q_f32(rows.add(4)));
        let (c, d) = (vld1q_f32(rows.add(8)), vld1q_f32(rows.add(12)));
        if SUM {
            vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d))
        } else {
            vpmaxq_f32(vpmaxq_f32(a, b), vpmaxq_f32(c, d))
        }
    }

    #[inline(always)]
    unsafe fn largest(x: float32x4_t) -> f32 {
        vmaxvq_f32(x)
    }
    #[inline(always)]
    unsafe fn butterfly<const HALF: usize>(x: float32x4_t) -> float32x4_t {
        let (other, minus) = match HALF {
            1 => (vrev64q_f32(x), [0, u32::MAX, 0, u32::MAX]),
            _ => (vextq_f32::<2>(x, x), [0, 0, u32::MAX, u32::MAX]),
        };
        vbslq_f32(
            vld1q_u32(minus.as_ptr()),
            vsubq_f32(other, x),
            vaddq_f32(other, x),
        )
    }

    #[inline(always)]
    unsafe fn transpose(rows: *const f32, ld: usize, out: *mut f32, out_ld: usize) {
        let row = |i: usize| vld1q_f32(rows.add(i * ld));
        let (a, b, c, d) = (row(0), row(1), row(2), row(3));
        let even = [
            vreinterpretq_f64_f32(vtrn1q_f32(a, b)),
            vreinterpretq_f64_f32(vtrn1q_f32(c, d)),
        ];
        let odd = [
            vreinterpretq_f64_f32(vtrn2q_f32(a, b)),
            vreinterpretq_f64_f32(vtrn2q_f32(c, d)),
        ];
        let columns = [
            vtrn1q_f64(even[0], even[1]),
            vtrn1q_f64(odd[0], odd[1]),
            vtrn2q_f64(even[0], even[1]),
            vtrn2q_f64(odd[0], odd[1]),
        ];
        for (i, column) in columns.into_iter().enumerate() {
            vst1q_f32(out.add(i * out_ld), vreinterpretq_f32_f64(column));
        }
    }

    #[inline(always)]
    unsafe fn interleave(a: float32x4_t, b: float32x4_t) -> [float32x4_t; 2] {
        [vzip1q_f32(a, b), vzip2q_f32(a, b)]
    }
    #[inline(always)]
    unsafe fn deinterleave(a: float32x4_t, b: float32x4_t) -> [float32x4_t; 2] {
        [vuzp1q_f32(a, b), vuzp2q_f32(a, b)]
    }

    #[inline(always)]
    unsafe fn splat_i(x: i32) -> int32x4_t {
        vdupq_n_s32(x)
    }
    #[inline(always)]
    unsafe fn load_i(p: *const i32) -> int32x4_t {
        vld1q_s32(p)
    }
    #[inline(always)]
    unsafe fn store_i(p: *mut i32, x: int32x4_t) {
        vst1q_s32(p, x);
    }
    #[inline(always)]
    unsafe fn to_f(x: int32x4_t) -> float32x4_t {
        vcvtq_f32_s32(x)
    }
    #[inline(always)]
    unsafe fn to_i(x: float32x4_t) -> int32x4_t {
        vcvtnq_s32_f32(x)
    }
    #[inline(always)]
    unsafe fn dot4(acc: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        D::dot4(acc, a, b)
    }
    #[inline(always)]
    unsafe fn dot2(acc: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        dot2(acc, a, b)
    }
    #[inline(always)]
    unsafe fn split_i8(x: int32x4_t) -> [int32x4_t; 2] {
        split(x)
    }

    #[inline(always)]
    unsafe fn load_u8(p: *const u8, n: usize) -> int32x4_t {
        let bytes = u32::from_ne_bytes(padded::<4>(p, n, [0; 4]));
        let wide = vmovl_u8(vcreate_u8(u64::from(bytes)));
        vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(wide)))
    }
    #[inline(always)]
    unsafe fn or_shifted<const SHIFT: u32>(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        vorrq_s32(a, vshlq_s32(b, vdupq_n_s32(SHIFT as i32)))
    }
    #[inline(always)]
    unsafe fn pair_i16(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        vorrq_s32(vandq_s32(a, vdupq_n_s32(0xffff)), vshlq_n_s32::<16>(b))
    }
    #[inline(always)]
    unsafe fn sub_i(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        vsubq_s32(a, b)
    }
    #[inline(always)]
    unsafe fn keep_n(x: int32x4_t, n: usize) -> int32x4_t {
        let lanes = vld1q_s32([0, 1, 2, 3].as_ptr());
        let kept = vcltq_s32(lanes, vdupq_n_s32(n as i32));
        vandq_s32(x, vreinterpretq_s32_u32(kept))
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8, n: usize) -> int32x4_t {
        vreinterpretq_s32_u8(vld1q_u8(padded::<16>(p, n, [0; 16]).as_ptr()))
    }
    #[inline(always)]
    unsafe fn xor_i(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        veorq_s32(a, b)
    }
    #[inline(always)]
    unsafe fn sum_i8(acc: int32x4_t, x: int32x4_t) -> int32x4_t {
        vpadalq_s16(acc, vpaddlq_s8(vreinterpretq_s8_s32(x)))
    }

    #[inline(always)]
    unsafe fn store_i16(p: *mut i16, x: [int32x4_t; 2]) {
        vst1q_s16(p, vcombine_s16(vqmovn_s32(x[0]), vqmovn_s32(x[1])));
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, n: usize, x: float32x4_t) {
        let halves: uint16x4_t;
        asm!(
            "fcvtn {halves:v}.4h, {x:v}.4s",
            halves = lateout(vreg) halves,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
        let bytes = vget_lane_u64::<0>(vreinterpret_u64_u16(halves)).to_ne_bytes();
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), p.cast(), 2 * n);
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, x: [float32x4_t; 4]) {
        let half = |a: float32x4_t, b: float32x4_t| {
            let (a, b) = (vcvtnq_s32_f32(a), vcvtnq_s32_f32(b));
            vqmovn_s16(vcombine_s16(vqmovn_s32(a), vqmovn_s32(b)))
        };
        vst1q_s8(p, vcombine_s8(half(x[0], x[1]), half(x[2], x[3])));
    }
    #[inline(always)]
    unsafe fn store_i8_n(p: *mut i8, n: usize, x: float32x4_t) {
        let words = vqmovn_s32(vcvtnq_s32_f32(x));
        let bytes = vqmovn_s16(vcombine_s16(words, words));
        let bytes = vget_lane_u32::<0>(vreinterpret_u32_s8(bytes)).to_ne_bytes();
        if n == 4 {
            p.cast::<[u8; 4]>().write(bytes);
        } else {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), p.cast(), n);
        }
    }
    #[inline(always)]
    unsafe fn store_u8(p: *mut u8, x: [int32x4_t; 4]) {
        let low = vcombine_s16(vqmovn_s32(x[0]), vqmovn_s32(x[1]));
        let high = vcombine_s16(vqmovn_s32(x[2]), vqmovn_s32(x[3]));
        vst1q_u8(p, vcombine_u8(vqmovun_s16(low), vqmovun_s16(high)));
    }

    #[inline(always)]
    unsafe fn f16_to_f32(p: *const u8, n: usize) -> [float32x4_t; 2] {
        let x = halves(p, n);
        [from_f16(vget_low_u16(x)), from_f16(vget_high_u16(x))]
    }
    #[inline(always)]
    unsafe fn bf16_to_f32(p: *const u8, n: usize) -> [float32x4_t; 2] {
        let x = halves(p, n);
        [
            vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(x))),
            vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_high_u16(x))),
        ]
    }
    #[inline(always)]
    unsafe fn i8_to_f32(p: *const u8, n: usize) -> [float32x4_t; 2] {
        let x = i64::from_ne_bytes(padded::<8>(p, n, [0; 8]));
        let x = vmovl_s8(vcreate_s8(x as u64));
        [
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(x))),
            vcvtq_f32_s32(vmovl_high_s16(x)),
        ]
    }
    #[inline(always)]
    unsafe fn i4_to_f32(p: *const u8, n: usize) -> [float32x4_t; 2] {
        let bytes = u32::from_ne_bytes(padded::<4>(p, n, [0; 4]));
        let x = vreinterpret_s8_u32(vdup_n_u32(bytes));
        let even = vshr_n_s8::<4>(vshl_n_s8::<4>(x));
        let widen = |x: int8x8_t| vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(x))));
        [widen(even), widen(vshr_n_s8::<4>(x))]
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        asm!("prfm pldl1keep, [{p}]", p = in(reg) p, options(readonly, nostack, preserves_flags));
    }
}
