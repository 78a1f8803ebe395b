//! The backward call: `flash_attention_backward`.

use mfa::raw::lower;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyNone, PyTuple};

use crate::array::same_shape;
use crate::array::{Array, Kind};
use crate::aux_tensors::AuxTensors;
use crate::call::{Call, Mode, TensorArg, place, place_rows, user_row_shape, user_shape};
use crate::context::required;
use crate::dtype::Dtype;
use crate::error;
use crate::options::{Function, Options};
use crate::prepare::{Operand, described, place_operands, tensors};

/// The driver's name of each argument, and the caller's.
const NAMES: &[(&str, &str)] = &[
    ("query", "q"),
    ("key", "k"),
    ("value", "v"),
    ("output", "out"),
    ("grad_output", "grad_out"),
    ("logsumexp", "lse"),
    ("grad_logsumexp", "grad_lse"),
    ("mask", "attn_mask"),
];

/// A gradient that is computed, and where.
type Gradient<'py> = Option<(Array<'py>, TensorArg)>;

fn gradient<'py>(
    py: Python<'py>,
    kind: &Kind<'py>,
    shape: &[usize],
    exact: Dtype,
    placing: impl FnOnce(&Array<'py>) -> PyResult<TensorArg>,
) -> PyResult<Gradient<'py>> {
    let array = kind.new_array(py, shape, exact)?;
    let placed = placing(&array)?;
    Ok(Some((array, placed)))
}

/// Gradients of attention with respect to q, k and v, in float32.
///
/// For quantized operands they are with respect to the real values (straight-through estimator: rounding counts as
/// identity), in the caller's coordinates (not rotated). The options must be those of the forward call.
///
/// Args:
///     ctx: an `MFAContext`.
///     grad_out: the gradient of the result, in its shape.
///     q, k, v: as in the forward call.
///     out: its result; None: what is needed of it is computed again.
///     lse: its logsumexp.
///     need: which gradients of (q, k, v) are wanted; the others are None.
///     clip: zero the gradient of elements that are stored at the end of the quantized range.
///     grad_mask: also return the gradient of a float attn_mask, in its shape.
///     grad_sinks: also return the gradient of the sinks.
///     grad_lse: the gradient of lse, in its shape; None is 0.
///     d_values: float32, in lse's shape: D = rowsum(grad_out * out); None: it is computed.
///
/// Returns:
///     (dq, dk, dv), then the gradient of the mask and of the sinks where they are wanted.
#[pyfunction]
#[pyo3(
    signature = (ctx, grad_out, q, k, v, out, lse, **options),
    text_signature = "(ctx, grad_out, q, k, v, out, lse, *, need=(True, True, True), clip=False, grad_mask=False, \
grad_sinks=False, grad_lse=None, d_values=None, causal=False, softmax_scale=None, attn_mask=None, window=None, softcap=None, \
alibi_slopes=None, sinks=None, cu_seqlens_q=None, cu_seqlens_k=None, seqlens_k=None, alignment='bottom_right', layout='BHND', \
compute='exact', precision=None, granularity='tensor', block_rows=64, group=None, symmetric=True, \
scale_dtype='float32', zero_point_dtype='int8', smooth=False, rotate=False)"
)]
pub(crate) fn flash_attention_backward<'py>(
    py: Python<'py>,
    ctx: &Bound<'py, PyAny>,
    grad_out: &Bound<'py, PyAny>,
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    out: Option<&Bound<'py, PyAny>>,
    lse: &Bound<'py, PyAny>,
    options: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyTuple>> {
    let options = Options::parse(Function::FlashAttentionBackward, options)?;
    let specific = &options.specific;
    let handle = required("ctx", ctx)?;
    let inputs = Operand::read_all([q, k, v], &options)?;
    let prepared = place_operands(&inputs, &options)?;
    let operands = described(&inputs, &prepared, &options);
    let (layout, varlen, rank) = (operands.layout, operands.varlen, prepared.rank);
    let aux = AuxTensors::read(&options, &operands)?;
    let kind = inputs[0].kind();

    let shape = operands.output();
    let result = |object: &Bound<'py, PyAny>, name| {
        let array = Array::read(object, name, operands.dtype.results())?;
        same_shape(&array, name, &shape)?;
        let placed = place(&array, name, layout, varlen)?;
        PyResult::Ok((array, placed))
    };
    let grad_output = result(grad_out, "grad_out")?;
    let output = out.map(|out| result(out, "out")).transpose()?;
    let exact = inputs[0].exact();
    let logsumexp = Array::read(lse, "lse", &[exact])?;
    let rows = user_row_shape(prepared.row_sizes(), rank, layout, varlen);
    same_shape(&logsumexp, "lse", &rows)?;
    let per_row = |given: &Option<Bound<'py, PyAny>>, name| match given {
        None => Ok(None),
        Some(given) => {
            let array = Array::read(given, name, &[exact])?;
            same_shape(&array, name, &rows)?;
            PyResult::Ok(Some(array))
        }
    };
    let d_values = per_row(&specific.d_values, "d_values")?;
    let grad_lse = per_row(&specific.grad_lse, "grad_lse")?;

    let mut gradients: Vec<Gradient<'py>> = Vec::with_capacity(5);
    for (index, wanted) in <[bool; 3]>::from(specific.need.unwrap_or((true, true, true)))
        .into_iter()
        .enumerate()
    {
        let layout = inputs[index].layout(options.layout);
        let shape = user_shape(prepared.placed[index].shape, rank, layout, varlen);
        gradients.push(match wanted {
            false => None,
            true => gradient(py, &kind, &shape, exact, |array| {
                place(array, "gradient", layout, varlen)
            })?,
        });
    }
    gradients.push(match (&aux.mask, specific.grad_mask) {
        (_, false) => None,
        (Some(mask), true) if mask.array.view.dtype != Dtype::Bool => {
            let shape = mask.array.view.shape();
            gradient(py, &kind, shape, exact, |array| {
                Ok(TensorArg::new(&array.view, mask.axes))
            })?
        }
        _ => {
            return Err(error::argument(
                "grad_mask: expected a float attn_mask".into(),
            ));
        }
    });
    gradients.push(match (&aux.sinks, specific.grad_sinks) {
        (_, false) => None,
        (Some(sinks), true) => gradient(py, &kind, sinks.view.shape(), exact, |array| {
            Ok(TensorArg::new(&array.view, AuxTensors::SINK_AXES))
        })?,
        (None, true) => {
            return Err(error::argument(
                "grad_sinks: given without sinks, expected both".into(),
            ));
        }
    });
    if prepared.is_empty() {
        // No row gives a gradient to anything.
        for (array, _) in gradients.iter().flatten() {
            array.fill_with_zeros();
        }
    } else {
        let mut call = Call::new(&handle, Mode::Run, NAMES.to_vec());
        let [query, key, value] = tensors(py, &mut call, &inputs, &prepared, &options)?;
        let described = aux.describe(&mut call, &options)?;
        let mut wanted = [None; 5];
        for (wanted, gradient) in wanted.iter_mut().zip(&gradients) {
            // Gradients without elements are there already.
            if let Some((array, placed)) = gradient
                && array.view.len() > 0
            {
                *wanted = Some(call.tensor(placed)?);
            }
        }
        let [grad_query, grad_key, grad_value, grad_mask, grad_sinks] = wanted;
        let optional = |call: &mut Call<'_>, placed: Option<TensorArg>| {
            placed.map(|placed| call.tensor(&placed)).transpose()
        };
        let per_row = |array: &Array<'_>| place_rows(&array.view, rank, layout, varlen);
        let backward = lower::Backward {
            clip: specific.clip,
            query,
            key,
            value,
            output: optional(&mut call, output.as_ref().map(|(_, placed)| *placed))?,
            grad_output: call.tensor(&grad_output.1)?,
            logsumexp: call.tensor(&per_row(&logsumexp))?,
            d_values: optional(&mut call, d_values.as_ref().map(per_row))?,
            d_given: d_values.is_some(),
            grad_logsumexp: optional(&mut call, grad_lse.as_ref().map(per_row))?,
            grad_query,
            grad_key,
            grad_value,
            grad_mask,
            grad_sinks,
            options: described,
        };
        // SAFETY: the arrays and buffers of the call live until it ends.
        call.run(py, |context| unsafe { backward.run(context) })?;
    }

    let mut results = Vec::with_capacity(5);
    for (index, gradient) in gradients.into_iter().enumerate() {
        match gradient {
            Some((array, _)) => results.push(kind.finish(array.owner)?),
            None if index < 3 => results.push(PyNone::get(py).to_owned().into_any()),
            None => {}
        }
    }
    PyTuple::new(py, results)
}
