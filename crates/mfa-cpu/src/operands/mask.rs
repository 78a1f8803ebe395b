//! What a mask hides as a whole: blocks of scores that need not be computed.

use std::ops::Range;

use crate::contract::tensor::Tensor;
use mfa_kernels::Precision;

/// A mask's number that hides a key, as it is stored.
trait Hides: Copy {
    fn hides(self) -> bool;
}

impl Hides for u8 {
    fn hides(self) -> bool {
        self == 0
    }
}

impl Hides for f32 {
    fn hides(self) -> bool {
        self == f32::NEG_INFINITY
    }
}

/// An FP16.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Half(u16);

impl Hides for Half {
    fn hides(self) -> bool {
        self.0 == 0xFC00
    }
}

/// A BF16.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Brain(u16);

impl Hides for Brain {
    fn hides(self) -> bool {
        self.0 == 0xFF80
    }
}

/// Whether a mask hides a key from a query row: `at` is batch, head, row and key.
pub(crate) fn hides(mask: &Tensor, at: [usize; 4]) -> bool {
    let [index, head, row, key] = at;
    match mask.precision {
        Precision::F64 => mask.get(at) == f64::NEG_INFINITY,
        _ => hides_all(mask, (index, head), row..row + 1, key..key + 1),
    }
}

/// Whether a mask hides `keys` from all of the query rows `rows` of a head. Stops at the first key that is seen, which is
/// the first of all as a rule.
pub(crate) fn hides_all(
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
                Precision::Bool => row_hides::<u8>(at, mask.strides[3], keys.len()),
                Precision::F16 => row_hides::<Half>(at.cast(), mask.strides[3], keys.len()),
                Precision::Bf16 => row_hides::<Brain>(at.cast(), mask.strides[3], keys.len()),
                Precision::F32 => row_hides::<f32>(at.cast(), mask.strides[3], keys.len()),
                _ => false,
            }
        }
    })
}

/// Whether each of `n` elements, `stride` apart, hides its key.
unsafe fn row_hides<T: Hides>(at: *const T, stride: usize, n: usize) -> bool {
    // SAFETY: `n` elements from `at` on, by the caller.
    unsafe {
        if stride == 1 {
            let row = std::slice::from_raw_parts(at, n);
            // Whole chunks without a branch in them, which compilers make vectors of.
            return row
                .chunks(64)
                .all(|chunk| chunk.iter().fold(true, |hidden, x| hidden & x.hides()));
        }
        let distinct = if stride == 0 { n.min(1) } else { n };
        (0..distinct).all(|j| (*at.add(j * stride)).hides())
    }
}
