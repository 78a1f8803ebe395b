//! The kernels that apply scales which differ within a row of integers.
//!
//! A stored integer `x` of row `j` and column `c` stands for `(x - zero) * scale`: see eq. 34 of docs/math.md. Either groups of
//! columns share a scale ([`GroupScales`]), or rows do ([`ChannelScales`]).

use crate::precision::PerInteger;

/// Scales of groups of columns, per row.
#[derive(Clone, Copy)]
pub struct GroupScales {
    /// `[rows]` rows of a scale per group, `ld` apart.
    pub scale: *const f32,
    /// Zero points, likewise; null: 0.
    pub zero: *const f32,
    /// Distance of rows of scales, in elements; 0 if all rows share them.
    pub ld: usize,
    /// Columns of a group: a multiple of 32. The last group may be shorter.
    pub group: usize,
}

impl GroupScales {
    /// The scales of the rows from `row` on.
    #[must_use]
    pub fn from(self, row: usize) -> Self {
        let at = row * self.ld;
        GroupScales {
            scale: self.scale.wrapping_add(at),
            zero: if self.zero.is_null() {
                self.zero
            } else {
                self.zero.wrapping_add(at)
            },
            ..self
        }
    }
}

/// Scales of columns, shared by all rows of a call.
#[derive(Clone, Copy)]
pub struct ChannelScales {
    /// A scale per column.
    pub scale: *const f32,
    /// A zero point per column; null: 0.
    pub zero: *const f32,
}

/// [`crate::DotRows`] on dequantized keys: `s[i][j] = sum_c q[i][c] * (k[j][c] - zero[j][c / group]) * scale[j][c / group]`.
pub type DotGroups = unsafe fn(
    q: *const f32,
    ldq: usize,
    rows: usize,
    k: *const u8,
    stride: usize,
    n: usize,
    d: usize,
    scales: GroupScales,
    s: *mut f32,
);

/// [`crate::AxpyRows`] on dequantized values:
/// `o[i][c] = alpha[i] * o[i][c] + sum_j p[i][j] * (v[j][c] - zero[j][c / group]) * scale[j][c / group]`.
pub type AxpyGroups = unsafe fn(
    p: *const f32,
    rows: usize,
    v: *const u8,
    stride: usize,
    n: usize,
    d: usize,
    scales: GroupScales,
    alpha: *const f32,
    o: *mut f32,
    ldo: usize,
);

/// `out[j][c] = (x[j][c] - zero[j][c / group]) * scale[j][c / group] + mean[c]` (`mean` null: without it) for `n` rows of `d`
/// integers, `stride` bytes apart, and rows of `out`, `ld` apart. Each operation rounds.
pub type DequantizeGroups = unsafe fn(
    x: *const u8,
    stride: usize,
    n: usize,
    d: usize,
    scales: GroupScales,
    mean: *const f32,
    out: *mut f32,
    ld: usize,
);

/// `out[j][c] = (x[j][c] - zero[c]) * scale[c] + mean[c]`, likewise.
pub type DequantizeChannels = unsafe fn(
    x: *const u8,
    stride: usize,
    n: usize,
    d: usize,
    scales: ChannelScales,
    mean: *const f32,
    out: *mut f32,
    ld: usize,
);

/// Multiplies columns by scales: `out[i][c] = x[i][c] * scale[c]` for `rows` rows of `d` floats, `ld` apart on both sides, and
/// `sums[i] = sum_c out[i][c] * zero[c]`. `out` may be `x`. Columns are channels of K, of which `x` is Q and `sums` the term of
/// zero points in each score of a row; or keys, of which `x` is P and `sums` the term of V's zero points.
pub type ScaleColumns = unsafe fn(
    x: *const f32,
    ld: usize,
    rows: usize,
    d: usize,
    scales: ChannelScales,
    out: *mut f32,
    sums: *mut f32,
);

/// Applies the scales of V's channels to sums of weighted integers `x[i][c] = sum_j p[i][j] * v[j][c]` over `n` keys:
/// `o[i][c] = alpha[i] * o[i][c] + (x[i][c] - zero[c] * sum_j p[i][j]) * scale[c]`. `p` is `[rows]` rows,
/// [`crate::SCORE_LD`] apart, and read only beside zero points; rows of `x` and `o` are `ldo` apart.
pub type AddChannels = unsafe fn(
    x: *const f32,
    p: *const f32,
    n: usize,
    rows: usize,
    d: usize,
    scales: ChannelScales,
    alpha: *const f32,
    o: *mut f32,
    ldo: usize,
);

/// The kernels of this module of one instruction set.
#[derive(Clone, Copy)]
pub struct QuantizedKernels {
    /// Scores of decode on groups of columns.
    pub dot_groups: PerInteger<DotGroups>,
    /// Output of decode on groups of columns.
    pub axpy_groups: PerInteger<AxpyGroups>,
    /// Conversion of integers to f32 by groups of columns.
    pub dequantize_groups: PerInteger<DequantizeGroups>,
    /// Conversion of integers to f32 by channels.
    pub dequantize_channels: PerInteger<DequantizeChannels>,
    /// Scales of K's channels in Q, or of keys in scores and weights.
    pub scale_columns: ScaleColumns,
    /// Scales of V's channels in O.
    pub add_channels: AddChannels,
}
