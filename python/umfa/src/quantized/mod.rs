//! `QuantizedTensor`: integers, scales, zero points and means, as arrays of the caller's library.

mod index;
mod methods;

use mfa::raw::lower::{BufferPart, Tensor};
use mfa::raw::sys;
use pyo3::prelude::*;

use crate::array::{Array, Kind};
use crate::call::{Call, TensorArg, axes};
use crate::dtype::Dtype;
use crate::error;
use crate::options::{GRANULARITIES, Layout, name_of};
use crate::scheme::{Scheme, mean_shape, stored_dtype, user_shape_like};
use crate::view::{View, shape_text};

pub(crate) use methods::{in_range, parameter};

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
        let parts = tensor.arrays(py, "data")?;
        let shape = tensor.check(&parts)?;
        drop(parts);
        Ok(QuantizedTensor { shape, ..tensor })
    }

    /// The tensor's shape, after a look at whether the arrays fit together.
    fn check(&self, parts: &Parts<'_>) -> PyResult<Vec<usize>> {
        let mut shape = parts.data.view.shape().to_vec();
        let Some(axes) = axes(shape.len(), self.layout, false) else {
            return Err(error::dimensions(format!(
                "data: shape {}, expected rank 2, 3 or 4",
                shape_text(&shape)
            )));
        };
        if self.scheme.precision == sys::MFA_PRECISION_INT4
            && let Some(columns) = shape.last_mut()
        {
            *columns *= 2;
        }
        let full = axes.map(|axis| axis.map_or(1, |axis| shape[axis] as u64));
        let sizes = self.scheme.scale_sizes(full);
        let whole = self.scheme.granularity == sys::MFA_GRANULARITY_TENSOR;
        let expected = match whole {
            true => Vec::new(),
            false => user_shape_like(shape.len(), axes, sizes),
        };
        let fits = |name: &str, view: &View| {
            if (whole && view.len() == 1) || view.shape() == expected {
                return Ok(());
            }
            Err(error::dimensions(format!(
                "{name}: shape {}, expected {} for a tensor of shape {} with granularity \"{}\"",
                shape_text(view.shape()),
                shape_text(&expected),
                shape_text(&shape),
                name_of(self.scheme.granularity, GRANULARITIES)
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
        Ok(shape)
    }

    /// Reads the arrays in place, and checks them again: they are the caller's, who may have given them other shapes since
    /// the tensor was made.
    pub(crate) fn read<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Parts<'py>> {
        let parts = self.arrays(py, name)?;
        let found = self.check(&parts)?;
        if found != self.shape {
            return Err(error::dimensions(format!(
                "{name}: the data of a QuantizedTensor has been reshaped to {}, expected {} as when it was made",
                shape_text(&found),
                shape_text(&self.shape)
            )));
        }
        Ok(parts)
    }

    fn arrays<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Parts<'py>> {
        let stored = stored_dtype(self.scheme.precision);
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

    /// The integers, in the contract's order of axes.
    pub(crate) fn placed(&self, parts: &Parts<'_>, varlen: bool) -> TensorArg {
        let axes = axes(self.shape.len(), self.layout, varlen).unwrap_or([None; 4]);
        let placed = TensorArg::new(&parts.data.view, axes);
        match self.scheme.precision {
            sys::MFA_PRECISION_INT4 => placed.packed_int4(),
            precision => TensorArg {
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
    ) -> PyResult<Tensor> {
        let mut quantization = self.scheme.describe();
        let axes = axes(self.shape.len(), self.layout, varlen).unwrap_or([None; 4]);
        // The scales have the tensor's axes, so they are placed alike; one scale has no axes at all.
        let per_group = self.scheme.granularity != sys::MFA_GRANULARITY_TENSOR;
        let scales = TensorArg::new(&parts.scale.view, if per_group { axes } else { [None; 4] });
        quantization.scales = BufferPart::whole(call.wrap(scales.data, scales.bytes)?);
        quantization.scale_precision = scales.precision;
        quantization.scale_strides = scales.strides;
        if let Some(zero_point) = &parts.zero_point {
            let placed = TensorArg::new(&zero_point.view, if per_group { axes } else { [None; 4] });
            if per_group && !same_strides(&placed, &scales) {
                return Err(error::dimensions(
                    "zero_point: strides other than those of scale, expected the same".into(),
                ));
            }
            quantization.zero_points = BufferPart::whole(call.wrap(placed.data, placed.bytes)?);
            quantization.zero_point_bytes = zero_point.view.dtype.size() as u32;
        }
        if let Some(mean) = &parts.mean {
            quantization.mean = BufferPart::whole(call.wrap(mean.view.data, mean.view.extent())?);
        }
        let placed = self.placed(parts, varlen);
        Ok(call.tensor(&placed)?.quantized(&quantization))
    }

    fn kind<'py>(&self, py: Python<'py>) -> PyResult<Kind<'py>> {
        Ok(self.read(py, "data")?.data.kind)
    }
}

fn same_strides(a: &TensorArg, b: &TensorArg) -> bool {
    (0..4).all(|axis| a.shape[axis] <= 1 || a.strides[axis] == b.strides[axis])
}
