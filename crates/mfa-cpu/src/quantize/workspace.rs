//! The memory of workers that round.

use super::statistics::Range;
use crate::runtime::memory::{Aligned, Arena, PerWorker};

/// A worker's memory: rows of as many columns as the source has.
pub(super) struct Work<'a> {
    pub row: &'a mut [f32],
    pub back: &'a mut [f32],
    pub codes: &'a mut [i8],
    pub sum: &'a mut [f64],
    pub ranges: &'a mut [Range],
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
        Workspace::allocate(arena, columns)
    });
    arena.used()
}

type Parts = (*mut f32, *mut f32, *mut i8, *mut f64, *mut Range);

impl Workspace {
    fn allocate(arena: &mut Arena, columns: usize) -> Parts {
        (
            arena.alloc(columns),
            arena.alloc(columns),
            arena.alloc(columns),
            arena.alloc(columns),
            arena.alloc(columns),
        )
    }

    /// `memory` holds [`workspace`] bytes, for the workers that ask for theirs.
    pub(super) fn new(memory: &Aligned, columns: usize) -> Self {
        let arena = &mut Arena::new(memory.ptr());
        Workspace {
            // Parts are alike, however many of them there are.
            workers: PerWorker::allocate(arena, 1, |arena| Workspace::allocate(arena, columns)),
            columns,
        }
    }

    /// A worker's part. What it holds is of no meaning: all of it is plain numbers, zero in fresh memory.
    #[allow(clippy::mut_from_ref)] // Each worker asks for its own, and has one at a time.
    pub(super) fn of(&self, worker: usize) -> Work<'_> {
        let arena = &mut self.workers.part(worker);
        let (row, back, codes, sum, ranges) = Workspace::allocate(arena, self.columns);
        let n = self.columns;
        // SAFETY: laid out for `n` of each, in memory that this worker alone uses.
        unsafe {
            Work {
                row: std::slice::from_raw_parts_mut(row, n),
                back: std::slice::from_raw_parts_mut(back, n),
                codes: std::slice::from_raw_parts_mut(codes, n),
                sum: std::slice::from_raw_parts_mut(sum, n),
                ranges: std::slice::from_raw_parts_mut(ranges, n),
            }
        }
    }
}
