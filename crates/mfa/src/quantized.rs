//! Tensors of INT8 and INT4 that own their memory, and how they are made.

use mfa_sys as sys;

use crate::context::MfaContext;
use crate::element::Precision;
use crate::error::{MfaError, Result};
use crate::ffi::{self, MfaBuffer};
use crate::layout::{self, Shape};
use crate::quantization::{Granularity, Quantization};
use crate::tensor::Tensor;
use crate::view::{TensorView, TensorViewMut};

/// How to round a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantizer {
    precision: Precision,
    granularity: Granularity,
    scale_precision: Precision,
    asymmetric: bool,
    smooth: bool,
    rotate: bool,
}

impl Quantizer {
    /// To INT8: one scale for the tensor, zero point 0.
    #[must_use]
    pub fn int8() -> Self {
        Self {
            precision: Precision::Int8,
            granularity: Granularity::Tensor,
            scale_precision: Precision::Fp32,
            asymmetric: false,
            smooth: false,
            rotate: false,
        }
    }

    /// To INT4: one scale for the tensor, zero point 0.
    #[must_use]
    pub fn int4() -> Self {
        Self {
            precision: Precision::Int4,
            ..Self::int8()
        }
    }

    /// Which elements share one scale.
    #[must_use]
    pub fn granularity(mut self, granularity: Granularity) -> Self {
        self.granularity = granularity;
        self
    }

    /// How scales are stored: FP32 or FP16.
    #[must_use]
    pub fn scale_precision(mut self, precision: Precision) -> Self {
        self.scale_precision = precision;
        self
    }

    /// Whether zero points are made from minimum and maximum of each group.
    #[must_use]
    pub fn asymmetric(mut self, asymmetric: bool) -> Self {
        self.asymmetric = asymmetric;
        self
    }

    /// Whether the mean over rows of each column is subtracted first: better keys.
    #[must_use]
    pub fn smooth(mut self, smooth: bool) -> Self {
        self.smooth = smooth;
        self
    }

    /// Whether rows are rotated by the Hadamard matrix first, which spreads outliers over the columns.
    #[must_use]
    pub fn rotate(mut self, rotate: bool) -> Self {
        self.rotate = rotate;
        self
    }

    /// Rounds a tensor of FP32, FP16 or BF16.
    ///
    /// # Errors
    ///
    /// [`MfaError::InvalidArgument`] if it holds NaN or an infinity, and as the driver reports.
    pub fn quantize(
        &self,
        context: &MfaContext,
        source: &TensorView<'_>,
    ) -> Result<QuantizedTensor> {
        let mut tensor = QuantizedTensor::empty(context, source.shape(), self)?;
        tensor.write_rows(context, 0, source)?;
        Ok(tensor)
    }

    /// Bytes of the data, the scales, the zero points and the means of a tensor.
    fn sizes(&self, shape: Shape) -> Result<[usize; 4]> {
        let [batch, heads, _, columns] = shape;
        let scales = self.granularity.scale_shape(shape);
        let zero_points = if self.asymmetric {
            layout::elements(scales, "zero points")?
        } else {
            0
        };
        let mean = [batch, heads, 1, if self.smooth { columns } else { 0 }];
        Ok([
            layout::bytes(self.precision, shape, "quantized tensor")?,
            layout::bytes(self.scale_precision, scales, "scales")?,
            zero_points,
            layout::bytes(Precision::Fp32, mean, "means")?,
        ])
    }
}

/// What rounding did to a tensor, over all its elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuantizationError {
    /// sqrt(mean((dequantized - source)²)).
    pub rmse: f64,
    /// `rmse` / sqrt(mean(source²)); 0 for a source that is all zero.
    pub relative_rmse: f64,
    /// max |dequantized - source|.
    pub max_abs: f64,
    /// The largest RMSE of a row.
    pub worst_row_rmse: f64,
}

impl From<sys::mfa_quantization_error> for QuantizationError {
    fn from(error: sys::mfa_quantization_error) -> Self {
        Self {
            rmse: error.rmse,
            relative_rmse: error.relative_rmse,
            max_abs: error.max_abs,
            worst_row_rmse: error.worst_row_rmse,
        }
    }
}

/// The memory of a [`QuantizedTensor`].
#[derive(Debug)]
pub struct QuantizedParts {
    /// INT8, or INT4 two to a byte, without gaps.
    pub data: MfaBuffer<'static>,
    /// In the shape of [`Granularity::scale_shape`], without gaps.
    pub scales: MfaBuffer<'static>,
    /// `i8`, in the shape of the scales. For asymmetric quantizers.
    pub zero_points: Option<MfaBuffer<'static>>,
    /// FP32 `[batch, heads, columns]`. For smoothing quantizers.
    pub mean: Option<MfaBuffer<'static>>,
}

/// A tensor of INT8 or INT4 without gaps, with its scales, in memory of its own.
#[derive(Debug)]
pub struct QuantizedTensor {
    parts: QuantizedParts,
    shape: Shape,
    quantizer: Quantizer,
    error: Option<QuantizationError>,
    /// Means, and the scale of a tensor with one scale, are there: rows that are written now are rounded with them.
    calibrated: bool,
}

impl QuantizedTensor {
    /// A tensor to write rows to: a cache of keys or values.
    ///
    /// # Errors
    ///
    /// [`MfaError::InvalidDimensions`] if the size overflows, [`MfaError::BufferAllocation`].
    pub fn empty(context: &MfaContext, shape: Shape, quantizer: &Quantizer) -> Result<Self> {
        let [data, scales, zero_points, mean] = quantizer.sizes(shape)?;
        let optional =
            |wanted: bool, size| wanted.then(|| MfaBuffer::new(context, size)).transpose();
        let parts = QuantizedParts {
            data: MfaBuffer::new(context, data)?,
            scales: MfaBuffer::new(context, scales)?,
            zero_points: optional(quantizer.asymmetric, zero_points)?,
            mean: optional(quantizer.smooth, mean)?,
        };
        Ok(Self {
            parts,
            shape,
            quantizer: *quantizer,
            error: None,
            calibrated: false,
        })
    }

    /// A tensor from memory that was filled elsewhere; `quantizer` says what the parts mean.
    ///
    /// # Errors
    ///
    /// [`MfaError::InvalidArgument`] if a part is missing, is not expected or has the wrong size.
    pub fn from_parts(shape: Shape, quantizer: &Quantizer, parts: QuantizedParts) -> Result<Self> {
        let [data, scales, zero_points, mean] = quantizer.sizes(shape)?;
        let expected = [
            ("data", Some(&parts.data), Some(data)),
            ("scales", Some(&parts.scales), Some(scales)),
            (
                "zero points",
                parts.zero_points.as_ref(),
                quantizer.asymmetric.then_some(zero_points),
            ),
            (
                "means",
                parts.mean.as_ref(),
                quantizer.smooth.then_some(mean),
            ),
        ];
        for (what, found, expected) in expected {
            let found = found.map(MfaBuffer::size);
            if found != expected {
                let bytes = |size: Option<usize>| {
                    size.map_or("none".to_owned(), |size| format!("{size} bytes"))
                };
                return Err(MfaError::InvalidArgument(format!(
                    "{what}: found {}; expected {} for shape {shape:?}",
                    bytes(found),
                    bytes(expected)
                )));
            }
        }
        Ok(Self {
            parts,
            shape,
            quantizer: *quantizer,
            error: None,
            calibrated: true,
        })
    }

    /// Rounds `source` into the rows from `start` on.
    ///
    /// The first write finds the means (with [`Quantizer::smooth`]) and the scale (with [`Granularity::Tensor`]) that
    /// later writes are rounded with: a range that grows is cut off.
    ///
    /// # Errors
    ///
    /// [`MfaError::InvalidDimensions`] if the rows are not within the tensor, or begin within a block of rows that shares
    /// a scale; [`MfaError::InvalidArgument`] if `source` holds NaN or an infinity; and as the driver reports.
    pub fn write_rows(
        &mut self,
        context: &MfaContext,
        start: usize,
        source: &TensorView<'_>,
    ) -> Result<()> {
        let end = start.saturating_add(source.shape()[2]);
        let mut flags = 0;
        let mut set = |wanted: bool, flag| flags |= if wanted { flag } else { 0 };
        set(self.quantizer.asymmetric, sys::MFA_QUANTIZE_ASYMMETRIC);
        set(self.quantizer.smooth, sys::MFA_QUANTIZE_SMOOTH);
        if self.calibrated {
            set(self.quantizer.smooth, sys::MFA_QUANTIZE_MEAN_GIVEN);
            set(
                self.quantizer.granularity == Granularity::Tensor,
                sys::MFA_QUANTIZE_SCALE_GIVEN,
            );
        }
        let destination = self.view().rows(start..end);
        let error = destination.and_then(|rows| ffi::quantize(context, flags, source, &rows))?;
        self.error = Some(error);
        self.calibrated = true;
        Ok(())
    }

    /// The tensor, to read.
    #[must_use]
    pub fn view(&self) -> TensorView<'_> {
        let QuantizedParts {
            data,
            scales,
            zero_points,
            mean,
        } = &self.parts;
        let quantizer = &self.quantizer;
        let mut quantization =
            Quantization::new(quantizer.granularity, scales, quantizer.scale_precision);
        if let Some(zero_points) = zero_points {
            quantization = quantization.with_zero_points_i8(zero_points);
        }
        if let Some(mean) = mean {
            quantization = quantization.with_mean(mean);
        }
        TensorView::new(data, quantizer.precision, self.shape)
            .with_quantization(quantization.rotated(quantizer.rotate))
    }

    /// The real numbers, as FP32.
    ///
    /// # Errors
    ///
    /// As the driver reports.
    pub fn dequantize(&self, context: &MfaContext) -> Result<Tensor> {
        let mut tensor = Tensor::zeros(context, Precision::Fp32, self.shape)?;
        self.dequantize_into(context, &mut tensor.view_mut())?;
        Ok(tensor)
    }

    /// Writes the real numbers as FP32, FP16 or BF16.
    ///
    /// # Errors
    ///
    /// As the driver reports.
    pub fn dequantize_into(
        &self,
        context: &MfaContext,
        destination: &mut TensorViewMut<'_>,
    ) -> Result<()> {
        self.view().dequantize_into(context, destination)
    }

    /// What the last quantization did to its source; `None` for a tensor from parts.
    #[must_use]
    pub fn error(&self) -> Option<QuantizationError> {
        self.error
    }

    /// Bytes of the data, scales, zero points and means together.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        let QuantizedParts {
            data,
            scales,
            zero_points,
            mean,
        } = &self.parts;
        let optional = |part: &Option<MfaBuffer<'_>>| part.as_ref().map_or(0, MfaBuffer::size);
        data.size() + scales.size() + optional(zero_points) + optional(mean)
    }

    /// `[batch, heads, rows, columns]`.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// INT8 or INT4.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.quantizer.precision
    }

    /// How it was made.
    #[must_use]
    pub fn quantizer(&self) -> &Quantizer {
        &self.quantizer
    }

    /// The memory.
    #[must_use]
    pub fn parts(&self) -> &QuantizedParts {
        &self.parts
    }

    /// The memory, to keep.
    #[must_use]
    pub fn into_parts(self) -> QuantizedParts {
        self.parts
    }
}

impl TensorView<'_> {
    /// Writes the real numbers of INT8 or INT4 elements as FP32, FP16 or BF16, to a tensor of the same shape.
    ///
    /// # Errors
    ///
    /// As the driver reports.
    pub fn dequantize_into(
        &self,
        context: &MfaContext,
        destination: &mut TensorViewMut<'_>,
    ) -> Result<()> {
        ffi::dequantize(context, self, &destination.layout)
    }
}
