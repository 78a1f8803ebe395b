//! Rounding to INT8 and INT4, and back. The formulas are those of `mfa_quantize_desc` (eq. 38, 40 of docs/math.md).

mod check;
mod dequantize;
mod rows;
mod source;
mod statistics;
mod workspace;

use std::ops::Range;

use crate::contract::quant_scheme::{Granularity, Params};
use crate::error::{Error, Result, ensure};
use crate::runtime::memory::Aligned;
use crate::runtime::pool::Pool;
use mfa_kernels::{Kernels, ScaleRule};

pub(crate) use check::Quantize;
pub(crate) use dequantize::Dequantize;
pub(crate) use statistics::ErrorSum;

use rows::HeadRounding;
use source::SourceHead;
use statistics::ValueRange;
use workspace::{RowBuffers, Workspace};

impl Quantize {
    /// Bytes of memory that [`Quantize::run`] needs.
    pub(crate) fn workspace(&self, threads: usize) -> usize {
        let columns = self.source.shape[3];
        if !self.source.shape.contains(&0) {
            let threads = workspace::workers(self.source.shape, threads);
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
            threads: workspace::workers(self.source.shape, threads),
            workspace: Workspace::new(memory, self.source.shape[3]),
        };
        if self.source.shape.contains(&0) {
            run.write_empty();
            return Ok(ErrorSum::default());
        }
        let source = run.source_range()?;
        self.check_half_scale(source.largest)?;
        run.write_means();
        if self.writes_tensor_parameters() {
            run.write_tensor_parameters(source.range)?;
        }
        run.round(want_error)
    }

    fn writes_mean(&self) -> bool {
        self.flags.smooth && !self.flags.mean_given
    }

    /// Whether all elements share a scale.
    fn is_tensor_wise(&self) -> bool {
        self.quant.granularity == Granularity::Tensor
    }

    /// Whether a scale of all elements is computed.
    fn writes_tensor_parameters(&self) -> bool {
        self.is_tensor_wise() && !self.flags.scale_given
    }

    fn has_half_scales(&self) -> bool {
        matches!(self.quant.params, Params::Strided { half: true, .. })
    }

    /// Refuses a source whose scales could overflow FP16.
    fn check_half_scale(&self, largest: f32) -> Result<()> {
        if !self.has_half_scales() || self.flags.scale_given {
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

    /// How scales and zero points follow from ranges.
    fn rule(&self) -> ScaleRule {
        let half = self.has_half_scales();
        ScaleRule::new(self.destination.precision, self.flags.asymmetric, half)
    }

    /// The smallest and the largest integer that rounding gives.
    fn ends(&self) -> (f32, f32) {
        let precision = self.destination.precision;
        let (low, high) = if self.flags.asymmetric {
            precision.range()
        } else {
            (-precision.symmetric_max(), precision.symmetric_max())
        };
        (low as f32, high as f32)
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

/// The results of the first pass.
struct SourceRange {
    /// The largest magnitude of the source, for scales in FP16.
    largest: f32,
    /// The range of the elements that are rounded, if they share a scale that can be computed now.
    range: Option<ValueRange>,
}

/// Ranges of rows of the source.
#[derive(Clone, Copy, Default)]
struct Ranges {
    stored: ValueRange,
    rounded: ValueRange,
}

/// Ranges, or the place of an element that is not finite.
type RowRanges = std::result::Result<Ranges, [usize; 4]>;

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
        if self.call.writes_tensor_parameters() {
            self.call.quant.store_groups((0, 0), 0, &[1.0], &[0.0]);
        }
    }

    /// Reads the source once; refuses NaN and infinities before anything is written.
    fn source_range(&self) -> Result<SourceRange> {
        // Means that are still to be computed change what is rounded.
        let with_range = self.call.writes_tensor_parameters() && !self.call.writes_mean();
        let work = |worker: usize, (b, h): (usize, usize), rows| {
            let row = self.workspace.of(worker).row;
            self.ranges_of_rows(&self.head(b, h), rows, row, with_range)
        };
        let join = |a: RowRanges, b: RowRanges| {
            let (a, b) = (a?, b?);
            Ok(Ranges {
                stored: a.stored.join(b.stored),
                rounded: a.rounded.join(b.rounded),
            })
        };
        let ranges = self.collect(1, work, Ok(Ranges::default()), join)?;
        let ranges = ranges.map_err(|at| {
            Error::argument(format!(
                "source: the element at {at:?} is not finite; expected finite numbers to quantize"
            ))
        })?;
        Ok(SourceRange {
            largest: ranges.stored.max.max(-ranges.stored.min),
            range: with_range.then_some(ranges.rounded),
        })
    }

    /// The ranges of rows of a head, as far as the call needs them, or the first element that is not finite.
    fn ranges_of_rows(
        &self,
        head: &SourceHead<'_>,
        rows: Range<usize>,
        buffer: &mut [f32],
        with_range: bool,
    ) -> RowRanges {
        let mut ranges = Ranges::default();
        let stored = head.as_stored();
        let needs_stored = self.call.has_half_scales() || (with_range && head.is_as_stored());
        let finite;
        if needs_stored {
            (ranges.stored, finite) = stored.range(rows.clone(), buffer);
        } else if with_range {
            // Sums and differences with a number that is not finite are not finite.
            let all;
            (ranges.rounded, all) = head.range(rows.clone(), buffer);
            finite = all || stored.is_finite(rows.clone(), buffer);
        } else {
            finite = stored.is_finite(rows.clone(), buffer);
        }
        if !finite {
            return Err(first_not_finite(&stored, rows, buffer));
        }
        if with_range && needs_stored {
            ranges.rounded = match head.is_as_stored() {
                true => ranges.stored,
                false => head.range(rows, buffer).0,
            };
        }
        Ok(ranges)
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

    /// Writes the scale and zero point that all elements share; finds their range if it is not known.
    fn write_tensor_parameters(&self, range: Option<ValueRange>) -> Result<()> {
        let range = match range {
            Some(range) => range,
            None => {
                let work = |worker: usize, (b, h): (usize, usize), rows| {
                    let row = self.workspace.of(worker).row;
                    self.head(b, h).range(rows, row).0
                };
                self.collect(1, work, ValueRange::default(), ValueRange::join)?
            }
        };
        let (mut scale, mut zero) = (1.0, 0.0);
        // SAFETY: the numbers of one group.
        unsafe {
            (self.kernels.quantize.parameters)(
                &raw const range.min,
                &raw const range.max,
                1,
                &self.call.rule(),
                &raw mut scale,
                &raw mut zero,
            );
        }
        (self.call.quant).store_groups((0, 0), 0, &[scale], &[zero]);
        Ok(())
    }

    /// Writes the remaining scales and zero points, and all integers; returns the error if `wants_error`.
    fn round(&self, wants_error: bool) -> Result<ErrorSum> {
        let call = self.call;
        let block = call.quant.block_rows.min(call.source.shape[2]);
        let step = if call.is_tensor_wise() { 1 } else { block };
        let work = |worker: usize, (b, h): (usize, usize), rows| {
            let rounding = HeadRounding {
                call,
                head: self.head(b, h),
                writes_parameters: !call.is_tensor_wise() && !call.flags.scale_given,
                wants_error,
            };
            rounding.rows(rows, block, &mut self.workspace.of(worker))
        };
        self.collect(step, work, ErrorSum::default(), ErrorSum::join)
    }
}

/// The parts of the phases.
impl QuantizeRun<'_> {
    /// Runs `work(worker, head, rows)` for pieces of all heads that are whole blocks of `block` rows; joins the results in order.
    fn collect<T: Send + Sync>(
        &self,
        block: usize,
        work: impl Fn(usize, (usize, usize), Range<usize>) -> T + Sync,
        first: T,
        join: impl Fn(T, T) -> T,
    ) -> Result<T> {
        let [batch, heads, rows, columns] = self.call.source.shape;
        let step = workspace::rows_of_item(block, columns);
        let pieces = rows.div_ceil(step);
        let items = batch.saturating_mul(heads).saturating_mul(pieces);
        let work = |worker: usize, item: usize| {
            let (head, first) = (item / pieces, item % pieces * step);
            let rows = first..first.saturating_add(step).min(rows);
            work(worker, (head / heads, head % heads), rows)
        };
        statistics::collect(self.pool, self.threads, items, work, first, join)
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
            source: &self.call.source,
            kernels: self.kernels,
            at: (b, h),
            mean,
            rotate: self.call.quant.rotated,
        }
    }

    fn write_mean(&self, b: usize, h: usize, buffers: &mut RowBuffers<'_>) {
        let [_, heads, rows, columns] = self.call.source.shape;
        let Some(mean) = &self.call.quant.mean else {
            return;
        };
        let (sum, row) = (&mut *buffers.sum, &mut buffers.row[..columns]);
        sum.fill(0.0);
        (self.head(b, h).as_stored()).add_to_columns(0..rows, row, sum);
        let first = (b * heads + h) * columns;
        for (c, s) in sum.iter().enumerate() {
            let value = (s / rows.max(1) as f64) as f32;
            // SAFETY: the array holds [batch, heads, columns] floats; one head is written by one worker.
            unsafe { mean.ptr.cast::<f32>().add(first + c).write(value) };
        }
    }
}

/// The first element of `rows` that is not finite.
fn first_not_finite(head: &SourceHead<'_>, rows: Range<usize>, buffer: &mut [f32]) -> [usize; 4] {
    let (b, h) = head.at;
    let row = &mut buffer[..head.source.shape[3]];
    for n in rows.clone() {
        let row = head.row(n, row);
        if let Some(c) = row.iter().position(|x| !x.is_finite()) {
            return [b, h, n, c];
        }
    }
    [b, h, rows.start, 0]
}
