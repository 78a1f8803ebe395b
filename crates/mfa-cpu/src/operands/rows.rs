//! Rows of float tensors: stored in the tensor's precision, loaded, cleared.

use half::{bf16, f16};

use crate::contract::tensor::Tensor;
use mfa_kernels::{Kernels, Precision};

/// Stores `factor` times a row of floats in the tensor's precision. `row` is scratch afterwards.
pub(crate) fn store_scaled_row(
    kernels: &Kernels,
    tensor: &Tensor,
    b: usize,
    h: usize,
    n: usize,
    row: &mut [f32],
    factor: f32,
) {
    let plain = tensor.is_plain_f32();
    let out = match plain {
        true => tensor.at(b, h, n, 0).cast(),
        false => row.as_mut_ptr(),
    };
    // SAFETY: the view was checked to hold `row.len()` columns, and rows do not overlap; or in place.
    unsafe { (kernels.scale)(row.as_ptr(), row.len(), factor, out) };
    if !plain {
        store_row(kernels, tensor, b, h, n, row);
    }
}

/// Stores a row of floats in the tensor's precision.
pub(crate) fn store_row(
    kernels: &Kernels,
    tensor: &Tensor,
    b: usize,
    h: usize,
    n: usize,
    row: &[f32],
) {
    let at = tensor.at(b, h, n, 0);
    let stride = tensor.strides[3];
    // SAFETY: the view was checked to hold `row.len()` columns of a float precision, and rows do not overlap.
    unsafe {
        match tensor.precision {
            Precision::F32 if stride == 1 => {
                row.as_ptr().copy_to_nonoverlapping(at.cast(), row.len())
            }
            Precision::F32 => row
                .iter()
                .enumerate()
                .for_each(|(c, x)| at.cast::<f32>().add(c * stride).write(*x)),
            Precision::F16 if stride == 1 => {
                (kernels.to_f16)(row.as_ptr(), row.len(), at.cast());
            }
            Precision::Bf16 if stride == 1 => {
                (kernels.to_bf16)(row.as_ptr(), row.len(), at.cast());
            }
            Precision::F16 => {
                row.iter()
                    .enumerate()
                    .for_each(|(c, x)| at.cast::<f16>().add(c * stride).write(f16::from_f32(*x)));
            }
            _ => row
                .iter()
                .enumerate()
                .for_each(|(c, x)| at.cast::<bf16>().add(c * stride).write(bf16::from_f32(*x))),
        }
    }
}

/// Zeroes a row of a gradient, FP32 or FP64.
pub(crate) fn clear_row(tensor: &Tensor, b: usize, h: usize, n: usize) {
    let (at, columns) = (tensor.at(b, h, n, 0), tensor.shape[3]);
    let bytes = tensor.precision.bytes();
    if tensor.strides[3] == 1 {
        // SAFETY: the gradient has these columns, one after the other; zero is all bits 0.
        return unsafe { at.write_bytes(0, columns * bytes) };
    }
    for c in 0..columns {
        // SAFETY: the gradient has these columns.
        unsafe { at.add(c * tensor.strides[3] * bytes).write_bytes(0, bytes) };
    }
}

/// Loads a row of a gradient, FP32.
pub(crate) fn load_row(tensor: &Tensor, b: usize, h: usize, n: usize, row: &mut [f32]) {
    let at = tensor.at(b, h, n, 0).cast::<f32>();
    if tensor.strides[3] == 1 {
        // SAFETY: the gradient is FP32 and has `row.len()` columns, one after the other.
        return row.copy_from_slice(unsafe { std::slice::from_raw_parts(at, row.len()) });
    }
    for (c, x) in row.iter_mut().enumerate() {
        // SAFETY: the gradient is FP32 and has `row.len()` columns.
        *x = unsafe { at.add(c * tensor.strides[3]).read() };
    }
}
