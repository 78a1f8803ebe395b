//! Kernels that read operands as the caller stored them.

use half::{bf16, f16};

use crate::{SCORE_LD, SUM_RUN};

/// Reads one element of a row.
pub(super) trait Element {
    /// Element `i` of the row at `row`, which need not be aligned.
    unsafe fn read(row: *const u8, i: usize) -> f32;
}

pub(super) enum F32 {}
pub(super) enum F16 {}
pub(super) enum BF16 {}
pub(super) enum I8 {}
pub(super) enum I4 {}

impl Element for F32 {
    unsafe fn read(row: *const u8, i: usize) -> f32 {
        row.cast::<f32>().add(i).read_unaligned()
    }
}

impl Element for F16 {
    unsafe fn read(row: *const u8, i: usize) -> f32 {
        row.cast::<f16>().add(i).read_unaligned().to_f32()
    }
}

impl Element for BF16 {
    unsafe fn read(row: *const u8, i: usize) -> f32 {
        row.cast::<bf16>().add(i).read_unaligned().to_f32()
    }
}

impl Element for I8 {
    unsafe fn read(row: *const u8, i: usize) -> f32 {
        f32::from(*row.cast::<i8>().add(i))
    }
}

impl Element for I4 {
    unsafe fn read(row: *const u8, i: usize) -> f32 {
        f32::from(nibble(row, i))
    }
}

/// Two's complement element `i`; even elements are in the low nibble.
unsafe fn nibble(row: *const u8, i: usize) -> i8 {
    let byte = *row.add(i / 2);
    if i.is_multiple_of(2) {
        (byte << 4) as i8 >> 4
    } else {
        byte as i8 >> 4
    }
}

/// See [`crate::ToF32`].
pub(super) unsafe fn widen<E: Element>(src: *const u8, n: usize, out: *mut f32) {
    for i in 0..n {
        *out.add(i) = E::read(src, i);
    }
}

/// See [`crate::UnpackI4`].
pub(super) unsafe fn unpack_i4(src: *const u8, n: usize, out: *mut i8) {
    for i in 0..n {
        *out.add(i) = nibble(src, i);
    }
}

/// See [`crate::DotRows`].
pub(super) unsafe fn dot_rows<E: Element>(
    q: *const f32,
    ldq: usize,
    rows: usize,
    k: *const u8,
    stride: usize,
    n: usize,
    d: usize,
    s: *mut f32,
) {
    for j in 0..n {
        for i in 0..rows {
            let mut sum = 0f32;
            for c in 0..d {
                sum += *q.add(i * ldq + c) * E::read(k.add(j * stride), c);
            }
            *s.add(i * SCORE_LD + j) = sum;
        }
    }
}

/// See [`crate::AxpyRows`].
pub(super) unsafe fn axpy_rows<E: Element>(
    p: *const f32,
    rows: usize,
    v: *const u8,
    stride: usize,
    n: usize,
    d: usize,
    alpha: *const f32,
    o: *mut f32,
    ldo: usize,
) {
    for i in 0..rows {
        for c in 0..d {
            let o = o.add(i * ldo + c);
            *o *= *alpha.add(i);
            for first in (0..n).step_by(SUM_RUN) {
                let mut sum = 0f32;
                for j in first..n.min(first + SUM_RUN) {
                    sum += *p.add(i * SCORE_LD + j) * E::read(v.add(j * stride), c);
                }
                *o += sum;
            }
        }
    }
}
