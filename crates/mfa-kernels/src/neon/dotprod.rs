//! Integer tiles with DotProd.

use super::vector::{DotProd, Neon};
use crate::generic::integers;

integers! {
    Neon<DotProd>, "neon,dotprod", scores: true, values: false, tile: 6 x 4,
    rows: [0..=1 => 1 x 4, 2 => 2 x 2, 3..=4 => 4 x 1, _ => 6 x 1]
}
