//! The range of the integers that a tensor stores, and how scales follow from it.

#![forbid(unsafe_code)]

use mfa_kernels::{Precision, ScaleRule};

/// How scales and zero points follow from ranges.
pub(super) fn rule(precision: Precision, asymmetric: bool, half: bool) -> ScaleRule {
    let (low, high) = precision.range();
    let levels = if asymmetric {
        high - low
    } else {
        precision.symmetric_max()
    };
    ScaleRule {
        levels: f64::from(levels),
        low: f64::from(low),
        high: f64::from(high),
        asymmetric,
        half,
    }
}

/// The smallest and the largest integer that rounding gives.
pub(super) fn ends(precision: Precision, asymmetric: bool) -> (f32, f32) {
    let (low, high) = if asymmetric {
        precision.range()
    } else {
        (-precision.symmetric_max(), precision.symmetric_max())
    };
    (low as f32, high as f32)
}
