//! One call of the driver: wraps memory, holds what descriptors point to, runs without the GIL, reports failures.

use std::alloc::{self, Layout as MemoryLayout};
use std::ffi::c_void;
use std::ptr;

use mfa::raw::sys;
use pyo3::prelude::*;

use crate::array::Array;
use crate::context::Handle;
use crate::dtype::Dtype;
use crate::error;
use crate::options::Layout;
use crate::view::{MAX_RANK, View, shape_text};

/// A tensor of a call in the contract's order: [batch, heads, rows, columns], strides in elements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TensorArg {
    pub(crate) data: *mut u8,
    pub(crate) bytes: usize,
    pub(crate) precision: i32,
    pub(crate) shape: [u64; 4],
    pub(crate) strides: [i64; 4],
}

/// Which axis of an array of rank 2, 3 or 4 is the batch, the heads, the rows and the columns; None: it has none.
pub(crate) fn axes(rank: usize, layout: Layout, varlen: bool) -> Option<[Option<usize>; 4]> {
    match (rank, layout) {
        (4, Layout::Bhnd) => Some([Some(0), Some(1), Some(2), Some(3)]),
        (4, Layout::Bnhd) => Some([Some(0), Some(2), Some(1), Some(3)]),
        // A varlen batch is 1, so what comes first can only be the heads.
        (3, Layout::Bhnd) if varlen => Some([None, Some(0), Some(1), Some(2)]),
        (3, Layout::Bhnd) => Some([Some(0), None, Some(1), Some(2)]),
        (3, Layout::Bnhd) => Some([None, Some(1), Some(0), Some(2)]),
        (2, _) => Some([None, None, Some(0), Some(1)]),
        _ => None,
    }
}

impl TensorArg {
    /// Places a view whose axes mean what `axes` says.
    pub(crate) fn new(view: &View, axes: [Option<usize>; 4]) -> TensorArg {
        let pick = |values: &[usize; MAX_RANK], axis: Option<usize>, none: usize| {
            axis.map_or(none, |axis| values[axis])
        };
        let mut placed = TensorArg {
            data: view.data,
            bytes: view.extent(),
            precision: view.dtype.precision(),
            shape: [1; 4],
            strides: [1; 4],
        };
        // An axis that is not there has size 1; its stride is that of an axis around the inner ones.
        let mut around = 1_i64;
        for place in (0..4).rev() {
            placed.shape[place] = pick(&view.shape, axes[place], 1) as u64;
            placed.strides[place] = match axes[place] {
                Some(axis) => view.strides[axis] as i64,
                None => around,
            };
            around =
                around.max(placed.strides[place].saturating_mul(placed.shape[place].max(1) as i64));
        }
        placed
    }

    /// The memory of a packed INT4 array counts bytes; its elements are the nibbles.
    pub(crate) fn packed_int4(mut self) -> TensorArg {
        self.precision = sys::MFA_PRECISION_INT4;
        self.shape[3] *= 2;
        for stride in &mut self.strides[..3] {
            *stride *= 2;
        }
        self
    }

    fn range(&self) -> std::ops::Range<usize> {
        self.data as usize..(self.data as usize).saturating_add(self.bytes)
    }

    pub(crate) fn overlaps(&self, other: &TensorArg) -> bool {
        let (a, b) = (self.range(), other.range());
        !a.is_empty() && !b.is_empty() && a.start < b.end && b.start < a.end
    }
}

/// Places a float operand, an output or a gradient.
pub(crate) fn place(
    array: &Array<'_>,
    name: &str,
    layout: Layout,
    varlen: bool,
) -> PyResult<TensorArg> {
    match axes(array.view.rank, layout, varlen) {
        Some(axes) => Ok(TensorArg::new(&array.view, axes)),
        None => Err(error::dimensions(format!(
            "{name}: shape {}, expected rank 2, 3 or 4",
            shape_text(array.view.shape())
        ))),
    }
}

/// The caller's shape of an array of sizes [batch, heads, rows, columns]; the inverse of `place`.
pub(crate) fn user_shape(sizes: [u64; 4], rank: usize, layout: Layout, varlen: bool) -> Vec<usize> {
    let mut shape = vec![0; rank];
    if let Some(axes) = axes(rank, layout, varlen) {
        for (axis, size) in axes.into_iter().zip(sizes) {
            if let Some(axis) = axis {
                shape[axis] = size as usize;
            }
        }
    }
    shape
}

/// The shape of logsumexp: [batch, heads, rows] in every layout, without the axes that the operands don't have.
pub(crate) fn user_row_shape(
    sizes: [u64; 4],
    rank: usize,
    layout: Layout,
    varlen: bool,
) -> Vec<usize> {
    let axes = axes(rank, layout, varlen).unwrap_or([None; 4]);
    (axes[..3].iter().zip(sizes))
        .filter(|(axis, _)| axis.is_some())
        .map(|(_, size)| size as usize)
        .collect()
}

/// Places logsumexp, whose shape is `user_row_shape`.
pub(crate) fn place_rows(view: &View, rank: usize, layout: Layout, varlen: bool) -> TensorArg {
    let axes = axes(rank, layout, varlen).unwrap_or([None; 4]);
    let mut next = 0;
    let mut rows = [None; 4];
    for place in 0..3 {
        if axes[place].is_some() {
            rows[place] = Some(next);
            next += 1;
        }
    }
    TensorArg::new(view, rows)
}

/// Whether a call runs, or is only planned: then its temporary memory is never touched.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Run,
    Plan,
}

/// Owns the buffer handles and quantizations of one call.
pub(crate) struct Call<'a> {
    handle: &'a Handle,
    pub(crate) mode: Mode,
    /// The driver's name of each argument, and the caller's.
    names: Vec<(&'static str, &'static str)>,
    /// Addresses for plans, freed after the buffers over them.
    reserved: Vec<(*mut u8, MemoryLayout)>,
    buffers: Vec<*mut c_void>,
    // Boxed, so that descriptors can point at them while more are added.
    #[allow(clippy::vec_box)]
    quantizations: Vec<Box<sys::mfa_quantization>>,
    /// Bytes of temporary memory.
    pub(crate) scratch_bytes: u64,
}

/// Pages of the systems that there are: what devices wrap begins at one.
const PAGE: usize = 16 << 10;

/// Carries descriptors, which are full of pointers, into a closure that runs without the GIL.
struct Detached<T>(T);

// SAFETY: the closure runs on the same thread; only the interpreter is released around it.
unsafe impl<T> Send for Detached<T> {}

impl<T> Detached<T> {
    fn into_inner(self) -> T {
        self.0
    }
}

impl<'a> Call<'a> {
    pub(crate) fn new(
        handle: &'a Handle,
        mode: Mode,
        names: Vec<(&'static str, &'static str)>,
    ) -> Call<'a> {
        Call {
            handle,
            mode,
            names,
            reserved: Vec::new(),
            buffers: Vec::with_capacity(8),
            quantizations: Vec::new(),
            scratch_bytes: 0,
        }
    }

    /// Turns a status into an exception with the driver's message, which begins with the caller's name of an argument.
    pub(crate) fn check(&self, status: i32) -> PyResult<()> {
        (self.handle.status(status)).map_err(|error| error::from_mfa_renamed(error, &self.names))
    }

    /// Runs `work` without the GIL, then checks its status. The message is read on the same thread.
    pub(crate) fn run(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&sys::Api, *mut c_void) -> i32,
    ) -> PyResult<()> {
        let work = Detached((self.handle, work));
        let status = py.detach(move || {
            let (handle, work) = work.into_inner();
            work(handle.api(), handle.raw())
        });
        self.check(status)
    }

    /// A buffer over the caller's memory.
    pub(crate) fn wrap(&mut self, data: *mut u8, bytes: usize) -> PyResult<*mut c_void> {
        let mut buffer = ptr::null_mut();
        // SAFETY: the arrays of the call own `bytes` bytes at `data`, and outlive the buffer, which ends with the call.
        let status = unsafe {
            (self.handle.api().mfa_buffer_from_ptr)(
                self.handle.raw(),
                data.cast(),
                bytes as u64,
                &raw mut buffer,
            )
        };
        self.check(status)?;
        self.buffers.push(buffer);
        Ok(buffer)
    }

    /// A buffer over sequence lengths.
    pub(crate) fn lengths(&mut self, ends: &[i32]) -> PyResult<*mut c_void> {
        self.wrap(ends.as_ptr().cast_mut().cast(), size_of_val(ends))
    }

    /// Temporary memory: of the device, or for a plan addresses that the system has given no memory yet.
    pub(crate) fn scratch(&mut self, bytes: usize) -> PyResult<*mut c_void> {
        self.scratch_bytes += bytes as u64;
        if self.mode == Mode::Plan {
            let data = self.reserve(bytes)?;
            return self.wrap(data, bytes);
        }
        let mut buffer = ptr::null_mut();
        // SAFETY: the out pointer is a local variable.
        let status = unsafe {
            (self.handle.api().mfa_create_buffer)(self.handle.raw(), bytes as u64, &raw mut buffer)
        };
        self.check(status)?;
        self.buffers.push(buffer);
        Ok(buffer)
    }

    /// The same, all zero: drivers look at zero points before they plan.
    pub(crate) fn scratch_of_zeros(&mut self, bytes: usize) -> PyResult<*mut c_void> {
        let buffer = self.scratch(bytes)?;
        if let (Mode::Plan, Some((data, _))) = (self.mode, self.reserved.last()) {
            // SAFETY: the last memory that was reserved has at least these bytes, and nobody else has it.
            unsafe { data.write_bytes(0, bytes) };
        }
        Ok(buffer)
    }

    /// Memory that nobody reads or writes. Large sizes come from the system, page by page as they are touched.
    fn reserve(&mut self, bytes: usize) -> PyResult<*mut u8> {
        let none = || error::allocation(format!("{bytes} bytes could not be allocated"));
        let layout = MemoryLayout::from_size_align(bytes.max(1), PAGE).map_err(|_| none())?;
        // SAFETY: the size is not zero.
        let data = unsafe { alloc::alloc(layout) };
        if data.is_null() {
            return Err(none());
        }
        self.reserved.push((data, layout));
        Ok(data)
    }

    /// Where the driver finds the bytes of a buffer.
    pub(crate) fn contents(&self, buffer: *mut c_void) -> PyResult<usize> {
        let mut data = ptr::null_mut();
        // SAFETY: the buffer is alive; the out pointer is valid.
        self.check(unsafe { (self.handle.api().mfa_buffer_contents)(buffer, &raw mut data) })?;
        Ok(data as usize)
    }

    pub(crate) fn tensor(&mut self, placed: &TensorArg) -> PyResult<sys::mfa_tensor> {
        Ok(sys::mfa_tensor {
            buffer: self.wrap(placed.data, placed.bytes)?,
            precision: placed.precision,
            shape: placed.shape,
            strides: placed.strides,
            ..sys::mfa_tensor::ABSENT
        })
    }

    /// Keeps a quantization until the call ends; the pointer goes into a tensor.
    pub(crate) fn keep(
        &mut self,
        quantization: sys::mfa_quantization,
    ) -> *const sys::mfa_quantization {
        self.quantizations.push(Box::new(quantization));
        self.quantizations
            .last()
            .map_or(ptr::null(), |boxed| &raw const **boxed)
    }

    /// A contiguous float tensor in temporary memory.
    pub(crate) fn temporary(&mut self, shape: [u64; 4], dtype: Dtype) -> PyResult<sys::mfa_tensor> {
        let bytes = (shape
            .into_iter()
            .try_fold(dtype.size() as u64, u64::checked_mul))
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| error::dimensions("more bytes than memory can have".into()))?;
        Ok(sys::mfa_tensor {
            buffer: self.scratch(bytes)?,
            precision: dtype.precision(),
            shape,
            strides: contiguous_strides(shape),
            ..sys::mfa_tensor::ABSENT
        })
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        for buffer in self.buffers.drain(..) {
            // SAFETY: these handles were made by this call and are destroyed once. Destroying cannot be acted upon
            // if it fails.
            unsafe { (self.handle.api().mfa_destroy_buffer)(buffer) };
        }
        for (data, layout) in self.reserved.drain(..) {
            // SAFETY: allocated by `reserve` with this layout; the buffers over it are gone.
            unsafe { alloc::dealloc(data, layout) };
        }
    }
}

/// The strides of C order.
pub(crate) fn contiguous_strides(shape: [u64; 4]) -> [i64; 4] {
    let [_, heads, rows, columns] = shape.map(|size| size.max(1) as i64);
    [heads * rows * columns, rows * columns, columns, 1]
}
