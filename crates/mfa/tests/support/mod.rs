//! Attention by its formula, in f64.
#![allow(dead_code)] // Each test program uses its part.

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
        let Sizes {
            batch,
            heads,
            key_heads,
            rows,
            key_rows,
            columns,
            value_columns,
        } = *sizes;
        let (mut output, mut logsumexp) = (Vec::new(), Vec::new());
        for b in 0..batch {
            for h in 0..heads {
                let first_key = (b * key_heads + h / (heads / key_heads)) * key_rows;
                for i in 0..rows {
                    let q = &query[((b * heads + h) * rows + i) * columns..][..columns];
                    let score = |j: usize| {
                        let k = &key[(first_key + j) * columns..][..columns];
                        let dot: f64 = q
                            .iter()
                            .zip(k)
                            .map(|(q, k)| f64::from(*q) * f64::from(*k))
                            .sum();
                        let mut s = self.scale * dot;
                        if self.softcap > 0.0 {
                            s = self.softcap * (s / self.softcap).tanh();
                        }
                        s + (self.bias)(b, h, i, j)
                    };
                    let scores: Vec<f64> = (0..key_rows).map(score).collect();
                    let sink = (self.sink)(h);
                    let largest = scores.iter().copied().fold(sink, f64::max);
                    let total = if largest == f64::NEG_INFINITY {
                        0.0
                    } else {
                        (sink - largest).exp()
                            + scores.iter().map(|s| (s - largest).exp()).sum::<f64>()
                    };
                    logsumexp.push(if total > 0.0 {
                        largest + total.ln()
                    } else {
                        f64::NEG_INFINITY
                    });
                    for c in 0..value_columns {
                        let v = |j: usize| f64::from(value[(first_key + j) * value_columns + c]);
                        let seen = scores
                            .iter()
                            .enumerate()
                            .filter(|(_, s)| **s > f64::NEG_INFINITY);
                        let sum: f64 = seen.map(|(j, s)| (s - largest).exp() * v(j)).sum();
                        output.push(if total > 0.0 { sum / total } else { 0.0 });
                    }
                }
            }
        }
        (output, logsumexp)
    }
}

/// Numbers in -1 ... 1 that differ everywhere.
pub(crate) fn numbers(seed: u32, length: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (f64::from(state) / f64::from(u32::MAX) * 2.0 - 1.0) as f32
    };
    (0..length).map(|_| next()).collect()
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
