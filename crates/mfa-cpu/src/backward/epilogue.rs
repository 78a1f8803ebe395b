//! From accumulators to gradients: the softmax scale, the clip option, the caller's strides.
//!
//! See eq. 28, 29, 47 of docs/math.md.

use super::check::Backward;
use crate::contract::tensor::Tensor;
use crate::operands::hadamard;
use crate::operands::row_buffer::RowBuffer;
use crate::operands::rows::{clear_row, load_row};
use crate::operands::rows::{store_row, store_scaled_row};
use crate::runtime::pool::Pool;
use mfa_kernels::Kernels;

/// How the rows of one gradient are written.
pub(super) struct GradientEpilogue<'a> {
    pub kernels: &'a Kernels,
    pub gradient: &'a Tensor,
    /// The tensor that it is the gradient of.
    pub operand: &'a Tensor,
    /// The factor of accumulated rows.
    pub scale: f32,
    pub clip: bool,
}

impl GradientEpilogue<'_> {
    /// Scales, clips and writes an accumulated row.
    pub(super) fn row(&self, b: usize, h: usize, n: usize, row: &mut [f32]) {
        if !self.clip {
            return store_scaled_row(self.kernels, self.gradient, b, h, n, row, self.scale);
        }
        self.apply(b, h, n, row);
        store_row(self.kernels, self.gradient, b, h, n, row);
    }

    /// Finishes a row that was accumulated where it is written.
    pub(super) fn row_in_place(&self, b: usize, h: usize, n: usize) {
        if self.scale == 1.0 && !self.clip {
            return;
        }
        let columns = self.gradient.shape[3];
        if self.gradient.strides[3] == 1 {
            let at = self.gradient.at(b, h, n, 0).cast::<f32>();
            // SAFETY: the gradient is FP32 and has these columns, one after the other; rows belong to one worker.
            let row = unsafe { std::slice::from_raw_parts_mut(at, columns) };
            return self.apply(b, h, n, row);
        }
        let mut row = RowBuffer::new(columns);
        load_row(self.gradient, b, h, n, &mut row);
        self.row(b, h, n, &mut row);
    }

    fn apply(&self, b: usize, h: usize, n: usize, row: &mut [f32]) {
        if self.scale != 1.0 {
            let x = row.as_mut_ptr();
            // SAFETY: a row, in place.
            unsafe { (self.kernels.scale)(x, row.len(), self.scale, x) };
        }
        if self.clip {
            self.clip_row(b, h, n, row);
        }
    }

    /// Zeroes the components (eq. 47) of which the stored integer is at an end of its range: in the domain in which they are stored.
    fn clip_row(&self, b: usize, h: usize, n: usize, row: &mut [f32]) {
        let Some(quant) = &self.operand.quant else {
            return;
        };
        let precision = self.operand.precision;
        let (low, high) = if quant.has_zeros() {
            precision.range()
        } else {
            (-precision.symmetric_max(), precision.symmetric_max())
        };
        let mut codes = RowBuffer::<i8>::new(row.len());
        // SAFETY: one row of the operand into as many integers.
        unsafe {
            self.operand
                .unpack_rows(self.kernels, (b, h), n, 1, codes.as_mut_ptr(), row.len());
        }
        if quant.rotated {
            hadamard::rotate_with(self.kernels, row);
        }
        for (x, code) in row.iter_mut().zip(codes.iter()) {
            let code = i32::from(*code);
            if code <= low || code >= high {
                *x = 0.0;
            }
        }
        if quant.rotated {
            hadamard::rotate_with(self.kernels, row);
        }
    }
}

/// Zeroes the gradients of keys and values that are stored with a sequence and do not belong to it.
pub(crate) fn clear_spare_keys(call: &Backward, pool: &Pool, workers: usize) {
    let (sequences, heads) = (&call.problem.sequences, call.problem.kv_heads);
    let gradients = [&call.grad_key, &call.grad_value];
    // Without a gradient, heads and sequences may be without number.
    if gradients.iter().all(|gradient| gradient.is_none()) || !sequences.have_spare_keys() {
        return;
    }
    pool.run(workers, sequences.len() * heads, |_, item| {
        let (index, head) = (item / heads, item % heads);
        let batch = sequences.get(index).batch;
        for gradient in gradients.into_iter().flatten() {
            for row in sequences.spare_keys(index) {
                clear_row(gradient, batch, head, row);
            }
        }
    });
}
