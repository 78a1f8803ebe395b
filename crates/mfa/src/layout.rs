//! The offset, shape and strides of a tensor in a buffer.

use std::ops::Range;

use crate::element::Precision;
use crate::error::{MfaError, Result};
use crate::ffi::BufferRef;

/// `[batch, heads, rows, columns]`.
pub type Shape = [usize; 4];

/// A view without its lifetime: who holds one makes sure that the buffer lives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub buffer: BufferRef,
    pub byte_offset: usize,
    pub precision: Precision,
    pub shape: Shape,
    /// In elements.
    pub strides: [usize; 4],
}

impl Layout {
    pub(crate) fn contiguous(buffer: BufferRef, precision: Precision, shape: Shape) -> Self {
        Self {
            buffer,
            byte_offset: 0,
            precision,
            shape,
            strides: contiguous_strides(shape),
        }
    }

    pub(crate) fn permute(&mut self, axes: [usize; 4]) -> Result<()> {
        let mut sorted = axes;
        sorted.sort_unstable();
        if sorted != [0, 1, 2, 3] {
            return Err(MfaError::InvalidArgument(format!(
                "axes are {axes:?}; expected an order of 0, 1, 2 and 3"
            )));
        }
        (self.shape, self.strides) = (
            axes.map(|axis| self.shape[axis]),
            axes.map(|axis| self.strides[axis]),
        );
        Ok(())
    }

    pub(crate) fn broadcast(&mut self, shape: Shape) -> Result<()> {
        for (axis, (&wanted, &found)) in shape.iter().zip(&self.shape).enumerate() {
            if wanted != found && found != 1 {
                return Err(MfaError::InvalidDimensions(format!(
                    "shape {:?} cannot be broadcast to {shape:?}: dimension {axis} is {found}; expected 1 or {wanted}",
                    self.shape
                )));
            }
            if wanted != found {
                self.strides[axis] = 0;
            }
        }
        self.shape = shape;
        Ok(())
    }

    /// Keeps some rows only.
    pub(crate) fn rows(&mut self, rows: &Range<usize>) -> Result<()> {
        if rows.start > rows.end || rows.end > self.shape[2] {
            return Err(MfaError::InvalidDimensions(format!(
                "rows {rows:?} were asked for; the tensor has {}",
                self.shape[2]
            )));
        }
        let elements = rows.start.saturating_mul(self.strides[2]);
        let bytes = self.precision.bytes(elements).unwrap_or(usize::MAX);
        self.byte_offset = self.byte_offset.saturating_add(bytes);
        self.shape[2] = rows.len();
        Ok(())
    }
}

/// The strides of a tensor without gaps, in elements. A product that overflows is cut off: no buffer is that large, and
/// the driver says so. A size of 0 counts as 1, as in NumPy: no two elements seem to overlap.
pub(crate) fn contiguous_strides(shape: Shape) -> [usize; 4] {
    let mut strides = [1; 4];
    for axis in (0..3).rev() {
        strides[axis] = shape[axis + 1].max(1).saturating_mul(strides[axis + 1]);
    }
    strides
}

/// The number of elements; an error names the tensor if it overflows.
pub(crate) fn elements(shape: Shape, what: &str) -> Result<usize> {
    let product = shape
        .iter()
        .try_fold(1_usize, |product, &size| product.checked_mul(size));
    product.ok_or_else(|| {
        MfaError::InvalidDimensions(format!(
            "{what}: shape {shape:?} has more elements than memory can hold"
        ))
    })
}

/// Bytes of a tensor without gaps.
pub(crate) fn bytes(precision: Precision, shape: Shape, what: &str) -> Result<usize> {
    let bytes = precision.bytes(elements(shape, what)?);
    bytes.ok_or_else(|| {
        MfaError::InvalidDimensions(format!(
            "{what}: shape {shape:?} has more bytes than memory can hold"
        ))
    })
}
