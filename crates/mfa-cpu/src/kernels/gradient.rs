//! What the backward pass needs beside the kernels of forward. Its strips are `mr` keys by a block of queries: scores
//! lie transposed, so that a gradient of K or V is a product as in forward, with keys in the place of rows.

use super::PvF32;
#[cfg(doc)]
use super::parts::STEP;

/// Replaces `rows` x `n` scores by weights, and `dp` by the gradient of the scores: with the query's `l` (its logsumexp,
/// base 2) and `d`, `p = exp2(s[i][j] - l[j])`, then `dp[i][j] = p * (dp[i][j] - d[j])` and `s[i][j] = p`.
/// A score of -infinity is masked, and so are all scores of a query whose `l` is +infinity: both become 0, whatever else
/// `s`, `dp`, `l` and `d` hold. `dp` null: weights only. `s[i][j] - l[j]` is at most a rounding error above 0.
pub(crate) type SoftmaxGradient =
    unsafe fn(s: *mut f32, dp: *mut f32, rows: usize, n: usize, l: *const f32, d: *const f32);

/// `d[j] += sum_i exp2(s[i][j] - l[j]) * dp[i][j]`, without the terms of masked scores.
pub(crate) type WeightedSums =
    unsafe fn(s: *const f32, dp: *const f32, rows: usize, n: usize, l: *const f32, d: *mut f32);

/// `out[j][i] = rows[i][j]` for `n` rows of `d` elements.
pub(crate) type Transpose =
    unsafe fn(rows: *const f32, ld: usize, n: usize, d: usize, out: *mut f32, out_ld: usize);

/// What [`SoftmaxGradientParts`] reads and writes: a strip of [`STEP`] keys by `n` queries, a multiple of [`STEP`].
#[derive(Clone, Copy)]
pub(crate) struct PartsStrip {
    /// Products of keys and queries, and of values and output gradients, [`super::SCORE_LD`] apart.
    pub s: *const f32,
    pub dp: *const f32,
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

/// [`SoftmaxGradient`] whose P and dS leave as `p_parts` and `ds_parts` parts (0: not wanted), see [`super::parts`]: one
/// or two are rounded, three hold every bit. Without `masked`, no score is -infinity, and what has an `l`
/// of +infinity has a `d` that is finite.
pub(crate) type SoftmaxGradientParts =
    unsafe fn(strip: &PartsStrip, p_parts: usize, ds_parts: usize, masked: bool);

/// `rows[i][c] += columns[c][i]` for `n` rows of `d` elements; `columns` has whole groups of 16 of both.
pub(crate) type AddTransposed =
    unsafe fn(columns: *const f32, ld: usize, n: usize, d: usize, rows: *mut f32, ld_rows: usize);

/// `s[i][j] *= factor` for `rows` x `n` elements, [`super::SCORE_LD`] apart.
pub(crate) type ScaleRows = unsafe fn(s: *mut f32, rows: usize, n: usize, factor: f32);

/// The largest magnitude of `n` rows of `d` floats, `ld` apart, if all are numbers.
pub(crate) type Largest = unsafe fn(rows: *const f32, ld: usize, n: usize, d: usize) -> f32;

/// What the backward pass needs where products are those of parts, with strips and panels of [`STEP`].
#[derive(Clone, Copy)]
pub(crate) struct GradientParts {
    pub softmax_gradient: SoftmaxGradientParts,
    pub add_transposed: AddTransposed,
    pub scale_rows: ScaleRows,
    pub largest: Largest,
}

/// The kernels of the backward pass.
pub(crate) struct GradientKernels {
    /// As [`PvF32`] on transposed P: `o[i][c] = alpha[i] * o[i][c] + sum_j p[j][i] * v[j][c]`, where rows of `p` are
    /// [`super::SCORE_LD`] apart. Neither `p` nor `o` needs alignment.
    pub ptv_f32: PvF32,
    pub softmax_gradient: SoftmaxGradient,
    pub weighted_sums: WeightedSums,
    pub transpose: Transpose,
    pub parts: Option<GradientParts>,
}
