//! Random calls.

use mfa::Precision;
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) batch: usize,
    pub(crate) heads_k: usize,
    /// Query heads that share a key head.
    pub(crate) group: usize,
    pub(crate) rows_q: usize,
    pub(crate) rows_k: usize,
    pub(crate) columns: usize,
    pub(crate) value_columns: usize,
}

impl Shape {
    pub(crate) fn heads(&self) -> usize {
        self.heads_k * self.group
    }
    pub(crate) fn query(&self) -> [usize; 4] {
        [self.batch, self.heads(), self.rows_q, self.columns]
    }
    pub(crate) fn key(&self) -> [usize; 4] {
        [self.batch, self.heads_k, self.rows_k, self.columns]
    }
    pub(crate) fn value(&self) -> [usize; 4] {
        [self.batch, self.heads_k, self.rows_k, self.value_columns]
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Grouping {
    Tensor,
    Row,
    Groups,
    Block(u32),
    Channel(u32),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Integers {
    pub(crate) four_bits: bool,
    pub(crate) grouping: Grouping,
    pub(crate) asymmetric: bool,
    pub(crate) smooth: bool,
    pub(crate) rotate: bool,
    pub(crate) half_scales: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Storage {
    Fp32,
    Fp16,
    Bf16,
    Integers(Integers),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum MaskKind {
    Bool,
    Fp32,
    Bf16,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct MaskPlan {
    pub(crate) kind: MaskKind,
    /// Dimensions that are broadcast.
    pub(crate) repeated: [bool; 4],
    /// Keys masked, of 100.
    pub(crate) masked: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) shape: Shape,
    pub(crate) operands: [Storage; 3],
    pub(crate) output: Precision,
    /// Query and key as `[batch, rows, heads, columns]`, where they are not integers.
    pub(crate) side_by_side: bool,
    pub(crate) scale: Option<f32>,
    pub(crate) softcap: f32,
    pub(crate) causal: bool,
    pub(crate) bottom_right: bool,
    pub(crate) window: Option<[Option<u32>; 2]>,
    pub(crate) mask: Option<MaskPlan>,
    pub(crate) alibi: bool,
    pub(crate) sinks: bool,
    pub(crate) fast: bool,
    pub(crate) output_given: bool,
    pub(crate) seed: u64,
}

fn rows(most: usize) -> impl Strategy<Value = usize> {
    prop_oneof![
        1 => Just(1),
        1 => prop_oneof![Just(0usize), Just(15), Just(16), Just(17)].prop_map(move |n| n.min(most)),
        4 => 1..=most,
    ]
}

fn columns() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 1usize..=40, 1 => Just(64usize), 1 => 41usize..=100]
}

fn shapes(most_q: usize, most_k: usize) -> impl Strategy<Value = Shape> {
    let heads = (1..=2usize, 1..=2usize, 1..=3usize);
    (
        heads,
        rows(most_q),
        rows(most_k),
        columns(),
        prop::option::of(columns()),
    )
        .prop_map(
            |((batch, heads_k, group), rows_q, rows_k, columns, value_columns)| Shape {
                batch,
                heads_k,
                group,
                rows_q,
                rows_k,
                columns,
                value_columns: value_columns.unwrap_or(columns),
            },
        )
}

fn integers() -> impl Strategy<Value = Integers> {
    let grouping = prop_oneof![
        2 => Just(Grouping::Tensor),
        3 => Just(Grouping::Row),
        2 => Just(Grouping::Groups),
        2 => (1u32..40).prop_map(Grouping::Block),
        2 => (1u32..40).prop_map(Grouping::Channel),
    ];
    (any::<bool>(), grouping, any::<bool>(), any::<[bool; 3]>()).prop_map(
        |(four_bits, grouping, asymmetric, [smooth, rotate, half_scales])| Integers {
            four_bits,
            grouping,
            asymmetric,
            smooth,
            rotate,
            half_scales,
        },
    )
}

fn storage() -> impl Strategy<Value = Storage> {
    prop_oneof![
        2 => Just(Storage::Fp32),
        1 => Just(Storage::Fp16),
        1 => Just(Storage::Bf16),
        4 => integers().prop_map(Storage::Integers),
    ]
}

fn masks() -> impl Strategy<Value = MaskPlan> {
    let kind = prop_oneof![
        Just(MaskKind::Bool),
        Just(MaskKind::Fp32),
        Just(MaskKind::Bf16)
    ];
    (kind, any::<[bool; 4]>(), prop_oneof![0u32..60, Just(95)]).prop_map(
        |(kind, repeated, masked)| MaskPlan {
            kind,
            repeated,
            masked,
        },
    )
}

fn options() -> impl Strategy<Value = Case> {
    let limit = || prop::option::of(0u32..20);
    let window = prop::option::weighted(
        0.25,
        (limit(), limit()).prop_map(|(left, right)| [left, right]),
    );
    let scale = prop::option::weighted(0.3, -1.0f32..1.0);
    let softcap = prop_oneof![3 => Just(0.0f32), 1 => 0.5f32..20.0];
    let flags = any::<[bool; 3]>();
    let rare = (
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.15),
    );
    let output = prop_oneof![4 => Just(Precision::Fp32), 1 => Just(Precision::Fp16), 1 => Just(Precision::Bf16)];
    let numbers = (
        scale,
        softcap,
        window,
        prop::option::weighted(0.35, masks()),
    );
    (numbers, flags, rare, output, any::<bool>(), any::<u32>()).prop_map(
        |(
            (scale, softcap, window, mask),
            [causal, bottom_right, side_by_side],
            (alibi, sinks, fast),
            output,
            output_given,
            seed,
        )| Case {
            shape: Shape {
                batch: 1,
                heads_k: 1,
                group: 1,
                rows_q: 1,
                rows_k: 1,
                columns: 1,
                value_columns: 1,
            },
            operands: [Storage::Fp32; 3],
            output,
            side_by_side,
            scale,
            softcap,
            causal,
            bottom_right,
            window,
            mask,
            alibi,
            sinks,
            fast,
            output_given,
            seed: u64::from(seed),
        },
    )
}

/// INT4 needs an even number of columns.
fn even(n: usize, storages: &[Storage]) -> usize {
    let four = storages
        .iter()
        .any(|s| matches!(s, Storage::Integers(i) if i.four_bits));
    if four { n.next_multiple_of(2) } else { n }
}

fn cases(most_q: usize, most_k: usize) -> impl Strategy<Value = Case> {
    (
        shapes(most_q, most_k),
        [storage(), storage(), storage()],
        options(),
    )
        .prop_map(|(mut shape, operands, mut case)| {
            shape.columns = even(shape.columns, &operands[..2]);
            shape.value_columns = even(shape.value_columns, &operands[2..]);
            case.shape = shape;
            case.operands = operands;
            case
        })
}

pub(crate) fn forward_cases() -> impl Strategy<Value = Case> {
    cases(24, 70)
}

pub(crate) fn backward_cases() -> impl Strategy<Value = Case> {
    cases(20, 40).prop_map(|mut case| {
        // Fast mode is a matter of P V in forward; O is given in FP32.
        case.fast = false;
        case.output = Precision::Fp32;
        case
    })
}

/// Few rows against integers, over more keys than a block of keys has.
pub(crate) fn decode_cases() -> impl Strategy<Value = Case> {
    (cases(2, 600), [integers(), integers()]).prop_map(|(mut case, integers)| {
        let [key, value] = integers.map(Storage::Integers);
        (case.operands[1], case.operands[2]) = (key, value);
        case.shape.columns = even(case.shape.columns, &case.operands[..2]);
        case.shape.value_columns = even(case.shape.value_columns, &case.operands[2..]);
        case
    })
}
