//! A strip of query rows against a block of keys: the operands of one step of the prefill loops.

#![forbid(unsafe_code)]

use crate::forward::masked_keys::MaskedKeys;
use crate::forward::pack::PackedBlock;
use crate::forward::schedule::TileRows;
use crate::forward::scratch::Prefill;
use mfa_kernels::RowState;

/// A strip of query rows and the keys of a block that some of them attend to.
pub(super) struct StripBlock<'a> {
    pub rows: &'a TileRows,
    pub block: &'a PackedBlock,
    /// First row of the strip, in the tile.
    pub strip: usize,
    /// Rows of the strip.
    pub n_rows: usize,
    /// Keys of the block before the first one: whole panels.
    pub skipped: usize,
    /// First key, in the sequence.
    pub first: usize,
    pub n: usize,
    /// Whether some row does not attend to some of these keys because of causality or window.
    pub is_boundary: bool,
    /// Running softmax statistics of the strip.
    pub state: RowState,
    /// Unnormalised O of the strip, rows `ldo` apart.
    pub o: *mut f32,
    pub ldo: usize,
}

impl Prefill<'_> {
    /// The keys of a block that a strip attends to, if any.
    #[inline(always)]
    pub(super) fn strip_block<'a>(
        &self,
        rows: &'a TileRows,
        strip: usize,
        block: &'a PackedBlock,
        ldo: usize,
    ) -> Option<StripBlock<'a>> {
        let (options, scratch, nr) = (&self.problem.options, self.scratch, self.kernels.nr);
        let n_rows = self.kernels.mr.min(rows.len() - strip);
        let end = block.first + block.n;
        let (low, high) = rows.row_range(strip, strip + n_rows);
        let first_range = options.key_range(&rows.sequence, low);
        let last_range = options.key_range(&rows.sequence, high);
        let from = first_range.0.clamp(block.first, end);
        let to = last_range.1.clamp(block.first, end);
        if from >= to {
            return None;
        }
        let skipped = (from - block.first) / nr * nr;
        let first = block.first + skipped;
        Some(StripBlock {
            rows,
            block,
            strip,
            n_rows,
            skipped,
            first,
            n: to - first,
            is_boundary: first < last_range.0 || to > first_range.1,
            state: RowState {
                m: scratch.m.wrapping_add(strip),
                l: scratch.l.wrapping_add(strip),
                alpha: scratch.alpha,
                left: scratch.left.wrapping_add(strip),
            },
            o: scratch.o.wrapping_add(strip * ldo),
            ldo,
        })
    }

    /// Panels of keys.
    pub(super) fn key_panels(&self, at: &StripBlock<'_>) -> usize {
        at.n.div_ceil(self.kernels.nr)
    }

    /// The flags of masked keys.
    pub(super) fn masked_keys(&self) -> MaskedKeys<1> {
        MaskedKeys::new(self.scratch.masked)
    }
}
