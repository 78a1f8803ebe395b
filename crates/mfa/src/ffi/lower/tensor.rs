//! Tensors and quantizations.

use std::ptr::{from_ref, null, null_mut};

use mfa_sys as sys;

use crate::layout;
use crate::quantization::Granularity;

/// A buffer from some byte on.
#[derive(Clone, Copy, Debug)]
pub struct BufferPart {
    /// The handle; null: no buffer.
    pub buffer: sys::mfa_buffer_t,
    /// In bytes.
    pub byte_offset: u64,
}

impl BufferPart {
    /// No buffer.
    pub const NONE: Self = Self {
        buffer: null_mut(),
        byte_offset: 0,
    };

    /// A buffer from its first byte on.
    #[must_use]
    pub const fn whole(buffer: sys::mfa_buffer_t) -> Self {
        Self {
            buffer,
            byte_offset: 0,
        }
    }
}

/// The scales, zero points and means of a quantized tensor.
#[derive(Clone, Copy, Debug)]
pub struct Quantization {
    /// Which elements share a scale.
    pub granularity: Granularity,
    /// The scale, where `scales` is no buffer.
    pub scale: f32,
    /// The zero point, where `scales` is no buffer.
    pub zero_point: i32,
    /// The array of scales.
    pub scales: BufferPart,
    /// `MFA_PRECISION_*` of the scales.
    pub scale_precision: i32,
    /// Strides of the scales and of the zero points, in elements; zeros: without gaps.
    pub scale_strides: [i64; 4],
    /// The array of zero points.
    pub zero_points: BufferPart,
    /// The size of a zero point: 1 or 4; 0 without an array.
    pub zero_point_bytes: u32,
    /// The means of columns, FP32.
    pub mean: BufferPart,
    /// Whether rows were rotated by the Hadamard matrix.
    pub rotated: bool,
}

impl Quantization {
    /// FP32 scales of a granularity, without an array yet.
    #[must_use]
    pub const fn new(granularity: Granularity) -> Self {
        Self {
            granularity,
            scale: 0.0,
            zero_point: 0,
            scales: BufferPart::NONE,
            scale_precision: sys::MFA_PRECISION_FP32,
            scale_strides: [0; 4],
            zero_points: BufferPart::NONE,
            zero_point_bytes: 0,
            mean: BufferPart::NONE,
            rotated: false,
        }
    }

    fn lower(&self) -> sys::mfa_quantization {
        let (granularity, block_rows, group_size) = match self.granularity {
            Granularity::Tensor => (sys::MFA_GRANULARITY_TENSOR, 0, 0),
            Granularity::Row => (sys::MFA_GRANULARITY_ROW, 0, 0),
            Granularity::RowGroups { columns } => (sys::MFA_GRANULARITY_ROW, 0, columns),
            Granularity::Block { rows } => (sys::MFA_GRANULARITY_BLOCK, rows, 0),
            Granularity::Channel { rows } => (sys::MFA_GRANULARITY_CHANNEL, rows, 0),
        };
        sys::mfa_quantization {
            granularity,
            block_rows,
            group_size,
            scale: self.scale,
            zero_point: self.zero_point,
            scale_buffer: self.scales.buffer,
            scale_offset: self.scales.byte_offset,
            scale_precision: self.scale_precision,
            rotated: self.rotated.into(),
            zero_point_buffer: self.zero_points.buffer,
            zero_point_offset: self.zero_points.byte_offset,
            zero_point_bytes: self.zero_point_bytes,
            scale_strides: self.scale_strides,
            mean_buffer: self.mean.buffer,
            mean_offset: self.mean.byte_offset,
            ..sys::mfa_quantization::new()
        }
    }
}

/// A tensor of a call: `[batch, heads, rows, columns]`.
#[derive(Clone, Copy, Debug)]
pub struct Tensor {
    /// The memory.
    pub memory: BufferPart,
    /// `MFA_PRECISION_*`.
    pub precision: i32,
    /// Sizes of the dimensions.
    pub shape: [u64; 4],
    /// Strides of the dimensions, in elements.
    pub strides: [i64; 4],
    quantization: Option<sys::mfa_quantization>,
}

impl Tensor {
    /// A tensor that is not quantized.
    #[must_use]
    pub const fn new(
        memory: BufferPart,
        precision: i32,
        shape: [u64; 4],
        strides: [i64; 4],
    ) -> Self {
        Self {
            memory,
            precision,
            shape,
            strides,
            quantization: None,
        }
    }

    /// The tensor with the quantization of its integers.
    #[must_use]
    pub fn quantized(mut self, quantization: &Quantization) -> Self {
        self.quantization = Some(quantization.lower());
        self
    }

    /// The structure of the contract. It points into `self`, which must not move while it is used.
    pub(super) fn lower(&self) -> sys::mfa_tensor {
        sys::mfa_tensor {
            buffer: self.memory.buffer,
            byte_offset: self.memory.byte_offset,
            precision: self.precision,
            reserved: 0,
            shape: self.shape,
            strides: self.strides,
            quantization: self.quantization.as_ref().map_or(null(), from_ref),
        }
    }

    /// The same of a tensor that may be absent.
    pub(super) fn lower_optional(tensor: &Option<Self>) -> sys::mfa_tensor {
        tensor.as_ref().map_or(sys::mfa_tensor::ABSENT, Self::lower)
    }
}

/// The strides of a tensor without gaps, in elements.
#[must_use]
pub fn contiguous_strides(shape: [u64; 4]) -> [i64; 4] {
    let shape = shape.map(|size| usize::try_from(size).unwrap_or(usize::MAX));
    layout::contiguous_strides(shape).map(stride)
}

/// No buffer has a stride beyond `i64`: the driver refuses what is cut off here.
pub(in crate::ffi) fn stride(stride: usize) -> i64 {
    i64::try_from(stride).unwrap_or(i64::MAX)
}
