//! How stored integers stand for real numbers.

use std::marker::PhantomData;

use crate::element::Precision;
use crate::error::{MfaError, Result};
use crate::ffi::{BufferRef, MfaBuffer};
use crate::layout::{Shape, contiguous_strides};

/// Which elements of a quantized tensor share one scale (and zero point).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Granularity {
    /// All of them.
    #[default]
    Tensor,
    /// Those of one row.
    Row,
    /// Those of one row, in groups of columns.
    RowGroups {
        /// Columns of a group: 32 or 64.
        columns: u32,
    },
    /// Those of a block of rows.
    Block {
        /// Rows of a block, at least 1.
        rows: u32,
    },
    /// Those of one column in a block of rows.
    Channel {
        /// Rows of a block, at least 1.
        rows: u32,
    },
}

impl Granularity {
    /// The shape of the array of scales of a tensor.
    #[must_use]
    pub fn scale_shape(self, [batch, heads, rows, columns]: Shape) -> Shape {
        // A group or block of 0 is refused by the driver.
        let parts = |size: usize, part: u32| size.div_ceil((part as usize).max(1));
        match self {
            Self::Tensor => [1; 4],
            Self::Row => [batch, heads, rows, 1],
            Self::RowGroups { columns: group } => [batch, heads, rows, parts(columns, group)],
            Self::Block { rows: block } => [batch, heads, parts(rows, block), 1],
            Self::Channel { rows: block } => [batch, heads, parts(rows, block), columns],
        }
    }
}

/// A buffer from some byte on.
#[derive(Clone, Copy, Debug)]
pub struct BufferSlice<'a> {
    pub(crate) part: Part,
    memory: PhantomData<&'a [u8]>,
}

/// [`BufferSlice`] without its lifetime.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub buffer: BufferRef,
    pub byte_offset: usize,
}

impl MfaBuffer<'_> {
    /// The buffer from byte `offset` on.
    #[must_use]
    pub fn at(&self, offset: usize) -> BufferSlice<'_> {
        let part = Part {
            buffer: self.reference(),
            byte_offset: offset,
        };
        BufferSlice {
            part,
            memory: PhantomData,
        }
    }
}

impl<'a> From<&'a MfaBuffer<'_>> for BufferSlice<'a> {
    fn from(buffer: &'a MfaBuffer<'_>) -> Self {
        buffer.at(0)
    }
}

/// How stored integers stand for real numbers: real = scale * (stored - zero point); then, if `rotated`, each row is
/// multiplied by the Hadamard matrix of `mfa.h`; then, if there are means, the column's mean is added.
///
/// It describes a view's final dimensions: give it to [`TensorView`](crate::TensorView) after reordering them.
#[derive(Clone, Debug)]
pub struct Quantization<'a> {
    pub(crate) granularity: Granularity,
    pub(crate) scale: f32,
    pub(crate) zero_point: i32,
    pub(crate) scales: Option<Part>,
    pub(crate) scale_precision: Precision,
    pub(crate) scale_strides: Option<[usize; 4]>,
    pub(crate) zero_points: Option<Part>,
    pub(crate) zero_point_bytes: u32,
    pub(crate) mean: Option<Part>,
    pub(crate) rotated: bool,
    memory: PhantomData<&'a [u8]>,
}

impl<'a> Quantization<'a> {
    /// One scale and zero point for the whole tensor. The scale is finite and not 0.
    #[must_use]
    pub fn per_tensor(scale: f32, zero_point: i32) -> Self {
        Self {
            granularity: Granularity::Tensor,
            scale,
            zero_point,
            scales: None,
            scale_precision: Precision::Fp32,
            scale_strides: None,
            zero_points: None,
            zero_point_bytes: 0,
            mean: None,
            rotated: false,
            memory: PhantomData,
        }
    }

    /// Scales in a buffer, FP32 or FP16, in the shape of [`Granularity::scale_shape`] without gaps.
    #[must_use]
    pub fn new(
        granularity: Granularity,
        scales: impl Into<BufferSlice<'a>>,
        precision: Precision,
    ) -> Self {
        Self {
            granularity,
            scale: 0.0,
            scales: Some(scales.into().part),
            scale_precision: precision,
            ..Self::per_tensor(0.0, 0)
        }
    }

    /// Steps between neighbours of each dimension of the array of scales, in elements. Zero points have the same.
    #[must_use]
    pub fn with_scale_strides(mut self, strides: [usize; 4]) -> Self {
        self.scale_strides = Some(strides);
        self
    }

    /// Zero points as `i8`, in the shape and strides of the scales.
    #[must_use]
    pub fn with_zero_points_i8(mut self, zero_points: impl Into<BufferSlice<'a>>) -> Self {
        (self.zero_points, self.zero_point_bytes) = (Some(zero_points.into().part), 1);
        self
    }

    /// Zero points as `i32`, in the shape and strides of the scales.
    #[must_use]
    pub fn with_zero_points_i32(mut self, zero_points: impl Into<BufferSlice<'a>>) -> Self {
        (self.zero_points, self.zero_point_bytes) = (Some(zero_points.into().part), 4);
        self
    }

    /// A mean per column, FP32 `[batch, heads, columns]`, that was subtracted before rounding.
    #[must_use]
    pub fn with_mean(mut self, mean: impl Into<BufferSlice<'a>>) -> Self {
        self.mean = Some(mean.into().part);
        self
    }

    /// Whether rows were rotated by the Hadamard matrix before rounding.
    #[must_use]
    pub fn rotated(mut self, rotated: bool) -> Self {
        self.rotated = rotated;
        self
    }

    /// Begins at row `start` of a tensor of shape `shape`.
    pub(crate) fn rows(&mut self, shape: Shape, start: usize) -> Result<()> {
        let block = match self.granularity {
            Granularity::Tensor => return Ok(()),
            Granularity::Row | Granularity::RowGroups { .. } => 1,
            Granularity::Block { rows } | Granularity::Channel { rows } => (rows as usize).max(1),
        };
        if !start.is_multiple_of(block) {
            return Err(MfaError::InvalidDimensions(format!(
                "rows from {start} on were asked for; expected a multiple of {block}, the rows that share a scale"
            )));
        }
        let whole = contiguous_strides(self.granularity.scale_shape(shape));
        let strides = *self.scale_strides.get_or_insert(whole);
        let elements = (start / block).saturating_mul(strides[2]);
        let advance = |part: &mut Option<Part>, size: usize| {
            if let Some(part) = part {
                part.byte_offset = part
                    .byte_offset
                    .saturating_add(elements.saturating_mul(size));
            }
        };
        advance(&mut self.scales, self.scale_precision.bits() / 8);
        advance(&mut self.zero_points, self.zero_point_bytes as usize);
        Ok(())
    }
}
