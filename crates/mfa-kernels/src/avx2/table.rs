//! Registration of AVX2.

use super::vector::{Plain, Vnni, Ymm};
use crate::generic::tables;
use crate::{Isa, Tuning};

// The tile keeps 12 sums in the 16 registers, beside the two vectors and the broadcast element of a step. It, the shapes of rows
// and decode, and `int8` were chosen by this model, not measured.
// Plain integers multiply with `vpmaddwd`.
tables! {
    vectors: Ymm<Plain>, "avx2,fma,f16c",
    tile: 6 x 2,
    rows: [0..=1 => 1 x 4, 2 => 2 x 2, 3..=4 => 4 x 1, _ => 6 x 1],
    decode: [4.. => 4 x 2, 1; 2..=3 => 2 x 4, 2; 0..=1 => 1 x 8, 4],
    tuning: Tuning::VECTORS,
    tables: [
        TABLE = Isa::Avx2, plain: Ymm<Plain>, "avx2,fma,f16c", int8: true, int8_values: true;
        TABLE_VNNI = Isa::Avx2Vnni, vnni: Ymm<Vnni>, "avx2,fma,f16c,avxvnni", int8: true, int8_values: true;
    ]
}
