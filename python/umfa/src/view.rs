//! The memory of an array, as every way of reading one gives it.

use pyo3::intern;
use pyo3::prelude::*;

use crate::dtype::{self, Dtype};
use crate::error;

/// The largest rank of an array that the contract can describe.
pub(crate) const MAX_RANK: usize = 4;

/// The memory, shape and element type of an array. Strides count elements and are not negative.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) data: *mut u8,
    pub(crate) rank: usize,
    pub(crate) shape: [usize; MAX_RANK],
    pub(crate) strides: [usize; MAX_RANK],
    pub(crate) dtype: Dtype,
    pub(crate) readonly: bool,
}

impl View {
    /// Checks raw shape and strides (counted in units of `unit` bytes) and makes them a view.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        name: &str,
        data: *mut u8,
        shape: &[usize],
        strides: &[isize],
        unit: usize,
        dtype: Dtype,
        readonly: bool,
    ) -> PyResult<View> {
        if shape.len() > MAX_RANK {
            return Err(error::dimensions(format!(
                "{name}: rank {}, expected at most {MAX_RANK}",
                shape.len()
            )));
        }
        let mut view = View {
            data,
            rank: shape.len(),
            shape: [1; MAX_RANK],
            strides: [0; MAX_RANK],
            dtype,
            readonly,
        };
        view.shape[..shape.len()].copy_from_slice(shape);
        let empty = shape.contains(&0);
        // The stride of a dimension of size 1 is never used, and libraries leave anything in it.
        let mut inner = 1_usize;
        for axis in (0..shape.len()).rev() {
            if shape[axis] <= 1 || empty {
                view.strides[axis] = inner;
                inner = inner.saturating_mul(shape[axis].max(1));
                continue;
            }
            let bytes = strides[axis].unsigned_abs().saturating_mul(unit);
            if strides[axis] < 0 {
                return Err(error::dimensions(format!(
                    "{name}: stride -{bytes} bytes in dimension {axis}, expected 0 or more; numpy.ascontiguousarray \
                     makes a copy without negative strides"
                )));
            }
            if !bytes.is_multiple_of(dtype.size()) {
                return Err(error::dimensions(format!(
                    "{name}: stride {bytes} bytes in dimension {axis}, expected a multiple of the {} bytes of {dtype}; \
                     numpy.ascontiguousarray makes a copy with such strides",
                    dtype.size()
                )));
            }
            view.strides[axis] = bytes / dtype.size();
            inner = view.strides[axis].saturating_mul(shape[axis]).max(1);
        }
        if !empty && !(data as usize).is_multiple_of(dtype.size()) {
            return Err(error::argument(format!(
                "{name}: memory at address {data:?}, expected a multiple of the {} bytes of {dtype}; numpy.copy makes an \
                 aligned array",
                dtype.size()
            )));
        }
        Ok(view)
    }

    /// C order, for at most `MAX_RANK` dimensions.
    pub(crate) fn contiguous(data: *mut u8, shape: &[usize], dtype: Dtype) -> View {
        let rank = shape.len().min(MAX_RANK);
        let mut view = View {
            data,
            rank,
            shape: [1; MAX_RANK],
            strides: [0; MAX_RANK],
            dtype,
            readonly: false,
        };
        let mut inner = 1_usize;
        for axis in (0..rank).rev() {
            view.shape[axis] = shape[axis];
            view.strides[axis] = inner;
            inner = inner.saturating_mul(shape[axis].max(1));
        }
        view
    }

    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape[..self.rank]
    }

    pub(crate) fn strides(&self) -> &[usize] {
        &self.strides[..self.rank]
    }

    pub(crate) fn len(&self) -> usize {
        (self.shape().iter().copied()).fold(1, usize::saturating_mul)
    }

    /// The addresses of the elements, in C order.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = *mut u8> + use<> {
        let view = *self;
        (0..view.len()).map(move |element| {
            let mut rest = element;
            let mut offset = 0;
            for axis in (0..view.rank).rev() {
                offset += rest % view.shape[axis] * view.strides[axis];
                rest /= view.shape[axis];
            }
            view.data.wrapping_add(offset * view.dtype.size())
        })
    }

    /// Runs of adjacent elements, in C order: where each begins, and how many elements all of them have.
    pub(crate) fn runs(&self) -> (impl Iterator<Item = *mut u8> + use<>, usize) {
        let mut outer = *self;
        let mut run = 1;
        while let Some((&size, &stride)) = outer.shape().last().zip(outer.strides().last())
            && (size == 1 || stride == run)
        {
            run *= size;
            outer.rank -= 1;
        }
        (outer.addresses(), run)
    }

    /// Bytes from the first element to the end of the last one.
    pub(crate) fn extent(&self) -> usize {
        if self.shape().contains(&0) {
            return 0;
        }
        let last: usize = (self.shape().iter().zip(self.strides()))
            .map(|(size, stride)| (size - 1).saturating_mul(*stride))
            .fold(0, usize::saturating_add);
        last.saturating_add(1).saturating_mul(self.dtype.size())
    }

    /// Whether the elements are stored in C order without gaps.
    pub(crate) fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.len() == 0
            || (self.shape().iter().zip(self.strides()).rev()).all(|(size, stride)| {
                let fits = *size == 1 || *stride == expected;
                expected *= size;
                fits
            })
    }
}

/// The complaint about an element type, and what may help.
pub(crate) fn wrong_dtype(name: &str, found: &Bound<'_, PyAny>, allowed: &[Dtype]) -> PyErr {
    let text = found.to_string();
    let torch = text.starts_with("torch.");
    let kind = text.rsplit('.').next().unwrap_or_default();
    let integers = kind.starts_with("int") || kind.starts_with("uint");
    let floats = allowed.contains(&Dtype::Float32);
    let hint = match kind {
        "float64" if floats => "convert it, for example x.astype(numpy.float32) or x.float()",
        _ if integers && allowed.contains(&Dtype::Bool) && floats => match torch {
            true => "for a mask of True and False use mask.bool()",
            false => "for a mask of True and False use mask.astype(bool)",
        },
        "int8" | "uint8" if allowed == Dtype::OPERANDS => {
            "integers mean nothing without their scales: give the QuantizedTensor itself, or umfa.quantize an array"
        }
        _ => "",
    };
    let hint = match hint {
        "" => String::new(),
        hint => format!("; {hint}"),
    };
    error::dtype(format!(
        "{name}: dtype {text}, expected {}{hint}",
        dtype::list(allowed)
    ))
}

/// Copies an array to C order where it isn't already. For small parameters only, never for operands.
pub(crate) fn contiguous<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = object.py();
    match object.getattr_opt(intern!(py, "contiguous"))? {
        Some(method) => method.call0(),
        None => py
            .import(intern!(py, "numpy"))?
            .call_method1(intern!(py, "ascontiguousarray"), (object,)),
    }
}

/// A shape as Python writes it.
pub(crate) fn shape_text(shape: &[usize]) -> String {
    let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
    match sizes.as_slice() {
        [only] => format!("({only},)"),
        _ => format!("({})", sizes.join(", ")),
    }
}
