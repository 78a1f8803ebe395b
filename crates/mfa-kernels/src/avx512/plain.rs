//! Integer tiles with `vpmaddwd`.

use super::vector::{Plain, Zmm};
use crate::generic::integers;

integers! {
    Zmm<Plain>, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c", scores: true, values: true, tile: 12 x 2,
    rows: [0..=1 => 1 x 4, 2 => 2 x 2, 3..=4 => 4 x 1, 5..=6 => 6 x 1, 7..=8 => 8 x 1, 9..=10 => 10 x 1, _ => 12 x 1]
}
