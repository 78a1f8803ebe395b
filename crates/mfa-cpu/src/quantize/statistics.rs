//! Sums and extremes over rows. Workers collect them and one joins them in order, so that results do not depend on timing.
//!
//! See eq. 46 of docs/math.md.

#![forbid(unsafe_code)]

use std::sync::OnceLock;

use crate::error::Result;
use crate::runtime::memory::reserve;
use crate::runtime::pool::Pool;
use mfa_kernels::RowError;

/// Runs `work(worker, item)` for each item, and joins the results in order, so that they do not depend on the number of workers.
pub(super) fn collect<T: Send + Sync>(
    pool: &Pool,
    threads: usize,
    items: usize,
    work: impl Fn(usize, usize) -> T + Sync,
    first: T,
    join: impl Fn(T, T) -> T,
) -> Result<T> {
    if threads == 1 {
        return Ok((0..items).fold(first, |all, item| join(all, work(0, item))));
    }
    let mut slots = reserve(items, "results of items")?;
    slots.resize_with(items, OnceLock::new);
    pool.run(threads, items, |worker, item| {
        slots[item].get_or_init(|| work(worker, item));
    });
    let results = slots.into_iter().filter_map(OnceLock::into_inner);
    Ok(results.fold(first, join))
}

/// Smallest and largest value. It starts at 0, which every range includes.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct ValueRange {
    pub min: f32,
    pub max: f32,
}

impl ValueRange {
    pub(super) fn join(self, other: ValueRange) -> ValueRange {
        ValueRange {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        }
    }
}

/// The sums of `mfa_quantization_error`.
#[derive(Clone, Copy, Default)]
pub(crate) struct ErrorSum {
    count: f64,
    squares: f64,
    source_squares: f64,
    max_abs: f64,
    worst_row: f64,
}

impl ErrorSum {
    /// Adds a row of so many columns.
    pub(super) fn add_row(&mut self, row: &RowError, columns: usize) {
        let columns = columns as f64;
        self.count += columns;
        self.squares += row.squares;
        self.source_squares += row.source_squares;
        self.max_abs = self.max_abs.max(row.max_abs);
        self.worst_row = self.worst_row.max((row.squares / columns).sqrt());
    }

    pub(super) fn join(self, other: ErrorSum) -> ErrorSum {
        ErrorSum {
            count: self.count + other.count,
            squares: self.squares + other.squares,
            source_squares: self.source_squares + other.source_squares,
            max_abs: self.max_abs.max(other.max_abs),
            worst_row: self.worst_row.max(other.worst_row),
        }
    }

    /// The error as the contract reports it.
    pub(crate) fn report(&self) -> mfa_sys::mfa_quantization_error {
        let ratio = |a: f64, b: f64| if b == 0.0 { 0.0 } else { (a / b).sqrt() };
        mfa_sys::mfa_quantization_error {
            rmse: ratio(self.squares, self.count),
            relative_rmse: ratio(self.squares, self.source_squares),
            max_abs: self.max_abs,
            worst_row_rmse: self.worst_row,
        }
    }
}
