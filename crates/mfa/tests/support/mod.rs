//! Attention in f64, with biases and sinks as functions.
#![allow(dead_code)] // Each test program uses its part.

use mfa::Precision;
use mfa_testing::{Array, Mask, Operand, Problem, Random, indices};

/// Sizes of a problem.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub batch: usize,
    pub heads: usize,
    pub key_heads: usize,
    pub rows: usize,
    pub key_rows: usize,
    pub columns: usize,
    pub value_columns: usize,
}

impl Sizes {
    pub(crate) fn query(&self) -> [usize; 4] {
        [self.batch, self.heads, self.rows, self.columns]
    }

    pub(crate) fn key(&self) -> [usize; 4] {
        [self.batch, self.key_heads, self.key_rows, self.columns]
    }

    pub(crate) fn value(&self) -> [usize; 4] {
        [
            self.batch,
            self.key_heads,
            self.key_rows,
            self.value_columns,
        ]
    }

    pub(crate) fn output(&self) -> [usize; 4] {
        [self.batch, self.heads, self.rows, self.value_columns]
    }
}

/// What the formula needs beside the operands. Functions take (batch, head, row, key row).
pub(crate) struct Formula<'a> {
    pub scale: f64,
    pub softcap: f64,
    /// Added to the scores; -infinity masks.
    pub bias: &'a dyn Fn(usize, usize, usize, usize) -> f64,
    /// The sink of a head, -infinity for none.
    pub sink: &'a dyn Fn(usize) -> f64,
}

impl Formula<'_> {
    pub(crate) fn plain(columns: usize) -> Self {
        let scale = 1.0 / (columns as f64).sqrt();
        Self {
            scale,
            softcap: 0.0,
            bias: &|_, _, _, _| 0.0,
            sink: &|_| f64::NEG_INFINITY,
        }
    }

    /// O and logsumexp of contiguous operands.
    pub(crate) fn apply(
        &self,
        sizes: &Sizes,
        query: &[f32],
        key: &[f32],
        value: &[f32],
    ) -> (Vec<f64>, Vec<f64>) {
        let operand = |data: &[f32], shape| {
            let values = data.iter().map(|x| f64::from(*x)).collect();
            Operand::plain(Precision::Fp32.code(), Array::new(shape, values))
        };
        let scores = [sizes.batch, sizes.heads, sizes.rows, sizes.key_rows];
        let bias = indices(scores).map(|[b, h, i, j]| (self.bias)(b, h, i, j));
        let problem = Problem {
            scale: self.scale,
            softcap: self.softcap,
            mask: Some(Mask {
                values: Array::new(scores, bias.collect()),
                boolean: false,
            }),
            sinks: Some((0..sizes.heads).map(self.sink).collect()),
            ..Problem::new(
                operand(query, sizes.query()),
                operand(key, sizes.key()),
                operand(value, sizes.value()),
            )
        };
        let found = problem.forward();
        (found.output.values, found.logsumexp.values)
    }
}

/// Numbers in -1 ... 1 that differ everywhere.
pub(crate) fn numbers(seed: u32, length: usize) -> Vec<f32> {
    let mut random = Random(u64::from(seed));
    (0..length).map(|_| random.float()).collect()
}

/// The largest difference; infinite where one has NaN or an infinity that the other has not.
pub(crate) fn distance(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let differ = |(found, expected): (&f32, &f64)| {
        let found = f64::from(*found);
        if found == *expected {
            0.0
        } else {
            (found - expected).abs()
        }
    };
    // f64::max() would pass over a NaN.
    let worst = |a: f64, b: f64| if b.is_nan() { f64::INFINITY } else { a.max(b) };
    found.iter().zip(expected).map(differ).fold(0.0, worst)
}
