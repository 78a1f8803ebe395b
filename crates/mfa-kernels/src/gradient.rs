//! What the backward pass needs beside the kernels of forward. Its strips are `mr` keys by a block of queries: scores
//! lie transposed, so that a gradient of K or V is a product as in forward, with keys in the place of rows.

use super::PvF32;
#[cfg(doc)]
use super::bf16_split::STEP;
use super::bf16_split::{Bf16Products, FloatRows};

/// Replaces `rows` x `n` scores by weights, and `dp` by the gradient of the scores: with the query's `l` (its logsumexp,
/// base 2) and `d`, `p = exp2(s[i][j] - l[j])`, then `dp[i][j] = p * (dp[i][j] - d[j])` and `s[i][j] = p`.
/// A score of -infinity is masked, and so are all scores of a query whose `l` is +infinity: both become 0, whatever else
/// `s`, `dp`, `l` and `d` hold. `dp` null: weights only. `s[i][j] - l[j]` is at most a rounding error above 0.
pub type SoftmaxGradient =
    unsafe fn(s: *mut f32, dp: *mut f32, rows: usize, n: usize, l: *const f32, d: *const f32);

/// `d[j] += sum_i exp2(s[i][j] - l[j]) * dp[i][j]`, without the terms of masked scores.
pub type WeightedSums =
    unsafe fn(s: *const f32, dp: *const f32, rows: usize, n: usize, l: *const f32, d: *mut f32);

/// `out[j][i] = rows[i][j]` for `n` rows of `d` elements.
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

/// What [`SoftmaxGradientBf16`] reads and writes: a strip of [`STEP`] keys by `n` queries, a multiple of [`STEP`].
#[derive(Clone, Copy)]
pub struct Bf16Strip {
    /// Products of keys and queries, and of values and output gradients, [`super::SCORE_LD`] apart.
    pub s: *mut f32,
    pub dp: *mut f32,
    pub n: usize,
    /// What turns products of keys and queries into scores.
    pub scale: f32,
    /// Per query, as in [`SoftmaxGradient`].
    pub l: *const f32,
    pub d: *const f32,
    /// By what dS is multiplied where something is masked; null: 1.
    pub slope: *const f32,
    /// P and dS as A, with queries as terms: rows `ldp` and `ldds` elements apart. `ds` null: not wanted.
    pub p: *mut u16,
    pub ldp: usize,
    pub ds: *mut u16,
    pub ldds: usize,
    /// dS as B, with keys as terms, of which the strip is a step: panels of [`STEP`] queries, `panel` elements apart.
    /// Null: not wanted.
    pub columns: *mut u16,
    pub panel: usize,
}

/// [`SoftmaxGradient`] whose P and dS leave as `p_parts` and `ds_parts` slices (0: not wanted), see [`super::bf16_split`]: one
/// or two are rounded, three hold every bit. Without `masked`, no score is -infinity, and what has an `l`
/// of +infinity has a `d` that is finite.
pub type SoftmaxGradientBf16 =
    unsafe fn(strip: &Bf16Strip, p_parts: usize, ds_parts: usize, masked: bool);

/// Products of a strip of [`STEP`] rows and the queries of a [`Bf16Strip`], over `columns`.
#[derive(Clone, Copy)]
pub struct Bf16Factors {
    pub terms: Bf16Products,
    pub columns: usize,
    /// The strip as A, the queries as B.
    pub a: *const u16,
    pub b: *const u16,
}

/// What is added up over the queries of a [`Bf16Strip`]: its P or its dS by `panels` panels of B.
#[derive(Clone, Copy)]
pub struct Bf16Accumulator {
    pub terms: Bf16Products,
    /// Panels, `panel` elements apart.
    pub b: *const u16,
    pub panel: usize,
    pub panels: usize,
    /// Rows of sums, `ld` apart. Null: not wanted.
    pub out: *mut f32,
    pub ld: usize,
}

/// A strip of keys by the queries of a block, all of which see all of its keys.
#[derive(Clone, Copy)]
pub struct Bf16GradientStrip {
    /// `s` and `dp` are room for products, and hold nothing of use afterwards.
    pub strip: Bf16Strip,
    pub scores: Bf16Factors,
    pub dp: Bf16Factors,
    /// P by dO, dS by Q.
    pub dv: Bf16Accumulator,
    pub dk: Bf16Accumulator,
}

/// The products of keys and queries and of values and output gradients, [`SoftmaxGradientBf16`] of them (without `masked`),
/// and the sums over queries.
pub type GradientStrip = unsafe fn(strip: &Bf16GradientStrip);

/// `rows[i][c] += columns[c][i]` for `n` rows of `d` elements; `columns` has whole groups of 16 of both.
pub type AddTransposed =
    unsafe fn(columns: *const f32, ld: usize, n: usize, d: usize, rows: *mut f32, ld_rows: usize);

/// `s[i][j] *= factor` for `rows` x `n` elements, [`super::SCORE_LD`] apart.
pub type ScaleRows = unsafe fn(s: *mut f32, rows: usize, n: usize, factor: f32);

/// The largest magnitude of `n` rows of `d` floats, if all are numbers.
pub type MaxAbs = unsafe fn(rows: FloatRows, n: usize, d: usize) -> f32;

/// What the backward pass needs where products are those of slices, with strips and panels of [`STEP`].
#[derive(Clone, Copy)]
pub struct Bf16GradientKernels {
    pub softmax_gradient: SoftmaxGradientBf16,
    pub strip: GradientStrip,
    pub add_transposed: AddTransposed,
    pub scale_rows: ScaleRows,
    pub max_abs: MaxAbs,
}

/// The kernels of the backward pass.
pub struct GradientKernels {
    /// As [`PvF32`] on transposed P: `o[i][c] = alpha[i] * o[i][c] + sum_j p[j][i] * v[j][c]`, where rows of `p` are
    /// [`super::SCORE_LD`] apart. Neither `p` nor `o` needs alignment.
    pub ptv_f32: PvF32,
    pub softmax_gradient: SoftmaxGradient,
    pub weighted_sums: WeightedSums,
    pub transpose: Transpose,
    pub row_dots: RowDots,
    pub bf16: Option<Bf16GradientKernels>,
}
