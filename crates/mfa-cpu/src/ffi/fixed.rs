//! The fixed signatures: thin entries over the general calls. The documentation of each function is in `mfa.h`.
#![allow(clippy::missing_safety_doc, missing_docs)]

use std::ffi::c_void;

use mfa_sys as sys;

use super::general::run_forward;
use super::guard;
use crate::error::{Error, Result, ensure};
use crate::handle;
use crate::precision::Precision;
use crate::record::{self, Record};

/// A contiguous `[batch, heads, rows, columns]` tensor, each head's matrix transposed or not.
fn dense(
    buffer: *mut c_void,
    what: &str,
    precision: i32,
    shape: [u64; 4],
    transposed: bool,
    quantization: *const sys::mfa_quantization,
) -> Result<sys::mfa_tensor> {
    let matrix = i128::from(shape[2]) * i128::from(shape[3]);
    let (row, column) = if transposed {
        (1, i128::from(shape[2]))
    } else {
        (i128::from(shape[3]), 1)
    };
    let mut strides = [0i64; 4];
    for (axis, stride) in [matrix * i128::from(shape[1]), matrix, row, column]
        .into_iter()
        .enumerate()
    {
        strides[axis] = i64::try_from(stride).map_err(|_| {
            Error::dimensions(format!(
                "{what}: shape {shape:?} has more elements than can be addressed"
            ))
        })?;
    }
    Ok(sys::mfa_tensor {
        buffer,
        precision,
        shape,
        strides,
        quantization,
        ..sys::mfa_tensor::ABSENT
    })
}

/// Tensor-wise scale and zero point.
fn tensor_wise(scale: f32, zero_point: i32) -> sys::mfa_quantization {
    sys::mfa_quantization {
        scale,
        zero_point,
        ..sys::mfa_quantization::new()
    }
}

/// A call by fixed signature.
struct Fixed {
    record: Record,
    output: *mut c_void,
    logsumexp: *mut c_void,
    transpose_o: bool,
}

impl Fixed {
    /// Runs the forward pass.
    fn forward(&self, context: *mut c_void) -> Result<()> {
        let context = handle::context(context)?;
        let r = &self.record;
        let [batch, rows, keys, heads] = r.shape.map(u64::from);
        let columns = u64::from(r.head_dim);
        ensure!(columns > 0, dimensions, "head_dim is 0; expected 1 to 512");
        let quantizations: [_; 3] =
            std::array::from_fn(|i| tensor_wise(r.scales[i], r.zero_points[i]));
        let mut tensors = [sys::mfa_tensor::ABSENT; 3];
        for (i, what) in ["query", "key", "value"].into_iter().enumerate() {
            let quantized =
                Precision::from_code(r.precisions[i]).is_some_and(Precision::is_quantized);
            let quantization = if quantized {
                &raw const quantizations[i]
            } else {
                std::ptr::null()
            };
            let shape = [batch, heads, if i == 0 { rows } else { keys }, columns];
            tensors[i] = dense(
                r.operands[i],
                what,
                r.precisions[i],
                shape,
                r.transposed[i],
                quantization,
            )?;
        }
        let options = sys::mfa_attention_options {
            flags: r.flags(),
            softmax_scale: r.softmax_scale,
            ..sys::mfa_attention_options::new()
        };
        let fp32 = sys::MFA_PRECISION_FP32;
        let none = std::ptr::null();
        let [query, key, value] = tensors;
        let mut desc = sys::mfa_forward_desc {
            query,
            key,
            value,
            output: dense(
                self.output,
                "output",
                fp32,
                [batch, heads, rows, columns],
                self.transpose_o,
                none,
            )?,
            options: &raw const options,
            ..sys::mfa_forward_desc::new()
        };
        if !self.logsumexp.is_null() {
            desc.logsumexp = dense(
                self.logsumexp,
                "logsumexp",
                fp32,
                [batch, heads, rows, 1],
                false,
                none,
            )?;
        }
        run_forward(&context, &desc)
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn mfa_attention_forward(
    context: *mut c_void,
    query_ptr: *mut c_void,
    key_ptr: *mut c_void,
    value_ptr: *mut c_void,
    output_ptr: *mut c_void,
    batch_size: u32,
    seq_len_q: u32,
    seq_len_kv: u32,
    num_heads: u32,
    head_dim: u16,
    softmax_scale: f32,
    causal: bool,
    q_precision: i32,
    k_precision: i32,
    v_precision: i32,
    transpose_q: bool,
    transpose_k: bool,
    transpose_v: bool,
    transpose_o: bool,
) -> i32 {
    guard(|| {
        handle::context(context)?;
        let precisions = [q_precision, k_precision, v_precision];
        for (precision, what) in
            precisions
                .into_iter()
                .zip(["q_precision", "k_precision", "v_precision"])
        {
            ensure!(
                Precision::from_code(precision).is_some_and(Precision::is_float),
                argument,
                "{what} is {precision}; expected 0 (FP32), 1 (FP16) or 2 (BF16): quantized operands need scales, which \
                 mfa_attention_forward_quantized takes"
            );
        }
        let record = Record {
            operands: [query_ptr, key_ptr, value_ptr],
            shape: [batch_size, seq_len_q, seq_len_kv, num_heads],
            head_dim,
            precisions,
            scales: [1.0; 3],
            zero_points: [0; 3],
            transposed: [transpose_q, transpose_k, transpose_v],
            softmax_scale,
            causal,
        };
        Fixed {
            record,
            output: output_ptr,
            logsumexp: std::ptr::null_mut(),
            transpose_o,
        }
        .forward(context)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn mfa_attention_forward_quantized(
    context: *mut c_void,
    query_ptr: *mut c_void,
    key_ptr: *mut c_void,
    value_ptr: *mut c_void,
    output_ptr: *mut c_void,
    logsumexp_ptr: *mut c_void,
    batch_size: u32,
    seq_len_q: u32,
    seq_len_kv: u32,
    num_heads: u32,
    head_dim: u16,
    softmax_scale: f32,
    causal: bool,
    q_precision: i32,
    k_precision: i32,
    v_precision: i32,
    q_scale: f32,
    q_zero_point: i32,
    k_scale: f32,
    k_zero_point: i32,
    v_scale: f32,
    v_zero_point: i32,
    transpose_q: bool,
    transpose_k: bool,
    transpose_v: bool,
    transpose_o: bool,
) -> i32 {
    guard(|| {
        let record = Record {
            operands: [query_ptr, key_ptr, value_ptr],
            shape: [batch_size, seq_len_q, seq_len_kv, num_heads],
            head_dim,
            precisions: [q_precision, k_precision, v_precision],
            scales: [q_scale, k_scale, v_scale],
            zero_points: [q_zero_point, k_zero_point, v_zero_point],
            transposed: [transpose_q, transpose_k, transpose_v],
            softmax_scale,
            causal,
        };
        Fixed {
            record,
            output: output_ptr,
            logsumexp: logsumexp_ptr,
            transpose_o,
        }
        .forward(context)?;
        record::remember(&mut handle::context(context)?.records(), record);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn mfa_attention_backward_query_quantized(
    context: *mut c_void,
    _query_ptr: *mut c_void,
    _key_ptr: *mut c_void,
    _value_ptr: *mut c_void,
    _grad_output_ptr: *mut c_void,
    _logsumexp_ptr: *mut c_void,
    _grad_query_ptr: *mut c_void,
    _d_values_ptr: *mut c_void,
    _batch_size: u32,
    _seq_len_q: u32,
    _seq_len_kv: u32,
    _num_heads: u32,
    _head_dim: u16,
    _q_scale: f32,
    _q_zero_point: i32,
) -> i32 {
    guard(|| {
        handle::context(context)?;
        Err(Error::unsupported(
            "backward is not supported by this driver",
        ))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn mfa_attention_backward_kv_quantized(
    context: *mut c_void,
    _query_ptr: *mut c_void,
    _key_ptr: *mut c_void,
    _value_ptr: *mut c_void,
    _grad_output_ptr: *mut c_void,
    _logsumexp_ptr: *mut c_void,
    _d_values_ptr: *mut c_void,
    _grad_key_ptr: *mut c_void,
    _grad_value_ptr: *mut c_void,
    _batch_size: u32,
    _seq_len_q: u32,
    _seq_len_kv: u32,
    _num_heads: u32,
    _head_dim: u16,
    _q_scale: f32,
    _q_zero_point: i32,
    _k_scale: f32,
    _k_zero_point: i32,
    _v_scale: f32,
    _v_zero_point: i32,
) -> i32 {
    guard(|| {
        handle::context(context)?;
        Err(Error::unsupported(
            "backward is not supported by this driver",
        ))
    })
}
