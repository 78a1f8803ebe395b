//! The types of the kernels of the forward pass: function pointers and their arguments.
//!
//! Every pointer is valid for the elements that the type names. A pointer may be null only where its text says so.
//!
//! See eq. 1, 8, 12, 49 of docs/math.md.

/// The scales of an INT8 score tile. With the integer product `raw[i][j] = sum_d (q[i][d] + q_offset) * k[j][d]`:
/// `s[i][j] = (f32(raw[i][j] + col_bias[j]) - col_zero[j] * row_sum[i]) * col_scale[j] * row_scale[i] + row_add[i]`.
#[derive(Clone, Copy)]
pub struct ScoreScales {
    /// `[panels * nr]`: `-(q_offset + q_zero) * sum_d k[j][d] + d * q_zero * k_zero`, per key.
    pub col_bias: *const i32,
    /// `[panels * nr]`: scale per key; null: 1.
    pub col_scale: *const f32,
    /// `[panels * nr]`: zero point per key; null: 0.
    pub col_zero: *const f32,
    /// `[rows]`: scale per row, times softmax scale, log2 e and a scale common to all keys.
    pub row_scale: *const f32,
    /// `[rows]`: sum of the row's stored integers; read only with `col_zero`, else may be null.
    pub row_sum: *const f32,
    /// `[rows]`: added to the row's scores.
    pub row_add: *const f32,
}

/// The running statistics of a strip's softmax, base 2. `m` starts at -infinity, `l` at 0.
#[derive(Clone, Copy)]
pub struct RowState {
    /// `[rows]`: running maximum.
    pub m: *mut f32,
    /// `[rows]`: running sum of `exp2(s - m)`.
    pub l: *mut f32,
    /// `[rows]`, output: the factor of the rows of O, `exp2(m_old - m_new)`.
    pub alpha: *mut f32,
    /// `[rows]`: the rounding error of `l`; `l + left` is the sum of the weights before rounding. Starts at 0. Only kernels of
    /// integer P use it.
    pub left: *mut f32,
}

impl RowState {
    /// The state of the rows from `row` on.
    #[must_use]
    pub fn from(self, row: usize) -> Self {
        RowState {
            m: self.m.wrapping_add(row),
            l: self.l.wrapping_add(row),
            alpha: self.alpha.wrapping_add(row),
            left: self.left.wrapping_add(row),
        }
    }
}

/// `s[i][j] = sum_d q[d][i] * k[d][j]` for `rows <= mr` rows and `panels * nr` keys.
///
/// Tiles read the strips of Q and P as a whole, all `mr` rows. Every other array per row has `rows` elements.
pub type QkF32 =
    unsafe fn(q: *const f32, k: *const f32, d: usize, rows: usize, panels: usize, s: *mut f32);
/// As [`QkF32`] on INT8 operands of `d4` groups of four: integer sums are exact, scores as in [`ScoreScales`].
pub type QkI8 = unsafe fn(
    q: *const u8,
    k: *const i8,
    d4: usize,
    rows: usize,
    panels: usize,
    scales: &ScoreScales,
    s: *mut f32,
);

/// One step of online softmax on `rows` x `n` scores, in place: `mx = max(m, max_j s)`, or 0 where that is -infinity;
/// `alpha = exp2(m - mx)`, `s = exp2(s - mx)`, `l = alpha * l + sum_j s`, `m = max(m, max_j s)`.
///
/// Scores of -infinity give exactly 0; NaN reaches `l`. The relative error of exp2 is below 2^-22.
pub type SoftmaxF32 = unsafe fn(s: *mut f32, rows: usize, n: usize, state: RowState);
/// As [`SoftmaxF32`] with P in integers: with `w_j = exp2(s_j - block maximum) * (v_scale ? v_scale[j] : 1)`,
/// `p = round(w / max |w| * TOP16)`, and `p_scale[i] = max |w| / TOP16 * exp2(block maximum - m)`. `s` is scratch;
/// `v_scale` (`[n]`) may be null.
///
/// Kernels carry the rounding error from key to key, in chains that they choose: each `p` is within one step, and so is the
/// sum over a flat run of keys. `l` sums the weights that are multiplied: those without `v_scale`, less the final error in
/// units of `1 / TOP16`, which is `p / TOP16` where all of `v_scale` is the same. `left` sums the rest.
pub type SoftmaxI16 = unsafe fn(
    s: *mut f32,
    rows: usize,
    n: usize,
    state: RowState,
    v_scale: *const f32,
    p: *mut i16,
    p_scale: *mut f32,
);
/// As [`SoftmaxI16`] with `TOP8` in place of `TOP16`, for `v_scale` that are not negative; `p_sum[i]` is the sum of the row's
/// integers.
pub type SoftmaxU8 = unsafe fn(
    s: *mut f32,
    rows: usize,
    n: usize,
    state: RowState,
    v_scale: *const f32,
    p: *mut u8,
    p_scale: *mut f32,
    p_sum: *mut i32,
);

/// `o[i][c] = alpha[i] * o[i][c] + sum_j p[i][j] * v[j][c]` over the first `n` keys of panels that hold `packed >= n` keys
/// (the number that `pack_v_*` was given: a causal edge takes part of a block), and `panels` panels of columns; rows as
/// [`QkF32`].
pub type PvF32 = unsafe fn(
    p: *const f32,
    v: *const f32,
    packed: usize,
    n: usize,
    rows: usize,
    panels: usize,
    alpha: *const f32,
    o: *mut f32,
    ldo: usize,
);
/// `o[i][c] = alpha[i] * o[i][c] + p_scale[i] * col_scale[c] * sum_j p[i][j] * v[j][c]` (`col_scale` null: 1), sums exact.
pub type PvI16 = unsafe fn(
    p: *const i16,
    v: *const i16,
    packed: usize,
    n: usize,
    rows: usize,
    panels: usize,
    alpha: *const f32,
    p_scale: *const f32,
    col_scale: *const f32,
    o: *mut f32,
    ldo: usize,
);
/// As [`PvI16`] on 8-bit P and V: the sum is `sum_j p * v - v_zero * p_sum[i]`.
pub type PvU8 = unsafe fn(
    p: *const u8,
    v: *const i8,
    packed: usize,
    n: usize,
    rows: usize,
    panels: usize,
    alpha: *const f32,
    p_scale: *const f32,
    p_sum: *const i32,
    v_zero: i32,
    o: *mut f32,
    ldo: usize,
);

/// Packs `n <= mr` rows of `d` floats, `ld` elements apart, multiplied by `scale`, as Q.
pub type PackQF32 =
    unsafe fn(rows: *const f32, ld: usize, n: usize, d: usize, scale: f32, out: *mut f32);
/// Packs `n <= mr` rows of `d` integers, `ld` bytes apart, as Q; `sums[i]` receives the sum of each row's integers.
pub type PackQI8 =
    unsafe fn(rows: *const i8, ld: usize, n: usize, d: usize, out: *mut u8, sums: *mut i32);
/// Packs `n` keys of `d` floats, `ld` elements apart, as `ceil(n / nr)` panels.
pub type PackKF32 = unsafe fn(rows: *const f32, ld: usize, n: usize, d: usize, out: *mut f32);
/// Packs `n` keys of `d` integers, `ld` bytes apart; `sums[j]` receives the sum of each key (0 for padding).
pub type PackKI8 =
    unsafe fn(rows: *const i8, ld: usize, n: usize, d: usize, out: *mut i8, sums: *mut i32);
/// Packs `n` values of `d` floats, `ld` elements apart, as `ceil(d / nr)` panels. Returns whether all of them are finite.
pub type PackVF32 =
    unsafe fn(rows: *const f32, ld: usize, n: usize, d: usize, out: *mut f32) -> bool;
/// Packs `n` values of `d` integers, `ld` bytes apart, less `zero[j]` (`zero` null: 0).
pub type PackVI16 =
    unsafe fn(rows: *const i8, ld: usize, n: usize, d: usize, zero: *const i32, out: *mut i16);
/// Packs `n` values of `d` integers, `ld` bytes apart.
pub type PackVI8 = unsafe fn(rows: *const i8, ld: usize, n: usize, d: usize, out: *mut i8);

/// Converts `n` consecutive elements to f32 (integers as they are stored, without scale).
pub type ToF32 = unsafe fn(src: *const u8, n: usize, out: *mut f32);
/// Unpacks `n` (even) INT4 elements to i8.
pub type UnpackI4 = unsafe fn(src: *const u8, n: usize, out: *mut i8);

/// Decode: `s[i][j] = sum_d q[i][d] * k[j][d]` for `rows <= DECODE_ROWS` rows, `ldq` elements apart, and `n <= BLOCK_N` keys
/// in the caller's storage, `stride` bytes apart (integers without scale).
pub type DotRows = unsafe fn(
    q: *const f32,
    ldq: usize,
    rows: usize,
    k: *const u8,
    stride: usize,
    n: usize,
    d: usize,
    s: *mut f32,
);
/// Decode: `o[i][c] = alpha[i] * o[i][c] + sum_j p[i][j] * v[j][c]` on values in the caller's storage, `stride` bytes apart;
/// `p` is `[rows]` rows, [`crate::SCORE_LD`] apart.
pub type AxpyRows = unsafe fn(
    p: *const f32,
    rows: usize,
    v: *const u8,
    stride: usize,
    n: usize,
    d: usize,
    alpha: *const f32,
    o: *mut f32,
    ldo: usize,
);

/// A pass over a row of `n` scores before softmax: `s[j] = -infinity` where `mask[j] == 0`.
pub type MaskBool = unsafe fn(s: *mut f32, mask: *const u8, n: usize);
/// `s[j] += to_base2(mask[j])`; a mask of -infinity gives -infinity whatever `s[j]` was.
pub type MaskAdd = unsafe fn(s: *mut f32, mask: *const f32, n: usize);
/// `s[j] = cap2 * tanh(s[j] / cap2)`, where `cap2 = softcap * log2(e)`. NaN stays NaN.
pub type Softcap = unsafe fn(s: *mut f32, n: usize, cap2: f32);
/// `s[j] -= slope2 * |first - j|`, at most [`crate::MOST_ALIBI`], where `slope2 = slope * log2(e)` and `first` is the row's
/// position less that of key 0.
pub type Alibi = unsafe fn(s: *mut f32, n: usize, slope2: f32, first: f32);

/// Asks for the cache lines of `bytes` bytes at `p`, which need not be valid.
pub type Prefetch = unsafe fn(p: *const u8, bytes: usize);

/// `out[j] = factor * x[j]` for one row of an output; `out` may be `x`.
pub type Scale = unsafe fn(x: *const f32, n: usize, factor: f32, out: *mut f32);

/// `out[j] = bf16(x[j])`, rounded to nearest, ties to even; NaN stays NaN.
pub type ToBf16 = unsafe fn(x: *const f32, n: usize, out: *mut u16);
/// `out[j] = f16(x[j])`, likewise.
pub type ToF16 = unsafe fn(x: *const f32, n: usize, out: *mut u16);
