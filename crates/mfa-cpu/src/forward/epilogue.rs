//! From accumulators to results: sinks, normalisation, means and rotation of V, logsumexp, the output's precision.
//!
//! See eq. 7, 9, 11, 19, 20, 42, 45 of docs/math.md.

use crate::forward::check::Forward;
use crate::operands::hadamard;
use crate::operands::row_buffer::RowBuffer;
use crate::operands::rows::{store_row, store_scaled_row};
use mfa_kernels::Kernels;
use mfa_kernels::base2::{to_base2, to_natural};

/// A row's result over some of the keys: maximum `m` in base 2, unnormalised `o` relative to it, the sum `l` of the weights
/// that were multiplied, and its rounding remainder `left`.
pub(crate) struct PartialRow<'a> {
    pub m: f32,
    pub l: f32,
    pub left: f32,
    pub o: &'a mut [f32],
}

/// Inputs of the epilogue that the rows of a key/value head share.
pub(crate) struct Epilogue<'a> {
    pub kernels: &'a Kernels,
    pub call: &'a Forward,
    /// Scale of V that the accumulator lacks.
    pub v_scale: f32,
    /// Mean of V that the accumulator lacks, in the stored domain.
    pub v_mean: Option<RowBuffer>,
}

impl Epilogue<'_> {
    /// Writes the results of a row: `n` is its row in the tensors.
    pub(crate) fn write_row(&self, b: usize, head: usize, n: usize, partial: PartialRow<'_>) {
        let problem = &self.call.problem;
        let sink = problem
            .options
            .sinks
            .as_ref()
            .map_or(f32::NEG_INFINITY, |sinks| to_base2(sinks.number(0, head)));
        // A NaN sink must reach the result: `max` would drop it.
        let top = if sink.is_nan() {
            sink
        } else {
            partial.m.max(sink)
        };
        let finite_top = if top == f32::NEG_INFINITY { 0.0 } else { top };
        let (weight, l) = if sink == f32::NEG_INFINITY {
            (1.0, partial.l)
        } else {
            let weight = (partial.m - finite_top).exp2();
            (weight, partial.l * weight + (sink - finite_top).exp2())
        };
        let factor = if l == 0.0 { 0.0 } else { weight / l };
        if let Some(lse) = &self.call.logsumexp {
            // log2 in f64: of a sum just beside 1, f32 would lose the small term beside a large maximum.
            let sum = f64::from(l) + f64::from(weight) * f64::from(partial.left);
            let value = to_natural(finite_top, sum.log2());
            // SAFETY: the view was checked to be [batch, heads, rows, 1] floats; each row is written once.
            unsafe { lse.at(b, head, n, 0).cast::<f32>().write(value as f32) };
        }
        let (scale, output) = (factor * self.v_scale, &self.call.output);
        if self.v_mean.is_none() && !problem.v.is_rotated() {
            return store_scaled_row(self.kernels, output, b, head, n, partial.o, scale);
        }
        let x = partial.o.as_mut_ptr();
        // SAFETY: a row, in place.
        unsafe { (self.kernels.scale)(x, partial.o.len(), scale, x) };
        if let Some(mean) = &self.v_mean {
            let share = factor * partial.l;
            partial
                .o
                .iter_mut()
                .zip(mean.iter())
                .for_each(|(x, m)| *x += share * m);
        }
        if problem.v.is_rotated() {
            hadamard::rotate_with(self.kernels, partial.o);
        }
        store_row(self.kernels, output, b, head, n, partial.o);
    }
}

/// Merges `partial` into `into`. The bits of the sum depend on the order.
pub(crate) fn merge(into: &mut PartialRow<'_>, partial: &PartialRow<'_>) {
    let top = into.m.max(partial.m);
    let finite_top = if top == f32::NEG_INFINITY { 0.0 } else { top };
    let (a, b) = (
        (into.m - finite_top).exp2(),
        (partial.m - finite_top).exp2(),
    );
    into.m = top;
    into.l = into.l * a + partial.l * b;
    into.left = into.left * a + partial.left * b;
    into.o
        .iter_mut()
        .zip(partial.o.iter())
        .for_each(|(x, y)| *x = *x * a + *y * b);
}
