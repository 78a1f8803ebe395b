//! Slices of a quantized tensor, as views.

use mfa::raw::sys;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyEllipsis, PySlice, PyTuple};

use super::{QuantizedTensor, Recipe};
use crate::array::contiguous;
use crate::error;

impl QuantizedTensor {
    /// The view that an index of slices takes; see `__getitem__`.
    pub(super) fn slice<'py>(
        &self,
        py: Python<'py>,
        index: &Bound<'py, PyAny>,
    ) -> PyResult<QuantizedTensor> {
        self.read(py, "data")?;
        let ranges = self.ranges(py, index)?;
        let axes = self.axes();
        let cut = |object: &Py<PyAny>, ranges: &[Option<(usize, usize)>]| {
            let slices: Vec<Bound<'py, PySlice>> = ranges
                .iter()
                .map(|range| match range {
                    Some((start, stop)) => PySlice::new(py, *start as isize, *stop as isize, 1),
                    None => PySlice::full(py),
                })
                .collect();
            object.bind(py).get_item(PyTuple::new(py, slices)?)
        };
        let columns = ranges.len() - 1;
        let mut groups = ranges.clone();
        if let Some(rows) = axes[2]
            && self.scheme.block_rows > 0
            && let Some((start, stop)) = groups[rows]
        {
            let block = self.scheme.block_rows as usize;
            if start % block != 0 {
                return Err(error::argument(format!(
                    "a slice of rows that starts at {start}, expected a multiple of the {block} rows of a block"
                )));
            }
            groups[rows] = Some((start / block, stop.div_ceil(block)));
        }
        let mut means = ranges.clone();
        if let Some(rows) = axes[2] {
            means.remove(rows);
        }
        let scale = |object: &Py<PyAny>| match self.scheme.granularity {
            sys::MFA_GRANULARITY_TENSOR => Ok(object.bind(py).clone()),
            _ => cut(object, &groups),
        };
        QuantizedTensor::assemble(
            py,
            Recipe {
                data: cut(&self.data, &ranges[..columns])?,
                scale: scale(&self.scale)?,
                zero_point: self.zero_point.as_ref().map(scale).transpose()?,
                mean: self
                    .mean
                    .as_ref()
                    .map(|mean| contiguous(&cut(mean, &means)?))
                    .transpose()?,
                error: None,
                scheme: self.scheme,
                layout: self.layout,
            },
        )
    }

    /// The range of each axis that an index takes; None is all of it.
    fn ranges(
        &self,
        py: Python<'_>,
        index: &Bound<'_, PyAny>,
    ) -> PyResult<Vec<Option<(usize, usize)>>> {
        let items: Vec<Bound<'_, PyAny>> = match index.cast::<PyTuple>() {
            Ok(tuple) => tuple.iter().collect(),
            Err(_) => vec![index.clone()],
        };
        let rank = self.shape.len();
        let is_ellipsis = |item: &Bound<'_, PyAny>| item.is(PyEllipsis::get(py));
        let ellipses = items.iter().filter(|item| is_ellipsis(item)).count();
        let given = items.len() - ellipses;
        if ellipses > 1 || given > rank {
            return Err(error::argument(format!(
                "an index of {} items, expected at most {rank} slices and one ellipsis",
                items.len()
            )));
        }
        let mut ranges = Vec::with_capacity(rank);
        for item in &items {
            if is_ellipsis(item) {
                ranges.resize(ranges.len() + rank - given, None);
                continue;
            }
            let axis = ranges.len();
            let Ok(slice) = item.cast::<PySlice>() else {
                return Err(PyTypeError::new_err(format!(
                    "index {} in dimension {axis}: expected a slice; integers would drop the dimension",
                    item.repr()?
                )));
            };
            let size = self.shape[axis];
            let found = slice.indices(size as isize)?;
            if found.step != 1 {
                return Err(error::argument(format!(
                    "a slice with step {} in dimension {axis}, expected step 1",
                    found.step
                )));
            }
            let start = found.start.max(0) as usize;
            let stop = found.stop.max(found.start) as usize;
            ranges.push((start > 0 || stop < size).then_some((start, stop)));
        }
        ranges.resize(rank, None);
        if ranges[rank - 1].is_some() {
            return Err(error::argument(
                "a slice of columns, expected all columns: they share scales".into(),
            ));
        }
        Ok(ranges)
    }
}
