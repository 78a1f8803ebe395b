//! Legal calls: tensors of every precision, layout and quantization, and every option.

use std::ptr::null;

use mfa_sys as sys;

use crate::tensors::Use;
use crate::world::World;

pub(crate) const FP32: i32 = sys::MFA_PRECISION_FP32;
pub(crate) const FP16: i32 = sys::MFA_PRECISION_FP16;
pub(crate) const BF16: i32 = sys::MFA_PRECISION_BF16;
pub(crate) const INT4: i32 = sys::MFA_PRECISION_INT4;
pub(crate) const INT8: i32 = sys::MFA_PRECISION_INT8;
pub(crate) const BOOL: i32 = sys::MFA_PRECISION_BOOL;
pub(crate) const FP64: i32 = sys::MFA_PRECISION_FP64;
pub(crate) const FLOATS: [i32; 3] = [FP32, FP16, BF16];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Query,
    Key,
    Value,
    Output,
    Logsumexp,
    GradOutput,
    DValues,
    GradQuery,
    GradKey,
    GradValue,
    GradMask,
    GradSinks,
    Mask,
    Slopes,
    Sinks,
    Source,
    Destination,
    GradLogsumexp,
    /// Of a merge; there are several.
    PartOutput,
    PartLogsumexp,
    GradPartOutput,
    GradPartLogsumexp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Forward,
    Backward,
    Quantize,
    Dequantize,
    Merge,
    MergeBackward,
}

/// A tensor of a call, before its quantization has an address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub role: Role,
    pub tensor: sys::mfa_tensor,
    pub quantization: Option<sys::mfa_quantization>,
    pub written: bool,
    pub slot: usize,
}

/// A call.
#[derive(Debug)]
pub(crate) struct Subject {
    pub kind: Kind,
    pub views: Vec<View>,
    pub options: Option<sys::mfa_attention_options>,
    pub flags: u32,
    /// All floats are FP64.
    pub double: bool,
    /// Parts of a merge.
    pub count: u32,
    pub reserved: u32,
    pub struct_size: u32,
    /// What `mfa_quantize_desc.error` points to is wanted.
    pub error: bool,
    /// The pieces that the call may change.
    pub outputs: Vec<usize>,
    /// Pieces with scales, zero points and means of a quantization.
    pub parameters: Vec<usize>,
    /// Bytes of a struct that is longer than this library knows it.
    pub filling: u8,
}

pub(crate) fn bits(precision: i32) -> u64 {
    match precision {
        FP64 => 64,
        FP32 => 32,
        FP16 | BF16 => 16,
        INT4 => 4,
        _ => 8,
    }
}

pub(crate) fn packed(shape: [u64; 4]) -> [i64; 4] {
    ordered(shape, [0, 1, 2, 3], 0)
}

/// Strides of axes in an order, the last one being closest; `pad` elements after the last, if it is not much shorter itself.
pub(crate) fn ordered(mut shape: [u64; 4], order: [usize; 4], pad: u64) -> [i64; 4] {
    // No columns: strides of pairs of INT4 are even all the same.
    if shape[3] == 0 {
        shape[3] = 2;
    }
    let (mut strides, mut step) = ([0; 4], 1);
    for (at, &axis) in order.iter().enumerate().rev() {
        strides[axis] = step as i64;
        let pad = if at == 3 && shape[axis] >= 2 * pad {
            pad
        } else {
            0
        };
        step *= shape[axis].max(1) + pad;
    }
    strides
}

/// Elements from the first to the last.
pub(crate) fn extent(shape: [u64; 4], strides: [i64; 4]) -> u64 {
    if shape.contains(&0) {
        return 0;
    }
    1 + (0..4)
        .map(|i| (shape[i] - 1) * strides[i] as u64)
        .sum::<u64>()
}

impl Subject {
    fn new(kind: Kind) -> Self {
        let mut subject = Subject {
            kind,
            views: Vec::new(),
            options: None,
            flags: 0,
            double: false,
            count: 0,
            reserved: 0,
            struct_size: 0,
            error: false,
            outputs: Vec::new(),
            parameters: Vec::new(),
            filling: 0,
        };
        subject.struct_size = subject.struct_bytes() as u32;
        subject
    }

    /// The size of the call's descriptor as this library knows it.
    pub(crate) fn struct_bytes(&self) -> usize {
        match self.kind {
            Kind::Forward => size_of::<sys::mfa_forward_desc>(),
            Kind::Backward => size_of::<sys::mfa_backward_desc>(),
            Kind::Quantize | Kind::Dequantize => size_of::<sys::mfa_quantize_desc>(),
            Kind::Merge => size_of::<sys::mfa_merge_desc>(),
            Kind::MergeBackward => size_of::<sys::mfa_merge_backward_desc>(),
        }
    }

    /// The precision of what is computed.
    pub(crate) fn exact(&self) -> i32 {
        if self.double { FP64 } else { FP32 }
    }

    pub(crate) fn view(&self, role: Role) -> Option<&View> {
        self.views.iter().find(|view| view.role == role)
    }

    /// The tensor of a role, or an absent one.
    pub(crate) fn tensor(&self, role: Role) -> sys::mfa_tensor {
        self.view(role)
            .map_or(sys::mfa_tensor::ABSENT, |view| view.tensor)
    }
}

impl World {
    /// Adds a tensor that is read.
    fn reads(&mut self, subject: &mut Subject, role: Role, shape: [u64; 4], precision: i32) {
        let (tensor, slot) = self.tensor(shape, precision, Use::Read);
        let quantized = matches!(precision, INT4 | INT8);
        let quantization = quantized.then(|| self.quantization(&tensor, None).0);
        subject.views.push(View {
            role,
            tensor,
            quantization,
            written: false,
            slot,
        });
    }

    /// Adds a tensor that is written.
    fn writes(&mut self, subject: &mut Subject, role: Role, shape: [u64; 4], precision: i32) {
        let (tensor, slot) = self.tensor(shape, precision, Use::Written);
        subject.outputs.push(slot);
        subject.views.push(View {
            role,
            tensor,
            quantization: None,
            written: true,
            slot,
        });
    }

    /// How a tensor of floats of a call may be stored.
    fn float_of(&mut self, subject: &Subject) -> i32 {
        if subject.double {
            FP64
        } else {
            self.random.pick(&FLOATS)
        }
    }

    fn small(&mut self, most: u64) -> u64 {
        match self.random.below(8) {
            0 => self.random.pick(&[1, 2, 15, 16, 17]).min(most),
            _ => 1 + self.random.below(most),
        }
    }

    fn rows(&mut self) -> u64 {
        match self.random.below(20) {
            0 => 0,
            1 => 40 + self.random.below(100),
            2..8 => 1,
            _ => self.small(24),
        }
    }

    fn columns(&mut self) -> u64 {
        match self.random.below(16) {
            0 => self.random.pick(&[64, 80, 96, 128, 130, 512]),
            _ => self.small(40),
        }
    }

    fn precision(&mut self) -> i32 {
        self.random
            .pick(&[FP32, FP32, FP16, BF16, INT8, INT8, INT4, INT4])
    }

    /// A forward or backward call.
    pub(crate) fn attention(&mut self, kind: Kind) -> Subject {
        let mut subject = Subject::new(kind);
        subject.double = self.random.one_in(12);
        let exact = subject.exact();
        let precisions = if subject.double {
            [FP64; 3]
        } else {
            [self.precision(), self.precision(), self.precision()]
        };
        let even = |n: u64, pairs: bool| if pairs { n.next_multiple_of(2) } else { n };
        let mut d = even(self.columns(), precisions[..2].contains(&INT4));
        let dv = even(self.columns(), precisions[2] == INT4);
        let room = 10_000 / d.max(dv);
        let varlen = self.random.one_in(6);
        let mut batch = if varlen { 1 } else { self.small(3) };
        let mut kv_heads = self.small(3).min((room / batch).max(1));
        let mut heads = (kv_heads * self.small(3)).min((room / batch / kv_heads).max(1) * kv_heads);
        let most = (room / (batch * heads)).max(1);
        // Nothing is legal too, but for the columns of values.
        if !varlen && self.random.one_in(40) {
            batch = 0;
        }
        if self.random.one_in(40) {
            (heads, kv_heads) = (0, 0);
        }
        if self.random.one_in(40) {
            d = 0;
        }
        let (mut rows, mut keys) = (self.rows().min(most), self.rows().min(most));
        let mut ends: [Vec<i32>; 2] = [vec![0], vec![0]];
        if varlen {
            for _ in 0..self.small(4) {
                for (ends, most) in ends.iter_mut().zip([rows, keys]) {
                    let last = ends[ends.len() - 1];
                    let next = last + self.random.below(most + 1) as i32 / 2;
                    ends.push(next.min(most as i32));
                }
            }
            // Rows may follow the last sequence.
            let spare = self.random.pick(&[0, 0, 1, 3]);
            rows = ends[0][ends[0].len() - 1] as u64 + spare;
            keys = ends[1][ends[1].len() - 1] as u64;
        }
        let query = [batch, heads, rows, d];
        let (key, value) = ([batch, kv_heads, keys, d], [batch, kv_heads, keys, dv]);
        for (role, (shape, precision)) in [Role::Query, Role::Key, Role::Value]
            .into_iter()
            .zip([query, key, value].into_iter().zip(precisions))
        {
            self.reads(&mut subject, role, shape, precision);
        }
        let (output, line) = ([batch, heads, rows, dv], [batch, heads, rows, 1]);
        let additive = self.options(
            &mut subject,
            [batch, heads, rows, keys],
            varlen.then_some(&ends),
        );
        match kind {
            Kind::Forward => {
                let precision = self.float_of(&subject);
                self.writes(&mut subject, Role::Output, output, precision);
                if self.random.one_in(2) {
                    self.writes(&mut subject, Role::Logsumexp, line, exact);
                }
            }
            _ => self.gradients(&mut subject, [query, key, value, output, line], additive),
        }
        subject
    }

    fn gradients(
        &mut self,
        subject: &mut Subject,
        shapes: [[u64; 4]; 5],
        additive: Option<[u64; 4]>,
    ) {
        let exact = subject.exact();
        let [query, key, value, output, line] = shapes;
        if self.random.one_in(2) {
            let precision = self.float_of(subject);
            self.reads(subject, Role::Output, output, precision);
        }
        let precision = self.float_of(subject);
        self.reads(subject, Role::GradOutput, output, precision);
        self.reads(subject, Role::Logsumexp, line, exact);
        if self.random.one_in(4) {
            self.reads(subject, Role::GradLogsumexp, line, exact);
        }
        match self.random.below(3) {
            0 => {
                subject.flags |= sys::MFA_BACKWARD_D_GIVEN;
                self.reads(subject, Role::DValues, line, exact);
            }
            1 => self.writes(subject, Role::DValues, line, exact),
            _ => {}
        }
        if self.random.one_in(4) {
            subject.flags |= sys::MFA_BACKWARD_CLIP;
        }
        for (role, shape) in [
            (Role::GradQuery, query),
            (Role::GradKey, key),
            (Role::GradValue, value),
        ] {
            if !self.random.one_in(4) {
                self.writes(subject, role, shape, exact);
            }
        }
        if let Some(shape) = additive
            && self.random.one_in(2)
        {
            self.writes(subject, Role::GradMask, shape, exact);
        }
        if subject.view(Role::Sinks).is_some() && self.random.one_in(2) {
            self.writes(subject, Role::GradSinks, [1, query[1], 1, 1], exact);
        }
    }

    /// Options of a call; returns the shape of the mask, if it is one that can have a gradient.
    fn options(
        &mut self,
        subject: &mut Subject,
        scores: [u64; 4],
        ends: Option<&[Vec<i32>; 2]>,
    ) -> Option<[u64; 4]> {
        if ends.is_none() && self.random.one_in(4) {
            return None;
        }
        let mut options = sys::mfa_attention_options {
            flags: self.random.below(8) as u32,
            softcap: self.random.pick(&[0.0, 0.0, 0.0, 1.5, 30.0]),
            alignment: self.random.below(2) as i32,
            compute: self.random.below(2) as i32,
            ..sys::mfa_attention_options::new()
        };
        if options.flags & sys::MFA_OPTION_SCALE != 0 {
            options.softmax_scale = self.random.pick(&[0.0, 0.3, -0.2, 1.0, 1e30]);
        }
        if options.flags & sys::MFA_OPTION_WINDOW != 0 {
            options.window_left = self.random.below(20) as i64 - 1;
            options.window_right = self.random.pick(&[-1, 0, 3, i64::MAX]);
        }
        let [batch, heads, rows, keys] = scores;
        let (mut sequences, mut longest) = (batch, [rows, keys]);
        if let Some(ends) = ends {
            sequences = ends[0].len() as u64 - 1;
            options.sequence_count = sequences as u32;
            for (i, ends) in ends.iter().enumerate() {
                longest[i] = ends
                    .windows(2)
                    .map(|two| (two[1] - two[0]) as u64)
                    .max()
                    .unwrap_or(0);
                let (buffer, offset) = self.numbers(ends);
                if i == 0 {
                    (options.cu_seqlens_q, options.cu_seqlens_q_offset) = (buffer, offset);
                } else {
                    (options.cu_seqlens_k, options.cu_seqlens_k_offset) = (buffer, offset);
                }
            }
        }
        if self.random.one_in(6) {
            let lengths: Vec<i32> = (0..sequences as usize)
                .map(|at| {
                    let most = ends.map_or(keys, |ends| (ends[1][at + 1] - ends[1][at]) as u64);
                    self.random.below(most + 1) as i32
                })
                .collect();
            (options.seqlens_k, options.seqlens_k_offset) = self.numbers(&lengths);
        }
        let mut additive = None;
        if self.random.one_in(3) {
            let full = [sequences, heads, longest[0], longest[1]];
            let shape = full.map(|n| if self.random.one_in(3) { 1 } else { n });
            if shape.iter().product::<u64>() <= 10_000 {
                let precision = if self.random.one_in(2) {
                    BOOL
                } else {
                    self.float_of(subject)
                };
                self.reads(subject, Role::Mask, shape, precision);
                additive = (precision != BOOL).then_some(shape);
            }
        }
        if self.random.one_in(5) {
            let first = if self.random.one_in(2) { 1 } else { sequences };
            let precision = self.float_of(subject);
            self.reads(subject, Role::Slopes, [first, heads, 1, 1], precision);
        }
        if self.random.one_in(5) {
            let precision = self.float_of(subject);
            self.reads(subject, Role::Sinks, [1, heads, 1, 1], precision);
        }
        subject.options = Some(options);
        additive
    }

    /// A buffer with 32-bit numbers.
    fn numbers(&mut self, numbers: &[i32]) -> (*mut std::ffi::c_void, u64) {
        let (buffer, offset, slot) = self.room(4 * numbers.len() as u64, FP32);
        let first = self.arena.piece(slot).at.wrapping_add(offset as usize);
        for (at, &number) in numbers.iter().enumerate() {
            // SAFETY: a number of the piece.
            unsafe { first.cast::<i32>().add(at).write_unaligned(number) };
        }
        (buffer, offset)
    }

    /// A merge, or its gradient.
    pub(crate) fn merge(&mut self, kind: Kind) -> Subject {
        let mut subject = Subject::new(kind);
        let parts = self.small(4);
        subject.count = parts as u32;
        subject.double = self.random.one_in(12);
        let exact = subject.exact();
        let (batch, heads, columns) = (self.small(3), self.small(3), self.columns());
        let rows = self.rows().min(3_000 / (batch * heads * columns));
        let (output, line) = ([batch, heads, rows, columns], [batch, heads, rows, 1]);
        for _ in 0..parts {
            let precision = self.float_of(&subject);
            self.reads(&mut subject, Role::PartOutput, output, precision);
            self.reads(&mut subject, Role::PartLogsumexp, line, exact);
        }
        if kind == Kind::Merge {
            let precision = self.float_of(&subject);
            self.writes(&mut subject, Role::Output, output, precision);
            if self.random.one_in(2) {
                self.writes(&mut subject, Role::Logsumexp, line, exact);
            }
            return subject;
        }
        let precision = self.float_of(&subject);
        self.reads(&mut subject, Role::GradOutput, output, precision);
        if self.random.one_in(2) {
            self.reads(&mut subject, Role::GradLogsumexp, line, exact);
        }
        for (role, shape) in [
            (Role::GradPartOutput, output),
            (Role::GradPartLogsumexp, line),
        ] {
            for _ in 0..self.random.pick(&[0, parts]) {
                self.writes(&mut subject, role, shape, exact);
            }
        }
        subject
    }

    /// A quantization call, or the way back.
    pub(crate) fn rounding(&mut self, kind: Kind) -> Subject {
        let mut subject = Subject::new(kind);
        let precision = self.random.pick(&[INT8, INT4]);
        let columns = self.columns();
        let columns = if precision == INT4 {
            columns.next_multiple_of(2)
        } else {
            columns
        };
        let columns = if self.random.one_in(20) { 0 } else { columns };
        let (batch, heads) = (self.small(3), self.small(3));
        let rows = self.rows().min(10_000 / (batch * heads * columns.max(1)));
        let shape = [batch, heads, rows, columns];
        let float = self.random.pick(&FLOATS);
        if kind == Kind::Dequantize {
            self.reads(&mut subject, Role::Source, shape, precision);
            self.writes(&mut subject, Role::Destination, shape, float);
            return subject;
        }
        let (source, slot) = self.tensor(shape, float, Use::Read);
        self.finite(slot, float);
        subject.views.push(View {
            role: Role::Source,
            tensor: source,
            quantization: None,
            written: false,
            slot,
        });
        subject.flags = self.random.below(16) as u32;
        if subject.flags & sys::MFA_QUANTIZE_SMOOTH == 0 {
            subject.flags &= !sys::MFA_QUANTIZE_MEAN_GIVEN;
        }
        let (destination, slot) = self.tensor(shape, precision, Use::Written);
        let (quantization, written, parameters) =
            self.quantization(&destination, Some(subject.flags));
        subject.outputs.push(slot);
        subject.outputs.extend(written);
        subject.parameters = parameters;
        subject.views.push(View {
            role: Role::Destination,
            tensor: destination,
            quantization: Some(quantization),
            written: true,
            slot,
        });
        subject.error = self.random.one_in(2);
        subject
    }
}

/// Nothing is where a quantization is to be.
pub(crate) const NO_QUANTIZATION: *const sys::mfa_quantization = null();
