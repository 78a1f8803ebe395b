//! Coordinates of a block of queries and a block of keys, and the gradients that a pass makes of them.

use std::ptr::null_mut;

use super::check::Backward;
use crate::contract::sequences::Sequence;
use crate::contract::tensor::Tensor;

/// Coordinates of a block of scores: queries by keys of a sequence, on one query head.
#[derive(Clone, Copy)]
pub(super) struct BlockCoords<'a> {
    pub sequence: &'a Sequence,
    pub head: usize,
    /// First query and number of queries.
    pub i0: usize,
    pub n: usize,
    /// First key and number of keys.
    pub j0: usize,
    pub keys: usize,
}

/// The gradients that a pass computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct GradSet {
    /// D from P and dP, into `d` of the scratch.
    pub d: bool,
    pub dq: bool,
    pub dk: bool,
    pub dv: bool,
    /// The gradient of the scores, for a mask.
    pub ds: bool,
}

impl GradSet {
    /// Whether it needs dP.
    pub(super) fn dp(self) -> bool {
        self.d || self.dq || self.dk || self.ds
    }
}

/// The storage of D.
#[derive(Clone, Copy)]
pub(super) enum DValues<'a> {
    Tensor(&'a Tensor),
    /// `[batch, heads, rows]`.
    Array {
        ptr: *mut f32,
        heads: usize,
        rows: usize,
    },
    /// No gradient needs D.
    Nowhere,
}

// SAFETY: workers write the D of disjoint rows.
unsafe impl Sync for DValues<'_> {}

impl DValues<'_> {
    fn at(&self, b: usize, h: usize, row: usize) -> *mut f32 {
        match self {
            DValues::Tensor(tensor) => tensor.at(b, h, row, 0).cast(),
            DValues::Array { ptr, heads, rows } => ptr.wrapping_add((b * heads + h) * rows + row),
            DValues::Nowhere => null_mut(),
        }
    }

    /// D of a row; 0 where no D is needed.
    pub(super) fn read(&self, b: usize, h: usize, row: usize) -> f32 {
        let at = self.at(b, h, row);
        if at.is_null() {
            return 0.0;
        }
        // SAFETY: a row of the problem, inside the tensor or the array.
        unsafe { at.read() }
    }

    /// D of a row, less the gradient of its logsumexp: dS = P (dP - this), (eq. 26).
    pub(super) fn rest(&self, call: &Backward, b: usize, h: usize, row: usize) -> f32 {
        self.read(b, h, row) - call.grad_of_logsumexp(b, h, row)
    }

    pub(super) fn write(&self, b: usize, h: usize, row: usize, value: f32) {
        let at = self.at(b, h, row);
        if !at.is_null() {
            // SAFETY: as for `read`; one worker writes a row.
            unsafe { at.write(value) };
        }
    }
}

/// The accumulator of dQ of a block of queries, [n][ld].
#[derive(Clone, Copy)]
pub(super) struct Accumulator {
    pub ptr: *mut f32,
    pub ld: usize,
}
