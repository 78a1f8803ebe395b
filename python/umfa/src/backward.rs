//! The backward call: `flash_attention_backward`.

use mfa::raw::sys;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyNone, PyTuple};

use crate::array::{Array, Kind};
use crate::call::{Call, Effort, Placed, displayed, displayed_rows, place, place_rows};
use crate::context::{Context, handle};
use crate::dtype::Dtype;
use crate::error;
use crate::options::{Options, boolean};
use crate::prepare::{Extras, Operand, operands, same_shape};

/// Options of backward alone.
#[derive(Default)]
struct Own {
    clip: bool,
    grad_mask: bool,
    grad_sinks: bool,
}

/// A gradient that is computed, and where.
type Gradient<'py> = Option<(Bound<'py, PyAny>, Placed)>;

fn gradient<'py>(
    py: Python<'py>,
    kind: &Kind<'py>,
    shape: &[usize],
    placing: impl FnOnce(&Array<'py>) -> PyResult<Placed>,
) -> PyResult<Gradient<'py>> {
    let array = kind.new_array(py, shape, Dtype::Float32)?;
    let placed = placing(&array)?;
    Ok(Some((array.owner, placed)))
}

/// Gradients of attention with respect to q, k and v, in float32.
///
/// For quantized operands they are with respect to the real values (straight-through estimator: rounding counts as
/// identity), in the caller's basis. The options must be those of the forward call.
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
///
/// Returns:
///     (dq, dk, dv), then the gradient of the mask and of the sinks where they are wanted.
#[pyfunction]
#[pyo3(
    signature = (ctx, grad_out, q, k, v, out, lse, *, need=(true, true, true), **options),
    text_signature = "(ctx, grad_out, q, k, v, out, lse, *, need=(True, True, True), clip=False, grad_mask=False, \
grad_sinks=False, causal=False, softmax_scale=None, attn_mask=None, window=None, softcap=None, alibi_slopes=None, \
sinks=None, cu_seqlens_q=None, cu_seqlens_k=None, alignment='top_left', layout='BHND', compute='exact', \
precision=None, granularity='tensor', block_rows=64, group=None, symmetric=True, scale_dtype='float32', \
zero_point_dtype='int8', smooth=False, rotate=False)"
)]
pub(crate) fn flash_attention_backward<'py>(
    py: Python<'py>,
    ctx: &Bound<'py, Context>,
    grad_out: &Bound<'py, PyAny>,
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    out: Option<&Bound<'py, PyAny>>,
    lse: &Bound<'py, PyAny>,
    need: (bool, bool, bool),
    options: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyTuple>> {
    let mut own = Own::default();
    let options = Options::parse("flash_attention_backward", options, |key, value| {
        match key {
            "clip" => own.clip = boolean(value, key)?,
            "grad_mask" => own.grad_mask = boolean(value, key)?,
            "grad_sinks" => own.grad_sinks = boolean(value, key)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let handle = handle(py, Some(ctx))?;
    let inputs = [
        Operand::read(q, "q")?,
        Operand::read(k, "k")?,
        Operand::read(v, "v")?,
    ];
    let mut call = Call::new(&handle, Effort::Run);
    let prepared = operands(py, &mut call, &inputs, &options)?;
    let (layout, varlen) = (inputs[0].layout(options.layout), options.is_varlen());
    let rank = prepared.rank;
    let extras = Extras::read(&options, rank, layout)?;
    let described = extras.describe(&mut call, &options)?;
    let kind = inputs[0].kind();

    let shape = displayed(prepared.output_sizes(), rank, layout, varlen);
    let result = |object: &Bound<'py, PyAny>, name| {
        let array = Array::read(object, name, Dtype::FLOATS)?;
        same_shape(&array, name, &shape)?;
        let placed = place(&array, name, layout, varlen)?;
        PyResult::Ok((array, placed))
    };
    let grad_output = result(grad_out, "grad_out")?;
    let output = out.map(|out| result(out, "out")).transpose()?;
    let logsumexp = Array::read(lse, "lse", &[Dtype::Float32])?;
    let rows = displayed_rows(prepared.row_sizes(), rank, layout, varlen);
    same_shape(&logsumexp, "lse", &rows)?;

    let mut gradients: Vec<Gradient<'py>> = Vec::with_capacity(5);
    for (index, wanted) in [need.0, need.1, need.2].into_iter().enumerate() {
        let layout = inputs[index].layout(options.layout);
        let shape = displayed(prepared.placed[index].shape, rank, layout, varlen);
        gradients.push(match wanted {
            false => None,
            true => gradient(py, &kind, &shape, |array| {
                place(array, "gradient", layout, varlen)
            })?,
        });
    }
    gradients.push(match (&extras.mask, own.grad_mask) {
        (_, false) => None,
        (Some(mask), true) if mask.array.view.dtype != Dtype::Bool => {
            let shape = mask.array.view.shape();
            gradient(py, &kind, shape, |array| {
                Ok(Placed::new(&array.view, mask.axes))
            })?
        }
        _ => {
            return Err(error::argument(
                "grad_mask: expected a float attn_mask".into(),
            ));
        }
    });
    gradients.push(match (&extras.sinks, own.grad_sinks) {
        (_, false) => None,
        (Some(sinks), true) => gradient(py, &kind, sinks.view.shape(), |array| {
            Ok(Placed::new(&array.view, Extras::SINK_AXES))
        })?,
        (None, true) => {
            return Err(error::argument(
                "grad_sinks: given without sinks, expected both".into(),
            ));
        }
    });
    let mut tensors = Vec::with_capacity(gradients.len());
    for gradient in &gradients {
        tensors.push(match gradient {
            Some((_, placed)) => call.tensor(placed)?,
            None => sys::mfa_tensor::ABSENT,
        });
    }
    let [query, key, value] = prepared.tensors;
    let desc = sys::mfa_backward_desc {
        flags: if own.clip { sys::MFA_BACKWARD_CLIP } else { 0 },
        query,
        key,
        value,
        output: match &output {
            Some((_, placed)) => call.tensor(placed)?,
            None => sys::mfa_tensor::ABSENT,
        },
        grad_output: call.tensor(&grad_output.1)?,
        logsumexp: call.tensor(&place_rows(&logsumexp.view, rank, layout, varlen))?,
        grad_query: tensors[0],
        grad_key: tensors[1],
        grad_value: tensors[2],
        grad_mask: tensors[3],
        grad_sinks: tensors[4],
        options: &raw const described,
        ..sys::mfa_backward_desc::new()
    };
    // SAFETY: the descriptor and what it points to live until the call ends.
    call.run(py, |api, raw| unsafe {
        (api.mfa_backward)(raw, &raw const desc)
    })?;

    let mut results = Vec::with_capacity(5);
    for (index, gradient) in gradients.into_iter().enumerate() {
        match gradient {
            Some((array, _)) => results.push(kind.finish(array)?),
            None if index < 3 => results.push(PyNone::get(py).to_owned().into_any()),
            None => {}
        }
    }
    PyTuple::new(py, results)
}
