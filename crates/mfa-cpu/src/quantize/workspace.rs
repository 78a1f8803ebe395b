//! The memory of workers that quantize or dequantize.

use crate::runtime::memory::{Aligned, Arena, PerWorker, scratch};

scratch! {
    /// The memory of a worker.
    struct RowScratch {
        /// A chunk of rows of the source, or a block.
        row: [f32; block],
        /// A row that was dequantized, or a mean.
        dequantized: [f32; columns],
        /// A chunk of rows of integers, or a block.
        codes: [i8; block],
        /// Sums over rows.
        sum: [f64; columns],
        /// The smallest value of each group of columns of a chunk.
        min: [f32; chunk],
        /// The largest value of each group of columns of a chunk.
        max: [f32; chunk],
        /// The scale of each group of columns of a chunk.
        scales: [f32; chunk],
        /// The zero point of each group of columns of a chunk.
        zeros: [f32; chunk],
    }

    fn allocate(columns: usize) {
        let chunk = rows_of_chunk(columns).saturating_mul(columns);
        let block = rows_of_block(columns).saturating_mul(columns);
    }
}

/// A worker's memory: rows of as many columns as the source has, and chunks of them.
pub(super) struct RowBuffers<'a> {
    pub row: &'a mut [f32],
    pub dequantized: &'a mut [f32],
    pub codes: &'a mut [i8],
    pub sum: &'a mut [f64],
    pub groups: GroupBuffers<'a>,
}

/// Numbers per group of columns of a chunk.
pub(super) struct GroupBuffers<'a> {
    pub min: &'a mut [f32],
    pub max: &'a mut [f32],
    pub scales: &'a mut [f32],
    pub zeros: &'a mut [f32],
}

/// Elements for which another worker gains more time than it takes to wake. Chosen by model, not measured: waking takes 0.1 ms,
/// in which a worker rounds about so many.
const ELEMENTS_OF_WORKER: usize = 1 << 16;

/// Workers, at most `threads`, for a tensor of this shape.
pub(super) fn workers(shape: [usize; 4], threads: usize) -> usize {
    let elements = shape.iter().fold(1usize, |n, size| n.saturating_mul(*size));
    threads.min(elements / ELEMENTS_OF_WORKER).max(1)
}

/// Elements that a worker takes at a time, so that other workers can relieve a slow one. Chosen by model, not measured.
const ELEMENTS_OF_ITEM: usize = 1 << 14;

/// Rows that a worker takes at a time: whole blocks of `block` rows of `columns`.
pub(super) fn rows_of_item(block: usize, columns: usize) -> usize {
    let elements = block.saturating_mul(columns).max(1);
    block.saturating_mul((ELEMENTS_OF_ITEM / elements).max(1))
}

/// Elements that kernels take at a time: with the integers and the scales they stay in a first-level cache. Chosen by model, not
/// measured.
const ELEMENTS_OF_CHUNK: usize = 1 << 12;

/// Rows of so many columns that kernels take at a time.
pub(super) fn rows_of_chunk(columns: usize) -> usize {
    (ELEMENTS_OF_CHUNK / columns.max(1)).max(1)
}

/// Elements of a block of rows, which share scales, that kernels take at a time: rows that were computed for the scales stay in
/// a second-level cache until they are rounded. Chosen by model, not measured.
const ELEMENTS_OF_BLOCK: usize = 1 << 13;

/// Rows of so many columns of a block that kernels take at a time.
pub(super) fn rows_of_block(columns: usize) -> usize {
    (ELEMENTS_OF_BLOCK / columns.max(1)).max(1)
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
        let (chunk, block) = (rows_of_chunk(n) * n, rows_of_block(n) * n);
        // SAFETY: allocated for so many of each, in memory that this worker alone uses.
        unsafe {
            RowBuffers {
                row: std::slice::from_raw_parts_mut(scratch.row, block),
                dequantized: std::slice::from_raw_parts_mut(scratch.dequantized, n),
                codes: std::slice::from_raw_parts_mut(scratch.codes, block),
                sum: std::slice::from_raw_parts_mut(scratch.sum, n),
                groups: GroupBuffers {
                    min: std::slice::from_raw_parts_mut(scratch.min, chunk),
                    max: std::slice::from_raw_parts_mut(scratch.max, chunk),
                    scales: std::slice::from_raw_parts_mut(scratch.scales, chunk),
                    zeros: std::slice::from_raw_parts_mut(scratch.zeros, chunk),
                },
            }
        }
    }
}
