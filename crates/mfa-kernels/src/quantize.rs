//! The kernels that quantize rows. Every one gives the same bits on every instruction set.

use crate::Precision;

/// The scales and zero points of a row: element `c` has those at `c / group`.
#[derive(Clone, Copy)]
pub struct RowScales {
    /// Elements that share a scale: 1, an even number, or the length of the row.
    pub group: usize,
    /// `[ceil(n / group)]`: scales.
    pub scale: *const f32,
    /// `[ceil(n / group)]`: zero points, as floats.
    pub zero: *const f32,
}

/// Sums over a row, in f64: sixteen sums of every sixteenth column each, of which the halves are added up until one is left.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowError {
    /// `sum_c (dequantized[c] - source[c])^2`.
    pub squares: f64,
    /// `sum_c source[c]^2`.
    pub source_squares: f64,
    /// `max_c |dequantized[c] - source[c]|`.
    pub max_abs: f64,
}

/// Extends the range of each group of `group` elements of a row of `n`: `min[g]` becomes the smallest of itself and the elements
/// of group `g`, and `max[g]` the largest. NaN is skipped. `min[g] <= 0 <= max[g]`, none of them -0. Returns whether all elements are
/// finite.
pub type Extremes =
    unsafe fn(x: *const f32, n: usize, group: usize, min: *mut f32, max: *mut f32) -> bool;
/// Whether all of `n` elements are finite.
pub type IsFinite = unsafe fn(x: *const f32, n: usize) -> bool;
/// Extends the range of each of `n` columns by `rows` rows, `ld` apart; otherwise as [`Extremes`].
pub type ColumnExtremes =
    unsafe fn(x: *const f32, ld: usize, rows: usize, n: usize, min: *mut f32, max: *mut f32);
/// `sums[c] += x[i][c]` for `rows` rows of `n` columns, `ld` apart, in the order of rows.
pub type ColumnSums = unsafe fn(x: *const f32, ld: usize, rows: usize, n: usize, sums: *mut f64);
/// `out[c] = x[c] + sign * y[c]` for `sign` 1 or -1; `out` may be `x`.
pub type AddRow = unsafe fn(x: *const f32, y: *const f32, sign: f32, n: usize, out: *mut f32);
/// `out = H x` for the orthonormal Hadamard matrix of (eq. 43): stages of sums and differences of elements 1, 2, 4, … apart, then
/// a product with `1 / sqrt(size)`. `out` may be `x`.
pub type Rotate = unsafe fn(x: *const f32, n: usize, out: *mut f32);
/// `out[c] = round(clamp(x[c] / scale, low - zero, high - zero)) + zero`, ties to even; NaN gives 0. `low` and `high` are integers
/// that i8 holds.
pub type RoundRow =
    unsafe fn(x: *const f32, n: usize, scales: &RowScales, low: f32, high: f32, out: *mut i8);
/// Packs `n` (even) i8 to INT4: the inverse of [`crate::UnpackI4`].
pub type PackI4 = unsafe fn(codes: *const i8, n: usize, out: *mut u8);
/// The error of a row of `n` elements.
pub type MeasureError =
    unsafe fn(dequantized: *const f32, source: *const f32, n: usize) -> RowError;

/// How scales and zero points follow from ranges (eq. 35, eq. 36).
#[derive(Clone, Copy, Debug)]
pub struct ScaleRule {
    /// Steps of the width: those between `low` and `high`, or those between 0 and the largest integer.
    pub levels: f64,
    /// The smallest integer that can be stored.
    pub low: f64,
    /// The largest integer that can be stored.
    pub high: f64,
    /// Whether the width is `max - min`, and the zero point computed; otherwise it is the larger magnitude, and 0.
    pub asymmetric: bool,
    /// Whether scales are stored in FP16.
    pub half: bool,
}

impl ScaleRule {
    /// The rule of a precision of integers. Symmetric ranges leave out the smallest integer.
    pub fn new(precision: Precision, asymmetric: bool, half: bool) -> ScaleRule {
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
}

/// Scales and zero points of `n` groups: `scale[g]` is the width of the range over the levels, rounded to FP32, then to FP16 if
/// `half`; never below 2^-126, or 2^-24 if `half`; `zero[g] = clamp(round(low - min[g] / scale[g]), low, high)`. A range without width has scale 1 and zero
/// point 0. `min[g] <= 0 <= max[g]`.
pub type Parameters = unsafe fn(
    min: *const f32,
    max: *const f32,
    n: usize,
    rule: &ScaleRule,
    scale: *mut f32,
    zero: *mut f32,
);

/// The kernels that quantize rows.
#[derive(Clone, Copy)]
pub struct QuantizeKernels {
    /// Ranges of groups of a row.
    pub extremes: Extremes,
    /// The check for NaN and infinities.
    pub is_finite: IsFinite,
    /// Ranges of columns.
    pub column_extremes: ColumnExtremes,
    /// Sums of columns.
    pub column_sums: ColumnSums,
    /// Adds or subtracts a row.
    pub add_row: AddRow,
    /// Rotates a row.
    pub rotate: Rotate,
    /// Rounds a row to integers.
    pub round: RoundRow,
    /// Packs a row of INT4.
    pub pack_i4: PackI4,
    /// Measures what rounding did to a row.
    pub measure: MeasureError,
    /// Computes scales and zero points.
    pub parameters: Parameters,
}
