//! Conversion of stored rows to rows that kernels take: FP32 in a common domain, or INT8.
//!
//! A *domain* is original or rotated. Rows that are stored rotated stay rotated, and their column means are rotated to match.
//! If the other operand of a product is rotated, rows are rotated after they were dequantized.
//!
//! See eq. 34, 41, 45 of docs/math.md.

use std::mem::MaybeUninit;
use std::ops::Range;

use half::{bf16, f16};

use crate::contract::quant_scheme::{Granularity, Quant};
use crate::contract::tensor::Tensor;
use crate::operands::hadamard;
use crate::operands::row_buffer::RowBuffer;
use mfa_kernels::Kernels;
use mfa_kernels::Precision;
use mfa_kernels::bf16_split::FloatRows;

/// Which elements share a scale, as far as loops distinguish it.
#[derive(Clone, Copy)]
pub(crate) enum ScaleLayout<'a> {
    /// No scales.
    Unquantized,
    /// One scale and zero point for all elements.
    PerTensor { scale: f32, zero: f32 },
    /// One scale and zero point for all elements of a row.
    PerRow(&'a Quant),
    /// Several scales in a row.
    WithinRow(&'a Quant),
}

/// The domain that rows of a tensor are dequantized into.
#[derive(Clone, Copy)]
pub(crate) struct Domain {
    /// Rotate rows after dequantizing them.
    pub rotate: bool,
    /// Added to each row before that: the column means in the stored domain. Null: none, as for floats.
    pub mean: *const f32,
}

impl Domain {
    pub(crate) const STORED: Domain = Domain {
        rotate: false,
        mean: std::ptr::null(),
    };
}

impl Tensor {
    /// Whether rows are stored in the rotated domain.
    pub(crate) fn is_rotated(&self) -> bool {
        self.quant.as_ref().is_some_and(|q| q.rotated)
    }

    /// The elements of the tensor that share a scale.
    pub(crate) fn scale_layout(&self) -> ScaleLayout<'_> {
        let Some(quant) = &self.quant else {
            return ScaleLayout::Unquantized;
        };
        match (quant.constant(), quant.granularity) {
            (Some((scale, zero)), _) => ScaleLayout::PerTensor { scale, zero },
            (None, Granularity::Channel) => ScaleLayout::WithinRow(quant),
            (None, Granularity::Row) if quant.group < self.shape[3] => {
                ScaleLayout::WithinRow(quant)
            }
            (None, _) => ScaleLayout::PerRow(quant),
        }
    }

    /// Whether the columns of a row follow one another.
    pub(crate) fn has_dense_rows(&self) -> bool {
        self.shape[3] == 1 || self.strides[3] == 1
    }

    /// Whether kernels can read the rows where they are stored, as FP32.
    pub(crate) fn is_plain_f32(&self) -> bool {
        self.precision == Precision::F32 && self.has_dense_rows()
    }

    /// The rows from `n` on where they are stored, if they are floats whose columns follow one another.
    pub(crate) fn plain_floats(&self, b: usize, h: usize, n: usize) -> Option<FloatRows> {
        let floats = [Precision::F32, Precision::F16, Precision::Bf16];
        (floats.contains(&self.precision) && self.has_dense_rows()).then(|| FloatRows {
            ptr: self.at(b, h, n, 0).cast_const(),
            ld: self.strides[2],
            precision: self.precision,
        })
    }

    /// The column means of a head in the stored domain; `None` without means. For operands of attention.
    pub(crate) fn mean(&self, b: usize, h: usize) -> Option<RowBuffer> {
        self.quant.as_ref()?.mean.as_ref()?;
        let mut row = RowBuffer::new(self.shape[3]);
        self.mean_into(b, h, &mut row).then_some(row)
    }

    /// Writes the column means of a head in the stored domain; false without means.
    pub(crate) fn mean_into(&self, b: usize, h: usize, row: &mut [f32]) -> bool {
        let Some(quant) = &self.quant else {
            return false;
        };
        let Some(mean) = &quant.mean else {
            return false;
        };
        let columns = self.shape[3];
        let first = (b * self.shape[1] + h) * columns;
        // SAFETY: the array was checked to hold [batch, heads, columns] floats.
        let stored =
            unsafe { std::slice::from_raw_parts(mean.ptr.cast::<f32>().add(first), columns) };
        row.copy_from_slice(stored);
        if quant.rotated {
            hadamard::rotate(row);
        }
        true
    }

    /// Dequantizes `count` rows from row `n` on to FP32, `ld` apart.
    ///
    /// # Safety
    /// `out` has memory for `count` rows of `ld >= columns` floats; the rows are inside the tensor.
    pub(crate) unsafe fn dequantize_rows(
        &self,
        kernels: &Kernels,
        (b, h): (usize, usize),
        n: usize,
        count: usize,
        domain: Domain,
        out: *mut f32,
        ld: usize,
    ) {
        debug_assert!(self.quant.is_some() || domain.mean.is_null());
        // SAFETY: rows are inside the tensor, and `out` has memory for them, by this function's contract.
        unsafe {
            match &self.quant {
                Some(quant) => {
                    self.dequantize_integers(
                        quant,
                        kernels,
                        (b, h),
                        n,
                        count,
                        domain.mean,
                        out,
                        ld,
                    );
                }
                None => self.to_f32_rows(kernels, (b, h), n, count, out, ld),
            }
            if domain.rotate {
                for i in 0..count {
                    let row = std::slice::from_raw_parts_mut(out.add(i * ld), self.shape[3]);
                    hadamard::rotate_with(kernels, row);
                }
            }
        }
    }

    /// Dequantizes rows of integers, and adds `mean` unless it is null.
    unsafe fn dequantize_integers(
        &self,
        quant: &Quant,
        kernels: &Kernels,
        at: (usize, usize),
        n: usize,
        count: usize,
        mean: *const f32,
        out: *mut f32,
        ld: usize,
    ) {
        /// Rows and columns at a time: a multiple of every group, whose scales and zero points fit the stack.
        const ROWS: usize = 32;
        const COLUMNS: usize = 512;
        let mut scratch = [MaybeUninit::<f32>::uninit(); 2 * ROWS * COLUMNS / 32];
        let scratch = scratch.as_mut_ptr().cast::<f32>();
        // Integers whose columns do not follow one another.
        let mut gathered = [MaybeUninit::<i8>::uninit(); ROWS * COLUMNS];
        let gathered = gathered.as_mut_ptr().cast::<i8>();
        let (table, columns) = (&kernels.quantized, self.shape[3]);
        let groups = table.dequantize_groups.of(self.precision);
        let channels = table.dequantize_channels.of(self.precision);
        for first in (0..columns).step_by(COLUMNS) {
            let range = first..columns.min(first + COLUMNS);
            let width = range.len();
            let mut i = 0;
            while i < count {
                let (row, dense) = (n + i, self.has_dense_rows());
                let left = if dense {
                    count - i
                } else {
                    ROWS.min(count - i)
                };
                // SAFETY: as for `dequantize_rows`. The scratch holds two floats per row and group, or per column.
                unsafe {
                    let (from, stride) = if dense {
                        (
                            self.at(at.0, at.1, row, first).cast_const(),
                            self.row_bytes(),
                        )
                    } else {
                        for j in 0..left {
                            self.gather(at, row + j, range.clone(), gathered.add(j * width));
                        }
                        (gathered.cast_const().cast(), width)
                    };
                    let out = out.add(i * ld + first);
                    let mean = if mean.is_null() {
                        mean
                    } else {
                        mean.add(first)
                    };
                    if quant.granularity == Granularity::Channel {
                        let rows = (quant.block_rows - row % quant.block_rows).min(left);
                        let scales = quant.channel_scales(kernels, at, row, range.clone(), scratch);
                        channels(from, stride, rows, width, scales, mean, out, ld);
                        i += rows;
                    } else {
                        let rows = ROWS.min(left);
                        let range = range.clone();
                        let scales = quant.group_scales(kernels, at, row, rows, range, scratch);
                        groups(from, stride, rows, width, scales, mean, out, ld);
                        i += rows;
                    }
                }
            }
        }
    }

    /// Dequantizes row `n` of a head.
    pub(crate) fn dequantize_row(
        &self,
        kernels: &Kernels,
        at: (usize, usize),
        n: usize,
        row: &mut [f32],
    ) {
        let [batch, heads, rows, columns] = self.shape;
        assert!(at.0 < batch && at.1 < heads && n < rows && row.len() == columns);
        let (out, domain) = (row.as_mut_ptr(), Domain::STORED);
        // SAFETY: a row of the tensor into as many floats.
        unsafe { self.dequantize_rows(kernels, at, n, 1, domain, out, columns) };
    }

    /// Converts stored numbers to FP32, without scales.
    unsafe fn to_f32_rows(
        &self,
        kernels: &Kernels,
        (b, h): (usize, usize),
        n: usize,
        count: usize,
        out: *mut f32,
        ld: usize,
    ) {
        let columns = self.shape[3];
        let to_f32 = *kernels.to_f32.of(self.precision);
        // SAFETY: as for `dequantize_rows`; `to_f32` reads `columns` consecutive elements where the column stride is 1, or `count`
        // consecutive rows where the row stride is.
        unsafe {
            if self.strides[3] == 1 && self.strides[2] == columns && ld == columns {
                to_f32(self.at(b, h, n, 0), count * columns, out);
            } else if self.has_dense_rows() {
                for i in 0..count {
                    to_f32(self.at(b, h, n + i, 0), columns, out.add(i * ld));
                }
            } else if self.strides[2] == 1 || count == 1 {
                let mut column = [0f32; 64];
                for c in 0..columns {
                    for from in (0..count).step_by(column.len()) {
                        let run = (count - from).min(column.len());
                        to_f32(self.at(b, h, n + from, c), run, column.as_mut_ptr());
                        for (i, x) in column[..run].iter().enumerate() {
                            *out.add((from + i) * ld + c) = *x;
                        }
                    }
                }
            } else {
                for i in 0..count {
                    for c in 0..columns {
                        *out.add(i * ld + c) = self.element(self.at(b, h, n + i, c));
                    }
                }
            }
        }
    }

    /// The number of a head, in a tensor of one number per head.
    pub(crate) fn number(&self, b: usize, h: usize) -> f32 {
        // SAFETY: a checked view holds this element.
        unsafe { self.element(self.at(b, h, 0, 0)) }
    }

    /// One number of a tensor of floats, where speed does not matter.
    pub(crate) fn get(&self, [b, h, n, c]: [usize; 4]) -> f64 {
        let at = self.at(b, h, n, c);
        // SAFETY: a checked view holds this element, aligned to its size.
        unsafe {
            match self.precision {
                Precision::F64 => at.cast::<f64>().read(),
                _ => f64::from(self.element(at)),
            }
        }
    }

    /// Numbers of a row from column `c` on.
    pub(crate) fn get_row(&self, [b, h, n, c]: [usize; 4], out: &mut [f64]) {
        if self.is_plain_f32() {
            let at = self.at(b, h, n, c).cast::<f32>();
            // SAFETY: a checked view holds these elements, one after the other.
            let row = unsafe { std::slice::from_raw_parts(at, out.len()) };
            (out.iter_mut().zip(row)).for_each(|(x, from)| *x = f64::from(*from));
            return;
        }
        for (i, x) in out.iter_mut().enumerate() {
            *x = self.get([b, h, n, c + i]);
        }
    }

    /// Rounds `x` to one number of a tensor of floats.
    pub(crate) fn set(&self, [b, h, n, c]: [usize; 4], x: f64) {
        let at = self.at(b, h, n, c);
        // SAFETY: as for `get`; writers to one tensor write different elements.
        unsafe {
            match self.precision {
                Precision::F64 => at.cast::<f64>().write(x),
                Precision::F16 => at.cast::<f16>().write(f16::from_f64(x)),
                Precision::Bf16 => at.cast::<bf16>().write(bf16::from_f64(x)),
                _ => at.cast::<f32>().write(x as f32),
            }
        }
    }

    /// One stored number; not for INT4, whose columns are contiguous.
    unsafe fn element(&self, at: *const u8) -> f32 {
        // SAFETY: `at` is an element of the tensor, aligned to its size.
        unsafe {
            match self.precision {
                Precision::F64 => at.cast::<f64>().read() as f32,
                Precision::F32 => at.cast::<f32>().read(),
                Precision::F16 => at.cast::<f16>().read().to_f32(),
                Precision::Bf16 => at.cast::<bf16>().read().to_f32(),
                _ => f32::from(at.cast::<i8>().read()),
            }
        }
    }

    /// Copies `count` rows of integers as i8, `ld` apart.
    ///
    /// # Safety
    /// As for [`Tensor::dequantize_rows`], with i8 in place of floats; INT8 or INT4.
    pub(crate) unsafe fn unpack_rows(
        &self,
        kernels: &Kernels,
        (b, h): (usize, usize),
        n: usize,
        count: usize,
        out: *mut i8,
        ld: usize,
    ) {
        let columns = self.shape[3];
        for i in 0..count {
            // SAFETY: rows are inside the tensor, and `out` has memory for them, by this function's contract.
            unsafe {
                let row = out.add(i * ld);
                if self.precision == Precision::I4 {
                    (kernels.unpack_i4)(self.at(b, h, n + i, 0), columns, row);
                } else if self.has_dense_rows() {
                    self.at(b, h, n + i, 0)
                        .cast::<i8>()
                        .copy_to_nonoverlapping(row, columns);
                } else {
                    self.gather((b, h), n + i, 0..columns, row);
                }
            }
        }
    }

    /// Copies columns of a row of INT8 to adjacent memory.
    unsafe fn gather(&self, (b, h): (usize, usize), n: usize, columns: Range<usize>, out: *mut i8) {
        for (i, c) in columns.enumerate() {
            // SAFETY: as for `unpack_rows`.
            unsafe { *out.add(i) = self.at(b, h, n, c).cast::<i8>().read() };
        }
    }

    /// Whether kernels can read the rows where they are stored, as INT8.
    pub(crate) fn is_plain_i8(&self) -> bool {
        self.precision == Precision::I8 && self.has_dense_rows()
    }
}
