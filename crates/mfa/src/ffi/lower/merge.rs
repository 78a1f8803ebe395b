//! Merging attention over parts of the keys, and its gradient.

use mfa_sys as sys;

use super::tensor::Tensor;
use crate::error::{MfaError, Result};
use crate::ffi::context::Context;

/// A merge of parts, of each of which `outputs` and `logsumexps` have one tensor.
#[derive(Clone, Debug)]
pub struct Merge {
    /// O of each part.
    pub outputs: Vec<Tensor>,
    /// L of each part.
    pub logsumexps: Vec<Tensor>,
    /// O, written.
    pub output: Tensor,
    /// L, written.
    pub logsumexp: Option<Tensor>,
}

/// The gradient of a merge.
#[derive(Clone, Debug)]
pub struct MergeBackward {
    /// O of each part.
    pub outputs: Vec<Tensor>,
    /// L of each part.
    pub logsumexps: Vec<Tensor>,
    /// dO of the merged output.
    pub grad_output: Tensor,
    /// dL of the merged logsumexp; None: 0.
    pub grad_logsumexp: Option<Tensor>,
    /// dO of each part, written.
    pub grad_outputs: Vec<Tensor>,
    /// dL of each part, written.
    pub grad_logsumexps: Vec<Tensor>,
}

/// How many parts there are: each list must have one tensor for each.
fn count(lists: &[&Vec<Tensor>]) -> Result<u32> {
    let parts = lists[0].len();
    if lists.iter().any(|list| list.len() != parts) {
        return Err(MfaError::InvalidArgument(
            "parts: lists of different lengths; expected one tensor for each part".into(),
        ));
    }
    u32::try_from(parts)
        .map_err(|_| MfaError::InvalidArgument(format!("parts: {parts}; expected fewer")))
}

fn lower(tensors: &[Tensor]) -> Vec<sys::mfa_tensor> {
    tensors.iter().map(Tensor::lower).collect()
}

impl Merge {
    /// Computes.
    ///
    /// # Errors
    ///
    /// As the driver reports; [`MfaError::InvalidArgument`] for lists of different lengths.
    ///
    /// # Safety
    ///
    /// See the module.
    pub unsafe fn run(&self, context: &Context) -> Result<()> {
        let (outputs, logsumexps) = (lower(&self.outputs), lower(&self.logsumexps));
        let desc = sys::mfa_merge_desc {
            count: count(&[&self.outputs, &self.logsumexps])?,
            outputs: outputs.as_ptr(),
            logsumexps: logsumexps.as_ptr(),
            output: self.output.lower(),
            logsumexp: Tensor::lower_optional(&self.logsumexp),
            ..sys::mfa_merge_desc::new()
        };
        // SAFETY: the lists have `count` tensors and outlive the call; for the rest the caller's promise.
        context.check(unsafe { (context.api().mfa_merge)(context.handle(), &raw const desc) })
    }
}

impl MergeBackward {
    /// Computes.
    ///
    /// # Errors
    ///
    /// As [`Merge::run`].
    ///
    /// # Safety
    ///
    /// See the module.
    pub unsafe fn run(&self, context: &Context) -> Result<()> {
        let (outputs, logsumexps) = (lower(&self.outputs), lower(&self.logsumexps));
        let (grad_outputs, grad_logsumexps) =
            (lower(&self.grad_outputs), lower(&self.grad_logsumexps));
        let lists = [
            &self.outputs,
            &self.logsumexps,
            &self.grad_outputs,
            &self.grad_logsumexps,
        ];
        let desc = sys::mfa_merge_backward_desc {
            count: count(&lists)?,
            outputs: outputs.as_ptr(),
            logsumexps: logsumexps.as_ptr(),
            grad_output: self.grad_output.lower(),
            grad_logsumexp: Tensor::lower_optional(&self.grad_logsumexp),
            grad_outputs: grad_outputs.as_ptr(),
            grad_logsumexps: grad_logsumexps.as_ptr(),
            ..sys::mfa_merge_backward_desc::new()
        };
        // SAFETY: as above.
        context
            .check(unsafe { (context.api().mfa_merge_backward)(context.handle(), &raw const desc) })
    }
}
