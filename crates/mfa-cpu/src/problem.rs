//! A call, checked once: every shape, option and precision is legal from here on.

use mfa_sys as sys;

use crate::error::{Error, Result, ensure};
use crate::precision::Precision;
use crate::tensor::{Array, Tensor};

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
    pub sequences: Vec<Sequence>,
    pub options: Options,
}

/// One sequence: a batch element, or a run of rows of the packed batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sequence {
    /// Batch index of the operands.
    pub batch: usize,
    /// Batch index of the mask.
    pub index: usize,
    pub q0: usize,
    pub nq: usize,
    pub k0: usize,
    pub nk: usize,
    /// Key position of query row 0.
    pub shift: i64,
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

impl Sequence {
    /// The keys `lo..hi` that causality and window leave visible to query row `i`. Both ends grow with `i`.
    pub(crate) fn visible(&self, options: &Options, i: usize) -> (usize, usize) {
        let (at, nk) = (i as i64 + self.shift, self.nk as i64);
        let mut lo = 0;
        let mut hi = nk;
        if options.causal {
            hi = hi.min(at.saturating_add(1));
        }
        if let Some(right) = options.right {
            hi = hi.min(at.saturating_add(right).saturating_add(1));
        }
        if let Some(left) = options.left {
            lo = lo.max(at.saturating_sub(left));
        }
        let hi = hi.clamp(0, nk);
        (lo.clamp(0, hi) as usize, hi as usize)
    }
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
            let (precision, shape) = (tensor.precision, tensor.shape);
            if let Some(quant) = &mut tensor.quant {
                quant.check_values(what, precision, shape)?;
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

    /// Rows of all sequences, over one head.
    pub(crate) fn scores(&self) -> f64 {
        self.sequences
            .iter()
            .map(|s| s.nq as f64 * s.nk as f64)
            .sum::<f64>()
            * self.heads as f64
    }
}

impl Options {
    fn check(
        raw: Option<&sys::mfa_attention_options>,
        q: &Tensor,
        k: &Tensor,
    ) -> Result<(Self, Vec<Sequence>)> {
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
            return Ok((options, dense(batch, rows, k.shape[2], false)?));
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
            dense(batch, rows, k.shape[2], bottom_right)?
        } else {
            ensure!(
                batch == 1,
                dimensions,
                "query: batch is {batch}; expected 1 with varlen (sequences lie along rows)"
            );
            varlen(raw, rows, k.shape[2], bottom_right)?
        };

        let mask_shape = [
            sequences.len(),
            heads,
            sequences.iter().map(|s| s.nq).max().unwrap_or(0),
            sequences.iter().map(|s| s.nk).max().unwrap_or(0),
        ];
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

fn shift(bottom_right: bool, nq: usize, nk: usize) -> i64 {
    if bottom_right {
        nk as i64 - nq as i64
    } else {
        0
    }
}

fn dense(batch: usize, nq: usize, nk: usize, bottom_right: bool) -> Result<Vec<Sequence>> {
    let shift = shift(bottom_right, nq, nk);
    collect(batch, |batch| Sequence {
        batch,
        index: batch,
        q0: 0,
        nq,
        k0: 0,
        nk,
        shift,
    })
}

/// Collects without aborting where an absurd count does not fit memory.
fn collect<T>(count: usize, item: impl Fn(usize) -> T) -> Result<Vec<T>> {
    let mut out = Vec::new();
    out.try_reserve_exact(count)
        .map_err(|_| Error::allocation(format!("no memory for {count} sequences")))?;
    out.extend((0..count).map(item));
    Ok(out)
}

fn varlen(
    raw: &sys::mfa_attention_options,
    rows_q: usize,
    rows_k: usize,
    bottom_right: bool,
) -> Result<Vec<Sequence>> {
    let n = raw.sequence_count as usize;
    let bounds = |buffer, offset, rows: usize, what: &str| {
        let array = Array::check(buffer, offset, 4 * (n as u128 + 1), 4, what)?;
        // SAFETY: `check` proved the n + 1 integers to be inside the buffer and aligned.
        let bounds = unsafe { std::slice::from_raw_parts(array.ptr.cast::<i32>(), n + 1) };
        ensure!(
            bounds[0] == 0,
            argument,
            "{what}: begins with {}; expected 0",
            bounds[0]
        );
        for pair in bounds.windows(2) {
            ensure!(
                pair[0] <= pair[1],
                argument,
                "{what}: falls from {} to {}; expected never to fall",
                pair[0],
                pair[1]
            );
        }
        ensure!(
            bounds[n] as usize == rows,
            argument,
            "{what}: ends with {}; expected {rows}, the rows",
            bounds[n]
        );
        collect(n + 1, |i| bounds[i] as usize)
    };
    let q = bounds(
        raw.cu_seqlens_q,
        raw.cu_seqlens_q_offset,
        rows_q,
        "cu_seqlens_q",
    )?;
    let k = bounds(
        raw.cu_seqlens_k,
        raw.cu_seqlens_k_offset,
        rows_k,
        "cu_seqlens_k",
    )?;
    collect(n, |index| {
        let (nq, nk) = (q[index + 1] - q[index], k[index + 1] - k[index]);
        Sequence {
            batch: 0,
            index,
            q0: q[index],
            nq,
            k0: k[index],
            nk,
            shift: shift(bottom_right, nq, nk),
        }
    })
}
