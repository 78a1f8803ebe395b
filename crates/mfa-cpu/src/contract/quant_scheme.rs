//! Quantization schemes: scales, zero points and means of stored integers, and which elements share them.
//!
//! See eq. 37 of docs/math.md.

use half::f16;

use crate::contract::array::Array;

/// Which elements share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Granularity {
    Tensor,
    Row,
    Block,
    Channel,
}

impl Granularity {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Granularity::Tensor => "tensor",
            Granularity::Row => "row",
            Granularity::Block => "block",
            Granularity::Channel => "channel",
        }
    }
}

/// The quantization of a tensor: real number = (integer - zero point) * scale, plus the mean.
#[derive(Clone)]
pub(crate) struct Quant {
    pub granularity: Granularity,
    /// Rows that share a scale.
    pub block_rows: usize,
    /// Columns that share a scale.
    pub group: usize,
    pub params: Params,
    pub rotated: bool,
    /// FP32 `[batch, heads, columns]`.
    pub mean: Option<Array>,
    /// Elements of `mean`.
    pub(super) means: usize,
}

/// Scales and zero points.
#[derive(Clone)]
pub(crate) enum Params {
    PerTensor {
        scale: f32,
        zero: i32,
    },
    Strided {
        scales: Array,
        half: bool,
        zeros: Option<(Array, usize)>,
        shape: [usize; 4],
        strides: [usize; 4],
    },
}

// SAFETY: as for `Tensor`.
unsafe impl Send for Quant {}
// SAFETY: as for `Tensor`.
unsafe impl Sync for Quant {}

impl Quant {
    /// The index of the scale of an element, in units of the strides' elements.
    pub(crate) fn index(strides: &[usize; 4], at: [usize; 4]) -> usize {
        strides.iter().zip(at).map(|(stride, i)| stride * i).sum()
    }

    /// Scale of row `n`, column group `g` (for CHANNEL: column `g`).
    pub(crate) fn scale(&self, b: usize, h: usize, n: usize, g: usize) -> f32 {
        match &self.params {
            Params::PerTensor { scale, .. } => *scale,
            Params::Strided { strides, .. } => {
                self.stored_scale(Self::index(strides, [b, h, n / self.block_rows, g]))
            }
        }
    }

    /// Zero point of row `n`, column group `g`.
    pub(crate) fn zero(&self, b: usize, h: usize, n: usize, g: usize) -> i32 {
        match &self.params {
            Params::PerTensor { zero, .. } => *zero,
            Params::Strided { zeros: None, .. } => 0,
            Params::Strided { strides, .. } => {
                self.stored_zero(Self::index(strides, [b, h, n / self.block_rows, g]))
            }
        }
    }

    /// Scale and zero point at element `i` of their arrays, which the strides of their shape reach.
    pub(crate) fn stored(&self, i: usize) -> (f32, i32) {
        (self.stored_scale(i), self.stored_zero(i))
    }

    /// Whether every zero point is in `low..=high`. False as well where those of a head are not stored one after the other, or
    /// where strides repeat some.
    pub(super) fn has_zeros_within(&self, (low, high): (i32, i32)) -> bool {
        let Params::Strided {
            zeros: Some((zeros, bytes)),
            shape,
            strides,
            ..
        } = &self.params
        else {
            return false;
        };
        let [batch, heads, blocks, groups] = *shape;
        let dense = (groups <= 1 || strides[3] == 1) && (blocks <= 1 || strides[2] == groups);
        if !dense || shape.contains(&0) || strides[1] < blocks * groups && heads > 1 {
            return false;
        }
        let batches = if strides[0] == 0 { 1 } else { batch };
        if batches > 1 && strides[0] < strides[1] * (heads - 1) + blocks * groups {
            return false;
        }
        (0..batches)
            .flat_map(|b| (0..heads).map(move |h| (b, h)))
            .all(|(b, h)| {
                let (first, n) = (Self::index(strides, [b, h, 0, 0]), blocks * groups);
                // SAFETY: as in `stored_zero`; a head's zero points are adjacent.
                unsafe {
                    if *bytes == 1 {
                        let zeros =
                            std::slice::from_raw_parts(zeros.ptr.cast::<i8>().add(first), n);
                        // A maximum of unsigned bytes is a vector instruction everywhere.
                        let above = |x: &i8| x.wrapping_sub(low as i8) as u8;
                        i32::from(zeros.iter().map(above).fold(0, u8::max)) <= high - low
                    } else {
                        let zeros =
                            std::slice::from_raw_parts(zeros.ptr.cast::<i32>().add(first), n);
                        (zeros.iter()).fold(true, |within, x| within & (low <= *x) & (*x <= high))
                    }
                }
            })
    }

    fn stored_scale(&self, i: usize) -> f32 {
        match &self.params {
            Params::PerTensor { scale, .. } => *scale,
            Params::Strided { scales, half, .. } => {
                // SAFETY: `check` proved that every index up to the last of the scales' shape is inside the buffer,
                // and aligned.
                unsafe {
                    if *half {
                        scales.ptr.cast::<f16>().add(i).read().to_f32()
                    } else {
                        scales.ptr.cast::<f32>().add(i).read()
                    }
                }
            }
        }
    }

    fn stored_zero(&self, i: usize) -> i32 {
        match &self.params {
            Params::PerTensor { zero, .. } => *zero,
            Params::Strided { zeros: None, .. } => 0,
            Params::Strided {
                zeros: Some((zeros, bytes)),
                ..
            } => {
                // SAFETY: zero points have the shape and strides of the scales, checked likewise.
                unsafe {
                    if *bytes == 1 {
                        i32::from(zeros.ptr.cast::<i8>().add(i).read())
                    } else {
                        zeros.ptr.cast::<i32>().add(i).read()
                    }
                }
            }
        }
    }

    /// The scale and zero point that all elements share, if they do.
    pub(crate) fn constant(&self) -> Option<(f32, f32)> {
        match self.params {
            Params::PerTensor { scale, zero } => Some((scale, zero as f32)),
            Params::Strided { .. } => None,
        }
    }

    /// Whether any zero point can differ from 0.
    pub(crate) fn has_zeros(&self) -> bool {
        !matches!(
            self.params,
            Params::PerTensor { zero: 0, .. } | Params::Strided { zeros: None, .. }
        )
    }

    /// Writes the scales and zero points of row `n`, one for each group from the first on.
    pub(crate) fn store_groups(
        &self,
        (b, h): (usize, usize),
        n: usize,
        scales: &[f32],
        zeros: &[f32],
    ) {
        let Params::Strided {
            scales: stored,
            half,
            zeros: stored_zeros,
            strides,
            ..
        } = &self.params
        else {
            return;
        };
        let first = Self::index(strides, [b, h, n / self.block_rows, 0]);
        for (g, (scale, zero)) in scales.iter().zip(zeros).enumerate() {
            let i = first + g * strides[3];
            // SAFETY: as in `scale` and `zero`; each group is written by one thread.
            unsafe {
                if *half {
                    stored.ptr.cast::<f16>().add(i).write(f16::from_f32(*scale));
                } else {
                    stored.ptr.cast::<f32>().add(i).write(*scale);
                }
                match stored_zeros {
                    Some((zeros, 1)) => zeros.ptr.cast::<i8>().add(i).write(*zero as i8),
                    Some((zeros, _)) => zeros.ptr.cast::<i32>().add(i).write(*zero as i32),
                    None => {}
                }
            }
        }
    }

    /// Groups of columns in a row.
    pub(crate) fn groups(&self, columns: usize) -> usize {
        columns.div_ceil(self.group.max(1))
    }
}
