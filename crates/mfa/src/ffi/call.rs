//! From the builders and their borrowed tensors to the values of [`lower`](super::lower), and the calls.
//!
//! Every call here is sound for the same reasons: views borrow their buffers, exclusively where they are written; the
//! driver checks in every call that a tensor lies within its buffer; and [`Lower::buffer`] refuses a buffer of another
//! driver, whose handle could mean anything here.

use std::ptr::null_mut;

use mfa_sys as sys;

use crate::attention::Attention;
use crate::context::MfaContext;
use crate::error::{MfaError, Result};
use crate::ffi::lower::{self, stride};
use crate::ffi::{BufferRef, Context};
use crate::gradient_args::{BackwardInputs, BackwardOutputs, DValues};
use crate::layout::Layout;
use crate::quantization::{Part, Quantization};
use crate::quantized::QuantizationError;
use crate::view::TensorView;

/// The arguments of a forward call.
pub(crate) struct ForwardCall<'a> {
    pub attention: &'a Attention<'a>,
    pub query: &'a TensorView<'a>,
    pub key: &'a TensorView<'a>,
    pub value: &'a TensorView<'a>,
    pub output: &'a Layout,
    pub logsumexp: Option<&'a Layout>,
}

impl ForwardCall<'_> {
    pub(crate) fn run(&self) -> Result<()> {
        // SAFETY: see the module.
        unsafe { self.lowered()?.run(self.attention.context.raw()) }
    }

    pub(crate) fn explain(&self) -> Result<String> {
        // SAFETY: see the module.
        unsafe { self.lowered()?.explain(self.attention.context.raw()) }
    }

    pub(crate) fn workspace_size(&self) -> Result<u64> {
        // SAFETY: see the module.
        unsafe { self.lowered()?.workspace_size(self.attention.context.raw()) }
    }

    fn lowered(&self) -> Result<lower::Forward> {
        let lower = Lower {
            context: self.attention.context.raw(),
        };
        let [query, key, value] = lower.operands(self.query, self.key, self.value)?;
        Ok(lower::Forward {
            query,
            key,
            value,
            options: lower.options(self.attention, self.query, self.key)?,
            output: lower.tensor("output", self.output)?,
            logsumexp: lower.optional("logsumexp", self.logsumexp)?,
        })
    }
}

/// The arguments of a backward call.
pub(crate) struct BackwardCall<'a> {
    pub attention: &'a Attention<'a>,
    pub inputs: &'a BackwardInputs<'a>,
    pub outputs: &'a BackwardOutputs<'a>,
}

impl BackwardCall<'_> {
    pub(crate) fn run(&self) -> Result<()> {
        // SAFETY: see the module.
        unsafe { self.lowered()?.run(self.attention.context.raw()) }
    }

    pub(crate) fn explain(&self) -> Result<String> {
        // SAFETY: see the module.
        unsafe { self.lowered()?.explain(self.attention.context.raw()) }
    }

    pub(crate) fn workspace_size(&self) -> Result<u64> {
        // SAFETY: see the module.
        unsafe { self.lowered()?.workspace_size(self.attention.context.raw()) }
    }

    fn lowered(&self) -> Result<lower::Backward> {
        let lower = Lower {
            context: self.attention.context.raw(),
        };
        let (inputs, outputs) = (self.inputs, self.outputs);
        let [query, key, value] = lower.operands(inputs.query, inputs.key, inputs.value)?;
        let options = lower.options(self.attention, inputs.query, inputs.key)?;
        let (d_values, d_given) = match &outputs.d_values {
            DValues::Absent => (None, false),
            DValues::Write(view) => (Some(&view.layout), false),
            DValues::Given(view) => (Some(&view.layout), true),
        };
        let gradient = |what, view: &Option<crate::TensorViewMut<'_>>| {
            lower.optional(what, view.as_ref().map(|view| &view.layout))
        };
        Ok(lower::Backward {
            clip: self.attention.clip,
            query,
            key,
            value,
            output: lower.optional("output", inputs.output.map(|view| &view.layout))?,
            grad_output: lower.tensor("grad_output", &inputs.grad_output.layout)?,
            logsumexp: lower.tensor("logsumexp", &inputs.logsumexp.layout)?,
            grad_logsumexp: lower.optional(
                "grad_logsumexp",
                inputs.grad_logsumexp.map(|view| &view.layout),
            )?,
            d_values: lower.optional("d_values", d_values)?,
            d_given,
            grad_query: gradient("grad_query", &outputs.query)?,
            grad_key: gradient("grad_key", &outputs.key)?,
            grad_value: gradient("grad_value", &outputs.value)?,
            grad_mask: gradient("grad_mask", &outputs.mask)?,
            grad_sinks: gradient("grad_sinks", &outputs.sinks)?,
            options,
        })
    }
}

/// Rounds `source` to `destination`, and writes scales, zero points and means where its quantization says. Whoever calls
/// has exclusive use of all of that memory.
pub(crate) fn quantize(
    context: &MfaContext,
    flags: u32,
    source: &TensorView<'_>,
    destination: &TensorView<'_>,
) -> Result<QuantizationError> {
    let lower = Lower {
        context: context.raw(),
    };
    let destination = lower.operand("destination", destination)?;
    let call = lower::Quantize {
        flags,
        source: lower.tensor("source", &source.layout)?,
        destination,
    };
    // SAFETY: see the module.
    unsafe { call.run(lower.context, true) }.map(Into::into)
}

/// Writes the real values of `source`.
pub(crate) fn dequantize(
    context: &MfaContext,
    source: &TensorView<'_>,
    destination: &Layout,
) -> Result<()> {
    let lower = Lower {
        context: context.raw(),
    };
    let call = lower::Dequantize {
        source: lower.operand("source", source)?,
        destination: lower.tensor("destination", destination)?,
    };
    // SAFETY: see the module.
    unsafe { call.run(lower.context) }
}

/// Makes the values of calls on a context. Errors name the argument.
pub(super) struct Lower<'c> {
    pub(super) context: &'c Context,
}

impl Lower<'_> {
    fn buffer(&self, what: &str, buffer: BufferRef) -> Result<sys::mfa_buffer_t> {
        buffer.on(self.context, what)
    }

    pub(super) fn tensor(&self, what: &str, layout: &Layout) -> Result<lower::Tensor> {
        let memory = lower::BufferPart {
            buffer: self.buffer(what, layout.buffer)?,
            byte_offset: layout.byte_offset as u64,
        };
        Ok(lower::Tensor::new(
            memory,
            layout.precision.code(),
            layout.shape.map(|size| size as u64),
            layout.strides.map(stride),
        ))
    }

    pub(super) fn optional(
        &self,
        what: &str,
        layout: Option<&Layout>,
    ) -> Result<Option<lower::Tensor>> {
        layout.map(|layout| self.tensor(what, layout)).transpose()
    }

    fn operand(&self, what: &str, view: &TensorView<'_>) -> Result<lower::Tensor> {
        let tensor = self.tensor(what, &view.layout)?;
        Ok(match &view.quantization {
            Some(quantization) => tensor.quantized(&self.quantization(what, quantization)?),
            None => tensor,
        })
    }

    fn operands(
        &self,
        query: &TensorView<'_>,
        key: &TensorView<'_>,
        value: &TensorView<'_>,
    ) -> Result<[lower::Tensor; 3]> {
        Ok([
            self.operand("query", query)?,
            self.operand("key", key)?,
            self.operand("value", value)?,
        ])
    }

    fn part(&self, what: &str, part: Option<&Part>) -> Result<lower::BufferPart> {
        let Some(part) = part else {
            return Ok(lower::BufferPart::NONE);
        };
        Ok(lower::BufferPart {
            buffer: self.buffer(what, part.buffer)?,
            byte_offset: part.byte_offset as u64,
        })
    }

    fn quantization(&self, what: &str, from: &Quantization<'_>) -> Result<lower::Quantization> {
        Ok(lower::Quantization {
            granularity: from.granularity,
            scale: from.scale,
            zero_point: from.zero_point,
            scales: self.part(what, from.scales.as_ref())?,
            scale_precision: from.scale_precision.code(),
            scale_strides: from.scale_strides.unwrap_or_default().map(stride),
            zero_points: self.part(what, from.zero_points.as_ref())?,
            zero_point_bytes: from.zero_point_bytes,
            mean: self.part(what, from.mean.as_ref())?,
            rotated: from.rotated,
        })
    }

    fn options(
        &self,
        from: &Attention<'_>,
        query: &TensorView<'_>,
        key: &TensorView<'_>,
    ) -> Result<lower::Options> {
        let alignment = from.diagonal(query.shape(), key.shape())?;
        let optional = |what, view: &Option<TensorView<'_>>| {
            self.optional(what, view.as_ref().map(|view| &view.layout))
        };
        let window = from
            .window
            .map(|sides| sides.map(|side| side.map_or(-1, i64::from)));
        let mut options = lower::Options {
            causal: from.causal,
            softmax_scale: from.scale,
            softcap: from.softcap,
            alignment: alignment as i32,
            compute: from.compute as i32,
            window,
            mask: optional("mask", &from.mask)?,
            alibi_slopes: optional("alibi slopes", &from.alibi)?,
            sinks: optional("sinks", &from.sinks)?,
            sequences: None,
            seqlens_k: null_mut(),
        };
        if let Some(varlen) = &from.varlen {
            options.sequences = Some(lower::Sequences {
                count: varlen.sequences,
                cu_seqlens_q: self.buffer("query starts", varlen.query.reference())?,
                cu_seqlens_k: self.buffer("key starts", varlen.key.reference())?,
            });
        }
        if let Some(given) = &from.key_lengths {
            let sequences = match &from.varlen {
                Some(varlen) => varlen.sequences as usize,
                None => query.shape()[0],
            };
            if given.lengths.len() != sequences {
                return Err(MfaError::InvalidArgument(format!(
                    "key_lengths: {} numbers; expected {sequences}, one for each sequence",
                    given.lengths.len()
                )));
            }
            options.seqlens_k = self.buffer("key lengths", given.buffer.reference())?;
        }
        Ok(options)
    }
}
