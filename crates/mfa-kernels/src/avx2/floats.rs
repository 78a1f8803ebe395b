//! The kernels that do not multiply integers.

use super::vector::{Plain, Ymm};
use crate::generic::floats;

floats! {
    Ymm<Plain>, "avx2,fma,f16c", tile: 6 x 2,
    rows: [0..=1 => 1 x 4, 2 => 2 x 2, 3..=4 => 4 x 1, _ => 6 x 1],
    decode: [4.. => 4 x 2, 1; 2..=3 => 2 x 4, 2; 0..=1 => 1 x 8, 4]
}
