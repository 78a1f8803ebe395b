//! The vector operations that the kernels of [`super::generic`] are written in (eq. 18 of docs/math.md).

/// Sums of four products of bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dot4 {
    /// There is no such instruction: sums of two products of i16 have to do.
    None,
    /// u8 and i8.
    Unsigned,
    /// i8 and i8, which AArch64 has.
    #[cfg_attr(not(target_arch = "aarch64"), allow(dead_code))]
    Signed,
}

/// The vectors of one instruction set. Every function needs that the processor runs it, and pointers that are valid for
/// what is read or written; none needs alignment.
///
/// The functions are inlined into kernels that enable the instruction set (`#[target_feature]`), so that an
/// implementation consists of one or two instructions.
pub(super) trait Simd {
    /// Vector of f32.
    type F: Copy;
    /// Vector of i32, with as many elements.
    type I: Copy;

    /// Elements of a vector.
    const LANES: usize;
    /// Which bytes [`Simd::dot4`] multiplies.
    const DOT4: Dot4;

    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn store(p: *mut f32, x: Self::F);
    /// The first `n <= LANES` elements; the others are `fill`. Memory behind them is not touched.
    unsafe fn load_n(p: *const f32, n: usize, fill: f32) -> Self::F;
    unsafe fn store_n(p: *mut f32, n: usize, x: Self::F);
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger one; `b` if `a` is NaN, so that a running maximum in `b` skips NaN.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// The smaller one; NaN if `b` is NaN.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn abs(x: Self::F) -> Self::F;
    /// `magnitude >= 0` with the sign of `sign`.
    unsafe fn copysign(magnitude: Self::F, sign: Self::F) -> Self::F;
    /// `a == b ? yes : no`, element by element.
    unsafe fn select_eq(a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F;
    /// To the nearest integer, ties to even.
    unsafe fn round(x: Self::F) -> Self::F;
    /// `2^n` for integers `n` in `-126..=127`.
    unsafe fn pow2(n: Self::F) -> Self::F;
    /// `top * 2^x` for `x <= 0`: a polynomial of degree `DEGREE` (4 or 5). Results below `top * 2^-126` may be 0, that of
    /// -infinity is, that of 0 is `top`; NaN stays NaN.
    unsafe fn exp2<const DEGREE: usize>(x: Self::F, top: f32) -> Self::F;
    /// The same plus `sum`, which 2^-infinity leaves as it is.
    unsafe fn exp2_add<const DEGREE: usize>(x: Self::F, top: f32, sum: Self::F) -> Self::F;

    /// Element `i` is the sum (`SUM`) or the maximum of row `i` of `LANES` rows of `LANES` elements.
    unsafe fn across<const SUM: bool>(rows: *const f32) -> Self::F;
    /// The largest element; not NaN.
    unsafe fn largest(x: Self::F) -> f32;
    /// A stage of the Hadamard transform: elements `i` and `i + HALF` become their sum and their difference, for each `i` without
    /// the bit `HALF < LANES`, a power of two.
    unsafe fn butterfly<const HALF: usize>(x: Self::F) -> Self::F;
    /// Transposes `LANES` rows of 32-bit elements, `ld` apart, to rows `out_ld` apart.
    unsafe fn transpose(rows: *const f32, ld: usize, out: *mut f32, out_ld: usize);
    /// `a0 b0 a1 b1 …`: the lower half, then the upper half.
    unsafe fn interleave(a: Self::F, b: Self::F) -> [Self::F; 2];
    /// The elements at even places of `a b`, then those at odd ones.
    unsafe fn deinterleave(a: Self::F, b: Self::F) -> [Self::F; 2];

    unsafe fn splat_i(x: i32) -> Self::I;
    unsafe fn load_i(p: *const i32) -> Self::I;
    unsafe fn store_i(p: *mut i32, x: Self::I);
    unsafe fn to_f(x: Self::I) -> Self::F;
    /// To the nearest integer, ties to even; any integer for NaN.
    unsafe fn to_i(x: Self::F) -> Self::I;
    /// Sum of four products of bytes, exact, added to each element; `b` is signed.
    unsafe fn dot4(acc: Self::I, a: Self::I, b: Self::I) -> Self::I;
    /// Sum of two products of i16, exact, added to each element.
    unsafe fn dot2(acc: Self::I, a: Self::I, b: Self::I) -> Self::I;
    /// The bytes 0 and 2 of each element, and the bytes 1 and 3, each sign-extended to i16.
    unsafe fn split_i8(x: Self::I) -> [Self::I; 2];

    /// `LANES` bytes, zero-extended, of which only the first `n` are read; the others are 0.
    unsafe fn load_u8(p: *const u8, n: usize) -> Self::I;
    /// `a | b << SHIFT` for `a` that is zero-extended.
    unsafe fn or_shifted<const SHIFT: u32>(a: Self::I, b: Self::I) -> Self::I;
    /// The pairs of i16 `(a, b)` of which the arguments are the low halves.
    unsafe fn pair_i16(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn sub_i(a: Self::I, b: Self::I) -> Self::I;
    /// The first `n` elements; the others become 0.
    unsafe fn keep_n(x: Self::I, n: usize) -> Self::I;
    /// `4 * LANES` bytes, of which only the first `n` are read; the others are 0.
    unsafe fn load_bytes(p: *const u8, n: usize) -> Self::I;
    unsafe fn xor_i(a: Self::I, b: Self::I) -> Self::I;
    /// Adds the four i8 of each element.
    unsafe fn sum_i8(acc: Self::I, x: Self::I) -> Self::I;

    /// Stores `2 * LANES` elements as i16, saturated.
    unsafe fn store_i16(p: *mut i16, x: [Self::I; 2]);
    /// Stores `4 * LANES` elements as u8, saturated.
    unsafe fn store_u8(p: *mut u8, x: [Self::I; 4]);
    /// Rounds the first `n <= LANES` elements to FP16, ties to even, and stores them.
    unsafe fn store_f16(p: *mut u16, n: usize, x: Self::F);
    /// Rounds `4 * LANES` elements to i8 and stores them.
    unsafe fn store_i8(p: *mut i8, x: [Self::F; 4]);
    /// Rounds the first `n <= LANES` elements to i8 and stores them.
    unsafe fn store_i8_n(p: *mut i8, n: usize, x: Self::F);

    /// The first `n` of `2 * LANES` elements as f32 (the others are 0). Only those are read.
    unsafe fn f16_to_f32(p: *const u8, n: usize) -> [Self::F; 2];
    unsafe fn bf16_to_f32(p: *const u8, n: usize) -> [Self::F; 2];
    unsafe fn i8_to_f32(p: *const u8, n: usize) -> [Self::F; 2];
    /// The elements of the first `n` of `LANES` bytes: those of low nibbles, and those of high nibbles.
    unsafe fn i4_to_f32(p: *const u8, n: usize) -> [Self::F; 2];
    /// Asks for the cache line at `p`, which need not be valid.
    unsafe fn prefetch(p: *const u8);
}
