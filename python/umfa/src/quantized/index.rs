//! Parts of a quantized tensor: slices as views, positions as copies.

use mfa::raw::sys;
use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyEllipsis, PySlice, PyTuple};

use super::{QuantizedTensor, Recipe};
use crate::error;
use crate::options::shown;
use crate::torch::Torch;
use crate::view::contiguous;

/// The index of one axis.
#[derive(Clone)]
enum Item {
    All,
    Range(usize, usize),
    /// Positions, none negative.
    Take(Vec<usize>),
}

impl QuantizedTensor {
    /// What an index of slices and of an array of integers takes; see `__getitem__`.
    pub(super) fn index<'py>(
        &self,
        py: Python<'py>,
        index: &Bound<'py, PyAny>,
    ) -> PyResult<QuantizedTensor> {
        self.read(py, "data")?;
        let items = self.items(py, index)?;
        let ranges: Vec<Option<(usize, usize)>> = (items.iter())
            .map(|item| match item {
                Item::Range(start, stop) => Some((*start, *stop)),
                _ => None,
            })
            .collect();
        let part = self.slice(py, &ranges)?;
        let taken = (items.into_iter().enumerate()).find_map(|(axis, item)| match item {
            Item::Take(positions) => Some((axis, positions)),
            _ => None,
        });
        match taken {
            Some((axis, positions)) => part.take(py, axis, &positions),
            None => Ok(part),
        }
    }

    /// A view of ranges of axes; None is all of one.
    fn slice<'py>(
        &self,
        py: Python<'py>,
        ranges: &[Option<(usize, usize)>],
    ) -> PyResult<QuantizedTensor> {
        let ranges = ranges.to_vec();
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
                    "a slice of rows that starts at {start}, expected a multiple of the {block} rows of a block: they share \
                     their scales; append whole blocks, or use granularity \"row\""
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

    /// A copy of some positions of an axis, which may repeat.
    pub(super) fn take(
        &self,
        py: Python<'_>,
        axis: usize,
        positions: &[usize],
    ) -> PyResult<QuantizedTensor> {
        let rows = self.axes()[2];
        let pick = |object: &Py<PyAny>, axis: usize, positions: &[usize]| {
            let object = object.bind(py);
            let mut index = vec![PySlice::full(py).into_any(); axis];
            let wide: Vec<i64> = positions.iter().map(|at| *at as i64).collect();
            let array = PyArray1::from_vec(py, wide).into_any();
            index.push(match Torch::loaded(py)? {
                Some(torch) if object.is_instance(torch.tensor_type(py))? => {
                    py.import("torch")?.call_method1("from_numpy", (array,))?
                }
                _ => array,
            });
            object.get_item(PyTuple::new(py, index)?)
        };
        let blocks;
        let groups = match rows {
            Some(rows) if rows == axis && self.scheme.block_rows > 0 => {
                blocks = self.blocks(axis, positions)?;
                &blocks
            }
            _ => positions,
        };
        let scale = |object: &Py<PyAny>| match self.scheme.granularity {
            sys::MFA_GRANULARITY_TENSOR => Ok(object.bind(py).clone()),
            _ => pick(object, axis, groups),
        };
        let mean = match (&self.mean, rows) {
            (Some(mean), Some(rows)) if rows != axis => {
                let axis = if rows < axis { axis - 1 } else { axis };
                Some(contiguous(&pick(mean, axis, positions)?)?)
            }
            (mean, _) => mean.as_ref().map(|mean| mean.bind(py).clone()),
        };
        QuantizedTensor::assemble(
            py,
            Recipe {
                data: pick(&self.data, axis, positions)?,
                scale: scale(&self.scale)?,
                zero_point: self.zero_point.as_ref().map(scale).transpose()?,
                mean,
                error: None,
                scheme: self.scheme,
                layout: self.layout,
            },
        )
    }

    /// The blocks of rows that positions take, which must be whole: the last one may end early.
    fn blocks(&self, axis: usize, positions: &[usize]) -> PyResult<Vec<usize>> {
        let size = self.scheme.block_rows as usize;
        let chunks = positions.chunks(size);
        chunks
            .map(|chunk| {
                let first = chunk[0];
                let follow = (chunk.iter().enumerate()).find(|(n, at)| **at != first + n);
                match (first % size, follow) {
                    (0, None) => Ok(first / size),
                    (_, wrong) => Err(error::argument(format!(
                        "index {} in dimension {axis}: the {size} rows of a block share their scales, expected whole blocks, \
                         each from a multiple of {size} on; granularity \"row\" takes any rows",
                        wrong.map_or(first, |(_, at)| *at)
                    ))),
                }
            })
            .collect()
    }

    /// The axis that Python counts, and what is wrong with it.
    pub(super) fn axis(&self, axis: isize) -> PyResult<usize> {
        let rank = self.shape.len() as isize;
        let found = if axis < 0 { axis + rank } else { axis };
        if !(0..rank).contains(&found) {
            return Err(error::argument(format!(
                "axis: {axis}, expected {} to {}",
                -rank,
                rank - 1
            )));
        }
        if found == rank - 1 {
            return Err(error::argument(format!(
                "axis: {axis}, the columns, expected another: columns share their scales"
            )));
        }
        Ok(found as usize)
    }

    /// What an index says of each axis.
    fn items(&self, py: Python<'_>, index: &Bound<'_, PyAny>) -> PyResult<Vec<Item>> {
        let given: Vec<Bound<'_, PyAny>> = match index.cast::<PyTuple>() {
            Ok(tuple) => tuple.iter().collect(),
            Err(_) => vec![index.clone()],
        };
        let rank = self.shape.len();
        let is_ellipsis = |item: &Bound<'_, PyAny>| item.is(PyEllipsis::get(py));
        let ellipses = given.iter().filter(|item| is_ellipsis(item)).count();
        let count = given.len() - ellipses;
        if ellipses > 1 || count > rank {
            return Err(error::argument(format!(
                "an index of {} items, expected at most {rank} slices and one ellipsis",
                given.len()
            )));
        }
        let mut items = Vec::with_capacity(rank);
        for item in &given {
            if is_ellipsis(item) {
                items.resize(items.len() + rank - count, Item::All);
                continue;
            }
            items.push(self.item(items.len(), item)?);
        }
        items.resize(rank, Item::All);
        if !matches!(items[rank - 1], Item::All) {
            return Err(error::argument(
                "an index of columns, expected all columns: they share scales".into(),
            ));
        }
        let arrays = items
            .iter()
            .filter(|item| matches!(item, Item::Take(_)))
            .count();
        if arrays > 1 {
            return Err(error::argument(format!(
                "an index of {arrays} arrays, expected one array of integers; index one dimension after the other"
            )));
        }
        Ok(items)
    }

    fn item(&self, axis: usize, item: &Bound<'_, PyAny>) -> PyResult<Item> {
        let size = self.shape[axis];
        let Ok(slice) = item.cast::<PySlice>() else {
            return positions(item, axis, size).map(Item::Take);
        };
        let found = slice.indices(size as isize)?;
        if found.step != 1 {
            return Err(error::argument(format!(
                "a slice with step {} in dimension {axis}, expected step 1, or an array of integers",
                found.step
            )));
        }
        let start = found.start.max(0) as usize;
        let stop = found.stop.max(found.start) as usize;
        Ok(match start > 0 || stop < size {
            true => Item::Range(start, stop),
            false => Item::All,
        })
    }
}

/// The positions that a list or array of integers, or a mask of True and False, takes of an axis.
fn positions(item: &Bound<'_, PyAny>, axis: usize, size: usize) -> PyResult<Vec<usize>> {
    let py = item.py();
    let wrong = |hint: &str| -> PyResult<PyErr> {
        Ok(error::dtype(format!(
            "index {} in dimension {axis}: expected a slice or one dimension of integers{hint}",
            shown(item)?
        )))
    };
    let numpy = py.import("numpy")?;
    let Ok(array) = numpy.call_method1("asarray", (item,)) else {
        return Err(wrong("")?);
    };
    let kind: String = array.getattr("dtype")?.getattr("kind")?.extract()?;
    let rank: usize = array.getattr("ndim")?.extract()?;
    let length: usize = array.getattr("size")?.extract()?;
    if rank == 0 && matches!(kind.as_str(), "i" | "u") {
        return Err(wrong(
            "; a single one would drop the dimension, n : n + 1 keeps it",
        )?);
    }
    // An empty list is an array of floats.
    if rank != 1 || !(matches!(kind.as_str(), "i" | "u" | "b") || length == 0) {
        return Err(wrong("")?);
    }
    let array = match kind.as_str() {
        "b" if length == size => numpy.call_method1("flatnonzero", (array,))?,
        "b" => {
            return Err(error::dimensions(format!(
                "index in dimension {axis}: {length} of True and False, expected {size}"
            )));
        }
        _ => array,
    };
    let wide: Vec<i128> = array.call_method0("tolist")?.extract()?;
    (wide.into_iter())
        .map(|at| {
            let found = if at < 0 { at + size as i128 } else { at };
            match usize::try_from(found) {
                Ok(found) if found < size => Ok(found),
                _ => Err(error::index(format!(
                    "index {at} in dimension {axis}: expected {} to {}",
                    -(size as i128),
                    size as i128 - 1
                ))),
            }
        })
        .collect()
}

/// Positions of an axis of which each is repeated as often as `repeats` says.
pub(super) fn repeated(repeats: &Bound<'_, PyAny>, size: usize) -> PyResult<Vec<usize>> {
    let wrong = |found: String| {
        error::argument(format!(
            "repeats: {found}, expected a number of 0 or more, or one for each of {size}"
        ))
    };
    let counts: Vec<usize> = match repeats.extract::<usize>() {
        Ok(count) if !repeats.is_instance_of::<PyBool>() => vec![count; size],
        _ => match repeats.extract() {
            Ok(counts) => counts,
            Err(_) => return Err(wrong(shown(repeats)?)),
        },
    };
    if counts.len() != size {
        return Err(wrong(format!("{} numbers", counts.len())));
    }
    Ok((counts.into_iter().enumerate())
        .flat_map(|(at, count)| std::iter::repeat_n(at, count))
        .collect())
}
