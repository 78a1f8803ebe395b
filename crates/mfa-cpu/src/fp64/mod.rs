//! Attention on FP64 operands: plain tiles and plain loops, everything in FP64. Slow and exact: a reference for
//! the other paths and for finite differences.
//!
//! The formulas are those of `mfa_attention_options` and `mfa_backward_desc`, in base e (eq. 1 to 11, 19, 22 to 31 of docs/math.md). A worker computes the scores of a
//! few query rows and a block of keys at a time, so that memory does not grow with the product of the lengths.

mod backward;
mod forward;
mod score_block;

pub(crate) use backward::{run as run_backward, workspace as workspace_backward};
pub(crate) use forward::{run as run_forward, workspace as workspace_forward};

/// Query rows of a tile.
const ROWS: usize = 16;
/// Keys of a block.
const KEYS: usize = 64;
/// Below this many multiply-adds a second thread costs more than it brings.
const INLINE_WORK: f64 = 1e4;

/// Workers of a call of so many multiply-adds.
pub(crate) fn workers(work: f64, threads: usize) -> usize {
    if work < INLINE_WORK { 1 } else { threads }
}
