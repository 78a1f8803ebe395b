//! Rows of the tensor that is quantized (eq. 40 of docs/math.md).

#![forbid(unsafe_code)]

use crate::contract::tensor::Tensor;
use crate::operands::hadamard;
use mfa_kernels::Kernels;

/// A head of the source.
pub(super) struct SourceHead<'a> {
    pub source: &'a Tensor,
    pub kernels: &'a Kernels,
    /// Batch element and head.
    pub at: (usize, usize),
    /// Subtracted from each row.
    pub mean: Option<&'a [f32]>,
    /// Whether rows are rotated after that.
    pub rotate: bool,
}

impl SourceHead<'_> {
    /// Reads row `n` as floats, as it is stored. `row` has as many columns.
    pub(super) fn read(&self, n: usize, row: &mut [f32]) {
        (self.source).dequantize_row(self.kernels, self.at, n, (None, false), row);
    }

    /// Reads row `n` less the mean, rotated: the row that is rounded.
    pub(super) fn prepare(&self, n: usize, row: &mut [f32]) {
        self.read(n, row);
        if let Some(mean) = self.mean {
            row.iter_mut().zip(mean).for_each(|(x, m)| *x -= m);
        }
        if self.rotate {
            hadamard::rotate(row);
        }
    }
}
