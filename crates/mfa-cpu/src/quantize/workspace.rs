//! The memory of workers that quantize or dequantize.

use super::statistics::ValueRange;
use crate::runtime::memory::{Aligned, Arena, PerWorker, scratch};

scratch! {
    /// The memory of a worker.
    struct RowScratch {
        /// A row of the source.
        row: [f32; columns],
        /// A row that was dequantized, or a mean.
        dequantized: [f32; columns],
        /// A row of integers.
        codes: [i8; columns],
        /// Sums over rows.
        sum: [f64; columns],
        /// Values of each group of columns.
        ranges: [ValueRange; columns],
    }

    fn allocate(columns: usize) {}
}

/// A worker's memory: rows of as many columns as the source has.
pub(super) struct RowBuffers<'a> {
    pub row: &'a mut [f32],
    pub dequantized: &'a mut [f32],
    pub codes: &'a mut [i8],
    pub sum: &'a mut [f64],
    pub ranges: &'a mut [ValueRange],
}

/// The memory of all workers.
pub(super) struct Workspace {
    workers: PerWorker,
    columns: usize,
}

/// Bytes of memory that `threads` workers need for rows of `columns`.
pub(super) fn workspace(columns: usize, threads: usize) -> usize {
    let mut arena = Arena::default();
    PerWorker::allocate(&mut arena, threads, |arena| {
        RowScratch::allocate(arena, columns)
    });
    arena.used()
}

impl Workspace {
    /// `memory` holds [`workspace`] bytes, for the workers that ask for theirs.
    pub(super) fn new(memory: &Aligned, columns: usize) -> Self {
        let arena = &mut Arena::new(memory.ptr());
        Workspace {
            // Workers' memory is alike, however many workers there are.
            workers: PerWorker::allocate(arena, 1, |arena| RowScratch::allocate(arena, columns)),
            columns,
        }
    }

    /// A worker's memory. Its contents are unspecified numbers: zero in fresh memory.
    #[allow(clippy::mut_from_ref)] // Each worker asks for its own, and has one at a time.
    pub(super) fn of(&self, worker: usize) -> RowBuffers<'_> {
        let scratch = RowScratch::allocate(&mut self.workers.part(worker), self.columns);
        let n = self.columns;
        // SAFETY: allocated for `n` of each, in memory that this worker alone uses.
        unsafe {
            RowBuffers {
                row: std::slice::from_raw_parts_mut(scratch.row, n),
                dequantized: std::slice::from_raw_parts_mut(scratch.dequantized, n),
                codes: std::slice::from_raw_parts_mut(scratch.codes, n),
                sum: std::slice::from_raw_parts_mut(scratch.sum, n),
                ranges: std::slice::from_raw_parts_mut(scratch.ranges, n),
            }
        }
    }
}
