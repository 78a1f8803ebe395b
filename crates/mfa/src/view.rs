//! Views of buffers as tensors.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use bytemuck::Pod;

use crate::context::MfaContext;
use crate::element::{Element, Precision};
use crate::error::Result;
use crate::ffi::MfaBuffer;
use crate::layout::{Layout, Shape};
use crate::quantization::Quantization;

/// A tensor to read: a buffer seen as `[batch, heads, rows, columns]`.
///
/// Making a view checks nothing that the driver checks in every call: that the view lies within its buffer, above all.
#[derive(Clone, Debug)]
pub struct TensorView<'a> {
    pub(crate) layout: Layout,
    pub(crate) quantization: Option<Quantization<'a>>,
    /// The buffer, if the view made it.
    _kept: Option<Arc<MfaBuffer<'a>>>,
}

/// A tensor to write: a buffer seen as `[batch, heads, rows, columns]`.
#[derive(Debug)]
pub struct TensorViewMut<'a> {
    pub(crate) layout: Layout,
    /// The buffer, if the view made it.
    _kept: Option<MfaBuffer<'a>>,
    memory: PhantomData<&'a mut [u8]>,
}

impl TensorView<'_> {
    /// A view of whatever the caller keeps alive.
    pub(crate) fn of(layout: Layout) -> Self {
        Self {
            layout,
            quantization: None,
            _kept: None,
        }
    }
}

impl TensorViewMut<'_> {
    /// A view of whatever the caller keeps alive, and uses alone.
    pub(crate) fn of(layout: Layout) -> Self {
        Self {
            layout,
            _kept: None,
            memory: PhantomData,
        }
    }
}

impl<'a> TensorView<'a> {
    /// A buffer's contents from its beginning, without gaps.
    #[must_use]
    pub fn new(buffer: &'a MfaBuffer<'_>, precision: Precision, shape: Shape) -> Self {
        let layout = Layout::contiguous(buffer.reference(), precision, shape);
        Self {
            layout,
            quantization: None,
            _kept: None,
        }
    }

    /// A slice, borrowed without a copy. The precision is that of `T`.
    ///
    /// # Errors
    ///
    /// As the driver reports.
    pub fn from_slice<T: Element>(
        context: &MfaContext,
        slice: &'a [T],
        shape: Shape,
    ) -> Result<Self> {
        let buffer = Arc::new(MfaBuffer::from_slice(context, slice)?.into_inner());
        let layout = Layout::contiguous(buffer.reference(), T::PRECISION, shape);
        Ok(Self {
            layout,
            quantization: None,
            _kept: Some(buffer),
        })
    }

    /// Begins `bytes` bytes into the buffer.
    #[must_use]
    pub fn with_byte_offset(mut self, bytes: usize) -> Self {
        self.layout.byte_offset = bytes;
        self
    }

    /// Steps between neighbours of each dimension, in elements; 0 repeats one element.
    #[must_use]
    pub fn with_strides(mut self, strides: [usize; 4]) -> Self {
        self.layout.strides = strides;
        self
    }

    /// Says how INT8 and INT4 elements stand for real numbers.
    #[must_use]
    pub fn with_quantization(mut self, quantization: Quantization<'a>) -> Self {
        self.quantization = Some(quantization);
        self
    }

    /// Rows and columns exchanged: for matrices that are stored `[columns, rows]`.
    #[must_use]
    pub fn transposed(mut self) -> Self {
        self.layout.shape.swap(2, 3);
        self.layout.strides.swap(2, 3);
        self
    }

    /// Dimensions in another order: `[0, 2, 1, 3]` sees `[batch, rows, heads, columns]` as the contract's order.
    ///
    /// # Errors
    ///
    /// [`MfaError::InvalidArgument`](crate::MfaError::InvalidArgument) unless `axes` has each of 0, 1, 2, 3 once.
    pub fn permuted(mut self, axes: [usize; 4]) -> Result<Self> {
        self.layout.permute(axes)?;
        Ok(self)
    }

    /// Dimensions of size 1 repeated: for masks.
    ///
    /// # Errors
    ///
    /// [`MfaError::InvalidDimensions`](crate::MfaError::InvalidDimensions) if another dimension differs.
    pub fn broadcast_to(mut self, shape: Shape) -> Result<Self> {
        self.layout.broadcast(shape)?;
        Ok(self)
    }

    /// Some rows only.
    ///
    /// # Errors
    ///
    /// [`MfaError::InvalidDimensions`](crate::MfaError::InvalidDimensions) if they are not within the tensor, or begin
    /// within a block of rows that shares a scale.
    pub fn rows(mut self, rows: Range<usize>) -> Result<Self> {
        if let Some(quantization) = &mut self.quantization {
            quantization.rows(self.layout.shape, rows.start)?;
        }
        self.layout.rows(&rows)?;
        Ok(self)
    }

    /// `[batch, heads, rows, columns]`.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.layout.shape
    }

    /// In elements.
    #[must_use]
    pub fn strides(&self) -> [usize; 4] {
        self.layout.strides
    }

    /// How elements are stored.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.layout.precision
    }
}

impl<'a> TensorViewMut<'a> {
    /// A buffer's contents from its beginning, without gaps.
    #[must_use]
    pub fn new(buffer: &'a mut MfaBuffer<'_>, precision: Precision, shape: Shape) -> Self {
        let layout = Layout::contiguous(buffer.reference(), precision, shape);
        Self {
            layout,
            _kept: None,
            memory: PhantomData,
        }
    }

    /// A slice, borrowed without a copy. The precision is that of `T`.
    ///
    /// # Errors
    ///
    /// As the driver reports.
    pub fn from_slice<T: Element + Pod>(
        context: &MfaContext,
        slice: &'a mut [T],
        shape: Shape,
    ) -> Result<Self> {
        let buffer = MfaBuffer::from_mut_slice(context, slice)?;
        let layout = Layout::contiguous(buffer.reference(), T::PRECISION, shape);
        Ok(Self {
            layout,
            _kept: Some(buffer),
            memory: PhantomData,
        })
    }

    /// Begins `bytes` bytes into the buffer.
    #[must_use]
    pub fn with_byte_offset(mut self, bytes: usize) -> Self {
        self.layout.byte_offset = bytes;
        self
    }

    /// Steps between neighbours of each dimension, in elements. No two elements may share memory.
    #[must_use]
    pub fn with_strides(mut self, strides: [usize; 4]) -> Self {
        self.layout.strides = strides;
        self
    }

    /// Rows and columns exchanged: for matrices that are stored `[columns, rows]`.
    #[must_use]
    pub fn transposed(mut self) -> Self {
        self.layout.shape.swap(2, 3);
        self.layout.strides.swap(2, 3);
        self
    }

    /// Dimensions in another order: as [`TensorView::permuted`].
    ///
    /// # Errors
    ///
    /// [`MfaError::InvalidArgument`](crate::MfaError::InvalidArgument) unless `axes` has each of 0, 1, 2, 3 once.
    pub fn permuted(mut self, axes: [usize; 4]) -> Result<Self> {
        self.layout.permute(axes)?;
        Ok(self)
    }

    /// Some rows only.
    ///
    /// # Errors
    ///
    /// [`MfaError::InvalidDimensions`](crate::MfaError::InvalidDimensions) if they are not within the tensor.
    pub fn rows(mut self, rows: Range<usize>) -> Result<Self> {
        self.layout.rows(&rows)?;
        Ok(self)
    }

    /// `[batch, heads, rows, columns]`.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.layout.shape
    }

    /// In elements.
    #[must_use]
    pub fn strides(&self) -> [usize; 4] {
        self.layout.strides
    }

    /// How elements are stored.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.layout.precision
    }
}
