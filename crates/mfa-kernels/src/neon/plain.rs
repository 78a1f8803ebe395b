//! Integer tiles with widening multiplications.

use super::vector::{Neon, Plain};
use crate::generic::integers;

integers! {
    Neon<Plain>, "neon", scores: false, values: false, tile: 6 x 4,
    rows: [0..=1 => 1 x 4, 2 => 2 x 2, 3..=4 => 4 x 1, _ => 6 x 1]
}
