//! Output tiles of 8-bit P.

use std::arch::x86_64::*;

use super::column_sums::integer_sums;
use super::shape::{NR, ROWS};
use super::tile_state::Tiles;
use crate::P8_LD;

/// Sums of a panel, in rows of `NR`.
#[repr(align(64))]
pub(super) struct Sums(pub(super) [i32; ROWS * NR]);

integer_sums!("tdpbusd");

/// See [`crate::PvU8`].
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn pv_u8(
    p: *const u8,
    v: *const i8,
    packed: usize,
    n: usize,
    rows: usize,
    panels: usize,
    alpha: *const f32,
    p_scale: *const f32,
    p_sum: *const i32,
    v_zero: i32,
    o: *mut f32,
    ldo: usize,
) {
    let groups = n.div_ceil(4);
    let bytes = NR * packed.next_multiple_of(4);
    let tiles = Tiles::new(groups);
    let mut out = [const { Sums([0; ROWS * NR]) }; 2];
    let mut done = 0;
    while done < panels {
        let (v, at) = (v.add(done * bytes), o.add(done * NR));
        let count = 2.min(panels - done);
        for i in 0..rows {
            let tile = i % ROWS;
            if tile == 0 {
                let p = p.add(i * P8_LD);
                let (o, ldo) = (out.each_mut().map(|sums| sums.0.as_mut_ptr()), 4 * NR);
                if count == 2 {
                    two_panels(p, P8_LD, v, bytes, groups, o, ldo);
                } else {
                    one_panel(p, P8_LD, v, bytes, groups, o, ldo);
                }
            }
            // The sum of a row with NaN is any integer; its `l` is NaN.
            let less = _mm512_set1_epi32(v_zero.wrapping_mul(*p_sum.add(i)));
            let alpha = _mm512_set1_ps(*alpha.add(i));
            let scale = _mm512_set1_ps(*p_scale.add(i));
            for (panel, sums) in out.iter().enumerate().take(count) {
                for c in (0..NR).step_by(16) {
                    let sum = _mm512_load_si512(sums.0.as_ptr().add(tile * NR + c).cast());
                    let sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, less));
                    let o = at.add(i * ldo + panel * NR + c);
                    let old = _mm512_mul_ps(alpha, _mm512_loadu_ps(o));
                    _mm512_storeu_ps(o, _mm512_fmadd_ps(sum, scale, old));
                }
            }
        }
        done += count;
    }
    drop(tiles);
}
