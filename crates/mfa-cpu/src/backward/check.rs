//! A backward call, checked once.

use mfa_sys as sys;

use crate::contract::array::Access;
use crate::contract::overlap;
use crate::contract::problem::Problem;
use crate::contract::tensor::Tensor;
use crate::error::{Result, ensure};

/// A checked backward call.
pub(crate) struct Backward {
    pub problem: Problem,
    pub output: Option<Tensor>,
    pub grad_output: Tensor,
    pub logsumexp: Tensor,
    pub d_values: Option<Tensor>,
    /// Whether D is read from `d_values`, and not written to it.
    pub d_given: bool,
    pub clip: bool,
    pub grad_query: Option<Tensor>,
    pub grad_key: Option<Tensor>,
    pub grad_value: Option<Tensor>,
    pub grad_mask: Option<Tensor>,
    pub grad_sinks: Option<Tensor>,
    pub grad_logsumexp: Option<Tensor>,
}

impl Backward {
    pub(crate) fn check(desc: &sys::mfa_backward_desc, access: Access) -> Result<Self> {
        let known = sys::MFA_BACKWARD_D_GIVEN | sys::MFA_BACKWARD_CLIP;
        ensure!(
            desc.flags & !known == 0,
            argument,
            "backward: flags is {:#x}; expected bits of {known:#x}",
            desc.flags
        );
        let problem = Problem::check([&desc.query, &desc.key, &desc.value], desc.options, access)?;
        let [batch, heads, rows, _] = problem.q.shape;
        let like_output = [batch, heads, rows, problem.dv];
        let per_row = [batch, heads, rows, 1];

        let output = access.optional(&desc.output, "output", problem.floats())?;
        if let Some(output) = &output {
            output.expect_shape("output", like_output)?;
        }
        let grad_output = access.required(&desc.grad_output, "grad_output", problem.floats())?;
        grad_output.expect_shape("grad_output", like_output)?;
        let logsumexp = access.required(&desc.logsumexp, "logsumexp", problem.exact())?;
        logsumexp.expect_shape("logsumexp", per_row)?;

        let d_given = desc.flags & sys::MFA_BACKWARD_D_GIVEN != 0;
        let d_values = access.optional(&desc.d_values, "d_values", problem.exact())?;
        ensure!(
            d_values.is_some() || !d_given,
            argument,
            "d_values: absent with MFA_BACKWARD_D_GIVEN; expected the D of an earlier query pass"
        );
        if let Some(d) = &d_values {
            d.expect_shape("d_values", per_row)?;
            if !d_given {
                d.expect_writable("d_values")?;
            }
        }
        let written = |view: &sys::mfa_tensor, what: &str, shape: [usize; 4]| {
            let tensor = access.optional(view, what, problem.exact())?;
            if let Some(tensor) = &tensor {
                tensor.expect_shape(what, shape)?;
                tensor.expect_writable(what)?;
            }
            Ok(tensor)
        };
        let [of_q, of_k] = [&problem.q, &problem.k].map(|operand| {
            let [batch, heads, rows, _] = operand.shape;
            [batch, heads, rows, problem.columns]
        });
        let grad_query = written(&desc.grad_query, "grad_query", of_q)?;
        let grad_key = written(&desc.grad_key, "grad_key", of_k)?;
        // Gradients without columns have no elements.
        let [grad_query, grad_key] =
            [grad_query, grad_key].map(|gradient| gradient.filter(|_| problem.columns > 0));
        let grad_value = written(&desc.grad_value, "grad_value", problem.v.shape)?;
        let mask_shape = mask_shape(desc, &problem, access)?;
        let grad_mask = written(&desc.grad_mask, "grad_mask", mask_shape)?;
        ensure!(
            access.is_absent(&desc.grad_sinks) || problem.options.sinks.is_some(),
            argument,
            "grad_sinks: given without sinks; expected both or only sinks"
        );
        let grad_sinks = written(&desc.grad_sinks, "grad_sinks", [1, heads, 1, 1])?;

        let grad_logsumexp =
            access.optional(&desc.grad_logsumexp, "grad_logsumexp", problem.exact())?;
        if let Some(gradient) = &grad_logsumexp {
            gradient.expect_shape("grad_logsumexp", per_row)?;
        }

        let call = Backward {
            problem,
            output,
            grad_output,
            logsumexp,
            d_values,
            d_given,
            clip: desc.flags & sys::MFA_BACKWARD_CLIP != 0,
            grad_query,
            grad_key,
            grad_value,
            grad_mask,
            grad_sinks,
            grad_logsumexp,
        };
        call.expect_apart()?;
        Ok(call)
    }

    /// The gradient of a row's logsumexp: it is subtracted from D wherever D is used.
    pub(crate) fn grad_of_logsumexp(&self, b: usize, h: usize, row: usize) -> f32 {
        let gradient = self.grad_logsumexp.as_ref();
        // SAFETY: the view was checked to be [batch, heads, rows, 1] floats.
        gradient.map_or(0.0, |gradient| unsafe {
            gradient.at(b, h, row, 0).cast::<f32>().read()
        })
    }

    /// Whether any result needs D.
    pub(crate) fn needs_d(&self) -> bool {
        !self.d_given && (self.d_values.is_some() || self.grad_sinks.is_some() || self.needs_ds())
    }

    /// Whether any result needs the gradient of the scores.
    pub(crate) fn needs_ds(&self) -> bool {
        self.grad_query.is_some() || self.grad_key.is_some() || self.grad_mask.is_some()
    }

    /// Demands that no result shares memory with another, or with an operand that is read after it was begun.
    fn expect_apart(&self) -> Result<()> {
        let written_d = self.d_values.as_ref().filter(|_| !self.d_given);
        let results = [
            (written_d, "d_values"),
            (self.grad_query.as_ref(), "grad_query"),
            (self.grad_key.as_ref(), "grad_key"),
            (self.grad_value.as_ref(), "grad_value"),
            (self.grad_mask.as_ref(), "grad_mask"),
            (self.grad_sinks.as_ref(), "grad_sinks"),
        ];
        let (problem, options) = (&self.problem, &self.problem.options);
        let read_d = self.d_values.as_ref().filter(|_| self.d_given);
        let operands = [
            (Some(&problem.q), "query"),
            (Some(&problem.k), "key"),
            (Some(&problem.v), "value"),
            (self.output.as_ref(), "output"),
            (Some(&self.grad_output), "grad_output"),
            (Some(&self.logsumexp), "logsumexp"),
            (read_d, "d_values"),
            (self.grad_logsumexp.as_ref(), "grad_logsumexp"),
            (options.mask.as_ref(), "mask"),
            (options.alibi.as_ref(), "alibi_slopes"),
            (options.sinks.as_ref(), "sinks"),
        ];
        overlap::expect_apart(&results, &operands)
    }
}

/// The shape that a gradient of the mask must have.
fn mask_shape(
    desc: &sys::mfa_backward_desc,
    problem: &Problem,
    access: Access,
) -> Result<[usize; 4]> {
    if access.is_absent(&desc.grad_mask) {
        return Ok([0; 4]);
    }
    // SAFETY: the contract makes `options` NULL or the address of a struct whose struct_size is true.
    let raw = unsafe { crate::contract::sized::sized(desc.options, "options")? };
    let (Some(raw), Some(mask)) = (raw, &problem.options.mask) else {
        return Err(crate::error::Error::argument(
            "grad_mask: given without a mask; expected both or only the mask",
        ));
    };
    ensure!(
        mask.precision.is_float(),
        argument,
        "grad_mask: the mask is BOOL; expected an additive mask, which has a gradient"
    );
    Ok(raw.mask.shape.map(|size| size as usize))
}
