//! The table of kernels of an instruction set.

use crate::bf16_split::{Bf16Kernels, STEP};
use crate::gradient::GradientKernels;
use crate::isa::Isa;
use crate::precision::PerPrecision;
use crate::quantize::QuantizeKernels;
use crate::quantized::QuantizedKernels;
use crate::signatures::{
    Alibi, AxpyRows, DotRows, MaskAdd, MaskBool, PackKF32, PackKI8, PackQF32, PackQI8, PackVF32,
    PackVI8, PackVI16, Prefetch, PvF32, PvI16, PvU8, QkF32, QkI8, Scale, Softcap, SoftmaxF32,
    SoftmaxI16, SoftmaxU8, ToBf16, ToF16, ToF32, UnpackI4,
};
use crate::tuning::Tuning;

/// The layouts of the integer operands that only kernels read and write: Q, 16-bit P and 16-bit V.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntegerLayout {
    /// The layouts of the crate's documentation: 16-bit elements in pairs.
    Pairs,
    /// The layouts of AMX: 16-bit elements as low and high bytes, for products of bytes.
    Bytes,
}

/// The kernels of one instruction set.
pub struct Kernels {
    /// The instruction set, which the processor must have wherever a kernel is called.
    pub isa: Isa,
    /// Rows of a strip, at most [`crate::MAX_MR`].
    pub mr: usize,
    /// Keys (columns of V) of a panel; divides [`crate::BLOCK_N`].
    pub nr: usize,
    /// Whether `qk_i8` is faster than expanding INT8 to f32 on this instruction set.
    pub int8: bool,
    /// Whether `pv_i16` and `pv_u8` are faster than expanding INT8 to f32.
    pub int8_values: bool,
    /// The number that `pack_q_i8` adds to the integers of Q: 128 where products take unsigned bytes, 0 where they take signed
    /// ones.
    pub q_offset: i32,
    /// Bytes of an element of packed INT8 K: 2 where products take pairs of i16.
    pub k_i8_bytes: usize,
    /// The layouts of integer Q, 16-bit P and 16-bit V.
    pub integer_layout: IntegerLayout,
    /// Block sizes and thresholds for these kernels.
    pub tuning: Tuning,
    /// The scalar kernels with the same tile and offset of Q.
    #[cfg(all(test, unix))]
    pub(crate) twin: fn() -> Kernels,
    /// FP32 scores of a strip and a block.
    pub qk_f32: QkF32,
    /// INT8 scores of a strip and a block.
    pub qk_i8: QkI8,
    /// Softmax step to f32 P.
    pub softmax_f32: SoftmaxF32,
    /// Softmax step to 16-bit P.
    pub softmax_i16: SoftmaxI16,
    /// Softmax step to 8-bit P.
    pub softmax_u8: SoftmaxU8,
    /// Product of f32 P and V.
    pub pv_f32: PvF32,
    /// Product of 16-bit P and V.
    pub pv_i16: PvI16,
    /// Product of 8-bit P and V.
    pub pv_u8: PvU8,
    /// Packs a strip of f32 Q.
    pub pack_q_f32: PackQF32,
    /// Packs a strip of INT8 Q.
    pub pack_q_i8: PackQI8,
    /// Packs a block of f32 K.
    pub pack_k_f32: PackKF32,
    /// Packs a block of INT8 K.
    pub pack_k_i8: PackKI8,
    /// Packs a block of f32 V.
    pub pack_v_f32: PackVF32,
    /// Packs a block of INT8 V for `pv_i16`.
    pub pack_v_i16: PackVI16,
    /// Packs a block of INT8 V for `pv_u8`.
    pub pack_v_i8: PackVI8,
    /// Conversion to f32, per storage precision.
    pub to_f32: PerPrecision<ToF32>,
    /// Conversion of INT4 to i8.
    pub unpack_i4: UnpackI4,
    /// Scores of decode, per storage precision of K.
    pub dot_rows: PerPrecision<DotRows>,
    /// Output of decode, per storage precision of V.
    pub axpy_rows: PerPrecision<AxpyRows>,
    /// The kernels that apply scales which differ within a row.
    pub quantized: QuantizedKernels,
    /// Applies a boolean mask to a row of scores.
    pub mask_bool: MaskBool,
    /// Adds a mask to a row of scores.
    pub mask_add: MaskAdd,
    /// Applies the softcap to a row of scores.
    pub softcap: Softcap,
    /// Adds the bias of ALiBi to a row of scores.
    pub alibi: Alibi,
    /// Asks for memory that is read soon.
    pub prefetch: Prefetch,
    /// Multiplies a row.
    pub scale: Scale,
    /// Rounds a row to BF16.
    pub to_bf16: ToBf16,
    /// Rounds a row to FP16.
    pub to_f16: ToF16,
    /// The kernels that quantize rows.
    pub quantize: QuantizeKernels,
    /// The kernels that only the backward pass uses.
    pub gradient: GradientKernels,
    /// Products of bf16 slices, if they are faster than `qk_f32` and `pv_f32`.
    pub bf16: Option<Bf16Kernels>,
}

impl Kernels {
    /// Whether there are products of bytes, so that `pv_u8` is faster than `pv_i16`.
    #[must_use]
    pub fn multiplies_bytes(&self) -> bool {
        self.k_i8_bytes == 1
    }

    /// Whether the backward pass has products of bf16 slices: it needs the kernels of both passes, with strips and panels of
    /// [`STEP`].
    #[must_use]
    pub fn has_bf16_gradient(&self) -> bool {
        let steps = self.mr == STEP && self.nr == STEP;
        steps && self.bf16.is_some() && self.gradient.bf16.is_some()
    }
}
