//! The backward pass: a strip of keys that is not masked, all of it at once.

use super::gradient::softmax_gradient;
use super::product::with_tiles;
use super::tile_state::Tiles;
use crate::SCORE_LD;
use crate::bf16_split::{STEP, panel_len, row_len};
use crate::gradient::{Bf16Factors, Bf16GradientStrip, Bf16Strip};

/// Queries whose scores and dP are made at a time: both stay in the first-level cache until they are weights.
const CHUNK: usize = STEP;

/// See [`crate::gradient::GradientStrip`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn strip(call: &Bf16GradientStrip) {
    let Bf16GradientStrip { strip, dv, dk, .. } = call;
    let (p_slices, ds_slices) = (dv.terms.slices_of_a(), dk.terms.slices_of_a());
    let tiles = Tiles::new(0);
    for first in (0..strip.n).step_by(CHUNK) {
        let (steps, n) = (first / STEP, CHUNK.min(strip.n - first));
        factors(&tiles, &call.scores, steps, n, strip.s);
        factors(&tiles, &call.dp, steps, n, strip.dp);
        let chunk = Bf16Strip {
            n,
            l: strip.l.add(first),
            d: strip.d.add(first),
            p: strip.p.wrapping_add(row_len(first, p_slices)),
            ds: if_there(strip.ds, row_len(first, ds_slices)),
            columns: if_there(strip.columns, steps * strip.panel),
            ..*strip
        };
        let p_slices = if dv.out.is_null() { 0 } else { p_slices };
        softmax_gradient(&chunk, p_slices, ds_slices, false);
    }
    for (sum, a, lda) in [(dv, strip.p, strip.ldp), (dk, strip.ds, strip.ldds)] {
        if !sum.out.is_null() {
            let (steps, panels) = (strip.n / STEP, sum.panels);
            with_tiles(
                &tiles, sum.terms, a, lda, sum.b, sum.panel, steps, STEP, panels, true, sum.out,
                sum.ld,
            );
        }
    }
    drop(tiles);
}

/// The products of a strip and `n` queries, those after `skipped` steps.
#[target_feature(enable = "avx512f")]
unsafe fn factors(tiles: &Tiles, of: &Bf16Factors, skipped: usize, n: usize, out: *mut f32) {
    let lda = row_len(of.columns, of.terms.slices_of_a());
    let panel = panel_len(of.columns, of.terms.slices_of_b(), STEP);
    let (steps, b) = (of.columns.div_ceil(STEP), of.b.add(skipped * panel));
    let panels = n / STEP;
    with_tiles(
        tiles, of.terms, of.a, lda, b, panel, steps, STEP, panels, false, out, SCORE_LD,
    );
}

fn if_there(p: *mut u16, distance: usize) -> *mut u16 {
    if p.is_null() {
        p
    } else {
        p.wrapping_add(distance)
    }
}
