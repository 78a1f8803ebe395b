//! The check of a forward call: every shape, option and precision is legal from here on.

#![forbid(unsafe_code)]

use mfa_sys as sys;

use crate::contract::array::Access;
use crate::contract::overlap;
use crate::contract::problem::Problem;
use crate::contract::tensor::Tensor;
use crate::error::{Result, ensure};

/// A checked forward call.
pub(crate) struct Forward {
    pub problem: Problem,
    pub output: Tensor,
    pub logsumexp: Option<Tensor>,
}

impl Forward {
    pub(crate) fn check(desc: &sys::mfa_forward_desc, access: Access) -> Result<Self> {
        ensure!(
            desc.reserved == 0,
            argument,
            "forward: reserved is {}; expected 0",
            desc.reserved
        );
        let problem = Problem::check([&desc.query, &desc.key, &desc.value], desc.options, access)?;
        let [batch, heads, rows, _] = problem.q.shape;
        let output = access.required(&desc.output, "output", problem.floats())?;
        output.expect_shape("output", [batch, heads, rows, problem.dv])?;
        output.expect_writable("output")?;
        let logsumexp = access.optional(&desc.logsumexp, "logsumexp", problem.exact())?;
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
