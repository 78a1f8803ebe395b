//! Attention, backward.

use crate::attention::Attention;
use crate::element::Precision;
use crate::error::Result;
use crate::ffi::BackwardCall;
use crate::forward::{Forward, imagined, per_row};
use crate::gradient_args::{BackwardInputs, BackwardOutputs, DValues};
use crate::tensor::Tensor;
use crate::view::{TensorView, TensorViewMut};

/// The gradients of a call: FP32, with respect to the real values of the operands. Rounding counts as identity.
#[derive(Debug)]
pub struct Gradients {
    /// In the shape of query.
    pub query: Tensor,
    /// In the shape of key.
    pub key: Tensor,
    /// In the shape of value.
    pub value: Tensor,
    /// In the shape of the mask, if there is one and it is added.
    pub mask: Option<Tensor>,
    /// In the shape of the sinks, if there are any.
    pub sinks: Option<Tensor>,
}

impl Attention<'_> {
    /// Computes all gradients from the result of [`Self::forward_with_logsumexp`] on the same operands.
    ///
    /// # Errors
    ///
    /// As the driver reports.
    pub fn backward(
        &self,
        query: &TensorView<'_>,
        key: &TensorView<'_>,
        value: &TensorView<'_>,
        forward: &Forward,
        grad_output: &TensorView<'_>,
    ) -> Result<Gradients> {
        let exact = query.precision().exact();
        let zeros = |view: &TensorView<'_>| Tensor::zeros(&self.context, exact, view.shape());
        let optional = |view: Option<&TensorView<'_>>| view.map(zeros).transpose();
        let added = self
            .mask
            .as_ref()
            .filter(|mask| mask.precision() != Precision::Bool);
        let mut gradients = Gradients {
            query: zeros(query)?,
            key: zeros(key)?,
            value: zeros(value)?,
            mask: optional(added)?,
            sinks: optional(self.sinks.as_ref())?,
        };
        let (output, logsumexp) = (&forward.output.view(), &forward.logsumexp.view());
        let inputs = BackwardInputs {
            query,
            key,
            value,
            output: Some(output),
            grad_output,
            logsumexp,
            grad_logsumexp: None,
        };
        let outputs = BackwardOutputs {
            query: Some(gradients.query.view_mut()),
            key: Some(gradients.key.view_mut()),
            value: Some(gradients.value.view_mut()),
            mask: gradients.mask.as_mut().map(Tensor::view_mut),
            sinks: gradients.sinks.as_mut().map(Tensor::view_mut),
            d_values: DValues::Absent,
        };
        self.backward_into(&inputs, outputs)?;
        Ok(gradients)
    }

    /// Computes some gradients into memory that is there.
    ///
    /// # Errors
    ///
    /// As the driver reports.
    pub fn backward_into(
        &self,
        inputs: &BackwardInputs<'_>,
        outputs: BackwardOutputs<'_>,
    ) -> Result<()> {
        BackwardCall {
            attention: self,
            inputs,
            outputs: &outputs,
        }
        .run()
    }

    /// The plan of [`Self::backward`] with O given, and the reason for it, as lines `key: value`. Nothing is computed.
    ///
    /// # Errors
    ///
    /// As the call itself.
    pub fn explain_backward(
        &self,
        query: &TensorView<'_>,
        key: &TensorView<'_>,
        value: &TensorView<'_>,
    ) -> Result<String> {
        self.imagined(query, key, value, |call| call.explain())
    }

    /// Bytes that [`Self::backward`] would allocate beside its outputs, at most.
    ///
    /// # Errors
    ///
    /// As the call itself.
    pub fn workspace_size_backward(
        &self,
        query: &TensorView<'_>,
        key: &TensorView<'_>,
        value: &TensorView<'_>,
    ) -> Result<u64> {
        self.imagined(query, key, value, |call| call.workspace_size())
    }

    /// A backward call with all of its tensors, which is not run.
    fn imagined<R>(
        &self,
        query: &TensorView<'_>,
        key: &TensorView<'_>,
        value: &TensorView<'_>,
        ask: impl FnOnce(&BackwardCall<'_>) -> Result<R>,
    ) -> Result<R> {
        let exact = query.precision().exact();
        let imagined = |precision, shape| imagined(&self.context, precision, shape);
        let (precision, shape) = self.output(query, value);
        let (output, _output) = imagined(precision, shape)?;
        let (logsumexp, _logsumexp) = imagined(exact, per_row(query.shape()))?;
        let (grad_query, _grad_query) = imagined(exact, query.shape())?;
        let (grad_key, _grad_key) = imagined(exact, key.shape())?;
        let (grad_value, _grad_value) = imagined(exact, value.shape())?;
        let (output, logsumexp) = (&TensorView::of(output), &TensorView::of(logsumexp));
        let inputs = BackwardInputs {
            query,
            key,
            value,
            output: Some(output),
            grad_output: output,
            logsumexp,
            grad_logsumexp: None,
        };
        let outputs = BackwardOutputs {
            query: Some(TensorViewMut::of(grad_query)),
            key: Some(TensorViewMut::of(grad_key)),
            value: Some(TensorViewMut::of(grad_value)),
            ..BackwardOutputs::default()
        };
        ask(&BackwardCall {
            attention: self,
            inputs: &inputs,
            outputs: &outputs,
        })
    }
}
