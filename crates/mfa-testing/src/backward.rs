//! The gradients, from dO and the logsumexp L of the forward pass.
//!
//! ```text
//! P_ij = exp(S_ij - L_i)        dV_j = sum_i P_ij dO_i           dP_ij = dO_i . V_j
//! D_i  = sum_j P_ij dP_ij       dS_ij = P_ij (dP_ij - D_i + dL_i)
//! dmask = dS                    dsink = - sum_i exp(sink - L_i) (D_i - dL_i)
//! dX_ij = dS_ij (1 - tanh^2)    (softcap; else dX = dS)
//! dQ_i = scale sum_j dX_ij K_j  dK_j = scale sum_i dX_ij Q_i
//! ```

use mfa_sys as sys;

use crate::array::indices;
use crate::problem::{Real, Sequence};
use crate::{Arithmetic, Array, Problem};

/// What backward is given beside the operands.
#[derive(Clone, Debug)]
pub struct Given {
    /// dO, `[batch, heads, rows, value columns]`.
    pub grad_output: Array,
    /// The precision of dO.
    pub precision: i32,
    /// dL, `[batch, heads, rows, 1]`; `None`: 0.
    pub grad_logsumexp: Option<Array>,
    /// L, `[batch, heads, rows, 1]`.
    pub logsumexp: Array,
    /// O; `None`: D is computed from P and dP.
    pub output: Option<Array>,
    /// Whether the gradients of elements at the ends of the quantized range are 0.
    pub clip: bool,
}

impl Given {
    /// dO in FP32 and L.
    pub fn new(grad_output: Array, logsumexp: Array) -> Self {
        Given {
            grad_output,
            precision: sys::MFA_PRECISION_FP32,
            grad_logsumexp: None,
            logsumexp,
            output: None,
            clip: false,
        }
    }
}

/// The results of the backward pass.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// dQ.
    pub query: Array,
    /// dK.
    pub key: Array,
    /// dV.
    pub value: Array,
    /// D, `[batch, heads, rows, 1]`.
    pub d_values: Array,
    /// The gradient of an additive mask, in its shape.
    pub mask: Option<Array>,
    /// The gradient of sinks, `[1, heads, 1, 1]`.
    pub sinks: Option<Array>,
}

impl Gradients {
    /// All gradients and their names.
    pub fn all(&self) -> [(&'static str, Option<&Array>); 6] {
        [
            ("grad_query", Some(&self.query)),
            ("grad_key", Some(&self.key)),
            ("grad_value", Some(&self.value)),
            ("d_values", Some(&self.d_values)),
            ("grad_mask", self.mask.as_ref()),
            ("grad_sinks", self.sinks.as_ref()),
        ]
    }
}

/// A pair of a row and a key that is not masked.
struct Pair {
    key: usize,
    /// P, as it is multiplied by dO.
    p: f64,
    /// dX, as it is multiplied by Q.
    dx: f64,
}

impl Problem {
    /// The gradients in float64.
    pub fn backward(&self, given: &Given) -> Gradients {
        self.backward_in(given, &Arithmetic::Float64)
    }

    /// The gradients in some arithmetic.
    pub fn backward_in(&self, given: &Given, a: &Arithmetic) -> Gradients {
        let real = self.real(a);
        let [batch, heads, rows, _] = real.q.shape;
        let added = self.mask.as_ref().filter(|mask| !mask.boolean);
        let mut result = Gradients {
            query: Array::zeros(real.q.shape),
            key: Array::zeros(real.k.shape),
            value: Array::zeros(real.v.shape),
            d_values: Array::zeros([batch, heads, rows, 1]),
            mask: added.map(|mask| Array::zeros(mask.values.shape)),
            sinks: (self.sinks.as_ref()).map(|sinks| Array::zeros([1, sinks.len(), 1, 1])),
        };
        let sequences = self.sequences();
        for (index, sequence) in sequences.iter().enumerate() {
            for h in 0..heads {
                let pairs: Vec<Vec<Pair>> = (0..sequence.q.len())
                    .map(|i| {
                        self.row_gradients(a, &real, given, (index, sequence), [h, i], &mut result)
                    })
                    .collect();
                self.key_gradients(a, &real, given, sequence, h, &pairs, &mut result);
            }
        }
        self.spare_rows(a, given, &sequences, &mut result);
        if given.clip {
            let operands = [&self.query, &self.key, &self.value];
            let gradients = [&mut result.query, &mut result.key, &mut result.value];
            for (operand, gradient) in operands.into_iter().zip(gradients) {
                operand.clip(gradient);
            }
        }
        result
    }

    /// What a row adds to D, dQ and the gradients of mask and sinks; what it passes on to dK and dV.
    fn row_gradients(
        &self,
        a: &Arithmetic,
        real: &Real,
        given: &Given,
        (index, sequence): (usize, &Sequence),
        [h, i]: [usize; 2],
        result: &mut Gradients,
    ) -> Vec<Pair> {
        let (b, kv, row) = (sequence.batch, self.key_head(h), sequence.q.start + i);
        let l = given.logsumexp.at([b, h, row, 0]);
        if l == f64::NEG_INFINITY {
            return Vec::new();
        }
        let grad = given.grad_output.row([b, h, row]);
        let scores = self.scores(a, real, (index, sequence), [h, i]);
        let p: Vec<f64> = scores.iter().map(|score| a.exp(a.r(score.s - l))).collect();
        let dp: Vec<f64> = scores
            .iter()
            .map(|score| a.dot(grad, real.v.row([b, kv, score.key])))
            .collect();
        let d = match &given.output {
            Some(output) if !scores.is_empty() => a.dot(grad, output.row([b, h, row])),
            // Rows without a key have O = 0, so D = 0 whatever dO holds.
            _ => a.dot(&p, &dp),
        };
        result.d_values.set([b, h, row, 0], d);
        let dl = given
            .grad_logsumexp
            .as_ref()
            .map_or(0.0, |dl| dl.at([b, h, row, 0]));
        let rest = a.r(d - dl);
        if let (Some(sinks), Some(gradient)) = (&self.sinks, &mut result.sinks) {
            let term = a.r(a.exp(sinks[h] - l) * rest);
            add(a, gradient, [0, h, 0, 0], -term);
        }
        let (mut pairs, mut beside_k) = (Vec::new(), Vec::new());
        for ((score, p), dp) in scores.iter().zip(&p).zip(&dp) {
            let ds = a.r(p * a.r(dp - rest));
            if let Some(gradient) = &mut result.mask {
                add(a, gradient, [index, h, i, score.key - sequence.k.start], ds);
            }
            let dx = a.r(ds * score.slope);
            beside_k.push(a.beside(dx, self.key.precision));
            pairs.push(Pair {
                key: score.key,
                p: a.beside(*p, given.precision),
                dx: a.beside(dx, self.query.precision),
            });
        }
        let dq = result.query.row_mut([b, h, row]);
        for n in a.order(pairs.len()) {
            a.add_scaled(dq, beside_k[n], real.k.row([b, kv, pairs[n].key]));
        }
        dq.iter_mut().for_each(|x| *x = a.r(self.scale * *x));
        pairs
    }

    /// What the rows of a head add to dK and dV.
    #[allow(clippy::too_many_arguments)]
    fn key_gradients(
        &self,
        a: &Arithmetic,
        real: &Real,
        given: &Given,
        sequence: &Sequence,
        h: usize,
        pairs: &[Vec<Pair>],
        result: &mut Gradients,
    ) {
        let (b, kv) = (sequence.batch, self.key_head(h));
        let keys = sequence.k.len();
        let mut dk = Array::zeros([1, 1, keys, real.k.shape[3]]);
        let mut dv = Array::zeros([1, 1, keys, real.v.shape[3]]);
        for i in a.order(pairs.len()) {
            let row = sequence.q.start + i;
            let (q, grad) = (real.q.row([b, h, row]), given.grad_output.row([b, h, row]));
            for pair in &pairs[i] {
                let j = pair.key - sequence.k.start;
                a.add_scaled(dk.row_mut([0, 0, j]), pair.dx, q);
                a.add_scaled(dv.row_mut([0, 0, j]), pair.p, grad);
            }
        }
        for j in 0..keys {
            let at = [b, kv, sequence.k.start + j];
            for (sums, head, scale) in [
                (&mut result.key, &dk, self.scale),
                (&mut result.value, &dv, 1.0),
            ] {
                let sums = sums.row_mut(at).iter_mut().zip(head.row([0, 0, j]));
                sums.for_each(|(sum, x)| *sum = a.r(*sum + a.r(scale * x)));
            }
        }
    }

    /// The logsumexp of a row of no sequence is its sink.
    fn spare_rows(
        &self,
        a: &Arithmetic,
        given: &Given,
        sequences: &[Sequence],
        result: &mut Gradients,
    ) {
        let (Some(gradient), Some(dl)) = (&mut result.sinks, &given.grad_logsumexp) else {
            return;
        };
        let [batch, heads, rows, _] = self.query.elements.shape;
        for [b, h, row] in indices([batch, heads, rows]) {
            let spare = |s: &Sequence| s.batch != b || !s.q.contains(&row);
            if sequences.iter().all(spare) {
                add(a, gradient, [0, h, 0, 0], dl.at([b, h, row, 0]));
            }
        }
    }
}

/// Adds to an element.
fn add(a: &Arithmetic, array: &mut Array, at: [usize; 4], x: f64) {
    array.set(at, a.r(array.at(at) + x));
}
