//! The forward call: `flash_attention_forward`, `attention`, `quantized_attention`, `explain` and `workspace_size`.

use mfa::raw::lower;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::array::Array;
use crate::array::writable;
use crate::aux_tensors::{AuxTensors, Mask};
use crate::call::{Call, Mode, TensorArg, place, place_rows, user_row_shape};
use crate::context::{Handle, handle, required};
use crate::error;
use crate::options::{Function, Layout, Options};
use crate::prepare::{Operand, Prepared, described, place_operands, tensors};
use crate::shapes::Operands;

fn forward<'py>(
    py: Python<'py>,
    handle: &Handle,
    [q, k, v]: [&Bound<'py, PyAny>; 3],
    options: &Options<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let inputs = Operand::read_all([q, k, v], options)?;
    if options.function == Function::QuantizedAttention
        && !inputs.iter().any(Operand::is_quantized)
        && !options.quantizing.any()
    {
        return Err(error::argument(
            "quantized_attention: no operand is quantized, expected a QuantizedTensor or precision=".into(),
        ));
    }
    let prepared = place_operands(&inputs, options)?;
    let operands = described(&inputs, &prepared, options);
    let (layout, varlen, rank) = (operands.layout, operands.varlen, prepared.rank);
    let aux = AuxTensors::read(options, &operands)?;
    let kind = inputs[0].kind();

    let shape = operands.output();
    let specific = &options.specific;
    let target = match &specific.out {
        Some(out) => writable(out, "out", operands.dtype.results(), &shape)?,
        None => kind.new_array(py, &shape, inputs[0].float_dtype())?,
    };
    let output = place(&target, "out", layout, varlen)?;
    if specific.out.is_some() {
        disjoint(
            &output,
            &prepared,
            &operands,
            aux.mask.as_ref().map(Mask::placed),
        )?;
    }
    let logsumexp = match specific.return_logsumexp {
        false => None,
        true => {
            let shape = user_row_shape(prepared.row_sizes(), rank, layout, varlen);
            let array = kind.new_array(py, &shape, inputs[0].exact())?;
            let placed = place_rows(&array.view, rank, layout, varlen);
            Some((array.owner, placed))
        }
    };
    if !prepared.is_empty() {
        let mut call = Call::new(handle, Mode::Run, forward_names(options));
        let [query, key, value] = tensors(py, &mut call, &inputs, &prepared, options)?;
        let described = aux.describe(&mut call, options)?;
        let forward = lower::Forward {
            query,
            key,
            value,
            options: described,
            output: call.tensor(&output)?,
            logsumexp: match &logsumexp {
                Some((_, placed)) => Some(call.tensor(placed)?),
                None => None,
            },
        };
        // SAFETY: the arrays and buffers of the call live until it ends.
        call.run(py, |context| unsafe { forward.run(context) })?;
    }
    let out = match &specific.out {
        Some(out) => out.clone(),
        None => kind.finish(target.owner)?,
    };
    match logsumexp {
        None => Ok(out),
        Some((array, _)) => Ok(PyTuple::new(py, [out, kind.finish(array)?])?.into_any()),
    }
}

/// The plan of a result without elements.
const NOTHING: &str =
    "operation: none\nreason: the result has no elements, so there is nothing to compute\n";

/// The driver's name of each argument, and the caller's.
fn forward_names(options: &Options<'_>) -> Vec<(&'static str, &'static str)> {
    let [q, k, v] = options.names();
    vec![
        ("query", q),
        ("key", k),
        ("value", v),
        ("output", "out"),
        ("mask", "attn_mask"),
    ]
}

/// Refuses an output that shares memory with an input.
fn disjoint(
    output: &TensorArg,
    prepared: &Prepared,
    operands: &Operands<'_>,
    mask: Option<TensorArg>,
) -> PyResult<()> {
    let inputs = (operands.names.into_iter().zip(prepared.placed))
        .chain(mask.map(|placed| ("attn_mask", placed)));
    for (name, placed) in inputs {
        if output.overlaps(&placed) {
            return Err(error::argument(format!(
                "out: memory shared with {name}, expected other memory"
            )));
        }
    }
    Ok(())
}

/// A call that is only planned.
enum Plan {
    Forward(Box<lower::Forward>),
    Backward(Box<lower::Backward>),
}

/// Builds the call that `explain` and `workspace_size` ask about, with outputs that are addresses without memory. `ask` gets
/// the bytes that quantizing float operands takes, and the call; or None if there is nothing to compute.
fn planned<T>(
    py: Python<'_>,
    handle: &Handle,
    [q, k, v]: [&Bound<'_, PyAny>; 3],
    options: &Options<'_>,
    ask: impl FnOnce(u64, Option<Plan>) -> mfa::Result<T>,
) -> PyResult<T> {
    let inputs = Operand::read_all([q, k, v], options)?;
    let prepared = place_operands(&inputs, options)?;
    let operands = described(&inputs, &prepared, options);
    let aux = AuxTensors::read(options, &operands)?;
    let specific = &options.specific;
    let exact = inputs[0].exact();
    let dtype = match &specific.out {
        Some(out) => {
            Array::read(out, "out", operands.dtype.results())?
                .view
                .dtype
        }
        None => inputs[0].float_dtype(),
    };
    if prepared.is_empty() {
        return ask(0, None).map_err(error::from_mfa);
    }
    let mut call = Call::new(handle, Mode::Plan, forward_names(options));
    let [query, key, value] = tensors(py, &mut call, &inputs, &prepared, options)?;
    let quantized_bytes = call.scratch_bytes;
    let described = aux.describe(&mut call, options)?;
    let output = call.temporary(prepared.output_sizes(), dtype)?;
    let rows = call.temporary(prepared.row_sizes(), exact)?;
    let plan = if specific.backward {
        Plan::Backward(Box::new(lower::Backward {
            clip: false,
            query,
            key,
            value,
            output: Some(output),
            grad_output: call.temporary(prepared.output_sizes(), dtype)?,
            logsumexp: rows,
            grad_logsumexp: None,
            d_values: None,
            d_given: false,
            grad_query: Some(call.temporary(query.shape, exact)?),
            grad_key: Some(call.temporary(key.shape, exact)?),
            grad_value: Some(call.temporary(value.shape, exact)?),
            grad_mask: None,
            grad_sinks: None,
            options: described,
        }))
    } else {
        Plan::Forward(Box::new(lower::Forward {
            query,
            key,
            value,
            output,
            logsumexp: specific.return_logsumexp.then_some(rows),
            options: described,
        }))
    };
    ask(quantized_bytes, Some(plan)).map_err(error::from_mfa)
}

/// Attention on a given context.
///
/// As `attention`, which describes the arguments, with the context first, and with FlashAttention's diagonal: alignment
/// "bottom_right" unless it is given.
#[pyfunction]
#[pyo3(
    signature = (ctx, q, k, v, **options),
    text_signature = "(ctx, q, k, v, *, causal=False, softmax_scale=None, attn_mask=None, window=None, softcap=None, \
alibi_slopes=None, sinks=None, cu_seqlens_q=None, cu_seqlens_k=None, seqlens_k=None, alignment='bottom_right', return_logsumexp=False, \
out=None, layout='BHND', compute='exact', precision=None, granularity='tensor', block_rows=64, group=None, \
symmetric=True, scale_dtype='float32', zero_point_dtype='int8', smooth=False, rotate=False)"
)]
pub(crate) fn flash_attention_forward<'py>(
    py: Python<'py>,
    ctx: &Bound<'py, PyAny>,
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    options: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let options = Options::parse(Function::FlashAttentionForward, options)?;
    let handle = required("ctx", ctx)?;
    forward(py, &handle, [q, k, v], &options)
}

/// softmax(softmax_scale * q k^T + bias) v, exactly, without the matrix of scores in memory.
///
/// Operands are NumPy arrays, torch CPU tensors, or anything with DLPack or the buffer protocol, of float32, float16
/// or bfloat16, each with its own strides, used in place; or `QuantizedTensor`. The result is of q's library and dtype
/// (float32 for a quantized q). Or all are of float64: computed in float64, results and gradients too, exactly and slowly.
///
/// Shapes, for B batches, Hq and Hk heads (Hq a multiple of Hk), N rows and D columns (1 to 1024):
///
///     layout "BHND": q (B, Hq, Nq, D), k (B, Hk, Nk, D), v (B, Hk, Nk, Dv); rank 3 is (B, N, D), rank 2 (N, D)
///     layout "BNHD": q (B, Nq, Hq, D), k (B, Nk, Hk, D), v (B, Nk, Hk, Dv); rank 3 is (N, H, D), rank 2 (N, D)
///
/// Args:
///     q, k, v: query, key and value.
///     context: an `MFAContext`; None is the default context.
///     causal: row i attends to key positions up to i (alignment "top_left") or i + Nk - Nq ("bottom_right").
///     softmax_scale: None is 1 / sqrt(D).
///     attn_mask: bool (True: attend) or float (added to the scores), broadcast to (B, Hq, Nq, Nk) from the right.
///     window: (left, right): row i attends to key positions from i - left to i + right; None or -1 in the pair: no limit. One
///         int is both.
///     softcap: c in c * tanh(scores / c).
///     alibi_slopes: (Hq,) or (B, Hq): -slope * |i - j| is added to the scores. An array, or a list of numbers.
///     sinks: (Hq,): exp(sink) is added to the denominator of each row's softmax. An array, or a list of numbers.
///     cu_seqlens_q, cu_seqlens_k: cumulated sequence lengths, int32 (n + 1,), of n sequences packed into the rows.
///         The batch is 1; rank 3 is (H, N, D) in layout "BHND". Rows after the last sequence give 0. An attn_mask
///         broadcasts to (n, Hq, longest of q, longest of k).
///     seqlens_k: int32 (B,), or one for each packed sequence: how many of its rows of k and v a sequence has; the others are
///         not read.
///     alignment: the diagonal of causal, window and ALiBi: "top_left" (row i at key i: PyTorch's is_causal) or
///         "bottom_right" (the last row at the last key: decoding; FlashAttention >= 2.1). It must be said where lengths
///         differ.
///     return_logsumexp: return (out, logsumexp); logsumexp is float32 (B, Hq, Nq) in every layout.
///     out: the array to write to: float32, float16 or bfloat16.
///     layout: the order of the axes of float operands and of the result.
///     compute: "exact", or "fast": P may be rounded to 8 bits where v is quantized.
///     precision: "int8" or "int4" quantizes float operands first; a mapping from "q", "k" and "v" says it for each.
///         So may the arguments that follow; they are explained at `quantize`. `smooth=True` is for k alone.
///
/// Example:
///     >>> import numpy as np, umfa
///     >>> q = k = v = np.ones((1, 2, 8, 16), np.float32)
///     >>> umfa.attention(q, k, v, causal=True).shape
///     (1, 2, 8, 16)
#[pyfunction]
#[pyo3(
    signature = (q, k, v, context=None, **options),
    text_signature = "(q, k, v, context=None, *, causal=False, softmax_scale=None, attn_mask=None, window=None, \
softcap=None, alibi_slopes=None, sinks=None, cu_seqlens_q=None, cu_seqlens_k=None, seqlens_k=None, alignment=None, \
return_logsumexp=False, out=None, layout='BHND', compute='exact', precision=None, granularity='tensor', \
block_rows=64, group=None, symmetric=True, scale_dtype='float32', zero_point_dtype='int8', smooth=False, \
rotate=False)"
)]
pub(crate) fn attention<'py>(
    py: Python<'py>,
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    context: Option<&Bound<'py, PyAny>>,
    options: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let options = Options::parse(Function::Attention, options)?;
    let handle = handle(py, "context", context)?;
    forward(py, &handle, [q, k, v], &options)
}

/// Attention of which at least one operand is quantized: a `QuantizedTensor`, or a float array with `precision`.
///
/// As `attention`, which describes the arguments, but without a quantized operand it is an error.
///
/// Example:
///     >>> import numpy as np, umfa
///     >>> q = k = v = np.ones((1, 2, 8, 16), np.float32)
///     >>> umfa.quantized_attention(q, umfa.quantize(k), umfa.quantize(v, "int4", "row")).dtype
///     dtype('float32')
#[pyfunction]
#[pyo3(
    signature = (q, k, v, context=None, **options),
    text_signature = "(q, k, v, context=None, *, causal=False, softmax_scale=None, attn_mask=None, window=None, \
softcap=None, alibi_slopes=None, sinks=None, cu_seqlens_q=None, cu_seqlens_k=None, seqlens_k=None, alignment=None, \
return_logsumexp=False, out=None, layout='BHND', compute='exact', precision=None, granularity='tensor', \
block_rows=64, group=None, symmetric=True, scale_dtype='float32', zero_point_dtype='int8', smooth=False, \
rotate=False)"
)]
pub(crate) fn quantized_attention<'py>(
    py: Python<'py>,
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    context: Option<&Bound<'py, PyAny>>,
    options: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let options = Options::parse(Function::QuantizedAttention, options)?;
    let handle = handle(py, "context", context)?;
    forward(py, &handle, [q, k, v], &options)
}

/// `attention` with the names of torch's scaled_dot_product_attention, for `umfa.sdpa` and `MetalSDPA`.
#[pyfunction]
#[pyo3(signature = (query, key, value, context=None, **options))]
pub(crate) fn _sdpa<'py>(
    py: Python<'py>,
    query: &Bound<'py, PyAny>,
    key: &Bound<'py, PyAny>,
    value: &Bound<'py, PyAny>,
    context: Option<&Bound<'py, PyAny>>,
    options: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let options = Options::parse(Function::Sdpa, options)?;
    let handle = handle(py, "context", context)?;
    forward(py, &handle, [query, key, value], &options)
}

/// The plan of a call and the reason for it, as lines of "key: value". Nothing is computed.
///
/// Args:
///     q, k, v, context: as in `attention`, and so are the options. Only shapes, strides and dtypes matter.
///     backward: the plan of the gradients instead.
#[pyfunction]
#[pyo3(
    signature = (q, k, v, context=None, **options),
    text_signature = "(q, k, v, context=None, *, backward=False, causal=False, softmax_scale=None, attn_mask=None, \
window=None, softcap=None, alibi_slopes=None, sinks=None, cu_seqlens_q=None, cu_seqlens_k=None, seqlens_k=None, \
alignment=None, return_logsumexp=False, out=None, layout='BHND', compute='exact', precision=None, \
granularity='tensor', block_rows=64, group=None, symmetric=True, scale_dtype='float32', zero_point_dtype='int8', \
smooth=False, rotate=False)"
)]
pub(crate) fn explain<'py>(
    py: Python<'py>,
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    context: Option<&Bound<'py, PyAny>>,
    options: Option<&Bound<'py, PyDict>>,
) -> PyResult<String> {
    let options = Options::parse(Function::Explain, options)?;
    let handle = handle(py, "context", context)?;
    planned(py, &handle, [q, k, v], &options, |_, plan| {
        // SAFETY: the arrays and buffers of the call live until `planned` ends.
        unsafe {
            match plan {
                None => Ok(NOTHING.into()),
                Some(Plan::Forward(call)) => call.explain(handle.raw()),
                Some(Plan::Backward(call)) => call.explain(handle.raw()),
            }
        }
    })
}

/// Bytes that a call would allocate beside its outputs, at most. Nothing is computed.
///
/// Args:
///     q, k, v, context: as in `attention`, and so are the options. Only shapes, strides and dtypes matter.
///     backward: those of the gradients instead.
#[pyfunction]
#[pyo3(
    signature = (q, k, v, context=None, **options),
    text_signature = "(q, k, v, context=None, *, backward=False, causal=False, softmax_scale=None, attn_mask=None, \
window=None, softcap=None, alibi_slopes=None, sinks=None, cu_seqlens_q=None, cu_seqlens_k=None, seqlens_k=None, \
alignment=None, return_logsumexp=False, out=None, layout='BHND', compute='exact', precision=None, \
granularity='tensor', block_rows=64, group=None, symmetric=True, scale_dtype='float32', zero_point_dtype='int8', \
smooth=False, rotate=False)"
)]
pub(crate) fn workspace_size<'py>(
    py: Python<'py>,
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    context: Option<&Bound<'py, PyAny>>,
    options: Option<&Bound<'py, PyDict>>,
) -> PyResult<u64> {
    let options = Options::parse(Function::WorkspaceSize, options)?;
    let handle = handle(py, "context", context)?;
    planned(py, &handle, [q, k, v], &options, |quantized, plan| {
        // SAFETY: the arrays and buffers of the call live until `planned` ends.
        let bytes = unsafe {
            match plan {
                None => return Ok(0),
                Some(Plan::Forward(call)) => call.workspace_size(handle.raw()),
                Some(Plan::Backward(call)) => call.workspace_size(handle.raw()),
            }
        }?;
        Ok(bytes + quantized)
    })
}

/// The operand that the driver gets: the address that it finds the memory at, sizes and strides (in elements) of
/// batch, heads, rows and columns. For tests and for finding out whether an array is used in place.
#[pyfunction]
#[pyo3(signature = (x, layout=None, context=None), text_signature = "(x, layout='BHND', context=None)")]
pub(crate) fn _operand(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    layout: Option<Bound<'_, PyAny>>,
    context: Option<&Bound<'_, PyAny>>,
) -> PyResult<(usize, [u64; 4], [i64; 4])> {
    let layout = match &layout {
        Some(layout) => Layout::parse(layout)?,
        None => Layout::Bhnd,
    };
    let handle = handle(py, "context", context)?;
    let mut call = Call::new(&handle, Mode::Run, Vec::new());
    let operand = Operand::read(x, "x")?;
    let tensor = match &operand {
        Operand::Array(array) => call.tensor(&place(array, "x", layout, false)?)?,
        Operand::Quantized(tensor, parts) => tensor.get().tensor(&mut call, parts, false)?,
    };
    Ok((
        call.contents(tensor.memory.buffer)?,
        tensor.shape,
        tensor.strides,
    ))
}
