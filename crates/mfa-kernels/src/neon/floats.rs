//! The kernels that do not multiply integers.

use super::vector::{Neon, Plain};
use crate::generic::floats;

floats! {
    Neon<Plain>, "neon", tile: 6 x 4,
    rows: [0..=1 => 1 x 4, 2 => 2 x 2, 3..=4 => 4 x 1, _ => 6 x 1],
    decode: [4.. => 4 x 4, 2; 2..=3 => 2 x 8, 4; 0..=1 => 1 x 16, 4]
}
