//! The items of a forward call: (sequence, key/value head, tile of query rows, split of the keys), by number.

use std::ops::Range;

use crate::contract::problem::Problem;
use crate::contract::sequences::{Numbering, Sequence};
use crate::forward::plan::ForwardPlan;
use crate::runtime::memory::Arena;

/// Items of all sequences, numbered so that neighbours share K and V, and the longest causal rows come first.
pub(crate) struct Schedule<'a> {
    problem: &'a Problem,
    plan: &'a ForwardPlan,
    /// Tiles of each sequence, over all its heads.
    tiles: Numbering<'a>,
}

/// One item.
#[derive(Clone, Debug)]
pub(crate) struct WorkTile {
    pub rows: TileRows,
    /// Keys of the sequence.
    pub keys: Range<usize>,
}

/// TileRows of a tile: row `r` is row `r % nq` of the group's query head `r / nq`.
#[derive(Clone, Debug)]
pub(crate) struct TileRows {
    pub sequence: Sequence,
    pub kv_head: usize,
    pub group: usize,
    pub start: usize,
    pub end: usize,
}

/// TileRows of a tile that are rows of one query head, one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadSpan {
    /// The first, in the tile.
    pub row: usize,
    pub len: usize,
    pub head: usize,
    /// The first, in the tensors.
    pub at: usize,
}

impl TileRows {
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    /// Query head and row within the sequence of the tile's row `r`.
    pub(crate) fn head_and_row(&self, r: usize) -> (usize, usize) {
        let r = self.start + r;
        (
            self.kv_head * self.group + r / self.sequence.nq,
            r % self.sequence.nq,
        )
    }

    /// The tile's rows `from..to` as runs of rows of one query head.
    pub(crate) fn runs(&self, from: usize, to: usize) -> impl Iterator<Item = HeadSpan> {
        let mut row = from;
        std::iter::from_fn(move || {
            (row < to).then(|| {
                let (head, i) = self.head_and_row(row);
                let run = HeadSpan {
                    row,
                    len: (self.sequence.nq - i).min(to - row),
                    head,
                    at: self.sequence.q0 + i,
                };
                row += run.len;
                run
            })
        })
    }

    /// The smallest range of row numbers within the sequence that holds rows `a..b` of the tile.
    pub(crate) fn span(&self, a: usize, b: usize) -> (usize, usize) {
        let ((head_a, i), (head_b, j)) = (self.head_and_row(a), self.head_and_row(b - 1));
        if head_a == head_b {
            (i, j)
        } else {
            (0, self.sequence.nq - 1)
        }
    }
}

impl<'a> Schedule<'a> {
    /// Takes the room that [`Schedule::new`] needs.
    pub(crate) fn allocate(arena: &mut Arena, problem: &Problem) -> *mut usize {
        Numbering::allocate(arena, &problem.sequences)
    }

    /// # Safety
    /// `room` is what `allocate` gave for this problem, in memory that nobody else uses for `'a`.
    pub(crate) unsafe fn new(
        problem: &'a Problem,
        plan: &'a ForwardPlan,
        room: *mut usize,
    ) -> Self {
        Schedule {
            problem,
            plan,
            // SAFETY: by this function's contract.
            tiles: unsafe {
                Numbering::new(room, &problem.sequences, |sequence| {
                    of_sequence(problem, plan, sequence)
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
        let per_head = tiles(sequence.nq, group, tile_rows);
        // Late rows see the most keys under a causal mask: start with them, end with short ones.
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

/// Tiles of all sequences.
pub(crate) fn count(problem: &Problem, plan: &ForwardPlan) -> usize {
    (problem.sequences).sum(|sequence| of_sequence(problem, plan, sequence))
}

/// Tiles of a sequence, over all its heads.
fn of_sequence(problem: &Problem, plan: &ForwardPlan, sequence: &Sequence) -> usize {
    let of_a_head = tiles(sequence.nq, problem.group, plan.tile_rows);
    problem.kv_heads.saturating_mul(of_a_head)
}

/// Tiles of a key/value head's rows. A tile holds rows of one query head, or of several where a head has fewer rows.
fn tiles(nq: usize, group: usize, tile_rows: usize) -> usize {
    if nq >= tile_rows {
        nq.div_ceil(tile_rows).saturating_mul(group)
    } else {
        nq.saturating_mul(group).div_ceil(tile_rows)
    }
}
