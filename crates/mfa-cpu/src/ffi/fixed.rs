//! The fixed signatures: thin entries over the general calls. The documentation of each function is in `mfa.h`.
#![allow(clippy::missing_safety_doc, missing_docs)]

use crate::contract::buffer;
use std::ffi::c_void;
use std::ptr::null;

use mfa_sys as sys;

use super::general::{run_backward, run_forward};
use super::guard;
use super::handles;
use crate::contract::problem::MAX_HEAD_DIM;
use crate::error::{Error, Result, ensure};
use crate::runtime::record::{self, OPERANDS, Record};
use mfa_kernels::Precision;

const FP32: i32 = sys::MFA_PRECISION_FP32;

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

/// Buffers of the results of forward.
struct Outputs {
    output: *mut c_void,
    logsumexp: *mut c_void,
}

/// Buffers of a backward pass; those that it does not write are NULL.
struct Gradients {
    grad_output: *mut c_void,
    logsumexp: *mut c_void,
    d_values: *mut c_void,
    query: *mut c_void,
    key: *mut c_void,
    value: *mut c_void,
}

impl Record {
    fn shape_of(&self, operand: usize) -> [u64; 4] {
        let [batch, rows, keys, heads] = self.shape.map(u64::from);
        let rows = if operand == 0 { rows } else { keys };
        [batch, heads, rows, u64::from(self.head_dim)]
    }

    /// Tensor-wise scales and zero points.
    fn quantizations(&self) -> [sys::mfa_quantization; 3] {
        std::array::from_fn(|i| sys::mfa_quantization {
            scale: self.scales[i],
            zero_point: self.zero_points[i],
            ..sys::mfa_quantization::new()
        })
    }

    /// Query, key and value.
    fn tensors(&self, quantizations: &[sys::mfa_quantization; 3]) -> Result<[sys::mfa_tensor; 3]> {
        ensure!(
            self.head_dim > 0,
            dimensions,
            "head_dim is 0; expected 1 to {MAX_HEAD_DIM}"
        );
        let mut tensors = [sys::mfa_tensor::ABSENT; 3];
        for (i, what) in OPERANDS.into_iter().enumerate() {
            let quantization = if self.is_quantized(i) {
                &raw const quantizations[i]
            } else {
                null()
            };
            tensors[i] = dense(
                self.operands[i],
                what,
                self.precisions[i],
                self.shape_of(i),
                self.transposed[i],
                quantization,
            )?;
        }
        Ok(tensors)
    }

    fn options(&self) -> sys::mfa_attention_options {
        sys::mfa_attention_options {
            flags: self.flags(),
            softmax_scale: self.softmax_scale,
            ..sys::mfa_attention_options::new()
        }
    }

    /// An FP32 tensor in the layout of the output (`operand` 0) or of an operand.
    fn like(
        &self,
        operand: usize,
        transposed: bool,
        buffer: *mut c_void,
        what: &str,
    ) -> Result<sys::mfa_tensor> {
        dense(
            buffer,
            what,
            FP32,
            self.shape_of(operand),
            transposed,
            null(),
        )
    }

    /// One FP32 number per query row.
    fn per_row(&self, buffer: *mut c_void, what: &str) -> Result<sys::mfa_tensor> {
        let [batch, heads, rows, _] = self.shape_of(0);
        dense(buffer, what, FP32, [batch, heads, rows, 1], false, null())
    }

    /// Runs the forward pass.
    fn forward(&self, context: *mut c_void, outputs: &Outputs) -> Result<()> {
        let context = handles::context(context)?;
        let (quantizations, options) = (self.quantizations(), self.options());
        let [query, key, value] = self.tensors(&quantizations)?;
        let mut desc = sys::mfa_forward_desc {
            query,
            key,
            value,
            output: self.like(0, self.transposed[3], outputs.output, "output")?,
            options: &raw const options,
            ..sys::mfa_forward_desc::new()
        };
        if !outputs.logsumexp.is_null() {
            desc.logsumexp = self.per_row(outputs.logsumexp, "logsumexp")?;
        }
        run_forward(&context, &desc)
    }

    /// Runs a backward pass.
    fn backward(&self, context: *mut c_void, flags: u32, gradients: &Gradients) -> Result<()> {
        let context = handles::context(context)?;
        let (quantizations, options) = (self.quantizations(), self.options());
        let [query, key, value] = self.tensors(&quantizations)?;
        let gradient = |operand: usize, buffer: *mut c_void, what: &str| {
            if buffer.is_null() {
                return Ok(sys::mfa_tensor::ABSENT);
            }
            self.like(operand, self.transposed[operand], buffer, what)
        };
        let desc = sys::mfa_backward_desc {
            flags,
            query,
            key,
            value,
            grad_output: self.like(0, self.transposed[3], gradients.grad_output, "grad_output")?,
            logsumexp: self.per_row(gradients.logsumexp, "logsumexp")?,
            d_values: self.per_row(gradients.d_values, "d_values")?,
            grad_query: gradient(0, gradients.query, "grad_query")?,
            grad_key: gradient(1, gradients.key, "grad_key")?,
            grad_value: gradient(2, gradients.value, "grad_value")?,
            options: &raw const options,
            ..sys::mfa_backward_desc::new()
        };
        run_backward(&context, &desc)
    }
}

/// Refuses NULL for a buffer that a pass writes or reads.
fn expect_buffers(buffers: &[(*mut c_void, &str)]) -> Result<()> {
    for (buffer, what) in buffers {
        buffer::buffer(*buffer, what)?;
    }
    Ok(())
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
        handles::context(context)?;
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
            transposed: [transpose_q, transpose_k, transpose_v, transpose_o],
            softmax_scale,
            causal,
        };
        record.forward(
            context,
            &Outputs {
                output: output_ptr,
                logsumexp: std::ptr::null_mut(),
            },
        )
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
            transposed: [transpose_q, transpose_k, transpose_v, transpose_o],
            softmax_scale,
            causal,
        };
        record.forward(
            context,
            &Outputs {
                output: output_ptr,
                logsumexp: logsumexp_ptr,
            },
        )?;
        record::remember(&mut handles::context(context)?.records(), record);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn mfa_attention_backward_query_quantized(
    context: *mut c_void,
    query_ptr: *mut c_void,
    key_ptr: *mut c_void,
    value_ptr: *mut c_void,
    grad_output_ptr: *mut c_void,
    logsumexp_ptr: *mut c_void,
    grad_query_ptr: *mut c_void,
    d_values_ptr: *mut c_void,
    batch_size: u32,
    seq_len_q: u32,
    seq_len_kv: u32,
    num_heads: u32,
    head_dim: u16,
    q_scale: f32,
    q_zero_point: i32,
) -> i32 {
    guard(|| {
        let operands = [query_ptr, key_ptr, value_ptr];
        let record = record::recall(&handles::context(context)?.records(), operands)?;
        let shape = [batch_size, seq_len_q, seq_len_kv, num_heads];
        record.expect(shape, head_dim, &[(q_scale, q_zero_point)])?;
        expect_buffers(&[
            (grad_query_ptr, "grad_query_ptr"),
            (d_values_ptr, "d_values_ptr"),
        ])?;
        let gradients = Gradients {
            grad_output: grad_output_ptr,
            logsumexp: logsumexp_ptr,
            d_values: d_values_ptr,
            query: grad_query_ptr,
            key: std::ptr::null_mut(),
            value: std::ptr::null_mut(),
        };
        record.backward(context, 0, &gradients)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn mfa_attention_backward_kv_quantized(
    context: *mut c_void,
    query_ptr: *mut c_void,
    key_ptr: *mut c_void,
    value_ptr: *mut c_void,
    grad_output_ptr: *mut c_void,
    logsumexp_ptr: *mut c_void,
    d_values_ptr: *mut c_void,
    grad_key_ptr: *mut c_void,
    grad_value_ptr: *mut c_void,
    batch_size: u32,
    seq_len_q: u32,
    seq_len_kv: u32,
    num_heads: u32,
    head_dim: u16,
    q_scale: f32,
    q_zero_point: i32,
    k_scale: f32,
    k_zero_point: i32,
    v_scale: f32,
    v_zero_point: i32,
) -> i32 {
    guard(|| {
        let operands = [query_ptr, key_ptr, value_ptr];
        let record = record::recall(&handles::context(context)?.records(), operands)?;
        let shape = [batch_size, seq_len_q, seq_len_kv, num_heads];
        let given = [
            (q_scale, q_zero_point),
            (k_scale, k_zero_point),
            (v_scale, v_zero_point),
        ];
        record.expect(shape, head_dim, &given)?;
        expect_buffers(&[
            (d_values_ptr, "d_values_ptr"),
            (grad_key_ptr, "grad_key_ptr"),
            (grad_value_ptr, "grad_value_ptr"),
        ])?;
        let gradients = Gradients {
            grad_output: grad_output_ptr,
            logsumexp: logsumexp_ptr,
            d_values: d_values_ptr,
            query: std::ptr::null_mut(),
            key: grad_key_ptr,
            value: grad_value_ptr,
        };
        record.backward(context, sys::MFA_BACKWARD_D_GIVEN, &gradients)
    })
}
