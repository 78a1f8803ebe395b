//! Per-row D = rowsum(dO * O), and the per-head gradients of the sinks.

use super::block::DValues;
use super::check::Backward;
use super::score_mod::TransposedScoreMod;
use crate::contract::sequences::Sequence;
use crate::contract::tensor::Tensor;
use crate::operands::dequantize::Domain;
use mfa_kernels::Kernels;

/// Rows of an item.
const CHUNK: usize = 128;
/// Rows that are dequantized at a time: they stay in the first-level cache until they are multiplied.
const RUN: usize = 32;
/// Rows of O and of dO that are dequantized at a time.
pub(super) const BUFFERED_ROWS: usize = 2 * RUN;

/// Items of [`from_output`].
pub(super) fn items(call: &Backward) -> usize {
    let [batch, heads, rows, _] = call.problem.q.shape;
    batch * heads * rows.div_ceil(CHUNK)
}

/// D = rowsum(dO * O) of the rows of an item (eq. 25).
pub(super) fn from_output(
    (call, output): (&Backward, &Tensor),
    kernels: &Kernels,
    score_mod: &TransposedScoreMod<'_>,
    d: DValues<'_>,
    row_buffers: *mut f32,
    item: usize,
) {
    let [_, heads, rows, _] = call.problem.q.shape;
    let chunks = rows.div_ceil(CHUNK);
    let (head, chunk) = (item / chunks, item % chunks);
    let (b, h) = (head / heads, head % heads);
    let rows = chunk * CHUNK..((chunk + 1) * CHUNK).min(rows);
    let columns = call.problem.dv;
    // SAFETY: laid out for `BUFFERED_ROWS` rows of O and of dO.
    let row_buffers =
        unsafe { std::slice::from_raw_parts_mut(row_buffers, BUFFERED_ROWS * columns) };
    let (o_rows, grad_rows) = row_buffers.split_at_mut(RUN * columns);
    let mut sums = [0f32; RUN];
    for first in rows.clone().step_by(RUN) {
        let n = RUN.min(rows.end - first);
        let (o, ldo) = rows_as_f32(output, kernels, (b, h), first, n, o_rows);
        let (grad, ld) = rows_as_f32(&call.grad_output, kernels, (b, h), first, n, grad_rows);
        // In f64: D is subtracted from each dP of its row, so that its error is one that all of them share.
        // SAFETY: rows of both tensors, or of their row_buffers.
        unsafe { (kernels.gradient.row_dots)(o, ldo, grad, ld, n, columns, sums.as_mut_ptr()) };
        for (row, &sum) in (first..).zip(&sums[..n]) {
            let masked = !sum.is_finite() && attends_to_nothing(call, score_mod, b, h, row);
            d.write(b, h, row, if masked { 0.0 } else { sum });
        }
    }
}

/// Rows as floats, and their distance: in place, or dequantized to `out`.
fn rows_as_f32(
    tensor: &Tensor,
    kernels: &Kernels,
    (b, h): (usize, usize),
    first: usize,
    n: usize,
    out: &mut [f32],
) -> (*const f32, usize) {
    if tensor.is_plain_f32() {
        return (tensor.at(b, h, first, 0).cast(), tensor.strides[2]);
    }
    let columns = tensor.shape[3];
    // SAFETY: rows of the tensor into as many floats.
    unsafe {
        let out = out.as_mut_ptr();
        tensor.dequantize_rows(kernels, (b, h), first, n, Domain::STORED, out, columns);
        (out, columns)
    }
}

/// Whether a row of the tensors attends to no key: then O is 0, and D too, whatever dO holds.
fn attends_to_nothing(
    call: &Backward,
    score_mod: &TransposedScoreMod<'_>,
    b: usize,
    head: usize,
    row: usize,
) -> bool {
    let sequence = call.problem.sequences.of_row(b, row);
    sequence.is_none_or(|s: Sequence| (0..s.nk).all(|j| score_mod.masks(&s, head, row - s.q0, j)))
}

/// The gradient of a head's sink (eq. 31): -sum over rows of exp(sink - L) * rest, where `rest` (of batch and row) is D less the gradient
/// of the logsumexp.
pub(crate) fn sink(call: &Backward, head: usize, rest: impl Fn(usize, usize) -> f64) {
    let (Some(sinks), Some(gradient)) = (&call.problem.options.sinks, &call.grad_sinks) else {
        return;
    };
    let sink = sinks.get([0, head, 0, 0]);
    let [batch, _, rows, _] = call.problem.q.shape;
    let mut sum = 0f64;
    let batch = if rows == 0 { 0 } else { batch };
    for b in 0..batch {
        for row in 0..rows {
            let l = call.logsumexp.get([b, head, row, 0]);
            if l != f64::NEG_INFINITY {
                sum += (sink - l).exp() * rest(b, row);
            }
        }
    }
    gradient.set([0, head, 0, 0], -sum);
}
