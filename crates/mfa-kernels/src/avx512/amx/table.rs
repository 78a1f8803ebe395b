//! Registration of AMX.

use super::{gradient, pack, product, pv_i16, pv_u8, qk_i8, softmax, strip, tile_state};
use crate::avx512::vector::{Plain, Zmm};
use crate::bf16_split::{Bf16Kernels, TileConfig};
use crate::generic::{Integers, floats, quantized};
use crate::gradient::{Bf16GradientKernels, GradientKernels};
use crate::{IntegerLayout, Isa, Kernels, Tuning};

/// The kernels of vectors, for strips of two tiles. Shapes of rows and decode are those of AVX-512.
mod vectors {
    use super::*;
    floats! {
        Zmm<Plain>, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c",
        tile: 32 x 2,
        rows: [
            0..=1 => 1 x 4, 2 => 2 x 2, 3..=4 => 4 x 1, 5..=6 => 6 x 1, 7..=8 => 8 x 1, 9..=10 => 10 x 1, _ => 12 x 1
        ],
        decode: [8.. => 8 x 2, 1; 4..=7 => 4 x 4, 2; 2..=3 => 2 x 8, 4; 0..=1 => 1 x 16, 4]
    }
    quantized! {
        Zmm<Plain>, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c",
        decode: [8.. => 8 x 2, 1; 4..=7 => 4 x 4, 2; 2..=3 => 2 x 8, 4; 0..=1 => 1 x 16, 4]
    }
}

/// The kernels of vectors, and the integer kernels.
const VECTORS: Kernels = vectors::table(
    Isa::Avx512Amx,
    Integers {
        int8: true,
        int8_values: true,
        q_offset: 0,
        k_i8_bytes: 1,
        pack_q_i8: qk_i8::pack_q_i8,
        pack_k_i8: qk_i8::pack_k_i8,
        qk_i8: qk_i8::qk_i8,
        pv_i16: pv_i16::pv_i16,
        pv_u8: pv_u8::pv_u8,
        #[cfg(all(test, unix))]
        twin: crate::scalar::twin::<32, 32, 0>,
    },
    Tuning::MATRIX_UNIT,
);

pub(crate) static TABLE: Kernels = Kernels {
    pack_v_i16: pv_i16::pack_v_i16,
    softmax_i16: softmax::softmax_i16,
    integer_layout: IntegerLayout::Bytes,
    bf16: Some(Bf16Kernels {
        pack_rows: pack::pack_rows,
        pack_transposed: pack::pack_transposed,
        pack_columns: pack::pack_columns,
        pack_panels: pack::pack_panels,
        product: product::product,
        softmax: pack::softmax_bf16,
        rescale: pack::rescale,
        tile_config: TileConfig {
            load: tile_state::load,
            release: tile_state::release,
        },
    }),
    gradient: GradientKernels {
        bf16: Some(Bf16GradientKernels {
            softmax_gradient: gradient::softmax_gradient,
            strip: strip::strip,
            add_transposed: gradient::add_transposed,
            scale_rows: gradient::scale_rows,
            max_abs: gradient::max_abs,
        }),
        ..VECTORS.gradient
    },
    ..VECTORS
};
