//! O = softmax(S) V and logsumexp.

use crate::array::indices;
use crate::problem::Score;
use crate::{Arithmetic, Array, Problem};

/// The results of the forward pass.
#[derive(Clone, Debug)]
pub struct Forward {
    /// O, `[batch, heads, rows, value columns]`.
    pub output: Array,
    /// L, `[batch, heads, rows, 1]`.
    pub logsumexp: Array,
}

/// A sink that is larger than every score by more than this is what exponents are taken relative to.
const LARGE_SINK: f64 = 80.0;

impl Problem {
    /// The forward pass in float64.
    pub fn forward(&self) -> Forward {
        self.forward_in(&Arithmetic::Float64)
    }

    /// The forward pass in some arithmetic. A row without keys has O = 0 and the logsumexp of its sink alone.
    pub fn forward_in(&self, a: &Arithmetic) -> Forward {
        let real = self.real(a);
        let [batch, heads, rows, _] = real.q.shape;
        let columns = real.v.shape[3];
        let sink = |h: usize| {
            self.sinks
                .as_ref()
                .map_or(f64::NEG_INFINITY, |sinks| sinks[h])
        };
        let mut result = Forward {
            output: Array::zeros([batch, heads, rows, columns]),
            logsumexp: Array::zeros([batch, heads, rows, 1]),
        };
        for [b, h, row] in indices([batch, heads, rows]) {
            result.logsumexp.set([b, h, row, 0], sink(h));
        }
        for (index, sequence) in self.sequences().iter().enumerate() {
            let b = sequence.batch;
            for [h, i] in indices([heads, sequence.q.len()]) {
                let row = sequence.q.start + i;
                let scores = self.scores(a, &real, (index, sequence), [h, i]);
                let mut highest = scores
                    .iter()
                    .map(|score| score.s)
                    .fold(f64::NEG_INFINITY, f64::max);
                if highest == f64::NEG_INFINITY {
                    highest = 0.0;
                }
                if sink(h) - highest > LARGE_SINK {
                    highest = sink(h);
                }
                let p: Vec<f64> = scores
                    .iter()
                    .map(|score| self.exp(a, a.r(score.s - highest)))
                    .collect();
                let mut z = a.sum(p.len(), |n| p[n]);
                if self.sinks.is_some() {
                    z = a.r(z + a.exp(sink(h) - highest));
                }
                result
                    .logsumexp
                    .set([b, h, row, 0], a.r(highest + a.r(z.ln())));
                if scores.is_empty() {
                    continue;
                }
                let kv = self.key_head(h);
                let weights = self.weights(a, &scores, &p, [b, kv]);
                let output = result.output.row_mut([b, h, row]);
                for n in a.order(scores.len()) {
                    a.add_scaled(output, weights[n], real.v.row([b, kv, scores[n].key]));
                }
                output
                    .iter_mut()
                    .for_each(|x| *x = a.stored(a.r(*x / z), self.output_precision));
            }
        }
        result
    }

    /// e^x, for P: in fast mode with 17 bits, some 500 times finer than the steps of P.
    fn exp(&self, a: &Arithmetic, x: f64) -> f64 {
        if self.fast && self.value.is_quantized() {
            a.to_bits(x.exp(), 16, -149)
        } else {
            a.exp(x)
        }
    }

    /// exp(S - max) as it is multiplied by V: with the scale of V's row, in steps of the largest, beside integers.
    fn weights(
        &self,
        a: &Arithmetic,
        scores: &[Score],
        p: &[f64],
        [b, kv]: [usize; 2],
    ) -> Vec<f64> {
        if a.is_exact() || !self.value.is_quantized() {
            let precision = self.value.precision;
            return p.iter().map(|p| a.beside(*p, precision)).collect();
        }
        let scale = |n: usize| {
            let scales = self.value.row_scales.as_ref();
            scales.map_or(1.0, |scales| scales.at([b, kv, scores[n].key, 0]))
        };
        let largest = (0..p.len()).fold(0.0, |most: f64, n| most.max((p[n] * scale(n)).abs()));
        let step = a.r(largest / if self.fast { 255.0 } else { 32767.0 });
        let weight = |n: usize| {
            if step > 0.0 {
                a.r(a.r(a.to_step(p[n] * scale(n) / step, 1.0) * step) / scale(n))
            } else {
                p[n]
            }
        };
        (0..p.len()).map(weight).collect()
    }
}
