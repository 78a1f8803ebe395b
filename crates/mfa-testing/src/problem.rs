//! A call of attention in real numbers, and its scores.

use std::ops::Range;

use mfa_sys as sys;

use crate::{Arithmetic, Array, Operand};

/// A mask `[sequences, heads, rows of query, rows of key]`; a dimension of size 1 is repeated.
#[derive(Clone, Debug)]
pub struct Mask {
    /// 1 and 0 if boolean, else numbers to add.
    pub values: Array,
    /// Whether it selects keys instead of being added.
    pub boolean: bool,
}

/// Rows of query and key that attend to each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// The batch element that holds the rows.
    pub batch: usize,
    /// Rows of query.
    pub q: Range<usize>,
    /// Rows of key.
    pub k: Range<usize>,
}

/// A call in real numbers.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Q, `[batch, heads, rows, columns]`.
    pub query: Operand,
    /// K, `[batch, key heads, keys, columns]`.
    pub key: Operand,
    /// V, `[batch, key heads, keys, value columns]`.
    pub value: Operand,
    /// The precision of O.
    pub output_precision: i32,
    /// Multiplies Q Kᵀ.
    pub scale: f64,
    /// c of c·tanh(S/c); 0 for none.
    pub softcap: f64,
    /// Whether a row attends to no later key.
    pub causal: bool,
    /// Whether the diagonal ends at the last row and key of a sequence; else it begins at the first.
    pub bottom_right: bool,
    /// Keys before and after the diagonal that a row attends to.
    pub window: Option<[Option<u32>; 2]>,
    /// Whether P beside integers has 8 bits (`MFA_COMPUTE_FAST`).
    pub fast: bool,
    /// Masks or biases scores.
    pub mask: Option<Mask>,
    /// Slopes `[sequences or 1, heads, 1, 1]`.
    pub alibi: Option<Array>,
    /// A score of each head that has no value.
    pub sinks: Option<Vec<f64>>,
    /// The sequences; `None`: each batch element is one.
    pub sequences: Option<Vec<Sequence>>,
}

/// The score of a key that is not masked: S, and its derivative with respect to scale · q·k.
#[derive(Clone, Copy)]
pub(crate) struct Score {
    /// The row of the key.
    pub(crate) key: usize,
    pub(crate) s: f64,
    pub(crate) slope: f64,
}

/// The real values of the three operands in some arithmetic.
pub(crate) struct Real {
    pub(crate) q: Array,
    pub(crate) k: Array,
    pub(crate) v: Array,
}

impl Problem {
    /// Attention without options: its scale is 1 / √columns.
    pub fn new(query: Operand, key: Operand, value: Operand) -> Self {
        let columns = query.elements.shape[3].max(1);
        Problem {
            query,
            key,
            value,
            output_precision: sys::MFA_PRECISION_FP32,
            scale: 1.0 / (columns as f64).sqrt(),
            softcap: 0.0,
            causal: false,
            bottom_right: false,
            window: None,
            fast: false,
            mask: None,
            alibi: None,
            sinks: None,
            sequences: None,
        }
    }

    /// The sequences, in the order of masks and slopes.
    pub fn sequences(&self) -> Vec<Sequence> {
        let [batch, _, rows, _] = self.query.elements.shape;
        let keys = self.key.elements.shape[2];
        let whole = |batch| Sequence {
            batch,
            q: 0..rows,
            k: 0..keys,
        };
        match &self.sequences {
            Some(sequences) => sequences.clone(),
            None => (0..batch).map(whole).collect(),
        }
    }

    pub(crate) fn real(&self, a: &Arithmetic) -> Real {
        Real {
            q: self.query.real(a),
            k: self.key.real(a),
            v: self.value.real(a),
        }
    }

    /// The key head of a query head.
    pub(crate) fn key_head(&self, head: usize) -> usize {
        let [heads, key_heads] = [&self.query, &self.key].map(|x| x.elements.shape[1]);
        head / (heads / key_heads.max(1)).max(1)
    }

    /// The bias of a score of a sequence; `None` where the key is masked.
    fn bias(&self, index: usize, sequence: &Sequence, [h, i, j]: [usize; 3]) -> Option<f64> {
        let shift = if self.bottom_right {
            sequence.k.len() as i64 - sequence.q.len() as i64
        } else {
            0
        };
        let distance = j as i64 - (i as i64 + shift);
        let beyond =
            |limit: Option<u32>, steps: i64| limit.is_some_and(|limit| steps > i64::from(limit));
        let [left, right] = self.window.unwrap_or([None, None]);
        if self.causal && distance > 0 || beyond(left, -distance) || beyond(right, distance) {
            return None;
        }
        let mut bias = 0.0;
        if let Some(mask) = &self.mask {
            let value = mask.values.at([index, h, i, j]);
            if value == if mask.boolean { 0.0 } else { f64::NEG_INFINITY } {
                return None;
            }
            bias += if mask.boolean { 0.0 } else { value };
        }
        if let Some(slopes) = &self.alibi {
            bias -= slopes.at([index, h, 0, 0]) * distance.unsigned_abs() as f64;
        }
        Some(bias)
    }

    /// The scores of a sequence's row, of the keys that are not masked. `at`: head, row within the sequence.
    pub(crate) fn scores(
        &self,
        a: &Arithmetic,
        real: &Real,
        (index, sequence): (usize, &Sequence),
        [h, i]: [usize; 2],
    ) -> Vec<Score> {
        let q = real.q.row([sequence.batch, h, sequence.q.start + i]);
        let score = |j: usize| {
            let bias = self.bias(index, sequence, [h, i, j])?;
            let key = sequence.k.start + j;
            let k = real.k.row([sequence.batch, self.key_head(h), key]);
            let raw = a.r(self.scale * a.dot(q, k));
            let (capped, slope) = if self.softcap > 0.0 {
                let t = a.r((raw / self.softcap).tanh());
                (a.r(self.softcap * t), a.r(1.0 - t * t))
            } else {
                (raw, 1.0)
            };
            Some(Score {
                key,
                s: a.r(capped + bias),
                slope,
            })
        };
        (0..sequence.k.len()).filter_map(score).collect()
    }
}
