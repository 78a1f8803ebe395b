//! Padding of operands to whole panels.

#![forbid(unsafe_code)]

use mfa_kernels::Kernels;

/// Columns, padded to whole panels.
pub(crate) fn padded(columns: usize, kernels: &Kernels) -> usize {
    columns.next_multiple_of(kernels.nr)
}
