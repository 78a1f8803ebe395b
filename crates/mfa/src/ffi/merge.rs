//! The calls of a merge. Sound for the reasons that `call` has.

use mfa_sys as sys;

use crate::context::MfaContext;
use crate::error::{MfaError, Result};
use crate::ffi::call::Lower;
use crate::layout::Layout;
use crate::merge::Part;

/// The arguments of a merge.
pub(crate) struct MergeCall<'a> {
    pub context: &'a MfaContext,
    pub parts: &'a [Part<'a>],
    pub output: &'a Layout,
    pub logsumexp: Option<&'a Layout>,
}

/// The arguments of its gradient: outputs and logsumexps of `gradients` are written.
pub(crate) struct MergeBackwardCall<'a> {
    pub context: &'a MfaContext,
    pub parts: &'a [Part<'a>],
    pub grad_output: &'a Layout,
    pub grad_logsumexp: Option<&'a Layout>,
    pub gradients: &'a [[Layout; 2]],
}

fn count<T>(parts: &[T]) -> Result<u32> {
    u32::try_from(parts.len())
        .map_err(|_| MfaError::InvalidArgument(format!("parts: {}; expected fewer", parts.len())))
}

/// Outputs and logsumexps.
type Tensors = [Vec<sys::mfa_tensor>; 2];

fn tensors(lower: &Lower<'_>, parts: &[Part<'_>]) -> Result<Tensors> {
    let mut tensors = Tensors::default();
    for (index, part) in parts.iter().enumerate() {
        let name = |what: &str| format!("{what}[{index}]");
        tensors[0].push(lower.tensor(&name("outputs"), &part.output.layout)?);
        tensors[1].push(lower.tensor(&name("logsumexps"), &part.logsumexp.layout)?);
    }
    Ok(tensors)
}

impl MergeCall<'_> {
    pub(crate) fn run(&self) -> Result<()> {
        let context = self.context.raw();
        let lower = Lower { context };
        let [outputs, logsumexps] = tensors(&lower, self.parts)?;
        let desc = sys::mfa_merge_desc {
            count: count(self.parts)?,
            outputs: outputs.as_ptr(),
            logsumexps: logsumexps.as_ptr(),
            output: lower.tensor("output", self.output)?,
            logsumexp: lower.optional("logsumexp", self.logsumexp)?,
            ..sys::mfa_merge_desc::new()
        };
        // SAFETY: the lists have `count` tensors and outlive the call; for the rest see the module.
        context.check(unsafe { (context.api().mfa_merge)(context.handle(), &raw const desc) })
    }
}

impl MergeBackwardCall<'_> {
    pub(crate) fn run(&self) -> Result<()> {
        let context = self.context.raw();
        let lower = Lower { context };
        let [outputs, logsumexps] = tensors(&lower, self.parts)?;
        let mut written = Tensors::default();
        for [output, logsumexp] in self.gradients {
            written[0].push(lower.tensor("gradient", output)?);
            written[1].push(lower.tensor("gradient", logsumexp)?);
        }
        let desc = sys::mfa_merge_backward_desc {
            count: count(self.parts)?,
            outputs: outputs.as_ptr(),
            logsumexps: logsumexps.as_ptr(),
            grad_output: lower.tensor("grad_output", self.grad_output)?,
            grad_logsumexp: lower.optional("grad_logsumexp", self.grad_logsumexp)?,
            grad_outputs: written[0].as_ptr(),
            grad_logsumexps: written[1].as_ptr(),
            ..sys::mfa_merge_backward_desc::new()
        };
        // SAFETY: as above; the caller made one pair of gradients for each part.
        context
            .check(unsafe { (context.api().mfa_merge_backward)(context.handle(), &raw const desc) })
    }
}
