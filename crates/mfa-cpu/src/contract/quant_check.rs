//! The checks of quantizations.

#![forbid(unsafe_code)]

use mfa_sys as sys;

use crate::contract::array::{Access, Array};
use crate::contract::quant_scheme::{Granularity, Params, Quant};
use crate::error::{Error, Result, ensure};
use mfa_kernels::Precision;

/// The checks, in their order: granularity, groups, scales and zero points, mean.
impl Quant {
    /// Checks a quantization of a tensor of the given shape and strides.
    pub(crate) fn check(
        q: &sys::mfa_quantization,
        what: &str,
        precision: Precision,
        (shape, data_strides): ([usize; 4], [usize; 4]),
        access: Access,
    ) -> Result<Self> {
        let [batch, heads, rows, columns] = shape;
        let granularity = check_granularity(q, what)?;
        check_flags(q, what)?;
        let (block_rows, group) = group_size(q, granularity, columns);
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
            check_in_place(q, what, granularity, precision, scales_shape)?
        } else {
            ensure!(
                q.scale_strides != [0; 4]
                    || scales_shape.iter().product::<usize>() <= 1
                    || is_contiguous(shape, data_strides),
                argument,
                "{what}: strides {data_strides:?} of shape {shape:?} are those of a view, without scale_strides; expected \
                 the strides of its scales {scales_shape:?}"
            );
            check_arrays(q, what, scales_shape, access)?
        };
        Ok(Quant {
            granularity,
            block_rows,
            group,
            params,
            rotated: q.rotated == 1,
            mean: check_mean(q, what, shape, access)?,
            means: batch.saturating_mul(heads).saturating_mul(columns),
        })
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
            // Strides repeat elements: each element is checked once, in the order of memory.
            return (0..=last).try_for_each(|i| {
                let (scale, zero) = self.stored(i);
                check(scale, zero)
            });
        }
        // A stride of 0 repeats an element, which is checked once.
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

    /// Demands scales and zero points that rounding can use.
    pub(crate) fn expect_given(&self, what: &str, precision: Precision) -> Result<()> {
        self.each(|scale, zero| {
            expect_scale(scale, what)?;
            expect_zero(zero, what, precision)
        })
    }

    /// Checks stored values of which a wrong one would give a wrong result rather than NaN: zero points. For a tensor-wise
    /// scale, reads the two numbers from their arrays.
    pub(crate) fn check_values(&mut self, what: &str, precision: Precision) -> Result<()> {
        if matches!(&self.params, Params::Strided { scales, .. } if !scales.has_memory()) {
            // Without memory only a plan is made, and no plan depends on the values.
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
            // One by one only to find the one that the message names, or where strides skip some.
            if !self.has_zeros_within(precision.range()) {
                self.each(|_, zero| expect_zero(zero, what, precision))?;
            }
        }
        Ok(())
    }
}

fn check_granularity(q: &sys::mfa_quantization, what: &str) -> Result<Granularity> {
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
        q.group_size == 0 || (granularity == Granularity::Row && matches!(q.group_size, 32 | 64)),
        argument,
        "{what}: group_size is {} with granularity {}; expected 0, or 32 or 64 with granularity row",
        q.group_size,
        granularity.name()
    );
    Ok(granularity)
}

fn check_flags(q: &sys::mfa_quantization, what: &str) -> Result<()> {
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
    Ok(())
}

/// Rows and columns that share a scale.
fn group_size(
    q: &sys::mfa_quantization,
    granularity: Granularity,
    columns: usize,
) -> (usize, usize) {
    let all_columns = columns.max(1);
    match granularity {
        Granularity::Tensor => (usize::MAX, all_columns),
        Granularity::Row if q.group_size == 0 => (1, all_columns),
        Granularity::Row => (1, q.group_size as usize),
        Granularity::Block => (q.block_rows as usize, all_columns),
        Granularity::Channel => (q.block_rows as usize, 1),
    }
}

/// The scale and zero point of a tensor that are stored in the struct.
fn check_in_place(
    q: &sys::mfa_quantization,
    what: &str,
    granularity: Granularity,
    precision: Precision,
    scales_shape: [usize; 4],
) -> Result<Params> {
    ensure!(
        granularity == Granularity::Tensor,
        argument,
        "{what}: no scale_buffer with granularity {}; expected scales of shape {scales_shape:?}",
        granularity.name()
    );
    expect_scale(q.scale, what)?;
    expect_zero(q.zero_point, what, precision)?;
    Ok(Params::PerTensor {
        scale: q.scale,
        zero: q.zero_point,
    })
}

/// The arrays of scales and zero points, of the scales' `shape`.
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
    let strides = check_scale_strides(q, what, shape)?;
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
    let zeros = check_zeros(q, what, count, access)?;
    Ok(Params::Strided {
        scales,
        half,
        zeros,
        shape,
        strides,
    })
}

/// The strides of scales and zero points; 0 where there is one element, so that tensors of any shape index a tensor-wise
/// scale.
fn check_scale_strides(
    q: &sys::mfa_quantization,
    what: &str,
    shape: [usize; 4],
) -> Result<[usize; 4]> {
    let contiguous = q.scale_strides == [0; 4];
    let (mut strides, mut step) = ([0; 4], 1);
    for axis in (0..4).rev() {
        let stride = if contiguous {
            step
        } else {
            ensure!(
                q.scale_strides[axis] >= 0,
                dimensions,
                "{what}: scale_strides is {:?}; expected none below 0",
                q.scale_strides
            );
            q.scale_strides[axis] as usize
        };
        strides[axis] = if shape[axis] > 1 { stride } else { 0 };
        if contiguous {
            step *= shape[axis].max(1);
        }
    }
    Ok(strides)
}

/// The array of zero points and the bytes of one, of `count` elements.
fn check_zeros(
    q: &sys::mfa_quantization,
    what: &str,
    count: u128,
    access: Access,
) -> Result<Option<(Array, usize)>> {
    if q.zero_point_buffer.is_null() {
        return Ok(None);
    }
    let bytes = q.zero_point_bytes as usize;
    ensure!(
        matches!(bytes, 1 | 4),
        argument,
        "{what}: zero_point_bytes is {bytes}; expected 1 or 4"
    );
    let array = access.array(
        q.zero_point_buffer,
        q.zero_point_offset,
        count * bytes as u128,
        bytes,
        &format!("{what}: zero_point_buffer"),
    )?;
    Ok(Some((array, bytes)))
}

/// The array of means, FP32 `[batch, heads, columns]`.
fn check_mean(
    q: &sys::mfa_quantization,
    what: &str,
    [batch, heads, _, columns]: [usize; 4],
    access: Access,
) -> Result<Option<Array>> {
    if q.mean_buffer.is_null() {
        return Ok(None);
    }
    let bytes = 4 * batch as u128 * heads as u128 * columns as u128;
    let name = format!("{what}: mean_buffer");
    access
        .array(q.mean_buffer, q.mean_offset, bytes, 4, &name)
        .map(Some)
}

/// Whether elements are stored in the order of the axes, without gaps.
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
