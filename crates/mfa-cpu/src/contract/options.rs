//! The options of attention, checked once, and the keys and queries that they leave to each other.

use mfa_sys as sys;

use crate::contract::array::Access;
use crate::contract::precision;
use crate::contract::sequences::{Sequence, Sequences};
use crate::contract::tensor::Tensor;
use crate::error::{Error, Result, ensure};
use mfa_kernels::Precision;
use mfa_kernels::base2::LOG2_E;

/// The meaning of the attention: see `mfa_attention_options`.
pub(crate) struct Options {
    pub scale: f32,
    /// The same in FP64: it differs where it is the default.
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

/// Ranges of keys and queries that causality and window leave to each other: docs/math.md (eq. RANGES).
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
    /// Whether there is a softcap. One that no score comes near bends none.
    pub(crate) fn caps(&self) -> bool {
        self.softcap > 0.0 && self.softcap < 1e30
    }

    /// The softcap of scores in base 2.
    pub(crate) fn softcap_in_base2(&self) -> f32 {
        self.softcap * LOG2_E
    }

    /// What scores are multiplied by, to be in base 2.
    pub(crate) fn factor(&self) -> f32 {
        (self.scale * LOG2_E).clamp(-f32::MAX, f32::MAX)
    }

    /// Whether causality or window hides any key.
    pub(crate) fn has_diagonal(&self) -> bool {
        self.causal || self.left.is_some() || self.right.is_some()
    }
}

impl Options {
    pub(crate) fn check(
        raw: Option<&sys::mfa_attention_options>,
        q: &Tensor,
        k: &Tensor,
        access: Access,
    ) -> Result<(Self, Sequences)> {
        let [batch, heads, rows, columns] = q.shape;
        let default_scale = 1.0 / (columns as f32).sqrt();
        let exact_default = 1.0 / (columns as f64).sqrt();
        let floats = precision::floats_beside(q.precision);
        let Some(raw) = raw else {
            let options = Options {
                scale: default_scale,
                exact_scale: exact_default,
                softcap: 0.0,
                causal: false,
                left: None,
                right: None,
                fast: false,
                mask: None,
                alibi: None,
                sinks: None,
            };
            let sequences = Sequences::new(None, batch, (rows, k.shape[2]), false)?;
            return Ok((options, sequences));
        };
        let flags = raw.flags;
        let known = sys::MFA_OPTION_SCALE | sys::MFA_OPTION_CAUSAL | sys::MFA_OPTION_WINDOW;
        ensure!(
            flags & !known == 0,
            argument,
            "options: flags is {flags:#x}; expected bits of {known:#x}"
        );
        ensure!(
            raw.reserved == 0,
            argument,
            "options: reserved is {}; expected 0",
            raw.reserved
        );
        let (scale, exact_scale) = if flags & sys::MFA_OPTION_SCALE != 0 {
            (raw.softmax_scale, f64::from(raw.softmax_scale))
        } else {
            (default_scale, exact_default)
        };
        ensure!(
            scale.is_finite(),
            argument,
            "options: softmax_scale is {scale}; expected a finite number"
        );
        ensure!(
            raw.softcap.is_finite() && raw.softcap >= 0.0,
            argument,
            "options: softcap is {}; expected a finite number, 0 or more",
            raw.softcap
        );
        let bottom_right = match raw.alignment {
            sys::MFA_ALIGNMENT_TOP_LEFT => false,
            sys::MFA_ALIGNMENT_BOTTOM_RIGHT => true,
            other => {
                return Err(unknown(
                    "alignment",
                    other,
                    "0 (top left) or 1 (bottom right)",
                ));
            }
        };
        let fast = match raw.compute {
            sys::MFA_COMPUTE_EXACT => false,
            sys::MFA_COMPUTE_FAST => true,
            other => return Err(unknown("compute", other, "0 (exact) or 1 (fast)")),
        };
        let window = flags & sys::MFA_OPTION_WINDOW != 0;
        ensure!(
            flags & sys::MFA_OPTION_SCALE != 0 || raw.softmax_scale == 0.0,
            argument,
            "options: softmax_scale is {} without MFA_OPTION_SCALE; expected both, or 0",
            raw.softmax_scale
        );
        for (name, width) in [
            ("window_left", raw.window_left),
            ("window_right", raw.window_right),
        ] {
            ensure!(
                window || matches!(width, 0 | -1),
                argument,
                "options: {name} is {width} without MFA_OPTION_WINDOW; expected both, or 0"
            );
        }
        let side = |name: &str, width: i64| {
            ensure!(
                width >= -1,
                argument,
                "options: {name} is {width}; expected -1 (no limit), 0 or more"
            );
            Ok((window && width >= 0).then_some(width))
        };
        let left = if window {
            side("window_left", raw.window_left)?
        } else {
            None
        };
        let right = if window {
            side("window_right", raw.window_right)?
        } else {
            None
        };

        let sequences = Sequences::new(Some(raw), batch, (rows, k.shape[2]), bottom_right)?;
        let mask_shape = [
            sequences.named,
            heads,
            sequences.most_q,
            sequences.most_stored_k,
        ];
        let broadcast =
            |view: &sys::mfa_tensor, what: &str, allowed: &[Precision], shape: [usize; 4]| {
                access
                    .optional(view, what, allowed)?
                    .map(|tensor| tensor.broadcast(what, shape))
                    .transpose()
            };
        let masks = [&[Precision::Bool], floats].concat();
        let mask = broadcast(&raw.mask, "mask", &masks, mask_shape)?;
        let per_head = |view: &sys::mfa_tensor, what: &str, shape: [usize; 4]| {
            broadcast(view, what, floats, shape)
        };
        let alibi = per_head(
            &raw.alibi_slopes,
            "alibi_slopes",
            [sequences.named, heads, 1, 1],
        )?;
        let sinks = per_head(&raw.sinks, "sinks", [1, heads, 1, 1])?;
        let causal = flags & sys::MFA_OPTION_CAUSAL != 0;
        Ok((
            Options {
                scale,
                exact_scale,
                softcap: raw.softcap,
                causal,
                left,
                right,
                fast,
                mask,
                alibi,
                sinks,
            },
            sequences,
        ))
    }
}

fn unknown(what: &str, found: i32, expected: &str) -> Error {
    Error::argument(format!(
        "options: {what} {found} is unknown; expected {expected}"
    ))
}
