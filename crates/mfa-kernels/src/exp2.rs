//! Polynomials for `2^r`, fitted to the smallest largest relative error with the constant term fixed at 1, so that
//! `2^0` is 1. Coefficients from that of `r` on; errors include the rounding of every step.
//!
//! See eq. 18 of docs/math.md.

/// On `0..1`: 3.0e-6.
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "only AVX-512 uses it")
)]
pub(super) const UNIT_4: [f32; 4] = [0.693_044_84, 0.241_280_21, 0.052_242_473, 0.013_426_685];
/// On `0..1`: 1.5e-7.
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "only AVX-512 uses it")
)]
pub(super) const UNIT_5: [f32; 5] = [
    0.693_151_35,
    0.240_164_4,
    0.055_799_9,
    0.009_017_03,
    0.001_867_130_3,
];

/// On `-0.5..=0.5`: 2.9e-6.
pub(super) const CENTRED_4: [f32; 4] = [0.693_124_2, 0.240_241, 0.055_906_426, 0.009_582_853];
/// On `-0.5..=0.5`: 1.6e-7. The first is near ln 2, and is not it.
#[allow(clippy::approx_constant)]
pub(super) const CENTRED_5: [f32; 5] = [
    0.693_147,
    0.240_222_45,
    0.055_507_336,
    0.009_671_514,
    0.001_326_472,
];
/// On `-0.5..=0.5`: 7e-8.
pub(super) const CENTRED_6: [f32; 6] = [
    0.693_147_24,
    0.240_226_5,
    0.055_503_216,
    0.009_618_433,
    0.001_339_888_1,
    0.000_153_533_94,
];

/// Adding this rounds to an integer, and leaves 127 more than it, the biased exponent of its power of two, in the lowest
/// bits.
pub(super) const ROUNDER: f32 = 12_582_912.0 + 127.0;

/// On `-1/16..=1/16`: 2.7e-8, and 1.4e-7 with [`EIGHTHS`] in f32.
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "only AVX2 uses it")
)]
#[allow(clippy::approx_constant)]
pub(super) const EIGHTH_3: [f32; 3] = [0.693_147_24, 0.240_257_67, 0.055_496_234];

/// `2^(i / 8)`.
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "only AVX2 uses it")
)]
#[allow(clippy::approx_constant)]
pub(super) const EIGHTHS: [f64; 8] = [
    1.0,
    1.090_507_732_665_257_7,
    1.189_207_115_002_721,
    1.296_839_554_651_009_6,
    std::f64::consts::SQRT_2,
    1.542_210_825_407_940_7,
    1.681_792_830_507_429,
    1.834_008_086_409_342_4,
];

/// Adding this rounds to an eighth, and leaves the integer of eighths in the lowest bits.
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "only AVX2 uses it")
)]
pub(super) const ROUNDER_TO_EIGHTHS: f32 = 1_572_864.0;
