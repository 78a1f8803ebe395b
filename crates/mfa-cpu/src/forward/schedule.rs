//! The items of a forward call, by number: sequence, key/value head, tile of query rows, split of the keys.

use std::ops::Range;

use crate::contract::problem::Problem;
use crate::contract::sequences::{Numbering, Sequence};
use crate::forward::block_sizes::{tiles_of_head, tiles_of_sequence};
use crate::forward::plan::ForwardPlan;
use crate::runtime::memory::Arena;

/// The items of all sequences. Neighbours share K and V, and the longest causal rows come first.
pub(crate) struct Schedule<'a> {
    problem: &'a Problem,
    plan: &'a ForwardPlan<'a>,
    /// Tiles of each sequence, over all its heads.
    tiles: Numbering<'a>,
}

/// An item.
#[derive(Clone, Debug)]
pub(crate) struct WorkTile {
    pub rows: TileRows,
    /// Keys of the sequence.
    pub keys: Range<usize>,
}

/// The query rows `start..end` of a key/value head: row `r` is row `r % nq` of the group's query head `r / nq`.
#[derive(Clone, Debug)]
pub(crate) struct TileRows {
    pub sequence: Sequence,
    pub kv_head: usize,
    pub group: usize,
    pub start: usize,
    pub end: usize,
}

/// Consecutive rows of a tile that belong to one query head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadSpan {
    /// The first row, within the tile.
    pub row: usize,
    pub len: usize,
    pub head: usize,
    /// The first row, within the tensors.
    pub at: usize,
}

impl TileRows {
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    /// The query head of the tile's row `r`, and its row within the sequence.
    pub(crate) fn head_and_row(&self, r: usize) -> (usize, usize) {
        let r = self.start + r;
        (
            self.kv_head * self.group + r / self.sequence.nq,
            r % self.sequence.nq,
        )
    }

    /// The tile's rows `from..to` as spans of one query head each.
    pub(crate) fn head_spans(&self, from: usize, to: usize) -> impl Iterator<Item = HeadSpan> {
        let mut row = from;
        std::iter::from_fn(move || {
            (row < to).then(|| {
                let (head, i) = self.head_and_row(row);
                let span = HeadSpan {
                    row,
                    len: (self.sequence.nq - i).min(to - row),
                    head,
                    at: self.sequence.q0 + i,
                };
                row += span.len;
                span
            })
        })
    }

    /// First and last row within the sequence of the smallest range that contains rows `a..b` of the tile.
    pub(crate) fn row_range(&self, a: usize, b: usize) -> (usize, usize) {
        let ((head_a, i), (head_b, j)) = (self.head_and_row(a), self.head_and_row(b - 1));
        if head_a == head_b {
            (i, j)
        } else {
            (0, self.sequence.nq - 1)
        }
    }
}

impl<'a> Schedule<'a> {
    /// Takes the memory that [`Schedule::new`] needs.
    pub(crate) fn allocate(arena: &mut Arena, problem: &Problem) -> *mut usize {
        Numbering::allocate(arena, &problem.sequences)
    }

    /// # Safety
    /// `memory` came from `allocate` for this problem, and nobody else uses it for `'a`.
    pub(crate) unsafe fn new(
        problem: &'a Problem,
        plan: &'a ForwardPlan<'a>,
        memory: *mut usize,
    ) -> Self {
        Schedule {
            problem,
            plan,
            // SAFETY: by this function's contract.
            tiles: unsafe {
                Numbering::new(memory, &problem.sequences, |sequence| {
                    tiles_of_sequence(problem, plan.tile_rows, sequence)
                })
            },
        }
    }

    pub(crate) fn tiles(&self) -> usize {
        self.tiles.total()
    }

    pub(crate) fn items(&self) -> usize {
        self.tiles().saturating_mul(self.plan.splits)
    }

    pub(crate) fn item(&self, number: usize) -> WorkTile {
        let (tile, split) = (number / self.plan.splits, number % self.plan.splits);
        let rows = self.rows(tile);
        let nk = rows.sequence.nk;
        let start = (split * self.plan.split_keys).min(nk);
        let end = if split + 1 == self.plan.splits {
            nk
        } else {
            (start + self.plan.split_keys).min(nk)
        };
        WorkTile {
            rows,
            keys: start..end,
        }
    }

    pub(crate) fn rows(&self, tile: usize) -> TileRows {
        let (index, within) = self.tiles.find(tile);
        let sequence = self.problem.sequences.get(index);
        let (group, tile_rows) = (self.problem.group, self.plan.tile_rows);
        let per_head = tiles_of_head(sequence.nq, group, tile_rows);
        // Late rows attend to the most keys under a causal mask. They come first, so that short items end the call.
        let (kv_head, at) = (within / per_head, per_head - 1 - within % per_head);
        let (start, end) = if sequence.nq >= tile_rows {
            let per_query_head = sequence.nq.div_ceil(tile_rows);
            let (head, at) = (at % group, at / group);
            debug_assert!(at < per_query_head);
            (
                head * sequence.nq + at * tile_rows,
                head * sequence.nq + ((at + 1) * tile_rows).min(sequence.nq),
            )
        } else {
            (
                at * tile_rows,
                ((at + 1) * tile_rows).min(group * sequence.nq),
            )
        };
        TileRows {
            sequence,
            kv_head,
            group,
            start,
            end,
        }
    }
}
