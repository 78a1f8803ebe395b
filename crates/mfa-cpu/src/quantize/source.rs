//! Rows of the tensor that is quantized (eq. 40 of docs/math.md).

use std::ops::Range;

use super::statistics::ValueRange;
use crate::contract::tensor::Tensor;
use mfa_kernels::Kernels;

/// `rows` in pieces of at most `most`.
pub(super) fn pieces(rows: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let end = rows.end;
    rows.step_by(most)
        .map(move |first| first..first.saturating_add(most).min(end))
}

/// A head of the source.
#[derive(Clone, Copy)]
pub(super) struct SourceHead<'a> {
    pub source: &'a Tensor,
    pub kernels: &'a Kernels,
    /// Batch element and head.
    pub at: (usize, usize),
    /// Subtracted from each row.
    pub mean: Option<&'a [f32]>,
    /// Whether rows are rotated after that.
    pub rotate: bool,
}

/// Rows of floats, of consecutive columns.
#[derive(Clone, Copy)]
pub(super) struct SourceRows {
    pub first: *const f32,
    /// The distance of rows, in elements.
    pub ld: usize,
}

impl<'a> SourceHead<'a> {
    /// The head as it is stored.
    pub(super) fn as_stored(&self) -> SourceHead<'a> {
        SourceHead {
            mean: None,
            rotate: false,
            ..*self
        }
    }

    /// Whether rows are rounded as they are stored.
    pub(super) fn is_as_stored(&self) -> bool {
        self.mean.is_none() && !self.rotate
    }

    /// Rows from `n` on, if they are rounded as they are stored, and kernels can read them there.
    fn in_place(&self, n: usize) -> Option<SourceRows> {
        let (source, (b, h)) = (self.source, self.at);
        (self.is_as_stored() && source.is_plain_f32()).then(|| SourceRows {
            first: source.at(b, h, n, 0).cast_const().cast(),
            ld: source.strides[2],
        })
    }

    /// Row `n` less the mean, rotated: the row that is rounded. A row that is not stored so is computed in `buffer`, which has
    /// as many columns.
    pub(super) fn row<'b>(&self, n: usize, buffer: &'b mut [f32]) -> &'b [f32]
    where
        'a: 'b,
    {
        let (kernels, columns) = (&self.kernels.quantize, buffer.len());
        assert!(n < self.source.shape[2] && columns == self.source.shape[3]);
        let mut row = match self.as_stored().in_place(n) {
            Some(stored) => stored.first,
            None => {
                (self.source).dequantize_row(self.kernels, self.at, n, buffer);
                buffer.as_ptr()
            }
        };
        // SAFETY: rows of as many columns: of the source, which nothing writes during the call, or of the buffer, in which
        // kernels may work in place.
        unsafe {
            if let Some(mean) = self.mean {
                assert_eq!(mean.len(), columns, "columns of the mean");
                (kernels.add_row)(row, mean.as_ptr(), -1.0, columns, buffer.as_mut_ptr());
                row = buffer.as_ptr();
            }
            if self.rotate {
                (kernels.rotate)(row, columns, buffer.as_mut_ptr());
                row = buffer.as_ptr();
            }
            std::slice::from_raw_parts(row, columns)
        }
    }

    /// The rows that are rounded: where they are stored, or computed in `buffer`, which has memory for them.
    pub(super) fn rows(&self, rows: Range<usize>, buffer: &mut [f32]) -> SourceRows {
        if let Some(rows) = self.in_place(rows.start) {
            return rows;
        }
        let columns = self.source.shape[3];
        for (n, row) in rows.zip(buffer.chunks_exact_mut(columns)) {
            self.row(n, row);
        }
        SourceRows {
            first: buffer.as_ptr(),
            ld: columns,
        }
    }

    /// The range of the elements of `rows`, and whether all are finite.
    pub(super) fn range(&self, rows: Range<usize>, buffer: &mut [f32]) -> (ValueRange, bool) {
        let (mut range, mut finite) = (ValueRange::default(), true);
        let extremes = self.kernels.quantize.extremes;
        self.each_run(rows, buffer, |x, n| {
            let (min, max) = (&raw mut range.min, &raw mut range.max);
            // SAFETY: `n` elements of rows; one group, of which the range is extended.
            finite &= unsafe { extremes(x, n, n, min, max) };
        });
        (range, finite)
    }

    /// Whether all elements of `rows` are finite.
    pub(super) fn is_finite(&self, rows: Range<usize>, buffer: &mut [f32]) -> bool {
        let (mut finite, check) = (true, self.kernels.quantize.is_finite);
        self.each_run(rows, buffer, |x, n| {
            // SAFETY: `n` elements of rows.
            finite &= unsafe { check(x, n) };
        });
        finite
    }

    /// Calls `work(first, n)` for runs of elements that follow one another.
    fn each_run(
        &self,
        rows: Range<usize>,
        buffer: &mut [f32],
        mut work: impl FnMut(*const f32, usize),
    ) {
        let columns = self.source.shape[3];
        for rows in pieces(rows, (buffer.len() / columns).max(1)) {
            let count = rows.len();
            let x = self.rows(rows, buffer);
            if x.ld == columns {
                work(x.first, count * columns);
            } else {
                (0..count).for_each(|i| work(x.first.wrapping_add(i * x.ld), columns));
            }
        }
    }

    /// Adds the elements of `rows` to a sum per column.
    pub(super) fn add_to_columns(&self, rows: Range<usize>, buffer: &mut [f32], sums: &mut [f64]) {
        let (add, columns) = (self.kernels.quantize.column_sums, buffer.len());
        assert_eq!(sums.len(), columns, "sums of columns");
        // SAFETY: rows of `columns` elements: of the source, or of the buffer.
        unsafe {
            match self.in_place(rows.start) {
                Some(stored) => add(
                    stored.first,
                    stored.ld,
                    rows.len(),
                    columns,
                    sums.as_mut_ptr(),
                ),
                None => rows.for_each(|n| {
                    let row = self.row(n, buffer);
                    add(row.as_ptr(), columns, 1, columns, sums.as_mut_ptr());
                }),
            }
        }
    }
}
