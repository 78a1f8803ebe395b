//! A context of the driver, and tensors in its buffers.

use std::ffi::{CStr, c_void};
use std::ptr::null_mut;

use mfa_sys as sys;

use crate::case::Layout;
use crate::reference::Real;

/// What fills the bytes between the elements of results.
const GAP: u8 = 0xA5;

/// A context. Buffers live as long as the process: tests make few.
pub(crate) struct Session {
    pub(crate) api: sys::Api,
    pub(crate) context: *mut c_void,
}

/// A tensor of the driver and where its elements lie.
#[derive(Clone, Copy)]
pub(crate) struct View {
    pub(crate) tensor: sys::mfa_tensor,
    start: usize,
}

impl View {
    pub(crate) fn absent() -> Self {
        View {
            tensor: sys::mfa_tensor::ABSENT,
            start: 0,
        }
    }

    /// The elements' numbers, in the order of their buffer, for each place in the shape.
    pub(crate) fn elements(&self) -> Vec<usize> {
        let [batch, heads, rows, columns] = self.tensor.shape.map(|n| n as usize);
        let strides = self.tensor.strides.map(|s| s as usize);
        let mut out = Vec::with_capacity(batch * heads * rows * columns);
        for b in 0..batch {
            for h in 0..heads {
                for n in 0..rows {
                    for c in 0..columns {
                        let at = [b, h, n, c];
                        let offset: usize = at.iter().zip(strides).map(|(i, s)| i * s).sum();
                        out.push(self.start + offset);
                    }
                }
            }
        }
        out
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
    let empty = shape.contains(&0);
    let last: usize = (0..4)
        .map(|axis| shape[axis].saturating_sub(1) * strides[axis])
        .sum();
    let size = if empty { 0 } else { start + last + 1 + start };
    (strides, start, size.next_multiple_of(2))
}

impl Session {
    pub(crate) fn new(threads: u32) -> Self {
        let api = mfa_cpu::api();
        let mut context = null_mut();
        // SAFETY: a place for the handle; then a live context.
        unsafe {
            assert_eq!((api.mfa_create_context)(&mut context), sys::MFA_SUCCESS);
            let status = (api.mfa_set_num_threads)(context, threads);
            assert_eq!(status, sys::MFA_SUCCESS);
        }
        Session { api, context }
    }

    pub(crate) fn buffer(&self, size: usize) -> *mut c_void {
        let mut buffer = null_mut();
        // SAFETY: a place for the handle.
        let status =
            unsafe { (self.api.mfa_create_buffer)(self.context, size as u64, &mut buffer) };
        assert_eq!(status, sys::MFA_SUCCESS);
        buffer
    }

    // Buffers are not borrowed from the session: the driver holds addresses, as it would a C program's.
    #[allow(clippy::mut_from_ref)]
    pub(crate) fn bytes(&self, buffer: *mut c_void) -> &mut [u8] {
        let (mut contents, mut size) = (null_mut(), 0);
        // SAFETY: live buffers of this session; the slice is used between calls only.
        unsafe {
            let status = (self.api.mfa_buffer_contents)(buffer, &mut contents);
            assert_eq!(status, sys::MFA_SUCCESS);
            let status = (self.api.mfa_buffer_size)(buffer, &mut size);
            assert_eq!(status, sys::MFA_SUCCESS);
            std::slice::from_raw_parts_mut(contents.cast(), size as usize)
        }
    }

    pub(crate) fn message(&self) -> String {
        // SAFETY: a NUL-terminated string that lives until the thread's next failure.
        unsafe { CStr::from_ptr((self.api.mfa_last_error)(null_mut())) }
            .to_string_lossy()
            .into_owned()
    }

    #[track_caller]
    pub(crate) fn expect(&self, status: i32) {
        assert_eq!(status, sys::MFA_SUCCESS, "{}", self.message());
    }

    /// A tensor filled with [`GAP`].
    pub(crate) fn view(&self, shape: [usize; 4], precision: i32, layout: Layout) -> View {
        let (strides, start, size) = place(shape, layout);
        let bits = bits(precision);
        let buffer = self.buffer(size * bits / 8);
        self.bytes(buffer).fill(GAP);
        View {
            tensor: sys::mfa_tensor {
                buffer,
                byte_offset: if size == 0 { 0 } else { start * bits / 8 } as u64,
                precision,
                shape: shape.map(|n| n as u64),
                strides: strides.map(|n| n as i64),
                ..sys::mfa_tensor::ABSENT
            },
            start,
        }
    }

    /// A tensor of floats (or of BOOL: whatever is not -infinity is true) that holds `real`.
    pub(crate) fn store(&self, real: &Real, precision: &str, layout: Layout) -> View {
        let code = code(precision);
        let view = self.view(real.shape, code, layout);
        let bytes = self.bytes(view.tensor.buffer);
        for (at, x) in view.elements().into_iter().zip(&real.values) {
            match precision {
                "fp32" => {
                    bytes[4 * at..4 * at + 4].copy_from_slice(&(*x as f32).to_le_bytes());
                }
                "fp16" => bytes[2 * at..2 * at + 2]
                    .copy_from_slice(&half::f16::from_f64(*x).to_le_bytes()),
                "bf16" => bytes[2 * at..2 * at + 2]
                    .copy_from_slice(&half::bf16::from_f64(*x).to_le_bytes()),
                _ => bytes[at] = u8::from(*x != f64::NEG_INFINITY),
            }
        }
        view
    }

    /// Whether no byte of a tensor's buffer was written since it was made.
    pub(crate) fn untouched(&self, view: &View) -> bool {
        self.bytes(view.tensor.buffer)
            .iter()
            .all(|byte| *byte == GAP)
    }

    /// The numbers of an FP32 tensor; nothing else in its buffer may have been written.
    pub(crate) fn load(&self, view: &View) -> Vec<f64> {
        let bytes = self.bytes(view.tensor.buffer);
        let mut gaps = vec![true; bytes.len()];
        let read = |at: usize| {
            gaps[4 * at..4 * at + 4].fill(false);
            let number: [u8; 4] = bytes[4 * at..4 * at + 4].try_into().unwrap();
            f64::from(f32::from_le_bytes(number))
        };
        let numbers = view.elements().into_iter().map(read).collect();
        for (i, (gap, byte)) in gaps.iter().zip(bytes.iter()).enumerate() {
            assert!(!gap || *byte == GAP, "byte {i} of a gap was written");
        }
        numbers
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: a live context.
        unsafe { (self.api.mfa_destroy_context)(self.context) };
    }
}

pub(crate) fn code(precision: &str) -> i32 {
    match precision {
        "fp32" => sys::MFA_PRECISION_FP32,
        "fp16" => sys::MFA_PRECISION_FP16,
        "bf16" => sys::MFA_PRECISION_BF16,
        _ => sys::MFA_PRECISION_BOOL,
    }
}

fn bits(precision: i32) -> usize {
    match precision {
        sys::MFA_PRECISION_FP32 => 32,
        sys::MFA_PRECISION_FP16 | sys::MFA_PRECISION_BF16 => 16,
        sys::MFA_PRECISION_INT4 => 4,
        _ => 8,
    }
}
