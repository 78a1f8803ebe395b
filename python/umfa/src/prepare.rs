//! From Python operands and options to the contract's descriptors, for forward and backward alike.

use std::borrow::Cow;

use mfa::raw::sys;
use pyo3::prelude::*;

use crate::array::{Array, Kind, View, shape_text};
use crate::call::{Call, Effort, Placed, contiguous_strides, place};
use crate::dtype::Dtype;
use crate::error;
use crate::options::{Layout, Options, Role};
use crate::quantized::{Parts, QuantizedTensor};
use crate::scheme::Scheme;

/// Query, key or value as the caller gave it.
pub(crate) enum Operand<'py> {
    Array(Array<'py>),
    Quantized(Bound<'py, QuantizedTensor>, Box<Parts<'py>>),
}

impl<'py> Operand<'py> {
    pub(crate) fn read(object: &Bound<'py, PyAny>, name: &str) -> PyResult<Operand<'py>> {
        if let Ok(tensor) = object.cast::<QuantizedTensor>() {
            let parts = tensor.get().read(object.py(), name)?;
            return Ok(Operand::Quantized(tensor.clone(), Box::new(parts)));
        }
        Array::read(object, name, Dtype::FLOATS).map(Operand::Array)
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

    /// A quantized tensor knows its own layout.
    pub(crate) fn layout(&self, given: Layout) -> Layout {
        match self {
            Operand::Array(_) => given,
            Operand::Quantized(tensor, _) => tensor.get().layout(),
        }
    }
}

/// The three operands of a call, as tensors.
pub(crate) struct Prepared {
    pub(crate) placed: [Placed; 3],
    pub(crate) tensors: [sys::mfa_tensor; 3],
    pub(crate) rank: usize,
}

impl Prepared {
    /// [batch, heads, rows of query, value columns]
    pub(crate) fn output_sizes(&self) -> [u64; 4] {
        let [batch, heads, rows, _] = self.placed[0].shape;
        [batch, heads, rows, self.placed[2].shape[3]]
    }

    /// [batch, heads, rows of query, 1]
    pub(crate) fn row_sizes(&self) -> [u64; 4] {
        let [batch, heads, rows, _] = self.placed[0].shape;
        [batch, heads, rows, 1]
    }
}

const ROLES: [(Role, &str); 3] = [(Role::Query, "q"), (Role::Key, "k"), (Role::Value, "v")];

/// Places the operands, and quantizes those float arrays for which the options say so.
pub(crate) fn operands(
    py: Python<'_>,
    call: &mut Call<'_>,
    operands: &[Operand<'_>; 3],
    options: &Options<'_>,
) -> PyResult<Prepared> {
    let rank = operands[0].view().rank;
    let mut placed = Vec::with_capacity(3);
    let mut tensors = Vec::with_capacity(3);
    for (operand, (role, name)) in operands.iter().zip(ROLES) {
        let found = operand.view();
        if found.rank != rank {
            return Err(error::dimensions(format!(
                "{name}: shape {}, expected rank {rank} as q with shape {}",
                shape_text(found.shape()),
                shape_text(operands[0].view().shape())
            )));
        }
        let (place, tensor) = match operand {
            Operand::Quantized(tensor, parts) => {
                let tensor = tensor.get();
                let placed = tensor.placed(parts, options.is_varlen());
                (placed, tensor.tensor(call, parts, options.is_varlen())?)
            }
            Operand::Array(array) => {
                let placed = place(array, name, options.layout, options.is_varlen())?;
                let source = call.tensor(&placed)?;
                match options.quantizing.precision.of(role) {
                    None => (placed, source),
                    Some(precision) => {
                        let tensor =
                            on_the_fly(py, call, &source, options, role, precision);
                        (placed, tensor.map_err(|problem| named(py, name, problem))?)
                    }
                }
            }
        };
        placed.push(place);
        tensors.push(tensor);
    }
    match (placed.try_into(), tensors.try_into()) {
        (Ok(placed), Ok(tensors)) => Ok(Prepared {
            placed,
            tensors,
            rank,
        }),
        _ => Err(error::argument("expected three operands".into())),
    }
}

/// Puts the operand's name before a message about it.
fn named(py: Python<'_>, name: &str, problem: PyErr) -> PyErr {
    let message = format!("{name}: {}", problem.value(py));
    match problem.get_type(py).call1((message,)) {
        Ok(value) => PyErr::from_value(value),
        Err(_) => problem,
    }
}

/// Quantizes a float tensor into temporary memory.
fn on_the_fly(
    py: Python<'_>,
    call: &mut Call<'_>,
    source: &sys::mfa_tensor,
    options: &Options<'_>,
    role: Role,
    precision: i32,
) -> PyResult<sys::mfa_tensor> {
    let quantizing = &options.quantizing;
    let scheme = Scheme::new(
        precision,
        quantizing.granularity.of(role),
        quantizing.block_rows.of(role),
        quantizing.group.of(role),
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
    quantization.scale_strides = contiguous_strides(scale_shape);
    quantization.scale_precision = quantizing.scale_precision.of(role);
    let scale_size = if quantization.scale_precision == sys::MFA_PRECISION_FP16 {
        2
    } else {
        4
    };
    if call.effort == Effort::Plan && scheme.granularity == sys::MFA_GRANULARITY_TENSOR {
        // Drivers look at this one value, and 0 is none; the others are only read when computing.
        quantization.scale = 1.0;
    } else {
        quantization.scale_buffer = call.scratch(bytes(groups, scale_size)?)?;
    }
    let mut flags = 0;
    let inline = quantization.scale_buffer.is_null();
    if !quantizing.symmetric.of(role) && !inline {
        flags |= sys::MFA_QUANTIZE_ASYMMETRIC;
        quantization.zero_point_bytes = quantizing.zero_point_bytes.of(role) as u32;
        let size = u64::from(quantization.zero_point_bytes);
        quantization.zero_point_buffer = call.scratch(bytes(groups, size)?)?;
    }
    if quantizing.smooth.of(role) {
        flags |= sys::MFA_QUANTIZE_SMOOTH;
        quantization.mean_buffer = call.scratch(bytes(product(&[batch, heads, columns])?, 4)?)?;
    }
    let elements = product(&shape)?;
    let stored = match precision {
        sys::MFA_PRECISION_INT4 => elements.div_ceil(2),
        _ => elements,
    };
    let destination = sys::mfa_tensor {
        buffer: call.scratch(bytes(stored, 1)?)?,
        precision,
        shape,
        strides: contiguous_strides(shape),
        quantization: call.keep(quantization),
        ..sys::mfa_tensor::ABSENT
    };
    if call.effort == Effort::Run {
        let desc = sys::mfa_quantize_desc {
            flags,
            source: *source,
            destination,
            ..sys::mfa_quantize_desc::new()
        };
        // SAFETY: the descriptor and what it points to live until the call ends.
        call.run(py, |api, raw| unsafe {
            (api.mfa_quantize)(raw, &raw const desc)
        })?;
    }
    Ok(destination)
}

/// The arrays behind the options of a call, which must outlive it.
#[derive(Default)]
pub(crate) struct Extras<'py> {
    pub(crate) mask: Option<Mask<'py>>,
    pub(crate) sinks: Option<Array<'py>>,
    alibi_slopes: Option<Array<'py>>,
    lengths: Option<[Lengths<'py>; 2]>,
}

/// A mask, and which of its axes is which of [batch, heads, rows of query, rows of key].
pub(crate) struct Mask<'py> {
    pub(crate) array: Array<'py>,
    pub(crate) axes: [Option<usize>; 4],
}

/// `cu_seqlens`: an int32 array in place, or what other integers were converted to.
struct Lengths<'py> {
    ends: Cow<'py, [i32]>,
    _owner: Option<Array<'py>>,
}

impl Mask<'_> {
    pub(crate) fn placed(&self) -> Placed {
        Placed::new(&self.array.view, self.axes)
    }
}

impl<'py> Extras<'py> {
    pub(crate) const SINK_AXES: [Option<usize>; 4] = [None, Some(0), None, None];

    pub(crate) fn read(
        options: &Options<'py>,
        rank: usize,
        layout: Layout,
    ) -> PyResult<Extras<'py>> {
        let floats = &[Dtype::Float32];
        let parameter = |object: &Option<Bound<'py, PyAny>>, name, ranks: &[usize]| {
            let Some(object) = object else {
                return Ok(None);
            };
            let array = Array::read(object, name, floats)?;
            if !ranks.contains(&array.view.rank) {
                return Err(error::dimensions(format!(
                    "{name}: shape {}, expected one number for each head",
                    shape_text(array.view.shape())
                )));
            }
            Ok(Some(array))
        };
        let lengths = match (&options.cu_seqlens_q, &options.cu_seqlens_k) {
            (Some(q), Some(k)) => {
                let both = [lengths(q, "cu_seqlens_q")?, lengths(k, "cu_seqlens_k")?];
                if both[0].ends.len() != both[1].ends.len() {
                    return Err(error::dimensions(format!(
                        "cu_seqlens_k: {} entries, expected {} as cu_seqlens_q",
                        both[1].ends.len(),
                        both[0].ends.len()
                    )));
                }
                Some(both)
            }
            _ => None,
        };
        let mask = match &options.mask {
            None => None,
            Some(object) => {
                const MASKS: &[Dtype] =
                    &[Dtype::Bool, Dtype::Float32, Dtype::Float16, Dtype::BFloat16];
                let array = Array::read(object, "attn_mask", MASKS)?;
                let batch_first = layout == Layout::Bhnd && rank == 3 && !options.is_varlen();
                let axes = match array.view.rank {
                    4 => [Some(0), Some(1), Some(2), Some(3)],
                    3 if batch_first => [Some(0), None, Some(1), Some(2)],
                    3 => [None, Some(0), Some(1), Some(2)],
                    2 => [None, None, Some(0), Some(1)],
                    1 => [None, None, None, Some(0)],
                    _ => {
                        return Err(error::dimensions(
                            "attn_mask: shape (), expected at least the key positions".into(),
                        ));
                    }
                };
                Some(Mask { array, axes })
            }
        };
        Ok(Extras {
            mask,
            alibi_slopes: parameter(&options.alibi_slopes, "alibi_slopes", &[1, 2])?,
            sinks: parameter(&options.sinks, "sinks", &[1])?,
            lengths,
        })
    }

    /// The contract's structure.
    pub(crate) fn describe(
        &self,
        call: &mut Call<'_>,
        options: &Options<'_>,
    ) -> PyResult<sys::mfa_attention_options> {
        let mut described = sys::mfa_attention_options {
            softcap: options.softcap,
            alignment: options.alignment,
            compute: options.compute,
            ..sys::mfa_attention_options::new()
        };
        if options.causal {
            described.flags |= sys::MFA_OPTION_CAUSAL;
        }
        if let Some(scale) = options.scale {
            described.flags |= sys::MFA_OPTION_SCALE;
            described.softmax_scale = scale;
        }
        if let Some((left, right)) = options.window {
            described.flags |= sys::MFA_OPTION_WINDOW;
            described.window_left = left;
            described.window_right = right;
        }
        if let Some(mask) = &self.mask {
            described.mask = call.tensor(&mask.placed())?;
        }
        if let Some(slopes) = &self.alibi_slopes {
            let batch = (slopes.view.rank == 2).then_some(0);
            let heads = Some(slopes.view.rank - 1);
            described.alibi_slopes =
                call.tensor(&Placed::new(&slopes.view, [batch, heads, None, None]))?;
        }
        if let Some(sinks) = &self.sinks {
            described.sinks = call.tensor(&Placed::new(&sinks.view, Extras::SINK_AXES))?;
        }
        if let Some([q, k]) = &self.lengths {
            described.sequence_count = (q.ends.len() - 1) as u32;
            described.cu_seqlens_q = call.lengths(&q.ends)?;
            described.cu_seqlens_k = call.lengths(&k.ends)?;
        }
        Ok(described)
    }
}

fn lengths<'py>(object: &Bound<'py, PyAny>, name: &str) -> PyResult<Lengths<'py>> {
    let complain = |found: String| {
        error::dimensions(format!(
            "{name}: {found}, expected 0 and then the end of each sequence"
        ))
    };
    let wide: Vec<i64> = match object.extract::<Vec<i64>>() {
        Ok(list) if object.is_instance_of::<pyo3::types::PyList>() => list,
        Ok(list) if object.is_instance_of::<pyo3::types::PyTuple>() => list,
        _ => {
            let array = Array::read(object, name, &[Dtype::Int32, Dtype::Int64])?;
            let view = &array.view;
            if view.rank != 1 || view.len() < 2 {
                return Err(complain(format!("shape {}", shape_text(view.shape()))));
            }
            if view.dtype == Dtype::Int32 && view.is_contiguous() {
                // SAFETY: a contiguous int32 array, which is kept beside the slice.
                let ends =
                    unsafe { std::slice::from_raw_parts(view.data.cast::<i32>(), view.len()) };
                return Ok(Lengths {
                    ends: Cow::Borrowed(ends),
                    _owner: Some(array),
                });
            }
            (0..view.len())
                .map(|index| {
                    let at = view
                        .data
                        .wrapping_add(index * view.strides[0] * view.dtype.size());
                    // SAFETY: an element of the array, of this type and aligned.
                    unsafe {
                        match view.dtype {
                            Dtype::Int64 => at.cast::<i64>().read(),
                            _ => i64::from(at.cast::<i32>().read()),
                        }
                    }
                })
                .collect()
        }
    };
    if wide.len() < 2 {
        return Err(complain(format!("{} entries", wide.len())));
    }
    let narrow = wide
        .into_iter()
        .map(i32::try_from)
        .collect::<Result<Vec<i32>, _>>();
    let narrow = narrow.map_err(|_| complain("an entry that does not fit int32".into()))?;
    Ok(Lengths {
        ends: Cow::Owned(narrow),
        _owner: None,
    })
}

/// Reads an array that will be written, of exactly this shape.
pub(crate) fn writable<'py>(
    object: &Bound<'py, PyAny>,
    name: &str,
    allowed: &[Dtype],
    shape: &[usize],
) -> PyResult<Array<'py>> {
    let array = Array::read(object, name, allowed)?;
    if array.view.readonly {
        return Err(error::argument(format!(
            "{name}: a read-only array, expected one that can be written"
        )));
    }
    same_shape(&array, name, shape)?;
    Ok(array)
}

pub(crate) fn same_shape(array: &Array<'_>, name: &str, shape: &[usize]) -> PyResult<()> {
    if array.view.shape() == shape {
        return Ok(());
    }
    Err(error::dimensions(format!(
        "{name}: shape {}, expected {}",
        shape_text(array.view.shape()),
        shape_text(shape)
    )))
}
