//! Kernels that apply scales which differ within a row of integers.

use super::decode::{Element, I4, I8};
use crate::quantized::{ChannelScales, GroupScales, QuantizedKernels};
use crate::{PerInteger, SCORE_LD, SUM_RUN};

/// The kernels of this file.
pub(super) const KERNELS: QuantizedKernels = QuantizedKernels {
    dot_groups: PerInteger {
        i8: dot_groups::<I8>,
        i4: dot_groups::<I4>,
    },
    axpy_groups: PerInteger {
        i8: axpy_groups::<I8>,
        i4: axpy_groups::<I4>,
    },
    dequantize_groups: PerInteger {
        i8: dequantize_groups::<I8>,
        i4: dequantize_groups::<I4>,
    },
    dequantize_channels: PerInteger {
        i8: dequantize_channels::<I8>,
        i4: dequantize_channels::<I4>,
    },
    scale_columns,
    add_channels,
};

/// `(x - zero) * scale`, with `zero` null: 0.
unsafe fn real(x: f32, scale: *const f32, zero: *const f32, at: usize) -> f32 {
    let zero = if zero.is_null() { 0.0 } else { *zero.add(at) };
    (x - zero) * *scale.add(at)
}

/// `x + mean[c]`, with `mean` null: `x`.
unsafe fn add_mean(x: f32, mean: *const f32, c: usize) -> f32 {
    if mean.is_null() { x } else { x + *mean.add(c) }
}

/// Element `c` of a row whose scales are those of row `j`.
unsafe fn of_group<E: Element>(row: *const u8, scales: &GroupScales, j: usize, c: usize) -> f32 {
    let at = j * scales.ld + c / scales.group;
    real(E::read(row, c), scales.scale, scales.zero, at)
}

/// See [`crate::quantized::DotGroups`].
unsafe fn dot_groups<E: Element>(
    q: *const f32,
    ldq: usize,
    rows: usize,
    k: *const u8,
    stride: usize,
    n: usize,
    d: usize,
    scales: GroupScales,
    s: *mut f32,
) {
    for j in 0..n {
        let k = k.add(j * stride);
        for i in 0..rows {
            let mut sum = 0f32;
            for c in 0..d {
                sum += *q.add(i * ldq + c) * of_group::<E>(k, &scales, j, c);
            }
            *s.add(i * SCORE_LD + j) = sum;
        }
    }
}

/// See [`crate::quantized::AxpyGroups`].
unsafe fn axpy_groups<E: Element>(
    p: *const f32,
    rows: usize,
    v: *const u8,
    stride: usize,
    n: usize,
    d: usize,
    scales: GroupScales,
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
                    let value = of_group::<E>(v.add(j * stride), &scales, j, c);
                    sum += *p.add(i * SCORE_LD + j) * value;
                }
                *o += sum;
            }
        }
    }
}

/// See [`crate::quantized::DequantizeGroups`].
unsafe fn dequantize_groups<E: Element>(
    x: *const u8,
    stride: usize,
    n: usize,
    d: usize,
    scales: GroupScales,
    mean: *const f32,
    out: *mut f32,
    ld: usize,
) {
    for j in 0..n {
        for c in 0..d {
            let x = of_group::<E>(x.add(j * stride), &scales, j, c);
            *out.add(j * ld + c) = add_mean(x, mean, c);
        }
    }
}

/// See [`crate::quantized::DequantizeChannels`].
unsafe fn dequantize_channels<E: Element>(
    x: *const u8,
    stride: usize,
    n: usize,
    d: usize,
    scales: ChannelScales,
    mean: *const f32,
    out: *mut f32,
    ld: usize,
) {
    for j in 0..n {
        for c in 0..d {
            let x = E::read(x.add(j * stride), c);
            let x = real(x, scales.scale, scales.zero, c);
            *out.add(j * ld + c) = add_mean(x, mean, c);
        }
    }
}

/// See [`crate::quantized::ScaleColumns`].
unsafe fn scale_columns(
    q: *const f32,
    ld: usize,
    rows: usize,
    d: usize,
    scales: ChannelScales,
    out: *mut f32,
    sums: *mut f32,
) {
    for i in 0..rows {
        let mut sum = 0f32;
        for c in 0..d {
            let x = *q.add(i * ld + c) * *scales.scale.add(c);
            *out.add(i * ld + c) = x;
            if !scales.zero.is_null() {
                sum += x * *scales.zero.add(c);
            }
        }
        *sums.add(i) = sum;
    }
}

/// See [`crate::quantized::AddChannels`].
unsafe fn add_channels(
    x: *const f32,
    p: *const f32,
    n: usize,
    rows: usize,
    d: usize,
    scales: ChannelScales,
    alpha: *const f32,
    o: *mut f32,
    ldo: usize,
) {
    for i in 0..rows {
        let mut weight = 0f32;
        if !scales.zero.is_null() {
            for j in 0..n {
                weight += *p.add(i * SCORE_LD + j);
            }
        }
        for c in 0..d {
            let at = i * ldo + c;
            let mut x = *x.add(at);
            if !scales.zero.is_null() {
                x -= *scales.zero.add(c) * weight;
            }
            *o.add(at) = *alpha.add(i) * *o.add(at) + x * *scales.scale.add(c);
        }
    }
}
