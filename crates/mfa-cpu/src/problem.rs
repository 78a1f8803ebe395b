//! A call, checked once: every shape, option and precision is legal from here on.

use mfa_sys as sys;

use crate::base2::LOG2_E;
use crate::error::{Error, Result, ensure};
use crate::overlap;
use crate::precision::Precision;
use crate::sequences::Sequences;
use crate::tensor::{Access, Tensor};

/// The largest head dimension.
pub(crate) const MAX_HEAD_DIM: usize = 1024;

/// What forward and backward share.
pub(crate) struct Problem {
    pub q: Tensor,
    pub k: Tensor,
    pub v: Tensor,
    /// Columns of Q and K: 1 of zeros where the caller's have none.
    pub d: usize,
    /// The caller's columns of Q and K.
    pub columns: usize,
    /// Columns of V.
    pub dv: usize,
    pub heads: usize,
    pub kv_heads: usize,
    /// Query heads that share a key/value head.
    pub group: usize,
    pub sequences: Sequences,
    pub options: Options,
}

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

/// A checked forward call.
pub(crate) struct Forward {
    pub problem: Problem,
    pub output: Tensor,
    pub logsumexp: Option<Tensor>,
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

impl Forward {
    pub(crate) fn check(desc: &sys::mfa_forward_desc, access: Access) -> Result<Self> {
        ensure!(
            desc.reserved == 0,
            argument,
            "forward: reserved is {}; expected 0",
            desc.reserved
        );
        let problem = Problem::check([&desc.query, &desc.key, &desc.value], desc.options, access)?;
        let [batch, heads, rows, _] = problem.q.shape;
        let output = access.required(&desc.output, "output", problem.floats())?;
        output.expect_shape("output", [batch, heads, rows, problem.dv])?;
        output.expect_writable("output")?;
        let logsumexp = access.optional(&desc.logsumexp, "logsumexp", problem.exact())?;
        if let Some(lse) = &logsumexp {
            lse.expect_shape("logsumexp", [batch, heads, rows, 1])?;
            lse.expect_writable("logsumexp")?;
        }
        let options = &problem.options;
        overlap::expect_apart(
            &[(Some(&output), "output"), (logsumexp.as_ref(), "logsumexp")],
            &[
                (Some(&problem.q), "query"),
                (Some(&problem.k), "key"),
                (Some(&problem.v), "value"),
                (options.mask.as_ref(), "mask"),
                (options.alibi.as_ref(), "alibi_slopes"),
                (options.sinks.as_ref(), "sinks"),
            ],
        )?;
        Ok(Forward {
            problem,
            output,
            logsumexp,
        })
    }
}

impl Problem {
    pub(crate) fn check(
        [query, key, value]: [&sys::mfa_tensor; 3],
        options: *const sys::mfa_attention_options,
        access: Access,
    ) -> Result<Self> {
        let operands = match query.precision {
            sys::MFA_PRECISION_FP64 => &[Precision::F64][..],
            _ => &Precision::OPERANDS,
        };
        let mut q = access.required(query, "query", operands)?;
        let mut k = access.required(key, "key", operands)?;
        let mut v = access.required(value, "value", operands)?;
        for (tensor, what) in [(&q, "query"), (&k, "key"), (&v, "value")] {
            let columns = tensor.shape[3];
            let least = usize::from(what == "value");
            ensure!(
                (least..=MAX_HEAD_DIM).contains(&columns),
                dimensions,
                "{what}: head dimension is {columns}; expected {least} to {MAX_HEAD_DIM}"
            );
            ensure!(
                columns == 1 || tensor.strides[3] > 0 || tensor.shape.contains(&0),
                dimensions,
                "{what}: the stride of columns is 0; expected 1 or more, for {columns} columns that differ"
            );
        }
        let [batch, heads, rows, columns] = q.shape;
        let [_, kv_heads, nk, _] = k.shape;
        let dv = v.shape[3];
        k.expect_shape("key", [batch, kv_heads, nk, columns])?;
        v.expect_shape("value", [batch, kv_heads, nk, dv])?;
        ensure!(
            heads == 0 || (kv_heads > 0 && heads % kv_heads == 0),
            dimensions,
            "query: {heads} heads; expected a multiple of the {kv_heads} key/value heads"
        );
        for (tensor, what) in [(&mut q, "query"), (&mut k, "key"), (&mut v, "value")] {
            let precision = tensor.precision;
            if let Some(quant) = &mut tensor.quant {
                quant.check_values(what, precision)?;
            }
        }
        if columns == 0 {
            // A product without terms is 0: what a column of zeros gives.
            q = Tensor::zeros(q.precision, [batch, heads, rows, 1]);
            k = Tensor::zeros(k.precision, [batch, kv_heads, nk, 1]);
        }
        // SAFETY: the contract makes `options` NULL or the address of a struct whose struct_size is true.
        let raw = unsafe { crate::ffi::sized(options, "options")? };
        let (options, sequences) = Options::check(raw.as_ref(), &q, &k, access)?;
        Ok(Problem {
            d: q.shape[3],
            columns,
            dv,
            heads,
            kv_heads,
            group: heads.checked_div(kv_heads).unwrap_or(0),
            sequences,
            options,
            q,
            k,
            v,
        })
    }

    /// Whether the operands are FP64, and everything is computed in FP64.
    pub(crate) fn is_double(&self) -> bool {
        self.v.precision == Precision::F64
    }

    /// What outputs and their gradients may be stored in.
    pub(crate) fn floats(&self) -> &'static [Precision] {
        self.v.precision.floats_beside()
    }

    /// What logsumexp, D and the gradients of operands are stored in.
    pub(crate) fn exact(&self) -> &'static [Precision] {
        self.v.precision.exact_beside()
    }

    /// Multiply-adds of the two products.
    pub(crate) fn work(&self) -> f64 {
        self.scores() * (self.d + self.dv) as f64
    }

    /// Scores of all sequences and heads.
    pub(crate) fn scores(&self) -> f64 {
        self.sequences.pairs * self.heads as f64
    }
}

impl Options {
    fn check(
        raw: Option<&sys::mfa_attention_options>,
        q: &Tensor,
        k: &Tensor,
        access: Access,
    ) -> Result<(Self, Sequences)> {
        let [batch, heads, rows, columns] = q.shape;
        let default_scale = 1.0 / (columns as f32).sqrt();
        let exact_default = 1.0 / (columns as f64).sqrt();
        let floats = q.precision.floats_beside();
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
