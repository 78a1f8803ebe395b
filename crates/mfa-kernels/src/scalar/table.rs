//! The table of plain Rust, and the twins of the other tables.

use super::decode::{self, BF16, F16, F32, I4, I8};
use super::{gradient, pack, pv, qk, quantize, quantized, row, softmax};
use crate::{GradientKernels, IntegerLayout, Isa, Kernels, PerPrecision, QuantizeKernels, Tuning};

/// A tile of 4 x 8, which compilers keep in the 16 vector registers of any 128-bit instruction set. Chosen by model, not
/// measured.
pub(crate) static TABLE: Kernels = table::<4, 8, 128>(Isa::Scalar);

/// The twin of a table with a tile of `MR` x `NR`, and with `OFFSET` (0 or 128) added to the integers of Q.
#[cfg(all(test, unix))]
pub(crate) fn twin<const MR: usize, const NR: usize, const OFFSET: i32>() -> Kernels {
    Kernels {
        bf16: Some(super::bf16_split::table::<MR, NR>()),
        ..table::<MR, NR, OFFSET>(Isa::Scalar)
    }
}

/// The table for a tile of `MR` x `NR`, with `OFFSET` (0 or 128) added to the integers of Q.
const fn table<const MR: usize, const NR: usize, const OFFSET: i32>(isa: Isa) -> Kernels {
    Kernels {
        isa,
        mr: MR,
        nr: NR,
        tuning: Tuning::VECTORS,
        #[cfg(all(test, unix))]
        twin: twin::<MR, NR, OFFSET>,
        int8: true,
        int8_values: true,
        q_offset: OFFSET,
        k_i8_bytes: 1,
        integer_layout: IntegerLayout::Pairs,
        qk_f32: qk::qk_f32::<MR, NR>,
        qk_i8: qk::qk_i8::<MR, NR, OFFSET>,
        softmax_f32: softmax::softmax_f32,
        softmax_i16: softmax::softmax_i16,
        softmax_u8: softmax::softmax_u8,
        pv_f32: pv::pv_f32::<NR>,
        pv_i16: pv::pv_i16::<NR>,
        pv_u8: pv::pv_u8::<NR>,
        pack_q_f32: pack::pack_q_f32::<MR>,
        pack_q_i8: pack::pack_q_i8::<MR, OFFSET>,
        pack_k_f32: pack::pack_k_f32::<NR>,
        pack_k_i8: pack::pack_k_i8::<NR>,
        pack_v_f32: pack::pack_v_f32::<NR>,
        pack_v_i16: pack::pack_v_i16::<NR>,
        pack_v_i8: pack::pack_v_i8::<NR>,
        to_f32: PerPrecision {
            f32: decode::widen::<F32>,
            f16: decode::widen::<F16>,
            bf16: decode::widen::<BF16>,
            i8: decode::widen::<I8>,
            i4: decode::widen::<I4>,
        },
        unpack_i4: decode::unpack_i4,
        dot_rows: PerPrecision {
            f32: decode::dot_rows::<F32>,
            f16: decode::dot_rows::<F16>,
            bf16: decode::dot_rows::<BF16>,
            i8: decode::dot_rows::<I8>,
            i4: decode::dot_rows::<I4>,
        },
        bf16: None,
        axpy_rows: PerPrecision {
            f32: decode::axpy_rows::<F32>,
            f16: decode::axpy_rows::<F16>,
            bf16: decode::axpy_rows::<BF16>,
            i8: decode::axpy_rows::<I8>,
            i4: decode::axpy_rows::<I4>,
        },
        quantized: quantized::KERNELS,
        mask_bool: row::mask_bool,
        mask_add: row::mask_add,
        softcap: row::softcap,
        alibi: row::alibi,
        prefetch: row::prefetch,
        scale: row::scale,
        to_bf16: row::to_bf16,
        to_f16: row::to_f16,
        quantize: QuantizeKernels {
            extremes: quantize::extremes,
            is_finite: quantize::is_finite,
            column_extremes: quantize::column_extremes,
            column_sums: quantize::column_sums,
            add_row: quantize::add_row,
            rotate: quantize::rotate,
            round: quantize::round,
            pack_i4: quantize::pack_i4,
            measure: quantize::measure,
            parameters: quantize::parameters,
        },
        gradient: GradientKernels {
            ptv_f32: gradient::ptv_f32::<NR>,
            softmax_gradient: gradient::softmax_gradient,
            weighted_sums: gradient::weighted_sums,
            transpose: gradient::transpose,
            row_dots: gradient::row_dots,
            bf16: None,
        },
    }
}
