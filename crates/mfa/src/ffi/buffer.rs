//! Memory that a device can use.

use std::alloc::{self, Layout as MemoryLayout};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::{NonNull, null_mut};

use bytemuck::{AnyBitPattern, NoUninit, Pod};
use mfa_sys::Driver;

use crate::context::MfaContext;
use crate::error::{MfaError, Result};
use crate::ffi::Context;

/// A block of memory that a device can use: its own, or borrowed for `'a` without a copy.
///
/// It belongs to a driver, not to a context: it may outlive the context, and all contexts of the driver can use it.
#[derive(Debug)]
pub struct MfaBuffer<'a> {
    handle: *mut c_void,
    driver: &'static Driver,
    contents: NonNull<u8>,
    size: usize,
    memory: PhantomData<&'a mut [u8]>,
}

// SAFETY: the contract allows the use of a handle from any thread; the memory is plain bytes, and writing it takes `&mut`.
unsafe impl Send for MfaBuffer<'_> {}
// SAFETY: as above.
unsafe impl Sync for MfaBuffer<'_> {}

/// A buffer over memory that is only borrowed for reading: it gives out no `&mut`.
#[derive(Debug)]
pub struct ReadOnly<T>(T);

impl<T> ReadOnly<T> {
    /// For views that only read.
    pub(crate) fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for ReadOnly<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A buffer as descriptors name it. Who holds one makes sure that the buffer lives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BufferRef {
    handle: *mut c_void,
    driver: &'static Driver,
}

// SAFETY: a handle is a name, which any thread may use.
unsafe impl Send for BufferRef {}
// SAFETY: as above.
unsafe impl Sync for BufferRef {}

impl BufferRef {
    /// The handle, for a call on `context`; `what` names the argument.
    pub(super) fn on(self, context: &Context, what: &str) -> Result<*mut c_void> {
        if std::ptr::eq(self.driver, context.driver()) {
            return Ok(self.handle);
        }
        Err(MfaError::InvalidArgument(format!(
            "{what}: the buffer belongs to the driver {}; expected one of the context's driver {}",
            self.driver.origin(),
            context.driver().origin()
        )))
    }
}

impl MfaBuffer<'static> {
    /// New memory of `bytes` bytes, zero-filled and aligned to 64 bytes.
    ///
    /// # Errors
    ///
    /// [`MfaError::BufferAllocation`].
    pub fn new(context: &MfaContext, bytes: usize) -> Result<Self> {
        let context = context.raw();
        let mut handle = null_mut();
        // SAFETY: the handle and the pointer are valid.
        context.check(unsafe {
            (context.api().mfa_create_buffer)(context.handle(), bytes as u64, &raw mut handle)
        })?;
        let mut buffer = Self {
            handle,
            driver: context.driver(),
            contents: NonNull::dangling(),
            size: 0,
            memory: PhantomData,
        };
        let mut contents = null_mut();
        // SAFETY: the handle and the pointer are valid.
        context.check(unsafe { (context.api().mfa_buffer_contents)(handle, &raw mut contents) })?;
        if let Some(contents) = NonNull::new(contents.cast()) {
            buffer.contents = contents;
            buffer.size = bytes;
        }
        Ok(buffer)
    }
}

impl<'a> MfaBuffer<'a> {
    /// Borrows a slice for reading, without a copy.
    ///
    /// # Errors
    ///
    /// As the driver reports.
    pub fn from_slice<T: NoUninit>(context: &MfaContext, slice: &'a [T]) -> Result<ReadOnly<Self>> {
        let data = slice.as_ptr().cast_mut().cast();
        // SAFETY: the slice is borrowed for 'a. `ReadOnly` gives out no `&mut`, without which nothing writes to it.
        unsafe { Self::from_raw_parts(context, data, size_of_val(slice)) }.map(ReadOnly)
    }

    /// Borrows a slice for reading and writing, without a copy.
    ///
    /// # Errors
    ///
    /// As the driver reports.
    pub fn from_mut_slice<T: Pod>(context: &MfaContext, slice: &'a mut [T]) -> Result<Self> {
        let bytes = size_of_val(slice);
        // SAFETY: the slice is borrowed for 'a, exclusively; any bytes are values of T.
        unsafe { Self::from_raw_parts(context, slice.as_mut_ptr().cast(), bytes) }
    }

    /// Wraps memory, without a copy.
    ///
    /// # Errors
    ///
    /// As the driver reports.
    ///
    /// # Safety
    ///
    /// `bytes` initialized bytes at `data` must be valid for `'a`, for reading and for everything that the buffer is used
    /// for. `data` may be null if `bytes` is 0.
    pub unsafe fn from_raw_parts(
        context: &MfaContext,
        data: *mut u8,
        bytes: usize,
    ) -> Result<Self> {
        let context = context.raw();
        let mut handle = null_mut();
        // SAFETY: the handle and the pointer are valid; of the memory the caller's promise.
        let status = unsafe {
            (context.api().mfa_buffer_from_ptr)(
                context.handle(),
                data.cast(),
                bytes as u64,
                &raw mut handle,
            )
        };
        context.check(status)?;
        let contents = NonNull::new(data).unwrap_or(NonNull::dangling());
        Ok(Self {
            handle,
            driver: context.driver(),
            contents,
            size: bytes,
            memory: PhantomData,
        })
    }

    /// The size in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `size` initialized bytes; writing them takes `&mut self`.
        unsafe { std::slice::from_raw_parts(self.contents.as_ptr(), self.size) }
    }

    /// The bytes, for writing.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `size` initialized bytes, exclusively borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.contents.as_ptr(), self.size) }
    }

    /// The contents as a slice of `T`.
    ///
    /// # Errors
    ///
    /// [`MfaError::InvalidArgument`] if the size or the address does not fit `T`.
    pub fn as_slice<T: AnyBitPattern>(&self) -> Result<&[T]> {
        bytemuck::try_cast_slice(self.bytes()).map_err(|error| misfit::<T>(self.size, error))
    }

    /// The contents as a slice of `T`, for writing.
    ///
    /// # Errors
    ///
    /// [`MfaError::InvalidArgument`] if the size or the address does not fit `T`.
    pub fn as_mut_slice<T: Pod>(&mut self) -> Result<&mut [T]> {
        let size = self.size;
        bytemuck::try_cast_slice_mut(self.bytes_mut()).map_err(|error| misfit::<T>(size, error))
    }

    /// How descriptors name it.
    pub(crate) fn reference(&self) -> BufferRef {
        BufferRef {
            handle: self.handle,
            driver: self.driver,
        }
    }

    /// The handle that the driver's functions take. It is valid as long as `self`.
    #[must_use]
    pub fn handle(&self) -> *mut c_void {
        self.handle
    }
}

/// Addresses for a plan: a buffer whose memory nobody touches, so that the system gives it none.
#[derive(Debug)]
pub struct Reserved {
    /// Dropped before its memory.
    buffer: Option<MfaBuffer<'static>>,
    data: NonNull<u8>,
    layout: MemoryLayout,
}

impl Reserved {
    /// Addresses of `bytes` bytes, uninitialised.
    ///
    /// # Errors
    ///
    /// [`MfaError::BufferAllocation`], or as the driver reports.
    pub fn new(context: &MfaContext, bytes: usize) -> Result<Self> {
        /// Pages of the systems that there are: what devices wrap begins at one.
        const PAGE: usize = 16 << 10;
        let none = || MfaError::BufferAllocation(format!("{bytes} bytes could not be allocated"));
        let layout = MemoryLayout::from_size_align(bytes.max(1), PAGE).map_err(|_| none())?;
        // SAFETY: the size is not zero.
        let data = NonNull::new(unsafe { alloc::alloc(layout) }).ok_or_else(none)?;
        let mut reserved = Self {
            buffer: None,
            data,
            layout,
        };
        // SAFETY: valid until `reserved` is dropped, which drops the buffer first. It is not read: plans read no tensor, and
        // nothing else sees the buffer.
        let buffer = unsafe { MfaBuffer::from_raw_parts(context, data.as_ptr(), bytes) }?;
        reserved.buffer = Some(buffer);
        Ok(reserved)
    }

    /// Writes zeros to the first `bytes` bytes, which the system then gives memory.
    pub fn fill_with_zeros(&mut self, bytes: usize) {
        let bytes = bytes.min(self.layout.size());
        // SAFETY: within the memory, which nothing else uses.
        unsafe { self.data.write_bytes(0, bytes) };
    }

    /// The handle of the buffer. It is valid as long as `self`.
    #[must_use]
    pub fn handle(&self) -> *mut c_void {
        self.buffer.as_ref().map_or(null_mut(), MfaBuffer::handle)
    }

    /// How descriptors name it, if it is there.
    pub(crate) fn reference(&self) -> Option<BufferRef> {
        self.buffer.as_ref().map(MfaBuffer::reference)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.buffer = None;
        // SAFETY: allocated in `new` with this layout; the buffer over it is gone.
        unsafe { alloc::dealloc(self.data.as_ptr(), self.layout) };
    }
}

fn misfit<T>(size: usize, error: bytemuck::PodCastError) -> MfaError {
    let name = std::any::type_name::<T>();
    MfaError::InvalidArgument(format!(
        "{size} bytes cannot be read as a slice of {name}: {error}"
    ))
}

impl Drop for MfaBuffer<'_> {
    fn drop(&mut self) {
        // SAFETY: created by this driver, destroyed once. A failure could not be acted upon.
        unsafe { (self.driver.api().mfa_destroy_buffer)(self.handle) };
    }
}
