//! `QuantizedTensor`: integers, scales, zero points and means, as arrays of the caller's library.

use mfa::raw::sys;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyEllipsis, PyFloat, PyInt, PyNone, PySlice, PyTuple};

use crate::array::{Array, Kind, View, contiguous, shape_text, shape_tuple};
use crate::call::{Call, Placed, axes};
use crate::dtype::Dtype;
use crate::error;
use crate::options::{
    self, DEFAULT_BLOCK_ROWS, GRANULARITIES, Layout, PRECISIONS, block_rows, group, name_of, named,
};
use crate::torch::Torch;

/// The parts of a quantization that are not arrays.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scheme {
    pub(crate) precision: i32,
    pub(crate) granularity: i32,
    /// BLOCK and CHANNEL; otherwise 0.
    pub(crate) block_rows: u32,
    /// ROW: 0 is the whole row; otherwise 0.
    pub(crate) group: u32,
    pub(crate) rotated: bool,
}

impl Scheme {
    /// Drops `block_rows` where the granularity has no use for it, and refuses a `group` that it has no use for.
    pub(crate) fn new(
        precision: i32,
        granularity: i32,
        block_rows: u32,
        group: u32,
        rotated: bool,
    ) -> PyResult<Scheme> {
        let blocks = matches!(
            granularity,
            sys::MFA_GRANULARITY_BLOCK | sys::MFA_GRANULARITY_CHANNEL
        );
        if group != 0 && granularity != sys::MFA_GRANULARITY_ROW {
            return Err(error::argument(format!(
                "group: {group} with granularity \"{}\", expected granularity \"row\" or group None",
                name_of(granularity, GRANULARITIES)
            )));
        }
        Ok(Scheme {
            precision,
            granularity,
            block_rows: if blocks { block_rows } else { 0 },
            group,
            rotated,
        })
    }

    /// The sizes of the array of scales for a tensor of sizes [batch, heads, rows, columns].
    pub(crate) fn scale_sizes(&self, [batch, heads, rows, columns]: [u64; 4]) -> [u64; 4] {
        let blocks = rows.div_ceil(u64::from(self.block_rows.max(1)));
        match self.granularity {
            sys::MFA_GRANULARITY_ROW if self.group == 0 => [batch, heads, rows, 1],
            sys::MFA_GRANULARITY_ROW => {
                [batch, heads, rows, columns.div_ceil(u64::from(self.group))]
            }
            sys::MFA_GRANULARITY_BLOCK => [batch, heads, blocks, 1],
            sys::MFA_GRANULARITY_CHANNEL => [batch, heads, blocks, columns],
            _ => [1; 4],
        }
    }

    /// The fields of the contract's structure that are not arrays.
    pub(crate) fn describe(&self) -> sys::mfa_quantization {
        sys::mfa_quantization {
            granularity: self.granularity,
            block_rows: self.block_rows,
            group_size: self.group,
            rotated: u32::from(self.rotated),
            ..sys::mfa_quantization::new()
        }
    }
}

/// A tensor stored as integers: ``real = scale * (data - zero_point)``, then rotated, then ``+ mean``.
#[pyclass(frozen, module = "umfa", name = "QuantizedTensor", weakref)]
pub(crate) struct QuantizedTensor {
    /// int8 in the tensor's shape, or uint8 with two INT4 in each byte and half the columns.
    #[pyo3(get)]
    data: Py<PyAny>,
    /// float32 or float16, one per group, with the tensor's axes; without axes for granularity "tensor".
    #[pyo3(get)]
    scale: Py<PyAny>,
    /// int8 or int32 in the shape of `scale`; None for symmetric quantization.
    #[pyo3(get)]
    zero_point: Option<Py<PyAny>>,
    /// float32 mean over the rows of each column, in the tensor's shape without the rows; None without smoothing.
    #[pyo3(get)]
    mean: Option<Py<PyAny>>,
    /// What rounding did to the source, if the tensor was made by `quantize`.
    #[pyo3(get)]
    error: Option<Py<PyAny>>,
    scheme: Scheme,
    layout: Layout,
    shape: Vec<usize>,
}

/// The arrays of a tensor, read for one call.
pub(crate) struct Parts<'py> {
    pub(crate) data: Array<'py>,
    scale: Array<'py>,
    zero_point: Option<Array<'py>>,
    mean: Option<Array<'py>>,
}

/// Arrays and settings from which a tensor is made.
pub(crate) struct Recipe<'py> {
    pub(crate) data: Bound<'py, PyAny>,
    pub(crate) scale: Bound<'py, PyAny>,
    pub(crate) zero_point: Option<Bound<'py, PyAny>>,
    pub(crate) mean: Option<Bound<'py, PyAny>>,
    pub(crate) error: Option<Bound<'py, PyAny>>,
    pub(crate) scheme: Scheme,
    pub(crate) layout: Layout,
}

const SCALES: &[Dtype] = &[Dtype::Float32, Dtype::Float16];
const ZERO_POINTS: &[Dtype] = &[Dtype::Int8, Dtype::Int32];

impl QuantizedTensor {
    /// Makes a tensor after checking that the arrays fit together.
    pub(crate) fn assemble(py: Python<'_>, recipe: Recipe<'_>) -> PyResult<QuantizedTensor> {
        let tensor = QuantizedTensor {
            data: recipe.data.unbind(),
            scale: recipe.scale.unbind(),
            zero_point: recipe.zero_point.map(Bound::unbind),
            mean: recipe.mean.map(Bound::unbind),
            error: recipe.error.map(Bound::unbind),
            scheme: recipe.scheme,
            layout: recipe.layout,
            shape: Vec::new(),
        };
        let parts = tensor.read(py, "data")?;
        let mut shape = parts.data.view.shape().to_vec();
        let Some(axes) = axes(shape.len(), tensor.layout, false) else {
            return Err(error::dimensions(format!(
                "data: shape {}, expected rank 2, 3 or 4",
                shape_text(&shape)
            )));
        };
        if tensor.scheme.precision == sys::MFA_PRECISION_INT4
            && let Some(columns) = shape.last_mut()
        {
            *columns *= 2;
        }
        let full = axes.map(|axis| axis.map_or(1, |axis| shape[axis] as u64));
        let sizes = tensor.scheme.scale_sizes(full);
        let expected: Vec<usize> = match tensor.scheme.granularity {
            sys::MFA_GRANULARITY_TENSOR => Vec::new(),
            _ => displayed_like(shape.len(), axes, sizes),
        };
        let fits = |name: &str, view: &View| {
            let whole = tensor.scheme.granularity == sys::MFA_GRANULARITY_TENSOR && view.len() == 1;
            if whole || view.shape() == expected {
                return Ok(());
            }
            Err(error::dimensions(format!(
                "{name}: shape {}, expected {} for a tensor of shape {} with granularity \"{}\"",
                shape_text(view.shape()),
                shape_text(&expected),
                shape_text(&shape),
                name_of(tensor.scheme.granularity, GRANULARITIES)
            )))
        };
        fits("scale", &parts.scale.view)?;
        if let Some(zero_point) = &parts.zero_point {
            fits("zero_point", &zero_point.view)?;
        }
        if let Some(mean) = &parts.mean {
            let expected = mean_shape(&shape, axes);
            if mean.view.shape() != expected {
                return Err(error::dimensions(format!(
                    "mean: shape {}, expected {} for a tensor of shape {}",
                    shape_text(mean.view.shape()),
                    shape_text(&expected),
                    shape_text(&shape)
                )));
            }
            if !mean.view.is_contiguous() {
                return Err(error::dimensions(
                    "mean: strided memory, expected C order; numpy.ascontiguousarray makes a copy"
                        .into(),
                ));
            }
        }
        drop(parts);
        Ok(QuantizedTensor { shape, ..tensor })
    }

    /// Reads the arrays in place.
    pub(crate) fn read<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Parts<'py>> {
        let stored = match self.scheme.precision {
            sys::MFA_PRECISION_INT4 => Dtype::UInt8,
            _ => Dtype::Int8,
        };
        let optional = |object: &Option<Py<PyAny>>, name, allowed| match object {
            Some(object) => Array::read(object.bind(py), name, allowed).map(Some),
            None => Ok(None),
        };
        Ok(Parts {
            data: Array::read(self.data.bind(py), name, &[stored])?,
            scale: Array::read(self.scale.bind(py), "scale", SCALES)?,
            zero_point: optional(&self.zero_point, "zero_point", ZERO_POINTS)?,
            mean: optional(&self.mean, "mean", &[Dtype::Float32])?,
        })
    }

    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub(crate) fn is_symmetric(&self) -> bool {
        self.zero_point.is_none()
    }

    pub(crate) fn is_smoothed(&self) -> bool {
        self.mean.is_some()
    }

    /// Refuses to write to arrays that are read-only; `scales`: they are written too.
    pub(crate) fn check_writable(&self, py: Python<'_>, scales: bool) -> PyResult<()> {
        let parts = self.read(py, "data")?;
        let written = [
            ("data", Some(&parts.data), true),
            ("scale", Some(&parts.scale), scales),
            ("zero_point", parts.zero_point.as_ref(), scales),
        ];
        for (name, array, written) in written {
            if written && array.is_some_and(|array| array.view.readonly) {
                return Err(error::argument(format!(
                    "out.{name}: a read-only array, expected one that can be written"
                )));
            }
        }
        Ok(())
    }

    fn axes(&self) -> [Option<usize>; 4] {
        axes(self.shape.len(), self.layout, false).unwrap_or([None; 4])
    }

    /// Where the integers lie.
    pub(crate) fn placed(&self, parts: &Parts<'_>, varlen: bool) -> Placed {
        let axes = axes(self.shape.len(), self.layout, varlen).unwrap_or([None; 4]);
        let placed = Placed::new(&parts.data.view, axes);
        match self.scheme.precision {
            sys::MFA_PRECISION_INT4 => placed.packed_int4(),
            precision => Placed {
                precision,
                ..placed
            },
        }
    }

    /// The tensor for a call, over the memory of its arrays.
    pub(crate) fn tensor(
        &self,
        call: &mut Call<'_>,
        parts: &Parts<'_>,
        varlen: bool,
    ) -> PyResult<sys::mfa_tensor> {
        let mut quantization = self.scheme.describe();
        let axes = axes(self.shape.len(), self.layout, varlen).unwrap_or([None; 4]);
        // The scales have the tensor's axes, so they are placed alike; one scale has no axes at all.
        let per_group = self.scheme.granularity != sys::MFA_GRANULARITY_TENSOR;
        let scales = Placed::new(&parts.scale.view, if per_group { axes } else { [None; 4] });
        quantization.scale_buffer = call.wrap(scales.data, scales.bytes)?;
        quantization.scale_precision = scales.precision;
        quantization.scale_strides = scales.strides;
        if let Some(zero_point) = &parts.zero_point {
            let placed = Placed::new(&zero_point.view, if per_group { axes } else { [None; 4] });
            if per_group && !same_strides(&placed, &scales) {
                return Err(error::dimensions(
                    "zero_point: strides other than those of scale, expected the same".into(),
                ));
            }
            quantization.zero_point_buffer = call.wrap(placed.data, placed.bytes)?;
            quantization.zero_point_bytes = zero_point.view.dtype.size() as u32;
        }
        if let Some(mean) = &parts.mean {
            quantization.mean_buffer = call.wrap(mean.view.data, mean.view.extent())?;
        }
        let placed = self.placed(parts, varlen);
        let quantization = call.keep(quantization);
        Ok(sys::mfa_tensor {
            quantization,
            ..call.tensor(&placed)?
        })
    }

    fn kind<'py>(&self, py: Python<'py>) -> PyResult<Kind<'py>> {
        Ok(self.read(py, "data")?.data.kind)
    }
}

fn same_strides(a: &Placed, b: &Placed) -> bool {
    (0..4).all(|axis| a.shape[axis] <= 1 || a.strides[axis] == b.strides[axis])
}

/// The shape of an array of `sizes` whose axes lie where `axes` says.
pub(crate) fn displayed_like(rank: usize, axes: [Option<usize>; 4], sizes: [u64; 4]) -> Vec<usize> {
    let mut shape = vec![0; rank];
    for (axis, size) in axes.into_iter().zip(sizes) {
        if let Some(axis) = axis {
            shape[axis] = size as usize;
        }
    }
    shape
}

/// The tensor's shape without its rows: [batch, heads, columns].
pub(crate) fn mean_shape(shape: &[usize], axes: [Option<usize>; 4]) -> Vec<usize> {
    [axes[0], axes[1], axes[3]]
        .into_iter()
        .flatten()
        .map(|axis| shape[axis])
        .collect()
}

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
    #[pyo3(signature = (dtype="float32", *, out=None, context=None))]
    fn dequantize<'py>(
        &self,
        py: Python<'py>,
        dtype: &str,
        out: Option<Bound<'py, PyAny>>,
        context: Option<&Bound<'py, crate::context::Context>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Some(dtype) = Dtype::from_name(dtype).filter(|dtype| Dtype::FLOATS.contains(dtype))
        else {
            return Err(crate::error::argument(format!(
                "dtype: \"{dtype}\", expected {}",
                crate::dtype::list(Dtype::FLOATS)
            )));
        };
        let handle = crate::context::handle(py, context)?;
        let parts = self.read(py, "data")?;
        let kind = self.kind(py)?;
        let given = out.is_some();
        let out = match out {
            Some(out) => out,
            None => kind.empty(py, &self.shape, dtype)?,
        };
        let target = crate::prepare::writable(&out, "out", Dtype::FLOATS, &self.shape)?;
        let destination = Placed::new(&target.view, self.axes());
        if destination.overlaps(&self.placed(&parts, false)) {
            return Err(crate::error::argument(
                "out: memory shared with data, expected other memory".into(),
            ));
        }
        let mut call = Call::new(&handle);
        let source = self.tensor(&mut call, &parts, false)?;
        let destination = call.tensor(&destination)?;
        call.run(py, |api, raw| {
            // SAFETY: both tensors and what they point to live until the call ends.
            unsafe { (api.mfa_dequantize)(raw, &raw const source, &raw const destination) }
        })?;
        if given { Ok(out) } else { kind.finish(out) }
    }

    /// A view of some batches, heads or rows: slices without steps; rows at multiples of the block.
    fn __getitem__<'py>(
        &self,
        py: Python<'py>,
        index: Bound<'py, PyAny>,
    ) -> PyResult<QuantizedTensor> {
        let ranges = self.ranges(py, &index)?;
        let axes = self.axes();
        let cut = |object: &Py<PyAny>, ranges: &[Option<(usize, usize)>]| {
            let slices: Vec<Bound<'py, PySlice>> = ranges
                .iter()
                .map(|range| match range {
                    Some((start, stop)) => PySlice::new(py, *start as isize, *stop as isize, 1),
                    None => PySlice::full(py),
                })
                .collect();
            object.bind(py).get_item(PyTuple::new(py, slices)?)
        };
        let columns = ranges.len() - 1;
        let mut groups = ranges.clone();
        if let Some(rows) = axes[2]
            && self.scheme.block_rows > 0
            && let Some((start, stop)) = groups[rows]
        {
            let block = self.scheme.block_rows as usize;
            if start % block != 0 {
                return Err(crate::error::argument(format!(
                    "a slice of rows that starts at {start}, expected a multiple of the {block} rows of a block"
                )));
            }
            groups[rows] = Some((start / block, stop.div_ceil(block)));
        }
        let mut means = ranges.clone();
        if let Some(rows) = axes[2] {
            means.remove(rows);
        }
        let scale = |object: &Py<PyAny>| match self.scheme.granularity {
            sys::MFA_GRANULARITY_TENSOR => Ok(object.bind(py).clone()),
            _ => cut(object, &groups),
        };
        QuantizedTensor::assemble(
            py,
            Recipe {
                data: cut(&self.data, &ranges[..columns])?,
                scale: scale(&self.scale)?,
                zero_point: self.zero_point.as_ref().map(scale).transpose()?,
                mean: self
                    .mean
                    .as_ref()
                    .map(|mean| contiguous(&cut(mean, &means)?))
                    .transpose()?,
                error: None,
                scheme: self.scheme,
                layout: self.layout,
            },
        )
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

impl QuantizedTensor {
    /// The range of each axis that an index takes; None is all of it.
    fn ranges(
        &self,
        py: Python<'_>,
        index: &Bound<'_, PyAny>,
    ) -> PyResult<Vec<Option<(usize, usize)>>> {
        let items: Vec<Bound<'_, PyAny>> = match index.cast::<PyTuple>() {
            Ok(tuple) => tuple.iter().collect(),
            Err(_) => vec![index.clone()],
        };
        let rank = self.shape.len();
        let is_ellipsis = |item: &Bound<'_, PyAny>| item.is(PyEllipsis::get(py));
        let ellipses = items.iter().filter(|item| is_ellipsis(item)).count();
        let given = items.len() - ellipses;
        if ellipses > 1 || given > rank {
            return Err(crate::error::argument(format!(
                "an index of {} items, expected at most {rank} slices and one ellipsis",
                items.len()
            )));
        }
        let mut ranges = Vec::with_capacity(rank);
        for item in &items {
            if is_ellipsis(item) {
                ranges.resize(ranges.len() + rank - given, None);
                continue;
            }
            let axis = ranges.len();
            let Ok(slice) = item.cast::<PySlice>() else {
                return Err(PyTypeError::new_err(format!(
                    "index {} in dimension {axis}: expected a slice; integers would drop the dimension",
                    item.repr()?
                )));
            };
            let size = self.shape[axis];
            let found = slice.indices(size as isize)?;
            if found.step != 1 {
                return Err(crate::error::argument(format!(
                    "a slice with step {} in dimension {axis}, expected step 1",
                    found.step
                )));
            }
            let start = found.start.max(0) as usize;
            let stop = found.stop.max(found.start) as usize;
            ranges.push((start > 0 || stop < size).then_some((start, stop)));
        }
        ranges.resize(rank, None);
        if ranges[rank - 1].is_some() {
            return Err(crate::error::argument(
                "a slice of columns, expected all columns: they share scales".into(),
            ));
        }
        Ok(ranges)
    }
}

/// The element type of the integers of a precision.
pub(crate) fn stored_dtype(precision: i32) -> Dtype {
    match precision {
        sys::MFA_PRECISION_INT4 => Dtype::UInt8,
        _ => Dtype::Int8,
    }
}
