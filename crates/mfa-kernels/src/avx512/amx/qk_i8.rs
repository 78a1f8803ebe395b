//! Score tiles.

use std::arch::x86_64::*;

use super::column_sums::integer_sums;
use super::shape::{MR, NR, ROWS, TILE};
use super::tile_state::Tiles;
use crate::avx512::vector::{Plain, Zmm};
use crate::generic::pack;
use crate::{SCORE_LD, ScoreScales};

/// See [`crate::PackQI8`].
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn pack_q_i8(
    rows: *const i8,
    ld: usize,
    n: usize,
    d: usize,
    out: *mut u8,
    sums: *mut i32,
) {
    let width = d.next_multiple_of(4);
    out.add(n * width).write_bytes(0, (MR - n) * width);
    for i in 0..n {
        let (row, out) = (rows.add(i * ld), out.add(i * width));
        let mut sum = _mm512_setzero_si512();
        for c in (0..width).step_by(TILE) {
            let first = |n: usize| u64::MAX >> (64 - n.min(64));
            let x = _mm512_maskz_loadu_epi8(first(d - c), row.add(c));
            _mm512_mask_storeu_epi8(out.add(c).cast(), first(width - c), x);
            let pairs = _mm512_maddubs_epi16(_mm512_set1_epi8(1), x);
            sum = _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
        }
        *sums.add(i) = _mm512_reduce_add_epi32(sum);
    }
}

/// See [`crate::PackKI8`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn pack_k_i8(
    rows: *const i8,
    ld: usize,
    n: usize,
    d: usize,
    out: *mut i8,
    sums: *mut i32,
) {
    pack::pack_k_i8::<Zmm<Plain>, 2, false>(rows, ld, n, d, out, sums);
}

integer_sums!("tdpbssd");

/// See [`crate::QkI8`].
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn qk_i8(
    q: *const u8,
    k: *const i8,
    d4: usize,
    rows: usize,
    panels: usize,
    scales: &ScoreScales,
    s: *mut f32,
) {
    let panel = d4 * 4 * NR;
    // Tiles are stored with all rows of a strip, which the scores have.
    let tiles = Tiles::new(d4);
    let mut done = 0;
    while done < panels {
        let count = 2.min(panels - done);
        for first in (0..rows).step_by(ROWS) {
            let (q, k) = (q.add(first * 4 * d4), k.add(done * panel));
            let s = s.add(first * SCORE_LD + done * NR).cast::<i32>();
            let (lda, o, ldo) = (4 * d4, [s, s.wrapping_add(NR)], 4 * SCORE_LD);
            if count == 2 {
                two_panels(q, lda, k, panel, d4, o, ldo);
            } else {
                one_panel(q, lda, k, panel, d4, o, ldo);
            }
        }
        done += count;
    }
    drop(tiles);
    let keys = panels * NR;
    match (scales.col_scale.is_null(), scales.col_zero.is_null()) {
        (true, true) => convert::<false, false>(rows, keys, scales, s),
        (false, true) => convert::<true, false>(rows, keys, scales, s),
        (true, false) => convert::<false, true>(rows, keys, scales, s),
        (false, false) => convert::<true, true>(rows, keys, scales, s),
    }
}

/// Turns sums into scores, in place.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn convert<const SCALED: bool, const ZEROED: bool>(
    rows: usize,
    keys: usize,
    scales: &ScoreScales,
    s: *mut f32,
) {
    let bias = |key: usize| _mm512_loadu_si512(scales.col_bias.add(key).cast());
    let mut any = _mm512_setzero_si512();
    for key in (0..keys).step_by(16) {
        any = _mm512_or_si512(any, bias(key));
    }
    // Symmetric operands have none.
    let biased = _mm512_test_epi32_mask(any, any) != 0;
    for i in 0..rows {
        let scale = _mm512_set1_ps(*scales.row_scale.add(i));
        let add = _mm512_set1_ps(*scales.row_add.add(i));
        let row_sum = _mm512_set1_ps(if ZEROED { *scales.row_sum.add(i) } else { 0.0 });
        for key in (0..keys).step_by(16) {
            let at = s.add(i * SCORE_LD + key);
            let mut sum = _mm512_loadu_si512(at.cast());
            if biased {
                sum = _mm512_add_epi32(sum, bias(key));
            }
            let mut x = _mm512_cvtepi32_ps(sum);
            if ZEROED {
                x = _mm512_fnmadd_ps(_mm512_loadu_ps(scales.col_zero.add(key)), row_sum, x);
            }
            if SCALED {
                x = _mm512_mul_ps(x, _mm512_loadu_ps(scales.col_scale.add(key)));
            }
            _mm512_storeu_ps(at, _mm512_fmadd_ps(x, scale, add));
        }
    }
}
