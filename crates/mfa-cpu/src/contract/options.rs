//! The options of attention, checked once, and the ranges of keys and queries that attend to each other under them.
//!
//! See eq. 5, 6, 15, 16 of docs/math.md.

#![forbid(unsafe_code)]

use mfa_sys as sys;

use crate::contract::array::Access;
use crate::contract::precision;
use crate::contract::sequences::{Sequence, Sequences};
use crate::contract::tensor::Tensor;
use crate::error::{Error, Result, ensure};
use mfa_kernels::Precision;
use mfa_kernels::base2::LOG2_E;

/// The checked options: see `mfa_attention_options`.
pub(crate) struct Options {
    pub scale: f32,
    /// The same in FP64. It differs from `scale` if it is the default.
    pub exact_scale: f64,
    pub softcap: f32,
    pub causal: bool,
    /// Keys before and after the diagonal; `None`: no limit.
    pub left: Option<i64>,
    pub right: Option<i64>,
    pub fast: bool,
    pub mask: Option<Tensor>,
    pub alibi: Option<Tensor>,
    pub sinks: Option<Tensor>,
}

/// The ranges of keys and queries that attend to each other under causality and window: (eq. 5, 6 of docs/math.md).
impl Options {
    /// The keys `lo..hi` that query row `i` attends to. Both ends grow with `i`.
    pub(crate) fn key_range(&self, sequence: &Sequence, i: usize) -> (usize, usize) {
        let (at, nk) = (i as i64 + sequence.shift, sequence.nk as i64);
        let mut lo = 0;
        let mut hi = nk;
        if self.causal {
            hi = hi.min(at.saturating_add(1));
        }
        if let Some(right) = self.right {
            hi = hi.min(at.saturating_add(right).saturating_add(1));
        }
        if let Some(left) = self.left {
            lo = lo.max(at.saturating_sub(left));
        }
        let hi = hi.clamp(0, nk);
        (lo.clamp(0, hi) as usize, hi as usize)
    }

    /// The query rows `lo..hi` that attend to key `j`: the inverse of [`Options::key_range`]. Both ends grow with `j`.
    pub(crate) fn query_range(&self, sequence: &Sequence, j: usize) -> (usize, usize) {
        let (at, nq) = (
            (j as i64).saturating_sub(sequence.shift),
            sequence.nq as i64,
        );
        let mut lo = 0;
        let mut hi = nq;
        if self.causal {
            lo = lo.max(at);
        }
        if let Some(right) = self.right {
            lo = lo.max(at.saturating_sub(right));
        }
        if let Some(left) = self.left {
            hi = hi.min(at.saturating_add(left).saturating_add(1));
        }
        let hi = hi.clamp(0, nq);
        (lo.clamp(0, hi) as usize, hi as usize)
    }
}

impl Options {
    /// Whether there is a softcap. One far above all scores changes none.
    pub(crate) fn caps(&self) -> bool {
        self.softcap > 0.0 && self.softcap < 1e30
    }

    /// The softcap of scores in base 2.
    pub(crate) fn softcap_in_base2(&self) -> f32 {
        self.softcap * LOG2_E
    }

    /// The factor that turns Q Kᵀ into scores in base 2.
    pub(crate) fn factor(&self) -> f32 {
        (self.scale * LOG2_E).clamp(-f32::MAX, f32::MAX)
    }

    /// Whether causality or window limits the keys of a row.
    pub(crate) fn has_diagonal(&self) -> bool {
        self.causal || self.left.is_some() || self.right.is_some()
    }
}

/// The checks, one for each option: a new option adds one.
impl Options {
    /// Checks the options of a call on Q and K, and the sequences that they make of its batch. `None`: all defaults.
    pub(crate) fn check(
        raw: Option<&sys::mfa_attention_options>,
        q: &Tensor,
        k: &Tensor,
        access: Access,
    ) -> Result<(Self, Sequences)> {
        let defaults = sys::mfa_attention_options::new();
        let raw = raw.unwrap_or(&defaults);
        let [batch, heads, rows, columns] = q.shape;
        check_flags(raw)?;
        let (scale, exact_scale) = check_scale(raw, columns)?;
        let softcap = check_softcap(raw)?;
        let bottom_right = check_alignment(raw)?;
        let fast = check_compute(raw)?;
        check_unflagged(raw)?;
        let [left, right] = check_window(raw)?;
        let sequences = Sequences::new(raw, batch, (rows, k.shape[2]), bottom_right)?;
        let per_call = PerCall {
            access,
            heads,
            sequences: &sequences,
            floats: precision::floats_beside(q.precision),
        };
        let options = Options {
            scale,
            exact_scale,
            softcap,
            causal: raw.flags & sys::MFA_OPTION_CAUSAL != 0,
            left,
            right,
            fast,
            mask: per_call.check_mask(&raw.mask)?,
            alibi: per_call.check_alibi(&raw.alibi_slopes)?,
            sinks: per_call.check_sinks(&raw.sinks)?,
        };
        Ok((options, sequences))
    }
}

fn check_flags(raw: &sys::mfa_attention_options) -> Result<()> {
    let known = sys::MFA_OPTION_SCALE | sys::MFA_OPTION_CAUSAL | sys::MFA_OPTION_WINDOW;
    ensure!(
        raw.flags & !known == 0,
        argument,
        "options: flags is {:#x}; expected bits of {known:#x}",
        raw.flags
    );
    ensure!(
        raw.reserved == 0,
        argument,
        "options: reserved is {}; expected 0",
        raw.reserved
    );
    Ok(())
}

/// The softmax scale in FP32 and FP64.
fn check_scale(raw: &sys::mfa_attention_options, columns: usize) -> Result<(f32, f64)> {
    if raw.flags & sys::MFA_OPTION_SCALE == 0 {
        return Ok((1.0 / (columns as f32).sqrt(), 1.0 / (columns as f64).sqrt()));
    }
    let scale = raw.softmax_scale;
    ensure!(
        scale.is_finite(),
        argument,
        "options: softmax_scale is {scale}; expected a finite number"
    );
    Ok((scale, f64::from(scale)))
}

fn check_softcap(raw: &sys::mfa_attention_options) -> Result<f32> {
    ensure!(
        raw.softcap.is_finite() && raw.softcap >= 0.0,
        argument,
        "options: softcap is {}; expected a finite number, 0 or more",
        raw.softcap
    );
    Ok(raw.softcap)
}

/// Whether the diagonal is aligned to the last query and key.
fn check_alignment(raw: &sys::mfa_attention_options) -> Result<bool> {
    match raw.alignment {
        sys::MFA_ALIGNMENT_TOP_LEFT => Ok(false),
        sys::MFA_ALIGNMENT_BOTTOM_RIGHT => Ok(true),
        other => Err(unknown(
            "alignment",
            other,
            "0 (top left) or 1 (bottom right)",
        )),
    }
}

/// Whether P may be rounded to 8 bits.
fn check_compute(raw: &sys::mfa_attention_options) -> Result<bool> {
    match raw.compute {
        sys::MFA_COMPUTE_EXACT => Ok(false),
        sys::MFA_COMPUTE_FAST => Ok(true),
        other => Err(unknown("compute", other, "0 (exact) or 1 (fast)")),
    }
}

/// Refuses values whose flag is not set.
fn check_unflagged(raw: &sys::mfa_attention_options) -> Result<()> {
    ensure!(
        raw.flags & sys::MFA_OPTION_SCALE != 0 || raw.softmax_scale == 0.0,
        argument,
        "options: softmax_scale is {} without MFA_OPTION_SCALE; expected both, or 0",
        raw.softmax_scale
    );
    for (name, width) in [
        ("window_left", raw.window_left),
        ("window_right", raw.window_right),
    ] {
        ensure!(
            raw.flags & sys::MFA_OPTION_WINDOW != 0 || matches!(width, 0 | -1),
            argument,
            "options: {name} is {width} without MFA_OPTION_WINDOW; expected both, or 0"
        );
    }
    Ok(())
}

/// Keys before and after the diagonal; `None`: no limit.
fn check_window(raw: &sys::mfa_attention_options) -> Result<[Option<i64>; 2]> {
    if raw.flags & sys::MFA_OPTION_WINDOW == 0 {
        return Ok([None; 2]);
    }
    let side = |name: &str, width: i64| {
        ensure!(
            width >= -1,
            argument,
            "options: {name} is {width}; expected -1 (no limit), 0 or more"
        );
        Ok((width >= 0).then_some(width))
    };
    Ok([
        side("window_left", raw.window_left)?,
        side("window_right", raw.window_right)?,
    ])
}

/// Inputs of the checks of tensors.
struct PerCall<'a> {
    access: Access,
    heads: usize,
    sequences: &'a Sequences,
    /// Precisions of floats beside the operands.
    floats: &'static [Precision],
}

impl PerCall<'_> {
    fn check_mask(&self, view: &sys::mfa_tensor) -> Result<Option<Tensor>> {
        let sequences = self.sequences;
        let shape = [
            sequences.named,
            self.heads,
            sequences.most_q,
            sequences.most_stored_k,
        ];
        let precisions = [&[Precision::Bool], self.floats].concat();
        self.check_broadcast(view, "mask", &precisions, shape)
    }

    fn check_alibi(&self, view: &sys::mfa_tensor) -> Result<Option<Tensor>> {
        let shape = [self.sequences.named, self.heads, 1, 1];
        self.check_broadcast(view, "alibi_slopes", self.floats, shape)
    }

    fn check_sinks(&self, view: &sys::mfa_tensor) -> Result<Option<Tensor>> {
        self.check_broadcast(view, "sinks", self.floats, [1, self.heads, 1, 1])
    }

    /// Checks a tensor that may be absent, and broadcasts it to `shape`.
    fn check_broadcast(
        &self,
        view: &sys::mfa_tensor,
        what: &str,
        precisions: &[Precision],
        shape: [usize; 4],
    ) -> Result<Option<Tensor>> {
        self.access
            .optional(view, what, precisions)?
            .map(|tensor| tensor.broadcast(what, shape))
            .transpose()
    }
}

fn unknown(what: &str, found: i32, expected: &str) -> Error {
    Error::argument(format!(
        "options: {what} {found} is unknown; expected {expected}"
    ))
}
