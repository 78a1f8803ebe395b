//! Steps of online softmax.

use crate::kernels::{P8_LD, P16_LD, RowState, SCORE_LD};

/// See [`crate::kernels::SoftmaxF32`].
pub(super) unsafe fn softmax_f32(s: *mut f32, rows: usize, n: usize, state: RowState) {
    for i in 0..rows {
        let row = std::slice::from_raw_parts_mut(s.add(i * SCORE_LD), n);
        let m = row.iter().copied().fold(*state.m.add(i), f32::max);
        let mx = finite_or_zero(m);
        let mut sum = 0f32;
        for x in row {
            *x = (*x - mx).exp2();
            sum += *x;
        }
        *state.alpha.add(i) = (*state.m.add(i) - mx).exp2();
        *state.l.add(i) = *state.alpha.add(i) * *state.l.add(i) + sum;
        *state.m.add(i) = m;
    }
}

/// See [`crate::kernels::SoftmaxI16`].
pub(super) unsafe fn softmax_i16(
    s: *mut f32,
    rows: usize,
    n: usize,
    state: RowState,
    v_scale: *const f32,
    p: *mut i16,
    p_scale: *mut f32,
) {
    for i in 0..rows {
        let row = std::slice::from_raw_parts_mut(s.add(i * SCORE_LD), n);
        let p = std::slice::from_raw_parts_mut(p.add(i * P16_LD), n.next_multiple_of(2));
        let (inverse, beta) = weigh(row, i, state, v_scale, 32767.0);
        p.fill(0);
        for (p, w) in p.iter_mut().zip(row) {
            *p = (*w * inverse).round_ties_even() as i16;
        }
        *p_scale.add(i) = beta / inverse;
    }
}

/// See [`crate::kernels::SoftmaxU8`].
pub(super) unsafe fn softmax_u8(
    s: *mut f32,
    rows: usize,
    n: usize,
    state: RowState,
    v_scale: *const f32,
    p: *mut u8,
    p_scale: *mut f32,
    p_sum: *mut i32,
) {
    for i in 0..rows {
        let row = std::slice::from_raw_parts_mut(s.add(i * SCORE_LD), n);
        let p = std::slice::from_raw_parts_mut(p.add(i * P8_LD), n.next_multiple_of(4));
        let (inverse, beta) = weigh(row, i, state, v_scale, 255.0);
        p.fill(0);
        let mut sum = 0i32;
        for (p, w) in p.iter_mut().zip(row) {
            *p = (*w * inverse).round_ties_even() as u8;
            sum += i32::from(*p);
        }
        *p_scale.add(i) = beta / inverse;
        *p_sum.add(i) = sum;
    }
}

/// Replaces the scores of row `i` by their weights `w`, brings its state up to date, and returns what makes the
/// largest weight `top`, and what the weights of this block are worth beside those of the blocks before.
unsafe fn weigh(
    row: &mut [f32],
    i: usize,
    state: RowState,
    v_scale: *const f32,
    top: f32,
) -> (f32, f32) {
    let block = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let origin = finite_or_zero(block);
    let mut sum = 0f32;
    let mut largest = 1f32;
    for x in row.iter_mut() {
        *x = (*x - origin).exp2();
        sum += *x;
    }
    if !v_scale.is_null() {
        largest = 0.0;
        for (j, x) in row.iter_mut().enumerate() {
            *x *= *v_scale.add(j);
            largest = largest.max(x.abs());
        }
    }
    let m = (*state.m.add(i)).max(block);
    let mx = finite_or_zero(m);
    let beta = (block - mx).exp2();
    *state.alpha.add(i) = (*state.m.add(i) - mx).exp2();
    *state.l.add(i) = *state.alpha.add(i) * *state.l.add(i) + beta * sum;
    *state.m.add(i) = m;
    // Scales of V so small that the quotient overflows keep fewer bits, instead of none.
    ((top / largest).min(f32::MAX), beta)
}

/// The origin of the exponentials; a row that is masked so far has none, and any finite value gives it weights of 0.
fn finite_or_zero(m: f32) -> f32 {
    if m == f32::NEG_INFINITY { 0.0 } else { m }
}
