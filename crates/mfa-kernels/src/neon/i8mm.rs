//! Integer tiles with I8MM.

use super::vector::{I8mm, Neon};
use crate::generic::integers;

integers! {
    Neon<I8mm>, "neon,dotprod,i8mm", scores: true, values: false, tile: 6 x 4,
    rows: [0..=1 => 1 x 4, 2 => 2 x 2, 3..=4 => 4 x 1, _ => 6 x 1]
}
