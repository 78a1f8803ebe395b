//! The forward and the backward call.

use std::ptr::null;

use mfa_sys as sys;

use super::tensor::Tensor;
use crate::error::Result;
use crate::ffi::context::Context;
use crate::ffi::drivers::text;

/// Packed sequences.
#[derive(Clone, Copy, Debug)]
pub struct Sequences {
    /// How many there are.
    pub count: u32,
    /// Cumulated lengths of the queries: int32, `count + 1`.
    pub cu_seqlens_q: sys::mfa_buffer_t,
    /// Cumulated lengths of the keys.
    pub cu_seqlens_k: sys::mfa_buffer_t,
}

/// The options of attention.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Row i attends to keys up to its diagonal.
    pub causal: bool,
    /// None: 1 / sqrt(columns of the query).
    pub softmax_scale: Option<f32>,
    /// 0: none.
    pub softcap: f32,
    /// `MFA_ALIGNMENT_*`.
    pub alignment: i32,
    /// `MFA_COMPUTE_*`.
    pub compute: i32,
    /// Keys to the left and right of the diagonal; -1: no limit.
    pub window: Option<[i64; 2]>,
    /// Booleans, or floats that are added to the scores.
    pub mask: Option<Tensor>,
    /// Slopes of ALiBi, one for each head.
    pub alibi_slopes: Option<Tensor>,
    /// Logits of sinks, one for each head.
    pub sinks: Option<Tensor>,
    /// Sequences that are packed into the rows.
    pub sequences: Option<Sequences>,
    /// How many keys each sequence has, int32; null: all of them.
    pub seqlens_k: sys::mfa_buffer_t,
}

impl Options {
    fn lower(&self) -> sys::mfa_attention_options {
        let mut flags = 0;
        let mut set = |wanted: bool, flag| flags |= if wanted { flag } else { 0 };
        set(self.softmax_scale.is_some(), sys::MFA_OPTION_SCALE);
        set(self.causal, sys::MFA_OPTION_CAUSAL);
        set(self.window.is_some(), sys::MFA_OPTION_WINDOW);
        let none = sys::mfa_attention_options::new();
        let [window_left, window_right] =
            self.window.unwrap_or([none.window_left, none.window_right]);
        let mut options = sys::mfa_attention_options {
            flags,
            softmax_scale: self.softmax_scale.unwrap_or_default(),
            softcap: self.softcap,
            alignment: self.alignment,
            compute: self.compute,
            window_left,
            window_right,
            mask: Tensor::lower_optional(&self.mask),
            alibi_slopes: Tensor::lower_optional(&self.alibi_slopes),
            sinks: Tensor::lower_optional(&self.sinks),
            seqlens_k: self.seqlens_k,
            ..none
        };
        if let Some(sequences) = &self.sequences {
            options.sequence_count = sequences.count;
            options.cu_seqlens_q = sequences.cu_seqlens_q;
            options.cu_seqlens_k = sequences.cu_seqlens_k;
        }
        options
    }
}

/// A forward call.
#[derive(Clone, Copy, Debug)]
pub struct Forward {
    /// Q.
    pub query: Tensor,
    /// K.
    pub key: Tensor,
    /// V.
    pub value: Tensor,
    /// O, written.
    pub output: Tensor,
    /// L, written.
    pub logsumexp: Option<Tensor>,
    /// What to compute.
    pub options: Options,
}

impl Forward {
    fn lowered<R>(&self, call: impl FnOnce(&sys::mfa_forward_desc) -> R) -> R {
        let options = self.options.lower();
        call(&sys::mfa_forward_desc {
            query: self.query.lower(),
            key: self.key.lower(),
            value: self.value.lower(),
            output: self.output.lower(),
            logsumexp: Tensor::lower_optional(&self.logsumexp),
            options: &raw const options,
            ..sys::mfa_forward_desc::new()
        })
    }

    /// Computes.
    ///
    /// # Errors
    ///
    /// As the driver reports.
    ///
    /// # Safety
    ///
    /// See the module.
    pub unsafe fn run(&self, context: &Context) -> Result<()> {
        // SAFETY: the caller's promise; the descriptor points into `self` and the closure's caller.
        self.lowered(|desc| unsafe { context.forward(desc) })
    }

    /// The plan, as lines of "key: value".
    ///
    /// # Errors
    ///
    /// As the driver reports.
    ///
    /// # Safety
    ///
    /// See the module. Nothing is written.
    pub unsafe fn explain(&self, context: &Context) -> Result<String> {
        // SAFETY: the caller's promise.
        self.lowered(|desc| unsafe { explain(context, desc, null()) })
    }

    /// Bytes that the call would allocate beside its outputs, at most.
    ///
    /// # Errors
    ///
    /// As the driver reports.
    ///
    /// # Safety
    ///
    /// See the module. Nothing is written.
    pub unsafe fn workspace_size(&self, context: &Context) -> Result<u64> {
        // SAFETY: the caller's promise.
        self.lowered(|desc| unsafe { workspace_size(context, desc, null()) })
    }
}

/// A backward call.
#[derive(Clone, Copy, Debug)]
pub struct Backward {
    /// Zero the gradients of elements that are stored at the end of the quantized range.
    pub clip: bool,
    /// Q.
    pub query: Tensor,
    /// K.
    pub key: Tensor,
    /// V.
    pub value: Tensor,
    /// O; None: what is needed of it is computed again.
    pub output: Option<Tensor>,
    /// dO.
    pub grad_output: Tensor,
    /// L.
    pub logsumexp: Tensor,
    /// dL; None: 0.
    pub grad_logsumexp: Option<Tensor>,
    /// D, written, or read if `d_given`.
    pub d_values: Option<Tensor>,
    /// Whether D is given.
    pub d_given: bool,
    /// dQ, written.
    pub grad_query: Option<Tensor>,
    /// dK, written.
    pub grad_key: Option<Tensor>,
    /// dV, written.
    pub grad_value: Option<Tensor>,
    /// The gradient of the mask, written.
    pub grad_mask: Option<Tensor>,
    /// The gradient of the sinks, written.
    pub grad_sinks: Option<Tensor>,
    /// What to compute.
    pub options: Options,
}

impl Backward {
    fn lowered<R>(&self, call: impl FnOnce(&sys::mfa_backward_desc) -> R) -> R {
        let options = self.options.lower();
        let mut flags = 0;
        if self.clip {
            flags |= sys::MFA_BACKWARD_CLIP;
        }
        if self.d_given {
            flags |= sys::MFA_BACKWARD_D_GIVEN;
        }
        call(&sys::mfa_backward_desc {
            flags,
            query: self.query.lower(),
            key: self.key.lower(),
            value: self.value.lower(),
            output: Tensor::lower_optional(&self.output),
            grad_output: self.grad_output.lower(),
            logsumexp: self.logsumexp.lower(),
            grad_logsumexp: Tensor::lower_optional(&self.grad_logsumexp),
            d_values: Tensor::lower_optional(&self.d_values),
            grad_query: Tensor::lower_optional(&self.grad_query),
            grad_key: Tensor::lower_optional(&self.grad_key),
            grad_value: Tensor::lower_optional(&self.grad_value),
            grad_mask: Tensor::lower_optional(&self.grad_mask),
            grad_sinks: Tensor::lower_optional(&self.grad_sinks),
            options: &raw const options,
            ..sys::mfa_backward_desc::new()
        })
    }

    /// Computes.
    ///
    /// # Errors
    ///
    /// As the driver reports.
    ///
    /// # Safety
    ///
    /// See the module.
    pub unsafe fn run(&self, context: &Context) -> Result<()> {
        // SAFETY: the caller's promise; the descriptor points into `self` and the closure's caller.
        self.lowered(|desc| unsafe { context.backward(desc) })
    }

    /// The plan, as lines of "key: value".
    ///
    /// # Errors
    ///
    /// As the driver reports.
    ///
    /// # Safety
    ///
    /// See the module. Nothing is written.
    pub unsafe fn explain(&self, context: &Context) -> Result<String> {
        // SAFETY: the caller's promise.
        self.lowered(|desc| unsafe { explain(context, null(), desc) })
    }

    /// Bytes that the call would allocate beside its outputs, at most.
    ///
    /// # Errors
    ///
    /// As the driver reports.
    ///
    /// # Safety
    ///
    /// See the module. Nothing is written.
    pub unsafe fn workspace_size(&self, context: &Context) -> Result<u64> {
        // SAFETY: the caller's promise.
        self.lowered(|desc| unsafe { workspace_size(context, null(), desc) })
    }
}

/// # Safety
///
/// Descriptors must be null or valid.
unsafe fn explain(
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

/// # Safety
///
/// Descriptors must be null or valid.
unsafe fn workspace_size(
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
