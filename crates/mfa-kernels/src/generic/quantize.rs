//! Rows to integers and back (eq. 44 of docs/math.md).

use super::pack::Square;
use crate::quantize::{RowError, RowScales, ScaleRule};
use crate::simd::Simd;

/// See [`crate::quantize::Extremes`].
#[inline(always)]
pub(crate) unsafe fn extremes<S: Simd>(
    x: *const f32,
    n: usize,
    group: usize,
    min: *mut f32,
    max: *mut f32,
) -> bool {
    let mut finite = S::splat(0.0);
    let (mut first, mut g) = (0, 0);
    if group <= MANY_GROUPS && group.is_multiple_of(S::LANES) {
        while first + group <= n {
            let count = S::LANES.min((n - first) / group);
            let (x, min, max) = (x.add(first), min.add(g), max.add(g));
            finite = S::add(finite, extremes_of_groups::<S>(x, group, count, min, max));
            (first, g) = (first + count * group, g + count);
        }
    }
    while first < n {
        let end = n.min(first.saturating_add(group));
        // Two chains, and the negative of the minimum: `max` skips NaN.
        let mut low = [S::splat(0.0 - *min.add(g)); 2];
        let mut high = [S::splat(*max.add(g)); 2];
        let mut c = first;
        while c + 2 * S::LANES <= end {
            for i in 0..2 {
                let x = S::load(x.add(c + i * S::LANES));
                low[i] = S::max(S::sub(S::splat(0.0), x), low[i]);
                high[i] = S::max(x, high[i]);
                finite = S::fma(x, S::splat(0.0), finite);
            }
            c += 2 * S::LANES;
        }
        while c < end {
            let count = S::LANES.min(end - c);
            let x = S::load_n(x.add(c), count, 0.0);
            low[0] = S::max(S::sub(S::splat(0.0), x), low[0]);
            high[0] = S::max(x, high[0]);
            finite = S::fma(x, S::splat(0.0), finite);
            c += count;
        }
        *min.add(g) = 0.0 - S::largest(S::max(low[0], low[1]));
        *max.add(g) = S::largest(S::max(high[0], high[1]));
        (first, g) = (end, g + 1);
    }
    S::largest(S::select_eq(finite, finite, S::splat(0.0), S::splat(1.0))) == 0.0
}

/// The longest group that [`extremes_of_groups`] takes: of longer ones, adding up a vector costs little.
const MANY_GROUPS: usize = 64;

/// [`extremes`] of `count <= LANES` groups of whole vectors; returns 0, or NaN where an element is not finite.
#[inline(always)]
unsafe fn extremes_of_groups<S: Simd>(
    x: *const f32,
    group: usize,
    count: usize,
    min: *mut f32,
    max: *mut f32,
) -> S::F {
    let (mut lows, mut highs) = (Square([0.0; 256]), Square([0.0; 256]));
    let zero = S::splat(0.0);
    let mut finite = zero;
    for g in 0..count {
        let (mut low, mut high) = (zero, zero);
        let mut c = 0;
        while c < group {
            let x = S::load(x.add(g * group + c));
            low = S::max(S::sub(zero, x), low);
            high = S::max(x, high);
            finite = S::fma(x, zero, finite);
            c += S::LANES;
        }
        S::store(lows.0.as_mut_ptr().add(g * S::LANES), low);
        S::store(highs.0.as_mut_ptr().add(g * S::LANES), high);
    }
    let low = S::max(
        S::across::<false>(lows.0.as_ptr()),
        S::sub(zero, S::load_n(min, count, 0.0)),
    );
    let high = S::max(
        S::across::<false>(highs.0.as_ptr()),
        S::load_n(max, count, 0.0),
    );
    S::store_n(min, count, S::sub(zero, low));
    S::store_n(max, count, high);
    finite
}

/// See [`crate::quantize::IsFinite`].
#[inline(always)]
pub(crate) unsafe fn is_finite<S: Simd>(x: *const f32, n: usize) -> bool {
    // 0 times a number that is not finite is NaN.
    let zero = S::splat(0.0);
    let mut sums = [zero; 4];
    let mut c = 0;
    while c + 4 * S::LANES <= n {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = S::fma(S::load(x.add(c + i * S::LANES)), zero, *sum);
        }
        c += 4 * S::LANES;
    }
    while c < n {
        let count = S::LANES.min(n - c);
        sums[0] = S::fma(S::load_n(x.add(c), count, 0.0), zero, sums[0]);
        c += count;
    }
    let sum = S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3]));
    S::largest(S::select_eq(sum, sum, zero, S::splat(1.0))) == 0.0
}

/// See [`crate::quantize::ColumnExtremes`].
#[inline(always)]
pub(crate) unsafe fn column_extremes<S: Simd>(
    x: *const f32,
    ld: usize,
    rows: usize,
    n: usize,
    min: *mut f32,
    max: *mut f32,
) {
    let mut i = 0;
    while i < rows {
        let step = (rows - i).min(ROWS);
        let x = x.add(i * ld);
        let mut c = 0;
        while c < n {
            let count = S::LANES.min(n - c);
            let zero = S::splat(0.0);
            let mut low = S::sub(zero, S::load_n(min.add(c), count, 0.0));
            let mut high = S::load_n(max.add(c), count, 0.0);
            if step == ROWS && count == S::LANES {
                for r in 0..ROWS {
                    let x = S::load(x.add(r * ld + c));
                    low = S::max(S::sub(zero, x), low);
                    high = S::max(x, high);
                }
            } else {
                for r in 0..step {
                    let x = S::load_n(x.add(r * ld + c), count, 0.0);
                    low = S::max(S::sub(zero, x), low);
                    high = S::max(x, high);
                }
            }
            S::store_n(min.add(c), count, S::sub(zero, low));
            S::store_n(max.add(c), count, high);
            c += count;
        }
        i += step;
    }
}

/// Rows that column kernels take at once, so that results are loaded and stored less often. Chosen by model, not measured.
const ROWS: usize = 8;

/// See [`crate::quantize::ColumnSums`]. Compilers turn it into vectors of whatever the caller enables.
#[inline(always)]
pub(crate) unsafe fn column_sums(x: *const f32, ld: usize, rows: usize, n: usize, sums: *mut f64) {
    let sums = std::slice::from_raw_parts_mut(sums, n);
    let row = |i: usize| std::slice::from_raw_parts(x.add(i * ld), n);
    let mut i = 0;
    while i + 4 <= rows {
        let (a, b, c, d) = (row(i), row(i + 1), row(i + 2), row(i + 3));
        for (j, sum) in sums.iter_mut().enumerate() {
            let sum_of_two = *sum + f64::from(a[j]) + f64::from(b[j]);
            *sum = sum_of_two + f64::from(c[j]) + f64::from(d[j]);
        }
        i += 4;
    }
    while i < rows {
        for (sum, x) in sums.iter_mut().zip(row(i)) {
            *sum += f64::from(*x);
        }
        i += 1;
    }
}

/// See [`crate::quantize::AddRow`].
#[inline(always)]
pub(crate) unsafe fn add_row<S: Simd>(
    x: *const f32,
    y: *const f32,
    sign: f32,
    n: usize,
    out: *mut f32,
) {
    let sign = S::splat(sign);
    let mut c = 0;
    while c < n {
        let count = S::LANES.min(n - c);
        let (x, y) = (
            S::load_n(x.add(c), count, 0.0),
            S::load_n(y.add(c), count, 0.0),
        );
        // The product is exact.
        S::store_n(out.add(c), count, S::fma(sign, y, x));
        c += count;
    }
}

/// See [`crate::quantize::Rotate`].
#[inline(always)]
pub(crate) unsafe fn rotate<S: Simd>(x: *const f32, n: usize, out: *mut f32) {
    if n == 0 {
        return;
    }
    let size = 1usize << n.trailing_zeros();
    let scale = 1.0 / (size as f32).sqrt();
    let mut first = 0;
    while first < n {
        let (x, out) = (x.add(first), out.add(first));
        match size / S::LANES {
            0 => small_block(x, size, scale, out),
            1 => block::<S, 1>(x, 1, scale, out),
            2 => block::<S, 2>(x, 2, scale, out),
            4 => block::<S, 4>(x, 4, scale, out),
            vectors => block::<S, 8>(x, vectors, scale, out),
        }
        first += size;
    }
}

/// Rotates a block of less than a vector.
#[inline(always)]
unsafe fn small_block(x: *const f32, size: usize, scale: f32, out: *mut f32) {
    let mut block = [0f32; 16];
    x.copy_to_nonoverlapping(block.as_mut_ptr(), size);
    let mut half = 1;
    while half < size {
        for c in (0..size).filter(|c| c & half == 0) {
            let (a, b) = (block[c], block[c + half]);
            (block[c], block[c + half]) = (a + b, a - b);
        }
        half *= 2;
    }
    for (c, x) in block[..size].iter().enumerate() {
        *out.add(c) = x * scale;
    }
}

/// Rotates a block of `vectors` vectors: all stages within `R` vectors in registers, further ones in memory.
#[inline(always)]
unsafe fn block<S: Simd, const R: usize>(x: *const f32, vectors: usize, scale: f32, out: *mut f32) {
    let scale = S::splat(scale);
    let mut v = 0;
    while v < vectors {
        let at = v * S::LANES;
        let mut y = [S::splat(0.0); R];
        for (i, y) in y.iter_mut().enumerate() {
            let x = S::load(x.add(at + i * S::LANES));
            let x = S::butterfly::<2>(S::butterfly::<1>(x));
            *y = match S::LANES {
                4 => x,
                8 => S::butterfly::<4>(x),
                _ => S::butterfly::<8>(S::butterfly::<4>(x)),
            };
        }
        let mut half = 1;
        while half < R {
            for i in 0..R {
                if i & half == 0 {
                    let (a, b) = (y[i], y[i + half]);
                    (y[i], y[i + half]) = (S::add(a, b), S::sub(a, b));
                }
            }
            half *= 2;
        }
        for (i, y) in y.iter().enumerate() {
            let y = if vectors == R { S::mul(*y, scale) } else { *y };
            S::store(out.add(at + i * S::LANES), y);
        }
        v += R;
    }
    let mut half = R;
    while half < vectors {
        let last = 2 * half == vectors;
        for v in (0..vectors).filter(|v| v & half == 0) {
            let (low, high) = (out.add(v * S::LANES), out.add((v + half) * S::LANES));
            let (a, b) = (S::load(low), S::load(high));
            let (mut sum, mut difference) = (S::add(a, b), S::sub(a, b));
            if last {
                (sum, difference) = (S::mul(sum, scale), S::mul(difference, scale));
            }
            S::store(low, sum);
            S::store(high, difference);
        }
        half *= 2;
    }
}

/// The step of rounding: bounds of the quotient, and the scale and zero point of each element of a vector.
struct Rounding<S: Simd> {
    scale: S::F,
    zero: S::F,
    low: S::F,
    high: S::F,
}

impl<S: Simd> Rounding<S> {
    #[inline(always)]
    unsafe fn new(scale: S::F, zero: S::F, low: f32, high: f32) -> Self {
        Rounding {
            scale,
            zero,
            low: S::sub(S::splat(low), zero),
            high: S::sub(S::splat(high), zero),
        }
    }

    /// The integers of `x`, as floats.
    #[inline(always)]
    unsafe fn codes(&self, x: S::F) -> S::F {
        let quotient = S::div(x, self.scale);
        let clamped = S::min(S::max(quotient, self.low), self.high);
        let code = S::add(S::round(clamped), self.zero);
        S::select_eq(quotient, quotient, code, S::splat(0.0))
    }
}

/// See [`crate::quantize::RoundRow`].
#[inline(always)]
pub(crate) unsafe fn round<S: Simd>(
    x: *const f32,
    n: usize,
    scales: &RowScales,
    low: f32,
    high: f32,
    out: *mut i8,
) {
    if scales.group == 1 {
        let mut c = 0;
        while c < n {
            let count = S::LANES.min(n - c);
            let scale = S::load_n(scales.scale.add(c), count, 1.0);
            let zero = S::load_n(scales.zero.add(c), count, 0.0);
            let rounding = Rounding::<S>::new(scale, zero, low, high);
            let x = S::load_n(x.add(c), count, 0.0);
            S::store_i8_n(out.add(c), count, rounding.codes(x));
            c += count;
        }
        return;
    }
    let (mut c, mut g) = (0, 0);
    while c < n {
        let end = n.min(c.saturating_add(scales.group));
        let scale = S::splat(*scales.scale.add(g));
        let zero = S::splat(*scales.zero.add(g));
        let rounding = Rounding::<S>::new(scale, zero, low, high);
        while c + 4 * S::LANES <= end {
            let mut codes = [zero; 4];
            for (i, codes) in codes.iter_mut().enumerate() {
                *codes = rounding.codes(S::load(x.add(c + i * S::LANES)));
            }
            S::store_i8(out.add(c), codes);
            c += 4 * S::LANES;
        }
        while c + S::LANES <= end {
            S::store_i8_n(out.add(c), S::LANES, rounding.codes(S::load(x.add(c))));
            c += S::LANES;
        }
        if c < end {
            let x = S::load_n(x.add(c), end - c, 0.0);
            S::store_i8_n(out.add(c), end - c, rounding.codes(x));
        }
        (c, g) = (end, g + 1);
    }
}

/// See [`crate::quantize::PackI4`]. Compilers turn it into vectors of whatever the caller enables.
#[inline(always)]
pub(crate) unsafe fn pack_i4(codes: *const i8, n: usize, out: *mut u8) {
    let codes = std::slice::from_raw_parts(codes.cast::<[u8; 2]>(), n / 2);
    let out = std::slice::from_raw_parts_mut(out, n / 2);
    for ([low, high], out) in codes.iter().zip(out) {
        *out = (low & 0xf) | high << 4;
    }
}

/// See [`crate::quantize::MeasureError`]. Compilers turn it into vectors of whatever the caller enables.
#[inline(always)]
pub(crate) unsafe fn measure(dequantized: *const f32, source: *const f32, n: usize) -> RowError {
    let mut parts = ErrorParts {
        squares: [0.0; 16],
        source_squares: [0.0; 16],
        max_abs: [0.0; 16],
    };
    let mut c = 0;
    while c + 16 <= n {
        let x = dequantized.add(c).cast::<[f32; 16]>().read_unaligned();
        let y = source.add(c).cast::<[f32; 16]>().read_unaligned();
        parts.add(x, y);
        c += 16;
    }
    if c < n {
        let (mut x, mut y) = ([0f32; 16], [0f32; 16]);
        for i in 0..n - c {
            (x[i], y[i]) = (*dequantized.add(c + i), *source.add(c + i));
        }
        parts.add(x, y);
    }
    parts.sum()
}

/// The sums of every sixteenth column.
struct ErrorParts {
    squares: [f64; 16],
    source_squares: [f64; 16],
    max_abs: [f64; 16],
}

impl ErrorParts {
    #[inline(always)]
    fn add(&mut self, x: [f32; 16], y: [f32; 16]) {
        for i in 0..16 {
            let (x, y) = (f64::from(x[i]), f64::from(y[i]));
            let difference = x - y;
            self.squares[i] += difference * difference;
            self.source_squares[i] += y * y;
            self.max_abs[i] = larger(difference.abs(), self.max_abs[i]);
        }
    }

    #[inline(always)]
    fn sum(mut self) -> RowError {
        let mut half = 8;
        while half > 0 {
            for i in 0..half {
                self.squares[i] += self.squares[i + half];
                self.source_squares[i] += self.source_squares[i + half];
                self.max_abs[i] = larger(self.max_abs[i], self.max_abs[i + half]);
            }
            half /= 2;
        }
        RowError {
            squares: self.squares[0],
            source_squares: self.source_squares[0],
            max_abs: self.max_abs[0],
        }
    }
}

/// The larger one; `b` if `a` is NaN.
#[inline(always)]
fn larger(a: f64, b: f64) -> f64 {
    if a > b { a } else { b }
}

/// See [`crate::quantize::Parameters`]. Compilers turn it into vectors of whatever the caller enables.
#[inline(always)]
pub(crate) unsafe fn parameters(
    min: *const f32,
    max: *const f32,
    n: usize,
    rule: &ScaleRule,
    scale: *mut f32,
    zero: *mut f32,
) {
    match (rule.asymmetric, rule.half) {
        (false, false) => parameters_of::<false, false>(min, max, n, rule, scale, zero),
        (false, true) => parameters_of::<false, true>(min, max, n, rule, scale, zero),
        (true, false) => parameters_of::<true, false>(min, max, n, rule, scale, zero),
        (true, true) => parameters_of::<true, true>(min, max, n, rule, scale, zero),
    }
}

/// 1.5 * 2^52: adding and subtracting it rounds a double of magnitude below 2^51 to an integer, half to even.
const ROUND: f64 = 6_755_399_441_055_744.0;

#[inline(always)]
unsafe fn parameters_of<const ASYMMETRIC: bool, const HALF: bool>(
    min: *const f32,
    max: *const f32,
    n: usize,
    rule: &ScaleRule,
    scale: *mut f32,
    zero: *mut f32,
) {
    let (min, max) = (
        std::slice::from_raw_parts(min, n),
        std::slice::from_raw_parts(max, n),
    );
    let (scale, zero) = (
        std::slice::from_raw_parts_mut(scale, n),
        std::slice::from_raw_parts_mut(zero, n),
    );
    for g in 0..n {
        let (min, max) = (f64::from(min[g]), f64::from(max[g]));
        let width = if ASYMMETRIC {
            max - min
        } else {
            larger(max, -min)
        };
        let exact = (width / rule.levels) as f32;
        let (rounded, smallest) = if HALF {
            (as_f16(exact), F16_SMALLEST)
        } else {
            (exact, f32::MIN_POSITIVE)
        };
        let rounded = if rounded < smallest {
            smallest
        } else {
            rounded
        };
        let stored = if width == 0.0 { 1.0 } else { rounded };
        scale[g] = stored;
        zero[g] = if ASYMMETRIC {
            let x = rule.low - min / f64::from(stored);
            let x = (x + ROUND) - ROUND;
            let x = if x < rule.low { rule.low } else { x };
            let x = if x > rule.high { rule.high } else { x };
            if width == 0.0 { 0.0 } else { x as f32 }
        } else {
            0.0
        };
    }
}

/// 2^-24: the smallest FP16 above 0.
const F16_SMALLEST: f32 = 5.960_464_5e-8;

/// Rounds `x >= 0` to FP16, half to even.
#[inline(always)]
fn as_f16(x: f32) -> f32 {
    let bits = x.to_bits();
    // To a mantissa of 10 bits.
    let normal = f32::from_bits((bits + 0xfff + (bits >> 13 & 1)) & !0x1fff);
    let normal = if normal > 65504.0 {
        f32::INFINITY
    } else {
        normal
    };
    // Below 2^-14, to multiples of 2^-24, which is the spacing of FP32 from 1/2 on.
    let subnormal = (x + 0.5) - 0.5;
    if x < 6.103_515_6e-5 {
        subnormal
    } else {
        normal
    }
}
