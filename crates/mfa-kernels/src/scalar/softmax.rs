//! Steps of online softmax.

use crate::{P8_LD, P16_LD, RowState, SCORE_LD, SUM_RUN, TOP8, TOP16};

/// See [`crate::SoftmaxF32`].
pub(super) unsafe fn softmax_f32(s: *mut f32, rows: usize, n: usize, state: RowState) {
    for i in 0..rows {
        let row = std::slice::from_raw_parts_mut(s.add(i * SCORE_LD), n);
        let m = row.iter().copied().fold(*state.m.add(i), f32::max);
        let mx = finite_or_zero(m);
        let mut sum = 0f32;
        for run in row.chunks_mut(SUM_RUN) {
            let mut of_run = 0f32;
            for x in run {
                *x = (*x - mx).exp2();
                of_run += *x;
            }
            sum += of_run;
        }
        *state.alpha.add(i) = (*state.m.add(i) - mx).exp2();
        *state.l.add(i) = *state.alpha.add(i) * *state.l.add(i) + sum;
        *state.m.add(i) = m;
    }
}

/// See [`crate::SoftmaxI16`].
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
        p.fill(0);
        let store = |j: usize, x: f32| p[j] = x as i16;
        *p_scale.add(i) = weigh(row, i, state, v_scale, TOP16, store);
    }
}

/// See [`crate::SoftmaxU8`].
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
        p.fill(0);
        let mut sum = 0i32;
        let store = |j: usize, x: f32| {
            p[j] = x as u8;
            sum += i32::from(p[j]);
        };
        *p_scale.add(i) = weigh(row, i, state, v_scale, TOP8, store);
        *p_sum.add(i) = sum;
    }
}

/// Weighs the scores of row `i`, stores the weights as integers of which the largest is `top`, brings the row's state up to
/// date, and returns the weight of a step relative to the blocks before.
unsafe fn weigh(
    row: &mut [f32],
    i: usize,
    state: RowState,
    v_scale: *const f32,
    top: f32,
    mut store: impl FnMut(usize, f32),
) -> f32 {
    let block = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let origin = finite_or_zero(block);
    let mut sum = 0f32;
    let mut largest = if v_scale.is_null() { 1f32 } else { 0.0 };
    for (j, x) in row.iter_mut().enumerate() {
        *x = (*x - origin).exp2();
        sum += *x;
        if !v_scale.is_null() {
            *x *= *v_scale.add(j);
            largest = largest.max(x.abs());
        }
    }
    // Scales of V so small that the quotient overflows keep fewer bits, instead of none.
    let inverse = (top / largest).min(f32::MAX);
    let (mut carry, mut steps) = (0f32, 0f32);
    for (j, w) in row.iter().enumerate() {
        let with = w * inverse + carry;
        let step = with.round_ties_even();
        carry = with - step;
        steps += step;
        store(j, step);
    }
    let sum = if v_scale.is_null() {
        steps / top
    } else {
        sum - carry / top
    };
    let m = (*state.m.add(i)).max(block);
    let mx = finite_or_zero(m);
    let beta = (block - mx).exp2();
    *state.alpha.add(i) = (*state.m.add(i) - mx).exp2();
    *state.l.add(i) = *state.alpha.add(i) * *state.l.add(i) + beta * sum;
    *state.left.add(i) = *state.alpha.add(i) * *state.left.add(i) + beta * (carry / top);
    *state.m.add(i) = m;
    beta / inverse
}

/// The origin of the exponentials; a row that is masked so far has none, and any finite value gives it weights of 0.
fn finite_or_zero(m: f32) -> f32 {
    if m == f32::NEG_INFINITY { 0.0 } else { m }
}
