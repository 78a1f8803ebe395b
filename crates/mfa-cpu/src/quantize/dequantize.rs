//! Dequantization: real numbers from a quantized tensor.

use std::ops::Range;
use std::ptr::null;

use mfa_sys as sys;

use super::source::pieces;
use super::workspace::{self, RowBuffers, Workspace};
use crate::contract::array::Access;
use crate::contract::overlap;
use crate::contract::precision;
use crate::contract::tensor::Tensor;
use crate::error::Result;
use crate::operands::dequantize::Domain;
use crate::operands::rows::store_row;
use crate::runtime::memory::Aligned;
use crate::runtime::pool::Pool;
use mfa_kernels::Kernels;

/// A checked `mfa_dequantize`.
pub(crate) struct Dequantize {
    source: Tensor,
    destination: Tensor,
}

impl Dequantize {
    /// Bytes of memory that [`Dequantize::run`] needs.
    pub(crate) fn workspace(&self, threads: usize) -> usize {
        if self.source.shape.contains(&0) {
            return 0;
        }
        let shape = self.source.shape;
        workspace::workspace(shape[3], workspace::workers(shape, threads))
    }

    pub(crate) fn check(source: &sys::mfa_tensor, destination: &sys::mfa_tensor) -> Result<Self> {
        let mut source = Access::Run.required(source, "source", &precision::INTEGERS)?;
        let precision = source.precision;
        if let Some(quant) = &mut source.quant {
            quant.check_values("source", precision)?;
        }
        let destination = Access::Run.required(destination, "destination", &precision::FLOATS)?;
        destination.expect_shape("destination", source.shape)?;
        destination.expect_writable("destination")?;
        overlap::expect_apart(
            &[(Some(&destination), "destination")],
            &[(Some(&source), "source")],
        )?;
        Ok(Dequantize {
            source,
            destination,
        })
    }

    pub(crate) fn run(&self, kernels: &Kernels, pool: &Pool, threads: usize, memory: &Aligned) {
        let workspace = Workspace::new(memory, self.source.shape[3]);
        let [batch, heads, rows, columns] = self.source.shape;
        if self.source.shape.contains(&0) {
            return;
        }
        let step = workspace::rows_of_item(1, columns);
        let pieces = rows.div_ceil(step);
        let threads = workspace::workers(self.source.shape, threads);
        pool.run(threads, batch * heads * pieces, |worker, item| {
            let (head, first) = (item / pieces, item % pieces * step);
            let rows = first..(first + step).min(rows);
            let at = (head / heads, head % heads);
            self.rows(kernels, at, rows, &mut workspace.of(worker));
        });
    }

    /// Dequantizes rows of a head.
    fn rows(
        &self,
        kernels: &Kernels,
        (b, h): (usize, usize),
        rows: Range<usize>,
        buffers: &mut RowBuffers<'_>,
    ) {
        let (source, destination) = (&self.source, &self.destination);
        let columns = source.shape[3];
        let RowBuffers {
            row,
            dequantized: mean,
            ..
        } = buffers;
        let has_mean = source.mean_into(b, h, mean);
        let domain = Domain {
            rotate: source.is_rotated(),
            mean: if has_mean { mean.as_ptr() } else { null() },
        };
        let plain = destination.is_plain_f32();
        for rows in pieces(rows, workspace::rows_of_block(columns)) {
            let (out, ld) = match plain {
                true => (
                    destination.at(b, h, rows.start, 0).cast(),
                    destination.strides[2],
                ),
                false => (row.as_mut_ptr(), columns),
            };
            // SAFETY: rows of `columns` elements: of the tensors, whose rows one worker writes each, and of the buffer.
            unsafe {
                source.dequantize_rows(kernels, (b, h), rows.start, rows.len(), domain, out, ld)
            };
            if !plain {
                for (n, row) in rows.zip(row.chunks_exact(columns)) {
                    store_row(kernels, destination, b, h, n, row);
                }
            }
        }
    }
}
