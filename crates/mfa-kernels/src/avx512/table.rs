//! Registration of AVX-512.

use super::vector::{Plain, Vnni, Zmm};
use crate::generic::tables;
use crate::{Isa, Tuning};

// The tile keeps 24 sums in registers: each step loads two vectors, broadcasts twelve elements, and starts twenty-four
// products, which the two ports of a core take twelve cycles to do. It, the shapes of rows and decode, and `int8` were chosen by
// this model, not measured.
// Plain integers multiply with `vpmaddwd`.
tables! {
    vectors: Zmm<Plain>, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c",
    tile: 12 x 2,
    rows: [
        0..=1 => 1 x 4, 2 => 2 x 2, 3..=4 => 4 x 1, 5..=6 => 6 x 1, 7..=8 => 8 x 1, 9..=10 => 10 x 1, _ => 12 x 1
    ],
    decode: [8.. => 8 x 2, 1; 4..=7 => 4 x 4, 2; 2..=3 => 2 x 8, 4; 0..=1 => 1 x 16, 4],
    tuning: Tuning::VECTORS,
    tables: [
        TABLE = Isa::Avx512, plain: Zmm<Plain>, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c",
        int8: true, int8_values: true;
        TABLE_VNNI = Isa::Avx512Vnni, vnni: Zmm<Vnni>, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,avx512vnni",
        int8: true, int8_values: true;
    ]
}
