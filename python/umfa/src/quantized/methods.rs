//! The Python methods of a quantized tensor.

use std::ops::RangeInclusive;

use mfa::raw::lower;
use mfa::raw::sys;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyInt, PyNone, PyTuple};

use super::index::repeated;
use super::{QuantizedTensor, Recipe};
use crate::array::writable;
use crate::array::{Array, shape_tuple};
use crate::call::{Call, Mode, TensorArg};
use crate::context::handle;
use crate::dtype::Dtype;
use crate::options::{
    self, DEFAULT_BLOCK_ROWS, GRANULARITIES, Layout, PRECISIONS, block_rows, group, name_of, named,
};
use crate::scheme::Scheme;
use crate::torch::Torch;
use crate::view::{contiguous, shape_text};

fn optional<'py>(value: Option<Bound<'py, PyAny>>) -> Option<Bound<'py, PyAny>> {
    value.filter(|value| !value.is_none())
}

/// A scale or zero point: Python numbers become arrays of the data's library.
pub(crate) fn parameter<'py>(
    value: Bound<'py, PyAny>,
    like: &Bound<'py, PyAny>,
    dtype: Dtype,
) -> PyResult<Bound<'py, PyAny>> {
    let py = value.py();
    if !value.is_instance_of::<PyFloat>() && !value.is_instance_of::<PyInt>() {
        return Ok(value);
    }
    if Dtype::FLOATS.contains(&dtype) {
        options::scale(&value)?;
    }
    let module = match Torch::loaded(py)? {
        Some(torch) if like.is_instance(torch.tensor_type(py))? => py.import("torch")?,
        _ => py.import("numpy")?,
    };
    let keywords = PyDict::new(py);
    keywords.set_item("dtype", module.getattr(dtype.name())?)?;
    module.call_method("asarray", (value,), Some(&keywords))
}

/// Refuses zero points that no stored integer can be: int32 is only how they are stored.
pub(crate) fn in_range(zero_point: &Bound<'_, PyAny>, precision: i32) -> PyResult<()> {
    let array = Array::read(zero_point, "zero_point", &[Dtype::Int8, Dtype::Int32])?;
    let (least, most) = match precision {
        sys::MFA_PRECISION_INT4 => (-8, 7),
        _ => (-128, 127),
    };
    if array.view.len() == 0 {
        return Ok(());
    }
    let range = least..=most;
    let (mut runs, n) = array.view.runs();
    // SAFETY: runs of elements of the array, of this type and aligned.
    let found = runs.find_map(|run| unsafe {
        if array.view.dtype == Dtype::Int32 {
            outside(std::slice::from_raw_parts(run.cast::<i32>(), n), &range)
        } else {
            outside(std::slice::from_raw_parts(run.cast::<i8>(), n), &range)
        }
    });
    match found {
        None => Ok(()),
        Some(zero) => Err(crate::error::argument(format!(
            "zero_point: {zero}, expected {least} to {most} for \"{}\", however zero points are stored",
            name_of(precision, PRECISIONS)
        ))),
    }
}

/// The first number outside of a range. All are looked at before it is searched for, in a loop that becomes vectors.
fn outside<T: Copy + Into<i32>>(numbers: &[T], range: &RangeInclusive<i32>) -> Option<i32> {
    let (least, most) = (*range.start(), *range.end());
    let is_inside = |x: &T| (least <= (*x).into()) & ((*x).into() <= most);
    if numbers.iter().fold(true, |all, x| all & is_inside(x)) {
        return None;
    }
    let wrong = numbers.iter().find(|x| !is_inside(x));
    wrong.map(|x| (*x).into())
}

#[pymethods]
impl QuantizedTensor {
    #[new]
    #[pyo3(
        signature = (data, scale, zero_point=None, mean=None, precision=None, granularity=None, block_rows=None,
                     group=None, rotated=false, shape=None, layout=None, error=None),
        text_signature = "(data, scale, zero_point=None, mean=None, precision='int8', granularity='tensor', \
block_rows=64, group=None, rotated=False, shape=None, layout='BHND', error=None)"
    )]
    #[allow(clippy::too_many_arguments)]
    fn new<'py>(
        py: Python<'py>,
        data: Bound<'py, PyAny>,
        scale: Bound<'py, PyAny>,
        zero_point: Option<Bound<'py, PyAny>>,
        mean: Option<Bound<'py, PyAny>>,
        precision: Option<Bound<'py, PyAny>>,
        granularity: Option<Bound<'py, PyAny>>,
        block_rows: Option<Bound<'py, PyAny>>,
        group: Option<Bound<'py, PyAny>>,
        rotated: bool,
        shape: Option<Vec<usize>>,
        layout: Option<Bound<'py, PyAny>>,
        error: Option<Bound<'py, PyAny>>,
    ) -> PyResult<QuantizedTensor> {
        let precision = match &precision {
            Some(value) => named(value, "precision", PRECISIONS)?,
            None => sys::MFA_PRECISION_INT8,
        };
        let granularity = match &granularity {
            Some(value) => named(value, "granularity", GRANULARITIES)?,
            None => sys::MFA_GRANULARITY_TENSOR,
        };
        let block_rows = match &block_rows {
            Some(value) => self::block_rows(value, "block_rows")?,
            None => DEFAULT_BLOCK_ROWS,
        };
        let group = match &group {
            Some(value) => self::group(value, "group")?,
            None => 0,
        };
        let layout = match &layout {
            Some(value) => Layout::parse(value)?,
            None => Layout::Bhnd,
        };
        let zero_point = optional(zero_point)
            .map(|value| parameter(value, &data, Dtype::Int32))
            .transpose()?;
        if let Some(zero_point) = &zero_point {
            in_range(zero_point, precision)?;
        }
        let tensor = QuantizedTensor::assemble(
            py,
            Recipe {
                scale: parameter(scale, &data, Dtype::Float32)?,
                zero_point,
                mean: optional(mean).map(|mean| contiguous(&mean)).transpose()?,
                error: optional(error),
                scheme: Scheme::new(precision, granularity, block_rows, group, rotated)?,
                layout,
                data,
            },
        )?;
        if let Some(shape) = shape
            && shape != tensor.shape
        {
            return Err(crate::error::dimensions(format!(
                "shape: {}, expected {} by the data",
                shape_text(&shape),
                shape_text(&tensor.shape)
            )));
        }
        Ok(tensor)
    }

    /// The tensor's shape: that of `data`, with all columns.
    #[getter(shape)]
    fn shape_py<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        shape_tuple(py, &self.shape)
    }

    /// The rank.
    #[getter]
    fn ndim(&self) -> usize {
        self.shape.len()
    }

    /// "int8" or "int4".
    #[getter]
    fn precision(&self) -> &'static str {
        name_of(self.scheme.precision, PRECISIONS)
    }

    /// What shares a scale: "tensor", "row", "block" or "channel".
    #[getter]
    fn granularity(&self) -> &'static str {
        name_of(self.scheme.granularity, GRANULARITIES)
    }

    /// Rows that share a scale, for "block" and "channel"; otherwise None.
    #[getter]
    fn block_rows(&self) -> Option<u32> {
        Some(self.scheme.block_rows).filter(|rows| *rows != 0)
    }

    /// Columns that share a scale, for "row"; None: the whole row.
    #[getter]
    fn group(&self) -> Option<u32> {
        Some(self.scheme.group).filter(|columns| *columns != 0)
    }

    /// Whether all zero points are 0.
    #[getter]
    fn symmetric(&self) -> bool {
        self.zero_point.is_none()
    }

    /// Whether rows were multiplied by the Hadamard matrix before rounding.
    #[getter]
    fn rotated(&self) -> bool {
        self.scheme.rotated
    }

    /// The order of the axes: "BHND" or "BNHD".
    #[getter(layout)]
    fn layout_py(&self) -> &'static str {
        self.layout.name()
    }

    /// Bytes of all arrays together.
    #[getter]
    fn nbytes(&self, py: Python<'_>) -> PyResult<usize> {
        let parts = self.read(py, "data")?;
        let bytes = |array: &Array<'_>| array.view.len() * array.view.dtype.size();
        Ok(bytes(&parts.data)
            + bytes(&parts.scale)
            + parts.zero_point.as_ref().map_or(0, bytes)
            + parts.mean.as_ref().map_or(0, bytes))
    }

    /// The real values, as a new array (or written to `out`).
    #[pyo3(signature = (dtype=None, *, out=None, context=None), text_signature = "($self, dtype='float32', *, out=None, context=None)")]
    fn dequantize<'py>(
        &self,
        py: Python<'py>,
        dtype: Option<Bound<'py, PyAny>>,
        out: Option<Bound<'py, PyAny>>,
        context: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let dtype = match dtype {
            None => Dtype::Float32,
            Some(given) => Dtype::parse(&given, Dtype::FLOATS)?,
        };
        let handle = handle(py, "context", context)?;
        let parts = self.read(py, "data")?;
        let kind = self.kind(py)?;
        let given = out.is_some();
        let out = match out {
            Some(out) => out,
            None => kind.empty(py, &self.shape, dtype)?,
        };
        let target = writable(&out, "out", Dtype::FLOATS, &self.shape)?;
        let destination = TensorArg::new(&target.view, self.axes());
        if destination.overlaps(&self.placed(&parts, false)) {
            return Err(crate::error::argument(
                "out: memory shared with data, expected other memory".into(),
            ));
        }
        let mut call = Call::new(
            &handle,
            Mode::Run,
            vec![("source", "data"), ("destination", "out")],
        );
        let source = self.tensor(&mut call, &parts, false)?;
        let destination = call.tensor(&destination)?;
        let dequantize = lower::Dequantize {
            source,
            destination,
        };
        // SAFETY: both tensors live until the call ends.
        call.run(py, |context| unsafe { dequantize.run(context) })?;
        if given { Ok(out) } else { kind.finish(out) }
    }

    /// Some batches, heads or rows: slices without steps are views; one array of integers, or of True and False, is a copy.
    ///
    /// Rows of granularities "block" and "channel" begin at multiples of the block, and are taken by whole blocks.
    fn __getitem__(&self, py: Python<'_>, index: Bound<'_, PyAny>) -> PyResult<QuantizedTensor> {
        self.index(py, &index)
    }

    /// A copy in which each position of an axis is repeated, as `numpy.repeat` does: beams of one cache, for example.
    ///
    /// Args:
    ///     repeats: a number, or one for each position.
    ///     axis: batch, heads or rows, as counted in `shape`.
    fn repeat(
        &self,
        py: Python<'_>,
        repeats: &Bound<'_, PyAny>,
        axis: isize,
    ) -> PyResult<QuantizedTensor> {
        self.read(py, "data")?;
        let axis = self.axis(axis)?;
        self.take(py, axis, &repeated(repeats, self.shape[axis])?)
    }

    /// Refuses to be an array of integers without their scales.
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn __array__(
        &self,
        _arguments: &Bound<'_, PyTuple>,
        _keywords: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<PyAny>> {
        Err(crate::error::dtype(
            "a QuantizedTensor is no array, expected one: .dequantize() makes it of real values, .data has the integers"
                .into(),
        ))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let py = slf.py();
        let this = slf.get();
        let none = || PyNone::get(py).to_owned().into_any();
        let optional = |object: &Option<Py<PyAny>>| match object {
            Some(object) => object.bind(py).clone(),
            None => none(),
        };
        let arguments = (
            this.data.bind(py),
            this.scale.bind(py),
            optional(&this.zero_point),
            optional(&this.mean),
            this.precision(),
            this.granularity(),
            this.block_rows(),
            this.group(),
            this.scheme.rotated,
            shape_tuple(py, &this.shape)?,
            this.layout.name(),
            optional(&this.error),
        );
        (slf.get_type(), arguments).into_pyobject(py)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let mut text = format!(
            "QuantizedTensor(shape={}, precision='{}', granularity='{}'",
            shape_text(&self.shape),
            self.precision(),
            self.granularity()
        );
        if let Some(rows) = self.block_rows() {
            text += &format!(", block_rows={rows}");
        }
        if let Some(columns) = self.group() {
            text += &format!(", group={columns}");
        }
        for (name, on) in [
            ("symmetric=False", !self.symmetric()),
            ("smoothed=True", self.mean.is_some()),
            ("rotated=True", self.rotated()),
        ] {
            if on {
                text += &format!(", {name}");
            }
        }
        if self.layout != Layout::Bhnd {
            text += &format!(", layout='{}'", self.layout.name());
        }
        text += &format!(", nbytes={}", self.nbytes(py)?);
        if let Some(error) = &self.error {
            let relative: f64 = error.bind(py).getattr("relative_rmse")?.extract()?;
            text += &format!(", relative_rmse={relative:.3e}");
        }
        Ok(text + ")")
    }
}
