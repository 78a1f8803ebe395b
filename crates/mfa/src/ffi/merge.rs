//! The calls of a merge. Sound for the reasons that `call` has.

use crate::context::MfaContext;
use crate::error::Result;
use crate::ffi::call::Lower;
use crate::ffi::lower;
use crate::layout::Layout;

/// The output and the logsumexp of a part.
pub(crate) type PartLayouts<'a> = [&'a Layout; 2];

/// The arguments of a merge.
pub(crate) struct MergeCall<'a> {
    pub context: &'a MfaContext,
    pub parts: &'a [PartLayouts<'a>],
    pub output: &'a Layout,
    pub logsumexp: Option<&'a Layout>,
}

/// The arguments of its gradient: outputs and logsumexps of `gradients` are written.
pub(crate) struct MergeBackwardCall<'a> {
    pub context: &'a MfaContext,
    pub parts: &'a [PartLayouts<'a>],
    pub grad_output: &'a Layout,
    pub grad_logsumexp: Option<&'a Layout>,
    pub gradients: &'a [[Layout; 2]],
}

/// The tensors `which` of all parts.
fn of_parts(
    lower: &Lower<'_>,
    parts: &[PartLayouts<'_>],
    which: usize,
    name: &str,
) -> Result<Vec<lower::Tensor>> {
    (parts.iter().enumerate())
        .map(|(index, part)| lower.tensor(&format!("{name}[{index}]"), part[which]))
        .collect()
}

impl MergeCall<'_> {
    pub(crate) fn run(&self) -> Result<()> {
        let context = self.context.raw();
        let lower = Lower { context };
        let call = lower::Merge {
            outputs: of_parts(&lower, self.parts, 0, "outputs")?,
            logsumexps: of_parts(&lower, self.parts, 1, "logsumexps")?,
            output: lower.tensor("output", self.output)?,
            logsumexp: lower.optional("logsumexp", self.logsumexp)?,
        };
        // SAFETY: see the module.
        unsafe { call.run(context) }
    }
}

impl MergeBackwardCall<'_> {
    pub(crate) fn run(&self) -> Result<()> {
        let context = self.context.raw();
        let lower = Lower { context };
        let gradients = |which: usize| -> Result<Vec<lower::Tensor>> {
            (self.gradients.iter())
                .map(|pair| lower.tensor("gradient", &pair[which]))
                .collect()
        };
        let call = lower::MergeBackward {
            outputs: of_parts(&lower, self.parts, 0, "outputs")?,
            logsumexps: of_parts(&lower, self.parts, 1, "logsumexps")?,
            grad_output: lower.tensor("grad_output", self.grad_output)?,
            grad_logsumexp: lower.optional("grad_logsumexp", self.grad_logsumexp)?,
            grad_outputs: gradients(0)?,
            grad_logsumexps: gradients(1)?,
        };
        // SAFETY: see the module; the caller made one pair of gradients for each part.
        unsafe { call.run(context) }
    }
}
