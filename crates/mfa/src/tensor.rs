//! Tensors that own their memory.

use bytemuck::{AnyBitPattern, Pod};

use crate::context::MfaContext;
use crate::element::{Element, Precision};
use crate::error::{MfaError, Result};
use crate::ffi::MfaBuffer;
use crate::layout::{self, Shape};
use crate::view::{TensorView, TensorViewMut};

/// A tensor `[batch, heads, rows, columns]` without gaps, in memory of its own.
#[derive(Debug)]
pub struct Tensor {
    buffer: MfaBuffer<'static>,
    precision: Precision,
    shape: Shape,
}

impl Tensor {
    /// All zero.
    ///
    /// # Errors
    ///
    /// [`MfaError::InvalidDimensions`] if the size overflows, [`MfaError::BufferAllocation`].
    pub fn zeros(context: &MfaContext, precision: Precision, shape: Shape) -> Result<Self> {
        let bytes = layout::bytes(precision, shape, "tensor")?;
        Ok(Self {
            buffer: MfaBuffer::new(context, bytes)?,
            precision,
            shape,
        })
    }

    /// A copy of `slice`.
    ///
    /// # Errors
    ///
    /// [`MfaError::InvalidDimensions`] if the slice does not have as many elements as the shape,
    /// [`MfaError::BufferAllocation`].
    pub fn from_slice<T: Element>(context: &MfaContext, slice: &[T], shape: Shape) -> Result<Self> {
        let expected = layout::elements(shape, "tensor")?;
        if slice.len() != expected {
            return Err(MfaError::InvalidDimensions(format!(
                "the slice has {} elements; expected {expected}, as shape {shape:?} has",
                slice.len()
            )));
        }
        let mut tensor = Self::zeros(context, T::PRECISION, shape)?;
        tensor
            .buffer
            .bytes_mut()
            .copy_from_slice(bytemuck::cast_slice(slice));
        Ok(tensor)
    }

    /// The tensor, to read.
    #[must_use]
    pub fn view(&self) -> TensorView<'_> {
        TensorView::new(&self.buffer, self.precision, self.shape)
    }

    /// The tensor, to write.
    #[must_use]
    pub fn view_mut(&mut self) -> TensorViewMut<'_> {
        TensorViewMut::new(&mut self.buffer, self.precision, self.shape)
    }

    /// The elements.
    ///
    /// # Errors
    ///
    /// [`MfaError::InvalidArgument`] if `T` stores another precision than the tensor's.
    pub fn as_slice<T: Element + AnyBitPattern>(&self) -> Result<&[T]> {
        self.stores::<T>()?;
        self.buffer.as_slice()
    }

    /// The elements, to write.
    ///
    /// # Errors
    ///
    /// [`MfaError::InvalidArgument`] if `T` stores another precision than the tensor's.
    pub fn as_mut_slice<T: Element + Pod>(&mut self) -> Result<&mut [T]> {
        self.stores::<T>()?;
        self.buffer.as_mut_slice()
    }

    fn stores<T: Element>(&self) -> Result<()> {
        if T::PRECISION == self.precision {
            return Ok(());
        }
        Err(MfaError::InvalidArgument(format!(
            "a tensor of {} was asked for as {}",
            self.precision,
            std::any::type_name::<T>()
        )))
    }

    /// `[batch, heads, rows, columns]`.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// How elements are stored.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The memory.
    #[must_use]
    pub fn buffer(&self) -> &MfaBuffer<'static> {
        &self.buffer
    }

    /// The memory, to write.
    #[must_use]
    pub fn buffer_mut(&mut self) -> &mut MfaBuffer<'static> {
        &mut self.buffer
    }

    /// The memory, to keep.
    #[must_use]
    pub fn into_buffer(self) -> MfaBuffer<'static> {
        self.buffer
    }
}
