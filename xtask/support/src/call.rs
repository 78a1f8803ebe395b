//! One small call of attention, described by data.

use half::{bf16, f16};
use mfa::{
    Alignment, Attention, Compute, Element, Granularity, MfaContext, MfaError, Precision,
    QuantizedTensor, Quantizer, Shape, Tensor, TensorView,
};

/// How an operand is stored.
#[derive(Clone, Copy)]
pub(crate) enum Operand {
    /// FP32, FP16 or BF16.
    Float(Precision),
    /// INT8 or INT4.
    Quantized(Quantizer),
}

/// What is switched on.
#[derive(Clone, Copy)]
pub(crate) enum Switch {
    Nothing,
    Causal(Alignment),
    Window,
    Mask(Precision),
    BroadcastMask,
    Alibi,
    Softcap,
    Sinks,
    Varlen,
    Lengths,
    Fast,
    Transposed,
}

/// A call.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) heads: usize,
    pub(crate) key_heads: usize,
    pub(crate) rows: usize,
    pub(crate) key_rows: usize,
    pub(crate) columns: usize,
    pub(crate) value_columns: usize,
    pub(crate) query: Operand,
    pub(crate) key: Operand,
    pub(crate) value: Operand,
    pub(crate) switch: Switch,
}

impl Call {
    /// Two heads, FP32, nothing switched on.
    pub(crate) const PLAIN: Self = Self {
        heads: 2,
        key_heads: 2,
        rows: 5,
        key_rows: 7,
        columns: 32,
        value_columns: 32,
        query: Operand::Float(Precision::Fp32),
        key: Operand::Float(Precision::Fp32),
        value: Operand::Float(Precision::Fp32),
        switch: Switch::Nothing,
    };

    /// All operands stored in the same way.
    pub(crate) fn all(operand: Operand) -> Self {
        Self {
            query: operand,
            key: operand,
            value: operand,
            ..Self::PLAIN
        }
    }

    /// The same call with something switched on.
    pub(crate) fn with(self, switch: Switch) -> Self {
        Self { switch, ..self }
    }

    /// Runs it forward and, if `backward`, the gradients too.
    pub(crate) fn run(&self, context: &MfaContext, backward: bool) -> mfa::Result<()> {
        let query = Stored::new(
            context,
            self.query,
            [1, self.heads, self.rows, self.columns],
            0.9,
        )?;
        let key = Stored::new(
            context,
            self.key,
            [1, self.key_heads, self.key_rows, self.columns],
            1.7,
        )?;
        let value = Stored::new(
            context,
            self.value,
            [1, self.key_heads, self.key_rows, self.value_columns],
            2.3,
        )?;
        // Stored [columns, rows] per head, seen as [rows, columns].
        let transposed = wave(
            context,
            Precision::Fp32,
            [1, self.key_heads, self.columns, self.key_rows],
            1.7,
        )?;
        let (query, value) = (query.view(), value.view());
        let key = match self.switch {
            Switch::Transposed => transposed.view().transposed(),
            _ => key.view(),
        };

        let mask_shape = [1, self.heads, self.rows, self.key_rows];
        let mask = match self.switch {
            Switch::Mask(Precision::Bool) => {
                let bytes: Vec<bool> = (0..elements(mask_shape)).map(|i| i % 3 != 1).collect();
                Some(Tensor::from_slice(context, &bytes, mask_shape)?)
            }
            Switch::Mask(precision) => Some(wave(context, precision, mask_shape, 0.3)?),
            Switch::BroadcastMask => Some(wave(
                context,
                Precision::Fp32,
                [1, 1, 1, self.key_rows],
                0.3,
            )?),
            _ => None,
        };
        let per_head = wave(context, Precision::Fp32, [1, self.heads, 1, 1], 0.3)?;
        let (query_starts, key_starts) =
            ([0, 2, 2, int(self.rows)?], [0, 3, 4, int(self.key_rows)?]);

        let lengths = [int(self.key_rows)? - 2];
        let double = matches!(self.query, Operand::Float(Precision::Fp64));
        let result = if double {
            Precision::Fp64
        } else {
            Precision::Fp32
        };

        let attention = Attention::new(context);
        let attention = match self.switch {
            Switch::Nothing | Switch::Transposed => attention,
            Switch::Causal(alignment) => attention.causal(true).alignment(alignment),
            Switch::Window => attention
                .window(Some(2), Some(1))
                .alignment(Alignment::TopLeft),
            Switch::Softcap => attention.softcap(5.0),
            Switch::Alibi => attention
                .alibi(per_head.view())
                .alignment(Alignment::TopLeft),
            Switch::Sinks => attention.sinks(per_head.view()),
            Switch::Varlen => attention.varlen(&query_starts, &key_starts)?,
            Switch::Lengths => attention.key_lengths(&lengths)?,
            Switch::Fast => attention.compute(Compute::Fast),
            Switch::Mask(_) | Switch::BroadcastMask => match &mask {
                Some(mask) => attention.mask(mask.view()),
                None => attention,
            },
        };
        let attention = attention.output_precision(result);
        let forward = attention.forward_with_logsumexp(&query, &key, &value)?;
        finite("output", &forward.output)?;
        finite("logsumexp", &forward.logsumexp)?;
        if backward {
            let grad_output = wave(context, result, forward.output.shape(), 0.7)?;
            let gradients =
                attention.backward(&query, &key, &value, &forward, &grad_output.view())?;
            finite("gradient of query", &gradients.query)?;
            finite("gradient of key", &gradients.key)?;
            finite("gradient of value", &gradients.value)?;
        }
        Ok(())
    }
}

/// An operand in memory.
enum Stored {
    Float(Tensor),
    Quantized(QuantizedTensor),
}

impl Stored {
    fn new(context: &MfaContext, operand: Operand, shape: Shape, step: f32) -> mfa::Result<Self> {
        Ok(match operand {
            Operand::Float(precision) => Self::Float(wave(context, precision, shape, step)?),
            Operand::Quantized(quantizer) => {
                let source = wave(context, Precision::Fp32, shape, step)?;
                Self::Quantized(quantizer.quantize(context, &source.view())?)
            }
        })
    }

    fn view(&self) -> TensorView<'_> {
        match self {
            Self::Float(tensor) => tensor.view(),
            Self::Quantized(tensor) => tensor.view(),
        }
    }
}

/// A tensor of sines.
fn wave(
    context: &MfaContext,
    precision: Precision,
    shape: Shape,
    step: f32,
) -> mfa::Result<Tensor> {
    fn stored<T: Element>(
        context: &MfaContext,
        shape: Shape,
        step: f32,
        convert: fn(f32) -> T,
    ) -> mfa::Result<Tensor> {
        let data: Vec<T> = (0..elements(shape))
            .map(|i| convert((i as f32 * step).sin()))
            .collect();
        Tensor::from_slice(context, &data, shape)
    }
    match precision {
        Precision::Fp16 => stored(context, shape, step, f16::from_f32),
        Precision::Bf16 => stored(context, shape, step, bf16::from_f32),
        Precision::Fp64 => stored(context, shape, step, f64::from),
        _ => stored(context, shape, step, |x| x),
    }
}

fn elements(shape: Shape) -> usize {
    shape.iter().product()
}

fn int(size: usize) -> mfa::Result<i32> {
    i32::try_from(size).map_err(|error| MfaError::InvalidArgument(error.to_string()))
}

fn finite(name: &str, tensor: &Tensor) -> mfa::Result<()> {
    let finite = match tensor.precision() {
        Precision::Fp64 => tensor.as_slice::<f64>()?.iter().all(|x| x.is_finite()),
        _ => tensor.as_slice::<f32>()?.iter().all(|x| x.is_finite()),
    };
    if finite {
        return Ok(());
    }
    Err(MfaError::KernelExecution(format!("{name} is not finite")))
}

/// The names that quantizers need.
pub(crate) fn quantized(quantizer: Quantizer, granularity: Granularity) -> Operand {
    Operand::Quantized(quantizer.granularity(granularity))
}
