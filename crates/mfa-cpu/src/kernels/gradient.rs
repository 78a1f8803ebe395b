//! What the backward pass needs beside the kernels of forward. Its strips are `mr` keys by a block of queries: scores
//! lie transposed, so that a gradient of K or V is a product as in forward, with keys in the place of rows.

use super::PvF32;

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

/// The kernels of the backward pass.
pub(crate) struct GradientKernels {
    /// As [`PvF32`] on transposed P: `o[i][c] = alpha[i] * o[i][c] + sum_j p[j][i] * v[j][c]`, where rows of `p` are
    /// [`super::SCORE_LD`] apart. Neither `p` nor `o` needs alignment.
    pub ptv_f32: PvF32,
    pub softmax_gradient: SoftmaxGradient,
    pub weighted_sums: WeightedSums,
    pub transpose: Transpose,
}
