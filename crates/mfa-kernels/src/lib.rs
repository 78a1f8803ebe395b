//! Micro-kernels: one table of function pointers per instruction set, chosen once per process.
//!
//! The loops of attention (which block, which mask, which thread) are in `mfa-cpu`; what is here knows tiles
//! only. Every kernel has a scalar twin with the same signature in [`scalar`], and the same tests run on both.
//!
//! # Tiles and layouts
//!
//! A *strip* is `mr` query rows. A *block* is up to [`BLOCK_N`] keys. A *panel* is `nr` keys (of K) or `nr` columns (of V).
//!
//! | name | layout | made by |
//! |---|---|---|
//! | Q, f32 | `[d][mr]`, rows past the end are zero | `pack_q_f32` |
//! | K, f32 | per panel `[d][nr]`, keys past the end are zero | `pack_k_f32` |
//! | V, f32 | per panel `[packed][nr]`, columns past the end are zero | `pack_v_f32` |
//! | Q, i8 | `[d4][mr][4]` of `q + q_offset`, where `d4 = ceil(d / 4)`; padding is q = 0 | `pack_q_i8` |
//! | K, i8 | per panel `[d4][nr][4]`, padding is zero | `pack_k_i8` |
//! | V, i16 | per panel `[ceil(packed / 2)][nr][2]` of `v - zero_point`, padding is zero | `pack_v_i16` |
//! | V, i8 | per panel `[ceil(packed / 4)][nr][4]` of `v`, padding is zero | `pack_v_i8` |
//! | scores and P, f32 | `[mr]` rows, [`SCORE_LD`] apart | `qk_*`, `softmax_*` |
//! | P, i16 | `[mr]` rows, [`P16_LD`] apart; padded with zeros to an even number of keys | `softmax_i16` |
//! | P, u8 | `[mr]` rows, [`P8_LD`] apart; padded with zeros to a multiple of four keys | `softmax_u8` |
//! | O, f32 | `[mr]` rows, `ldo` apart, `ldo` a multiple of `nr` | `pv_*` |
//!
//! Operands of units that multiply bf16 have layouts of their own: see [`bf16_split`].
//!
//! `packed` is the number of keys that `pack_v_*` was given. `pv_*` can be given any run of them: a pointer to its first
//! key, which is a multiple of `nr`, its length, and `packed`.
//!
//! The layouts of integer Q, and of 16-bit P and V, are a matter between the kernels that write and read them: AMX has its
//! own, of the same size, but that V takes the room of a multiple of four keys. What lies in columns past the end of O is
//! of no use.
//!
//! Packed operands, scores, P and O are 64-byte aligned; sources (`rows`, `k`, `v` of the decode kernels) need not be.
//! Scores are in the base-2 domain: the query was multiplied by `softmax_scale * log2(e)` while it was packed.

// A kernel is one unsafe contract from its first line to its last: pointers, lengths and layouts as its type says.
// Blocks inside it would repeat that message at every load.
#![allow(unsafe_op_in_unsafe_fn)]

pub mod base2;
pub mod bf16_split;
mod exp2;
mod generic;
pub mod gradient;
pub mod isa;
mod precision;
mod scalar;
mod simd;
#[cfg(all(test, unix))]
mod tests;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

pub use gradient::GradientKernels;
pub use isa::{Isa, kernels};
pub use precision::{Kind, PerPrecision, Precision, Traits};

/// Keys in a block, at most. 32767 * 255 * BLOCK_N is below 2^31, so that the sums of `pv_i16` are exact.
pub const BLOCK_N: usize = 256;
/// Distance of score rows, in elements: not a power of two, so that rows do not share L1 sets.
pub const SCORE_LD: usize = BLOCK_N + 16;
/// Distance of rows of 16-bit P, in elements.
pub const P16_LD: usize = BLOCK_N + 32;
/// Distance of rows of 8-bit P, in elements.
pub const P8_LD: usize = BLOCK_N + 64;
/// The largest bias of ALiBi: far keys have next to no weight, but are not masked.
pub const MOST_ALIBI: f32 = 3e38;
/// Keys that FP32 sums of P V take one after the other, before they are added to those before: a few small weights at a time
/// are rounded to the size of a large one.
pub const SUM_RUN: usize = 64;
/// What the largest weight of 16-bit P becomes: one less than the largest number, for what rounding carries to it.
pub const TOP16: f32 = 32766.0;
/// The same of 8-bit P.
pub const TOP8: f32 = 254.0;
/// Rows of the decode kernels, at most.
pub const DECODE_ROWS: usize = 8;
/// The largest `mr` of any table.
pub const MAX_MR: usize = 32;

/// What the scores of an INT8 tile need beside the integer product `raw = sum (q + q_offset) * k`:
/// `s[i][j] = (f32(raw + col_bias[j]) - col_zero[j] * row_sum[i]) * col_scale[j] * row_scale[i] + row_add[i]`.
#[derive(Clone, Copy)]
pub struct ScoreScales {
    /// `-(q_offset + q_zero) * sum_d k[j][d]` plus `d * q_zero * k_zero`, per key.
    pub col_bias: *const i32,
    /// Scale per key; null: 1.
    pub col_scale: *const f32,
    /// Zero point per key; null: 0.
    pub col_zero: *const f32,
    /// Scale per row (with softmax scale, log2 e and a scale common to all keys).
    pub row_scale: *const f32,
    /// Sum of the row's stored integers, per row; read only with `col_zero`.
    pub row_sum: *const f32,
    /// Added to the row's scores.
    pub row_add: *const f32,
}

/// Running statistics of a strip's softmax, base 2. `m` starts at -infinity, `l` at 0.
#[derive(Clone, Copy)]
pub struct RowState {
    /// Running maximum, per row.
    pub m: *mut f32,
    /// Running sum of exp2(s - m), per row.
    pub l: *mut f32,
    /// Out: what the rows of O must be multiplied by, `exp2(m_old - m_new)`.
    pub alpha: *mut f32,
    /// What rounding left out of `l`, per row: together they are the sum of the weights as they were. Starts at 0. Only
    /// kernels of integer P touch it.
    pub left: *mut f32,
}

impl RowState {
    /// The state of the rows from `row` on.
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
/// Tiles read the strips of Q and P as a whole, all `mr` rows; whatever else has something per row has it for `rows`.
pub type QkF32 =
    unsafe fn(q: *const f32, k: *const f32, d: usize, rows: usize, panels: usize, s: *mut f32);
/// The same on INT8 operands; integer sums are exact. `d4` groups of four; scores as [`ScoreScales`] says.
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
/// Scores of -infinity give exactly 0; NaN reaches `l`. The relative error of exp2 is below 2^-22.
pub type SoftmaxF32 = unsafe fn(s: *mut f32, rows: usize, n: usize, state: RowState);
/// As [`SoftmaxF32`], but P leaves as integers: with `w_j = exp2(s_j - block maximum) * (v_scale ? v_scale[j] : 1)`,
/// `p = round(w / max |w| * TOP16)`, and `p_scale[i] = max |w| / TOP16 * exp2(block maximum - m)`. `s` is scratch.
///
/// What rounding leaves over is carried from key to key, in chains that kernels choose: each `p` is within one step, and so
/// is the sum over a flat run of keys. `l` sums what is multiplied: the weights without `v_scale`, less what is left over in
/// the end in units of `1 / TOP16`, which is `p / TOP16` where all of `v_scale` is the same; `left` sums the rest.
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
/// (what `pack_v_*` was given: a causal edge takes part of a block), and `panels` panels of columns; rows as [`QkF32`].
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

/// Packs `n` rows of `d` floats, `ld` apart, multiplied by `scale`, as Q.
pub type PackQF32 =
    unsafe fn(rows: *const f32, ld: usize, n: usize, d: usize, scale: f32, out: *mut f32);
/// Packs `n` rows of `d` integers, `ld` bytes apart, as Q; `sums[i]` receives the sum of each row's integers.
pub type PackQI8 =
    unsafe fn(rows: *const i8, ld: usize, n: usize, d: usize, out: *mut u8, sums: *mut i32);
/// Packs `n` keys of `d` floats, `ld` apart, as `ceil(n / nr)` panels.
pub type PackKF32 = unsafe fn(rows: *const f32, ld: usize, n: usize, d: usize, out: *mut f32);
/// Packs `n` keys of `d` integers, `ld` bytes apart; `sums[j]` receives the sum of each key (0 for padding).
pub type PackKI8 =
    unsafe fn(rows: *const i8, ld: usize, n: usize, d: usize, out: *mut i8, sums: *mut i32);
/// Packs `n` values of `d` floats, `ld` apart, as `ceil(d / nr)` panels. Returns whether all of them are finite.
pub type PackVF32 =
    unsafe fn(rows: *const f32, ld: usize, n: usize, d: usize, out: *mut f32) -> bool;
/// Packs `n` values of `d` integers, `ld` bytes apart, less `zero[j]` (null: 0).
pub type PackVI16 =
    unsafe fn(rows: *const i8, ld: usize, n: usize, d: usize, zero: *const i32, out: *mut i16);
/// Packs `n` values of `d` integers, `ld` bytes apart.
pub type PackVI8 = unsafe fn(rows: *const i8, ld: usize, n: usize, d: usize, out: *mut i8);

/// Converts `n` consecutive elements to f32 (integers as they are stored, without scale).
pub type ToF32 = unsafe fn(src: *const u8, n: usize, out: *mut f32);
/// Unpacks `n` (even) INT4 elements to i8.
pub type UnpackI4 = unsafe fn(src: *const u8, n: usize, out: *mut i8);

/// Decode: `s[i][j] = sum_d q[i][d] * k[j][d]` for `rows <= DECODE_ROWS` rows `ldq` apart and `n <= BLOCK_N` keys that lie as
/// the caller stored them, `stride` bytes apart (integers without scale).
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
/// Decode: `o[i][c] = alpha[i] * o[i][c] + sum_j p[i][j] * v[j][c]` on values that lie as the caller stored them.
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

/// Passes over one row of scores (base 2) before softmax.
/// `s[j] = -infinity` where `mask[j] == 0`.
pub type MaskBool = unsafe fn(s: *mut f32, mask: *const u8, n: usize);
/// `s[j] += to_base2(mask[j])`; a mask of -infinity gives -infinity whatever `s[j]` was.
pub type MaskAdd = unsafe fn(s: *mut f32, mask: *const f32, n: usize);
/// `s[j] = cap2 * tanh(s[j] / cap2)`, where `cap2 = softcap * log2(e)`. NaN stays NaN.
pub type Softcap = unsafe fn(s: *mut f32, n: usize, cap2: f32);
/// `s[j] -= slope2 * |first - j|`, at most [`MOST_ALIBI`], where `slope2 = slope * log2(e)` and `first` is the row's position less that of key 0.
pub type Alibi = unsafe fn(s: *mut f32, n: usize, slope2: f32, first: f32);

/// `out[j] = factor * x[j]` for one row of an output; `out` may be `x`.
pub type Scale = unsafe fn(x: *const f32, n: usize, factor: f32, out: *mut f32);

/// `out[j]` is `x[j]` as a BF16: to nearest, ties to even; NaN stays one.
pub type ToBf16 = unsafe fn(x: *const f32, n: usize, out: *mut u16);

/// The kernels of one instruction set.
pub struct Kernels {
    pub isa: Isa,
    /// Query rows of a strip.
    pub mr: usize,
    /// Keys (columns of V) of a panel; divides [`BLOCK_N`].
    pub nr: usize,
    /// Whether `qk_i8` is faster than expanding INT8 to f32 on this instruction set.
    pub int8: bool,
    /// Whether `pv_i16` and `pv_u8` are.
    pub int8_values: bool,
    /// What `pack_q_i8` adds to the integers of Q: 128 where products take unsigned bytes, 0 where they take signed ones.
    pub q_offset: i32,
    pub qk_f32: QkF32,
    pub qk_i8: QkI8,
    pub softmax_f32: SoftmaxF32,
    pub softmax_i16: SoftmaxI16,
    pub softmax_u8: SoftmaxU8,
    pub pv_f32: PvF32,
    pub pv_i16: PvI16,
    pub pv_u8: PvU8,
    pub pack_q_f32: PackQF32,
    pub pack_q_i8: PackQI8,
    pub pack_k_f32: PackKF32,
    pub pack_k_i8: PackKI8,
    pub pack_v_f32: PackVF32,
    pub pack_v_i16: PackVI16,
    pub pack_v_i8: PackVI8,
    pub to_f32: PerPrecision<ToF32>,
    pub unpack_i4: UnpackI4,
    pub dot_rows: PerPrecision<DotRows>,
    pub axpy_rows: PerPrecision<AxpyRows>,
    pub mask_bool: MaskBool,
    pub mask_add: MaskAdd,
    pub softcap: Softcap,
    pub alibi: Alibi,
    pub scale: Scale,
    pub to_bf16: ToBf16,
    pub gradient: GradientKernels,
    /// Products by a bf16 unit, if they are faster than `qk_f32` and `pv_f32`.
    pub bf16: Option<bf16_split::Bf16Kernels>,
}

impl Kernels {
    /// Whether the backward pass has products of bf16 terms: it needs the kernels of both passes, with strips and panels of a
    /// step.
    #[must_use]
    pub fn has_bf16_gradient(&self) -> bool {
        let steps = self.mr == bf16_split::STEP && self.nr == bf16_split::STEP;
        steps && self.bf16.is_some() && self.gradient.bf16.is_some()
    }
}
