//! Rows to integers and back (eq. 35, 36, 38, 39, 43 of docs/math.md).

use half::f16;

use crate::quantize::{RowError, RowScales, ScaleRule};

/// See [`crate::quantize::Extremes`].
pub(super) unsafe fn extremes(
    x: *const f32,
    n: usize,
    group: usize,
    min: *mut f32,
    max: *mut f32,
) -> bool {
    let mut finite = true;
    for c in 0..n {
        let x = *x.add(c);
        extend(x, min.add(c / group), max.add(c / group));
        finite &= x.is_finite();
    }
    finite
}

/// See [`crate::quantize::IsFinite`].
pub(super) unsafe fn is_finite(x: *const f32, n: usize) -> bool {
    let mut finite = true;
    for c in 0..n {
        finite &= (*x.add(c)).is_finite();
    }
    finite
}

/// See [`crate::quantize::ColumnExtremes`].
pub(super) unsafe fn column_extremes(
    x: *const f32,
    ld: usize,
    rows: usize,
    n: usize,
    min: *mut f32,
    max: *mut f32,
) {
    for i in 0..rows {
        for c in 0..n {
            extend(*x.add(i * ld + c), min.add(c), max.add(c));
        }
    }
}

unsafe fn extend(x: f32, min: *mut f32, max: *mut f32) {
    if x < *min {
        *min = x;
    }
    if x > *max {
        *max = x;
    }
}

/// See [`crate::quantize::ColumnSums`].
pub(super) unsafe fn column_sums(x: *const f32, ld: usize, rows: usize, n: usize, sums: *mut f64) {
    for i in 0..rows {
        for c in 0..n {
            *sums.add(c) += f64::from(*x.add(i * ld + c));
        }
    }
}

/// See [`crate::quantize::AddRow`].
pub(super) unsafe fn add_row(x: *const f32, y: *const f32, sign: f32, n: usize, out: *mut f32) {
    for c in 0..n {
        *out.add(c) = *x.add(c) + sign * *y.add(c);
    }
}

/// See [`crate::quantize::Rotate`].
pub(super) unsafe fn rotate(x: *const f32, n: usize, out: *mut f32) {
    if n == 0 {
        return;
    }
    x.copy_to(out, n);
    let size = 1 << n.trailing_zeros();
    let scale = 1.0 / (size as f32).sqrt();
    for block in std::slice::from_raw_parts_mut(out, n).chunks_exact_mut(size) {
        let mut half = 1;
        while half < size {
            for pair in block.chunks_exact_mut(2 * half) {
                let (low, high) = pair.split_at_mut(half);
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
        for x in block {
            *x *= scale;
        }
    }
}

/// Rotates a row in place, in plain Rust: [`crate::quantize::Rotate`] without a table. The bits are the same.
pub fn rotate_row(row: &mut [f32]) {
    let (n, at) = (row.len(), row.as_mut_ptr());
    // SAFETY: a row of `n` elements, in place as is allowed.
    unsafe { rotate(at, n, at) };
}

/// 1.5 * 2^23: adding and subtracting it rounds a float of magnitude below 2^22 to an integer, half to even.
const ROUND: f32 = 12_582_912.0;

/// See [`crate::quantize::RoundRow`].
pub(super) unsafe fn round(
    x: *const f32,
    n: usize,
    scales: &RowScales,
    low: f32,
    high: f32,
    out: *mut i8,
) {
    for c in 0..n {
        let (scale, zero) = at(scales, c);
        // Clamping comes first to keep the range that `ROUND` needs; it gives the same, because the ends are integers.
        let quotient = (*x.add(c) / scale).clamp(low - zero, high - zero);
        *out.add(c) = ((quotient + ROUND) - ROUND + zero) as i8;
    }
}

/// Scale and zero point of element `c`.
unsafe fn at(scales: &RowScales, c: usize) -> (f32, f32) {
    let g = c / scales.group;
    (*scales.scale.add(g), *scales.zero.add(g))
}

/// See [`crate::quantize::PackI4`].
pub(super) unsafe fn pack_i4(codes: *const i8, n: usize, out: *mut u8) {
    for i in 0..n / 2 {
        let (low, high) = (*codes.add(2 * i), *codes.add(2 * i + 1));
        *out.add(i) = (low as u8 & 0xf) | (high as u8) << 4;
    }
}

/// See [`crate::quantize::MeasureError`].
pub(super) unsafe fn measure(dequantized: *const f32, source: *const f32, n: usize) -> RowError {
    let mut parts = [RowError::default(); 16];
    for c in 0..n {
        let (x, y) = (f64::from(*dequantized.add(c)), f64::from(*source.add(c)));
        let part = &mut parts[c % 16];
        part.squares += (x - y) * (x - y);
        part.source_squares += y * y;
        part.max_abs = part.max_abs.max((x - y).abs());
    }
    let mut half = 8;
    while half > 0 {
        for i in 0..half {
            let other = parts[i + half];
            let part = &mut parts[i];
            part.squares += other.squares;
            part.source_squares += other.source_squares;
            part.max_abs = part.max_abs.max(other.max_abs);
        }
        half /= 2;
    }
    parts[0]
}

/// See [`crate::quantize::Parameters`].
pub(super) unsafe fn parameters(
    min: *const f32,
    max: *const f32,
    n: usize,
    rule: &ScaleRule,
    scale: *mut f32,
    zero: *mut f32,
) {
    for g in 0..n {
        let (min, max) = (f64::from(*min.add(g)), f64::from(*max.add(g)));
        let width = if rule.asymmetric {
            max - min
        } else {
            max.max(-min)
        };
        *scale.add(g) = 1.0;
        *zero.add(g) = 0.0;
        if width == 0.0 {
            continue;
        }
        let stored = stored(width / rule.levels, rule.half);
        *scale.add(g) = stored;
        if rule.asymmetric {
            let x = (rule.low - min / f64::from(stored)).round_ties_even();
            // Not -0, which no stored zero point is.
            *zero.add(g) = (x.clamp(rule.low, rule.high) + 0.0) as f32;
        }
    }
}

/// The scale as it is stored: never 0, which could not be divided by, nor below 2^-126, which a GPU takes for 0.
fn stored(scale: f64, half: bool) -> f32 {
    let scale = scale as f32;
    if half {
        let scale = f16::from_f32(scale);
        if scale == f16::ZERO {
            f16::MIN_POSITIVE_SUBNORMAL.to_f32()
        } else {
            scale.to_f32()
        }
    } else {
        scale.max(f32::MIN_POSITIVE)
    }
}
