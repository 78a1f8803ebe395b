//! A block of queries beside a block of keys, packed in the scratch of a worker.

use super::block::{BlockCoords, DValues};
use super::check::Backward;
use super::plan::BackwardPlan;
use super::score_mod::TransposedScoreMod;
use super::scratch::BackwardScratch;
use mfa_kernels::TileConfigGuard;
use mfa_kernels::{Kernels, SCORE_LD};

/// The pair of blocks that a worker computes; packing, products and passes are in modules of their own.
pub(super) struct BlockPair<'a> {
    pub call: &'a Backward,
    pub plan: &'a BackwardPlan<'a>,
    pub kernels: &'a Kernels,
    pub score_mod: &'a TransposedScoreMod<'a>,
    pub d: DValues<'a>,
    pub scratch: BackwardScratch,
    /// For all products of an item.
    pub _tile_config: TileConfigGuard<'a>,
}

impl BlockPair<'_> {
    /// The part of a block that has the `rows` keys from `strip` on and the queries whose key ranges meet them, in multiples
    /// of `multiple` queries; and whether the block crosses the boundary of some of these ranges.
    pub(super) fn in_range<'p>(
        &self,
        coords: &BlockCoords<'p>,
        strip: usize,
        rows: usize,
        multiple: usize,
    ) -> Option<(BlockCoords<'p>, bool)> {
        let (options, sequence) = (&self.call.problem.options, coords.sequence);
        let j = coords.j0 + strip;
        let end = coords.i0 + coords.n;
        let (first, last) = (
            options.query_range(sequence, j),
            options.query_range(sequence, j + rows - 1),
        );
        let (from, to) = (first.0.clamp(coords.i0, end), last.1.clamp(coords.i0, end));
        if from >= to {
            return None;
        }
        let skipped = (from - coords.i0) / multiple * multiple;
        let n = (to - coords.i0 - skipped)
            .next_multiple_of(multiple)
            .min(coords.n - skipped);
        let i0 = coords.i0 + skipped;
        let boundary = i0 < last.0 || i0 + n > first.1;
        let within = BlockCoords {
            i0,
            n,
            j0: j,
            keys: rows,
            ..*coords
        };
        Some((within, boundary))
    }
}

/// Zeroes columns `from..to` of a strip.
pub(super) unsafe fn clear(strip: *mut f32, rows: usize, from: usize, to: usize) {
    for r in 0..rows {
        // SAFETY: columns of a strip, by the caller.
        unsafe {
            strip
                .add(r * SCORE_LD + from)
                .write_bytes(0, to.saturating_sub(from));
        }
    }
}
