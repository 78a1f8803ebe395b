//! From borrowed tensors to the contract's descriptors, and the calls.
//!
//! Every call here is sound for the same reasons: views borrow their buffers, exclusively where they are written; the
//! driver checks in every call that a tensor lies within its buffer; and [`Lower::buffer`] refuses a buffer of another
//! driver, whose handle could mean anything here.

use std::ptr::{from_ref, null, null_mut};

use mfa_sys as sys;

use crate::attention::Attention;
use crate::backward::{BackwardInputs, BackwardOutputs, DValues};
use crate::context::MfaContext;
use crate::error::{MfaError, Result};
use crate::ffi::drivers::text;
use crate::ffi::{BufferRef, Context};
use crate::layout::Layout;
use crate::quantization::{Granularity, Part, Quantization};
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
        self.lowered(|context, desc| unsafe { context.forward(desc) })
    }

    pub(crate) fn explain(&self) -> Result<String> {
        self.lowered(|context, desc| explain(context, desc, null()))
    }

    pub(crate) fn workspace_size(&self) -> Result<u64> {
        self.lowered(|context, desc| workspace_size(context, desc, null()))
    }

    fn lowered<R>(
        &self,
        call: impl FnOnce(&Context, &sys::mfa_forward_desc) -> Result<R>,
    ) -> Result<R> {
        let lower = Lower {
            context: self.attention.context.raw(),
        };
        let operands = lower.operands(self.query, self.key, self.value)?;
        let options = lower.options(self.attention, self.query, self.key)?;
        let desc = sys::mfa_forward_desc {
            query: operands.query(),
            key: operands.key(),
            value: operands.value(),
            output: lower.tensor("output", self.output)?,
            logsumexp: lower.optional("logsumexp", self.logsumexp)?,
            options: &raw const options,
            ..sys::mfa_forward_desc::new()
        };
        call(lower.context, &desc)
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
        self.lowered(|context, desc| unsafe { context.backward(desc) })
    }

    pub(crate) fn explain(&self) -> Result<String> {
        self.lowered(|context, desc| explain(context, null(), desc))
    }

    pub(crate) fn workspace_size(&self) -> Result<u64> {
        self.lowered(|context, desc| workspace_size(context, null(), desc))
    }

    fn lowered<R>(
        &self,
        call: impl FnOnce(&Context, &sys::mfa_backward_desc) -> Result<R>,
    ) -> Result<R> {
        let lower = Lower {
            context: self.attention.context.raw(),
        };
        let (inputs, outputs) = (self.inputs, self.outputs);
        let operands = lower.operands(inputs.query, inputs.key, inputs.value)?;
        let options = lower.options(self.attention, inputs.query, inputs.key)?;
        let (d_values, given) = match &outputs.d_values {
            DValues::Absent => (None, 0),
            DValues::Write(view) => (Some(&view.layout), 0),
            DValues::Given(view) => (Some(&view.layout), sys::MFA_BACKWARD_D_GIVEN),
        };
        let gradient = |what, view: &Option<crate::TensorViewMut<'_>>| {
            lower.optional(what, view.as_ref().map(|view| &view.layout))
        };
        let desc = sys::mfa_backward_desc {
            flags: given
                | if self.attention.clip {
                    sys::MFA_BACKWARD_CLIP
                } else {
                    0
                },
            query: operands.query(),
            key: operands.key(),
            value: operands.value(),
            output: lower.optional("output", inputs.output.map(|view| &view.layout))?,
            grad_output: lower.tensor("grad_output", &inputs.grad_output.layout)?,
            logsumexp: lower.tensor("logsumexp", &inputs.logsumexp.layout)?,
            grad_logsumexp: lower.optional(
                "grad_logsumexp",
                inputs.grad_logsumexp.map(|view| &view.layout),
            )?,
            d_values: lower.optional("d_values", d_values)?,
            grad_query: gradient("grad_query", &outputs.query)?,
            grad_key: gradient("grad_key", &outputs.key)?,
            grad_value: gradient("grad_value", &outputs.value)?,
            grad_mask: gradient("grad_mask", &outputs.mask)?,
            grad_sinks: gradient("grad_sinks", &outputs.sinks)?,
            options: &raw const options,
            ..sys::mfa_backward_desc::new()
        };
        call(lower.context, &desc)
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
    let quantization = lower.quantization("destination", destination.quantization.as_ref())?;
    let mut error = sys::mfa_quantization_error::default();
    let desc = sys::mfa_quantize_desc {
        flags,
        source: lower.tensor("source", &source.layout)?,
        destination: with(
            lower.tensor("destination", &destination.layout)?,
            quantization.as_ref(),
        ),
        error: &raw mut error,
        ..sys::mfa_quantize_desc::new()
    };
    // SAFETY: see the module.
    unsafe { lower.context.quantize(&desc) }?;
    Ok(error.into())
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
    let quantization = lower.quantization("source", source.quantization.as_ref())?;
    let source = with(
        lower.tensor("source", &source.layout)?,
        quantization.as_ref(),
    );
    let destination = lower.tensor("destination", destination)?;
    // SAFETY: see the module.
    unsafe { lower.context.dequantize(&source, &destination) }
}

fn explain(
    context: &Context,
    forward: *const sys::mfa_forward_desc,
    backward: *const sys::mfa_backward_desc,
) -> Result<String> {
    text(context.api(), context.handle(), |text, capacity, length| {
        // SAFETY: the pointers are those of `text` and of a descriptor, or null.
        unsafe {
            (context.api().mfa_explain)(context.handle(), forward, backward, text, capacity, length)
        }
    })
}

fn workspace_size(
    context: &Context,
    forward: *const sys::mfa_forward_desc,
    backward: *const sys::mfa_backward_desc,
) -> Result<u64> {
    let mut bytes = 0;
    // SAFETY: valid pointers, and a descriptor or null.
    let status = unsafe {
        (context.api().mfa_workspace_size)(context.handle(), forward, backward, &raw mut bytes)
    };
    context.check(status)?;
    Ok(bytes)
}

/// Three tensors with their quantizations, which the tensors point at once they have come to rest.
struct Operands {
    tensors: [sys::mfa_tensor; 3],
    quantizations: [Option<sys::mfa_quantization>; 3],
}

impl Operands {
    fn query(&self) -> sys::mfa_tensor {
        with(self.tensors[0], self.quantizations[0].as_ref())
    }

    fn key(&self) -> sys::mfa_tensor {
        with(self.tensors[1], self.quantizations[1].as_ref())
    }

    fn value(&self) -> sys::mfa_tensor {
        with(self.tensors[2], self.quantizations[2].as_ref())
    }
}

fn with(tensor: sys::mfa_tensor, quantization: Option<&sys::mfa_quantization>) -> sys::mfa_tensor {
    sys::mfa_tensor {
        quantization: quantization.map_or(null(), from_ref),
        ..tensor
    }
}

/// Makes descriptors for calls on a context. Errors name the argument.
pub(super) struct Lower<'c> {
    pub(super) context: &'c Context,
}

impl Lower<'_> {
    fn buffer(&self, what: &str, buffer: BufferRef) -> Result<sys::mfa_buffer_t> {
        buffer.on(self.context, what)
    }

    pub(super) fn tensor(&self, what: &str, layout: &Layout) -> Result<sys::mfa_tensor> {
        Ok(sys::mfa_tensor {
            buffer: self.buffer(what, layout.buffer)?,
            byte_offset: layout.byte_offset as u64,
            precision: layout.precision.code(),
            reserved: 0,
            shape: layout.shape.map(|size| size as u64),
            strides: layout.strides.map(stride),
            quantization: null(),
        })
    }

    pub(super) fn optional(&self, what: &str, layout: Option<&Layout>) -> Result<sys::mfa_tensor> {
        layout.map_or(Ok(sys::mfa_tensor::ABSENT), |layout| {
            self.tensor(what, layout)
        })
    }

    fn operands(
        &self,
        query: &TensorView<'_>,
        key: &TensorView<'_>,
        value: &TensorView<'_>,
    ) -> Result<Operands> {
        Ok(Operands {
            tensors: [
                self.tensor("query", &query.layout)?,
                self.tensor("key", &key.layout)?,
                self.tensor("value", &value.layout)?,
            ],
            quantizations: [
                self.quantization("query", query.quantization.as_ref())?,
                self.quantization("key", key.quantization.as_ref())?,
                self.quantization("value", value.quantization.as_ref())?,
            ],
        })
    }

    fn part(&self, what: &str, part: Option<&Part>) -> Result<(sys::mfa_buffer_t, u64)> {
        let Some(part) = part else {
            return Ok((null_mut(), 0));
        };
        Ok((self.buffer(what, part.buffer)?, part.byte_offset as u64))
    }

    fn quantization(
        &self,
        what: &str,
        from: Option<&Quantization<'_>>,
    ) -> Result<Option<sys::mfa_quantization>> {
        let Some(from) = from else { return Ok(None) };
        let (granularity, block_rows, group_size) = match from.granularity {
            Granularity::Tensor => (sys::MFA_GRANULARITY_TENSOR, 0, 0),
            Granularity::Row => (sys::MFA_GRANULARITY_ROW, 0, 0),
            Granularity::RowGroups { columns } => (sys::MFA_GRANULARITY_ROW, 0, columns),
            Granularity::Block { rows } => (sys::MFA_GRANULARITY_BLOCK, rows, 0),
            Granularity::Channel { rows } => (sys::MFA_GRANULARITY_CHANNEL, rows, 0),
        };
        let (scale_buffer, scale_offset) = self.part(what, from.scales.as_ref())?;
        let (zero_point_buffer, zero_point_offset) = self.part(what, from.zero_points.as_ref())?;
        let (mean_buffer, mean_offset) = self.part(what, from.mean.as_ref())?;
        Ok(Some(sys::mfa_quantization {
            granularity,
            block_rows,
            group_size,
            scale: from.scale,
            zero_point: from.zero_point,
            scale_buffer,
            scale_offset,
            scale_precision: from.scale_precision.code(),
            rotated: from.rotated.into(),
            zero_point_buffer,
            zero_point_offset,
            zero_point_bytes: from.zero_point_bytes,
            scale_strides: from.scale_strides.unwrap_or_default().map(stride),
            mean_buffer,
            mean_offset,
            ..sys::mfa_quantization::new()
        }))
    }

    fn options(
        &self,
        from: &Attention<'_>,
        query: &TensorView<'_>,
        key: &TensorView<'_>,
    ) -> Result<sys::mfa_attention_options> {
        let alignment = from.diagonal(query.shape(), key.shape())?;
        let mut flags = 0;
        let mut set = |wanted: bool, flag| flags |= if wanted { flag } else { 0 };
        set(from.scale.is_some(), sys::MFA_OPTION_SCALE);
        set(from.causal, sys::MFA_OPTION_CAUSAL);
        set(from.window.is_some(), sys::MFA_OPTION_WINDOW);
        let [window_left, window_right] = from
            .window
            .unwrap_or_default()
            .map(|side| side.map_or(-1, i64::from));
        let optional = |what, view: &Option<TensorView<'_>>| {
            self.optional(what, view.as_ref().map(|view| &view.layout))
        };
        let mut options = sys::mfa_attention_options {
            flags,
            softmax_scale: from.scale.unwrap_or_default(),
            softcap: from.softcap,
            alignment: alignment as i32,
            compute: from.compute as i32,
            window_left,
            window_right,
            mask: optional("mask", &from.mask)?,
            alibi_slopes: optional("alibi slopes", &from.alibi)?,
            sinks: optional("sinks", &from.sinks)?,
            ..sys::mfa_attention_options::new()
        };
        if let Some(varlen) = &from.varlen {
            options.sequence_count = varlen.sequences;
            options.cu_seqlens_q = self.buffer("query starts", varlen.query.reference())?;
            options.cu_seqlens_k = self.buffer("key starts", varlen.key.reference())?;
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

/// No buffer has a stride beyond `i64`: the driver refuses what is cut off here.
fn stride(stride: usize) -> i64 {
    i64::try_from(stride).unwrap_or(i64::MAX)
}
