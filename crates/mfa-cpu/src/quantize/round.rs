//! Scales, zero points and codes: the integers that a tensor stores (eq. 35, 36, 39 of docs/math.md).

#![forbid(unsafe_code)]

use half::f16;

use super::statistics::ValueRange;
use mfa_kernels::Precision;

/// 1.5 * 2^23: adding and subtracting it rounds a float of magnitude below 2^22 to an integer, half to even.
const ROUND: f32 = 12_582_912.0;

/// Scale and zero point of a group whose values span `range`.
pub(super) fn parameters(
    range: ValueRange,
    precision: Precision,
    asymmetric: bool,
    half: bool,
) -> (f32, i32) {
    let (low, high) = precision.range();
    let (min, max) = (f64::from(range.min.min(0.0)), f64::from(range.max.max(0.0)));
    let width = if asymmetric { max - min } else { max.max(-min) };
    let levels = if asymmetric {
        high - low
    } else {
        precision.symmetric_max()
    };
    let scale = stored(width / f64::from(levels), half);
    // With a zero point at the end of the range, zeros would be dequantized as differences of large numbers.
    if !asymmetric || width == 0.0 {
        return (scale, 0);
    }
    let zero = (f64::from(low) - min / f64::from(scale)).round_ties_even();
    (scale, zero.clamp(f64::from(low), f64::from(high)) as i32)
}

/// The scale as it is stored: never 0, which could not be divided by.
fn stored(scale: f64, half: bool) -> f32 {
    if scale == 0.0 {
        return 1.0;
    }
    if half {
        let scale = f16::from_f64(scale);
        if scale == f16::ZERO {
            f16::MIN_POSITIVE_SUBNORMAL.to_f32()
        } else {
            scale.to_f32()
        }
    } else {
        (scale as f32).max(f32::from_bits(1))
    }
}

/// `clamp(round(x / scale) + zero)`.
pub(super) fn codes(
    x: &[f32],
    scale: f32,
    zero: i32,
    precision: Precision,
    asymmetric: bool,
    out: &mut [i8],
) {
    let (low, high) = if asymmetric {
        precision.range()
    } else {
        (-precision.symmetric_max(), precision.symmetric_max())
    };
    let (low, high, zero) = (low as f32, high as f32, zero as f32);
    for (x, out) in x.iter().zip(out) {
        // Clamping comes first to keep the range that `ROUND` needs; it gives the same, because the ends are integers.
        let quotient = (x / scale).clamp(low - zero, high - zero);
        *out = ((quotient + ROUND) - ROUND + zero) as i8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_half_to_even_and_clamps() {
        let x = [0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 300.0, -300.0, 3.4e38];
        let mut out = [0; 9];
        codes(&x, 1.0, 0, Precision::I8, false, &mut out);
        assert_eq!(out, [0, 2, 2, 0, -2, 126, 127, -127, 127]);
        codes(&x, 1.0, -8, Precision::I4, true, &mut out);
        assert_eq!(out, [-8, -6, -6, -8, -8, 7, 7, -8, 7]);
    }

    #[test]
    fn parameters_follow_the_contract() {
        let range = ValueRange {
            min: -2.0,
            max: 6.0,
        };
        assert_eq!(
            parameters(range, Precision::I8, false, false),
            ((6.0 / 127.0) as f32, 0)
        );
        let (scale, zero) = parameters(range, Precision::I8, true, false);
        assert_eq!((scale, zero), ((8.0 / 255.0) as f32, -64));
        for asymmetric in [false, true] {
            assert_eq!(
                parameters(ValueRange::default(), Precision::I4, asymmetric, true),
                (1.0, 0)
            );
        }
        let tiny = ValueRange {
            min: 0.0,
            max: 1e-30,
        };
        assert!(parameters(tiny, Precision::I8, false, true).0 > 0.0);
        let widest = ValueRange {
            min: -3e38,
            max: 3e38,
        };
        assert!(parameters(widest, Precision::I8, true, false).0.is_finite());
    }
}
