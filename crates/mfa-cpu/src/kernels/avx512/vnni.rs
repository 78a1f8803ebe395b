//! The table with VNNI.

use super::vector::{Vnni, Zmm};
use crate::kernels::Isa;
use crate::kernels::generic::kernels;

kernels! {
    Isa::Avx512Vnni, Zmm<Vnni>, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c", int8: true, tile: 12 x 2,
    rows: [1: 4, 2: 4, 3: 2, 4: 2, 5: 1, 6: 1, 7: 1, 8: 1, 9: 1, 10: 1, 11: 1, 12: 1],
    dot: [1: 16, 2: 8, 3: 5, 4: 4, 5: 3, 6: 2, 7: 2, 8: 2],
    axpy: [1: 4, 2: 4, 3: 4, 4: 2, 5: 2, 6: 2, 7: 1, 8: 1]
}
