//! Attention, forward.

use crate::attention::Attention;
use crate::context::MfaContext;
use crate::element::Precision;
use crate::error::{MfaError, Result};
use crate::ffi::{ForwardCall, Reserved};
use crate::layout::{self, Layout, Shape};
use crate::tensor::Tensor;
use crate::view::{TensorView, TensorViewMut};

/// What a forward call that trains leaves for the backward call.
#[derive(Debug)]
pub struct Forward {
    /// `[batch, heads, rows, value columns]`.
    pub output: Tensor,
    /// ln Σⱼ exp(Sᵢⱼ), FP32 (of FP64 operands: FP64) `[batch, heads, rows, 1]`.
    pub logsumexp: Tensor,
}

impl Attention<'_> {
    /// Computes O.
    ///
    /// # Errors
    ///
    /// As the driver reports.
    pub fn forward(
        &self,
        query: &TensorView<'_>,
        key: &TensorView<'_>,
        value: &TensorView<'_>,
    ) -> Result<Tensor> {
        let mut output = self.empty_output(query, value)?;
        self.forward_into(query, key, value, &mut output.view_mut(), None)?;
        Ok(output)
    }

    /// Computes O and logsumexp: what [`Self::backward`] needs.
    ///
    /// # Errors
    ///
    /// As the driver reports.
    pub fn forward_with_logsumexp(
        &self,
        query: &TensorView<'_>,
        key: &TensorView<'_>,
        value: &TensorView<'_>,
    ) -> Result<Forward> {
        let mut output = self.empty_output(query, value)?;
        let exact = query.precision().exact();
        let mut logsumexp = Tensor::zeros(&self.context, exact, per_row(query.shape()))?;
        self.forward_into(
            query,
            key,
            value,
            &mut output.view_mut(),
            Some(&mut logsumexp.view_mut()),
        )?;
        Ok(Forward { output, logsumexp })
    }

    /// Computes O, and logsumexp if wanted, into memory that is there.
    ///
    /// # Errors
    ///
    /// As the driver reports.
    pub fn forward_into(
        &self,
        query: &TensorView<'_>,
        key: &TensorView<'_>,
        value: &TensorView<'_>,
        output: &mut TensorViewMut<'_>,
        logsumexp: Option<&mut TensorViewMut<'_>>,
    ) -> Result<()> {
        let logsumexp = logsumexp.map(|view| &view.layout);
        ForwardCall {
            attention: self,
            query,
            key,
            value,
            output: &output.layout,
            logsumexp,
        }
        .run()
    }

    /// The plan of a forward call and the reason for it, as lines `key: value`. Nothing is computed.
    ///
    /// # Errors
    ///
    /// As the call itself.
    pub fn explain(
        &self,
        query: &TensorView<'_>,
        key: &TensorView<'_>,
        value: &TensorView<'_>,
    ) -> Result<String> {
        self.planned(query, key, value, |call| call.explain())
    }

    /// Bytes that a forward call would allocate beside its outputs, at most.
    ///
    /// # Errors
    ///
    /// As the call itself.
    pub fn workspace_size(
        &self,
        query: &TensorView<'_>,
        key: &TensorView<'_>,
        value: &TensorView<'_>,
    ) -> Result<u64> {
        self.planned(query, key, value, |call| call.workspace_size())
    }

    fn empty_output(&self, query: &TensorView<'_>, value: &TensorView<'_>) -> Result<Tensor> {
        let (precision, shape) = self.output(query, value);
        Tensor::zeros(&self.context, precision, shape)
    }

    /// Asks about a forward call that is not run.
    fn planned<R>(
        &self,
        query: &TensorView<'_>,
        key: &TensorView<'_>,
        value: &TensorView<'_>,
        ask: impl FnOnce(&ForwardCall<'_>) -> Result<R>,
    ) -> Result<R> {
        let (precision, shape) = self.output(query, value);
        let (output, _memory) = imagined(&self.context, precision, shape)?;
        ask(&ForwardCall {
            attention: self,
            query,
            key,
            value,
            output: &output,
            logsumexp: None,
        })
    }
}

/// A tensor of a plan: addresses without memory.
pub(crate) fn imagined(
    context: &MfaContext,
    precision: Precision,
    shape: Shape,
) -> Result<(Layout, Reserved)> {
    let memory = Reserved::new(context, layout::bytes(precision, shape, "tensor")?)?;
    let layout = memory
        .reference()
        .map(|buffer| Layout::contiguous(buffer, precision, shape))
        .ok_or_else(|| MfaError::BufferAllocation("no memory for a plan".into()))?;
    Ok((layout, memory))
}

/// One number for each row of a tensor.
pub(crate) fn per_row([batch, heads, rows, _]: Shape) -> Shape {
    [batch, heads, rows, 1]
}
