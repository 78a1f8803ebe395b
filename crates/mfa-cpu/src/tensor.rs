//! Views of buffers, checked once: whatever a [`Tensor`] says can be read lies inside its buffer.

use std::sync::Arc;

use half::f16;
use mfa_sys as sys;

use crate::buffer::Buffer;
use crate::error::{Result, ensure};
use crate::handle;
use crate::precision::Precision;

/// The dimensions of a view, in order.
const AXES: [&str; 4] = ["batch", "heads", "rows", "columns"];

/// A checked view.
#[derive(Clone)]
pub(crate) struct Tensor {
    /// Element [0, 0, 0, 0].
    pub ptr: *mut u8,
    pub precision: Precision,
    pub shape: [usize; 4],
    /// Elements.
    pub strides: [usize; 4],
    pub quant: Option<Quant>,
    /// Keeps the memory alive during the call.
    _owner: Arc<Buffer>,
}

// SAFETY: a view is as shareable as its buffer; writers to one tensor write disjoint rows.
unsafe impl Send for Tensor {}
// SAFETY: as above.
unsafe impl Sync for Tensor {}

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
    /// Whether there are zero points, be they all 0.
    pub asymmetric: bool,
    pub rotated: bool,
    /// FP32 `[batch, heads, columns]`.
    pub mean: Option<Array>,
}

/// A contiguous array inside a buffer.
#[derive(Clone)]
pub(crate) struct Array {
    pub ptr: *mut u8,
    _owner: Arc<Buffer>,
}

/// Scales and zero points.
#[derive(Clone)]
pub(crate) enum Params {
    One {
        scale: f32,
        zero: i32,
    },
    Many {
        scales: Array,
        half: bool,
        zeros: Option<(Array, usize)>,
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
            Params::One { scale, .. } => *scale,
            Params::Many {
                scales,
                half,
                strides,
                ..
            } => {
                let i = Self::index(strides, [b, h, n / self.block_rows, g]);
                // SAFETY: `check` proved that every index of the scales' shape lies in the buffer, and its alignment.
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

    /// Zero point of row `n`, column group `g`.
    pub(crate) fn zero(&self, b: usize, h: usize, n: usize, g: usize) -> i32 {
        match &self.params {
            Params::One { zero, .. } => *zero,
            Params::Many { zeros: None, .. } => 0,
            Params::Many {
                zeros: Some((zeros, bytes)),
                strides,
                ..
            } => {
                let i = Self::index(strides, [b, h, n / self.block_rows, g]);
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

    /// Whether any zero point can differ from 0.
    pub(crate) fn has_zeros(&self) -> bool {
        !matches!(
            self.params,
            Params::One { zero: 0, .. } | Params::Many { zeros: None, .. }
        )
    }

    /// Writes scale and zero point of row `n`, group `g`.
    pub(crate) fn store(&self, b: usize, h: usize, n: usize, g: usize, scale: f32, zero: i32) {
        let Params::Many {
            scales,
            half,
            zeros,
            strides,
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

    /// The part of the scales' shape that is not a repetition by a stride of 0.
    fn distinct(&self, shape: [usize; 4]) -> [usize; 4] {
        let Params::Many { strides, .. } = &self.params else {
            return [1; 4];
        };
        std::array::from_fn(|axis| {
            if strides[axis] == 0 {
                shape[axis].min(1)
            } else {
                shape[axis]
            }
        })
    }

    /// Groups of columns in a row.
    pub(crate) fn groups(&self, columns: usize) -> usize {
        columns.div_ceil(self.group.max(1))
    }
}

impl Tensor {
    /// Checks a view that must be there. `what` names it in sentences.
    pub(crate) fn required(view: &sys::mfa_tensor, what: &str) -> Result<Self> {
        ensure!(
            !view.buffer.is_null(),
            argument,
            "{what}: the buffer is NULL; expected a handle from mfa_create_buffer"
        );
        let owner = handle::buffer(view.buffer, what)?;
        let precision = Precision::from_code(view.precision);
        let Some(precision) = precision else {
            return Err(crate::error::Error::argument(format!(
                "{what}: precision code {} is unknown; expected 0 (FP32), 1 (FP16), 2 (BF16), 4 (INT4), 8 (INT8) or 16 (BOOL)",
                view.precision
            )));
        };
        ensure!(
            view.reserved == 0,
            argument,
            "{what}: reserved is {}; expected 0",
            view.reserved
        );
        let (shape, strides) = extent(
            what,
            precision,
            &view.shape,
            &view.strides,
            view.byte_offset,
            &owner,
        )?;
        // SAFETY: the contract makes `quantization` NULL or the address of a struct whose struct_size is true.
        let quant = match unsafe {
            crate::ffi::sized(view.quantization, &format!("{what}: quantization"))?
        } {
            Some(quantization) => {
                ensure!(
                    precision.is_quantized(),
                    argument,
                    "{what}: a quantization was given for {}; expected NULL unless INT8 or INT4",
                    precision.name()
                );
                Some(Quant::check(&quantization, what, precision, shape)?)
            }
            None => {
                ensure!(
                    !precision.is_quantized(),
                    argument,
                    "{what}: {} without quantization; expected scales",
                    precision.name()
                );
                None
            }
        };
        // SAFETY: `extent` proved that the offset lies inside the buffer (or the view is empty).
        let ptr = owner.ptr().wrapping_add(view.byte_offset as usize);
        Ok(Tensor {
            ptr,
            precision,
            shape,
            strides,
            quant,
            _owner: owner,
        })
    }

    /// Checks a view that may be absent.
    pub(crate) fn optional(view: &sys::mfa_tensor, what: &str) -> Result<Option<Self>> {
        if view.buffer.is_null() {
            Ok(None)
        } else {
            Self::required(view, what).map(Some)
        }
    }

    /// Demands one of `allowed`.
    pub(crate) fn expect_precision(&self, what: &str, allowed: &[Precision]) -> Result<()> {
        let names: Vec<_> = allowed.iter().map(|p| p.name()).collect();
        ensure!(
            allowed.contains(&self.precision),
            argument,
            "{what}: precision is {}; expected {}",
            self.precision.name(),
            names.join(", ")
        );
        Ok(())
    }

    /// Demands a shape.
    pub(crate) fn expect_shape(&self, what: &str, expected: [usize; 4]) -> Result<()> {
        ensure!(
            self.shape == expected,
            dimensions,
            "{what}: shape is {:?}; expected {expected:?}",
            self.shape
        );
        Ok(())
    }

    /// Demands that no two elements share memory, as a tensor that is written must.
    pub(crate) fn expect_writable(&self, what: &str) -> Result<()> {
        let mut axes: Vec<_> = (0..4)
            .filter(|&i| self.shape[i] > 1)
            .map(|i| (self.strides[i], self.shape[i]))
            .collect();
        axes.sort_unstable();
        let mut span = 1;
        for (stride, size) in axes {
            ensure!(
                stride >= span,
                dimensions,
                "{what}: strides {:?} let elements of shape {:?} overlap; expected distinct elements in an output",
                self.strides,
                self.shape
            );
            span = stride * (size - 1) + span;
        }
        Ok(())
    }

    /// The same tensor with each dimension of size 1 stretched to `shape` by a stride of 0.
    pub(crate) fn broadcast(mut self, what: &str, shape: [usize; 4]) -> Result<Self> {
        for (axis, &size) in shape.iter().enumerate() {
            if self.shape[axis] == 1 {
                self.strides[axis] = 0;
                self.shape[axis] = size;
            }
            ensure!(
                self.shape[axis] == size,
                dimensions,
                "{what}: {} is {}; expected {size} or 1 to broadcast to {shape:?}",
                AXES[axis],
                self.shape[axis]
            );
        }
        Ok(self)
    }

    /// Byte address of an element (for INT4: of the byte that holds it).
    pub(crate) fn at(&self, b: usize, h: usize, n: usize, c: usize) -> *mut u8 {
        let element =
            b * self.strides[0] + h * self.strides[1] + n * self.strides[2] + c * self.strides[3];
        self.ptr.wrapping_add(element * self.precision.bits() / 8)
    }

    /// Bytes between rows.
    pub(crate) fn row_bytes(&self) -> usize {
        self.strides[2] * self.precision.bits() / 8
    }
}

/// Checks shape, strides and offset against the buffer; all arithmetic is checked.
fn extent(
    what: &str,
    precision: Precision,
    shape: &[u64; 4],
    strides: &[i64; 4],
    offset: u64,
    buffer: &Buffer,
) -> Result<([usize; 4], [usize; 4])> {
    let mut last: u128 = 0;
    let mut count: u128 = 1;
    for axis in 0..4 {
        ensure!(
            strides[axis] >= 0,
            dimensions,
            "{what}: the stride of {} is {}; expected 0 or more",
            AXES[axis],
            strides[axis]
        );
        ensure!(
            shape[axis] <= 1 << 48,
            dimensions,
            "{what}: {} is {}; expected at most 2^48",
            AXES[axis],
            shape[axis]
        );
        last += u128::from(shape[axis].saturating_sub(1)) * strides[axis].unsigned_abs() as u128;
        count = count.saturating_mul(u128::from(shape[axis]));
    }
    let size = precision.bytes() as u64;
    ensure!(
        offset % size == 0,
        argument,
        "{what}: byte_offset is {offset}; expected a multiple of {size} for {}",
        precision.name()
    );
    ensure!(
        (buffer.ptr() as usize) % precision.bytes() == 0,
        argument,
        "{what}: the buffer starts at {:p}; expected an address aligned to {size} for {}",
        buffer.ptr(),
        precision.name()
    );
    if precision == Precision::I4 {
        ensure!(
            shape[3] % 2 == 0,
            dimensions,
            "{what}: {} columns of INT4; expected an even number",
            shape[3]
        );
        ensure!(
            shape[3] <= 1 || strides[3] == 1,
            dimensions,
            "{what}: the column stride of INT4 is {}; expected 1 (two elements share a byte)",
            strides[3]
        );
        for axis in 0..3 {
            ensure!(
                shape[axis] <= 1 || strides[axis] % 2 == 0,
                dimensions,
                "{what}: the stride of {} is {} elements of INT4; expected an even number",
                AXES[axis],
                strides[axis]
            );
        }
    }
    ensure!(
        count <= isize::MAX as u128,
        dimensions,
        "{what}: shape {shape:?} has more elements than can be addressed"
    );
    if count > 0 {
        let bytes = ((last + 1) * precision.bits() as u128).div_ceil(8);
        let end = bytes + u128::from(offset);
        ensure!(
            end <= buffer.len() as u128,
            argument,
            "{what}: shape {shape:?} with strides {strides:?} at byte {offset} in {} needs {end} bytes; the buffer has {}",
            precision.name(),
            buffer.len()
        );
    }
    let mut out = ([0; 4], [0; 4]);
    for axis in 0..4 {
        out.0[axis] = shape[axis] as usize;
        // A stride that is never taken may be absurd: it must not overflow later.
        out.1[axis] = if shape[axis] > 1 {
            strides[axis] as usize
        } else {
            0
        };
    }
    Ok(out)
}

impl Array {
    /// `bytes` of an array inside a buffer, aligned to `align`.
    pub(crate) fn check(
        buffer: sys::mfa_buffer_t,
        offset: u64,
        bytes: u128,
        align: usize,
        what: &str,
    ) -> Result<Self> {
        let owner = handle::buffer(buffer, what)?;
        let end = u128::from(offset) + bytes;
        ensure!(
            end <= owner.len() as u128,
            argument,
            "{what}: {bytes} bytes at byte {offset} are needed; the buffer has {}",
            owner.len()
        );
        let ptr = owner.ptr().wrapping_add(offset as usize);
        ensure!(
            ptr as usize % align == 0,
            argument,
            "{what}: starts at {ptr:p}; expected an address that is a multiple of {align}"
        );
        Ok(Array { ptr, _owner: owner })
    }
}

impl Quant {
    fn check(
        q: &sys::mfa_quantization,
        what: &str,
        precision: Precision,
        shape: [usize; 4],
    ) -> Result<Self> {
        let [batch, heads, rows, columns] = shape;
        let granularity = match q.granularity {
            sys::MFA_GRANULARITY_TENSOR => Granularity::Tensor,
            sys::MFA_GRANULARITY_ROW => Granularity::Row,
            sys::MFA_GRANULARITY_BLOCK => Granularity::Block,
            sys::MFA_GRANULARITY_CHANNEL => Granularity::Channel,
            other => {
                return Err(crate::error::Error::argument(format!(
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
        let params = if q.scale_buffer.is_null() {
            ensure!(
                granularity == Granularity::Tensor,
                argument,
                "{what}: no scale_buffer with granularity {}; expected scales of shape {scales_shape:?}",
                granularity.name()
            );
            ensure!(
                q.scale.is_finite() && q.scale != 0.0,
                argument,
                "{what}: scale is {}; expected a finite number other than 0",
                q.scale
            );
            expect_zero(q.zero_point, what, precision)?;
            Params::One {
                scale: q.scale,
                zero: q.zero_point,
            }
        } else {
            Self::check_arrays(q, what, scales_shape)?
        };
        let mean = if q.mean_buffer.is_null() {
            None
        } else {
            let bytes = 4 * batch as u128 * heads as u128 * columns as u128;
            Some(Array::check(
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
            asymmetric: !q.zero_point_buffer.is_null()
                || (q.scale_buffer.is_null() && q.zero_point != 0),
            rotated: q.rotated == 1,
            mean,
        })
    }

    fn check_arrays(q: &sys::mfa_quantization, what: &str, shape: [usize; 4]) -> Result<Params> {
        let half = match q.scale_precision {
            sys::MFA_PRECISION_FP32 => false,
            sys::MFA_PRECISION_FP16 => true,
            other => {
                return Err(crate::error::Error::argument(format!(
                    "{what}: scale_precision is {other}; expected 0 (FP32) or 1 (FP16)"
                )));
            }
        };
        let mut strides = [0; 4];
        if q.scale_strides == [0; 4] {
            let mut step = 1;
            for axis in (0..4).rev() {
                strides[axis] = step;
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
        let scales = Array::check(
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
                Array::check(
                    q.zero_point_buffer,
                    q.zero_point_offset,
                    count * bytes as u128,
                    bytes,
                    &name,
                )?,
                bytes,
            ))
        };
        Ok(Params::Many {
            scales,
            half,
            zeros,
            strides,
        })
    }

    /// Checks what the arrays hold, as far as a wrong value would give a wrong result rather than NaN: reads each zero
    /// point. For a tensor-wise scale, takes the two numbers out of their arrays.
    pub(crate) fn check_values(
        &mut self,
        what: &str,
        precision: Precision,
        shape: [usize; 4],
    ) -> Result<()> {
        if self.granularity == Granularity::Tensor {
            let (scale, zero) = (self.scale(0, 0, 0, 0), self.zero(0, 0, 0, 0));
            ensure!(
                scale.is_finite() && scale != 0.0,
                argument,
                "{what}: scale is {scale}; expected a finite number other than 0"
            );
            expect_zero(zero, what, precision)?;
            self.params = Params::One { scale, zero };
        } else if matches!(&self.params, Params::Many { zeros: Some((_, bytes)), .. } if precision == Precision::I4 || *bytes == 4)
        {
            let [batch, heads, rows, columns] = shape;
            let distinct = self.distinct([
                batch,
                heads,
                rows.div_ceil(self.block_rows),
                self.groups(columns),
            ]);
            for b in 0..distinct[0] {
                for h in 0..distinct[1] {
                    for n in 0..distinct[2] {
                        for g in 0..distinct[3] {
                            expect_zero(self.zero(b, h, n * self.block_rows, g), what, precision)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
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
