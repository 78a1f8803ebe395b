//! Tensors of every precision, layout and quantization, each in a buffer of its own.

use std::ffi::c_void;

use mfa_sys as sys;

use crate::grammar::{
    BF16, BOOL, FLOATS, FP16, FP32, FP64, INT4, INT8, bits, extent, ordered, packed,
};
use crate::random::Awkward;
use crate::world::World;

/// What may be done with a tensor's memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Read,
    Written,
}

impl World {
    fn strides(&mut self, shape: [u64; 4], precision: i32, using: Use) -> [i64; 4] {
        let pad = 2 * self.random.below(3);
        match self.random.below(7) {
            0 => ordered(shape, [0, 2, 1, 3], 0),
            1 => ordered(shape, [0, 1, 2, 3], pad),
            2 if precision != INT4 => ordered(shape, [0, 1, 3, 2], pad),
            3 if using == Use::Read => {
                let mut strides = packed(shape);
                for stride in &mut strides[..3] {
                    if self.random.one_in(2) {
                        *stride = 0;
                    }
                }
                strides
            }
            _ => packed(shape),
        }
    }

    /// Random bytes that make sense as elements.
    fn fill(&mut self, at: *mut u8, bytes: usize, precision: i32) {
        let special = self.random.one_in(16);
        let mask: [u64; 2] = match precision {
            FP64 => [0x800F_FFFF_FFFF_FFFF, 0x3FE0_0000_0000_0000],
            FP32 => [0x807F_FFFF_807F_FFFF, 0x3F00_0000_3F00_0000],
            FP16 => [0x83FF_83FF_83FF_83FF, 0x3800_3800_3800_3800],
            BF16 => [0x807F_807F_807F_807F, 0x3F00_3F00_3F00_3F00],
            BOOL => [0x0101_0101_0101_0101, 0],
            _ => [u64::MAX, 0],
        };
        for first in (0..bytes).step_by(8) {
            let word = (self.random.next() & mask[0]) | mask[1];
            // SAFETY: no more than the piece has.
            unsafe {
                let word = word.to_ne_bytes();
                (at.add(first)).copy_from_nonoverlapping(word.as_ptr(), 8.min(bytes - first));
            }
        }
        if special && bytes > 0 && FLOATS.contains(&precision) {
            let width = bits(precision) as usize / 8;
            let at = at.wrapping_add(width * self.random.below((bytes / width) as u64) as usize);
            // All bits: a NaN of each precision; without the lowest and the sign: an infinity of FP32, else a number.
            let value = self
                .random
                .pick(&[u32::MAX, 0x7F80_0000, 0x7F7F_FFFF])
                .to_ne_bytes();
            // SAFETY: an element of the piece.
            unsafe { at.copy_from_nonoverlapping(value.as_ptr().add(4 - width), width) };
        }
    }

    /// A buffer with `bytes` bytes at an offset, perhaps with some after them.
    pub(crate) fn room(&mut self, bytes: u64, precision: i32) -> (*mut c_void, u64, usize) {
        let size = bits(precision).div_ceil(8);
        let offset = size * self.random.pick(&[0, 0, 0, 1, 3]);
        let slack = size * self.random.pick(&[0, 0, 0, 0, 2]);
        let piece = self.arena.take((offset + bytes + slack) as usize);
        self.fill(piece.at, piece.bytes, precision);
        (self.wrap(piece), offset, piece.slot)
    }

    /// A buffer with exactly these bytes.
    pub(crate) fn exact(&mut self, bytes: u64, precision: i32) -> (*mut c_void, usize) {
        let piece = self.arena.take(bytes as usize);
        self.fill(piece.at, piece.bytes, precision);
        (self.wrap(piece), piece.slot)
    }

    pub(crate) fn tensor(
        &mut self,
        shape: [u64; 4],
        precision: i32,
        using: Use,
    ) -> (sys::mfa_tensor, usize) {
        let strides = self.strides(shape, precision, using);
        let bytes = (extent(shape, strides) * bits(precision)).div_ceil(8);
        let (buffer, byte_offset, slot) = self.room(bytes, precision);
        let tensor = sys::mfa_tensor {
            buffer,
            byte_offset,
            precision,
            shape,
            strides,
            ..sys::mfa_tensor::ABSENT
        };
        (tensor, slot)
    }

    /// A quantization of a tensor. With `flags` it is one that receives scales; returns the pieces that it writes, and
    /// all that it has.
    pub(crate) fn quantization(
        &mut self,
        tensor: &sys::mfa_tensor,
        flags: Option<u32>,
    ) -> (sys::mfa_quantization, Vec<usize>, Vec<usize>) {
        let [batch, heads, rows, columns] = tensor.shape;
        let granularity = self.random.below(4) as i32;
        let mut result = sys::mfa_quantization {
            granularity,
            rotated: u32::from(self.random.one_in(4)),
            ..sys::mfa_quantization::new()
        };
        let shape = match granularity {
            sys::MFA_GRANULARITY_TENSOR => [1; 4],
            sys::MFA_GRANULARITY_ROW => {
                result.group_size = self.random.pick(&[0, 0, 32, 64]);
                let group = if result.group_size == 0 {
                    columns.max(1)
                } else {
                    result.group_size.into()
                };
                [batch, heads, rows, columns.div_ceil(group)]
            }
            _ => {
                result.block_rows = self.random.pick(&[1, 2, 5, 16, 64]);
                let blocks = rows.div_ceil(result.block_rows.into());
                let wide = granularity == sys::MFA_GRANULARITY_CHANNEL;
                [batch, heads, blocks, if wide { columns } else { 1 }]
            }
        };
        let has = |flag: u32| flags.is_some_and(|flags| flags & flag != 0);
        let (mut written, mut all) = (Vec::new(), Vec::new());
        let arrays =
            flags.is_some() || granularity != sys::MFA_GRANULARITY_TENSOR || self.random.one_in(2);
        if arrays {
            // A view of a larger tensor must say where its scales are; a written one has each scale once.
            let contiguous = tensor.strides == packed(tensor.shape);
            let strides = if contiguous && self.random.one_in(2) {
                packed(shape)
            } else {
                let pad = self.random.below(3);
                let strides = ordered(shape, [0, 1, 2, 3], pad);
                result.scale_strides = strides;
                strides
            };
            let count = extent(shape, strides);
            result.scale_precision = self.random.pick(&[FP32, FP32, FP16]);
            let (buffer, offset, slot) = self.room(
                count * bits(result.scale_precision) / 8,
                result.scale_precision,
            );
            (result.scale_buffer, result.scale_offset) = (buffer, offset);
            all.push(slot);
            if !has(sys::MFA_QUANTIZE_SCALE_GIVEN) {
                written.push(slot);
            }
            // The only scale of a tensor may be no NaN; given ones may not either.
            if flags.is_some() || granularity == sys::MFA_GRANULARITY_TENSOR {
                self.finite(slot, result.scale_precision);
            }
            if if flags.is_some() {
                has(sys::MFA_QUANTIZE_ASYMMETRIC)
            } else {
                self.random.one_in(2)
            } {
                result.zero_point_bytes = self.random.pick(&[1, 4]);
                let precision = if result.zero_point_bytes == 1 {
                    INT8
                } else {
                    FP32
                };
                let (buffer, offset, slot) =
                    self.room(count * u64::from(result.zero_point_bytes), precision);
                (result.zero_point_buffer, result.zero_point_offset) = (buffer, offset);
                self.zero_points(slot, result.zero_point_bytes, tensor.precision);
                all.push(slot);
                if !has(sys::MFA_QUANTIZE_SCALE_GIVEN) {
                    written.push(slot);
                }
            }
        } else {
            result.scale = self.random.scale();
            result.zero_point = self.random.below(16) as i32 - 8;
        }
        if if flags.is_some() {
            has(sys::MFA_QUANTIZE_SMOOTH)
        } else {
            self.random.one_in(4)
        } {
            let (buffer, offset, slot) = self.room(4 * batch * heads * columns, FP32);
            (result.mean_buffer, result.mean_offset) = (buffer, offset);
            self.finite(slot, FP32);
            all.push(slot);
            if !has(sys::MFA_QUANTIZE_MEAN_GIVEN) {
                written.push(slot);
            }
        }
        (result, written, all)
    }

    /// Takes specials out of a piece.
    pub(crate) fn finite(&mut self, slot: usize, precision: i32) {
        let piece = self.arena.piece(slot);
        let width = bits(precision) as usize / 8;
        for first in (0..piece.bytes).step_by(width) {
            let value = if precision == FP32 {
                0x3F12_3456u32
            } else {
                0x3812_0000
            }
            .to_ne_bytes();
            // SAFETY: an element of the piece. (Little endian: the upper half is the 16-bit value.)
            unsafe {
                piece
                    .at
                    .add(first)
                    .copy_from_nonoverlapping(value.as_ptr().add(4 - width), width)
            };
        }
    }

    /// Makes a piece one of legal zero points.
    fn zero_points(&mut self, slot: usize, width: u32, precision: i32) {
        let piece = self.arena.piece(slot);
        let most = if precision == INT4 { 8 } else { 128 };
        for first in (0..piece.bytes).step_by(width as usize) {
            let value = (self.random.below(2 * most) as i32 - most as i32).to_ne_bytes();
            // SAFETY: an element of the piece.
            unsafe {
                piece
                    .at
                    .add(first)
                    .copy_from_nonoverlapping(value.as_ptr(), width as usize)
            };
        }
    }
}
