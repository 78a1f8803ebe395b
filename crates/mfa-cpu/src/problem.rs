//! A call, checked once: every shape, option and precision is legal from here on.

use mfa_sys as sys;

use crate::error::{Error, Result, ensure};
use crate::overlap;
use crate::precision::Precision;
use crate::sequences::Sequences;
use crate::tensor::Tensor;

/// The largest head dimension.
pub(crate) const MAX_HEAD_DIM: usize = 512;

/// What forward and backward share.
pub(crate) struct Problem {
    pub q: Tensor,
    pub k: Tensor,
    pub v: Tensor,
    /// Columns of Q and K.
    pub d: usize,
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
    /// Whether causality or window hides any key.
    pub(crate) fn has_diagonal(&self) -> bool {
        self.causal || self.left.is_some() || self.right.is_some()
    }
}

impl Forward {
    pub(crate) fn check(desc: &sys::mfa_forward_desc) -> Result<Self> {
        ensure!(
            desc.reserved == 0,
            argument,
            "forward: reserved is {}; expected 0",
            desc.reserved
        );
        let problem = Problem::check(&desc.query, &desc.key, &desc.value, desc.options)?;
        let [batch, heads, rows, _] = problem.q.shape;
        let output = Tensor::required(&desc.output, "output", &Precision::FLOATS)?;
        output.expect_shape("output", [batch, heads, rows, problem.dv])?;
        output.expect_writable("output")?;
        let logsumexp = Tensor::optional(&desc.logsumexp, "logsumexp", &[Precision::F32])?;
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
        query: &sys::mfa_tensor,
        key: &sys::mfa_tensor,
        value: &sys::mfa_tensor,
        options: *const sys::mfa_attention_options,
    ) -> Result<Self> {
        let mut q = Tensor::required(query, "query", &Precision::OPERANDS)?;
        let mut k = Tensor::required(key, "key", &Precision::OPERANDS)?;
        let mut v = Tensor::required(value, "value", &Precision::OPERANDS)?;
        for (tensor, what) in [(&mut q, "query"), (&mut k, "key"), (&mut v, "value")] {
            let [batch, heads, _, columns] = tensor.shape;
            ensure!(
                batch > 0,
                dimensions,
                "{what}: batch is 0; expected at least 1"
            );
            ensure!(
                heads > 0,
                dimensions,
                "{what}: heads is 0; expected at least 1"
            );
            ensure!(
                (1..=MAX_HEAD_DIM).contains(&columns),
                dimensions,
                "{what}: head dimension is {columns}; expected 1 to {MAX_HEAD_DIM}"
            );
            ensure!(
                columns == 1 || tensor.strides[3] > 0,
                dimensions,
                "{what}: the stride of columns is 0; expected 1 or more, for {columns} columns that differ"
            );
        }
        let [batch, heads, _, d] = q.shape;
        let [_, kv_heads, nk, _] = k.shape;
        let dv = v.shape[3];
        k.expect_shape("key", [batch, kv_heads, nk, d])?;
        v.expect_shape("value", [batch, kv_heads, nk, dv])?;
        ensure!(
            heads % kv_heads == 0,
            dimensions,
            "query: {heads} heads; expected a multiple of the {kv_heads} key/value heads"
        );
        for (tensor, what) in [(&mut q, "query"), (&mut k, "key"), (&mut v, "value")] {
            let precision = tensor.precision;
            if let Some(quant) = &mut tensor.quant {
                quant.check_values(what, precision)?;
            }
        }
        // SAFETY: the contract makes `options` NULL or the address of a struct whose struct_size is true.
        let raw = unsafe { crate::ffi::sized(options, "options")? };
        let (options, sequences) = Options::check(raw.as_ref(), &q, &k)?;
        Ok(Problem {
            d,
            dv,
            heads,
            kv_heads,
            group: heads / kv_heads,
            sequences,
            options,
            q,
            k,
            v,
        })
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
    ) -> Result<(Self, Sequences)> {
        let [batch, heads, rows, columns] = q.shape;
        let default_scale = 1.0 / (columns as f32).sqrt();
        let Some(raw) = raw else {
            let options = Options {
                scale: default_scale,
                softcap: 0.0,
                causal: false,
                left: None,
                right: None,
                fast: false,
                mask: None,
                alibi: None,
                sinks: None,
            };
            return Ok((options, Sequences::dense(batch, rows, k.shape[2], false)));
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
        let scale = if flags & sys::MFA_OPTION_SCALE != 0 {
            raw.softmax_scale
        } else {
            default_scale
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

        let sequences = if raw.sequence_count == 0 {
            ensure!(
                raw.cu_seqlens_q.is_null() && raw.cu_seqlens_k.is_null(),
                argument,
                "options: cu_seqlens without sequence_count; expected both or neither"
            );
            Sequences::dense(batch, rows, k.shape[2], bottom_right)
        } else {
            ensure!(
                batch == 1,
                dimensions,
                "query: batch is {batch}; expected 1 with varlen (sequences lie along rows)"
            );
            Sequences::packed(raw, (rows, k.shape[2]), bottom_right)?
        };

        let mask_shape = [sequences.len(), heads, sequences.most_q, sequences.most_k];
        let broadcast =
            |view: &sys::mfa_tensor, what: &str, allowed: &[Precision], shape: [usize; 4]| {
                Tensor::optional(view, what, allowed)?
                    .map(|tensor| tensor.broadcast(what, shape))
                    .transpose()
            };
        let masks = [&[Precision::Bool], &Precision::FLOATS[..]].concat();
        let mask = broadcast(&raw.mask, "mask", &masks, mask_shape)?;
        let per_head = |view: &sys::mfa_tensor, what: &str, shape: [usize; 4]| {
            broadcast(view, what, &[Precision::F32], shape)
        };
        let alibi = per_head(
            &raw.alibi_slopes,
            "alibi_slopes",
            [sequences.len(), heads, 1, 1],
        )?;
        let sinks = per_head(&raw.sinks, "sinks", [1, heads, 1, 1])?;
        let causal = flags & sys::MFA_OPTION_CAUSAL != 0;
        Ok((
            Options {
                scale,
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
