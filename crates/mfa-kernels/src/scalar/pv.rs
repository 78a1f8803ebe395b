//! Output tiles: `O = alpha O + P V`.

use super::columns::columns;
use crate::{P8_LD, P16_LD, SCORE_LD, SUM_RUN};

/// See [`crate::PvF32`].
pub(super) unsafe fn pv_f32<const NR: usize>(
    p: *const f32,
    v: *const f32,
    packed: usize,
    n: usize,
    rows: usize,
    panels: usize,
    alpha: *const f32,
    o: *mut f32,
    ldo: usize,
) {
    for panel in 0..panels {
        let v = columns::<_, NR>(v.add(panel * packed * NR), n);
        for i in 0..rows {
            let o = std::slice::from_raw_parts_mut(o.add(i * ldo + panel * NR), NR);
            let p = std::slice::from_raw_parts(p.add(i * SCORE_LD), n);
            o.iter_mut().for_each(|o| *o *= *alpha.add(i));
            for (p, v) in p.chunks(SUM_RUN).zip(v.chunks(SUM_RUN)) {
                let mut sums = [0f32; NR];
                for (p, v) in p.iter().zip(v) {
                    for (sum, v) in sums.iter_mut().zip(v) {
                        *sum += p * v;
                    }
                }
                o.iter_mut().zip(sums).for_each(|(o, sum)| *o += sum);
            }
        }
    }
}

/// See [`crate::PvI16`].
pub(super) unsafe fn pv_i16<const NR: usize>(
    p: *const i16,
    v: *const i16,
    packed: usize,
    n: usize,
    rows: usize,
    panels: usize,
    alpha: *const f32,
    p_scale: *const f32,
    col_scale: *const f32,
    o: *mut f32,
    ldo: usize,
) {
    for panel in 0..panels {
        let v = v.add(panel * packed.div_ceil(2) * NR * 2);
        for i in 0..rows {
            let o = std::slice::from_raw_parts_mut(o.add(i * ldo + panel * NR), NR);
            let mut sums = [0i32; NR];
            for j in 0..n {
                let p = i32::from(*p.add(i * P16_LD + j));
                for (c, sum) in sums.iter_mut().enumerate() {
                    *sum += p * i32::from(*v.add((j / 2 * NR + c) * 2 + j % 2));
                }
            }
            for (c, (o, sum)) in o.iter_mut().zip(sums).enumerate() {
                let mut scale = *p_scale.add(i);
                if !col_scale.is_null() {
                    scale *= *col_scale.add(panel * NR + c);
                }
                *o = *alpha.add(i) * *o + scale * sum as f32;
            }
        }
    }
}

/// See [`crate::PvU8`].
pub(super) unsafe fn pv_u8<const NR: usize>(
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
    for panel in 0..panels {
        let v = v.add(panel * packed.div_ceil(4) * NR * 4);
        for i in 0..rows {
            let o = std::slice::from_raw_parts_mut(o.add(i * ldo + panel * NR), NR);
            let mut sums = [v_zero.wrapping_mul(*p_sum.add(i)).wrapping_neg(); NR];
            for j in 0..n {
                let p = i32::from(*p.add(i * P8_LD + j));
                for (c, sum) in sums.iter_mut().enumerate() {
                    *sum += p * i32::from(*v.add((j / 4 * NR + c) * 4 + j % 4));
                }
            }
            for (o, sum) in o.iter_mut().zip(sums) {
                *o = *alpha.add(i) * *o + *p_scale.add(i) * sum as f32;
            }
        }
    }
}
