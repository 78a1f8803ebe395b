//! Memory that another library offers through DLPack (<https://dmlc.github.io/dlpack/latest/c_api.html>).
//!
//! The capsule is only looked into, not consumed: its own destructor releases the memory when the reference is dropped.

use std::ffi::{CStr, c_void};

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict};

use crate::dtype::{self, Dtype};
use crate::error;
use crate::view::{MAX_RANK, View};

#[repr(C)]
struct DLDataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

#[repr(C)]
struct DLTensor {
    data: *mut c_void,
    device_type: i32,
    device_id: i32,
    ndim: i32,
    dtype: DLDataType,
    shape: *const i64,
    strides: *const i64,
    byte_offset: u64,
}

/// The head of DLManagedTensorVersioned.
#[repr(C)]
struct Versioned {
    major: u32,
    minor: u32,
    manager: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut c_void)>,
    flags: u64,
    tensor: DLTensor,
}

const UNVERSIONED: &CStr = c"dltensor";
const VERSIONED: &CStr = c"dltensor_versioned";
const FLAG_READ_ONLY: u64 = 1;

/// Devices whose memory the processor can reach: CPU, and pinned host memory of CUDA and ROCm.
const HOST_DEVICES: [i32; 3] = [1, 3, 11];

fn element(dtype: &DLDataType) -> Option<Dtype> {
    match (dtype.code, dtype.bits, dtype.lanes) {
        (0, 8, 1) => Some(Dtype::Int8),
        (0, 32, 1) => Some(Dtype::Int32),
        (0, 64, 1) => Some(Dtype::Int64),
        (1, 8, 1) => Some(Dtype::UInt8),
        (2, 16, 1) => Some(Dtype::Float16),
        (2, 32, 1) => Some(Dtype::Float32),
        (2, 64, 1) => Some(Dtype::Float64),
        (4, 16, 1) => Some(Dtype::BFloat16),
        (6, 8, 1) => Some(Dtype::Bool),
        _ => None,
    }
}

/// The view of `object`, and the capsule that keeps its memory alive.
pub(crate) fn view<'py>(
    object: &Bound<'py, PyAny>,
    name: &str,
    allowed: &[Dtype],
) -> PyResult<(View, Bound<'py, PyAny>)> {
    let py = object.py();
    let device = object.call_method0(intern!(py, "__dlpack_device__"))?;
    let device: i32 = device.get_item(0)?.extract()?;
    if !HOST_DEVICES.contains(&device) {
        return Err(error::unsupported(format!(
            "{name}: memory of DLPack device type {device}, expected memory of the CPU (1)"
        )));
    }
    let method = object.getattr(intern!(py, "__dlpack__"))?;
    let keywords = PyDict::new(py);
    keywords.set_item(intern!(py, "max_version"), (1, 0))?;
    let capsule = match method.call((), Some(&keywords)) {
        // Producers from before DLPack 1.0 don't know the keyword.
        Err(problem) if problem.is_instance_of::<PyTypeError>(py) => method.call0()?,
        other => other?,
    };
    let capsule = capsule.cast_into::<PyCapsule>()?;
    let (tensor, readonly) = if let Ok(pointer) = capsule.pointer_checked(Some(VERSIONED)) {
        // SAFETY: the producer promises a DLManagedTensorVersioned under this name, alive as long as the capsule.
        let managed = unsafe { pointer.cast::<Versioned>().as_ref() };
        if managed.major != 1 {
            return Err(error::unsupported(format!(
                "{name}: DLPack version {}.{}, expected 1.x",
                managed.major, managed.minor
            )));
        }
        (&managed.tensor, managed.flags & FLAG_READ_ONLY != 0)
    } else {
        let pointer = capsule.pointer_checked(Some(UNVERSIONED))?;
        // SAFETY: the producer promises a DLManagedTensor under this name; a DLTensor is its first field.
        (unsafe { pointer.cast::<DLTensor>().as_ref() }, false)
    };
    let dtype = element(&tensor.dtype)
        .filter(|dtype| allowed.contains(dtype))
        .ok_or_else(|| {
            error::dtype(format!(
                "{name}: DLPack type (code {}, {} bits, {} lanes), expected {}",
                tensor.dtype.code,
                tensor.dtype.bits,
                tensor.dtype.lanes,
                dtype::list(allowed)
            ))
        })?;
    let wrong = |found: String, expected: &str| {
        error::dimensions(format!("{name}: DLPack {found}, expected {expected}"))
    };
    let rank = match usize::try_from(tensor.ndim) {
        Ok(rank) if rank <= MAX_RANK => rank,
        _ => {
            let found = format!("rank {}", tensor.ndim);
            return Err(wrong(found, &format!("0 to {MAX_RANK}")));
        }
    };
    if rank > 0 && tensor.shape.is_null() {
        return Err(wrong(format!("rank {rank} without a shape"), "its sizes"));
    }
    // SAFETY: shape and (unless NULL) strides have ndim entries; strides may be NULL for C order before version 1.2.
    let (shape, strides) = unsafe { (slice(tensor.shape, rank), slice(tensor.strides, rank)) };
    let shape: Vec<usize> = (shape.iter())
        .map(|size| {
            usize::try_from(*size)
                .map_err(|_| wrong(format!("shape {shape:?}"), "sizes of 0 or more"))
        })
        .collect::<PyResult<_>>()?;
    let strides: Vec<isize> = match strides {
        [] => (0..rank)
            .map(|axis| (shape[axis + 1..].iter().copied()).fold(1, usize::saturating_mul) as isize)
            .collect(),
        given => given.iter().map(|stride| *stride as isize).collect(),
    };
    let data = tensor
        .data
        .cast::<u8>()
        .wrapping_add(tensor.byte_offset as usize);
    let view = View::new(name, data, &shape, &strides, dtype.size(), dtype, readonly)?;
    Ok((view, capsule.into_any()))
}

/// # Safety
/// `pointer` is NULL or points to `len` values that outlive the result.
unsafe fn slice<'a>(pointer: *const i64, len: usize) -> &'a [i64] {
    if pointer.is_null() {
        return &[];
    }
    // SAFETY: by this function's contract.
    unsafe { std::slice::from_raw_parts(pointer, len) }
}
