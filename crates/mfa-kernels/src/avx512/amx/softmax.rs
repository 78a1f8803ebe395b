//! A step of softmax whose P leaves as low and high bytes.

use std::arch::x86_64::*;

use super::shape::HIGH;
use crate::avx512::vector::{Plain, Zmm};
use crate::generic::softmax_integers;
use crate::{P16_LD, RowState, TOP16};

/// See [`crate::SoftmaxI16`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn softmax_i16(
    s: *mut f32,
    rows: usize,
    n: usize,
    state: RowState,
    v_scale: *const f32,
    p: *mut i16,
    p_scale: *mut f32,
) {
    softmax_integers::softmax_integers::<Zmm<Plain>, Halves, 4, 2>(
        s,
        rows,
        n,
        state,
        v_scale,
        p,
        p_scale,
        std::ptr::null_mut(),
    );
}

/// Storage of 64 weights.
enum Halves {}

impl softmax_integers::StoreIntegers<Zmm<Plain>, 4> for Halves {
    type Int = i16;
    const LD: usize = P16_LD;
    const TOP: f32 = TOP16;
    const DEGREE: usize = 5;
    #[inline(always)]
    unsafe fn store(row: *mut i16, j: usize, x: [__m512i; 4]) {
        let (low, high) = (
            _mm512_packs_epi32(x[0], x[1]),
            _mm512_packs_epi32(x[2], x[3]),
        );
        // Packing works within lanes of 128 bits: quarters of the four vectors alternate.
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        let mask = _mm512_set1_epi16(0xff);
        let lows = _mm512_packus_epi16(_mm512_and_si512(low, mask), _mm512_and_si512(high, mask));
        let highs = _mm512_packs_epi16(_mm512_srai_epi16::<8>(low), _mm512_srai_epi16::<8>(high));
        let row = row.cast::<u8>();
        _mm512_storeu_si512(row.add(j).cast(), _mm512_permutexvar_epi32(order, lows));
        _mm512_storeu_si512(
            row.add(HIGH + j).cast(),
            _mm512_permutexvar_epi32(order, highs),
        );
    }
}
