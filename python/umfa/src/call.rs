//! One call of the driver: wraps memory, runs without the GIL, reports failures.

use std::ffi::c_void;

use mfa::MfaBuffer;
use mfa::raw::lower::{self, BufferPart, Tensor};
use mfa::raw::{Context, sys};
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

/// Owns the buffers of one call.
pub(crate) struct Call<'a> {
    handle: &'a Handle,
    pub(crate) mode: Mode,
    /// The driver's name of each argument, and the caller's.
    names: Vec<(&'static str, &'static str)>,
    buffers: Vec<MfaBuffer<'static>>,
    /// Addresses for plans.
    reserved: Vec<lower::Reserved>,
    /// Bytes of temporary memory.
    pub(crate) scratch_bytes: u64,
}

/// Carries a call, which is full of pointers, into a closure that runs without the GIL.
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
            buffers: Vec::with_capacity(8),
            reserved: Vec::new(),
            scratch_bytes: 0,
        }
    }

    /// The exception for what a call reports: its message begins with the caller's name of an argument.
    pub(crate) fn check<T>(&self, result: mfa::Result<T>) -> PyResult<T> {
        result.map_err(|error| error::from_mfa_renamed(error, &self.names))
    }

    /// Runs `work` without the GIL. A message is read on the same thread.
    pub(crate) fn run<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&Context) -> mfa::Result<T>,
    ) -> PyResult<T> {
        let work = Detached((self.handle, work));
        let result = py.detach(move || {
            let (handle, work) = work.into_inner();
            work(handle.raw())
        });
        self.check(result)
    }

    /// A buffer over the caller's memory.
    pub(crate) fn wrap(&mut self, data: *mut u8, bytes: usize) -> PyResult<*mut c_void> {
        // SAFETY: the arrays of the call own `bytes` bytes at `data`, and outlive the buffer, which ends with the call.
        let buffer = unsafe { MfaBuffer::from_raw_parts(self.handle.context(), data, bytes) };
        let buffer = self.check(buffer)?;
        let handle = buffer.handle();
        self.buffers.push(buffer);
        Ok(handle)
    }

    /// A buffer over sequence lengths.
    pub(crate) fn lengths(&mut self, ends: &[i32]) -> PyResult<*mut c_void> {
        self.wrap(ends.as_ptr().cast_mut().cast(), size_of_val(ends))
    }

    /// Temporary memory: of the device, or for a plan addresses that the system has given no memory yet.
    pub(crate) fn scratch(&mut self, bytes: usize) -> PyResult<*mut c_void> {
        self.scratch_bytes += bytes as u64;
        if self.mode == Mode::Plan {
            let reserved = self.check(lower::Reserved::new(self.handle.context(), bytes))?;
            let handle = reserved.handle();
            self.reserved.push(reserved);
            return Ok(handle);
        }
        let buffer = self.check(MfaBuffer::new(self.handle.context(), bytes))?;
        let handle = buffer.handle();
        self.buffers.push(buffer);
        Ok(handle)
    }

    /// The same, all zero: drivers look at zero points before they plan.
    pub(crate) fn scratch_of_zeros(&mut self, bytes: usize) -> PyResult<*mut c_void> {
        let buffer = self.scratch(bytes)?;
        if let (Mode::Plan, Some(reserved)) = (self.mode, self.reserved.last_mut()) {
            reserved.fill_with_zeros(bytes);
        }
        Ok(buffer)
    }

    /// The address at which the driver finds the bytes of a buffer of this call.
    pub(crate) fn contents(&self, buffer: *mut c_void) -> PyResult<usize> {
        let mut data = std::ptr::null_mut();
        let context = self.handle.raw();
        // SAFETY: the buffer is alive; the out pointer is valid.
        let status = unsafe { (context.api().mfa_buffer_contents)(buffer, &raw mut data) };
        self.check(context.check(status))?;
        Ok(data as usize)
    }

    pub(crate) fn tensor(&mut self, placed: &TensorArg) -> PyResult<Tensor> {
        let memory = BufferPart::whole(self.wrap(placed.data, placed.bytes)?);
        Ok(Tensor::new(
            memory,
            placed.precision,
            placed.shape,
            placed.strides,
        ))
    }

    /// A contiguous float tensor in temporary memory.
    pub(crate) fn temporary(&mut self, shape: [u64; 4], dtype: Dtype) -> PyResult<Tensor> {
        let bytes = (shape
            .into_iter()
            .try_fold(dtype.size() as u64, u64::checked_mul))
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| error::dimensions("more bytes than memory can have".into()))?;
        let memory = BufferPart::whole(self.scratch(bytes)?);
        let strides = lower::contiguous_strides(shape);
        Ok(Tensor::new(memory, dtype.precision(), shape, strides))
    }
}
