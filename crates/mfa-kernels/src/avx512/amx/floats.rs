//! The kernels of [`crate::avx512::floats`] for strips of this table's height.

use crate::avx512::vector::{Plain, Zmm};
use crate::generic::floats;

floats! {
    Zmm<Plain>, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c", tile: 32 x 2,
    rows: [0..=1 => 1 x 4, 2 => 2 x 2, 3..=4 => 4 x 1, 5..=6 => 6 x 1, 7..=8 => 8 x 1, 9..=10 => 10 x 1, _ => 12 x 1],
    decode: [8.. => 8 x 2, 1; 4..=7 => 4 x 4, 2; 2..=3 => 2 x 8, 4; 0..=1 => 1 x 16, 4]
}
