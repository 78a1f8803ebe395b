//! The settings of a quantization, and the shapes that follow from them.

use mfa::Granularity;
use mfa::raw::{lower, sys};
use pyo3::prelude::*;

use crate::dtype::Dtype;
use crate::error;
use crate::options::{DEFAULT_BLOCK_ROWS, GRANULARITIES, name_of};

/// The parts of a quantization that are not arrays.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scheme {
    pub(crate) precision: i32,
    pub(crate) granularity: i32,
    /// BLOCK and CHANNEL; otherwise 0.
    pub(crate) block_rows: u32,
    /// ROW: 0 is the whole row; otherwise 0.
    pub(crate) group: u32,
    pub(crate) rotated: bool,
}

impl Scheme {
    /// Refuses a `group` or (but for the default) `block_rows` that the granularity has no use for.
    pub(crate) fn new(
        precision: i32,
        granularity: i32,
        block_rows: u32,
        group: u32,
        rotated: bool,
    ) -> PyResult<Scheme> {
        let blocks = matches!(
            granularity,
            sys::MFA_GRANULARITY_BLOCK | sys::MFA_GRANULARITY_CHANNEL
        );
        if group != 0 && granularity != sys::MFA_GRANULARITY_ROW {
            return Err(error::argument(format!(
                "group: {group} with granularity \"{}\", expected granularity \"row\" or group None",
                name_of(granularity, GRANULARITIES)
            )));
        }
        if !blocks && block_rows != DEFAULT_BLOCK_ROWS {
            return Err(error::argument(format!(
                "block_rows: {block_rows} with granularity \"{}\", expected granularity \"block\" or \"channel\", or no \
                 block_rows",
                name_of(granularity, GRANULARITIES)
            )));
        }
        Ok(Scheme {
            precision,
            granularity,
            block_rows: if blocks { block_rows } else { 0 },
            group,
            rotated,
        })
    }

    /// Which elements share a scale.
    pub(crate) fn groups(&self) -> Granularity {
        match self.granularity {
            sys::MFA_GRANULARITY_ROW if self.group == 0 => Granularity::Row,
            sys::MFA_GRANULARITY_ROW => Granularity::RowGroups {
                columns: self.group,
            },
            sys::MFA_GRANULARITY_BLOCK => Granularity::Block {
                rows: self.block_rows,
            },
            sys::MFA_GRANULARITY_CHANNEL => Granularity::Channel {
                rows: self.block_rows,
            },
            _ => Granularity::Tensor,
        }
    }

    /// The sizes of the array of scales for a tensor of sizes [batch, heads, rows, columns].
    pub(crate) fn scale_sizes(&self, sizes: [u64; 4]) -> [u64; 4] {
        let shape = self.groups().scale_shape(sizes.map(|size| size as usize));
        shape.map(|size| size as u64)
    }

    /// The quantization of a call, without its arrays.
    pub(crate) fn describe(&self) -> lower::Quantization {
        lower::Quantization {
            rotated: self.rotated,
            ..lower::Quantization::new(self.groups())
        }
    }
}

/// The element type of the integers of a precision.
pub(crate) fn stored_dtype(precision: i32) -> Dtype {
    match precision {
        sys::MFA_PRECISION_INT4 => Dtype::UInt8,
        _ => Dtype::Int8,
    }
}

/// The shape of an array of `sizes` whose axes are those that `axes` names.
pub(crate) fn user_shape_like(
    rank: usize,
    axes: [Option<usize>; 4],
    sizes: [u64; 4],
) -> Vec<usize> {
    let mut shape = vec![0; rank];
    for (axis, size) in axes.into_iter().zip(sizes) {
        if let Some(axis) = axis {
            shape[axis] = size as usize;
        }
    }
    shape
}

/// The tensor's shape without its rows: [batch, heads, columns].
pub(crate) fn mean_shape(shape: &[usize], axes: [Option<usize>; 4]) -> Vec<usize> {
    [axes[0], axes[1], axes[3]]
        .into_iter()
        .flatten()
        .map(|axis| shape[axis])
        .collect()
}
