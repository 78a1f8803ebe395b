//! Attention and its gradients as plain formulas, head by head.

use mfa::Precision;

use crate::arithmetic::{Arithmetic, mix};

/// `[batch, heads, rows, columns]`, without gaps.
#[derive(Clone, Debug)]
pub(crate) struct Array {
    pub(crate) shape: [usize; 4],
    pub(crate) values: Vec<f64>,
}

impl Array {
    pub(crate) fn zeros(shape: [usize; 4]) -> Self {
        Self {
            shape,
            values: vec![0.0; shape.iter().product()],
        }
    }

    /// Bell-shaped numbers of mean 0 and variance 1: the sum of four uniform ones, centred.
    pub(crate) fn normal(shape: [usize; 4], seed: u64) -> Self {
        let mut array = Self::zeros(shape);
        for (i, x) in array.values.iter_mut().enumerate() {
            let word = mix((seed << 24) + i as u64 + 1);
            let sum: u64 = (0..4).map(|field| (word >> (16 * field)) & 0xFFFF).sum();
            *x = ((sum as f64 + 2.0) / 65536.0 - 2.0) * 3f64.sqrt();
        }
        array
    }

    pub(crate) fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self {
            shape: self.shape,
            values: self.values.iter().map(|x| f(*x)).collect(),
        }
    }

    /// Where an element lies; a dimension of size 1 is repeated.
    pub(crate) fn index(&self, at: [usize; 4]) -> usize {
        let at = |axis: usize| if self.shape[axis] == 1 { 0 } else { at[axis] };
        ((at(0) * self.shape[1] + at(1)) * self.shape[2] + at(2)) * self.shape[3] + at(3)
    }

    pub(crate) fn at(&self, at: [usize; 4]) -> f64 {
        self.values[self.index(at)]
    }

    /// The row of a head.
    fn row(&self, [b, h, i]: [usize; 3]) -> &[f64] {
        let first = self.index([b, h, i, 0]);
        &self.values[first..first + self.shape[3]]
    }

    /// The rows of a head, one after the other.
    fn head(&self, [b, h]: [usize; 2]) -> &[f64] {
        let size = self.shape[2] * self.shape[3];
        let first = (b * self.shape[1] + h) * size;
        &self.values[first..first + size]
    }
}

/// An operand of attention in real numbers.
#[derive(Clone)]
pub(crate) struct Operand {
    pub(crate) precision: Precision,
    /// Of integers: scale and integer less zero point of each element still apart.
    pub(crate) scales: Option<Array>,
    pub(crate) elements: Array,
    pub(crate) rotated: bool,
    /// `[batch, heads, 1, columns]`
    pub(crate) mean: Option<Array>,
    /// `[batch, heads, rows, 1]`, where each row of integers has one scale of its own or its block's.
    pub(crate) row_scales: Option<Array>,
}

impl Operand {
    /// Numbers that are stored as they are.
    pub(crate) fn plain(precision: Precision, elements: Array) -> Self {
        Self {
            precision,
            scales: None,
            elements,
            rotated: false,
            mean: None,
            row_scales: None,
        }
    }

    /// The real values: scale · (n - zero point), rotated back, plus the mean.
    ///
    /// Disturbed arithmetic takes the mean along through the rotation, as a driver may that works in the rotated basis.
    fn real(&self, a: &Arithmetic) -> Array {
        let mut real = self.elements.clone();
        if let Some(scales) = &self.scales {
            let scaled = real.values.iter_mut().zip(&scales.values);
            scaled.for_each(|(x, scale)| *x = a.r(*x * scale));
        }
        let rotate = |array: &mut Array| {
            let columns = array.shape[3];
            array
                .values
                .chunks_mut(columns)
                .for_each(|row| hadamard(a, row));
        };
        let add = |real: &mut Array, mean: &Array| {
            for at in indices(real.shape) {
                let i = real.index(at);
                real.values[i] = a.r(real.values[i] + mean.at(at));
            }
        };
        match &self.mean {
            Some(mean) if self.rotated && matches!(a, Arithmetic::Disturbed(_)) => {
                let mut mean = mean.clone();
                rotate(&mut mean);
                add(&mut real, &mean);
                rotate(&mut real);
            }
            mean => {
                if self.rotated {
                    rotate(&mut real);
                }
                if let Some(mean) = mean {
                    add(&mut real, mean);
                }
            }
        }
        real
    }
}

/// A row times Sylvester matrices of the largest power of two that divides its length, orthonormal.
fn hadamard(a: &Arithmetic, row: &mut [f64]) {
    let size = row.len() & row.len().wrapping_neg();
    for block in row.chunks_mut(size) {
        let mut half = 1;
        while half < size {
            for pair in block.chunks_mut(2 * half) {
                let (first, second) = pair.split_at_mut(half);
                for (x, y) in first.iter_mut().zip(second) {
                    (*x, *y) = (a.r(*x + *y), a.r(*x - *y));
                }
            }
            half *= 2;
        }
        block
            .iter_mut()
            .for_each(|x| *x = a.r(*x / (size as f64).sqrt()));
    }
}

pub(crate) struct Mask {
    /// 1 and 0 if boolean, else added.
    pub(crate) values: Array,
    pub(crate) boolean: bool,
}

/// A call in real numbers.
pub(crate) struct Problem {
    pub(crate) query: Operand,
    pub(crate) key: Operand,
    pub(crate) value: Operand,
    pub(crate) output_precision: Precision,
    pub(crate) scale: f64,
    pub(crate) softcap: f64,
    pub(crate) causal: bool,
    pub(crate) shift: i64,
    pub(crate) window: Option<[Option<u32>; 2]>,
    pub(crate) fast: bool,
    pub(crate) mask: Option<Mask>,
    pub(crate) alibi: Option<Vec<f64>>,
    pub(crate) sinks: Option<Vec<f64>>,
}

pub(crate) struct Forward {
    pub(crate) output: Array,
    pub(crate) logsumexp: Array,
}

/// What backward is given beside the operands.
pub(crate) struct Given {
    pub(crate) grad_output: Array,
    pub(crate) logsumexp: Array,
    pub(crate) output: Option<Array>,
}

pub(crate) struct Gradients {
    pub(crate) query: Array,
    pub(crate) key: Array,
    pub(crate) value: Array,
    pub(crate) d_values: Array,
    pub(crate) mask: Option<Array>,
    pub(crate) sinks: Option<Array>,
}

impl Gradients {
    /// In the order in which they are checked.
    pub(crate) fn all(&self) -> [Option<&Array>; 6] {
        let [query, key, value, d] =
            [&self.query, &self.key, &self.value, &self.d_values].map(Some);
        [
            query,
            key,
            value,
            d,
            self.mask.as_ref(),
            self.sinks.as_ref(),
        ]
    }
}

/// One score: S, and its derivative with respect to scale · q·k.
#[derive(Clone, Copy)]
struct Score {
    s: f64,
    slope: f64,
}

/// The real values of the three operands in some arithmetic.
struct Real {
    q: Array,
    k: Array,
    v: Array,
}

impl Problem {
    fn real(&self, a: &Arithmetic) -> Real {
        Real {
            q: self.query.real(a),
            k: self.key.real(a),
            v: self.value.real(a),
        }
    }

    fn group(&self) -> usize {
        self.query.elements.shape[1] / self.key.elements.shape[1]
    }

    /// The bias of a score; `None` where the key is masked out.
    fn bias(&self, [b, h, i, j]: [usize; 4]) -> Option<f64> {
        let distance = j as i64 - (i as i64 + self.shift);
        let beyond =
            |limit: Option<u32>, steps: i64| limit.is_some_and(|limit| steps > i64::from(limit));
        let [left, right] = self.window.unwrap_or([None, None]);
        if self.causal && distance > 0 || beyond(left, -distance) || beyond(right, distance) {
            return None;
        }
        let mut bias = 0.0;
        if let Some(mask) = &self.mask {
            let value = mask.values.at([b, h, i, j]);
            if value == if mask.boolean { 0.0 } else { f64::NEG_INFINITY } {
                return None;
            }
            bias += if mask.boolean { 0.0 } else { value };
        }
        if let Some(slopes) = &self.alibi {
            bias -= slopes[h] * distance.unsigned_abs() as f64;
        }
        Some(bias)
    }

    /// The scores of a row; `None` where a key is masked out.
    fn row(&self, a: &Arithmetic, real: &Real, [b, h, i]: [usize; 3]) -> Vec<Option<Score>> {
        let (q, head) = (real.q.row([b, h, i]), h / self.group());
        let score = |j: usize| {
            let bias = self.bias([b, h, i, j])?;
            let dot = a.dot(q, real.k.row([b, head, j]));
            let raw = a.r(self.scale * dot);
            let (capped, slope) = if self.softcap > 0.0 {
                let t = a.r((raw / self.softcap).tanh());
                (a.r(self.softcap * t), a.r(1.0 - t * t))
            } else {
                (raw, 1.0)
            };
            Some(Score {
                s: a.r(capped + bias),
                slope,
            })
        };
        (0..real.k.shape[2]).map(score).collect()
    }

    /// e^x, for P: in fast mode with 17 bits, some 500 times finer than the steps of P.
    fn exp(&self, a: &Arithmetic, x: f64) -> f64 {
        if self.fast && self.value.precision.is_quantized() {
            a.to_bits(x.exp(), 16, -149)
        } else {
            a.exp(x)
        }
    }

    /// exp(S - max) as it enters the product with V: carrying the scale of V's row, in steps of the largest, beside integers.
    fn weights(&self, a: &Arithmetic, p: &[f64], b: usize, head: usize) -> Vec<f64> {
        let precision = self.value.precision;
        if a.is_exact() || !precision.is_quantized() {
            return p.iter().map(|p| a.beside(*p, precision)).collect();
        }
        let scale = |j: usize| {
            self.value
                .row_scales
                .as_ref()
                .map_or(1.0, |scales| scales.at([b, head, j, 0]))
        };
        let largest = p
            .iter()
            .enumerate()
            .fold(0.0, |most: f64, (j, p)| most.max((p * scale(j)).abs()));
        let step = a.r(largest / if self.fast { 255.0 } else { 32767.0 });
        let weight = |(j, p): (usize, &f64)| {
            if step > 0.0 {
                a.r(a.r(a.to_step(p * scale(j) / step, 1.0) * step) / scale(j))
            } else {
                *p
            }
        };
        p.iter().enumerate().map(weight).collect()
    }

    pub(crate) fn forward(&self) -> Forward {
        self.forward_in(&Arithmetic::Float64)
    }

    pub(crate) fn forward_in(&self, a: &Arithmetic) -> Forward {
        let real = self.real(a);
        let [batch, heads, rows, _] = real.q.shape;
        let [_, _, rows_k, columns] = real.v.shape;
        let mut result = Forward {
            output: Array::zeros([batch, heads, rows, columns]),
            logsumexp: Array::zeros([batch, heads, rows, 1]),
        };
        for [b, h, i] in indices([batch, heads, rows]) {
            let head = h / self.group();
            let scores = self.row(a, &real, [b, h, i]);
            let highest = scores
                .iter()
                .flatten()
                .fold(f64::NEG_INFINITY, |most, score| most.max(score.s));
            let highest = if highest == f64::NEG_INFINITY {
                0.0
            } else {
                highest
            };
            let p: Vec<f64> = scores
                .iter()
                .map(|score| score.map_or(0.0, |score| self.exp(a, a.r(score.s - highest))))
                .collect();
            let mut z = a.sum(rows_k, |j| p[j]);
            if let Some(sinks) = &self.sinks {
                z = a.r(z + a.exp(sinks[h] - highest));
            }
            let at = result.logsumexp.index([b, h, i, 0]);
            result.logsumexp.values[at] = a.r(highest + a.r(z.ln()));
            if scores.iter().flatten().next().is_none() {
                continue;
            }
            let (weights, v) = (self.weights(a, &p, b, head), real.v.head([b, head]));
            for c in 0..columns {
                let sum = a.sum(rows_k, |j| weights[j] * v[j * columns + c]);
                let at = result.output.index([b, h, i, c]);
                let value = a.r(sum / z);
                result.output.values[at] = if a.is_exact() {
                    value
                } else {
                    a.to_precision(value, self.output_precision)
                };
            }
        }
        result
    }

    pub(crate) fn backward(&self, given: &Given) -> Gradients {
        self.backward_in(given, &Arithmetic::Float64)
    }

    pub(crate) fn backward_in(&self, given: &Given, a: &Arithmetic) -> Gradients {
        let real = self.real(a);
        let [batch, heads, rows, columns] = real.q.shape;
        let [_, _, rows_k, value_columns] = real.v.shape;
        let added = self.mask.as_ref().filter(|mask| !mask.boolean);
        let mut result = Gradients {
            query: Array::zeros(real.q.shape),
            key: Array::zeros(real.k.shape),
            value: Array::zeros(real.v.shape),
            d_values: Array::zeros([batch, heads, rows, 1]),
            mask: added.map(|mask| Array::zeros(mask.values.shape)),
            sinks: self
                .sinks
                .as_ref()
                .map(|sinks| Array::zeros([1, sinks.len(), 1, 1])),
        };
        let add = |array: &mut Array, at: [usize; 4], x: f64| {
            let at = array.index(at);
            array.values[at] = a.r(array.values[at] + a.r(x));
        };
        for [b, h] in indices([batch, heads]) {
            let head = h / self.group();
            let [q, grad] = [&real.q, &given.grad_output].map(|array| array.head([b, h]));
            let k = real.k.head([b, head]);
            // P and dX of the head, [rows][keys].
            let (mut p, mut dx) = (vec![vec![0.0; rows_k]; rows], vec![vec![0.0; rows_k]; rows]);
            for i in 0..rows {
                let scores = self.row(a, &real, [b, h, i]);
                let l = given.logsumexp.at([b, h, i, 0]);
                let (row, mut dp) = (given.grad_output.row([b, h, i]), vec![0.0; rows_k]);
                for (j, score) in scores.iter().enumerate() {
                    if let Some(score) = score {
                        p[i][j] = a.exp(a.r(score.s - l));
                        dp[j] = a.dot(row, real.v.row([b, head, j]));
                    }
                }
                let some = scores.iter().any(Option::is_some);
                let d = match &given.output {
                    Some(output) if some => a.dot(row, output.row([b, h, i])),
                    Some(_) => 0.0,
                    None => a.dot(&p[i], &dp),
                };
                add(&mut result.d_values, [b, h, i, 0], d);
                if let (Some(sinks), Some(gradient)) = (&self.sinks, &mut result.sinks) {
                    add(gradient, [0, h, 0, 0], -a.r(a.exp(sinks[h] - l) * d));
                }
                for (j, score) in scores.iter().enumerate() {
                    if let Some(score) = score {
                        let ds = a.r(p[i][j] * a.r(dp[j] - d));
                        dx[i][j] = a.r(ds * score.slope);
                        if let Some(gradient) = &mut result.mask {
                            add(gradient, [b, h, i, j], ds);
                        }
                    }
                }
            }
            for [i, c] in indices([rows, columns]) {
                let sum = a.sum(rows_k, |j| {
                    a.beside(dx[i][j], self.key.precision) * k[j * columns + c]
                });
                add(&mut result.query, [b, h, i, c], self.scale * sum);
            }
            for [j, c] in indices([rows_k, columns]) {
                let sum = a.sum(rows, |i| {
                    a.beside(dx[i][j], self.query.precision) * q[i * columns + c]
                });
                add(&mut result.key, [b, head, j, c], self.scale * sum);
            }
            for [j, c] in indices([rows_k, value_columns]) {
                add(
                    &mut result.value,
                    [b, head, j, c],
                    a.sum(rows, |i| p[i][j] * grad[i * value_columns + c]),
                );
            }
        }
        result
    }
}

/// All indices below `sizes`, the last one fastest.
pub(crate) fn indices<const N: usize>(sizes: [usize; N]) -> impl Iterator<Item = [usize; N]> {
    (0..sizes.iter().product()).map(move |mut n| {
        let mut at = [0; N];
        for axis in (0..N).rev() {
            at[axis] = n % sizes[axis];
            n /= sizes[axis];
        }
        at
    })
}
