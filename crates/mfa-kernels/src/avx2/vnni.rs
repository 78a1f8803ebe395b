//! Integer tiles with AVX-VNNI.

use super::vector::{Vnni, Ymm};
use crate::generic::integers;

integers! {
    Ymm<Vnni>, "avx2,fma,f16c,avxvnni", scores: true, values: true, tile: 6 x 2,
    rows: [0..=1 => 1 x 4, 2 => 2 x 2, 3..=4 => 4 x 1, _ => 6 x 1]
}
