//! A backward call, as what tells it from the plainest one.

use proptest::prelude::*;

use crate::reference::{Real, Sequence, Setup};

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

/// Where the elements of a tensor lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Layout {
    Packed,
    /// The heads of a row side by side.
    RowsFirst,
    /// Each head's matrix as `[columns, rows]`.
    Transposed,
    /// Gaps after rows and heads.
    Padded,
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

/// Random numbers (SplitMix64).
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform on 0..1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// About normal, rounded to FP32.
    pub(crate) fn normal(&mut self) -> f64 {
        let sum: f64 = (0..12).map(|_| self.unit()).sum();
        f64::from((sum - 6.0) as f32)
    }

    fn real(&mut self, shape: [usize; 4]) -> Real {
        let mut real = Real::zeros(shape);
        real.values.iter_mut().for_each(|x| *x = self.normal());
        real
    }
}

/// The nearest number of a float precision.
pub(crate) fn rounded(x: f64, precision: &str) -> f64 {
    match precision {
        "fp16" => half::f16::from_f64(x).to_f64(),
        "bf16" => half::bf16::from_f64(x).to_f64(),
        _ => f64::from(x as f32),
    }
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
        let mut sequences: Vec<_> = (0..batch)
            .map(|batch| Sequence {
                batch,
                q0: 0,
                nq,
                k0: 0,
                nk,
            })
            .collect();
        let mut longest = (nq, nk);
        if let Some(lengths) = &self.lengths {
            (batch, nq, nk) = (1, 0, 0);
            longest = (0, 0);
            sequences.clear();
            for &(q, k) in lengths {
                sequences.push(Sequence {
                    batch: 0,
                    q0: nq,
                    nq: q,
                    k0: nk,
                    nk: k,
                });
                (nq, nk) = (nq + q, nk + k);
                longest = (longest.0.max(q), longest.1.max(k));
            }
        }
        let count = sequences.len();
        let float = |storage: &Storage| match storage {
            Storage::Float(precision) => *precision,
            Storage::Quantized { .. } => "fp32",
        };
        let mut tensor = |heads: usize, rows: usize, columns: usize, precision: &str| {
            let mut real = random.real([batch, heads, rows, columns]);
            real.values
                .iter_mut()
                .for_each(|x| *x = rounded(*x, precision));
            real
        };
        let [q, k, v] = &self.storage;
        let mut setup = Setup {
            q: tensor(heads, nq, self.d, float(q)),
            k: tensor(self.kv_heads, nk, self.d, float(k)),
            v: tensor(self.kv_heads, nk, self.dv, float(v)),
            grad: tensor(heads, nq, self.dv, self.grad),
            stored: [float(q), float(k), self.grad],
            sequences,
            scale: self
                .scale
                .map_or(f64::from(1.0 / (self.d as f32).sqrt()), f64::from),
            softcap: f64::from(self.softcap),
            causal: self.causal,
            bottom_right: self.bottom_right,
            window: self.window,
            ..Setup::default()
        };
        if let Some((precision, dims)) = self.mask {
            let full = [count, heads, longest.0, longest.1];
            let shape = std::array::from_fn(|axis| {
                if dims >> (3 - axis) & 1 == 1 {
                    full[axis]
                } else {
                    1
                }
            });
            let mut mask = random.real(shape);
            for x in &mut mask.values {
                let hidden = random.unit() < 0.25;
                *x = match (hidden, precision) {
                    (true, _) => f64::NEG_INFINITY,
                    (false, "bool") => 0.0,
                    (false, _) => rounded(*x, precision),
                };
            }
            setup.mask = Some(mask);
        }
        setup.alibi = self.alibi.map(|each| {
            let mut slopes = random.real([if each { count } else { 1 }, heads, 1, 1]);
            let positive = |x: &mut f64| *x = f64::from((0.1 * x.abs()) as f32);
            slopes.values.iter_mut().for_each(positive);
            slopes
        });
        setup.sinks = self.sinks.then(|| random.real([1, heads, 1, 1]));
        setup
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
