//! Attention and its gradients by plain formulas.

use std::ops::Range;

use half::f16;

use crate::call::Results;

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

/// Numbers between -1 and 1.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = (self.0)
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) as f64 / (1u64 << 30) as f64 - 1.0
    }

    fn many(&mut self, count: usize) -> Vec<f64> {
        (0..count).map(|_| self.next()).collect()
    }
}

impl Problem {
    pub(crate) fn random(
        seed: u64,
        counts: [usize; 3],
        rows: [usize; 2],
        columns: [usize; 2],
    ) -> Self {
        let mut random = Random(seed * 77 + 5);
        let ([b, h, kv], [nq, nk], [d, dv]) = (counts, rows, columns);
        Problem {
            counts,
            rows,
            columns,
            q: random.many(b * h * nq * d),
            k: random.many(b * kv * nk * d),
            v: random.many(b * kv * nk * dv),
            d_output: random.many(b * h * nq * dv),
            d_logsumexp: random.many(b * h * nq),
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
                .map(|b| Sequence {
                    b,
                    q: 0..nq,
                    k: 0..length(b, nk),
                })
                .collect(),
            Some((q, k)) => (0..q.len() - 1)
                .map(|i| Sequence {
                    b: 0,
                    q: q[i]..q[i + 1],
                    k: k[i]..k[i] + length(i, k[i + 1] - k[i]),
                })
                .collect(),
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

    /// A mask that adds something everywhere, and hides a fifth.
    pub(crate) fn add_mask(&mut self, seed: u64) {
        let mut random = Random(seed + 99);
        let hide = |x: f64| {
            if x > 0.6 {
                f64::NEG_INFINITY
            } else {
                (x * 64.0).round() / 64.0
            }
        };
        let count = self.mask_shape().iter().product();
        self.mask = Some(random.many(count).into_iter().map(hide).collect());
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

/// Rows of query and key that belong together.
pub(crate) struct Sequence {
    pub b: usize,
    pub q: Range<usize>,
    pub k: Range<usize>,
}

/// O, logsumexp and all gradients.
pub(crate) fn attention(p: &Problem) -> Results {
    let ([b, h, kv], [nq, nk], [d, dv]) = (p.counts, p.rows, p.columns);
    let [_, mask_rows, mask_columns] = p.mask_shape();
    let scale = if d == 0 { 1.0 } else { 1.0 / (d as f64).sqrt() };
    let mut out = Results {
        output: vec![0.0; b * h * nq * dv],
        logsumexp: vec![f64::NEG_INFINITY; b * h * nq],
        dq: vec![0.0; p.q.len()],
        dk: vec![0.0; p.k.len()],
        dv: vec![0.0; p.v.len()],
        dmask: vec![0.0; p.mask.as_ref().map_or(0, Vec::len)],
        dsinks: vec![0.0; p.sinks.as_ref().map_or(0, Vec::len)],
    };
    let sink_of = |head: usize| p.sinks.as_ref().map_or(f64::NEG_INFINITY, |s| s[head]);
    for (head, row) in (0..b * h).flat_map(|bh| (0..nq).map(move |i| (bh, i))) {
        // Rows of no sequence have the sink alone.
        out.logsumexp[head * nq + row] = sink_of(head % h);
    }
    for (index, sequence) in p.sequences().iter().enumerate() {
        let (rows, keys) = (sequence.q.len(), sequence.k.len());
        let shift = if p.bottom_right {
            keys as i64 - rows as i64
        } else {
            0
        };
        for head in 0..h {
            let group = h / kv;
            let q_row = |i: usize| (sequence.b * h + head) * nq + sequence.q.start + i;
            let k_row = |j: usize| (sequence.b * kv + head / group) * nk + sequence.k.start + j;
            for i in 0..rows {
                let at = i as i64 + shift;
                let q = &p.q[q_row(i) * d..][..d];
                let mut scores = Vec::new();
                for j in 0..keys {
                    let jj = j as i64;
                    let k = &p.k[k_row(j) * d..][..d];
                    let mut s: f64 = scale * q.iter().zip(k).map(|(x, y)| x * y).sum::<f64>();
                    let mut slope = 1.0;
                    if p.softcap > 0.0 {
                        let t = (s / f64::from(p.softcap)).tanh();
                        (s, slope) = (f64::from(p.softcap) * t, 1.0 - t * t);
                    }
                    if let Some(mask) = &p.mask {
                        s += mask[(index * mask_rows + i) * mask_columns + j];
                    }
                    if let Some(slopes) = &p.slopes {
                        s -= slopes[head] * (at - jj).abs() as f64;
                    }
                    let hidden = (p.causal && jj > at)
                        || p.window
                            .is_some_and(|(left, right)| jj < at - left || jj > at + right);
                    scores.push((if hidden { f64::NEG_INFINITY } else { s }, slope));
                }
                let sink = sink_of(head);
                let top = scores.iter().fold(sink, |top, s| top.max(s.0));
                let l = if top == f64::NEG_INFINITY {
                    top
                } else {
                    let sum: f64 = scores.iter().map(|s| (s.0 - top).exp()).sum();
                    top + (sum + (sink - top).exp()).ln()
                };
                out.logsumexp[q_row(i)] = l;
                if l == f64::NEG_INFINITY {
                    continue;
                }
                let weights: Vec<f64> = scores.iter().map(|s| (s.0 - l).exp()).collect();
                let grad = &p.d_output[q_row(i) * dv..][..dv];
                let dp: Vec<f64> = (0..keys)
                    .map(|j| {
                        let v = &p.v[k_row(j) * dv..][..dv];
                        let o = &mut out.output[q_row(i) * dv..][..dv];
                        o.iter_mut().zip(v).for_each(|(o, v)| *o += weights[j] * v);
                        grad.iter().zip(v).map(|(x, y)| x * y).sum()
                    })
                    .collect();
                let sum: f64 = weights.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
                let rest = sum - p.d_logsumexp[q_row(i)];
                for j in 0..keys {
                    let ds = weights[j] * (dp[j] - rest);
                    if p.mask.is_some() {
                        out.dmask[(index * mask_rows + i) * mask_columns + j] += ds;
                    }
                    let ds = ds * scores[j].1 * scale;
                    for c in 0..d {
                        out.dq[q_row(i) * d + c] += ds * p.k[k_row(j) * d + c];
                        out.dk[k_row(j) * d + c] += ds * p.q[q_row(i) * d + c];
                    }
                    let dv_row = &mut out.dv[k_row(j) * dv..][..dv];
                    (dv_row.iter_mut().zip(grad)).for_each(|(x, g)| *x += weights[j] * g);
                }
                if p.sinks.is_some() {
                    out.dsinks[head] -= (sink - l).exp() * rest;
                }
            }
        }
    }
    // Rows of no sequence: their logsumexp is the sink, and its gradient goes there.
    if let (Some(_), Some((q, _))) = (&p.sinks, &p.packed) {
        for head in 0..h {
            for i in q[q.len() - 1]..nq {
                out.dsinks[head] += p.d_logsumexp[head * nq + i];
            }
        }
    }
    out
}
