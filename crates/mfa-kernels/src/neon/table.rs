//! Registration of Advanced SIMD.

use super::vector::{DotProd, I8mm, Neon, Plain};
use crate::generic::tables;
use crate::{Isa, Tuning};

// The tile keeps 24 sums in the 32 registers. There is no sum of two products of i16, so that values in integers cost as much as
// in f32: they are expanded. All of it was chosen by this model, not measured: kernels ran under an emulator only.
// Plain integers multiply with widening multiplications.
tables! {
    vectors: Neon<Plain>, "neon",
    tile: 6 x 4,
    rows: [0..=1 => 1 x 4, 2 => 2 x 2, 3..=4 => 4 x 1, _ => 6 x 1],
    decode: [4.. => 4 x 4, 2; 2..=3 => 2 x 8, 4; 0..=1 => 1 x 16, 4],
    tuning: Tuning::VECTORS,
    tables: [
        TABLE = Isa::Neon, plain: Neon<Plain>, "neon", int8: false, int8_values: false;
        TABLE_DOTPROD = Isa::NeonDotProd, dotprod: Neon<DotProd>, "neon,dotprod", int8: true, int8_values: false;
        TABLE_I8MM = Isa::NeonI8mm, i8mm: Neon<I8mm>, "neon,dotprod,i8mm", int8: true, int8_values: false;
    ]
}
