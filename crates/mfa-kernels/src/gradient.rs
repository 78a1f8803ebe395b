//! The kernels that only the backward pass uses.
//!
//! Its strips are `mr` keys by a block of queries. Scores are stored transposed, so that a gradient of K or V is a product as
//! in the forward pass, with keys in the place of rows.

#[cfg(doc)]
use crate::bf16_split::STEP;
use crate::bf16_split::{Bf16Products, FloatRows};
use crate::signatures::PvF32;

/// Replaces `rows` x `n` scores by weights, and `dp` by the gradient of the scores: with the query's logsumexp `l`, base 2,
/// and `d`, `p = exp2(s[i][j] - l[j])`, then `dp[i][j] = p * (dp[i][j] - d[j])` and `s[i][j] = p`. Rows of both are
/// [`crate::SCORE_LD`] apart.
///
/// A score of -infinity is masked, and so are all scores of a query whose `l` is +infinity: both become 0, whatever else
/// `s`, `dp`, `l` and `d` hold. `dp` null: weights only. `s[i][j] - l[j]` is at most a rounding error above 0.
pub type SoftmaxGradient =
    unsafe fn(s: *mut f32, dp: *mut f32, rows: usize, n: usize, l: *const f32, d: *const f32);

/// `d[j] += sum_i exp2(s[i][j] - l[j]) * dp[i][j]` over `rows` x `n` scores that are not masked.
pub type WeightedSums =
    unsafe fn(s: *const f32, dp: *const f32, rows: usize, n: usize, l: *const f32, d: *mut f32);

/// `out[j][i] = rows[i][j]` for `n` rows of `d` elements, `ld` apart, and `d` rows of `out`, `out_ld` apart.
pub type Transpose =
    unsafe fn(rows: *const f32, ld: usize, n: usize, d: usize, out: *mut f32, out_ld: usize);

/// `out[i] = sum_c a[i][c] * b[i][c]` for `n` rows of `d` floats, `lda` and `ldb` apart: in f64, as eight sums of every
/// eighth product each, which are added up in order.
pub type RowDots = unsafe fn(
    a: *const f32,
    lda: usize,
    b: *const f32,
    ldb: usize,
    n: usize,
    d: usize,
    out: *mut f32,
);

/// The operands of [`SoftmaxGradientBf16`]: a strip of [`STEP`] keys by `n` queries.
#[derive(Clone, Copy)]
pub struct Bf16Strip {
    /// `[STEP][n]`: products of keys and queries, rows [`crate::SCORE_LD`] apart.
    pub s: *mut f32,
    /// `[STEP][n]`: products of values and output gradients, rows [`crate::SCORE_LD`] apart.
    pub dp: *mut f32,
    /// Queries, a multiple of [`STEP`].
    pub n: usize,
    /// The factor from products of keys and queries to scores.
    pub scale: f32,
    /// `[n]`: logsumexp of each query, as in [`SoftmaxGradient`].
    pub l: *const f32,
    /// `[n]`: D of each query, as in [`SoftmaxGradient`].
    pub d: *const f32,
    /// `[STEP][n]`, rows as those of `s`: the factor of dS, read only if `masked`; null: 1.
    pub slope: *const f32,
    /// Output: P as A, with queries as terms.
    pub p: *mut u16,
    /// The distance of rows of `p`, in elements.
    pub ldp: usize,
    /// Output: dS as A, with queries as terms; null: not wanted.
    pub ds: *mut u16,
    /// The distance of rows of `ds`, in elements.
    pub ldds: usize,
    /// Output: dS as B, with keys as terms, in panels of [`STEP`] queries; the strip is a step. Null: not wanted.
    pub columns: *mut u16,
    /// The distance of panels of `columns`, in elements.
    pub panel: usize,
}

/// [`SoftmaxGradient`] whose P and dS are `p_slices` and `ds_slices` slices (0: not wanted), see [`crate::bf16_split`]. One or
/// two slices are rounded, three hold every bit. Without `masked`, no score is -infinity, and a query whose `l` is +infinity
/// has a finite `d`.
pub type SoftmaxGradientBf16 =
    unsafe fn(strip: &Bf16Strip, p_slices: usize, ds_slices: usize, masked: bool);

/// The operands of the product of a strip of [`STEP`] rows and the queries of a [`Bf16Strip`].
#[derive(Clone, Copy)]
pub struct Bf16Factors {
    /// The products of slices.
    pub terms: Bf16Products,
    /// The terms of the product: columns of the strip and of the queries.
    pub columns: usize,
    /// The strip as A.
    pub a: *const u16,
    /// The queries as B.
    pub b: *const u16,
}

/// A sum over the queries of a [`Bf16Strip`]: the product of its P or dS and `panels` panels of B.
#[derive(Clone, Copy)]
pub struct Bf16Accumulator {
    /// The products of slices.
    pub terms: Bf16Products,
    /// The panels of B.
    pub b: *const u16,
    /// The distance of panels, in elements.
    pub panel: usize,
    /// Panels.
    pub panels: usize,
    /// `[STEP][panels * STEP]`: the sums, to which the product is added. Null: not wanted.
    pub out: *mut f32,
    /// The distance of rows of `out`, in elements.
    pub ld: usize,
}

/// The operands of [`GradientStrip`]: a strip of keys by the queries of a block, without masked scores.
#[derive(Clone, Copy)]
pub struct Bf16GradientStrip {
    /// The strip; `s` and `dp` are scratch.
    pub strip: Bf16Strip,
    /// K by Q.
    pub scores: Bf16Factors,
    /// V by dO.
    pub dp: Bf16Factors,
    /// P by dO.
    pub dv: Bf16Accumulator,
    /// dS by Q.
    pub dk: Bf16Accumulator,
}

/// Computes the products of keys and queries and of values and output gradients, then [`SoftmaxGradientBf16`] without
/// `masked`, then the sums over queries.
pub type GradientStrip = unsafe fn(strip: &Bf16GradientStrip);

/// `rows[i][c] += columns[c][i]` for `n` rows of `d` elements, `ld_rows` apart. `columns` has rows `ld` apart, and whole groups
/// of 16 rows and 16 columns.
pub type AddTransposed =
    unsafe fn(columns: *const f32, ld: usize, n: usize, d: usize, rows: *mut f32, ld_rows: usize);

/// `s[i][j] *= factor` for `rows` x `n` elements, [`crate::SCORE_LD`] apart.
pub type ScaleRows = unsafe fn(s: *mut f32, rows: usize, n: usize, factor: f32);

/// Returns the largest magnitude of `n` rows of `d` floats; unspecified if one of them is NaN.
pub type MaxAbs = unsafe fn(rows: FloatRows, n: usize, d: usize) -> f32;

/// The kernels of the backward pass on bf16 slices, with strips and panels of [`STEP`].
#[derive(Clone, Copy)]
pub struct Bf16GradientKernels {
    /// P and dS of a strip, in slices.
    pub softmax_gradient: SoftmaxGradientBf16,
    /// All products of a strip without masked scores.
    pub strip: GradientStrip,
    /// Adds a transposed block to rows: dQ.
    pub add_transposed: AddTransposed,
    /// Multiplies rows of scores.
    pub scale_rows: ScaleRows,
    /// The largest magnitude of floats.
    pub max_abs: MaxAbs,
}

/// The kernels of the backward pass.
pub struct GradientKernels {
    /// As [`PvF32`] on transposed P: `o[i][c] = alpha[i] * o[i][c] + sum_j p[j][i] * v[j][c]`, where rows of `p` are
    /// [`crate::SCORE_LD`] apart. Neither `p` nor `o` needs alignment.
    pub ptv_f32: PvF32,
    /// P and dS of a strip.
    pub softmax_gradient: SoftmaxGradient,
    /// D as the row sums of P and dP.
    pub weighted_sums: WeightedSums,
    /// Transposes a block of f32.
    pub transpose: Transpose,
    /// D as the row sums of dO and O.
    pub row_dots: RowDots,
    /// The kernels on bf16 slices, if the instruction set has them.
    pub bf16: Option<Bf16GradientKernels>,
}
