//! Calls of attention, and their results in float64.

use std::ops::Range;

use half::f16;
use mfa_testing::{Array, Given, Mask, Operand, Random, Sequence};

use crate::call::{Results, code};

/// A call: all tensors contiguous, `[batch, heads, rows, columns]`.
#[derive(Clone)]
pub(crate) struct Problem {
    /// Batch, query heads, key/value heads.
    pub counts: [usize; 3],
    /// Rows of query and key.
    pub rows: [usize; 2],
    /// Columns of query and key, and of value.
    pub columns: [usize; 2],
    pub q: Vec<f64>,
    pub k: Vec<f64>,
    pub v: Vec<f64>,
    pub d_output: Vec<f64>,
    pub d_logsumexp: Vec<f64>,
    pub softcap: f32,
    pub causal: bool,
    pub bottom_right: bool,
    pub window: Option<(i64, i64)>,
    /// `[sequences, 1, longest query, longest key]`, added.
    pub mask: Option<Vec<f64>>,
    pub slopes: Option<Vec<f64>>,
    pub sinks: Option<Vec<f64>>,
    pub packed: Option<(Vec<usize>, Vec<usize>)>,
    pub lengths: Option<Vec<usize>>,
}

/// Numbers on -1..1.
fn uniform(random: &mut Random, count: usize) -> Vec<f64> {
    (0..count).map(|_| 2.0 * random.unit() - 1.0).collect()
}

impl Problem {
    pub(crate) fn random(
        seed: u64,
        counts: [usize; 3],
        rows: [usize; 2],
        columns: [usize; 2],
    ) -> Self {
        let mut random = Random(seed);
        let ([b, h, kv], [nq, nk], [d, dv]) = (counts, rows, columns);
        Problem {
            counts,
            rows,
            columns,
            q: uniform(&mut random, b * h * nq * d),
            k: uniform(&mut random, b * kv * nk * d),
            v: uniform(&mut random, b * kv * nk * dv),
            d_output: uniform(&mut random, b * h * nq * dv),
            d_logsumexp: uniform(&mut random, b * h * nq),
            softcap: 0.0,
            causal: false,
            bottom_right: false,
            window: None,
            mask: None,
            slopes: None,
            sinks: None,
            packed: None,
            lengths: None,
        }
    }

    pub(crate) fn sequences(&self) -> Vec<Sequence> {
        let [batch, ..] = self.counts;
        let [nq, nk] = self.rows;
        let length =
            |index: usize, stored: usize| self.lengths.as_ref().map_or(stored, |l| l[index]);
        match &self.packed {
            None => (0..batch)
                .map(|batch| Sequence {
                    batch,
                    q: 0..nq,
                    k: 0..length(batch, nk),
                })
                .collect(),
            Some((q, k)) => (0..q.len() - 1)
                .map(|i| Sequence {
                    batch: 0,
                    q: q[i]..q[i + 1],
                    k: k[i]..k[i] + length(i, k[i + 1] - k[i]),
                })
                .collect(),
        }
    }

    /// The problem of which tensors are stored in `precision`.
    pub(crate) fn reference(&self, precision: &str) -> mfa_testing::Problem {
        let ([b, h, kv], [nq, nk], [d, dv]) = (self.counts, self.rows, self.columns);
        let operand = |values: &[f64], shape| {
            Operand::plain(code(precision), Array::new(shape, values.to_vec()))
        };
        let [sequences, rows, columns] = self.mask_shape();
        let per_head = |values: &Vec<f64>| Array::new([1, h, 1, 1], values.clone());
        mfa_testing::Problem {
            softcap: f64::from(self.softcap),
            causal: self.causal,
            bottom_right: self.bottom_right,
            window: self
                .window
                .map(|(left, right)| [Some(left as u32), Some(right as u32)]),
            mask: self.mask.as_ref().map(|mask| Mask {
                values: Array::new([sequences, 1, rows, columns], mask.clone()),
                boolean: false,
            }),
            alibi: self.slopes.as_ref().map(per_head),
            sinks: self.sinks.clone(),
            sequences: Some(self.sequences()),
            ..mfa_testing::Problem::new(
                operand(&self.q, [b, h, nq, d]),
                operand(&self.k, [b, kv, nk, d]),
                operand(&self.v, [b, kv, nk, dv]),
            )
        }
    }

    /// What backward is given, with this logsumexp.
    pub(crate) fn given(&self, precision: &str, logsumexp: Array) -> Given {
        let ([b, h, _], [nq, _], dv) = (self.counts, self.rows, self.columns[1]);
        Given {
            precision: code(precision),
            grad_logsumexp: Some(Array::new([b, h, nq, 1], self.d_logsumexp.clone())),
            ..Given::new(Array::new([b, h, nq, dv], self.d_output.clone()), logsumexp)
        }
    }

    /// Sequences, longest query and longest key as stored.
    pub(crate) fn mask_shape(&self) -> [usize; 3] {
        let longest = |bounds: &[usize]| bounds.windows(2).map(|p| p[1] - p[0]).max().unwrap_or(0);
        match &self.packed {
            None => [self.counts[0], self.rows[0], self.rows[1]],
            Some((q, k)) => [q.len() - 1, longest(q), longest(k)],
        }
    }

    /// Adds a mask: numbers everywhere, of which a fifth is -infinity.
    pub(crate) fn add_mask(&mut self, seed: u64) {
        let mut random = Random(seed + 99);
        let mask_some = |x: f64| {
            if x > 0.6 {
                f64::NEG_INFINITY
            } else {
                (x * 64.0).round() / 64.0
            }
        };
        let count = self.mask_shape().iter().product();
        self.mask = Some(
            uniform(&mut random, count)
                .into_iter()
                .map(mask_some)
                .collect(),
        );
    }

    pub(crate) fn rounded(&self, precision: &str) -> Self {
        let round = |values: &Vec<f64>| match precision {
            "fp16" => values.iter().map(|x| f16::from_f64(*x).to_f64()).collect(),
            _ => values.iter().map(|x| f64::from(*x as f32)).collect(),
        };
        let single = |values: &Vec<f64>| values.iter().map(|x| f64::from(*x as f32)).collect();
        Problem {
            q: round(&self.q),
            k: round(&self.k),
            v: round(&self.v),
            d_output: round(&self.d_output),
            d_logsumexp: single(&self.d_logsumexp),
            slopes: self.slopes.as_ref().map(single),
            ..self.clone()
        }
    }

    pub(crate) fn poison_beyond_lengths(&mut self) {
        let ([_, _, kv], [_, nk], [d, dv]) = (self.counts, self.rows, self.columns);
        for (b, sequence) in self.sequences().into_iter().enumerate() {
            for h in 0..kv {
                for j in sequence.k.end..nk {
                    let row = (b * kv + h) * nk + j;
                    self.k[row * d..(row + 1) * d].fill(f64::NAN);
                    self.v[row * dv..(row + 1) * dv].fill(f64::NAN);
                }
            }
        }
    }

    /// The same with some of the keys.
    pub(crate) fn keys(&self, range: Range<usize>) -> Self {
        let ([b, _, kv], [nq, nk], [d, dv]) = (self.counts, self.rows, self.columns);
        let cut = |values: &[f64], columns: usize| {
            let heads =
                (0..b * kv).map(|head| &values[head * nk * columns..(head + 1) * nk * columns]);
            heads
                .flat_map(|head| head[range.start * columns..range.end * columns].to_vec())
                .collect()
        };
        Problem {
            rows: [nq, range.len()],
            k: cut(&self.k, d),
            v: cut(&self.v, dv),
            ..self.clone()
        }
    }

    /// Puts together what [`Problem::keys`] took apart: `[batch, heads, keys, columns of key]`.
    pub(crate) fn join_keys(&self, parts: &[Vec<f64>], cuts: &[usize]) -> Vec<f64> {
        let ([b, _, kv], d) = (self.counts, self.columns[0]);
        let mut out = Vec::new();
        for head in 0..b * kv {
            for (part, cut) in parts.iter().zip(cuts.windows(2)) {
                let len = (cut[1] - cut[0]) * d;
                out.extend_from_slice(&part[head * len..(head + 1) * len]);
            }
        }
        out
    }
}

/// O, logsumexp and all gradients, in float64.
pub(crate) fn attention(p: &Problem) -> Results {
    let reference = p.reference("fp64");
    let forward = reference.forward();
    let gradients = reference.backward(&p.given("fp64", forward.logsumexp.clone()));
    Results { forward, gradients }
}
