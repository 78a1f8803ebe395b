//! From Python operands to the contract's tensors, for forward and backward alike.

use mfa::raw::lower::{self, BufferPart, Tensor};
use mfa::raw::sys;
use pyo3::prelude::*;

use crate::array::{Array, Kind};
use crate::call::{Call, Mode, TensorArg, place};
use crate::dtype::{Dtype, list};
use crate::error;
use crate::options::{DEFAULT_BLOCK_ROWS, Layout, Options, Role};
use crate::quantized::{Parts, QuantizedTensor};
use crate::scheme::Scheme;
use crate::shapes::{Operands, Sizes};
use crate::view::{View, shape_text};

/// Query, key or value as the caller gave it.
pub(crate) enum Operand<'py> {
    Array(Array<'py>),
    Quantized(Bound<'py, QuantizedTensor>, Box<Parts<'py>>),
}

impl<'py> Operand<'py> {
    pub(crate) fn read(object: &Bound<'py, PyAny>, name: &str) -> PyResult<Operand<'py>> {
        if let Ok(tensor) = object.cast::<QuantizedTensor>() {
            let mut parts = tensor.get().read(object.py(), name)?;
            parts.data = parts.data.with_columns(object.py())?;
            return Ok(Operand::Quantized(tensor.clone(), Box::new(parts)));
        }
        Array::read(object, name, Dtype::OPERANDS)?
            .with_columns(object.py())
            .map(Operand::Array)
    }

    /// Reads query, key and value.
    pub(crate) fn read_all(
        objects: [&Bound<'py, PyAny>; 3],
        options: &Options<'_>,
    ) -> PyResult<[Operand<'py>; 3]> {
        let ([q, k, v], names) = (objects, options.names());
        Ok([
            Operand::read(q, names[0])?,
            Operand::read(k, names[1])?,
            Operand::read(v, names[2])?,
        ])
    }

    /// The shape in the caller's order of axes.
    pub(crate) fn shape(&self) -> &[usize] {
        match self {
            Operand::Array(array) => array.view.shape(),
            Operand::Quantized(tensor, _) => tensor.get().shape(),
        }
    }

    fn view(&self) -> &View {
        match self {
            Operand::Array(array) => &array.view,
            Operand::Quantized(_, parts) => &parts.data.view,
        }
    }

    pub(crate) fn kind(&self) -> Kind<'py> {
        match self {
            Operand::Array(array) => array.kind.clone(),
            Operand::Quantized(_, parts) => parts.data.kind.clone(),
        }
    }

    pub(crate) fn is_quantized(&self) -> bool {
        matches!(self, Operand::Quantized(..))
    }

    /// The element type of results that take after this operand.
    pub(crate) fn float_dtype(&self) -> Dtype {
        match self {
            Operand::Array(array) => array.view.dtype,
            Operand::Quantized(..) => Dtype::Float32,
        }
    }

    /// The element type that the floats of a call have to be in agreement with: that of a query.
    pub(crate) fn exact(&self) -> Dtype {
        self.float_dtype().exact()
    }

    /// A quantized tensor knows its own layout.
    pub(crate) fn layout(&self, given: Layout) -> Layout {
        match self {
            Operand::Array(_) => given,
            Operand::Quantized(tensor, _) => tensor.get().layout(),
        }
    }
}

/// The three operands of a call, in the contract's order of axes, after the check that they fit together.
pub(crate) struct Prepared {
    pub(crate) placed: [TensorArg; 3],
    pub(crate) rank: usize,
}

impl Prepared {
    /// [batch, heads, rows of query, value columns]
    pub(crate) fn output_sizes(&self) -> Sizes {
        let [batch, heads, rows, _] = self.placed[0].shape;
        [batch, heads, rows, self.placed[2].shape[3]]
    }

    /// [batch, heads, rows of query, 1]
    pub(crate) fn row_sizes(&self) -> Sizes {
        let [batch, heads, rows, _] = self.placed[0].shape;
        [batch, heads, rows, 1]
    }

    /// Whether there is no row to compute: drivers want at least one batch and one head.
    pub(crate) fn is_empty(&self) -> bool {
        self.row_sizes().contains(&0)
    }

    /// Whether queries and keys have no columns, so that all scores are 0.
    pub(crate) fn has_no_columns(&self) -> bool {
        self.placed[0].shape[3] == 0
    }
}

const ROLES: [Role; 3] = [Role::Query, Role::Key, Role::Value];

/// Places the operands, and checks that they fit together and that the options have a use for them.
pub(crate) fn place_operands(
    operands: &[Operand<'_>; 3],
    options: &Options<'_>,
) -> PyResult<Prepared> {
    let names = options.names();
    let rank = operands[0].view().rank;
    let mut placed = Vec::with_capacity(3);
    for (operand, name) in operands.iter().zip(names) {
        if operand.view().rank != rank {
            return Err(error::dimensions(format!(
                "{name}: shape {}, expected rank {rank} as {} with shape {}",
                shape_text(operand.shape()),
                names[0],
                shape_text(operands[0].shape())
            )));
        }
        placed.push(match operand {
            Operand::Quantized(tensor, parts) => tensor.get().placed(parts, options.is_varlen()),
            Operand::Array(array) => place(array, name, options.layout, options.is_varlen())?,
        });
    }
    agree(operands, options)?;
    for (operand, role) in operands.iter().zip(ROLES) {
        let asked = options.quantizing.precision.of(role).is_some();
        let all = operands.iter().all(Operand::is_quantized);
        if asked && operand.is_quantized() && (all || options.quantizing.names(role)) {
            return Err(error::argument(format!(
                "precision: given for {}, which is a QuantizedTensor already, expected a float array or no precision",
                names[role as usize]
            )));
        }
    }
    let placed =
        (placed.try_into()).map_err(|_| error::argument("expected three operands".into()))?;
    let prepared = Prepared { placed, rank };
    described(operands, &prepared, options).check()?;
    Ok(prepared)
}

/// Refuses float64 beside anything else: it is computed without rounding.
fn agree(operands: &[Operand<'_>; 3], options: &Options<'_>) -> PyResult<()> {
    let (names, first) = (options.names(), operands[0].float_dtype());
    for (operand, name) in operands.iter().zip(names) {
        let found = operand.float_dtype();
        if found.exact() != first.exact() {
            let found = match operand {
                Operand::Array(_) => format!("dtype {found}"),
                Operand::Quantized(..) => "a QuantizedTensor".to_owned(),
            };
            return Err(error::dtype(format!(
                "{name}: {found}, expected {} beside {} of {first}; convert one, for example x.astype(numpy.float32) or \
                 x.float()",
                list(first.results()),
                names[0]
            )));
        }
    }
    if first == Dtype::Float64 && options.quantizing.any() {
        return Err(error::argument(format!(
            "precision: given with {} of float64, which is not rounded, expected {}",
            names[0],
            list(Dtype::FLOATS)
        )));
    }
    Ok(())
}

/// The operands in the caller's terms, for messages and checks.
pub(crate) fn described<'a>(
    operands: &'a [Operand<'_>; 3],
    prepared: &Prepared,
    options: &Options<'_>,
) -> Operands<'a> {
    let [q, k, v] = operands;
    let [a, b, c] = prepared.placed;
    Operands {
        names: options.names(),
        shapes: [q.shape(), k.shape(), v.shape()],
        sizes: [a.shape, b.shape, c.shape],
        layout: q.layout(options.layout),
        varlen: options.is_varlen(),
        quantized: operands.iter().any(Operand::is_quantized),
        dtype: q.float_dtype(),
    }
}

/// The tensors of a call, of which float arrays are quantized where the options say so.
pub(crate) fn tensors(
    py: Python<'_>,
    call: &mut Call<'_>,
    operands: &[Operand<'_>; 3],
    prepared: &Prepared,
    options: &Options<'_>,
) -> PyResult<[Tensor; 3]> {
    let mut tensors = Vec::with_capacity(3);
    for (index, role) in ROLES.into_iter().enumerate() {
        let placed = &prepared.placed[index];
        tensors.push(match &operands[index] {
            _ if prepared.has_no_columns() && index < 2 => {
                call.tensor(&column_of_zeros(placed, operands[0].exact()))?
            }
            Operand::Quantized(tensor, parts) => {
                tensor.get().tensor(call, parts, options.is_varlen())?
            }
            Operand::Array(_) => {
                let source = call.tensor(placed)?;
                match options.quantizing.precision.of(role) {
                    None => source,
                    Some(precision) => on_the_fly(py, call, &source, options, role, precision)
                        .map_err(|problem| named(py, options.names()[index], problem))?,
                }
            }
        });
    }
    (tensors.try_into()).map_err(|_| error::argument("expected three operands".into()))
}

/// Without columns, products are sums of nothing: the same as of one column of zeros, which drivers can read.
fn column_of_zeros(placed: &TensorArg, dtype: Dtype) -> TensorArg {
    // The first bytes are a float32 of 0, too.
    static ZERO: f64 = 0.0;
    let [batch, heads, rows, _] = placed.shape;
    TensorArg {
        data: (&raw const ZERO).cast_mut().cast(),
        bytes: dtype.size(),
        precision: dtype.precision(),
        shape: [batch, heads, rows, 1],
        strides: [0, 0, 0, 1],
    }
}

/// Puts the operand's name before a message about it.
fn named(py: Python<'_>, name: &str, problem: PyErr) -> PyErr {
    let message = problem.value(py).to_string();
    let message = message.strip_prefix("source: ").unwrap_or(&message);
    let message = format!("{name}: {message}");
    match problem.get_type(py).call1((message,)) {
        Ok(value) => PyErr::from_value(value),
        Err(_) => problem,
    }
}

/// Quantizes a float tensor into temporary memory.
fn on_the_fly(
    py: Python<'_>,
    call: &mut Call<'_>,
    source: &Tensor,
    options: &Options<'_>,
    role: Role,
    precision: i32,
) -> PyResult<Tensor> {
    let quantizing = &options.quantizing;
    let scheme = Scheme::new(
        precision,
        quantizing.granularity.of(role),
        match quantizing.granularity.of(role) {
            sys::MFA_GRANULARITY_BLOCK | sys::MFA_GRANULARITY_CHANNEL => {
                quantizing.block_rows.of(role)
            }
            _ => DEFAULT_BLOCK_ROWS,
        },
        match quantizing.granularity.of(role) {
            sys::MFA_GRANULARITY_ROW => quantizing.group.of(role),
            _ => 0,
        },
        quantizing.rotate.of(role),
    )?;
    let shape @ [batch, heads, _, columns] = source.shape;
    let bytes = |count: u64, size: u64| -> PyResult<usize> {
        count
            .checked_mul(size)
            .and_then(|bytes| usize::try_from(bytes).ok())
            .ok_or_else(|| error::dimensions("more bytes than memory can have".into()))
    };
    let product = |sizes: &[u64]| -> PyResult<u64> {
        (sizes.iter().copied().try_fold(1_u64, u64::checked_mul))
            .ok_or_else(|| error::dimensions("more elements than memory can have".into()))
    };
    let scale_shape = scheme.scale_sizes(shape);
    let groups = product(&scale_shape)?;
    let mut quantization = scheme.describe();
    quantization.scale_strides = lower::contiguous_strides(scale_shape);
    quantization.scale_precision = quantizing.scale_precision.of(role);
    let scale_size = if quantization.scale_precision == sys::MFA_PRECISION_FP16 {
        2
    } else {
        4
    };
    if call.mode == Mode::Plan && scheme.granularity == sys::MFA_GRANULARITY_TENSOR {
        // Drivers look at this one value, and 0 is none; the others are only read when computing.
        quantization.scale = 1.0;
    } else {
        quantization.scales = BufferPart::whole(call.scratch(bytes(groups, scale_size)?)?);
    }
    let mut flags = 0;
    let inline = quantization.scales.buffer.is_null();
    if !quantizing.symmetric.of(role) && !inline {
        flags |= sys::MFA_QUANTIZE_ASYMMETRIC;
        quantization.zero_point_bytes = quantizing.zero_point_bytes.of(role) as u32;
        let size = u64::from(quantization.zero_point_bytes);
        quantization.zero_points = BufferPart::whole(call.scratch_of_zeros(bytes(groups, size)?)?);
    }
    if quantizing.smooth.of(role) {
        flags |= sys::MFA_QUANTIZE_SMOOTH;
        let size = bytes(product(&[batch, heads, columns])?, 4)?;
        quantization.mean = BufferPart::whole(call.scratch(size)?);
    }
    let elements = product(&shape)?;
    let stored = match precision {
        sys::MFA_PRECISION_INT4 => elements.div_ceil(2),
        _ => elements,
    };
    let memory = BufferPart::whole(call.scratch(bytes(stored, 1)?)?);
    let strides = lower::contiguous_strides(shape);
    let destination = Tensor::new(memory, precision, shape, strides).quantized(&quantization);
    if call.mode == Mode::Run {
        let quantize = lower::Quantize {
            flags,
            source: *source,
            destination,
        };
        // SAFETY: the arrays and buffers of the call live until it ends.
        call.run(py, |context| unsafe { quantize.run(context, false) })?;
    }
    Ok(destination)
}
