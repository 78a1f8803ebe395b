//! `quantize`: from a float array to a `QuantizedTensor`.

use mfa::raw::{lower, sys};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::array::{Array, Kind};
use crate::call::{Call, Mode, TensorArg, axes};
use crate::context::handle;
use crate::dtype::Dtype;
use crate::error;
use crate::options::{
    self, DEFAULT_BLOCK_ROWS, GRANULARITIES, Layout, PRECISIONS, SCALE_DTYPES, ZERO_POINT_DTYPES,
    boolean, named,
};
use crate::quantized::{QuantizedTensor, Recipe, in_range, parameter};
use crate::scheme::{Scheme, mean_shape, stored_dtype, user_shape_like};
use crate::view::{contiguous, shape_text};

/// The Python class of `QuantizedTensor.error`.
fn error_object<'py>(
    py: Python<'py>,
    error: &sys::mfa_quantization_error,
) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let class = CLASS.get_or_try_init(py, || {
        PyResult::Ok(
            py.import("umfa._types")?
                .getattr("QuantizationError")?
                .unbind(),
        )
    })?;
    class.bind(py).call1((
        error.rmse,
        error.relative_rmse,
        error.max_abs,
        error.worst_row_rmse,
    ))
}

/// Rounds a float array to INT8 or INT4.
///
/// Each group of elements that share a scale becomes `data = round(x / scale) + zero_point`. Symmetric: scale is
/// max|x| / 127 (INT4: / 7) and the zero point 0. Asymmetric: scale is (max - min) / 255 (INT4: / 15) over a range that
/// includes 0.
///
/// Args:
///     x: (..., rows, columns) of rank 2, 3 or 4, in float32, float16 or bfloat16; INT4 wants an even number of columns.
///     precision: "int8" or "int4" (two in a byte along the columns); `numpy.int8` and `torch.int8` are names too, and so
///         are dtypes for scale_dtype and zero_point_dtype.
///     granularity: what shares a scale: "tensor" all, "row" one row of one head, "block" `block_rows` rows, "channel"
///         one column of `block_rows` rows.
///     block_rows: for "block" and "channel".
///     group: for "row": 32 or 64 columns share a scale; None is the whole row.
///     symmetric: False adds a zero point to each scale.
///     scale_dtype: "float32" or "float16".
///     zero_point_dtype: "int8" or "int32": how zero points are stored. They are -128 to 127 in both (INT4: -8 to 7).
///     smooth: subtract the mean over the rows of each column first; it is kept in `.mean`.
///     mean: the mean to subtract instead, float32 in x's shape without the rows.
///     scale, zero_point: given ones instead of those of the data (calibrated quantization).
///     rotate: multiply each row by an orthonormal Hadamard matrix first, which spreads outliers over the columns.
///     layout: the order of x's axes, as in `attention`; data, scale and zero_point have the same.
///     measure_error: also measure what rounding did to the array, into `.error`, in about half again the time.
///     out: a `QuantizedTensor`, perhaps a slice of a larger one, to write to. Precision, granularity, rotation and
///         layout are its own; its mean, and with granularity "tensor" its scale and zero point, are used as given.
///     context: an `MFAContext`; None is the default context.
///
/// Example:
///     >>> import numpy as np, umfa
///     >>> x = np.linspace(-1, 1, 256, dtype=np.float32).reshape(4, 64)
///     >>> umfa.quantize(x, "int8", "row").scale.shape
///     (4, 1)
#[pyfunction]
#[pyo3(
    signature = (x, precision=None, granularity=None, *, block_rows=None, group=None, symmetric=None, scale_dtype=None,
                 zero_point_dtype=None, smooth=None, mean=None, scale=None, zero_point=None, rotate=None, layout=None,
                 measure_error=None, out=None, context=None),
    text_signature = "(x, precision='int8', granularity='tensor', *, block_rows=64, group=None, symmetric=True, \
scale_dtype='float32', zero_point_dtype='int8', smooth=False, mean=None, scale=None, zero_point=None, rotate=False, \
layout='BHND', measure_error=False, out=None, context=None)"
)]
#[allow(clippy::too_many_arguments)]
pub(crate) fn quantize<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    precision: Option<Bound<'py, PyAny>>,
    granularity: Option<Bound<'py, PyAny>>,
    block_rows: Option<Bound<'py, PyAny>>,
    group: Option<Bound<'py, PyAny>>,
    symmetric: Option<Bound<'py, PyAny>>,
    scale_dtype: Option<Bound<'py, PyAny>>,
    zero_point_dtype: Option<Bound<'py, PyAny>>,
    smooth: Option<Bound<'py, PyAny>>,
    mean: Option<Bound<'py, PyAny>>,
    scale: Option<Bound<'py, PyAny>>,
    zero_point: Option<Bound<'py, PyAny>>,
    rotate: Option<Bound<'py, PyAny>>,
    layout: Option<Bound<'py, PyAny>>,
    measure_error: Option<Bound<'py, PyAny>>,
    out: Option<Bound<'py, QuantizedTensor>>,
    context: Option<&Bound<'py, PyAny>>,
) -> PyResult<Py<QuantizedTensor>> {
    let handle = handle(py, "context", context)?;
    let source = Array::read(x, "x", Dtype::FLOATS)?;
    let mut call = Call::new(
        &handle,
        Mode::Run,
        vec![("source", "x"), ("destination", "out")],
    );

    if let Some(out) = out {
        let settings: [(&str, &Option<Bound<'py, PyAny>>); 14] = [
            ("precision", &precision),
            ("granularity", &granularity),
            ("block_rows", &block_rows),
            ("group", &group),
            ("symmetric", &symmetric),
            ("scale_dtype", &scale_dtype),
            ("zero_point_dtype", &zero_point_dtype),
            ("smooth", &smooth),
            ("mean", &mean),
            ("scale", &scale),
            ("zero_point", &zero_point),
            ("rotate", &rotate),
            ("layout", &layout),
            ("measure_error", &measure_error),
        ];
        if let Some((name, _)) = settings.into_iter().find(|(_, value)| value.is_some()) {
            return Err(error::argument(format!(
                "{name}: given together with out, expected one of them: out has its own"
            )));
        }
        into(py, &mut call, &source, out.get())?;
        return Ok(out.unbind());
    }

    let flag = |value: &Option<Bound<'py, PyAny>>, name: &str, default: bool| match value {
        Some(value) => boolean(value, name),
        None => Ok(default),
    };
    let name = |value: &Option<Bound<'py, PyAny>>, argument, names, default| match value {
        Some(value) => named(value, argument, names),
        None => Ok(default),
    };
    let scheme = Scheme::new(
        name(&precision, "precision", PRECISIONS, sys::MFA_PRECISION_INT8)?,
        name(
            &granularity,
            "granularity",
            GRANULARITIES,
            sys::MFA_GRANULARITY_TENSOR,
        )?,
        match &block_rows {
            Some(value) => options::block_rows(value, "block_rows")?,
            None => DEFAULT_BLOCK_ROWS,
        },
        match &group {
            Some(value) => options::group(value, "group")?,
            None => 0,
        },
        flag(&rotate, "rotate", false)?,
    )?;
    let scale_precision = name(
        &scale_dtype,
        "scale_dtype",
        SCALE_DTYPES,
        sys::MFA_PRECISION_FP32,
    )?;
    let zero_point_bytes = name(&zero_point_dtype, "zero_point_dtype", ZERO_POINT_DTYPES, 1)?;
    let symmetric = flag(&symmetric, "symmetric", zero_point.is_none())?;
    if symmetric && zero_point_bytes != 1 {
        return Err(error::argument(
            "zero_point_dtype: given with symmetric=True, which has no zero points, expected symmetric=False beside it"
                .into(),
        ));
    }
    let smooth = flag(&smooth, "smooth", mean.is_some())?;
    let measures_error = flag(&measure_error, "measure_error", false)?;
    let layout = match &layout {
        Some(layout) => Layout::parse(layout)?,
        None => Layout::Bhnd,
    };
    if mean.is_some() && !smooth {
        return Err(error::argument(
            "mean: given with smooth=False, expected smooth=True".into(),
        ));
    }
    if zero_point.is_some() && (symmetric || scale.is_none()) {
        return Err(error::argument(
            "zero_point: expected together with scale= and symmetric=False".into(),
        ));
    }
    if scale.is_some() && !symmetric && zero_point.is_none() {
        return Err(error::argument(
            "scale: given with symmetric=False, expected zero_point= beside it".into(),
        ));
    }

    let view = &source.view;
    let Some(axes) = axes(view.rank, layout, false) else {
        return Err(error::dimensions(format!(
            "x: shape {}, expected rank 2, 3 or 4",
            shape_text(view.shape())
        )));
    };
    let columns = view.shape[view.rank - 1];
    let mut stored = view.shape().to_vec();
    if scheme.precision == sys::MFA_PRECISION_INT4 {
        if !columns.is_multiple_of(2) {
            return Err(error::dimensions(format!(
                "x: {columns} columns, expected an even number for \"int4\""
            )));
        }
        stored[view.rank - 1] /= 2;
    }
    let placed = TensorArg::new(view, axes);
    let groups = match scheme.granularity {
        sys::MFA_GRANULARITY_TENSOR => Vec::new(),
        _ => user_shape_like(view.rank, axes, scheme.scale_sizes(placed.shape)),
    };
    // Parts of libraries that can't be written become NumPy's.
    let kind = match source.kind.clone() {
        Kind::Namespace(_) => Kind::NumPy,
        kind => kind,
    };
    let mut flags = 0;
    let data = kind.empty(py, &stored, stored_dtype(scheme.precision))?;
    let scale_type = match scale_precision {
        sys::MFA_PRECISION_FP16 => Dtype::Float16,
        _ => Dtype::Float32,
    };
    let scale = match scale {
        Some(scale) => {
            flags |= sys::MFA_QUANTIZE_SCALE_GIVEN;
            parameter(scale, &data, scale_type)?
        }
        None => kind.empty(py, &groups, scale_type)?,
    };
    let zero_type = match zero_point_bytes {
        4 => Dtype::Int32,
        _ => Dtype::Int8,
    };
    let zero_point = match zero_point {
        _ if symmetric => None,
        Some(zero_point) => {
            let zero_point = parameter(zero_point, &data, Dtype::Int32)?;
            in_range(&zero_point, scheme.precision)?;
            Some(zero_point)
        }
        None => Some(kind.empty(py, &groups, zero_type)?),
    };
    let mean = match mean {
        _ if !smooth => None,
        Some(mean) => {
            flags |= sys::MFA_QUANTIZE_MEAN_GIVEN;
            Some(contiguous(&mean)?)
        }
        None => Some(kind.empty(py, &mean_shape(view.shape(), axes), Dtype::Float32)?),
    };
    let recipe = |error| Recipe {
        data: data.clone(),
        scale: scale.clone(),
        zero_point: zero_point.clone(),
        mean: mean.clone(),
        error,
        scheme,
        layout,
    };
    let tensor = QuantizedTensor::assemble(py, recipe(None))?;
    if !symmetric {
        flags |= sys::MFA_QUANTIZE_ASYMMETRIC;
    }
    if smooth {
        flags |= sys::MFA_QUANTIZE_SMOOTH;
    }
    let caused = run(py, &mut call, &placed, &tensor, flags, measures_error)?;
    if !measures_error {
        return Py::new(py, tensor);
    }
    let error = error_object(py, &caused)?;
    Py::new(py, QuantizedTensor::assemble(py, recipe(Some(error)))?)
}

/// Quantizes into an existing tensor.
fn into(
    py: Python<'_>,
    call: &mut Call<'_>,
    source: &Array<'_>,
    out: &QuantizedTensor,
) -> PyResult<()> {
    if source.view.shape() != out.shape() {
        return Err(error::dimensions(format!(
            "out: shape {}, expected {} as x",
            shape_text(out.shape()),
            shape_text(source.view.shape())
        )));
    }
    let mut flags = 0;
    if !out.is_symmetric() {
        flags |= sys::MFA_QUANTIZE_ASYMMETRIC;
    }
    if out.is_smoothed() {
        flags |= sys::MFA_QUANTIZE_SMOOTH | sys::MFA_QUANTIZE_MEAN_GIVEN;
    }
    if out.scheme().granularity == sys::MFA_GRANULARITY_TENSOR {
        flags |= sys::MFA_QUANTIZE_SCALE_GIVEN;
    }
    out.check_writable(py, flags & sys::MFA_QUANTIZE_SCALE_GIVEN == 0)?;
    let axes = axes(source.view.rank, out.layout(), false).unwrap_or([None; 4]);
    let placed = TensorArg::new(&source.view, axes);
    run(py, call, &placed, out, flags, false).map(|_| ())
}

fn run(
    py: Python<'_>,
    call: &mut Call<'_>,
    source: &TensorArg,
    tensor: &QuantizedTensor,
    flags: u32,
    measure: bool,
) -> PyResult<sys::mfa_quantization_error> {
    let parts = tensor.read(py, "data")?;
    if tensor.placed(&parts, false).overlaps(source) {
        return Err(error::argument(
            "out: memory shared with x, expected other memory".into(),
        ));
    }
    let quantize = lower::Quantize {
        flags,
        source: call.tensor(source)?,
        destination: tensor.tensor(call, &parts, false)?,
    };
    // SAFETY: the arrays of the call live until it ends.
    call.run(py, |context| unsafe { quantize.run(context, measure) })
}
