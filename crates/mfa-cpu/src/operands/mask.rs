//! What a mask hides as a whole: blocks of scores that need not be computed.

use std::ops::Range;

use crate::contract::tensor::Tensor;
use mfa_kernels::Precision;

/// A mask's number that hides a key, as it is stored.
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

/// Whether a mask hides a key from a query row: `at` is batch, head, row and key.
pub(crate) fn masks(mask: &Tensor, at: [usize; 4]) -> bool {
    let [index, head, row, key] = at;
    match mask.precision {
        Precision::F64 => mask.get(at) == f64::NEG_INFINITY,
        _ => masks_all(mask, (index, head), row..row + 1, key..key + 1),
    }
}

/// Whether a mask hides `keys` from all of the query rows `rows` of a head. Stops at the first key that is seen, which is
/// the first of all as a rule.
pub(crate) fn masks_all(
    mask: &Tensor,
    (index, head): (usize, usize),
    rows: Range<usize>,
    keys: Range<usize>,
) -> bool {
    // Rows that are one and the same are looked at once.
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

/// Whether each of `n` elements, `stride` apart, hides its key.
unsafe fn row_is_masked<T: MaskElement>(at: *const T, stride: usize, n: usize) -> bool {
    // SAFETY: `n` elements from `at` on, by the caller.
    unsafe {
        if stride == 1 {
            let row = std::slice::from_raw_parts(at, n);
            // Whole chunks without a branch in them, which compilers make vectors of.
            return row
                .chunks(64)
                .all(|chunk| chunk.iter().fold(true, |masked, x| masked & x.is_masked()));
        }
        let distinct = if stride == 0 { n.min(1) } else { n };
        (0..distinct).all(|j| (*at.add(j * stride)).is_masked())
    }
}
