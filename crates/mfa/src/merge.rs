//! Attention over parts of the keys, merged.

use crate::context::MfaContext;
use crate::error::{MfaError, Result};
use crate::ffi::{MergeBackwardCall, MergeCall, PartLayouts};
use crate::forward::{Forward, per_row};
use crate::tensor::Tensor;
use crate::view::{TensorView, TensorViewMut};

/// Attention over a part of the keys: the result of
/// [`Attention::forward_with_logsumexp`](crate::Attention::forward_with_logsumexp) on them.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    /// O, FP32, FP16 or BF16 `[batch, heads, rows, columns]`; or FP64, as all others are then.
    pub output: TensorView<'a>,
    /// Its logsumexp, FP32 (FP64) `[batch, heads, rows, 1]`.
    pub logsumexp: TensorView<'a>,
}

impl<'a> From<&'a Forward> for Part<'a> {
    fn from(forward: &'a Forward) -> Self {
        Self {
            output: forward.output.view(),
            logsumexp: forward.logsumexp.view(),
        }
    }
}

fn layouts<'p>(parts: &'p [Part<'_>]) -> Vec<PartLayouts<'p>> {
    (parts.iter())
        .map(|part| [&part.output.layout, &part.logsumexp.layout])
        .collect()
}

fn first<'p, 'a>(parts: &'p [Part<'a>]) -> Result<&'p Part<'a>> {
    parts
        .first()
        .ok_or_else(|| MfaError::InvalidArgument("parts: none; expected at least one".into()))
}

/// Merges parts, each with its own softmax, into attention over all of their keys: L = ln Σ exp(Lᵢ), O = Σ exp(Lᵢ − L) Oᵢ.
/// The output has the precision of the first part's.
///
/// ```
/// use mfa::{Attention, MfaContext, TensorView, merge};
///
/// let context = MfaContext::with_device("cpu")?;
/// let data: Vec<f32> = (0..2 * 8 * 16).map(|i| (i as f32 * 0.37).sin()).collect();
/// let x = TensorView::from_slice(&context, &data, [1, 2, 8, 16])?;
/// let attention = Attention::new(&context);
/// let (head, tail) = (x.clone().rows(0..3)?, x.clone().rows(3..8)?);
/// let head = attention.forward_with_logsumexp(&x, &head, &head)?;
/// let tail = attention.forward_with_logsumexp(&x, &tail, &tail)?;
///
/// let merged = merge(&context, &[(&head).into(), (&tail).into()])?;
/// let whole = attention.forward(&x, &x, &x)?;
/// for (a, b) in merged.output.as_slice::<f32>()?.iter().zip(whole.as_slice::<f32>()?) {
///     assert!((a - b).abs() < 1e-5);
/// }
/// # Ok::<(), mfa::MfaError>(())
/// ```
///
/// # Errors
///
/// [`MfaError::InvalidArgument`] without a part, and as the driver reports.
pub fn merge(context: &MfaContext, parts: &[Part<'_>]) -> Result<Forward> {
    let Part { output, logsumexp } = first(parts)?;
    let mut merged = Forward {
        output: Tensor::zeros(context, output.precision(), output.shape())?,
        logsumexp: Tensor::zeros(context, logsumexp.precision(), per_row(output.shape()))?,
    };
    let Forward { output, logsumexp } = &mut merged;
    merge_into(
        context,
        parts,
        &mut output.view_mut(),
        Some(&mut logsumexp.view_mut()),
    )?;
    Ok(merged)
}

/// As [`merge`], into memory that is there.
///
/// # Errors
///
/// As the driver reports.
pub fn merge_into(
    context: &MfaContext,
    parts: &[Part<'_>],
    output: &mut TensorViewMut<'_>,
    logsumexp: Option<&mut TensorViewMut<'_>>,
) -> Result<()> {
    MergeCall {
        context,
        parts: &layouts(parts),
        output: &output.layout,
        logsumexp: logsumexp.map(|view| &view.layout),
    }
    .run()
}

/// The gradients of [`merge`] with respect to each part, in FP32 (of FP64 parts: FP64). Without a gradient of logsumexp it
/// is 0.
///
/// # Errors
///
/// [`MfaError::InvalidArgument`] without a part, and as the driver reports.
pub fn merge_backward(
    context: &MfaContext,
    parts: &[Part<'_>],
    grad_output: &TensorView<'_>,
    grad_logsumexp: Option<&TensorView<'_>>,
) -> Result<Vec<Forward>> {
    let exact = first(parts)?.output.precision().exact();
    let mut gradients = Vec::with_capacity(parts.len());
    for part in parts {
        let shape = part.output.shape();
        gradients.push(Forward {
            output: Tensor::zeros(context, exact, shape)?,
            logsumexp: Tensor::zeros(context, exact, per_row(shape))?,
        });
    }
    let written: Vec<_> = (gradients.iter_mut())
        .map(|gradient| {
            let Forward { output, logsumexp } = gradient;
            [output.view_mut().layout, logsumexp.view_mut().layout]
        })
        .collect();
    MergeBackwardCall {
        context,
        parts: &layouts(parts),
        grad_output: &grad_output.layout,
        grad_logsumexp: grad_logsumexp.map(|view| &view.layout),
        gradients: &written,
    }
    .run()?;
    Ok(gradients)
}
