//! A backward call, as what tells it from the plainest one.

use mfa_sys as sys;
use mfa_testing::{Array, Layout, Mask, Operand, Problem, Random, Sequence, decode, encode};
use proptest::prelude::*;

/// How an operand is stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Storage {
    /// `fp32`, `fp16` or `bf16`.
    Float(&'static str),
    /// Rounded by the driver, which says what it made of the numbers.
    Quantized {
        int4: bool,
        granularity: i32,
        block: u32,
        group: u32,
        asymmetric: bool,
        rotated: bool,
        smooth: bool,
        half: bool,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) batch: usize,
    pub(crate) kv_heads: usize,
    pub(crate) group: usize,
    pub(crate) nq: usize,
    pub(crate) nk: usize,
    pub(crate) d: usize,
    pub(crate) dv: usize,
    pub(crate) lengths: Option<Vec<(usize, usize)>>,
    pub(crate) storage: [Storage; 3],
    pub(crate) grad: &'static str,
    /// Of operands, dO, O and their gradients, in turn.
    pub(crate) layouts: [Layout; 4],
    pub(crate) scale: Option<f32>,
    pub(crate) softcap: f32,
    pub(crate) causal: bool,
    pub(crate) bottom_right: bool,
    pub(crate) window: Option<(i64, i64)>,
    /// Precision, and a bit for each dimension that is full: batch, heads, rows, columns from the highest.
    pub(crate) mask: Option<(&'static str, u8)>,
    /// Slopes of each batch element, or shared.
    pub(crate) alibi: Option<bool>,
    pub(crate) sinks: bool,
    pub(crate) give_output: bool,
    pub(crate) clip: bool,
    /// dQ and D in one call, the rest in another that is given D.
    pub(crate) two_calls: bool,
    pub(crate) threads: u32,
    pub(crate) seed: u64,
}

/// The contract's code of a precision.
pub(crate) fn code(precision: &str) -> i32 {
    match precision {
        "fp32" => sys::MFA_PRECISION_FP32,
        "fp16" => sys::MFA_PRECISION_FP16,
        "bf16" => sys::MFA_PRECISION_BF16,
        _ => sys::MFA_PRECISION_BOOL,
    }
}

/// The nearest number of a float precision.
fn rounded(x: f64, precision: &str) -> f64 {
    decode(&encode(x, code(precision)), code(precision))
}

/// A call in real numbers, and dO.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) problem: Problem,
    pub(crate) grad: Array,
}

impl Case {
    /// The plainest one.
    pub(crate) fn small() -> Self {
        Case {
            batch: 1,
            kv_heads: 2,
            group: 1,
            nq: 4,
            nk: 5,
            d: 3,
            dv: 2,
            lengths: None,
            storage: [const { Storage::Float("fp32") }; 3],
            grad: "fp32",
            layouts: [Layout::Packed; 4],
            scale: None,
            softcap: 0.0,
            causal: false,
            bottom_right: false,
            window: None,
            mask: None,
            alibi: None,
            sinks: false,
            give_output: true,
            clip: false,
            two_calls: false,
            threads: 1,
            seed: 1,
        }
    }

    pub(crate) fn heads(&self) -> usize {
        self.kv_heads * self.group
    }

    /// Real numbers, before operands are stored.
    pub(crate) fn setup(&self) -> Setup {
        let mut random = Random(self.seed);
        let heads = self.heads();
        let (mut batch, mut nq, mut nk) = (self.batch, self.nq, self.nk);
        let (mut count, mut longest) = (batch, (nq, nk));
        let mut sequences = None;
        if let Some(lengths) = &self.lengths {
            (batch, nq, nk) = (1, 0, 0);
            (count, longest) = (lengths.len(), (0, 0));
            let mut all = Vec::new();
            for &(q, k) in lengths {
                all.push(Sequence {
                    batch: 0,
                    q: nq..nq + q,
                    k: nk..nk + k,
                });
                (nq, nk) = (nq + q, nk + k);
                longest = (longest.0.max(q), longest.1.max(k));
            }
            sequences = Some(all);
        }
        let float = |storage: &Storage| match storage {
            Storage::Float(precision) => *precision,
            Storage::Quantized { .. } => "fp32",
        };
        let mut tensor = |heads: usize, rows: usize, columns: usize, precision: &str| {
            let real = Array::normal([batch, heads, rows, columns], &mut random);
            real.map(|x| rounded(x, precision))
        };
        let mut operand = |heads, rows, columns, storage| {
            let precision = float(storage);
            Operand::plain(code(precision), tensor(heads, rows, columns, precision))
        };
        let [q, k, v] = &self.storage;
        let mut problem = Problem::new(
            operand(heads, nq, self.d, q),
            operand(self.kv_heads, nk, self.d, k),
            operand(self.kv_heads, nk, self.dv, v),
        );
        let grad = tensor(heads, nq, self.dv, self.grad);
        problem.scale = self
            .scale
            .map_or(f64::from(1.0 / (self.d as f32).sqrt()), f64::from);
        problem.softcap = f64::from(self.softcap);
        problem.causal = self.causal;
        problem.bottom_right = self.bottom_right;
        // -1: no limit.
        problem.window =
            (self.window).map(|(left, right)| [left, right].map(|n| n.try_into().ok()));
        problem.sequences = sequences;
        if let Some((precision, dims)) = self.mask {
            let full = [count, heads, longest.0, longest.1];
            let shape = std::array::from_fn(|axis| {
                if dims >> (3 - axis) & 1 == 1 {
                    full[axis]
                } else {
                    1
                }
            });
            let mut values = Array::normal(shape, &mut random);
            for x in &mut values.values {
                let masked = random.unit() < 0.25;
                *x = match (masked, precision) {
                    (_, "bool") => f64::from(u8::from(!masked)),
                    (true, _) => f64::NEG_INFINITY,
                    (false, _) => rounded(*x, precision),
                };
            }
            let boolean = precision == "bool";
            problem.mask = Some(Mask { values, boolean });
        }
        problem.alibi = self.alibi.map(|each| {
            let shape = [if each { count } else { 1 }, heads, 1, 1];
            Array::normal(shape, &mut random).map(|x| f64::from((0.1 * x.abs()) as f32))
        });
        problem.sinks = self
            .sinks
            .then(|| Array::normal([1, heads, 1, 1], &mut random).values);
        Setup { problem, grad }
    }
}

fn storage(columns: usize, smooth: bool) -> BoxedStrategy<Storage> {
    let float = prop::sample::select(vec!["fp32", "fp16", "bf16"]).prop_map(Storage::Float);
    let quantized = (
        any::<bool>(),
        0..4i32,
        1..40u32,
        prop::sample::select(vec![0, 32, 64]),
        any::<[bool; 4]>(),
    )
        .prop_map(
            move |(int4, granularity, block, group, flags)| Storage::Quantized {
                int4: int4 && columns.is_multiple_of(2),
                granularity,
                block: if granularity >= 2 { block } else { 0 },
                group: if granularity == 1 { group } else { 0 },
                asymmetric: flags[0],
                rotated: flags[1],
                smooth: flags[2] && smooth,
                half: flags[3] && granularity > 0,
            },
        );
    prop_oneof![2 => float, 3 => quantized].boxed()
}

fn layout() -> impl Strategy<Value = Layout> {
    use Layout::{Packed, Padded, RowsFirst, Transposed};
    prop::sample::select(vec![Packed, Packed, RowsFirst, Transposed, Padded])
}

/// Rows: few, or more than a block of either side holds.
fn rows() -> BoxedStrategy<usize> {
    prop_oneof![6 => 0..20usize, 3 => 20..90usize, 1 => 190..300usize].boxed()
}

type Shape = (
    usize,
    usize,
    usize,
    Option<Vec<(usize, usize)>>,
    usize,
    usize,
);

fn shape() -> impl Strategy<Value = Shape> {
    let columns = || {
        let dims = vec![1usize, 2, 3, 8, 15, 16, 31, 32, 33, 40, 64, 72, 96];
        prop::sample::select(dims)
    };
    let lengths = prop::collection::vec((0..40usize, 0..40usize), 1..5);
    (
        1..3usize,
        rows(),
        rows(),
        prop::option::weighted(0.2, lengths),
        columns(),
        columns(),
    )
}

/// Any case.
pub(crate) fn any_case() -> impl Strategy<Value = Case> {
    shape().prop_flat_map(|(batch, nq, nk, lengths, d, dv)| {
        let heads = (1..3usize, 1..4usize);
        let stored = (storage(d, true), storage(d, true), storage(dv, true));
        let side = -1..30i64;
        let options = (
            prop::option::of(-0.7f32..0.7),
            prop_oneof![3 => Just(0.0f32), 1 => 0.5f32..20.0],
            any::<bool>(),
            any::<bool>(),
            prop::option::weighted(0.3, (side.clone(), side)),
            prop::option::weighted(
                0.4,
                (
                    prop::sample::select(vec!["bool", "fp32", "fp16", "bf16"]),
                    0..16u8,
                ),
            ),
            prop::option::weighted(0.2, any::<bool>()),
            prop::bool::weighted(0.2),
        );
        let rest = (
            prop::sample::select(vec!["fp32", "fp16", "bf16"]),
            [layout(), layout(), layout(), layout()],
            any::<bool>(),
            prop::bool::weighted(0.2),
            1..4u32,
            any::<u64>(),
            prop::bool::weighted(0.3),
        );
        (heads, stored, options, rest).prop_map(move |(heads, stored, options, rest)| Case {
            batch,
            kv_heads: heads.0,
            group: heads.1,
            nq,
            nk,
            d,
            dv,
            lengths: lengths.clone(),
            storage: [stored.0, stored.1, stored.2],
            grad: rest.0,
            layouts: rest.1,
            scale: options.0,
            softcap: options.1,
            causal: options.2,
            bottom_right: options.3,
            window: options.4,
            mask: options.5,
            alibi: options.6,
            sinks: options.7,
            give_output: rest.2,
            clip: rest.3,
            two_calls: rest.6,
            threads: rest.4,
            seed: rest.5,
        })
    })
}
