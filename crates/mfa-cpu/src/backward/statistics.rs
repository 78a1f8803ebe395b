//! What is one number per row or per head: D, and the gradient of the sinks.

use super::bias::Bias;
use super::cell::DValues;
use super::check::Backward;
use crate::expand::Basis;
use crate::kernels::Kernels;
use crate::problem::Sequence;
use crate::tensor::Tensor;

/// Rows of an item.
const CHUNK: usize = 128;

/// Items of [`from_output`].
pub(super) fn items(call: &Backward) -> usize {
    let [batch, heads, rows, _] = call.problem.q.shape;
    batch * heads * rows.div_ceil(CHUNK)
}

/// D = rowsum(dO * O) of the rows of an item.
pub(super) fn from_output(
    call: &Backward,
    kernels: &Kernels,
    bias: &Bias<'_>,
    d: DValues<'_>,
    item: usize,
) {
    let Some(output) = &call.output else { return };
    let [_, heads, rows, _] = call.problem.q.shape;
    let chunks = rows.div_ceil(CHUNK);
    let (head, chunk) = (item / chunks, item % chunks);
    let (b, h) = (head / heads, head % heads);
    let columns = call.problem.dv;
    let mut lines = vec![0f32; 2 * columns];
    let (o_line, grad_line) = lines.split_at_mut(columns);
    for row in chunk * CHUNK..((chunk + 1) * CHUNK).min(rows) {
        let o = line(output, kernels, (b, h), row, o_line);
        let grad = line(&call.grad_output, kernels, (b, h), row, grad_line);
        let mut sum = dot(o, grad);
        if !sum.is_finite() && sees_nothing(call, bias, b, h, row) {
            sum = 0.0;
        }
        d.write(b, h, row, sum);
    }
}

/// A row as floats: in place, or expanded to `out`.
fn line<'a>(
    tensor: &'a Tensor,
    kernels: &Kernels,
    at: (usize, usize),
    row: usize,
    out: &'a mut [f32],
) -> &'a [f32] {
    // SAFETY: one row of the tensor, or as many floats.
    unsafe {
        if tensor.is_plain_f32() {
            let row = tensor.at(at.0, at.1, row, 0).cast::<f32>().cast_const();
            return std::slice::from_raw_parts(row, out.len());
        }
        let ld = out.len();
        tensor.expand(kernels, at, row, 1, Basis::STORED, out.as_mut_ptr(), ld);
    }
    out
}

/// In f64: D is subtracted from each dP of its row, so that its error is one that all of them share.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f64; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += f64::from(*a) * f64::from(*b);
        }
    }
    lanes.iter().sum::<f64>() as f32
}

/// Whether a row of the tensors has no key to attend to: then O is 0, and D too, whatever dO holds.
fn sees_nothing(call: &Backward, bias: &Bias<'_>, b: usize, head: usize, row: usize) -> bool {
    let holds = |s: &&Sequence| s.batch == b && (s.q0..s.q0 + s.nq).contains(&row);
    let sequence = call.problem.sequences.iter().find(holds);
    sequence.is_none_or(|s| (0..s.nk).all(|j| bias.hides(s, head, row - s.q0, j)))
}

/// The gradient of a head's sink: what the sink took of each row's weights, times -D.
pub(super) fn sink(call: &Backward, d: DValues<'_>, head: usize) {
    let (Some(sinks), Some(gradient)) = (&call.problem.options.sinks, &call.grad_sinks) else {
        return;
    };
    // SAFETY: sinks were broadcast to [1, heads, 1, 1] floats.
    let sink = f64::from(unsafe { sinks.at(0, head, 0, 0).cast::<f32>().read() });
    let [batch, _, rows, _] = call.problem.q.shape;
    let mut sum = 0f64;
    for b in 0..batch {
        for row in 0..rows {
            // SAFETY: the view was checked to be [batch, heads, rows, 1] floats.
            let l = f64::from(unsafe { call.logsumexp.at(b, head, row, 0).cast::<f32>().read() });
            if l != f64::NEG_INFINITY {
                sum += (sink - l).exp() * f64::from(d.read(b, head, row));
            }
        }
    }
    // SAFETY: the view was checked to be [1, heads, 1, 1] floats.
    unsafe { gradient.at(0, head, 0, 0).cast::<f32>().write(-sum as f32) };
}
