//! `MFABuffer`: memory that a device can use, as arrays.

use std::ffi::c_void;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::array::{Array, numpy_dtype};
use crate::context::{Handle, required};
use crate::dtype::Dtype;
use crate::error;

/// The memory itself, kept by the buffer and by every array that looks into it.
#[pyclass(frozen, module = "umfa._native", name = "Memory")]
pub(crate) struct Memory {
    handle: Arc<Handle>,
    raw: *mut c_void,
    data: *mut u8,
    bytes: usize,
    readonly: bool,
    /// What keeps the wrapped memory where it is.
    _owner: Option<Py<PyAny>>,
}

// SAFETY: buffers may be used from any thread, says the contract; the address is only handed out.
unsafe impl Send for Memory {}
// SAFETY: as above; nothing is changed after construction.
unsafe impl Sync for Memory {}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: made by the driver, destroyed once.
        unsafe { (self.handle.raw().api().mfa_destroy_buffer)(self.raw) };
    }
}

impl Memory {
    /// Asks the driver where the bytes are.
    fn locate(&mut self) -> PyResult<()> {
        let mut data = ptr::null_mut();
        let context = self.handle.raw();
        // SAFETY: the buffer is alive; the out pointer is valid.
        let status = unsafe { (context.api().mfa_buffer_contents)(self.raw, &raw mut data) };
        context.check(status).map_err(error::from_mfa)?;
        self.data = data.cast();
        Ok(())
    }
}

#[pymethods]
impl Memory {
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let interface = PyDict::new(py);
        interface.set_item("version", 3)?;
        interface.set_item("typestr", "|u1")?;
        interface.set_item("shape", (self.bytes,))?;
        interface.set_item("data", (self.data as usize, self.readonly))?;
        Ok(interface)
    }
}

/// A block of memory that the context's device can use: `size` bytes, zero-filled, aligned to 64 bytes.
///
/// `as_array` gives NumPy arrays that look into it, which serve as operands and outputs. They keep the memory alive,
/// also after `close`.
#[pyclass(frozen, module = "umfa", name = "MFABuffer", weakref)]
pub(crate) struct Buffer {
    memory: Mutex<Option<Py<Memory>>>,
}

impl Buffer {
    fn open(&self, py: Python<'_>) -> PyResult<Py<Memory>> {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        match memory.as_ref() {
            Some(memory) => Ok(memory.clone_ref(py)),
            None => Err(error::argument(
                "the buffer is closed, expected an open MFABuffer".into(),
            )),
        }
    }

    fn holding(py: Python<'_>, memory: Memory) -> PyResult<Buffer> {
        Ok(Buffer {
            memory: Mutex::new(Some(Py::new(py, memory)?)),
        })
    }
}

#[pymethods]
impl Buffer {
    #[new]
    fn new(
        py: Python<'_>,
        context: &Bound<'_, PyAny>,
        size: &Bound<'_, PyAny>,
    ) -> PyResult<Buffer> {
        let Ok(bytes) = size.extract::<usize>() else {
            return Err(error::argument(format!(
                "size: {}, expected a number of bytes",
                size.repr()?
            )));
        };
        let handle = required("context", context)?;
        let mut raw = ptr::null_mut();
        // SAFETY: the context is alive and the out pointer valid.
        let status = unsafe {
            let context = handle.raw();
            (context.api().mfa_create_buffer)(context.handle(), bytes as u64, &raw mut raw)
        };
        handle.raw().check(status).map_err(error::from_mfa)?;
        let mut memory = Memory {
            handle,
            raw,
            data: ptr::null_mut(),
            bytes,
            readonly: false,
            _owner: None,
        };
        memory.locate()?;
        Buffer::holding(py, memory)
    }

    /// Wraps a contiguous array without copying it. The memory is kept alive, and cannot be resized, as long as the buffer
    /// or an array of it lives.
    #[staticmethod]
    fn from_array(
        py: Python<'_>,
        context: &Bound<'_, PyAny>,
        array: &Bound<'_, PyAny>,
    ) -> PyResult<Buffer> {
        let read = Array::read(array, "array", &Dtype::ALL)?;
        if !read.view.is_contiguous() {
            return Err(error::dimensions(
                "array: strided memory, expected C order; numpy.ascontiguousarray makes a copy"
                    .into(),
            ));
        }
        let handle = required("context", context)?;
        let (data, bytes) = (read.view.data, read.view.extent());
        let mut raw = ptr::null_mut();
        // SAFETY: what `lasting_owner` gives keeps these bytes, and lives as long as the buffer.
        let status = unsafe {
            let context = handle.raw();
            (context.api().mfa_buffer_from_ptr)(
                context.handle(),
                data.cast(),
                bytes as u64,
                &raw mut raw,
            )
        };
        handle.raw().check(status).map_err(error::from_mfa)?;
        let mut memory = Memory {
            handle,
            raw,
            data: ptr::null_mut(),
            bytes,
            readonly: read.view.readonly,
            _owner: Some(read.lasting_owner()?.unbind()),
        };
        memory.locate()?;
        Buffer::holding(py, memory)
    }

    /// The memory as a NumPy array that shares it.
    ///
    /// Args:
    ///     dtype: "float64", "float32", "float16", "bfloat16" (of ml_dtypes), "int8", "uint8", "bool", "int32" or "int64".
    ///     shape: the array's shape; None: one dimension, of all that fits.
    ///     offset: bytes before the first element.
    #[pyo3(signature = (dtype=None, shape=None, offset=0), text_signature = "($self, dtype='float32', shape=None, offset=0)")]
    fn as_array<'py>(
        &self,
        py: Python<'py>,
        dtype: Option<Bound<'py, PyAny>>,
        shape: Option<Bound<'py, PyAny>>,
        offset: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        let memory = self.open(py)?;
        let element = match dtype {
            None => Dtype::Float32,
            Some(given) => Dtype::parse(&given, &Dtype::ALL)?,
        };
        let bytes = memory.get().bytes;
        let room = bytes.saturating_sub(offset) / element.size();
        let shape: Vec<usize> = match shape.filter(|shape| !shape.is_none()) {
            None => vec![room],
            Some(shape) => match shape.extract::<usize>() {
                Ok(size) => vec![size],
                Err(_) => shape.extract()?,
            },
        };
        let wanted = (shape.iter().copied()).try_fold(1_usize, usize::checked_mul);
        let Some(count) = wanted.filter(|count| *count <= room && offset <= bytes) else {
            return Err(error::dimensions(format!(
                "shape: {shape:?} of {element} at byte {offset}, expected at most the {bytes} bytes of the buffer"
            )));
        };
        let numpy = py.import(intern!(py, "numpy"))?;
        let all = numpy.call_method1(intern!(py, "asarray"), (memory,))?;
        let part = all.get_item(pyo3::types::PySlice::new(
            py,
            offset as isize,
            (offset + count * element.size()) as isize,
            1,
        ))?;
        part.call_method1(intern!(py, "view"), (numpy_dtype(py, element)?,))?
            .call_method1(intern!(py, "reshape"), (PyTuple::new(py, shape)?,))
    }

    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.open(py)?
            .bind(py)
            .getattr(intern!(py, "__array_interface__"))
    }

    /// The size in bytes.
    #[getter]
    fn nbytes(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.open(py)?.get().bytes)
    }

    /// The address of the first byte.
    #[getter]
    fn address(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.open(py)?.get().data as usize)
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.nbytes(py)
    }

    /// Gives the memory up. Arrays that look into it keep it alive; closing twice is fine.
    fn close(&self) {
        let memory = self
            .memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(memory);
    }

    /// Whether `close` was called.
    #[getter]
    fn closed(&self) -> bool {
        self.memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none()
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().open(slf.py())?;
        Ok(slf)
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyTuple>) {
        self.close();
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        match self.open(py) {
            Ok(memory) => format!("MFABuffer(nbytes={})", memory.get().bytes),
            Err(_) => "MFABuffer(closed)".to_owned(),
        }
    }
}
