//! Masks: rows as numbers to add to scores, and blocks of scores that need not be computed because all of them are masked.

use std::ops::Range;

use crate::contract::tensor::Tensor;
use mfa_kernels::{Kernels, Precision};

/// Masks a row of scores: query row `at[2]` of head `at[1]` on keys `at[3]..at[3] + n`.
///
/// # Safety
/// `s` points to `n` scores, `row_buffer` to memory for `n` floats.
pub(crate) unsafe fn apply_mask_row(
    kernels: &Kernels,
    mask: &Tensor,
    at: [usize; 4],
    n: usize,
    s: *mut f32,
    row_buffer: *mut f32,
) {
    let row = MaskRow::new(mask, at, n);
    // SAFETY: by this function's contract; a contiguous FP32 row is read where it is stored.
    unsafe {
        match (mask.precision, row.stride) {
            (Precision::Bool, _) => row.mask_scores(kernels, s),
            (Precision::F32, 1) => (kernels.mask_add)(s, row.ptr.cast(), n),
            _ => {
                row.to_f32(kernels, row_buffer);
                (kernels.mask_add)(s, row_buffer, n);
            }
        }
    }
}

/// Reads the mask of query row `at[2]` of head `at[1]` on keys `at[3]..at[3] + n` as numbers to add: false is -infinity.
///
/// # Safety
/// `out` points to memory for `n` floats.
pub(crate) unsafe fn read_mask_row(
    kernels: &Kernels,
    mask: &Tensor,
    at: [usize; 4],
    n: usize,
    out: *mut f32,
) {
    let row = MaskRow::new(mask, at, n);
    // SAFETY: by this function's contract.
    unsafe {
        if mask.precision == Precision::Bool {
            std::slice::from_raw_parts_mut(out, n).fill(0.0);
            row.mask_scores(kernels, out);
        } else {
            row.to_f32(kernels, out);
        }
    }
}

/// A row of a mask as it is stored.
struct MaskRow {
    ptr: *const u8,
    precision: Precision,
    /// Elements from a key to the next; 1 for a single key.
    stride: usize,
    n: usize,
}

impl MaskRow {
    fn new(mask: &Tensor, [index, head, row, key]: [usize; 4], n: usize) -> Self {
        MaskRow {
            ptr: mask.at(index, head, row, key),
            precision: mask.precision,
            stride: if n == 1 { 1 } else { mask.strides[3] },
            n,
        }
    }

    /// Sets the scores of masked keys to -infinity; of a BOOL mask.
    ///
    /// # Safety
    /// `s` points to `n` scores.
    unsafe fn mask_scores(&self, kernels: &Kernels, s: *mut f32) {
        // SAFETY: the mask was broadcast to cover every row and key of each sequence.
        unsafe {
            if self.stride == 1 {
                return (kernels.mask_bool)(s, self.ptr, self.n);
            }
            for j in 0..self.n {
                if *self.ptr.add(j * self.stride) == 0 {
                    *s.add(j) = f32::NEG_INFINITY;
                }
            }
        }
    }

    /// Converts the row to FP32; of a mask of floats.
    ///
    /// # Safety
    /// `out` points to memory for `n` floats.
    unsafe fn to_f32(&self, kernels: &Kernels, out: *mut f32) {
        let to_f32 = *kernels.to_f32.of(self.precision);
        let bytes = self.stride * self.precision.bytes();
        // SAFETY: as for `mask_scores`; `out` by this function's contract.
        unsafe {
            match self.stride {
                1 => to_f32(self.ptr, self.n, out),
                0 => {
                    to_f32(self.ptr, 1, out);
                    std::slice::from_raw_parts_mut(out, self.n).fill(*out);
                }
                _ => (0..self.n).for_each(|j| to_f32(self.ptr.add(j * bytes), 1, out.add(j))),
            }
        }
    }
}

/// An element of a mask, as it is stored.
trait MaskElement: Copy {
    fn is_masked(self) -> bool;
}

impl MaskElement for u8 {
    fn is_masked(self) -> bool {
        self == 0
    }
}

impl MaskElement for f32 {
    fn is_masked(self) -> bool {
        self == f32::NEG_INFINITY
    }
}

/// An FP16.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Half(u16);

impl MaskElement for Half {
    fn is_masked(self) -> bool {
        self.0 == 0xFC00
    }
}

/// A BF16.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Brain(u16);

impl MaskElement for Brain {
    fn is_masked(self) -> bool {
        self.0 == 0xFF80
    }
}

/// Whether a mask masks a key for a query row: `at` is batch, head, row and key.
pub(crate) fn masks(mask: &Tensor, at: [usize; 4]) -> bool {
    let [index, head, row, key] = at;
    match mask.precision {
        Precision::F64 => mask.get(at) == f64::NEG_INFINITY,
        _ => masks_all(mask, (index, head), row..row + 1, key..key + 1),
    }
}

/// Whether a mask masks all of `keys` for all of the query rows `rows` of a head. Stops at the first key that is not masked,
/// which usually is the first of all.
pub(crate) fn masks_all(
    mask: &Tensor,
    (index, head): (usize, usize),
    rows: Range<usize>,
    keys: Range<usize>,
) -> bool {
    // A stride of 0 repeats one row.
    let rows = match mask.strides[2] {
        0 => rows.start..rows.end.min(rows.start + 1),
        _ => rows,
    };
    rows.into_iter().all(|row| {
        let at = mask.at(index, head, row, keys.start);
        // SAFETY: the mask was broadcast to cover every row and key of each sequence, and is aligned to its elements.
        unsafe {
            match mask.precision {
                Precision::Bool => row_is_masked::<u8>(at, mask.strides[3], keys.len()),
                Precision::F16 => row_is_masked::<Half>(at.cast(), mask.strides[3], keys.len()),
                Precision::Bf16 => row_is_masked::<Brain>(at.cast(), mask.strides[3], keys.len()),
                Precision::F32 => row_is_masked::<f32>(at.cast(), mask.strides[3], keys.len()),
                _ => false,
            }
        }
    })
}

/// Whether each of `n` elements, `stride` apart, masks its key.
unsafe fn row_is_masked<T: MaskElement>(at: *const T, stride: usize, n: usize) -> bool {
    // SAFETY: `n` elements from `at` on, by the caller.
    unsafe {
        if stride == 1 {
            let row = std::slice::from_raw_parts(at, n);
            // Whole chunks without a branch, which compilers vectorise.
            return row
                .chunks(64)
                .all(|chunk| chunk.iter().fold(true, |masked, x| masked & x.is_masked()));
        }
        let distinct = if stride == 0 { n.min(1) } else { n };
        (0..distinct).all(|j| (*at.add(j * stride)).is_masked())
    }
}
