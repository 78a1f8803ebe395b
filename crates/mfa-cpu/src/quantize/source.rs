//! Rows of the tensor that is quantized.

use crate::contract::tensor::Tensor;
use crate::operands::dequantize::Domain;
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
        assert!(row.len() == self.source.shape[3] && n < self.source.shape[2]);
        let (out, ld) = (row.as_mut_ptr(), row.len());
        // SAFETY: one row of the source into a row of floats.
        unsafe {
            (self.source).dequantize_rows(self.kernels, self.at, n, 1, Domain::STORED, out, ld);
        }
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
