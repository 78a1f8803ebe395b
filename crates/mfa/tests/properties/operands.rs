//! Real numbers to stored tensors, and back in float64.

use half::{bf16, f16};
use mfa::{
    Granularity, MfaContext, MfaError, Precision, QuantizedTensor, Quantizer, Tensor, TensorView,
};
use mfa_testing::{Array, Operand, Random, indices};

use crate::arbitrary::{Grouping, Integers, MaskKind, MaskPlan, Shape, Storage};

/// A tensor that the driver reads, and what it stands for.
pub(crate) struct Stored {
    data: Data,
    pub(crate) operand: Operand,
    side_by_side: bool,
}

enum Data {
    Fp32(Vec<f32>),
    Fp16(Vec<f16>),
    Bf16(Vec<bf16>),
    Bool(Vec<u8>),
    Integers(QuantizedTensor),
}

impl Stored {
    pub(crate) fn view(&self, context: &MfaContext) -> Result<TensorView<'_>, MfaError> {
        let [batch, heads, rows, columns] = self.operand.elements.shape;
        let shape = if self.side_by_side {
            [batch, rows, heads, columns]
        } else {
            self.operand.elements.shape
        };
        let view = match &self.data {
            Data::Fp32(data) => TensorView::from_slice(context, data, shape)?,
            Data::Fp16(data) => TensorView::from_slice(context, data, shape)?,
            Data::Bf16(data) => TensorView::from_slice(context, data, shape)?,
            Data::Bool(data) => TensorView::from_slice(context, data, shape)?,
            Data::Integers(tensor) => return Ok(tensor.view()),
        };
        if self.side_by_side {
            view.permuted([0, 2, 1, 3])
        } else {
            Ok(view)
        }
    }
}

/// Stores an array; `side_by_side`: as `[batch, rows, heads, columns]`, unless it is stored as integers.
pub(crate) fn store(
    context: &MfaContext,
    storage: Storage,
    array: Array,
    side_by_side: bool,
) -> Result<Stored, MfaError> {
    if let Storage::Integers(integers) = storage {
        return quantize(context, integers, &array);
    }
    let (precision, real) = match storage {
        Storage::Fp16 => (Precision::Fp16, array.map(|x| f16::from_f64(x).to_f64())),
        Storage::Bf16 => (Precision::Bf16, array.map(|x| bf16::from_f64(x).to_f64())),
        _ => (Precision::Fp32, array.map(|x| f64::from(x as f32))),
    };
    let values = if side_by_side {
        exchanged(&real)
    } else {
        real.values.clone()
    };
    let data = match precision {
        Precision::Fp16 => Data::Fp16(values.iter().map(|x| f16::from_f64(*x)).collect()),
        Precision::Bf16 => Data::Bf16(values.iter().map(|x| bf16::from_f64(*x)).collect()),
        _ => Data::Fp32(values.iter().map(|x| *x as f32).collect()),
    };
    Ok(Stored {
        data,
        operand: Operand::plain(precision.code(), real),
        side_by_side,
    })
}

/// The values in the order `[batch, rows, heads, columns]`.
fn exchanged(array: &Array) -> Vec<f64> {
    let [batch, heads, rows, columns] = array.shape;
    let row = |b: usize, h: usize, r: usize| (0..columns).map(move |c| [b, h, r, c]);
    let places =
        (0..batch).flat_map(|b| (0..rows).flat_map(move |r| (0..heads).map(move |h| (b, h, r))));
    places
        .flat_map(|(b, h, r)| row(b, h, r))
        .map(|at| array.at(at))
        .collect()
}

fn quantize(context: &MfaContext, integers: Integers, array: &Array) -> Result<Stored, MfaError> {
    let granularity = match integers.grouping {
        Grouping::Tensor => Granularity::Tensor,
        Grouping::Row => Granularity::Row,
        Grouping::Groups => Granularity::RowGroups { columns: 32 },
        Grouping::Block(rows) => Granularity::Block { rows },
        Grouping::Channel(rows) => Granularity::Channel { rows },
    };
    let quantizer = if integers.four_bits {
        Quantizer::int4()
    } else {
        Quantizer::int8()
    }
    .granularity(granularity)
    .asymmetric(integers.asymmetric)
    .smooth(integers.smooth)
    .rotate(integers.rotate)
    .scale_precision(if integers.half_scales {
        Precision::Fp16
    } else {
        Precision::Fp32
    });
    let narrow: Vec<f32> = array.values.iter().map(|x| *x as f32).collect();
    let tensor = quantizer.quantize(
        context,
        &TensorView::from_slice(context, &narrow, array.shape)?,
    )?;
    Ok(Stored {
        operand: take_apart(&tensor, integers, granularity)?,
        data: Data::Integers(tensor),
        side_by_side: false,
    })
}

/// The parts of a quantized tensor, in float64.
fn take_apart(
    tensor: &QuantizedTensor,
    integers: Integers,
    granularity: Granularity,
) -> Result<Operand, MfaError> {
    let (parts, shape) = (tensor.parts(), tensor.shape());
    let [batch, heads, rows, columns] = shape;
    let stored: Vec<f64> = if integers.half_scales {
        parts
            .scales
            .as_slice::<f16>()?
            .iter()
            .map(|x| x.to_f64())
            .collect()
    } else {
        parts
            .scales
            .as_slice::<f32>()?
            .iter()
            .map(|x| f64::from(*x))
            .collect()
    };
    let stored = Array {
        shape: granularity.scale_shape(shape),
        values: stored,
    };
    let zeros = parts
        .zero_points
        .as_ref()
        .map(|buffer| buffer.as_slice::<i8>())
        .transpose()?;
    let mean = parts
        .mean
        .as_ref()
        .map(|buffer| buffer.as_slice::<f32>())
        .transpose()?;
    let group = |[b, h, r, c]: [usize; 4]| match granularity {
        Granularity::Tensor => [0, 0, 0, 0],
        Granularity::Row => [b, h, r, 0],
        Granularity::RowGroups { columns } => [b, h, r, c / columns as usize],
        Granularity::Block { rows } => [b, h, r / rows as usize, 0],
        Granularity::Channel { rows } => [b, h, r / rows as usize, c],
        other => unreachable!("no property draws {other:?}"),
    };
    let bytes = parts.data.bytes();
    let integer = |n: usize| {
        if integers.four_bits {
            let nibble = (bytes[n / 2] >> (4 * (n % 2))) & 0xF;
            f64::from(((nibble ^ 8) as i8) - 8)
        } else {
            f64::from(bytes[n] as i8)
        }
    };
    let (mut scales, mut elements) = (Array::zeros(shape), Array::zeros(shape));
    for at in indices(shape) {
        let (n, i) = (elements.index(at), stored.index(group(at)));
        scales.values[n] = stored.values[i];
        elements.values[n] = integer(n) - zeros.map_or(0.0, |zeros| f64::from(zeros[i]));
    }
    let one_per_row = matches!(granularity, Granularity::Row | Granularity::Block { .. });
    let row_scales = one_per_row.then(|| {
        let mut result = Array::zeros([batch, heads, rows, 1]);
        for at in indices(result.shape) {
            let n = result.index(at);
            result.values[n] = stored.at(group(at));
        }
        result
    });
    Ok(Operand {
        precision: tensor.precision().code(),
        scales: Some(scales),
        elements,
        rotated: integers.rotate,
        mean: mean.map(|mean| Array {
            shape: [batch, heads, 1, columns],
            values: mean.iter().map(|x| f64::from(*x)).collect(),
        }),
        row_scales,
        inside: None,
    })
}

/// A mask, of size 1 where it is repeated.
pub(crate) fn mask(
    context: &MfaContext,
    plan: MaskPlan,
    shape: &Shape,
    random: &mut Random,
) -> Result<Stored, MfaError> {
    let full = [shape.batch, shape.heads(), shape.rows_q, shape.rows_k];
    let size: [usize; 4] =
        std::array::from_fn(|axis| if plan.repeated[axis] { 1 } else { full[axis] });
    let chances = Array::normal(size, random);
    // Of a bell-shaped number, the share below -2 + 4 h is not h, but it grows with it from nothing to all.
    let limit = -2.0 + 4.0 * f64::from(plan.masked) / 100.0;
    let masked = |i: usize| chances.values[i] < limit && plan.masked > 0;
    if plan.kind == MaskKind::Bool {
        let mut real = Array::zeros(size);
        real.values
            .iter_mut()
            .enumerate()
            .for_each(|(i, x)| *x = f64::from(u8::from(!masked(i))));
        // Any byte but 0 is true.
        let data = real
            .values
            .iter()
            .enumerate()
            .map(|(i, x)| if *x == 0.0 { 0 } else { 1 + (i % 255) as u8 })
            .collect();
        return Ok(Stored {
            data: Data::Bool(data),
            operand: Operand::plain(Precision::Bool.code(), real),
            side_by_side: false,
        });
    }
    let mut added = Array::normal(size, random);
    added
        .values
        .iter_mut()
        .enumerate()
        .filter(|(i, _)| masked(*i))
        .for_each(|(_, x)| *x = f64::NEG_INFINITY);
    let storage = if plan.kind == MaskKind::Bf16 {
        Storage::Bf16
    } else {
        Storage::Fp32
    };
    store(context, storage, added, false)
}

/// A result in float64.
pub(crate) fn read(tensor: &Tensor) -> Result<Array, MfaError> {
    let values = match tensor.precision() {
        Precision::Fp16 => tensor
            .as_slice::<f16>()?
            .iter()
            .map(|x| x.to_f64())
            .collect(),
        Precision::Bf16 => tensor
            .as_slice::<bf16>()?
            .iter()
            .map(|x| x.to_f64())
            .collect(),
        _ => tensor
            .as_slice::<f32>()?
            .iter()
            .map(|x| f64::from(*x))
            .collect(),
    };
    Ok(Array {
        shape: tensor.shape(),
        values,
    })
}
