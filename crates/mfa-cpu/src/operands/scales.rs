//! Scales and zero points of stored integers as kernels take them: FP32, one after the other.

use std::ops::Range;
use std::ptr::null;

use half::f16;

use crate::contract::array::Array;
use crate::contract::quant_scheme::{Params, Quant};
use mfa_kernels::Kernels;
use mfa_kernels::quantized::{ChannelScales, GroupScales};

impl Quant {
    /// Scales of rows `n..n + out.len()`, for granularities with one scale per row.
    pub(crate) fn row_scales(
        &self,
        kernels: &Kernels,
        at: (usize, usize),
        n: usize,
        out: &mut [f32],
    ) {
        self.for_blocks(at, n, out, |first, step, out| {
            self.load_scales(kernels, first, step, out);
        });
    }

    /// Zero points of rows `n..n + out.len()` as floats, likewise.
    pub(crate) fn row_zeros(
        &self,
        kernels: &Kernels,
        at: (usize, usize),
        n: usize,
        out: &mut [f32],
    ) {
        self.for_blocks(at, n, out, |first, step, out| {
            self.load_zeros(kernels, first, step, out);
        });
    }

    /// Asks for the scales and zero points of rows `n..n + count`; for the first of them, where they are far apart.
    pub(crate) fn prefetch(
        &self,
        kernels: &Kernels,
        (b, h): (usize, usize),
        n: usize,
        count: usize,
    ) {
        const MOST: usize = 4096;
        let Params::Strided {
            scales,
            half,
            zeros,
            strides,
            ..
        } = &self.params
        else {
            return;
        };
        let first = Self::index(strides, [b, h, n / self.block_rows, 0]);
        let elements = MOST.min(count.div_ceil(self.block_rows).saturating_mul(strides[2]));
        let ask = |array: &Array, bytes: usize| {
            let p = array.ptr.cast::<u8>().wrapping_add(first * bytes);
            // SAFETY: the address need not be valid.
            unsafe { (kernels.prefetch)(p, elements * bytes) };
        };
        ask(scales, if *half { 2 } else { 4 });
        if let Some((zeros, bytes)) = zeros {
            ask(zeros, *bytes);
        }
    }

    /// Reads the scales and zero points of row `n`, one for each group from the first on.
    pub(crate) fn load_groups(
        &self,
        kernels: &Kernels,
        (b, h): (usize, usize),
        n: usize,
        scales: &mut [f32],
        zeros: &mut [f32],
    ) {
        let strides = self.strides();
        let first = Self::index(&strides, [b, h, n / self.block_rows, 0]);
        self.load_scales(kernels, first, strides[3], scales);
        self.load_zeros(kernels, first, strides[3], zeros);
    }

    /// The scales of `columns` of the rows that share those of row `n`, for CHANNEL: where they are stored, or in `scratch`.
    ///
    /// # Safety
    /// `scratch` has memory for two rows of the columns. The columns are those of the tensor.
    pub(crate) unsafe fn channel_scales(
        &self,
        kernels: &Kernels,
        (b, h): (usize, usize),
        n: usize,
        columns: Range<usize>,
        scratch: *mut f32,
    ) -> ChannelScales {
        let (strides, count) = (self.strides(), columns.len());
        let first = Self::index(&strides, [b, h, n / self.block_rows, columns.start]);
        let mut scales = ChannelScales {
            scale: scratch,
            zero: null(),
        };
        // SAFETY: by this function's contract.
        unsafe {
            if let (Some(stored), 1) = (self.plain_scales(first), strides[3]) {
                scales.scale = stored;
            } else {
                let out = std::slice::from_raw_parts_mut(scratch, count);
                self.load_scales(kernels, first, strides[3], out);
            }
            if self.has_zeros() {
                let out = std::slice::from_raw_parts_mut(scratch.add(count), count);
                self.load_zeros(kernels, first, strides[3], out);
                scales.zero = out.as_ptr();
            }
        }
        scales
    }

    /// The scales of `columns` of rows `n..n + count`, for all granularities but CHANNEL: where they are stored, or in `scratch`.
    ///
    /// # Safety
    /// `scratch` has memory for two floats per row and group of the columns, which begin at a group. Rows and columns are
    /// those of the tensor.
    pub(crate) unsafe fn group_scales(
        &self,
        kernels: &Kernels,
        at: (usize, usize),
        n: usize,
        count: usize,
        columns: Range<usize>,
        scratch: *mut f32,
    ) -> GroupScales {
        let groups = columns.len().div_ceil(self.group);
        let mut scales = GroupScales {
            scale: scratch,
            zero: null(),
            ld: groups,
            group: self.group.next_multiple_of(32),
        };
        // SAFETY: by this function's contract.
        unsafe {
            let out = std::slice::from_raw_parts_mut(scratch, count * groups);
            let zeros = std::slice::from_raw_parts_mut(scratch.add(out.len()), out.len());
            if let Some((scale, zero)) = self.constant() {
                (out[0], zeros[0], scales.ld) = (scale, zero, 0);
            } else if self.group >= columns.end {
                self.row_scales(kernels, at, n, out);
                if self.has_zeros() {
                    self.row_zeros(kernels, at, n, zeros);
                }
            } else {
                let strides = self.strides();
                let first_group = columns.start / self.group;
                let first = Self::index(&strides, [at.0, at.1, n, first_group]);
                let dense = strides[3] == 1 && strides[2] == groups;
                match self.plain_scales(first) {
                    Some(stored) if dense || (strides[3] == 1 && !self.has_zeros()) => {
                        (scales.scale, scales.ld) = (stored, strides[2]);
                    }
                    _ => Self::for_rows(dense, groups, strides[2], out, |row, out| {
                        self.load_scales(kernels, first + row, strides[3], out);
                    }),
                }
                if self.has_zeros() {
                    Self::for_rows(dense, groups, strides[2], zeros, |row, out| {
                        self.load_zeros(kernels, first + row, strides[3], out);
                    });
                }
            }
            if self.has_zeros() {
                scales.zero = zeros.as_ptr();
            }
        }
        scales
    }

    /// Calls `load` with the rows of `out`, of `groups` elements each, and the distance of their scales from the first one: with
    /// all of them at once, if their scales are `dense`.
    fn for_rows(
        dense: bool,
        groups: usize,
        stride: usize,
        out: &mut [f32],
        load: impl Fn(usize, &mut [f32]),
    ) {
        if dense {
            return load(0, out);
        }
        for (i, row) in out.chunks_mut(groups).enumerate() {
            load(i * stride, row);
        }
    }

    /// Calls `load` with runs of rows from row `n` on, each with the index of its first scale and the step to the next.
    fn for_blocks(
        &self,
        (b, h): (usize, usize),
        n: usize,
        out: &mut [f32],
        load: impl Fn(usize, usize, &mut [f32]),
    ) {
        let strides = self.strides();
        if self.block_rows == 1 {
            return load(Self::index(&strides, [b, h, n, 0]), strides[2], out);
        }
        let mut from = 0;
        while from < out.len() {
            let row = n + from;
            let left = self.block_rows - row % self.block_rows;
            let to = out.len().min(from.saturating_add(left));
            let first = Self::index(&strides, [b, h, row / self.block_rows, 0]);
            load(first, 0, &mut out[from..to]);
            from = to;
        }
    }

    fn strides(&self) -> [usize; 4] {
        match &self.params {
            Params::PerTensor { .. } => [0; 4],
            Params::Strided { strides, .. } => *strides,
        }
    }

    /// The scale at index `first` where it is stored, if it is an FP32.
    fn plain_scales(&self, first: usize) -> Option<*const f32> {
        match &self.params {
            Params::Strided {
                scales,
                half: false,
                ..
            } => Some(scales.ptr.cast::<f32>().cast_const().wrapping_add(first)),
            _ => None,
        }
    }

    /// Scales at `first + i * step`, which the strides of their shape reach.
    fn load_scales(&self, kernels: &Kernels, first: usize, step: usize, out: &mut [f32]) {
        let (n, to) = (out.len(), out.as_mut_ptr());
        match &self.params {
            Params::Strided { .. } if step == 0 => out.fill(self.stored(first).0),
            Params::PerTensor { scale, .. } => out.fill(*scale),
            // SAFETY: `check` proved that every index up to the last of the scales' shape is inside the buffer, and aligned.
            Params::Strided { scales, half, .. } => unsafe {
                if *half {
                    let from = scales.ptr.cast::<f16>().add(first);
                    if step == 1 {
                        return (kernels.to_f32.f16)(from.cast(), n, to);
                    }
                    for (i, x) in out.iter_mut().enumerate() {
                        *x = from.add(i * step).read().to_f32();
                    }
                } else {
                    let from = scales.ptr.cast::<f32>().add(first);
                    if step == 1 {
                        return from.copy_to_nonoverlapping(to, n);
                    }
                    for (i, x) in out.iter_mut().enumerate() {
                        *x = from.add(i * step).read();
                    }
                }
            },
        }
    }

    /// Zero points at `first + i * step`, likewise.
    fn load_zeros(&self, kernels: &Kernels, first: usize, step: usize, out: &mut [f32]) {
        match &self.params {
            Params::Strided {
                zeros: Some((zeros, bytes)),
                ..
            } if step != 0 => {
                // SAFETY: zero points have the shape and strides of the scales, checked likewise.
                unsafe {
                    if *bytes == 1 {
                        let from = zeros.ptr.cast::<i8>().add(first);
                        if step == 1 {
                            let (n, to) = (out.len(), out.as_mut_ptr());
                            return (kernels.to_f32.i8)(from.cast(), n, to);
                        }
                        for (i, x) in out.iter_mut().enumerate() {
                            *x = f32::from(from.add(i * step).read());
                        }
                    } else {
                        let from = zeros.ptr.cast::<i32>().add(first);
                        for (i, x) in out.iter_mut().enumerate() {
                            *x = from.add(i * step).read() as f32;
                        }
                    }
                }
            }
            _ => out.fill(self.stored(first).1 as f32),
        }
    }
}
