//! Views of buffers, checked once: every element of a [`Tensor`] is inside its buffer.

use std::sync::Arc;

use mfa_sys as sys;

use crate::contract::array::{Access, Array, first_byte};
use crate::contract::buffer::Buffer;
use crate::contract::quant_scheme::{Params, Quant};
use crate::contract::sized::sized;
use crate::error::{Error, Result, ensure};
use mfa_kernels::Precision;

/// The dimensions of a view, in their order.
const AXES: [&str; 4] = ["batch", "heads", "rows", "columns"];

/// A checked view.
#[derive(Clone)]
pub(crate) struct Tensor {
    /// Element [0, 0, 0, 0].
    pub ptr: *mut u8,
    pub precision: Precision,
    pub shape: [usize; 4],
    /// In elements.
    pub strides: [usize; 4],
    pub quant: Option<Quant>,
    /// Keeps the memory alive during the call; `None` without memory: see [`Access::Plan`].
    owner: Option<Arc<Buffer>>,
}

// SAFETY: a view is as shareable as its buffer; writers to one tensor write disjoint rows.
unsafe impl Send for Tensor {}
// SAFETY: as above.
unsafe impl Sync for Tensor {}

impl Access {
    /// Checks a view that must not be absent, of one of the precisions `allowed`. `what` names it in messages.
    pub(crate) fn required(
        self,
        view: &sys::mfa_tensor,
        what: &str,
        allowed: &[Precision],
    ) -> Result<Tensor> {
        ensure!(
            !self.is_absent(view),
            argument,
            "{what}: the buffer is NULL; expected a handle from mfa_create_buffer"
        );
        let owner = self.buffer(view.buffer, what)?;
        let precision = Precision::from_code(view.precision);
        let Some(precision) = precision else {
            return Err(Error::argument(format!(
                "{what}: precision code {} is unknown; expected 0 (FP32), 1 (FP16), 2 (BF16), 4 (INT4), 8 (INT8), 16 (BOOL) or 64 (FP64)",
                view.precision
            )));
        };
        ensure!(
            allowed.contains(&precision),
            argument,
            "{what}: precision is {}; expected {}",
            precision.name(),
            allowed
                .iter()
                .map(|p| p.name())
                .collect::<Vec<_>>()
                .join(", ")
        );
        ensure!(
            view.reserved == 0,
            argument,
            "{what}: reserved is {}; expected 0",
            view.reserved
        );
        let (shape, strides) = check_extent(
            what,
            precision,
            &view.shape,
            &view.strides,
            view.byte_offset,
            owner.as_deref(),
        )?;
        let quant = self.quantization(view, what, precision, (shape, strides))?;
        // `check_extent` proved that the offset is inside the buffer, or the view is empty.
        let ptr = first_byte(owner.as_deref(), view.byte_offset);
        Ok(Tensor {
            ptr,
            precision,
            shape,
            strides,
            quant,
            owner,
        })
    }

    /// Checks the quantization of a view: there if and only if its elements are integers.
    fn quantization(
        self,
        view: &sys::mfa_tensor,
        what: &str,
        precision: Precision,
        extent: ([usize; 4], [usize; 4]),
    ) -> Result<Option<Quant>> {
        // SAFETY: the contract makes `quantization` NULL or the address of a struct whose struct_size is true.
        let raw = unsafe { sized(view.quantization, &format!("{what}: quantization"))? };
        let Some(raw) = raw else {
            ensure!(
                !precision.is_quantized(),
                argument,
                "{what}: {} without quantization; expected scales",
                precision.name()
            );
            return Ok(None);
        };
        ensure!(
            precision.is_quantized(),
            argument,
            "{what}: a quantization was given for {}; expected NULL unless INT8 or INT4",
            precision.name()
        );
        Quant::check(&raw, what, precision, extent, self).map(Some)
    }

    /// Whether a view that may be absent is absent.
    pub(crate) fn is_absent(self, view: &sys::mfa_tensor) -> bool {
        view.buffer.is_null() && (self == Access::Run || view.shape == [0; 4])
    }

    /// Checks a view that may be absent.
    pub(crate) fn optional(
        self,
        view: &sys::mfa_tensor,
        what: &str,
        allowed: &[Precision],
    ) -> Result<Option<Tensor>> {
        if self.is_absent(view) {
            Ok(None)
        } else {
            self.required(view, what, allowed).map(Some)
        }
    }
}

impl Tensor {
    /// Whether the view has memory.
    pub(crate) fn has_memory(&self) -> bool {
        self.owner.is_some()
    }

    /// Zeros of any shape, in the memory of one.
    pub(crate) fn zeros(precision: Precision, shape: [usize; 4]) -> Self {
        // Zero in every precision.
        static ZERO: f64 = 0.0;
        let precision = match precision {
            Precision::F64 => precision,
            _ => Precision::F32,
        };
        Tensor {
            ptr: std::ptr::from_ref(&ZERO).cast_mut().cast(),
            precision,
            shape,
            strides: [0; 4],
            quant: None,
            owner: None,
        }
    }

    /// A view of a checked array.
    pub(crate) fn over(
        array: &Array,
        precision: Precision,
        shape: [usize; 4],
        strides: [usize; 4],
    ) -> Self {
        Tensor {
            ptr: array.ptr,
            precision,
            shape,
            strides,
            quant: None,
            owner: array.owner.clone(),
        }
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
        if self.shape.contains(&0) {
            return Ok(());
        }
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
            span += stride * (size - 1);
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

    /// Whether both have the same elements in the same order.
    pub(crate) fn is_same(&self, other: &Tensor) -> bool {
        let view = |tensor: &Tensor| (tensor.ptr, tensor.precision, tensor.shape, tensor.strides);
        view(self) == view(other)
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

/// Checks shape, strides and offset against the buffer; no arithmetic overflows.
fn check_extent(
    what: &str,
    precision: Precision,
    shape: &[u64; 4],
    strides: &[i64; 4],
    offset: u64,
    buffer: Option<&Buffer>,
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
        offset.is_multiple_of(size),
        argument,
        "{what}: byte_offset is {offset}; expected a multiple of {size} for {}",
        precision.name()
    );
    if let Some(buffer) = buffer {
        ensure!(
            (buffer.ptr() as usize).is_multiple_of(precision.bytes()),
            argument,
            "{what}: the buffer starts at {:p}; expected an address aligned to {size} for {}",
            buffer.ptr(),
            precision.name()
        );
    }
    if precision == Precision::I4 {
        check_int4(what, shape, strides)?;
    }
    ensure!(
        count <= isize::MAX as u128 && last <= isize::MAX as u128,
        dimensions,
        "{what}: shape {shape:?} with strides {strides:?} has more elements than can be addressed"
    );
    if let Some(buffer) = buffer
        && count > 0
    {
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
        // A stride of one element is never used and may have any value: 0 cannot overflow later.
        out.1[axis] = if shape[axis] > 1 {
            strides[axis] as usize
        } else {
            0
        };
    }
    Ok(out)
}

/// Two elements of INT4 share a byte: rows begin at a byte, and columns follow one another.
fn check_int4(what: &str, shape: &[u64; 4], strides: &[i64; 4]) -> Result<()> {
    ensure!(
        shape[3].is_multiple_of(2),
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
    Ok(())
}

impl Quant {
    /// The arrays of scales, zero points and means as views with their names, for a call that writes them.
    pub(crate) fn arrays(&self) -> [(Option<Tensor>, &'static str); 3] {
        let view = |array: &Array, bytes: usize, shape, strides| {
            let precision = match bytes {
                1 => Precision::I8,
                2 => Precision::F16,
                _ => Precision::F32,
            };
            Tensor::over(array, precision, shape, strides)
        };
        let (scales, zeros) = match &self.params {
            Params::PerTensor { .. } => (None, None),
            Params::Strided {
                scales,
                half,
                zeros,
                shape,
                strides,
            } => (
                Some(view(scales, if *half { 2 } else { 4 }, *shape, *strides)),
                zeros
                    .as_ref()
                    .map(|(zeros, bytes)| view(zeros, *bytes, *shape, *strides)),
            ),
        };
        let mean = (self.mean.as_ref()).map(|mean| {
            view(
                mean,
                4,
                [1, 1, 1, self.means],
                [self.means, self.means, self.means, 1],
            )
        });
        [
            (scales, "scale_buffer"),
            (zeros, "zero_point_buffer"),
            (mean, "mean_buffer"),
        ]
    }
}
