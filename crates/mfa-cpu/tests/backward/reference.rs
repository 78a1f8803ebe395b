//! The plain formulas of attention and its gradients, in f64, or in f32 as a careful program without tiles would.

use std::ops::{Add, Div, Mul, Sub};

use crate::case::rounded;

/// The arithmetic of an evaluation.
pub(crate) trait Number:
    Copy + PartialEq + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    fn of(x: f64) -> Self;
    fn to(self) -> f64;
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn tanh(self) -> Self;
    /// A factor that was computed, as it is multiplied with one that is stored as `precision`: a program rounds it so.
    fn beside(self, precision: &str) -> Self;
}

macro_rules! number {
    ($t:ty, $beside:expr) => {
        impl Number for $t {
            fn of(x: f64) -> Self {
                x as $t
            }
            fn to(self) -> f64 {
                f64::from(self)
            }
            fn exp(self) -> Self {
                <$t>::exp(self)
            }
            fn ln(self) -> Self {
                <$t>::ln(self)
            }
            fn tanh(self) -> Self {
                <$t>::tanh(self)
            }
            fn beside(self, precision: &str) -> Self {
                $beside(self, precision)
            }
        }
    };
}
number!(f32, |x, precision| rounded(f64::from(x), precision) as f32);
number!(f64, |x, _| x);

/// Real numbers `[batch, heads, rows, columns]`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Real {
    pub(crate) shape: [usize; 4],
    pub(crate) values: Vec<f64>,
}

impl Real {
    pub(crate) fn zeros(shape: [usize; 4]) -> Self {
        Real {
            shape,
            values: vec![0.0; shape.iter().product()],
        }
    }

    pub(crate) fn index(&self, at: [usize; 4]) -> usize {
        at.iter()
            .zip(self.shape)
            .fold(0, |i, (x, size)| i * size + if size == 1 { 0 } else { *x })
    }

    pub(crate) fn at(&self, at: [usize; 4]) -> f64 {
        self.values[self.index(at)]
    }

    pub(crate) fn add(&mut self, at: [usize; 4], x: f64) {
        let i = self.index(at);
        self.values[i] += x;
    }

    fn row(&self, b: usize, h: usize, n: usize) -> &[f64] {
        let columns = self.shape[3];
        let first = ((b * self.shape[1] + h) * self.shape[2] + n) * columns;
        &self.values[first..first + columns]
    }

    fn row_mut(&mut self, [b, h, n]: [usize; 3]) -> &mut [f64] {
        let columns = self.shape[3];
        let first = ((b * self.shape[1] + h) * self.shape[2] + n) * columns;
        &mut self.values[first..first + columns]
    }
}

/// A sequence: its batch element, first row and rows of query, first row and rows of key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sequence {
    pub(crate) batch: usize,
    pub q0: usize,
    pub(crate) nq: usize,
    pub k0: usize,
    pub(crate) nk: usize,
}

/// An attention, in real numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setup {
    pub(crate) q: Real,
    pub(crate) k: Real,
    pub(crate) v: Real,
    pub(crate) grad: Real,
    /// How the float ones of q, k and grad are stored; empty: as FP32.
    pub(crate) stored: [&'static str; 3],
    pub(crate) sequences: Vec<Sequence>,
    pub(crate) scale: f64,
    pub(crate) softcap: f64,
    pub(crate) causal: bool,
    pub(crate) bottom_right: bool,
    pub(crate) window: Option<(i64, i64)>,
    /// Numbers to add, each dimension full or 1; -infinity hides.
    pub(crate) mask: Option<Real>,
    pub(crate) alibi: Option<Real>,
    pub(crate) sinks: Option<Real>,
}

/// Results of forward.
pub(crate) struct Forward {
    pub(crate) output: Real,
    pub(crate) logsumexp: Real,
}

/// Results of backward. `size` has, for each, the magnitude of what was added up, times how well exp knew its argument:
/// what one unit in the last place of every intermediate amounts to.
pub(crate) struct Gradients {
    pub(crate) query: Real,
    pub(crate) key: Real,
    pub(crate) value: Real,
    pub(crate) d_values: Real,
    pub(crate) mask: Option<Real>,
    pub(crate) sinks: Option<Real>,
}

impl Gradients {
    fn zeros(setup: &Setup) -> Self {
        let [batch, heads, rows, _] = setup.q.shape;
        Gradients {
            query: Real::zeros(setup.q.shape),
            key: Real::zeros(setup.k.shape),
            value: Real::zeros(setup.v.shape),
            d_values: Real::zeros([batch, heads, rows, 1]),
            mask: setup.mask.as_ref().map(|m| Real::zeros(m.shape)),
            sinks: setup.sinks.as_ref().map(|s| Real::zeros(s.shape)),
        }
    }
}

/// Gradients that are added up, and their sizes where they are asked for.
struct Sums<'a> {
    gradients: Gradients,
    sizes: Option<&'a mut Gradients>,
}

type Part = fn(&mut Gradients) -> &mut Real;

impl Sums<'_> {
    fn add<N: Number>(&mut self, part: Part, at: [usize; 4], x: N, size: f64) {
        let sum = part(&mut self.gradients);
        let i = sum.index(at);
        sum.values[i] = (N::of(sum.values[i]) + x).to();
        if let Some(sizes) = &mut self.sizes {
            part(sizes).add(at, size);
        }
    }

    /// Adds, to each element of a row, the term and the size that `x` makes for it.
    fn add_row<N: Number>(
        &mut self,
        part: Part,
        at: [usize; 3],
        x: &[f64],
        term: impl Fn(N) -> N,
        size: impl Fn(f64) -> f64,
    ) {
        for (sum, x) in part(&mut self.gradients).row_mut(at).iter_mut().zip(x) {
            *sum = (N::of(*sum) + term(N::of(*x))).to();
        }
        if let Some(sizes) = &mut self.sizes {
            for (sum, x) in part(sizes).row_mut(at).iter_mut().zip(x) {
                *sum += size(x.abs());
            }
        }
    }
}

/// A score: before the softcap, the softcap's slope, and what softmax takes; `None` where it is masked.
struct Score<N> {
    slope: N,
    last: N,
}

fn dot<N: Number>(a: &[f64], b: &[f64]) -> N {
    a.iter()
        .zip(b)
        .fold(N::of(0.0), |sum, (a, b)| sum + N::of(*a) * N::of(*b))
}

impl Setup {
    fn group(&self) -> usize {
        self.q.shape[1] / self.k.shape[1]
    }

    fn shift(&self, s: &Sequence) -> i64 {
        if self.bottom_right {
            s.nk as i64 - s.nq as i64
        } else {
            0
        }
    }

    fn score<N: Number>(
        &self,
        (index, s): (usize, &Sequence),
        head: usize,
        i: usize,
        j: usize,
    ) -> Option<Score<N>> {
        let (at, j_at) = (i as i64 + self.shift(s), j as i64);
        if self.causal && j_at > at {
            return None;
        }
        if let Some((left, right)) = self.window
            && ((left >= 0 && j_at < at - left) || (right >= 0 && j_at > at + right))
        {
            return None;
        }
        let mask = self
            .mask
            .as_ref()
            .map_or(0.0, |mask| mask.at([index, head, i, j]));
        if mask == f64::NEG_INFINITY {
            return None;
        }
        let q = self.q.row(s.batch, head, s.q0 + i);
        let k = self.k.row(s.batch, head / self.group(), s.k0 + j);
        let raw = N::of(self.scale) * dot::<N>(q, k);
        let (mut last, mut slope) = (raw, N::of(1.0));
        if self.softcap > 0.0 {
            let cap = N::of(self.softcap);
            let t = (raw / cap).tanh();
            last = cap * t;
            slope = N::of(1.0) - t * t;
        }
        last = last + N::of(mask);
        if let Some(alibi) = &self.alibi {
            let distance = (at - j_at).unsigned_abs() as f64;
            last = last - N::of(alibi.at([index, head, 0, 0])) * N::of(distance);
        }
        Some(Score { slope, last })
    }

    /// O and L.
    pub(crate) fn forward<N: Number>(&self) -> Forward {
        let [batch, heads, rows, _] = self.q.shape;
        let dv = self.v.shape[3];
        let mut result = Forward {
            output: Real::zeros([batch, heads, rows, dv]),
            logsumexp: Real::zeros([batch, heads, rows, 1]),
        };
        for place in self.sequences.iter().enumerate() {
            let s = place.1;
            for (h, i) in (0..heads).flat_map(|h| (0..s.nq).map(move |i| (h, i))) {
                let scores: Vec<_> = (0..s.nk).map(|j| self.score::<N>(place, h, i, j)).collect();
                let sink = self.sinks.as_ref().map(|sinks| sinks.at([0, h, 0, 0]));
                let top = scores
                    .iter()
                    .flatten()
                    .map(|x| x.last.to())
                    .chain(sink)
                    .fold(f64::NEG_INFINITY, |top, x| {
                        if x > top || x.is_nan() { x } else { top }
                    });
                let at = |c| [s.batch, h, s.q0 + i, c];
                if top == f64::NEG_INFINITY {
                    result.logsumexp.add(at(0), f64::NEG_INFINITY);
                    continue;
                }
                let weigh = |x: N| (x - N::of(top)).exp();
                let mut sum = sink.map_or(N::of(0.0), |sink| weigh(N::of(sink)));
                let mut o = vec![N::of(0.0); dv];
                for (j, x) in scores.iter().enumerate() {
                    let Some(x) = x else { continue };
                    let w = weigh(x.last);
                    sum = sum + w;
                    let v = self.v.row(s.batch, h / self.group(), s.k0 + j);
                    for (o, v) in o.iter_mut().zip(v) {
                        *o = *o + w * N::of(*v);
                    }
                }
                for (c, x) in o.into_iter().enumerate() {
                    result.output.add(at(c), (x / sum).to());
                }
                result.logsumexp.add(at(0), (N::of(top) + sum.ln()).to());
            }
        }
        result
    }

    /// The gradients, from `logsumexp` and, if it is given, O. `sizes` receives the magnitudes.
    pub(crate) fn backward<N: Number>(
        &self,
        logsumexp: &Real,
        output: Option<&Real>,
        sizes: Option<&mut Gradients>,
    ) -> Gradients {
        let heads = self.q.shape[1];
        let mut sums = Sums {
            gradients: Gradients::zeros(self),
            sizes,
        };
        for place in self.sequences.iter().enumerate() {
            let (index, s) = place;
            for (h, i) in (0..heads).flat_map(|h| (0..s.nq).map(move |i| (h, i))) {
                let (b, kv, row) = (s.batch, h / self.group(), s.q0 + i);
                let l = logsumexp.at([b, h, row, 0]);
                if l == f64::NEG_INFINITY {
                    continue;
                }
                let grad = self.grad.row(b, h, row);
                // P, dP, the magnitude of dP, slope, and how well P is known.
                let mut weights: Vec<(usize, N, N, f64, N, f64)> = Vec::new();
                for j in 0..s.nk {
                    let Some(x) = self.score::<N>(place, h, i, j) else {
                        continue;
                    };
                    let v = self.v.row(b, kv, s.k0 + j);
                    let p = (x.last - N::of(l)).exp();
                    let size: f64 = grad.iter().zip(v).map(|(a, b)| (a * b).abs()).sum();
                    let q = self.q.row(b, h, row);
                    let k = self.k.row(b, kv, s.k0 + j);
                    let raw: f64 = q.iter().zip(k).map(|(a, b)| (a * b).abs()).sum();
                    let known = 1.0 + self.scale.abs() * raw + x.last.to().abs() + l.abs();
                    weights.push((j, p, dot::<N>(grad, v), size, x.slope, known));
                }
                let summed = weights.iter().fold(N::of(0.0), |sum, x| sum + x.1 * x.2);
                let d_size: f64 = weights.iter().map(|x| x.1.to() * x.3 * x.5).sum();
                let d = match output {
                    Some(output) if !weights.is_empty() => dot(grad, output.row(b, h, row)),
                    _ => summed,
                };
                // That O was rounded before it was given is not the driver's doing.
                let d_size = d_size + (d.to() - summed.to()).abs() / f64::from(f32::EPSILON);
                sums.add(|g| &mut g.d_values, [b, h, row, 0], d, d_size);
                if let Some(sinks) = &self.sinks {
                    let sink = sinks.at([0, h, 0, 0]);
                    let share = (N::of(sink) - N::of(l)).exp();
                    let size = share.to() * (d_size + d.to().abs() * (1.0 + sink.abs() + l.abs()));
                    sums.add(
                        |g| g.sinks.as_mut().unwrap(),
                        [0, h, 0, 0],
                        N::of(0.0) - share * d,
                        size,
                    );
                }
                for (j, p, dp, dp_size, slope, known) in weights {
                    let key = s.k0 + j;
                    let [q_stored, k_stored, grad_stored] = self.stored;
                    let weight = p.beside(grad_stored);
                    sums.add_row(
                        |g| &mut g.value,
                        [b, kv, key],
                        grad,
                        |x| weight * x,
                        |x| p.to() * x * known,
                    );
                    let ds = p * (dp - d);
                    let ds_size = p.to() * (dp_size + d_size) * known;
                    if self.mask.is_some() {
                        sums.add(|g| g.mask.as_mut().unwrap(), [index, h, i, j], ds, ds_size);
                    }
                    let (dx, scale) = (ds * slope, N::of(self.scale));
                    let size = ds_size * (slope.to() + 1e-3) * self.scale.abs();
                    let beside_k = dx.beside(k_stored);
                    sums.add_row(
                        |g| &mut g.query,
                        [b, h, row],
                        self.k.row(b, kv, key),
                        |x| scale * (beside_k * x),
                        |x| size * x,
                    );
                    let beside_q = dx.beside(q_stored);
                    sums.add_row(
                        |g| &mut g.key,
                        [b, kv, key],
                        self.q.row(b, h, row),
                        |x| scale * (beside_q * x),
                        |x| size * x,
                    );
                }
            }
        }
        sums.gradients
    }

    /// The gradients in f64, and their sizes.
    pub(crate) fn exact(&self, logsumexp: &Real, output: Option<&Real>) -> (Gradients, Gradients) {
        let mut sizes = Gradients::zeros(self);
        let gradients = self.backward::<f64>(logsumexp, output, Some(&mut sizes));
        (gradients, sizes)
    }
}
