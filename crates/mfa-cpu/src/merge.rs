//! Merging attention over parts of the keys, and its gradient. The formulas are those of `mfa_merge_desc`.
//!
//! See eq. 21, 33 of docs/math.md.

use mfa_sys as sys;

use crate::contract::array::Access;
use crate::contract::overlap;
use crate::contract::precision;
use crate::contract::tensor::Tensor;
use crate::error::{Result, ensure};
use crate::runtime::memory::reserve;
use crate::runtime::pool::Pool;
use mfa_kernels::Precision;

/// One part: O and logsumexp.
struct Part {
    output: Tensor,
    logsumexp: Tensor,
}

/// The parts of a merge.
struct Parts {
    parts: Vec<Part>,
    /// Batch, heads, rows and columns.
    shape: [usize; 4],
    /// Precision of logsumexp and gradients: FP64 beside FP64 outputs, else FP32.
    exact: Precision,
}

/// A checked `mfa_merge`.
pub(crate) struct Merge {
    parts: Parts,
    output: Tensor,
    logsumexp: Option<Tensor>,
}

/// A checked `mfa_merge_backward`.
pub(crate) struct MergeBackward {
    parts: Parts,
    grad_output: Tensor,
    grad_logsumexp: Option<Tensor>,
    grad_outputs: Vec<Option<Tensor>>,
    grad_logsumexps: Vec<Option<Tensor>>,
}

/// Rows of an item. Chosen by model, not measured.
const CHUNK: usize = 64;
/// Columns that are summed at a time, on the stack.
const RUN: usize = 128;

impl Parts {
    /// # Safety
    /// Each pointer is NULL or the address of `count` tensors.
    unsafe fn check(
        count: u32,
        outputs: *const sys::mfa_tensor,
        logsumexps: *const sys::mfa_tensor,
    ) -> Result<Self> {
        ensure!(
            count > 0,
            argument,
            "merge: count is 0; expected at least 1 part"
        );
        for (pointer, what) in [(outputs, "outputs"), (logsumexps, "logsumexps")] {
            ensure!(
                !pointer.is_null(),
                argument,
                "merge: {what} is NULL; expected {count} tensors"
            );
        }
        let mut parts = reserve(count as usize, "parts")?;
        let mut shape = [0; 4];
        let mut exact = Precision::F32;
        for index in 0..count as usize {
            // SAFETY: by this function's contract; callers in C may not align.
            let (output, logsumexp) = unsafe {
                (
                    outputs.add(index).read_unaligned(),
                    logsumexps.add(index).read_unaligned(),
                )
            };
            let name = format!("outputs[{index}]");
            let floats: &[Precision] = match index {
                0 => &[
                    Precision::F32,
                    Precision::F16,
                    Precision::Bf16,
                    Precision::F64,
                ],
                _ => precision::floats_beside(exact),
            };
            let output = Access::Run.required(&output, &name, floats)?;
            if index == 0 {
                shape = output.shape;
                if output.precision == Precision::F64 {
                    exact = Precision::F64;
                }
            }
            output.expect_shape(&name, shape)?;
            let name = format!("logsumexps[{index}]");
            let logsumexp = Access::Run.required(&logsumexp, &name, &[exact])?;
            let [batch, heads, rows, _] = shape;
            logsumexp.expect_shape(&name, [batch, heads, rows, 1])?;
            parts.push(Part { output, logsumexp });
        }
        Ok(Parts {
            parts,
            shape,
            exact,
        })
    }

    fn per_row(&self) -> [usize; 4] {
        let [batch, heads, rows, _] = self.shape;
        [batch, heads, rows, 1]
    }

    /// Precisions of tensors beside the outputs.
    fn floats(&self) -> &'static [Precision] {
        precision::floats_beside(self.exact)
    }

    /// Calls `row` with batch, head and row of each row.
    fn each_row(&self, pool: &Pool, threads: usize, row: impl Fn([usize; 3]) + Sync) {
        let [batch, heads, rows, columns] = self.shape;
        let chunks = rows.div_ceil(CHUNK);
        let work = batch as f64 * heads as f64 * rows as f64 * columns as f64;
        let threads = if work * (self.parts.len() as f64) < INLINE_WORK {
            1
        } else {
            threads
        };
        let items = batch.saturating_mul(heads).saturating_mul(chunks);
        pool.run(threads, items, |_, item| {
            let (head, chunk) = (item / chunks, item % chunks);
            for n in chunk * CHUNK..((chunk + 1) * CHUNK).min(rows) {
                row([head / heads, head % heads, n]);
            }
        });
    }

    /// The logsumexp of a row over all parts.
    fn logsumexp(&self, [b, h, n]: [usize; 3]) -> f64 {
        let of = |part: &Part| part.logsumexp.get([b, h, n, 0]);
        let top = (self.parts.iter().map(of)).fold(f64::NEG_INFINITY, |top, l| {
            if l > top || l.is_nan() { l } else { top }
        });
        if top.is_infinite() || top.is_nan() {
            return top;
        }
        let sum: f64 = self.parts.iter().map(|part| (of(part) - top).exp()).sum();
        top + sum.ln()
    }
}

/// Elements below which one thread merges, because a second one costs more than it brings. Chosen by model, not measured.
const INLINE_WORK: f64 = 1e5;

/// The weight of a part of logsumexp `l` in the whole, of logsumexp `all`: 0 for a part without keys.
fn weight(l: f64, all: f64) -> f64 {
    if l == f64::NEG_INFINITY {
        0.0
    } else {
        (l - all).exp()
    }
}

impl Merge {
    /// # Safety
    /// The descriptor's pointers are NULL or the addresses of `count` tensors.
    pub(crate) unsafe fn check(desc: &sys::mfa_merge_desc) -> Result<Self> {
        // SAFETY: by this function's contract.
        let parts = unsafe { Parts::check(desc.count, desc.outputs, desc.logsumexps)? };
        let output = Access::Run.required(&desc.output, "output", parts.floats())?;
        output.expect_shape("output", parts.shape)?;
        output.expect_writable("output")?;
        let logsumexp = Access::Run.optional(&desc.logsumexp, "logsumexp", &[parts.exact])?;
        if let Some(logsumexp) = &logsumexp {
            logsumexp.expect_shape("logsumexp", parts.per_row())?;
            logsumexp.expect_writable("logsumexp")?;
        }
        let results = [(Some(&output), "output"), (logsumexp.as_ref(), "logsumexp")];
        overlap::expect_apart(&results, &[])?;
        for part in &parts.parts {
            // A row is read before it is written, so that an output may be one of the operands.
            for (result, what) in results {
                let Some(result) = result else { continue };
                for (operand, name) in [(&part.output, "outputs"), (&part.logsumexp, "logsumexps")]
                {
                    ensure!(
                        result.is_same(operand) || !overlap::shared(result, operand),
                        argument,
                        "{what}: shares elements with one of {name}; expected the same tensor, or memory of its own"
                    );
                }
            }
        }
        Ok(Merge {
            parts,
            output,
            logsumexp,
        })
    }

    pub(crate) fn run(&self, pool: &Pool, threads: usize) {
        let columns = self.parts.shape[3];
        self.parts.each_row(pool, threads, |[b, h, n]| {
            let all = self.parts.logsumexp([b, h, n]);
            for first in (0..columns).step_by(RUN) {
                let count = RUN.min(columns - first);
                let (mut sum, mut values) = ([0.0; RUN], [0.0; RUN]);
                for part in &self.parts.parts {
                    let w = weight(part.logsumexp.get([b, h, n, 0]), all);
                    if w != 0.0 {
                        part.output.get_row([b, h, n, first], &mut values[..count]);
                        (sum.iter_mut().zip(&values)).for_each(|(sum, x)| *sum += w * x);
                    }
                }
                for (c, x) in sum[..count].iter().enumerate() {
                    self.output.set([b, h, n, first + c], *x);
                }
            }
            if let Some(logsumexp) = &self.logsumexp {
                logsumexp.set([b, h, n, 0], all);
            }
        });
    }
}

impl MergeBackward {
    /// # Safety
    /// The descriptor's pointers are NULL or the addresses of `count` tensors.
    pub(crate) unsafe fn check(desc: &sys::mfa_merge_backward_desc) -> Result<Self> {
        // SAFETY: by this function's contract.
        let parts = unsafe { Parts::check(desc.count, desc.outputs, desc.logsumexps)? };
        let grad_output = Access::Run.required(&desc.grad_output, "grad_output", parts.floats())?;
        grad_output.expect_shape("grad_output", parts.shape)?;
        let grad_logsumexp =
            Access::Run.optional(&desc.grad_logsumexp, "grad_logsumexp", &[parts.exact])?;
        if let Some(gradient) = &grad_logsumexp {
            gradient.expect_shape("grad_logsumexp", parts.per_row())?;
        }
        let written = |views: *const sys::mfa_tensor, what: &str, shape: [usize; 4]| {
            let mut out = reserve(parts.parts.len(), "parts")?;
            for index in 0..parts.parts.len() {
                if views.is_null() {
                    out.push(None);
                    continue;
                }
                // SAFETY: by this function's contract; callers in C may not align.
                let view = unsafe { views.add(index).read_unaligned() };
                let name = format!("{what}[{index}]");
                let tensor = Access::Run.optional(&view, &name, &[parts.exact])?;
                if let Some(tensor) = &tensor {
                    tensor.expect_shape(&name, shape)?;
                    tensor.expect_writable(&name)?;
                }
                out.push(tensor);
            }
            Ok(out)
        };
        let grad_outputs = written(desc.grad_outputs, "grad_outputs", parts.shape)?;
        let grad_logsumexps = written(desc.grad_logsumexps, "grad_logsumexps", parts.per_row())?;
        let call = MergeBackward {
            parts,
            grad_output,
            grad_logsumexp,
            grad_outputs,
            grad_logsumexps,
        };
        call.expect_apart()?;
        Ok(call)
    }

    fn expect_apart(&self) -> Result<()> {
        let results: Vec<_> = (self
            .grad_outputs
            .iter()
            .map(|t| (t.as_ref(), "grad_outputs")))
        .chain(
            self.grad_logsumexps
                .iter()
                .map(|t| (t.as_ref(), "grad_logsumexps")),
        )
        .collect();
        let mut operands = vec![
            (Some(&self.grad_output), "grad_output"),
            (self.grad_logsumexp.as_ref(), "grad_logsumexp"),
        ];
        for part in &self.parts.parts {
            operands.push((Some(&part.output), "outputs"));
            operands.push((Some(&part.logsumexp), "logsumexps"));
        }
        overlap::expect_apart(&results, &operands)
    }

    pub(crate) fn run(&self, pool: &Pool, threads: usize) {
        let mut wanted = self.grad_outputs.iter().chain(&self.grad_logsumexps);
        if !wanted.any(Option::is_some) {
            return;
        }
        let columns = self.parts.shape[3];
        self.parts.each_row(pool, threads, |at| {
            let [b, h, n] = at;
            let all = self.parts.logsumexp(at);
            let weight = |part: &Part| weight(part.logsumexp.get([b, h, n, 0]), all);
            let grad = |c: usize| self.grad_output.get([b, h, n, c]);
            // dO . O, with O = sum w O_i.
            let dot_output = |part: &Part| -> f64 {
                (0..columns)
                    .map(|c| grad(c) * part.output.get([b, h, n, c]))
                    .sum()
            };
            let mut dot_merged = 0.0;
            for part in &self.parts.parts {
                let w = weight(part);
                if w != 0.0 {
                    dot_merged += w * dot_output(part);
                }
            }
            let grad_logsumexp = self.grad_logsumexp.as_ref();
            let dl = grad_logsumexp.map_or(0.0, |gradient| gradient.get([b, h, n, 0]));
            for (index, part) in self.parts.parts.iter().enumerate() {
                let w = weight(part);
                if let Some(gradient) = &self.grad_outputs[index] {
                    for c in 0..columns {
                        let x = if w == 0.0 {
                            0.0
                        } else {
                            w * self.grad_output.get([b, h, n, c])
                        };
                        gradient.set([b, h, n, c], x);
                    }
                }
                if let Some(gradient) = &self.grad_logsumexps[index] {
                    let x = if w == 0.0 {
                        0.0
                    } else {
                        w * (dl + dot_output(part) - dot_merged)
                    };
                    gradient.set([b, h, n, 0], x);
                }
            }
        });
    }
}
