//! Arrays of any library, read in place: NumPy, torch CPU tensors, DLPack, and the buffer protocol.

use numpy::npyffi::objects::{_PyArray_GET_ITEM_DATA, PyArray_Descr};
use numpy::npyffi::{NPY_ARRAY_CARRAY, NPY_ARRAY_WRITEABLE, NpyTypes, PY_ARRAY_API};
use numpy::{PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyValueError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyMemoryView, PyString, PyTuple};

use crate::dlpack;
use crate::dtype::Dtype;
use crate::error;
use crate::reuse::{ResultMemory, SMALLEST};
use crate::torch::Torch;
use crate::view::{MAX_RANK, View, shape_text, wrong_dtype};

/// Which library an array belongs to, so that results can be of the same.
#[derive(Clone)]
pub(crate) enum Kind<'py> {
    NumPy,
    Torch(&'py Torch),
    /// Any other library with an array-API namespace.
    Namespace(Bound<'py, PyAny>),
}

/// An array that is read (or written) in place.
pub(crate) struct Array<'py> {
    pub(crate) view: View,
    pub(crate) kind: Kind<'py>,
    /// Keeps the memory alive: the object itself, or the DLPack capsule or NumPy view made of it.
    pub(crate) owner: Bound<'py, PyAny>,
}

impl<'py> Array<'py> {
    /// Reads `object`, called `name` in messages, whose elements must be one of `allowed`.
    pub(crate) fn read(
        object: &Bound<'py, PyAny>,
        name: &str,
        allowed: &[Dtype],
    ) -> PyResult<Array<'py>> {
        let py = object.py();
        if let Ok(array) = object.cast::<PyUntypedArray>() {
            return Array::numpy(array, name, allowed);
        }
        if let Some(torch) = Torch::loaded(py)?
            && object.is_instance(torch.tensor_type(py))?
        {
            let view = torch.view(object, name, allowed)?;
            let (kind, owner) = (Kind::Torch(torch), object.clone());
            return Ok(Array { view, kind, owner });
        }
        let kind = match object.getattr_opt(intern!(py, "__array_namespace__"))? {
            Some(namespace) => Kind::Namespace(namespace.call0()?),
            None => Kind::NumPy,
        };
        if object.hasattr(intern!(py, "__dlpack__"))? {
            let (view, capsule) = dlpack::view(object, name, allowed)?;
            return Ok(Array {
                view,
                kind,
                owner: capsule,
            });
        }
        let exporter = match PyMemoryView::from(object) {
            Ok(memory) => memory.into_any(),
            Err(_) if object.hasattr(intern!(py, "__array_interface__"))? => object.clone(),
            Err(_) => {
                return Err(error::dtype(format!(
                    "{name}: {}, expected an array: NumPy, a torch CPU tensor, DLPack or the buffer protocol",
                    object.get_type().name()?
                )));
            }
        };
        let array = py
            .import(intern!(py, "numpy"))?
            .call_method1(intern!(py, "asarray"), (exporter,))?;
        let array = array.cast_into::<PyUntypedArray>()?;
        Ok(Array {
            kind,
            ..Array::numpy(&array, name, allowed)?
        })
    }

    /// What keeps the memory in place for longer than a call, also while the caller resizes the object or gives it other
    /// memory: the exported memoryview, the DLPack capsule, or an alias of the array.
    pub(crate) fn lasting_owner(&self) -> PyResult<Bound<'py, PyAny>> {
        match &self.kind {
            Kind::Torch(_) => pinned(&self.owner),
            _ => Ok(self.owner.clone()),
        }
    }

    /// The array, or a copy of it where one number stands for all columns of a row: memory of one element that is read as
    /// many. Other dimensions that repeat go on repeating.
    pub(crate) fn with_columns(self, py: Python<'py>) -> PyResult<Array<'py>> {
        let Some(last) = self.view.rank.checked_sub(1) else {
            return Ok(self);
        };
        let (columns, size) = (self.view.shape[last], self.view.dtype.size());
        if columns < 2 || self.view.strides[last] != 0 || self.view.len() == 0 {
            return Ok(self);
        }
        let mut kept = self.view.shape;
        for (size, stride) in kept.iter_mut().zip(self.view.strides) {
            *size = if stride == 0 { 1 } else { *size };
        }
        kept[last] = columns;
        let copy = Kind::NumPy.new_array(py, &kept[..=last], self.view.dtype.plain())?;
        let rows = View {
            shape: kept,
            ..self.view
        };
        for (element, from) in rows.addresses().enumerate() {
            let to = copy.view.data.wrapping_add(element * size);
            // SAFETY: an element of the array, and one of the copy, which has as many bytes for each.
            unsafe { std::ptr::copy_nonoverlapping(from, to, size) };
        }
        let mut view = View {
            shape: self.view.shape,
            dtype: self.view.dtype,
            ..copy.view
        };
        for axis in 0..last {
            if self.view.strides[axis] == 0 {
                view.strides[axis] = 0;
            }
        }
        Ok(Array {
            view,
            kind: self.kind,
            owner: copy.owner,
        })
    }

    /// Writes zeros to a contiguous array that has no other user yet.
    pub(crate) fn fill_with_zeros(&self) {
        // SAFETY: the extent of the array's own memory; all its element types have a zero of zero bytes.
        unsafe { self.view.data.write_bytes(0, self.view.extent()) };
    }

    fn numpy(
        array: &Bound<'py, PyUntypedArray>,
        name: &str,
        allowed: &[Dtype],
    ) -> PyResult<Array<'py>> {
        let py = array.py();
        let descr = array.dtype();
        let found = match descr.num() {
            // numpy/ndarraytypes.h, enum NPY_TYPES; `long` is 32 or 64 bits
            0 => Some(Dtype::Bool),
            1 => Some(Dtype::Int8),
            2 => Some(Dtype::UInt8),
            11 => Some(Dtype::Float32),
            12 => Some(Dtype::Float64),
            23 => Some(Dtype::Float16),
            5 | 7 | 9 if descr.itemsize() == 4 => Some(Dtype::Int32),
            5 | 7 | 9 if descr.itemsize() == 8 => Some(Dtype::Int64),
            256.. if descr.typeobj().name()? == "bfloat16" => Some(Dtype::BFloat16),
            _ => None,
        };
        let dtype = found.filter(|dtype| allowed.contains(dtype) && descr.byteorder() != FOREIGN);
        let Some(dtype) = dtype else {
            let found = array.getattr(intern!(py, "dtype"))?;
            return Err(wrong_dtype(name, &found, allowed));
        };
        if !array.is_exact_instance_of_ndarray() && array.hasattr(intern!(py, "mask"))? {
            return Err(error::dtype(format!(
                "{name}: a masked array, expected a plain one; pass the mask as attn_mask"
            )));
        }
        // SAFETY: `array` is an ndarray, the interpreter is attached, and the header is only read.
        let header = unsafe { &*_PyArray_GET_ITEM_DATA(array.as_array_ptr()) };
        let view = View::new(
            name,
            header.data.cast(),
            array.shape(),
            array.strides(),
            1,
            dtype,
            header.flags & NPY_ARRAY_WRITEABLE == 0,
        )?;
        Ok(Array {
            view,
            kind: Kind::NumPy,
            owner: array.clone().into_any(),
        })
    }
}

/// An alias of a contiguous tensor that keeps its memory, and forbids to resize it, whatever the tensor does later: torch
/// promises both to NumPy.
fn pinned<'py>(tensor: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let bytes = tensor.py().import("torch")?.getattr("uint8")?;
    tensor
        .call_method0("detach")?
        .call_method1("reshape", (-1,))?
        .call_method1("view", (bytes,))?
        .call_method0("numpy")
}

/// The byte order that this machine doesn't have, as NumPy writes it.
const FOREIGN: u8 = if cfg!(target_endian = "little") {
    b'>'
} else {
    b'<'
};

trait Exact {
    fn is_exact_instance_of_ndarray(&self) -> bool;
}

impl Exact for Bound<'_, PyUntypedArray> {
    fn is_exact_instance_of_ndarray(&self) -> bool {
        use pyo3::PyTypeInfo;
        self.get_type_ptr() == PyUntypedArray::type_object_raw(self.py())
    }
}

impl<'py> Kind<'py> {
    /// A new, uninitialised array with its view.
    pub(crate) fn new_array(
        &self,
        py: Python<'py>,
        shape: &[usize],
        dtype: Dtype,
    ) -> PyResult<Array<'py>> {
        let object = self.empty(py, shape, dtype)?;
        match self {
            Kind::Torch(_) => Ok(Array {
                view: View::contiguous(crate::torch::address(&object)?, shape, dtype),
                kind: self.clone(),
                owner: object,
            }),
            _ => Array::numpy(object.cast()?, "out", &[dtype]),
        }
    }

    /// A new, uninitialised array. Libraries other than NumPy and torch get a NumPy array first: `finish` hands it over.
    pub(crate) fn empty(
        &self,
        py: Python<'py>,
        shape: &[usize],
        dtype: Dtype,
    ) -> PyResult<Bound<'py, PyAny>> {
        let made = match self {
            Kind::Torch(torch) => torch.empty(py, shape, dtype),
            Kind::NumPy | Kind::Namespace(_) => numpy_empty(py, shape, dtype),
        };
        made.map_err(|cause| {
            // torch says it with a RuntimeError, NumPy of sizes beyond addresses with a ValueError.
            let mine = cause.is_instance_of::<PyMemoryError>(py)
                || cause.is_instance_of::<PyRuntimeError>(py)
                || (cause.is_instance_of::<PyValueError>(py) && !error::is_ours(py, &cause));
            if !mine {
                return cause;
            }
            let found = shape_text(shape);
            let raised = error::allocation(format!(
                "memory for a {dtype} array of shape {found} could not be had"
            ));
            raised.set_cause(py, Some(cause));
            raised
        })
    }

    /// Hands a computed array of `empty` to the library that shall have it.
    pub(crate) fn finish(&self, array: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = array.py();
        match self {
            Kind::Namespace(namespace) if !namespace.is(py.import(intern!(py, "numpy"))?) => {
                // NumPy cannot export bfloat16 through DLPack; asarray takes it.
                namespace
                    .call_method1(intern!(py, "from_dlpack"), (&array,))
                    .or_else(|_| namespace.call_method1(intern!(py, "asarray"), (&array,)))
            }
            _ => Ok(array),
        }
    }
}

/// NumPy's dtype object. bfloat16 is that of `ml_dtypes`, which whoever holds such an array has installed.
pub(crate) fn numpy_dtype<'py>(py: Python<'py>, dtype: Dtype) -> PyResult<Bound<'py, PyAny>> {
    let numpy = py.import(intern!(py, "numpy"))?;
    let argument = match dtype {
        Dtype::BFloat16 => {
            let module = py.import(intern!(py, "ml_dtypes")).map_err(|cause| {
                let raised = error::unsupported(
                    "bfloat16: NumPy has it from the package ml_dtypes, which could not be imported; expected ml_dtypes \
                     (pip install ml_dtypes) or another dtype"
                        .into(),
                );
                raised.set_cause(py, Some(cause));
                raised
            })?;
            module.getattr(intern!(py, "bfloat16"))?
        }
        _ => PyString::new(py, dtype.name()).into_any(),
    };
    numpy.call_method1(intern!(py, "dtype"), (argument,))
}

fn numpy_empty<'py>(py: Python<'py>, shape: &[usize], dtype: Dtype) -> PyResult<Bound<'py, PyAny>> {
    use numpy::PyArrayDescr;
    use pyo3::sync::PyOnceLock;

    static DTYPES: [PyOnceLock<Py<PyAny>>; Dtype::ALL.len()] =
        [const { PyOnceLock::new() }; Dtype::ALL.len()];
    let descr = DTYPES[dtype as usize]
        .get_or_try_init(py, || numpy_dtype(py, dtype).map(Bound::unbind))?
        .bind(py)
        .cast::<PyArrayDescr>()?;
    let mut dims: [isize; MAX_RANK] = [0; MAX_RANK];
    for (dim, size) in dims.iter_mut().zip(shape) {
        *dim = isize::try_from(*size)
            .map_err(|_| error::dimensions(format!("a dimension of size {size} is too large")))?;
    }
    let bytes = shape
        .iter()
        .try_fold(dtype.size(), |bytes, size| bytes.checked_mul(*size));
    let descr = descr.clone().into_dtype_ptr();
    let (nd, dims) = (shape.len() as i32, dims.as_mut_ptr());
    match bytes {
        Some(bytes) if bytes >= SMALLEST => reused(py, bytes, descr, nd, dims),
        // SAFETY: the shape has `nd` <= MAX_RANK dimensions; the call takes over one reference to the dtype, and returns a
        // new reference or NULL with an exception set.
        _ => unsafe {
            let array = PY_ARRAY_API.PyArray_Empty(py, nd, dims, descr, 0);
            Bound::from_owned_ptr_or_err(py, array.cast())
        },
    }
}

/// An array over memory that an earlier result has left, or will leave.
fn reused<'py>(
    py: Python<'py>,
    bytes: usize,
    descr: *mut PyArray_Descr,
    nd: i32,
    dims: *mut isize,
) -> PyResult<Bound<'py, PyAny>> {
    let (data, owner) = match ResultMemory::new(py, bytes) {
        Ok(memory) => memory,
        Err(error) => {
            // SAFETY: the caller's reference, which the call below would have taken over.
            unsafe { ffi::Py_DECREF(descr.cast()) };
            return Err(error);
        }
    };
    // SAFETY: as for `PyArray_Empty`; the memory has as many bytes, and lives as long as its owner, of which the array takes
    // over a reference, even where that fails.
    unsafe {
        let kind = numpy::npyffi::get_type_object(py, NpyTypes::PyArray_Type);
        let strides = std::ptr::null_mut();
        let array = PY_ARRAY_API.PyArray_NewFromDescr(
            py,
            kind,
            descr,
            nd,
            dims,
            strides,
            data,
            NPY_ARRAY_CARRAY,
            std::ptr::null_mut(),
        );
        let array = Bound::from_owned_ptr_or_err(py, array)?;
        let base = owner.into_ptr();
        if PY_ARRAY_API.PyArray_SetBaseObject(py, array.as_ptr().cast(), base) < 0 {
            return Err(PyErr::fetch(py));
        }
        Ok(array)
    }
}

/// A shape as a Python tuple.
pub(crate) fn shape_tuple<'py>(py: Python<'py>, shape: &[usize]) -> PyResult<Bound<'py, PyTuple>> {
    PyTuple::new(py, shape)
}

/// Reads an array that will be written, of exactly this shape.
pub(crate) fn writable<'py>(
    object: &Bound<'py, PyAny>,
    name: &str,
    allowed: &[Dtype],
    shape: &[usize],
) -> PyResult<Array<'py>> {
    let array = Array::read(object, name, allowed)?;
    if array.view.readonly {
        return Err(error::argument(format!(
            "{name}: a read-only array, expected one that can be written"
        )));
    }
    same_shape(&array, name, shape)?;
    Ok(array)
}

/// Demands a shape of an array.
pub(crate) fn same_shape(array: &Array<'_>, name: &str, shape: &[usize]) -> PyResult<()> {
    if array.view.shape() == shape {
        return Ok(());
    }
    Err(error::dimensions(format!(
        "{name}: shape {}, expected {}",
        shape_text(array.view.shape()),
        shape_text(shape)
    )))
}
