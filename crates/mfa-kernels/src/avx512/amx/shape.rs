//! Sizes of tiles, strips and panels of AMX.

use crate::{BLOCK_N, MAX_MR, P16_LD};

/// Rows of a tile.
pub(super) const ROWS: usize = 16;
/// Rows of a strip.
pub(super) const MR: usize = 2 * ROWS;
/// Keys, or columns, of a panel: two tiles.
pub(super) const NR: usize = 32;
/// Bytes of a row of a tile.
pub(super) const TILE: usize = 64;
/// Groups of four bytes that a tile has along the sum.
pub(super) const GROUPS: usize = 16;
/// The offset of a row's high bytes of 15-bit P from its low bytes.
pub(super) const HIGH: usize = BLOCK_N;
/// Bytes of four keys in a panel of V in the exact mode.
pub(super) const EXACT_GROUP: usize = 8 * NR;

const _: () = assert!(BLOCK_N.is_multiple_of(TILE) && MR <= MAX_MR && 2 * P16_LD >= 2 * HIGH);
