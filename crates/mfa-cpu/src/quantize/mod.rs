//! Rounding to INT8 and INT4, and back. The formulas are those of `mfa_quantize_desc` (eq. 38, 40 of docs/math.md).

mod check;
mod dequantize;
mod round;
mod source;
mod statistics;
mod workspace;

use std::ops::Range;
use std::sync::OnceLock;

use crate::contract::quant_scheme::{Granularity, Params};
use crate::error::{Error, Result, ensure};
use crate::operands::hadamard;
use crate::runtime::memory::Aligned;
use crate::runtime::pool::Pool;
use mfa_kernels::{Kernels, Precision};

pub(crate) use check::Quantize;
pub(crate) use dequantize::Dequantize;
pub(crate) use statistics::ErrorSum;

use source::SourceHead;
use statistics::ValueRange;
use workspace::{RowBuffers, Workspace};

/// Blocks of rows that a worker takes at a time, so that other workers can relieve a slow one. Chosen by model, not measured.
const CHUNK: usize = 32;

impl Quantize {
    /// Bytes of memory that [`Quantize::run`] needs.
    pub(crate) fn workspace(&self, threads: usize) -> usize {
        let columns = self.source.shape[3];
        if !self.source.shape.contains(&0) {
            return workspace::workspace(columns, threads);
        }
        // Without elements, at most means are written.
        if self.writes_mean() {
            workspace::workspace(columns, 1)
        } else {
            0
        }
    }

    /// Rounds; returns the error if `want_error`.
    pub(crate) fn run(
        &self,
        kernels: &Kernels,
        pool: &Pool,
        threads: usize,
        memory: &Aligned,
        want_error: bool,
    ) -> Result<ErrorSum> {
        let run = QuantizeRun {
            call: self,
            kernels,
            pool,
            threads,
            workspace: Workspace::new(memory, self.source.shape[3]),
        };
        if self.source.shape.contains(&0) {
            run.write_empty();
            return Ok(ErrorSum::default());
        }
        let largest = run.largest()?;
        self.check_half_scale(largest)?;
        run.write_means();
        run.write_tensor_parameters()?;
        run.round(want_error)
    }

    fn writes_mean(&self) -> bool {
        self.flags.smooth && !self.flags.mean_given
    }

    /// Whether all elements share a scale.
    fn is_tensor_wise(&self) -> bool {
        self.quant.granularity == Granularity::Tensor
    }

    /// Refuses a source whose scales could overflow FP16.
    fn check_half_scale(&self, largest: f32) -> Result<()> {
        let half = matches!(self.quant.params, Params::Strided { half: true, .. });
        if !half || self.flags.scale_given {
            return Ok(());
        }
        let doubled = |flag: bool| if flag { 2.0 } else { 1.0 };
        let spread = doubled(self.flags.smooth) * doubled(self.flags.asymmetric);
        let rotation = if self.quant.rotated {
            (self.source.shape[3] as f64).sqrt()
        } else {
            1.0
        };
        let levels = f64::from(self.destination.precision.symmetric_max());
        ensure!(
            f64::from(largest) * spread * rotation / levels < 65504.0,
            argument,
            "destination: FP16 scales may overflow for a source of magnitude {largest}; expected FP32 scales"
        );
        Ok(())
    }

    /// Scale and zero point of elements in a range.
    fn parameters(&self, range: ValueRange) -> (f32, i32) {
        let half = matches!(self.quant.params, Params::Strided { half: true, .. });
        let precision = self.destination.precision;
        round::parameters(range, precision, self.flags.asymmetric, half)
    }
}

/// A quantization that runs.
struct QuantizeRun<'a> {
    call: &'a Quantize,
    kernels: &'a Kernels,
    pool: &'a Pool,
    threads: usize,
    workspace: Workspace,
}

/// The phases, in their order.
impl QuantizeRun<'_> {
    /// The results of a source without elements. A mean over no rows is 0, and the scale of no elements is 1: results that are
    /// read later must be legal.
    fn write_empty(&self) {
        let [batch, heads, _, columns] = self.call.source.shape;
        // Without columns there are no means, however many heads.
        if self.call.writes_mean() && columns > 0 {
            for item in 0..batch.saturating_mul(heads) {
                self.write_mean(item / heads, item % heads, &mut self.workspace.of(0));
            }
        }
        if self.call.is_tensor_wise() && !self.call.flags.scale_given {
            self.call.quant.store(0, 0, 0, 0, 1.0, 0);
        }
    }

    /// The largest magnitude of the source; refuses NaN and infinities before anything is written.
    fn largest(&self) -> Result<f32> {
        let [batch, heads, rows, _] = self.call.source.shape;
        let items = batch * heads;
        let found = statistics::collect(self.pool, self.threads, items, |worker, item| {
            let row = self.workspace.of(worker).row;
            let head = self.stored_head(item);
            let mut largest = 0.0f32;
            for n in 0..rows {
                head.read(n, row);
                let mut sum = 0.0f32;
                for x in row.iter() {
                    largest = largest.max(x.abs());
                    sum += x * 0.0;
                }
                if sum.is_nan() {
                    return Err((n, row.iter().position(|x| !x.is_finite()).unwrap_or(0)));
                }
            }
            Ok(largest)
        })?;
        let mut largest = 0.0f32;
        for (item, of_head) in found
            .into_iter()
            .filter_map(OnceLock::into_inner)
            .enumerate()
        {
            match of_head {
                Ok(x) => largest = largest.max(x),
                Err((n, c)) => {
                    let at = [item / heads, item % heads, n, c];
                    return Err(Error::argument(format!(
                        "source: the element at {at:?} is not finite; expected finite numbers to quantize"
                    )));
                }
            }
        }
        Ok(largest)
    }

    /// Writes the means of all heads, if the call asks for them.
    fn write_means(&self) {
        if !self.call.writes_mean() {
            return;
        }
        let [batch, heads, _, _] = self.call.source.shape;
        self.pool
            .run(self.threads, batch.saturating_mul(heads), |worker, item| {
                self.write_mean(item / heads, item % heads, &mut self.workspace.of(worker));
            });
    }

    /// Writes the scale and zero point that all elements share, if they do.
    fn write_tensor_parameters(&self) -> Result<()> {
        if !self.call.is_tensor_wise() || self.call.flags.scale_given {
            return Ok(());
        }
        let [batch, heads, rows, _] = self.call.source.shape;
        let items = batch.saturating_mul(heads);
        let ranges = statistics::collect(self.pool, self.threads, items, |worker, item| {
            let mut range = ValueRange::default();
            let row = self.workspace.of(worker).row;
            let head = self.head(item / heads, item % heads);
            for n in 0..rows {
                head.prepare(n, row);
                range.extend(row);
            }
            range
        })?;
        let range =
            (ranges.iter().filter_map(OnceLock::get)).fold(ValueRange::default(), |a, b| a.join(b));
        let (scale, zero) = self.call.parameters(range);
        self.call.quant.store(0, 0, 0, 0, scale, zero);
        Ok(())
    }

    /// Writes the integers, and the scales and zero points of row blocks. Returns the error if `want_error`.
    fn round(&self, want_error: bool) -> Result<ErrorSum> {
        let (call, [batch, heads, rows, _]) = (self.call, self.call.source.shape);
        let block = call.quant.block_rows.min(rows);
        let blocks = rows.div_ceil(block);
        let chunks = blocks.div_ceil(CHUNK);
        let items = batch.saturating_mul(heads) * chunks;
        let writes_parameters = !call.is_tensor_wise() && !call.flags.scale_given;
        let errors = statistics::collect(self.pool, self.threads, items, |worker, item| {
            let (index, chunk) = (item / chunks, item % chunks);
            let head = self.head(index / heads, index % heads);
            let mut buffers = self.workspace.of(worker);
            let mut error = ErrorSum::default();
            for index in chunk * CHUNK..((chunk + 1) * CHUNK).min(blocks) {
                let range = index * block..((index + 1) * block).min(rows);
                if writes_parameters {
                    self.write_parameters(&head, range.clone(), &mut buffers);
                }
                for n in range {
                    self.round_row(&head, n, &mut buffers);
                    if want_error {
                        error.add_row(&self.difference(&head, n, &mut buffers));
                    }
                }
            }
            error
        })?;
        let errors = errors.iter().filter_map(OnceLock::get);
        Ok(errors.fold(ErrorSum::default(), |a, b| a.join(b)))
    }
}

/// The steps of the phases, by row.
impl QuantizeRun<'_> {
    /// A head of the source as it is stored.
    fn stored_head(&self, item: usize) -> SourceHead<'_> {
        let heads = self.call.source.shape[1];
        SourceHead {
            source: &self.call.source,
            kernels: self.kernels,
            at: (item / heads, item % heads),
            mean: None,
            rotate: false,
        }
    }

    /// A head of the source less the mean, rotated.
    fn head(&self, b: usize, h: usize) -> SourceHead<'_> {
        let [_, heads, _, columns] = self.call.source.shape;
        let mean = self.call.quant.mean.as_ref().map(|mean| {
            let first = (b * heads + h) * columns;
            // SAFETY: the array holds [batch, heads, columns] floats.
            unsafe { std::slice::from_raw_parts(mean.ptr.cast::<f32>().add(first), columns) }
        });
        SourceHead {
            mean,
            rotate: self.call.quant.rotated,
            ..self.stored_head(b * heads + h)
        }
    }

    fn write_mean(&self, b: usize, h: usize, buffers: &mut RowBuffers<'_>) {
        let [_, heads, rows, columns] = self.call.source.shape;
        let Some(mean) = &self.call.quant.mean else {
            return;
        };
        let (sum, row) = (&mut *buffers.sum, &mut *buffers.row);
        let head = self.stored_head(b * heads + h);
        sum.fill(0.0);
        for n in 0..rows {
            head.read(n, row);
            sum.iter_mut()
                .zip(row.iter())
                .for_each(|(s, x)| *s += f64::from(*x));
        }
        let first = (b * heads + h) * columns;
        for (c, s) in sum.iter().enumerate() {
            let value = (s / rows.max(1) as f64) as f32;
            // SAFETY: the array holds [batch, heads, columns] floats; one head is written by one worker.
            unsafe { mean.ptr.cast::<f32>().add(first + c).write(value) };
        }
    }

    /// Writes the scales and zero points of a block of rows.
    fn write_parameters(
        &self,
        head: &SourceHead<'_>,
        rows: Range<usize>,
        buffers: &mut RowBuffers<'_>,
    ) {
        let (quant, (b, h), first) = (&self.call.quant, head.at, rows.start);
        let row = &mut *buffers.row;
        let ranges = &mut buffers.ranges[..quant.groups(row.len())];
        ranges.fill(ValueRange::default());
        for n in rows {
            head.prepare(n, row);
            for (range, group) in ranges.iter_mut().zip(row.chunks(quant.group)) {
                range.extend(group);
            }
        }
        for (g, range) in ranges.iter().enumerate() {
            let (scale, zero) = self.call.parameters(*range);
            quant.store(b, h, first, g, scale, zero);
        }
    }

    fn round_row(&self, head: &SourceHead<'_>, n: usize, buffers: &mut RowBuffers<'_>) {
        let (quant, (b, h)) = (&self.call.quant, head.at);
        let (destination, asymmetric) = (&self.call.destination, self.call.flags.asymmetric);
        head.prepare(n, buffers.row);
        let groups = buffers.row.chunks(quant.group);
        let codes = buffers.codes.chunks_mut(quant.group);
        for (g, (x, codes)) in groups.zip(codes).enumerate() {
            let (scale, zero) = (quant.scale(b, h, n, g), quant.zero(b, h, n, g));
            round::codes(x, scale, zero, destination.precision, asymmetric, codes);
        }
        let at = destination.at(b, h, n, 0);
        // SAFETY: the destination row holds as many elements; rows do not overlap.
        unsafe {
            if destination.precision == Precision::I4 {
                for (i, pair) in buffers.codes.chunks_exact(2).enumerate() {
                    at.add(i)
                        .write((pair[0] as u8 & 0xF) | (pair[1] as u8) << 4);
                }
            } else {
                let stride = destination.strides[3];
                for (c, code) in buffers.codes.iter().enumerate() {
                    at.cast::<i8>().add(c * stride).write(*code);
                }
            }
        }
    }

    /// The row that was just rounded, dequantized into the source's domain, beside the source.
    fn difference<'b>(
        &self,
        head: &SourceHead<'_>,
        n: usize,
        buffers: &'b mut RowBuffers<'_>,
    ) -> statistics::RowError<'b> {
        let dequantized = &mut *buffers.dequantized;
        for (x, code) in dequantized.iter_mut().zip(buffers.codes.iter()) {
            *x = f32::from(*code);
        }
        self.call.destination.apply_scales(head.at, n, dequantized);
        if self.call.quant.rotated {
            hadamard::rotate(dequantized);
        }
        if let Some(mean) = head.mean {
            (dequantized.iter_mut().zip(mean)).for_each(|(x, m)| *x += m);
        }
        head.read(n, buffers.row);
        statistics::RowError {
            dequantized,
            source: buffers.row,
        }
    }
}
