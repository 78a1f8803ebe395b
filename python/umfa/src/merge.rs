//! `merge`: attention over parts of the keys, joined by logsumexp, and its gradient.

use mfa::raw::lower::{self, Tensor};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::array::Array;
use crate::array::{same_shape, writable};
use crate::call::{Call, Mode, TensorArg, axes, place, place_rows, user_row_shape};
use crate::context::handle;
use crate::dtype::Dtype;
use crate::error;
use crate::options::{Layout, wrong_type};

/// The driver's name of each argument, and the caller's.
const NAMES: &[(&str, &str)] = &[
    ("output", "out"),
    ("grad_output", "grad_out"),
    ("outputs", "outs"),
];

/// The parts of a merge, read.
struct Parts<'py> {
    outs: Vec<Array<'py>>,
    logsumexps: Vec<Array<'py>>,
    layout: Layout,
    /// The shape of the outputs, and of the logsumexps.
    shape: Vec<usize>,
    rows: Vec<usize>,
}

fn list<'py>(object: &Bound<'py, PyAny>, name: &str) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let items = match object.is_instance_of::<PyString>() {
        true => None,
        false => object.try_iter().ok(),
    };
    match items {
        Some(items) => items.collect(),
        None => Err(wrong_type(object, name, "a list of arrays")),
    }
}

impl<'py> Parts<'py> {
    fn read(
        outs: &Bound<'py, PyAny>,
        logsumexps: &Bound<'py, PyAny>,
        layout: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Parts<'py>> {
        let layout = match &layout {
            Some(layout) => Layout::parse(layout)?,
            None => Layout::Bhnd,
        };
        let (objects, statistics) = (list(outs, "outs")?, list(logsumexps, "logsumexps")?);
        if objects.is_empty() || objects.len() != statistics.len() {
            return Err(error::argument(format!(
                "outs and logsumexps: {} and {} arrays, expected as many of both, at least one",
                objects.len(),
                statistics.len()
            )));
        }
        let mut parts = Parts {
            outs: Vec::with_capacity(objects.len()),
            logsumexps: Vec::with_capacity(objects.len()),
            layout,
            shape: Vec::new(),
            rows: Vec::new(),
        };
        for (index, (out, statistics)) in objects.iter().zip(&statistics).enumerate() {
            let name = format!("outs[{index}]");
            let allowed = match parts.outs.first() {
                Some(first) => first.view.dtype.results(),
                None => Dtype::OPERANDS,
            };
            let out = Array::read(out, &name, allowed)?;
            let placed = place(&out, &name, layout, false)?;
            if index == 0 {
                parts.shape = out.view.shape().to_vec();
                let [batch, heads, rows, _] = placed.shape;
                let sizes = [batch, heads, rows, 1];
                parts.rows = user_row_shape(sizes, out.view.rank, layout, false);
            }
            same_shape(&out, &name, &parts.shape)?;
            let exact = parts.exact(&out);
            let name = format!("logsumexps[{index}]");
            let statistics = Array::read(statistics, &name, &[exact])?;
            same_shape(&statistics, &name, &parts.rows)?;
            parts.outs.push(out);
            parts.logsumexps.push(statistics);
        }
        Ok(parts)
    }

    /// How numbers that are not rounded are stored beside these outputs.
    fn exact(&self, out: &Array<'_>) -> Dtype {
        self.outs.first().unwrap_or(out).view.dtype.exact()
    }

    fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The view of an array in the shape of the outputs.
    fn place(&self, array: &Array<'_>) -> TensorArg {
        let axes = axes(self.rank(), self.layout, false).unwrap_or([None; 4]);
        TensorArg::new(&array.view, axes)
    }

    /// The view of an array in the shape of the logsumexps.
    fn place_rows(&self, array: &Array<'_>) -> TensorArg {
        place_rows(&array.view, self.rank(), self.layout, false)
    }

    /// The descriptors of the outputs and of the logsumexps.
    fn tensors(&self, call: &mut Call<'_>) -> PyResult<[Vec<Tensor>; 2]> {
        let outs = (self.outs.iter()).map(|array| call.tensor(&self.place(array)));
        let outs = outs.collect::<PyResult<_>>()?;
        let rows = (self.logsumexps.iter()).map(|array| call.tensor(&self.place_rows(array)));
        Ok([outs, rows.collect::<PyResult<_>>()?])
    }

    fn is_empty(&self) -> bool {
        self.rows.contains(&0)
    }
}

/// Merges attention over parts of the keys, each with its own softmax, into attention over all of them.
///
/// L = ln sum exp(L_i) and O = sum exp(L_i - L) O_i, for outputs O_i and logsumexps L_i of `attention` with
/// `return_logsumexp=True`. A part of which L_i is -infinity adds nothing.
///
/// Args:
///     outs: outputs of one shape, in float32, float16 or bfloat16 (or all in float64).
///     logsumexps: their logsumexps, float32 (float64).
///     context: an `MFAContext`; None is the default context.
///     layout: that of the outputs, as in `attention`.
///     out: the array to write to; it may be one of outs.
///
/// Returns:
///     (out, logsumexp); out has the dtype of the first part.
///
/// Example:
///     >>> import numpy as np, umfa
///     >>> q, x = np.ones((1, 2, 3, 8), np.float32), np.ones((1, 2, 9, 8), np.float32)
///     >>> halves = [umfa.attention(q, h, h, return_logsumexp=True) for h in (x[:, :, :4], x[:, :, 4:])]
///     >>> out, logsumexp = umfa.merge(*zip(*halves))
///     >>> bool(np.allclose(out, umfa.attention(q, x, x)))
///     True
#[pyfunction]
#[pyo3(
    signature = (outs, logsumexps, context=None, *, layout=None, out=None),
    text_signature = "(outs, logsumexps, context=None, *, layout='BHND', out=None)"
)]
pub(crate) fn merge<'py>(
    py: Python<'py>,
    outs: &Bound<'py, PyAny>,
    logsumexps: &Bound<'py, PyAny>,
    context: Option<&Bound<'py, PyAny>>,
    layout: Option<Bound<'py, PyAny>>,
    out: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyTuple>> {
    let parts = Parts::read(outs, logsumexps, layout)?;
    let handle = handle(py, "context", context)?;
    let kind = parts.outs[0].kind.clone();
    let target = match &out {
        Some(out) => writable(out, "out", parts.outs[0].view.dtype.results(), &parts.shape)?,
        None => kind.new_array(py, &parts.shape, parts.outs[0].view.dtype)?,
    };
    let statistics = kind.new_array(py, &parts.rows, parts.outs[0].view.dtype.exact())?;
    if !parts.is_empty() {
        let mut call = Call::new(&handle, Mode::Run, NAMES.to_vec());
        let [outputs, logsumexps] = parts.tensors(&mut call)?;
        let merge = lower::Merge {
            outputs,
            logsumexps,
            output: call.tensor(&parts.place(&target))?,
            logsumexp: Some(call.tensor(&parts.place_rows(&statistics))?),
        };
        // SAFETY: the arrays of the call live until it ends.
        call.run(py, |context| unsafe { merge.run(context) })?;
    }
    let merged = match out {
        Some(out) => out,
        None => kind.finish(target.owner)?,
    };
    PyTuple::new(py, [merged, kind.finish(statistics.owner)?])
}

/// Gradients of `merge` with respect to its outputs and logsumexps, in float32 (of float64 outputs: float64).
///
/// Args:
///     grad_out: the gradient of the merged output.
///     outs, logsumexps: the arguments of `merge`.
///     grad_lse: the gradient of the merged logsumexp; None is 0.
///     context: an `MFAContext`; None is the default context.
///     layout: as in `merge`.
///
/// Returns:
///     (gradients of outs, gradients of logsumexps), two tuples.
#[pyfunction]
#[pyo3(
    signature = (grad_out, outs, logsumexps, grad_lse=None, context=None, *, layout=None),
    text_signature = "(grad_out, outs, logsumexps, grad_lse=None, context=None, *, layout='BHND')"
)]
pub(crate) fn merge_backward<'py>(
    py: Python<'py>,
    grad_out: &Bound<'py, PyAny>,
    outs: &Bound<'py, PyAny>,
    logsumexps: &Bound<'py, PyAny>,
    grad_lse: Option<Bound<'py, PyAny>>,
    context: Option<&Bound<'py, PyAny>>,
    layout: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyTuple>> {
    let parts = Parts::read(outs, logsumexps, layout)?;
    let exact = parts.outs[0].view.dtype.exact();
    let handle = handle(py, "context", context)?;
    let allowed = parts.outs[0].view.dtype.results();
    let grad_out = Array::read(grad_out, "grad_out", allowed)?;
    same_shape(&grad_out, "grad_out", &parts.shape)?;
    let grad_lse = match &grad_lse {
        None => None,
        Some(given) => {
            let array = Array::read(given, "grad_lse", &[exact])?;
            same_shape(&array, "grad_lse", &parts.rows)?;
            Some(array)
        }
    };
    let kind = parts.outs[0].kind.clone();
    let many = |shape: &[usize]| -> PyResult<Vec<Array<'py>>> {
        (parts.outs.iter())
            .map(|_| kind.new_array(py, shape, exact))
            .collect()
    };
    let (grad_outs, grad_rows) = (many(&parts.shape)?, many(&parts.rows)?);
    if !parts.is_empty() {
        let mut call = Call::new(&handle, Mode::Run, NAMES.to_vec());
        let [outputs, logsumexps] = parts.tensors(&mut call)?;
        let written = (grad_outs.iter()).map(|array| call.tensor(&parts.place(array)));
        let written = written.collect::<PyResult<Vec<_>>>()?;
        let rows = (grad_rows.iter()).map(|array| call.tensor(&parts.place_rows(array)));
        let rows = rows.collect::<PyResult<Vec<_>>>()?;
        let merge = lower::MergeBackward {
            outputs,
            logsumexps,
            grad_output: call.tensor(&parts.place(&grad_out))?,
            grad_logsumexp: match &grad_lse {
                Some(array) => Some(call.tensor(&parts.place_rows(array))?),
                None => None,
            },
            grad_outputs: written,
            grad_logsumexps: rows,
        };
        // SAFETY: the arrays of the call live until it ends.
        call.run(py, |context| unsafe { merge.run(context) })?;
    }
    let hand = |arrays: Vec<Array<'py>>| -> PyResult<Bound<'py, PyTuple>> {
        let done = (arrays.into_iter()).map(|array| kind.finish(array.owner));
        PyTuple::new(py, done.collect::<PyResult<Vec<_>>>()?)
    };
    PyTuple::new(py, [hand(grad_outs)?, hand(grad_rows)?])
}
