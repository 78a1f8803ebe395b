//! Masked keys beside NaN or infinities in V: a weight of 0 times NaN is NaN, so that a product must skip those keys.

use mfa_kernels::{BLOCK_N, SCORE_LD};

/// The keys of a block that the rows of a strip do not attend to. They are recorded before softmax, which turns their scores
/// of -infinity into weights of 0.
///
/// Flags are stored as `[rows.div_ceil(ROWS)][BLOCK_N]` bytes, and bit `r % ROWS` of a byte is row `r`.
pub(super) struct MaskedKeys<const ROWS: usize>(*mut u8);

impl<const ROWS: usize> MaskedKeys<ROWS> {
    const ROWS_FIT_A_BYTE: () = assert!(ROWS >= 1 && ROWS <= 8);

    /// `flags` is memory for the strip's rows, if no method is called before it is there.
    pub(super) fn new(flags: *mut u8) -> Self {
        let () = Self::ROWS_FIT_A_BYTE;
        MaskedKeys(flags)
    }

    /// Records the keys whose scores are -infinity.
    ///
    /// # Safety
    /// `s` points to `rows` rows of `n <= BLOCK_N` scores, [`SCORE_LD`] apart; the flags have memory for them.
    pub(super) unsafe fn record(&self, s: *const f32, rows: usize, n: usize) {
        for first in (0..rows).step_by(ROWS) {
            for j in 0..n {
                let mut bits = 0;
                for r in first..rows.min(first + ROWS) {
                    // SAFETY: a score of a row and key, by this function's contract.
                    let masked = unsafe { *s.add(r * SCORE_LD + j) == f32::NEG_INFINITY };
                    bits |= u8::from(masked) << (r - first);
                }
                // SAFETY: a byte of the flags, by this function's contract.
                unsafe { *self.0.add(first / ROWS * BLOCK_N + j) = bits };
            }
        }
    }

    /// Records that all rows attend to all keys.
    ///
    /// # Safety
    /// The flags have memory for `rows` rows.
    pub(super) unsafe fn clear(&self, rows: usize) {
        // SAFETY: by this function's contract.
        unsafe { self.0.write_bytes(0, rows.div_ceil(ROWS) * BLOCK_N) };
    }

    /// Whether row `r` attends to key `j`.
    ///
    /// # Safety
    /// Row and key were recorded.
    pub(super) unsafe fn attends(&self, r: usize, j: usize) -> bool {
        // SAFETY: by this function's contract.
        let bits = unsafe { *self.0.add(r / ROWS * BLOCK_N + j) };
        bits >> (r % ROWS) & 1 == 0
    }
}
