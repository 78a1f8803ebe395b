//! Dequantization: real numbers from a quantized tensor.

#![forbid(unsafe_code)]

use mfa_sys as sys;

use super::CHUNK;
use super::workspace::{self, RowBuffers, Workspace};
use crate::contract::array::Access;
use crate::contract::overlap;
use crate::contract::precision;
use crate::contract::tensor::Tensor;
use crate::error::Result;
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
        workspace::workspace(self.source.shape[3], threads)
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
        let [batch, heads, rows, _] = self.source.shape;
        if self.source.shape.contains(&0) {
            return;
        }
        let chunks = rows.div_ceil(CHUNK);
        pool.run(threads, batch * heads * chunks, |worker, item| {
            let (head, chunk) = (item / chunks, item % chunks);
            let (b, h) = (head / heads, head % heads);
            let RowBuffers {
                row,
                dequantized: mean,
                ..
            } = workspace.of(worker);
            let has_mean = self.source.mean_into(b, h, mean);
            let domain = (has_mean.then_some(&*mean), self.source.is_rotated());
            for n in chunk * CHUNK..((chunk + 1) * CHUNK).min(rows) {
                (self.source).dequantize_row(kernels, (b, h), n, domain, row);
                store_row(kernels, &self.destination, b, h, n, row);
            }
        });
    }
}
