//! Rounding to INT8 and INT4, and back. The formulas are those of `mfa_quantize_desc`.

mod dequantize;
mod round;
mod statistics;
mod workspace;

use std::sync::OnceLock;

use mfa_sys as sys;

use crate::contract::array::Access;
use crate::contract::overlap;
use crate::contract::precision;
use crate::contract::quant_scheme::{Granularity, Params, Quant};
use crate::contract::tensor::Tensor;
use crate::error::{Error, Result, ensure};
use crate::operands::dequantize::Domain;
use crate::operands::hadamard;
use crate::runtime::memory::Aligned;
use crate::runtime::pool::Pool;
use mfa_kernels::Kernels;
use mfa_kernels::Precision;

pub(crate) use dequantize::Dequantize;
pub(crate) use statistics::ErrorSum;

use workspace::{Work, Workspace};

/// A checked quantization.
pub(crate) struct Quantize {
    source: Tensor,
    destination: Tensor,
    quant: Quant,
    asymmetric: bool,
    smooth: bool,
    mean_given: bool,
    scale_given: bool,
}

/// Blocks of rows that a worker takes at a time.
const CHUNK: usize = 32;

impl Quantize {
    /// Bytes of memory that [`Quantize::run`] needs.
    pub(crate) fn workspace(&self, threads: usize) -> usize {
        let columns = self.source.shape[3];
        if !self.source.shape.contains(&0) {
            return workspace::workspace(columns, threads);
        }
        // Of no elements, at most means are written.
        if self.smooth && !self.mean_given {
            workspace::workspace(columns, 1)
        } else {
            0
        }
    }

    pub(crate) fn check(desc: &sys::mfa_quantize_desc) -> Result<Self> {
        let flags = desc.flags;
        let known = sys::MFA_QUANTIZE_ASYMMETRIC
            | sys::MFA_QUANTIZE_SMOOTH
            | sys::MFA_QUANTIZE_MEAN_GIVEN
            | sys::MFA_QUANTIZE_SCALE_GIVEN;
        ensure!(
            flags & !known == 0,
            argument,
            "quantize: flags is {flags:#x}; expected bits of {known:#x}"
        );
        let has = |flag: u32| flags & flag != 0;
        let source = Access::Run.required(&desc.source, "source", &precision::FLOATS)?;
        // SAFETY: the contract makes `quantization` NULL or the address of a struct whose struct_size is true.
        let named =
            unsafe { crate::contract::sized::sized(desc.destination.quantization, "destination")? };
        if let Some(quantization) = named {
            ensure!(
                !quantization.scale_buffer.is_null(),
                argument,
                "destination: scale_buffer is NULL; expected a buffer that receives the scales"
            );
        }
        let destination =
            Access::Run.required(&desc.destination, "destination", &precision::INTEGERS)?;
        destination.expect_shape("destination", source.shape)?;
        destination.expect_writable("destination")?;
        let Some(quant) = destination.quant.clone() else {
            return Err(Error::argument(
                "destination: no quantization; expected one that names the buffer for scales",
            ));
        };
        let smooth = has(sys::MFA_QUANTIZE_SMOOTH);
        let mean_given = has(sys::MFA_QUANTIZE_MEAN_GIVEN);
        ensure!(
            smooth || !mean_given,
            argument,
            "quantize: MEAN_GIVEN without SMOOTH; expected both"
        );
        ensure!(
            smooth == quant.mean.is_some(),
            argument,
            "destination: a mean_buffer {}; expected {}",
            if smooth {
                "is missing"
            } else {
                "was given without SMOOTH"
            },
            if smooth {
                "FP32 [batch, heads, columns]"
            } else {
                "NULL"
            }
        );
        let asymmetric = has(sys::MFA_QUANTIZE_ASYMMETRIC);
        let has_zeros = matches!(quant.params, Params::Strided { zeros: Some(_), .. });
        ensure!(
            asymmetric == has_zeros,
            argument,
            "destination: a zero_point_buffer {}; expected {}",
            if asymmetric {
                "is missing"
            } else {
                "was given without ASYMMETRIC"
            },
            if asymmetric {
                "integers in the shape of the scales"
            } else {
                "NULL"
            }
        );
        let scale_given = has(sys::MFA_QUANTIZE_SCALE_GIVEN);
        if scale_given {
            quant.expect_given("destination", destination.precision)?;
        }
        let arrays = quant.arrays();
        let mut results = vec![(Some(&destination), "destination")];
        let mut operands = vec![(Some(&source), "source")];
        for (array, what) in &arrays {
            let given = if *what == "mean_buffer" {
                mean_given
            } else {
                scale_given
            };
            if given {
                operands.push((array.as_ref(), what));
                continue;
            }
            if let Some(array) = array {
                array.expect_writable(&format!("destination: {what}"))?;
            }
            results.push((array.as_ref(), what));
        }
        overlap::expect_apart(&results, &operands)?;
        Ok(Quantize {
            source,
            destination,
            quant,
            asymmetric,
            smooth,
            mean_given,
            scale_given,
        })
    }

    /// Rounds; returns the error if it is wanted.
    pub(crate) fn run(
        &self,
        kernels: &Kernels,
        pool: &Pool,
        threads: usize,
        memory: &Aligned,
        want_error: bool,
    ) -> Result<ErrorSum> {
        let room = Workspace::new(memory, self.source.shape[3]);
        let [batch, heads, rows, columns] = self.source.shape;
        let block = self.quant.block_rows.min(rows.max(1));
        let blocks = rows.div_ceil(block);
        let chunks = blocks.div_ceil(CHUNK);
        let heads_all = batch.saturating_mul(heads);
        let whole = self.quant.granularity == Granularity::Tensor;
        if self.source.shape.contains(&0) {
            // A mean over no rows is 0, and no elements are an all-zero group: what is read later must be legal.
            // Where there are no columns, there are no means: of any number of heads.
            if self.smooth && !self.mean_given && columns > 0 {
                for item in 0..heads_all {
                    self.write_mean(kernels, item / heads, item % heads, &mut room.of(0));
                }
            }
            if whole && !self.scale_given {
                self.quant.store(0, 0, 0, 0, 1.0, 0);
            }
            return Ok(ErrorSum::default());
        }
        let largest = self.largest(kernels, pool, threads, &room)?;
        self.check_half_scale(largest)?;
        if self.smooth && !self.mean_given {
            pool.run(threads, heads_all, |worker, item| {
                self.write_mean(kernels, item / heads, item % heads, &mut room.of(worker));
            });
        }
        if whole && !self.scale_given {
            let parts = statistics::collect(pool, threads, heads_all, |worker, item| {
                let mut range = statistics::Range::default();
                let row = room.of(worker).row;
                let prepared = self.prepare(item / heads, item % heads);
                for n in 0..rows {
                    prepared.row(self, kernels, n, row);
                    range.extend(row);
                }
                range
            })?;
            let range = (parts.iter().filter_map(OnceLock::get))
                .fold(statistics::Range::default(), |a, b| a.join(b));
            let (scale, zero) = self.parameters(range);
            self.quant.store(0, 0, 0, 0, scale, zero);
        }
        let parts = statistics::collect(pool, threads, heads_all * chunks, |worker, item| {
            let (head, chunk) = (item / chunks, item % chunks);
            let (b, h) = (head / heads, head % heads);
            let prepared = self.prepare(b, h);
            let mut work = room.of(worker);
            let mut error = ErrorSum::default();
            for index in chunk * CHUNK..((chunk + 1) * CHUNK).min(blocks) {
                let range = index * block..((index + 1) * block).min(rows);
                if !whole && !self.scale_given {
                    self.write_parameters(kernels, &prepared, (b, h), range.clone(), &mut work);
                }
                for n in range {
                    self.round_row(kernels, &prepared, (b, h), n, &mut work);
                    if want_error {
                        error.add_row(&self.difference(kernels, &prepared, (b, h), n, &mut work));
                    }
                }
            }
            error
        })?;
        let parts = parts.iter().filter_map(OnceLock::get);
        Ok(parts.fold(ErrorSum::default(), |a, b| a.join(b)))
    }

    /// The largest magnitude of the source; refuses NaN and infinities before anything is written.
    fn largest(
        &self,
        kernels: &Kernels,
        pool: &Pool,
        threads: usize,
        room: &Workspace,
    ) -> Result<f32> {
        let [batch, heads, rows, columns] = self.source.shape;
        let parts = statistics::collect(pool, threads, batch * heads, |worker, item| {
            let row = room.of(worker).row;
            let mut largest = 0.0f32;
            for n in 0..rows {
                // SAFETY: one row of the source into a row of floats.
                unsafe {
                    self.source.dequantize_rows(
                        kernels,
                        (item / heads, item % heads),
                        n,
                        1,
                        Domain::STORED,
                        row.as_mut_ptr(),
                        columns,
                    );
                }
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
        for (item, part) in parts
            .into_iter()
            .filter_map(OnceLock::into_inner)
            .enumerate()
        {
            match part {
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

    /// Refuses a source whose scales could overflow FP16.
    fn check_half_scale(&self, largest: f32) -> Result<()> {
        if !matches!(self.quant.params, Params::Strided { half: true, .. }) || self.scale_given {
            return Ok(());
        }
        let spread = if self.smooth { 2.0 } else { 1.0 } * if self.asymmetric { 2.0 } else { 1.0 };
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

    fn write_mean(&self, kernels: &Kernels, b: usize, h: usize, work: &mut Work<'_>) {
        let [_, heads, rows, columns] = self.source.shape;
        let Some(mean) = &self.quant.mean else { return };
        let (sum, row) = (&mut *work.sum, &mut *work.row);
        sum.fill(0.0);
        for n in 0..rows {
            // SAFETY: one row of the source into a row of floats.
            unsafe {
                self.source.dequantize_rows(
                    kernels,
                    (b, h),
                    n,
                    1,
                    Domain::STORED,
                    row.as_mut_ptr(),
                    columns,
                )
            };
            sum.iter_mut()
                .zip(row.iter())
                .for_each(|(s, x)| *s += f64::from(*x));
        }
        for (c, s) in sum.iter().enumerate() {
            // SAFETY: the array holds [batch, heads, columns] floats; one head is written by one worker.
            unsafe {
                mean.ptr
                    .cast::<f32>()
                    .add((b * heads + h) * columns + c)
                    .write((s / rows.max(1) as f64) as f32)
            };
        }
    }

    fn prepare(&self, b: usize, h: usize) -> Prepared<'_> {
        let columns = self.source.shape[3];
        let mean = self.quant.mean.as_ref().map(|mean| {
            let first = (b * self.source.shape[1] + h) * columns;
            // SAFETY: the array holds [batch, heads, columns] floats.
            unsafe { std::slice::from_raw_parts(mean.ptr.cast::<f32>().add(first), columns) }
        });
        Prepared { at: (b, h), mean }
    }

    fn parameters(&self, range: statistics::Range) -> (f32, i32) {
        let half = matches!(self.quant.params, Params::Strided { half: true, .. });
        round::parameters(range, self.destination.precision, self.asymmetric, half)
    }

    fn write_parameters(
        &self,
        kernels: &Kernels,
        prepared: &Prepared<'_>,
        (b, h): (usize, usize),
        rows: std::ops::Range<usize>,
        work: &mut Work<'_>,
    ) {
        let first = rows.start;
        let row = &mut *work.row;
        let ranges = &mut work.ranges[..self.quant.groups(row.len())];
        ranges.fill(statistics::Range::default());
        for n in rows {
            prepared.row(self, kernels, n, row);
            for (range, part) in ranges.iter_mut().zip(row.chunks(self.quant.group)) {
                range.extend(part);
            }
        }
        for (g, range) in ranges.iter().enumerate() {
            let (scale, zero) = self.parameters(*range);
            self.quant.store(b, h, first, g, scale, zero);
        }
    }

    fn round_row(
        &self,
        kernels: &Kernels,
        prepared: &Prepared<'_>,
        (b, h): (usize, usize),
        n: usize,
        work: &mut Work<'_>,
    ) {
        prepared.row(self, kernels, n, work.row);
        let precision = self.destination.precision;
        for (g, (x, codes)) in work
            .row
            .chunks(self.quant.group)
            .zip(work.codes.chunks_mut(self.quant.group))
            .enumerate()
        {
            let (scale, zero) = (self.quant.scale(b, h, n, g), self.quant.zero(b, h, n, g));
            round::codes(x, scale, zero, precision, self.asymmetric, codes);
        }
        let at = self.destination.at(b, h, n, 0);
        // SAFETY: the destination row holds as many elements; rows do not overlap.
        unsafe {
            if precision == Precision::I4 {
                for (i, pair) in work.codes.chunks_exact(2).enumerate() {
                    at.add(i)
                        .write((pair[0] as u8 & 0xF) | (pair[1] as u8) << 4);
                }
            } else {
                let stride = self.destination.strides[3];
                for (c, code) in work.codes.iter().enumerate() {
                    at.cast::<i8>().add(c * stride).write(*code);
                }
            }
        }
    }

    /// Dequantized minus source, in the source's domain, and the source.
    fn difference<'a>(
        &self,
        kernels: &Kernels,
        prepared: &Prepared<'_>,
        (b, h): (usize, usize),
        n: usize,
        work: &'a mut Work<'_>,
    ) -> statistics::RowError<'a> {
        let columns = work.row.len();
        for (back, code) in work.back.iter_mut().zip(work.codes.iter()) {
            *back = f32::from(*code);
        }
        self.destination.apply_scales((b, h), n, work.back);
        if self.quant.rotated {
            hadamard::rotate(work.back);
        }
        if let Some(mean) = &prepared.mean {
            (work.back.iter_mut().zip(mean.iter())).for_each(|(x, m)| *x += m);
        }
        // SAFETY: one row of the source into a row of floats.
        unsafe {
            self.source.dequantize_rows(
                kernels,
                (b, h),
                n,
                1,
                Domain::STORED,
                work.row.as_mut_ptr(),
                columns,
            )
        };
        statistics::RowError {
            dequantized: work.back,
            source: work.row,
        }
    }
}

/// What the rows of a head share.
struct Prepared<'a> {
    at: (usize, usize),
    mean: Option<&'a [f32]>,
}

impl Prepared<'_> {
    /// The source's row less the mean, rotated: what is rounded.
    fn row(&self, call: &Quantize, kernels: &Kernels, n: usize, row: &mut [f32]) {
        // SAFETY: one row of the source into a row of floats.
        unsafe {
            call.source.dequantize_rows(
                kernels,
                self.at,
                n,
                1,
                Domain::STORED,
                row.as_mut_ptr(),
                row.len(),
            )
        };
        if let Some(mean) = &self.mean {
            row.iter_mut().zip(*mean).for_each(|(x, m)| *x -= m);
        }
        if call.quant.rotated {
            hadamard::rotate(row);
        }
    }
}
