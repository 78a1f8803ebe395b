//! A row of an operand on the stack, because running calls do not allocate.

#![forbid(unsafe_code)]

use std::ops::{Deref, DerefMut};

use crate::contract::problem::MAX_HEAD_DIM;

/// A number per column of an operand.
#[derive(Clone, Copy)]
pub(crate) struct RowBuffer<T = f32> {
    values: [T; MAX_HEAD_DIM],
    len: usize,
}

impl<T: Copy + Default> RowBuffer<T> {
    pub(crate) fn new(len: usize) -> Self {
        assert!(len <= MAX_HEAD_DIM, "{len} columns of an operand");
        RowBuffer {
            values: [T::default(); MAX_HEAD_DIM],
            len,
        }
    }
}

impl<T> Deref for RowBuffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.values[..self.len]
    }
}

impl<T> DerefMut for RowBuffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.values[..self.len]
    }
}

/// A set of rows of a block, by number.
#[derive(Clone, Copy, Default)]
pub(crate) struct RowSet([u64; RowSet::MOST / 64]);

impl RowSet {
    /// Rows of a block, at most.
    pub(crate) const MOST: usize = 512;

    pub(crate) fn insert(&mut self, row: usize) {
        self.0[row / 64] |= 1 << (row % 64);
    }

    pub(crate) fn contains(&self, row: usize) -> bool {
        self.0[row / 64] >> (row % 64) & 1 == 1
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> {
        let any = self.0.iter().any(|bits| *bits != 0);
        (0..if any { Self::MOST } else { 0 }).filter(|row| self.contains(*row))
    }
}
