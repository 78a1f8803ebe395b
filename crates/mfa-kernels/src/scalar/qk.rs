//! Score tiles.

use super::columns::columns;
use crate::{SCORE_LD, ScoreScales};

/// See [`crate::QkF32`].
pub(super) unsafe fn qk_f32<const MR: usize, const NR: usize>(
    q: *const f32,
    k: *const f32,
    d: usize,
    rows: usize,
    panels: usize,
    s: *mut f32,
) {
    let q = columns::<_, MR>(q, d);
    for panel in 0..panels {
        let k = columns::<_, NR>(k.add(panel * d * NR), d);
        let mut tile = [[0f32; NR]; MR];
        for (q, k) in q.iter().zip(k) {
            for (row, q) in tile.iter_mut().zip(q) {
                for (sum, k) in row.iter_mut().zip(k) {
                    *sum += q * k;
                }
            }
        }
        for (i, row) in tile.iter().take(rows).enumerate() {
            for (j, sum) in row.iter().enumerate() {
                *s.add(i * SCORE_LD + panel * NR + j) = *sum;
            }
        }
    }
}

/// See [`crate::QkI8`].
pub(super) unsafe fn qk_i8<const MR: usize, const NR: usize, const OFFSET: i32>(
    q: *const u8,
    k: *const i8,
    d4: usize,
    rows: usize,
    panels: usize,
    scales: &ScoreScales,
    s: *mut f32,
) {
    for panel in 0..panels {
        let k = k.add(panel * d4 * NR * 4);
        let mut tile = [[0i32; NR]; MR];
        for c in 0..d4 {
            for (i, row) in tile.iter_mut().enumerate() {
                let q = q.add((c * MR + i) * 4);
                for (j, sum) in row.iter_mut().enumerate() {
                    let k = k.add((c * NR + j) * 4);
                    for e in 0..4 {
                        let q = if OFFSET == 0 {
                            i32::from(*q.add(e) as i8)
                        } else {
                            i32::from(*q.add(e))
                        };
                        *sum += q * i32::from(*k.add(e));
                    }
                }
            }
        }
        for (i, row) in tile.iter().take(rows).enumerate() {
            for (j, raw) in row.iter().enumerate() {
                let key = panel * NR + j;
                let mut x = (raw + *scales.col_bias.add(key)) as f32;
                if !scales.col_zero.is_null() {
                    x -= *scales.col_zero.add(key) * *scales.row_sum.add(i);
                }
                if !scales.col_scale.is_null() {
                    x *= *scales.col_scale.add(key);
                }
                *s.add(i * SCORE_LD + key) = x * *scales.row_scale.add(i) + *scales.row_add.add(i);
            }
        }
    }
}
