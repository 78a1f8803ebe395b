//! The steps of rounding a head: ranges, scales and integers.
//!
//! Rows are taken in chunks that stay in the cache, so that a kernel works on many groups at once where rows follow one another.

use std::ops::Range;
use std::ptr::null;

use super::Quantize;
use super::source::{SourceHead, SourceRows, pieces};
use super::statistics::ErrorSum;
use super::workspace::{self, GroupBuffers, RowBuffers};
use crate::contract::quant_scheme::{Granularity, Quant};
use mfa_kernels::quantized::{ChannelScales, GroupScales};
use mfa_kernels::{Precision, RowScales};

impl GroupBuffers<'_> {
    /// Reads the scales and zero points of row `n`, `groups` of them, to index `at`.
    pub(super) fn load(
        &mut self,
        quant: &Quant,
        head: &SourceHead<'_>,
        n: usize,
        groups: usize,
        at: usize,
    ) {
        let groups = at..at + groups;
        let (scales, zeros) = (&mut self.scales[groups.clone()], &mut self.zeros[groups]);
        quant.load_groups(head.kernels, head.at, n, scales, zeros);
    }

    /// The scales from index `at` on, as kernels take them: one for each `group` columns.
    pub(super) fn row_scales(&self, group: usize, at: usize) -> RowScales {
        RowScales {
            group,
            scale: self.scales[at..].as_ptr(),
            zero: self.zeros[at..].as_ptr(),
        }
    }
}

/// A head that is rounded.
pub(super) struct HeadRounding<'a> {
    pub call: &'a Quantize,
    pub head: SourceHead<'a>,
    /// Whether scales and zero points are computed for each block of rows, from its values.
    pub writes_parameters: bool,
    pub wants_error: bool,
}

/// Rows that are rounded at once.
#[derive(Clone, Copy)]
struct Chunk {
    first: usize,
    count: usize,
    x: SourceRows,
    /// Whether all rows have the same scales.
    shared: bool,
}

impl HeadRounding<'_> {
    /// Rounds `rows`, of which the first begins a block of `block` rows that share scales.
    pub(super) fn rows(
        &self,
        rows: Range<usize>,
        block: usize,
        buffers: &mut RowBuffers<'_>,
    ) -> ErrorSum {
        let mut error = ErrorSum::default();
        if self.call.is_tensor_wise() {
            buffers.groups.load(&self.call.quant, &self.head, 0, 1, 0);
        }
        if block == 1 {
            for chunk in pieces(rows, workspace::rows_of_chunk(self.columns())) {
                let chunk = self.chunk(chunk, false, buffers);
                if self.writes_parameters {
                    self.find_ranges_of_rows(&chunk, &mut buffers.groups);
                    self.write_parameters(chunk.first, chunk.count, &mut buffers.groups);
                } else {
                    for i in 0..chunk.count {
                        let (n, groups) = (chunk.first + i, self.groups());
                        let at = i * groups;
                        (buffers.groups).load(&self.call.quant, &self.head, n, groups, at);
                    }
                }
                self.round(&chunk, buffers, &mut error);
            }
            return error;
        }
        let most = workspace::rows_of_block(self.columns());
        for block in pieces(rows, block) {
            let (first, count) = (block.start, block.len());
            let mut whole = None;
            if self.writes_parameters {
                let groups = self.groups();
                buffers.groups.min[..groups].fill(0.0);
                buffers.groups.max[..groups].fill(0.0);
                for chunk in pieces(block.clone(), most) {
                    let chunk = self.chunk(chunk, true, buffers);
                    self.extend_ranges(&chunk, &mut buffers.groups);
                    whole = (chunk.count == count).then_some(chunk);
                }
                self.write_parameters(first, 1, &mut buffers.groups);
            } else if !self.call.is_tensor_wise() {
                let groups = self.groups();
                (buffers.groups).load(&self.call.quant, &self.head, first, groups, 0);
            }
            match whole {
                Some(chunk) => self.round(&chunk, buffers, &mut error),
                None => {
                    for chunk in pieces(block, most) {
                        let chunk = self.chunk(chunk, true, buffers);
                        self.round(&chunk, buffers, &mut error);
                    }
                }
            }
        }
        error
    }

    fn columns(&self) -> usize {
        self.call.source.shape[3]
    }

    /// Scales of a row.
    fn groups(&self) -> usize {
        self.call.quant.groups(self.columns())
    }

    /// Whether the groups of rows that follow one another do so, too.
    fn groups_follow(&self) -> bool {
        self.columns().is_multiple_of(self.call.quant.group)
    }

    fn chunk(&self, rows: Range<usize>, shared: bool, buffers: &mut RowBuffers<'_>) -> Chunk {
        Chunk {
            first: rows.start,
            count: rows.len(),
            x: self.head.rows(rows, buffers.row),
            shared,
        }
    }

    /// Finds the ranges of the groups of each row.
    fn find_ranges_of_rows(&self, chunk: &Chunk, buffers: &mut GroupBuffers<'_>) {
        let (x, n, groups) = (chunk.x, self.columns(), self.groups());
        let (min, max) = (
            &mut buffers.min[..chunk.count * groups],
            &mut buffers.max[..chunk.count * groups],
        );
        min.fill(0.0);
        max.fill(0.0);
        let (min, max) = (min.as_mut_ptr(), max.as_mut_ptr());
        let (extremes, group) = (self.head.kernels.quantize.extremes, self.call.quant.group);
        // SAFETY: rows of `n` elements, and a range for each of their groups.
        unsafe {
            if x.ld == n && self.groups_follow() {
                extremes(x.first, chunk.count * n, group, min, max);
            } else {
                for i in 0..chunk.count {
                    let (min, max) = (min.add(i * groups), max.add(i * groups));
                    extremes(x.first.add(i * x.ld), n, group, min, max);
                }
            }
        }
    }

    /// Extends the ranges of groups that rows share.
    fn extend_ranges(&self, chunk: &Chunk, buffers: &mut GroupBuffers<'_>) {
        let (x, n, kernels) = (chunk.x, self.columns(), &self.head.kernels.quantize);
        let (min, max) = (buffers.min.as_mut_ptr(), buffers.max.as_mut_ptr());
        // SAFETY: rows of `n` elements, and a range for each of their groups: one, or one for each column.
        unsafe {
            if self.call.quant.granularity == Granularity::Channel {
                (kernels.column_extremes)(x.first, x.ld, chunk.count, n, min, max);
            } else if x.ld == n {
                (kernels.extremes)(x.first, chunk.count * n, chunk.count * n, min, max);
            } else {
                for i in 0..chunk.count {
                    (kernels.extremes)(x.first.add(i * x.ld), n, n, min, max);
                }
            }
        }
    }

    /// Computes the scales and zero points of `rows` rows from row `n` on, or of the block that begins there, and writes them.
    fn write_parameters(&self, n: usize, rows: usize, buffers: &mut GroupBuffers<'_>) {
        let (quant, groups) = (&self.call.quant, self.groups());
        let count = rows * groups;
        let (scales, zeros) = (&mut buffers.scales[..count], &mut buffers.zeros[..count]);
        let (min, max) = (&buffers.min[..count], &buffers.max[..count]);
        // SAFETY: `count` numbers each.
        unsafe {
            (self.head.kernels.quantize.parameters)(
                min.as_ptr(),
                max.as_ptr(),
                count,
                &self.call.rule(),
                scales.as_mut_ptr(),
                zeros.as_mut_ptr(),
            );
        }
        let (scales, zeros) = (scales.chunks(groups), zeros.chunks(groups));
        for (i, (scales, zeros)) in scales.zip(zeros).enumerate() {
            quant.store_groups(self.head.at, n + i, scales, zeros);
        }
    }

    /// Rounds the rows of a chunk with the scales of the buffers.
    fn round(&self, chunk: &Chunk, buffers: &mut RowBuffers<'_>, error: &mut ErrorSum) {
        let Chunk { first, count, .. } = *chunk;
        let (call, kernels, x) = (self.call, &self.head.kernels.quantize, chunk.x);
        let (destination, n, (b, h)) = (&call.destination, self.columns(), self.head.at);
        let (low, high) = call.ends();
        let at = destination.at(b, h, first, 0);
        let (codes, ld) = match destination.is_plain_i8() {
            true => (at.cast::<i8>(), destination.strides[2]),
            false => (buffers.codes.as_mut_ptr(), n),
        };
        let group = call.quant.group;
        let scales_of = |i: usize| match chunk.shared {
            true => (buffers.groups).row_scales(group, 0),
            false => (buffers.groups).row_scales(group, i * self.groups()),
        };
        let follow = if chunk.shared {
            self.groups() == 1
        } else {
            self.groups_follow()
        };
        // SAFETY: rows of the source, and of the destination or the buffer, of `n` elements; rows of the destination do not
        // overlap, and one worker writes each. The buffers hold the scales of all groups.
        unsafe {
            if x.ld == n && ld == n && follow {
                let group = if chunk.shared { count * n } else { group };
                let scales = (buffers.groups).row_scales(group, 0);
                (kernels.round)(x.first, count * n, &scales, low, high, codes);
            } else {
                for i in 0..count {
                    let (x, codes) = (x.first.add(i * x.ld), codes.add(i * ld));
                    (kernels.round)(x, n, &scales_of(i), low, high, codes);
                }
            }
            if destination.precision == Precision::I4 && destination.strides[2] == n {
                (kernels.pack_i4)(codes, count * n, at);
            } else if destination.precision == Precision::I4 {
                for i in 0..count {
                    let row = destination.at(b, h, first + i, 0);
                    (kernels.pack_i4)(codes.add(i * n), n, row);
                }
            } else if !destination.is_plain_i8() {
                for i in 0..count {
                    let row = destination.at(b, h, first + i, 0).cast::<i8>();
                    for c in 0..n {
                        row.add(c * destination.strides[3])
                            .write(*codes.add(i * n + c));
                    }
                }
            }
        }
        if !self.wants_error {
            return;
        }
        let dequantized = buffers.dequantized.as_mut_ptr();
        for i in 0..count {
            // SAFETY: as above; rows of as many columns. A row of the chunk that was computed is not needed any more.
            let row_error = unsafe {
                let codes = codes.add(i * ld).cast_const();
                self.dequantize(codes, &scales_of(i), dequantized);
                if call.quant.rotated {
                    (kernels.rotate)(dequantized, n, dequantized);
                }
                if let Some(mean) = self.head.mean {
                    (kernels.add_row)(dequantized, mean.as_ptr(), 1.0, n, dequantized);
                }
                let source = match self.head.is_as_stored() {
                    true => x.first.add(i * x.ld),
                    false => (self.head.as_stored())
                        .row(first + i, &mut buffers.row[..n])
                        .as_ptr(),
                };
                (kernels.measure)(dequantized, source, n)
            };
            error.add_row(&row_error, n);
        }
    }
    /// Dequantizes a row of integers.
    ///
    /// # Safety
    /// Rows of as many columns as the source has, with the scales of its groups.
    unsafe fn dequantize(&self, codes: *const i8, scales: &RowScales, out: *mut f32) {
        let (n, codes, mean) = (self.columns(), codes.cast::<u8>(), null());
        let (kernels, RowScales { group, scale, zero }) = (&self.head.kernels.quantized, *scales);
        // SAFETY: by this function's contract.
        unsafe {
            if self.call.quant.granularity == Granularity::Channel {
                let scales = ChannelScales { scale, zero };
                (kernels.dequantize_channels.i8)(codes, n, 1, n, scales, mean, out, n);
            } else {
                let group = group.next_multiple_of(32);
                let scales = GroupScales {
                    scale,
                    zero,
                    ld: 0,
                    group,
                };
                (kernels.dequantize_groups.i8)(codes, n, 1, n, scales, mean, out, n);
            }
        }
    }
}
