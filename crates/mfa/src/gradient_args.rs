//! The tensors of a backward call.

use crate::view::{TensorView, TensorViewMut};

/// What gradients are computed from.
#[derive(Clone, Copy, Debug)]
pub struct BackwardInputs<'a> {
    /// As in forward.
    pub query: &'a TensorView<'a>,
    /// As in forward.
    pub key: &'a TensorView<'a>,
    /// As in forward.
    pub value: &'a TensorView<'a>,
    /// O of forward. Without it D is computed from P and dP, which takes longer.
    pub output: Option<&'a TensorView<'a>>,
    /// dO: FP32, FP16 or BF16 `[batch, heads, rows, value columns]`.
    pub grad_output: &'a TensorView<'a>,
    /// Of forward: FP32 `[batch, heads, rows, 1]`.
    pub logsumexp: &'a TensorView<'a>,
    /// The gradient of logsumexp, in its shape; `None` is 0.
    pub grad_logsumexp: Option<&'a TensorView<'a>>,
}

/// D = rowsum(dO ∘ O), FP32 `[batch, heads, rows, 1]`: what the pass over queries leaves for the pass over keys.
#[derive(Debug, Default)]
#[non_exhaustive]
pub enum DValues<'a> {
    /// Not wanted.
    #[default]
    Absent,
    /// To be written.
    Write(TensorViewMut<'a>),
    /// From an earlier call.
    Given(&'a TensorView<'a>),
}

/// Where gradients go: FP32, in the operand's shape, overwritten. Those that are `None` are not computed.
#[derive(Debug, Default)]
pub struct BackwardOutputs<'a> {
    /// With respect to the real values of query.
    pub query: Option<TensorViewMut<'a>>,
    /// With respect to the real values of key.
    pub key: Option<TensorViewMut<'a>>,
    /// With respect to the real values of value.
    pub value: Option<TensorViewMut<'a>>,
    /// Of an additive mask, in the mask's shape: summed over dimensions that repeat.
    pub mask: Option<TensorViewMut<'a>>,
    /// Of the sinks: `[1, heads, 1, 1]`.
    pub sinks: Option<TensorViewMut<'a>>,
    /// D, between two passes.
    pub d_values: DValues<'a>,
}
