//! How stored integers stand for real numbers: scales, zero points, means, and which elements share them.

use half::f16;
use mfa_sys as sys;

use crate::contract::array::{Access, Array};
use crate::error::{Error, Result, ensure};
use mfa_kernels::Precision;

/// Which elements share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Granularity {
    Tensor,
    Row,
    Block,
    Channel,
}

impl Granularity {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Granularity::Tensor => "tensor",
            Granularity::Row => "row",
            Granularity::Block => "block",
            Granularity::Channel => "channel",
        }
    }
}

/// How the integers of a tensor stand for real numbers.
#[derive(Clone)]
pub(crate) struct Quant {
    pub granularity: Granularity,
    /// Rows that share a scale.
    pub block_rows: usize,
    /// Columns that share a scale.
    pub group: usize,
    pub params: Params,
    pub rotated: bool,
    /// FP32 `[batch, heads, columns]`.
    pub mean: Option<Array>,
    /// Elements of `mean`.
    pub(super) means: usize,
}

/// Scales and zero points.
#[derive(Clone)]
pub(crate) enum Params {
    PerTensor {
        scale: f32,
        zero: i32,
    },
    Strided {
        scales: Array,
        half: bool,
        zeros: Option<(Array, usize)>,
        shape: [usize; 4],
        strides: [usize; 4],
    },
}

// SAFETY: as for `Tensor`.
unsafe impl Send for Quant {}
// SAFETY: as for `Tensor`.
unsafe impl Sync for Quant {}

impl Quant {
    /// The index of the scale of an element, in units of the strides' elements.
    fn index(strides: &[usize; 4], at: [usize; 4]) -> usize {
        strides.iter().zip(at).map(|(stride, i)| stride * i).sum()
    }

    /// Scale of row `n`, column group `g` (for CHANNEL: column `g`).
    pub(crate) fn scale(&self, b: usize, h: usize, n: usize, g: usize) -> f32 {
        match &self.params {
            Params::PerTensor { scale, .. } => *scale,
            Params::Strided { strides, .. } => {
                self.stored_scale(Self::index(strides, [b, h, n / self.block_rows, g]))
            }
        }
    }

    /// Zero point of row `n`, column group `g`.
    pub(crate) fn zero(&self, b: usize, h: usize, n: usize, g: usize) -> i32 {
        match &self.params {
            Params::PerTensor { zero, .. } => *zero,
            Params::Strided { zeros: None, .. } => 0,
            Params::Strided { strides, .. } => {
                self.stored_zero(Self::index(strides, [b, h, n / self.block_rows, g]))
            }
        }
    }

    /// Scale and zero point at place `i` of their arrays, which the strides of their shape reach.
    fn stored(&self, i: usize) -> (f32, i32) {
        (self.stored_scale(i), self.stored_zero(i))
    }

    fn stored_scale(&self, i: usize) -> f32 {
        match &self.params {
            Params::PerTensor { scale, .. } => *scale,
            Params::Strided { scales, half, .. } => {
                // SAFETY: `check` proved that every index up to the last of the scales' shape lies in the buffer, and
                // its alignment.
                unsafe {
                    if *half {
                        scales.ptr.cast::<f16>().add(i).read().to_f32()
                    } else {
                        scales.ptr.cast::<f32>().add(i).read()
                    }
                }
            }
        }
    }

    fn stored_zero(&self, i: usize) -> i32 {
        match &self.params {
            Params::PerTensor { zero, .. } => *zero,
            Params::Strided { zeros: None, .. } => 0,
            Params::Strided {
                zeros: Some((zeros, bytes)),
                ..
            } => {
                // SAFETY: zero points have the shape and strides of the scales, checked likewise.
                unsafe {
                    if *bytes == 1 {
                        i32::from(zeros.ptr.cast::<i8>().add(i).read())
                    } else {
                        zeros.ptr.cast::<i32>().add(i).read()
                    }
                }
            }
        }
    }

    /// Scales of rows `n..n + out.len()`, for granularities whose scale holds for a row.
    pub(crate) fn row_scales(&self, b: usize, h: usize, n: usize, out: &mut [f32]) {
        match &self.params {
            Params::PerTensor { scale, .. } => out.fill(*scale),
            Params::Strided {
                scales,
                half: false,
                strides,
                ..
            } if self.block_rows == 1 && strides[2] == 1 => {
                let first = Self::index(strides, [b, h, n, 0]);
                // SAFETY: as in `scale`; consecutive rows' scales are adjacent.
                unsafe {
                    scales
                        .ptr
                        .cast::<f32>()
                        .add(first)
                        .copy_to_nonoverlapping(out.as_mut_ptr(), out.len())
                };
            }
            _ => out
                .iter_mut()
                .enumerate()
                .for_each(|(i, x)| *x = self.scale(b, h, n + i, 0)),
        }
    }

    /// Zero points of rows `n..n + out.len()`, as floats, likewise.
    pub(crate) fn row_zeros(&self, b: usize, h: usize, n: usize, out: &mut [f32]) {
        out.iter_mut()
            .enumerate()
            .for_each(|(i, x)| *x = self.zero(b, h, n + i, 0) as f32);
    }

    /// The one scale and zero point of all rows, if there is one.
    pub(crate) fn constant(&self) -> Option<(f32, f32)> {
        match self.params {
            Params::PerTensor { scale, zero } => Some((scale, zero as f32)),
            Params::Strided { .. } => None,
        }
    }

    /// Whether any zero point can differ from 0.
    pub(crate) fn has_zeros(&self) -> bool {
        !matches!(
            self.params,
            Params::PerTensor { zero: 0, .. } | Params::Strided { zeros: None, .. }
        )
    }

    /// Writes scale and zero point of row `n`, group `g`.
    pub(crate) fn store(&self, b: usize, h: usize, n: usize, g: usize, scale: f32, zero: i32) {
        let Params::Strided {
            scales,
            half,
            zeros,
            strides,
            ..
        } = &self.params
        else {
            return;
        };
        let i = Self::index(strides, [b, h, n / self.block_rows, g]);
        // SAFETY: as in `scale` and `zero`; each group is written by one thread.
        unsafe {
            if *half {
                scales.ptr.cast::<f16>().add(i).write(f16::from_f32(scale));
            } else {
                scales.ptr.cast::<f32>().add(i).write(scale);
            }
            match zeros {
                Some((zeros, 1)) => zeros.ptr.cast::<i8>().add(i).write(zero as i8),
                Some((zeros, _)) => zeros.ptr.cast::<i32>().add(i).write(zero),
                None => {}
            }
        }
    }

    /// Calls `check` with each scale and zero point that is stored, until it refuses one.
    fn each(&self, check: impl Fn(f32, i32) -> Result<()>) -> Result<()> {
        let Params::Strided { shape, strides, .. } = &self.params else {
            return check(self.scale(0, 0, 0, 0), self.zero(0, 0, 0, 0));
        };
        if shape.contains(&0) {
            return Ok(());
        }
        let last: usize = (0..4).map(|axis| (shape[axis] - 1) * strides[axis]).sum();
        let count = shape.iter().fold(1usize, |n, size| n.saturating_mul(*size));
        if count > last.saturating_add(1) {
            // Named again and again: looked at one after the other.
            return (0..=last).try_for_each(|i| {
                let (scale, zero) = self.stored(i);
                check(scale, zero)
            });
        }
        // What a stride of 0 repeats is looked at once.
        let [batch, heads, blocks, groups] =
            std::array::from_fn(|axis| if strides[axis] == 0 { 1 } else { shape[axis] });
        for b in 0..batch {
            for h in 0..heads {
                for n in 0..blocks {
                    let row = n.saturating_mul(self.block_rows);
                    for g in 0..groups {
                        check(self.scale(b, h, row, g), self.zero(b, h, row, g))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Demands scales and zero points that can be rounded with.
    pub(crate) fn expect_given(&self, what: &str, precision: Precision) -> Result<()> {
        self.each(|scale, zero| {
            expect_scale(scale, what)?;
            expect_zero(zero, what, precision)
        })
    }

    /// Groups of columns in a row.
    pub(crate) fn groups(&self, columns: usize) -> usize {
        columns.div_ceil(self.group.max(1))
    }
}

impl Quant {
    /// Checks a quantization of a tensor of the given shape.
    pub(crate) fn check(
        q: &sys::mfa_quantization,
        what: &str,
        precision: Precision,
        (shape, data_strides): ([usize; 4], [usize; 4]),
        access: Access,
    ) -> Result<Self> {
        let [batch, heads, rows, columns] = shape;
        let granularity = match q.granularity {
            sys::MFA_GRANULARITY_TENSOR => Granularity::Tensor,
            sys::MFA_GRANULARITY_ROW => Granularity::Row,
            sys::MFA_GRANULARITY_BLOCK => Granularity::Block,
            sys::MFA_GRANULARITY_CHANNEL => Granularity::Channel,
            other => {
                return Err(Error::argument(format!(
                    "{what}: granularity {other} is unknown; expected 0 (tensor), 1 (row), 2 (block) or 3 (channel)"
                )));
            }
        };
        let blocked = matches!(granularity, Granularity::Block | Granularity::Channel);
        ensure!(
            blocked == (q.block_rows > 0),
            argument,
            "{what}: block_rows is {} with granularity {}; expected {}",
            q.block_rows,
            granularity.name(),
            if blocked { "at least 1" } else { "0" }
        );
        ensure!(
            q.group_size == 0
                || (granularity == Granularity::Row && matches!(q.group_size, 32 | 64)),
            argument,
            "{what}: group_size is {} with granularity {}; expected 0, or 32 or 64 with granularity row",
            q.group_size,
            granularity.name()
        );
        ensure!(
            q.rotated <= 1,
            argument,
            "{what}: rotated is {}; expected 0 or 1",
            q.rotated
        );
        ensure!(
            q.reserved == 0,
            argument,
            "{what}: quantization.reserved is {}; expected 0",
            q.reserved
        );
        let (block_rows, group) = match granularity {
            Granularity::Tensor => (usize::MAX, columns.max(1)),
            Granularity::Row => (
                1,
                if q.group_size == 0 {
                    columns.max(1)
                } else {
                    q.group_size as usize
                },
            ),
            Granularity::Block => (q.block_rows as usize, columns.max(1)),
            Granularity::Channel => (q.block_rows as usize, 1),
        };
        let scales_shape = match granularity {
            Granularity::Tensor => [1; 4],
            _ => [
                batch,
                heads,
                rows.div_ceil(block_rows),
                columns.div_ceil(group),
            ],
        };
        let in_place = granularity == Granularity::Tensor && q.scale != 0.0;
        let params = if q.scale_buffer.is_null() && (access == Access::Run || in_place) {
            ensure!(
                granularity == Granularity::Tensor,
                argument,
                "{what}: no scale_buffer with granularity {}; expected scales of shape {scales_shape:?}",
                granularity.name()
            );
            expect_scale(q.scale, what)?;
            expect_zero(q.zero_point, what, precision)?;
            Params::PerTensor {
                scale: q.scale,
                zero: q.zero_point,
            }
        } else {
            ensure!(
                q.scale_strides != [0; 4]
                    || scales_shape.iter().product::<usize>() <= 1
                    || is_contiguous(shape, data_strides),
                argument,
                "{what}: strides {data_strides:?} of shape {shape:?} are those of a view, without scale_strides; expected \
                 the strides of its scales {scales_shape:?}"
            );
            Self::check_arrays(q, what, scales_shape, access)?
        };
        let mean = if q.mean_buffer.is_null() {
            None
        } else {
            let bytes = 4 * batch as u128 * heads as u128 * columns as u128;
            Some(access.array(
                q.mean_buffer,
                q.mean_offset,
                bytes,
                4,
                &format!("{what}: mean_buffer"),
            )?)
        };
        Ok(Quant {
            granularity,
            block_rows,
            group,
            params,
            rotated: q.rotated == 1,
            mean,
            means: batch.saturating_mul(heads).saturating_mul(columns),
        })
    }

    fn check_arrays(
        q: &sys::mfa_quantization,
        what: &str,
        shape: [usize; 4],
        access: Access,
    ) -> Result<Params> {
        let half = match q.scale_precision {
            sys::MFA_PRECISION_FP32 => false,
            sys::MFA_PRECISION_FP16 => true,
            other => {
                return Err(Error::argument(format!(
                    "{what}: scale_precision is {other}; expected 0 (FP32) or 1 (FP16)"
                )));
            }
        };
        let mut strides = [0; 4];
        if q.scale_strides == [0; 4] {
            let mut step = 1;
            for axis in (0..4).rev() {
                // 0 where there is one element: tensors of any shape index a tensor-wise scale.
                strides[axis] = if shape[axis] > 1 { step } else { 0 };
                step *= shape[axis].max(1);
            }
        } else {
            for axis in 0..4 {
                let stride = q.scale_strides[axis];
                ensure!(
                    stride >= 0,
                    dimensions,
                    "{what}: scale_strides is {:?}; expected none below 0",
                    q.scale_strides
                );
                strides[axis] = if shape[axis] > 1 { stride as usize } else { 0 };
            }
        }
        let empty = shape.contains(&0);
        let last: u128 = (0..4)
            .map(|i| shape[i].saturating_sub(1) as u128 * strides[i] as u128)
            .sum();
        let count = if empty { 0 } else { last + 1 };
        let size = if half { 2 } else { 4 };
        let scales = access.array(
            q.scale_buffer,
            q.scale_offset,
            count * size as u128,
            size,
            &format!("{what}: scale_buffer"),
        )?;
        let zeros = if q.zero_point_buffer.is_null() {
            None
        } else {
            let bytes = q.zero_point_bytes as usize;
            ensure!(
                matches!(bytes, 1 | 4),
                argument,
                "{what}: zero_point_bytes is {bytes}; expected 1 or 4"
            );
            let name = format!("{what}: zero_point_buffer");
            Some((
                access.array(
                    q.zero_point_buffer,
                    q.zero_point_offset,
                    count * bytes as u128,
                    bytes,
                    &name,
                )?,
                bytes,
            ))
        };
        Ok(Params::Strided {
            scales,
            half,
            zeros,
            shape,
            strides,
        })
    }

    /// Checks what the arrays hold, as far as a wrong value would give a wrong result rather than NaN: reads each zero
    /// point. For a tensor-wise scale, takes the two numbers out of their arrays.
    pub(crate) fn check_values(&mut self, what: &str, precision: Precision) -> Result<()> {
        if matches!(&self.params, Params::Strided { scales, .. } if !scales.has_memory()) {
            // Only a plan is wanted, and no plan depends on the numbers.
            if self.granularity == Granularity::Tensor {
                self.params = Params::PerTensor {
                    scale: 1.0,
                    zero: 0,
                };
            }
            return Ok(());
        }
        if self.granularity == Granularity::Tensor {
            let (scale, zero) = (self.scale(0, 0, 0, 0), self.zero(0, 0, 0, 0));
            expect_scale(scale, what)?;
            expect_zero(zero, what, precision)?;
            self.params = Params::PerTensor { scale, zero };
        } else if matches!(&self.params, Params::Strided { zeros: Some((_, bytes)), .. } if precision == Precision::I4 || *bytes == 4)
        {
            self.each(|_, zero| expect_zero(zero, what, precision))?;
        }
        Ok(())
    }
}

/// Whether elements follow one another in the order of the axes.
fn is_contiguous(shape: [usize; 4], strides: [usize; 4]) -> bool {
    let mut step = 1;
    (0..4).rev().all(|axis| {
        let next = step;
        step *= shape[axis].max(1);
        shape[axis] <= 1 || strides[axis] == next
    })
}

fn expect_scale(scale: f32, what: &str) -> Result<()> {
    ensure!(
        scale.is_finite() && scale != 0.0,
        argument,
        "{what}: scale is {scale}; expected a finite number other than 0"
    );
    Ok(())
}

fn expect_zero(zero: i32, what: &str, precision: Precision) -> Result<()> {
    let (low, high) = precision.range();
    ensure!(
        (low..=high).contains(&zero),
        argument,
        "{what}: zero point is {zero}; expected {low} to {high} for {}",
        precision.name()
    );
    Ok(())
}
