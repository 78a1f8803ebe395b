//! Tensors in a session's buffers.

use std::ffi::c_void;

use half::{bf16, f16};
use mfa_sys as sys;

use crate::array::indices;
use crate::{Array, Session};

/// What fills the bytes between the elements of results.
const GAP: u8 = 0xA5;

/// The strides of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Layout {
    /// `[batch, heads, rows, columns]`.
    Packed,
    /// `[batch, rows, heads, columns]`.
    RowsFirst,
    /// `[batch, heads, columns, rows]`.
    Transposed,
    /// Gaps after rows and heads.
    Padded,
}

/// The position in its buffer of each element of a tensor, in the order of the shape.
pub fn elements(tensor: &sys::mfa_tensor) -> Vec<usize> {
    let strides = tensor.strides.map(|stride| stride as usize);
    let start = tensor.byte_offset as usize * 8 / bits(tensor.precision);
    let place = |at: [usize; 4]| at.iter().zip(strides).map(|(i, s)| i * s).sum::<usize>();
    indices(shape(tensor)).map(|at| start + place(at)).collect()
}

fn shape(tensor: &sys::mfa_tensor) -> [usize; 4] {
    tensor.shape.map(|n| n as usize)
}

/// A contiguous FP32 tensor at the beginning of a buffer.
pub fn contiguous(buffer: *mut c_void, shape: [u64; 4]) -> sys::mfa_tensor {
    let mut strides = [1i64; 4];
    for axis in (0..3).rev() {
        strides[axis] = strides[axis + 1] * shape[axis + 1].max(1) as i64;
    }
    sys::mfa_tensor {
        buffer,
        shape,
        strides,
        ..sys::mfa_tensor::ABSENT
    }
}

/// Strides, elements before the first, and elements of the buffer.
fn place(shape: [usize; 4], layout: Layout) -> ([usize; 4], usize, usize) {
    let [_, heads, rows, columns] = shape;
    let (strides, start) = match layout {
        Layout::Packed => ([heads * rows * columns, rows * columns, columns, 1], 0),
        Layout::RowsFirst => ([rows * heads * columns, columns, heads * columns, 1], 0),
        Layout::Transposed => ([heads * rows * columns, rows * columns, 1, rows], 0),
        Layout::Padded => {
            let row = columns + 4 - columns % 2;
            let head = row * (rows + 1);
            ([heads * head + 2 * row, head, row, 1], 2 * row)
        }
    };
    let last: usize = (0..4)
        .map(|axis| shape[axis].saturating_sub(1) * strides[axis])
        .sum();
    let size = if shape.contains(&0) {
        0
    } else {
        start + last + 1 + start
    };
    (strides, start, size.next_multiple_of(2))
}

/// The bits of an element.
pub fn bits(precision: i32) -> usize {
    match precision {
        sys::MFA_PRECISION_FP64 => 64,
        sys::MFA_PRECISION_FP32 => 32,
        sys::MFA_PRECISION_FP16 | sys::MFA_PRECISION_BF16 => 16,
        sys::MFA_PRECISION_INT4 => 4,
        _ => 8,
    }
}

/// The bytes of a number in a float precision or in BOOL.
pub fn encode(x: f64, precision: i32) -> Vec<u8> {
    match precision {
        sys::MFA_PRECISION_FP64 => x.to_le_bytes().to_vec(),
        sys::MFA_PRECISION_FP32 => (x as f32).to_le_bytes().to_vec(),
        sys::MFA_PRECISION_FP16 => f16::from_f64(x).to_le_bytes().to_vec(),
        sys::MFA_PRECISION_BF16 => bf16::from_f64(x).to_le_bytes().to_vec(),
        _ => vec![u8::from(x != 0.0)],
    }
}

/// The number that the bytes of a float precision are.
pub fn decode(bytes: &[u8], precision: i32) -> f64 {
    match precision {
        sys::MFA_PRECISION_FP64 => f64::from_le_bytes(bytes.try_into().unwrap()),
        sys::MFA_PRECISION_FP32 => f64::from(f32::from_le_bytes(bytes.try_into().unwrap())),
        sys::MFA_PRECISION_FP16 => f16::from_le_bytes(bytes.try_into().unwrap()).to_f64(),
        sys::MFA_PRECISION_BF16 => bf16::from_le_bytes(bytes.try_into().unwrap()).to_f64(),
        _ => panic!("precision {precision} is not a float"),
    }
}

impl Session {
    /// Makes a tensor whose buffer holds one byte everywhere, for results; see [`Session::load`].
    pub fn tensor(&self, shape: [usize; 4], precision: i32, layout: Layout) -> sys::mfa_tensor {
        let (strides, start, size) = place(shape, layout);
        let bits = bits(precision);
        let buffer = self.buffer(size * bits / 8);
        self.bytes(buffer).fill(GAP);
        sys::mfa_tensor {
            buffer,
            byte_offset: if size == 0 { 0 } else { start * bits / 8 } as u64,
            precision,
            shape: shape.map(|n| n as u64),
            strides: strides.map(|n| n as i64),
            ..sys::mfa_tensor::ABSENT
        }
    }

    /// Makes a tensor of floats or of BOOL that holds numbers; see [`encode`].
    pub fn store(&self, array: &Array, precision: i32, layout: Layout) -> sys::mfa_tensor {
        let tensor = self.tensor(array.shape, precision, layout);
        let bytes = self.bytes(tensor.buffer);
        let width = bits(precision) / 8;
        for (at, x) in elements(&tensor).into_iter().zip(&array.values) {
            bytes[width * at..][..width].copy_from_slice(&encode(*x, precision));
        }
        tensor
    }

    /// Whether no byte of a tensor's buffer was written since it was made.
    pub fn untouched(&self, tensor: &sys::mfa_tensor) -> bool {
        let bytes = self.bytes(tensor.buffer);
        bytes.iter().all(|byte| *byte == GAP)
    }

    /// The numbers of a tensor of floats; nothing else in its buffer may have been written.
    pub fn load(&self, tensor: &sys::mfa_tensor) -> Array {
        let bytes = self.bytes(tensor.buffer);
        let width = bits(tensor.precision) / 8;
        let mut gaps = vec![true; bytes.len()];
        let read = |at: usize| {
            gaps[width * at..][..width].fill(false);
            decode(&bytes[width * at..][..width], tensor.precision)
        };
        let numbers = elements(tensor).into_iter().map(read).collect();
        for (i, (gap, byte)) in gaps.iter().zip(bytes.iter()).enumerate() {
            assert!(!gap || *byte == GAP, "byte {i} of a gap was written");
        }
        Array::new(shape(tensor), numbers)
    }
}
