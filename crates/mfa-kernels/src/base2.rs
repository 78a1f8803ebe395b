//! The change of base: `exp(x) = exp2(x log2 e)`, for exponents that an FP32 holds and whose product with log2 e it does not.
//!
//! Masks of `-f32::MAX` are such exponents. Only their order counts, and that their distances are huge. Beyond [`BEND`] the
//! line is less steep, so that it ends within the range, with room for scores to be added. Only infinity becomes infinity.
//!
//! See eq. 15, 17 of docs/math.md.

/// log2(e).
pub const LOG2_E: f32 = std::f32::consts::LOG2_E;

/// The magnitude up to which the slope is log2 e.
pub const BEND: f32 = 1e38;
/// The value of the change of base at [`BEND`].
pub const BENT: f32 = BEND * LOG2_E;
/// The slope beyond [`BEND`]: `f32::MAX` becomes 3e38.
pub const SLOPE: f32 = 0.648_114;

/// The exponent of 2 of an exponent of e. Monotone, and `x log2 e` up to [`BEND`].
#[must_use]
pub fn to_base2(x: f32) -> f32 {
    let magnitude = (x.abs() * LOG2_E).min((x.abs() - BEND) * SLOPE + BENT);
    if x.is_nan() { x } else { magnitude.copysign(x) }
}

/// The natural logarithm of `2^x * s`, where `x` may come from [`to_base2`] and `log2_of_sum` is `log2(s)`.
#[must_use]
pub fn to_natural(x: f32, log2_of_sum: f64) -> f64 {
    let x = f64::from(x);
    let beyond = x.abs() - f64::from(BENT);
    if beyond <= 0.0 || x.is_infinite() {
        return (x + log2_of_sum) * std::f64::consts::LN_2;
    }
    let magnitude = f64::from(BEND) + beyond / f64::from(SLOPE);
    // Rounding on the way there and back may have left the range.
    magnitude.min(f64::from(f32::MAX)).copysign(x) + log2_of_sum * std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finite_stays_finite_and_in_order() {
        let mut last = f32::NEG_INFINITY;
        for i in -4000..=4000i32 {
            let x = (i as f32 / 4000.0) * f32::MAX;
            let y = to_base2(x);
            assert!(y.is_finite() && y > last, "{x:e}: {y:e} after {last:e}");
            assert!(y.abs() <= 3.01e38);
            let back = to_natural(y, 0.0);
            assert!(
                (back - f64::from(x)).abs() <= 1e-6 * f64::from(x).abs(),
                "{x:e}: {back:e}"
            );
            last = y;
        }
        assert_eq!(to_base2(1.0), LOG2_E);
        assert_eq!(to_base2(-1e37), -1e37 * LOG2_E);
        assert_eq!(to_base2(f32::NEG_INFINITY), f32::NEG_INFINITY);
        assert_eq!(to_natural(f32::NEG_INFINITY, 0.0), f64::NEG_INFINITY);
        assert!(to_base2(f32::NAN).is_nan());
        assert_eq!(to_natural(to_base2(-f32::MAX), 1.0) as f32, -f32::MAX);
    }
}
