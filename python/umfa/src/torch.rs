//! torch CPU tensors, through their attributes: torch's own `__dlpack__` refuses what needs gradients and costs more.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};

use crate::dtype::Dtype;
use crate::error;
use crate::view::{View, wrong_dtype};

/// What is needed of the module `torch`, which is never imported from here.
pub(crate) struct Torch {
    tensor: Py<PyAny>,
    empty: Py<PyAny>,
    grad_enabled: Py<PyAny>,
    /// By discriminant of `Dtype`.
    dtypes: Vec<Py<PyAny>>,
}

impl Torch {
    /// torch, if the caller has imported it.
    pub(crate) fn loaded(py: Python<'_>) -> PyResult<Option<&Torch>> {
        static TORCH: PyOnceLock<Torch> = PyOnceLock::new();
        if let Some(torch) = TORCH.get(py) {
            return Ok(Some(torch));
        }
        let modules = py
            .import(intern!(py, "sys"))?
            .getattr(intern!(py, "modules"))?;
        let Ok(module) = modules.get_item(intern!(py, "torch")) else {
            return Ok(None);
        };
        // A module that is still being imported has no Tensor yet, and no one has made a tensor.
        if !module.hasattr(intern!(py, "Tensor"))? || !module.hasattr(intern!(py, "empty"))? {
            return Ok(None);
        }
        let torch = TORCH.get_or_try_init(py, || {
            let dtypes = Dtype::ALL
                .into_iter()
                .map(|dtype| Ok(module.getattr(dtype.name())?.unbind()))
                .collect::<PyResult<_>>()?;
            PyResult::Ok(Torch {
                tensor: module.getattr("Tensor")?.unbind(),
                empty: module.getattr("empty")?.unbind(),
                grad_enabled: module.getattr("is_grad_enabled")?.unbind(),
                dtypes,
            })
        })?;
        Ok(Some(torch))
    }

    pub(crate) fn tensor_type<'py>(&'py self, py: Python<'py>) -> &'py Bound<'py, PyAny> {
        self.tensor.bind(py)
    }

    pub(crate) fn view(
        &self,
        tensor: &Bound<'_, PyAny>,
        name: &str,
        allowed: &[Dtype],
    ) -> PyResult<View> {
        let py = tensor.py();
        if !tensor.getattr(intern!(py, "is_cpu"))?.extract::<bool>()? {
            return Err(error::unsupported(format!(
                "{name}: a tensor on device {}, expected cpu; tensor.cpu() makes a copy there",
                tensor.getattr(intern!(py, "device"))?
            )));
        }
        let found = tensor.getattr(intern!(py, "dtype"))?;
        let dtype = (self.dtypes.iter()).position(|dtype| dtype.is(&found));
        let dtype = dtype
            .map(|index| Dtype::ALL[index])
            .filter(|dtype| allowed.contains(dtype))
            .ok_or_else(|| wrong_dtype(name, &found, allowed))?;
        if tensor
            .getattr(intern!(py, "requires_grad"))?
            .extract::<bool>()?
            && self.grad_enabled.bind(py).call0()?.extract::<bool>()?
        {
            return Err(error::argument(format!(
                "{name}: a tensor that requires gradients, which this function does not record; expected \
                 tensor.detach(), torch.no_grad(), or umfa.torch.scaled_dot_product_attention"
            )));
        }
        if tensor
            .call_method0(intern!(py, "is_neg"))?
            .extract::<bool>()?
        {
            return Err(error::argument(format!(
                "{name}: a tensor whose negation is pending, expected plain memory; tensor.resolve_neg() makes it so"
            )));
        }
        let shape = tensor.getattr(intern!(py, "shape"))?;
        let strides = tensor.call_method0(intern!(py, "stride"))?;
        let data = address(tensor).map_err(|cause| {
            let raised = error::argument(format!(
                "{name}: a torch tensor without plain memory: {cause}"
            ));
            raised.set_cause(py, Some(cause));
            raised
        })?;
        let mut buffer = ([0_usize; 8], [0_isize; 8]);
        let shape = numbers(shape.cast::<PyTuple>()?, name, &mut buffer.0)?;
        let strides = numbers(strides.cast::<PyTuple>()?, name, &mut buffer.1)?;
        View::new(name, data, shape, strides, dtype.size(), dtype, false)
    }

    /// A new, uninitialised CPU tensor.
    pub(crate) fn empty<'py>(
        &self,
        py: Python<'py>,
        shape: &[usize],
        dtype: Dtype,
    ) -> PyResult<Bound<'py, PyAny>> {
        let keywords = PyDict::new(py);
        keywords.set_item(intern!(py, "dtype"), self.dtypes[dtype as usize].bind(py))?;
        keywords.set_item(intern!(py, "device"), intern!(py, "cpu"))?;
        self.empty
            .bind(py)
            .call((PyTuple::new(py, shape)?,), Some(&keywords))
    }
}

/// The address of a tensor's first element.
pub(crate) fn address(tensor: &Bound<'_, PyAny>) -> PyResult<*mut u8> {
    let address = tensor.call_method0(intern!(tensor.py(), "data_ptr"))?;
    Ok(address.extract::<usize>()? as *mut u8)
}

/// Reads a tuple of integers into a buffer on the stack.
fn numbers<'a, 'py, T>(
    tuple: &Bound<'py, PyTuple>,
    name: &str,
    buffer: &'a mut [T; 8],
) -> PyResult<&'a [T]>
where
    T: for<'b> FromPyObject<'b, 'py, Error = PyErr>,
{
    let rank = tuple.len();
    let Some(slots) = buffer.get_mut(..rank) else {
        return Err(error::dimensions(format!(
            "{name}: rank {rank}, expected at most 4"
        )));
    };
    for (slot, item) in slots.iter_mut().zip(tuple.iter()) {
        *slot = item.extract()?;
    }
    Ok(slots)
}
