//! How a backward call runs: a pure function of the problem, the kernels and the number of threads.

use std::cmp::Reverse;

use super::check::Backward;
use crate::contract::problem::Problem;
use crate::contract::sequences::Sequence;
use crate::contract::tensor::Tensor;
use crate::error::Result;
use crate::operands::arithmetic::{ScoreArithmetic, ScorePass, score_arithmetic};
use crate::runtime::memory::reserve;
use crate::runtime::pool::MAX_THREADS;
use mfa_kernels::Precision;
use mfa_kernels::bf16_split::{Bf16Kernels, Bf16Products};
use mfa_kernels::gradient::Bf16GradientKernels;
use mfa_kernels::{BackwardTuning, Kernels};

/// How queries meet keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// One pass per key/value head: five products, dQ accumulated in place.
    Fused,
    /// A pass over blocks of queries for dQ, a pass over blocks of keys for dK and dV: seven products, more items.
    Split,
}

/// The source of D.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DSource {
    /// No gradient needs D.
    Nowhere,
    /// The caller gives it.
    Given,
    /// D = rowsum(dO * O).
    Output,
    /// D = rowsum(P * dP).
    Weights,
}

/// The bf16 products that make up the five products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bf16ProductSet {
    /// K by Q, exact.
    pub scores: Bf16Products,
    /// V by dO, exact.
    pub dp: Bf16Products,
    /// P by dO: P is rounded to the precision of dO.
    pub p: Bf16Products,
    /// dS by Q, and K by dS: dS is rounded to the finer precision of Q and K.
    pub ds: Bf16Products,
}

/// The kernels of bf16 products, and which products they make.
#[derive(Clone, Copy)]
pub(crate) struct Bf16Plan {
    pub kernels: &'static Bf16Kernels,
    pub gradient: Bf16GradientKernels,
    pub products: Bf16ProductSet,
}

/// How a call runs.
#[derive(Clone)]
pub(crate) struct BackwardPlan<'a> {
    pub path: Algorithm,
    pub scores: ScoreArithmetic<'a>,
    /// Where products of floats are sums of bf16 products.
    pub bf16: Option<Bf16Plan>,
    pub d: DSource,
    /// Queries and keys of a block.
    pub block_queries: usize,
    pub block_keys: usize,
    pub workers: usize,
    /// Key/value heads, the longest first.
    pub heads: Heads,
    /// Reasons, for `explain`.
    pub reasons: Reasons,
}

/// The reasons of the plan, for `explain`; text is made only there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reasons {
    pub scores: &'static str,
    pub d: &'static str,
    pub path: AlgorithmReason,
    /// Whether there was too little work to share.
    pub inline: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum AlgorithmReason {
    OnePass,
    OneWorker,
    /// Whether the key/value heads, so many, keep the workers busy.
    Heads {
        busy: bool,
        count: usize,
    },
}

/// The key/value heads of all sequences by number, those of the most expensive sequences first.
#[derive(Clone, Debug)]
pub(crate) struct Heads {
    /// The sequences in that order; `None` where they are alike.
    order: Option<Vec<usize>>,
    kv_heads: usize,
    count: usize,
}

/// A key/value head of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub sequence: usize,
    pub kv_head: usize,
}

impl<'a> BackwardPlan<'a> {
    pub(crate) fn new(
        call: &'a Backward,
        kernels: &'static Kernels,
        threads: usize,
    ) -> Result<Self> {
        let problem = &call.problem;
        let tuning = &kernels.tuning.backward;
        let inline = problem.work() < tuning.inline_work;
        let workers = if inline { 1 } else { threads };
        let (scores, why_scores) = score_arithmetic(problem, kernels, ScorePass::Transposed);
        let bf16 = bf16_plan(call, kernels, scores);
        let (d, why_d) = source(call);
        let heads = Heads::new(problem)?;
        let (path, why_path) = path(call, tuning, &heads, workers);

        let columns = problem.d + problem.dv;
        let (queries, keys) = blocks(tuning, columns, bf16);
        let share = |rows: usize, heads: usize, most: usize, multiple: usize| {
            let share = rows.saturating_mul(heads) / (workers * tuning.blocks_per_worker);
            let most = most / multiple * multiple;
            if workers == 1 || path == Algorithm::Fused {
                most
            } else {
                share.next_multiple_of(multiple).clamp(multiple, most)
            }
        };
        let sequences = &problem.sequences;
        let (mr, nr) = (kernels.mr, kernels.nr);
        Ok(BackwardPlan {
            path,
            scores,
            bf16,
            d,
            block_queries: share(sequences.total_q, problem.heads, queries, nr)
                .min(sequences.most_q.max(1).next_multiple_of(nr)),
            block_keys: share(sequences.total_k, problem.kv_heads, keys, mr)
                .min(sequences.most_k.max(1).next_multiple_of(mr)),
            workers,
            heads,
            reasons: Reasons {
                scores: why_scores,
                d: why_d,
                path: why_path,
                inline,
            },
        })
    }
}

/// Queries and keys of a block: those of the first row that has as many columns.
fn blocks(tuning: &BackwardTuning, columns: usize, bf16: Option<Bf16Plan>) -> (usize, usize) {
    match bf16 {
        None => {
            let rows = tuning.blocks;
            let row = &rows[rows.partition_point(|row| row.columns < columns)];
            (row.queries, row.keys)
        }
        Some(Bf16Plan { products, .. }) => {
            let slices = products.p.slices_of_b().max(products.ds.slices_of_b());
            let rows = tuning.bf16_blocks;
            rows[rows.partition_point(|row| row.columns < columns)].by_slices[slices - 1]
        }
    }
}

/// The cost of the gradients of a key/value head: about its scores within key ranges.
fn cost(problem: &Problem, sequence: &Sequence) -> f64 {
    let options = &problem.options;
    // The key range grows evenly except at its ends: a few rows tell its mean.
    let samples = sequence.nq.min(16);
    let in_range: usize = (0..samples)
        .map(|n| {
            let (lo, hi) = options.key_range(sequence, n * sequence.nq / samples);
            hi - lo
        })
        .sum();
    let mean = in_range as f64 / samples.max(1) as f64;
    1.0 + mean * sequence.nq as f64 * problem.group as f64
}

impl Heads {
    fn new(problem: &Problem) -> Result<Self> {
        let sequences = &problem.sequences;
        let order = if sequences.are_alike() {
            None
        } else {
            let mut order = reserve(sequences.len(), "sequences")?;
            order.extend(0..sequences.len());
            let cost = |index: &usize| Reverse(cost(problem, &sequences.get(*index)) as u64);
            order.sort_unstable_by_key(|index| (cost(index), *index));
            Some(order)
        };
        Ok(Heads {
            order,
            kv_heads: problem.kv_heads,
            count: sequences.len().saturating_mul(problem.kv_heads),
        })
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn get(&self, number: usize) -> Head {
        let (sequence, kv_head) = (number / self.kv_heads, number % self.kv_heads);
        let sequence = self
            .order
            .as_ref()
            .map_or(sequence, |order| order[sequence]);
        Head { sequence, kv_head }
    }

    /// Bytes of the list.
    pub(crate) fn bytes(&self) -> usize {
        let order = self.order.as_ref().map_or(0, Vec::capacity);
        order * size_of::<usize>()
    }

    /// The longest time of a worker if each takes the next head when it is done with one, and the time of all heads.
    fn times(&self, problem: &Problem, workers: usize) -> (f64, f64) {
        if self.order.is_none() {
            if self.count == 0 {
                return (0.0, 0.0);
            }
            let each = cost(problem, &problem.sequences.get(0));
            let longest = self.count.div_ceil(workers) as f64 * each;
            return (longest, self.count as f64 * each);
        }
        let mut busy = [0f64; MAX_THREADS];
        let busy = &mut busy[..workers.min(MAX_THREADS)];
        let mut total = 0.0;
        for number in (0..self.count).step_by(self.kv_heads) {
            let cost = cost(problem, &problem.sequences.get(self.get(number).sequence));
            for _ in 0..self.kv_heads {
                if let Some(least) = busy.iter_mut().min_by(|a, b| a.total_cmp(b)) {
                    *least += cost;
                }
                total += cost;
            }
        }
        (busy.iter().copied().fold(0.0, f64::max), total)
    }
}

fn path(
    call: &Backward,
    tuning: &BackwardTuning,
    heads: &Heads,
    workers: usize,
) -> (Algorithm, AlgorithmReason) {
    let keys = call.grad_key.is_some() || call.grad_value.is_some();
    if !keys || call.grad_query.is_none() {
        return (Algorithm::Split, AlgorithmReason::OnePass);
    }
    if workers == 1 {
        return (Algorithm::Fused, AlgorithmReason::OneWorker);
    }
    let (longest, total) = heads.times(&call.problem, workers);
    let count = heads.count();
    let busy = tuning.fused_cost * longest <= tuning.split_cost * total / workers as f64;
    let path = if busy {
        Algorithm::Fused
    } else {
        Algorithm::Split
    };
    (path, AlgorithmReason::Heads { busy, count })
}

fn source(call: &Backward) -> (DSource, &'static str) {
    if call.d_given {
        (DSource::Given, "MFA_BACKWARD_D_GIVEN")
    } else if !call.needs_d() {
        (DSource::Nowhere, "dV alone does not need it")
    } else if call.output.is_some() {
        (DSource::Output, "O was given: D = rowsum(dO * O)")
    } else {
        (
            DSource::Weights,
            "O is absent: D = rowsum(P * dP), in a sweep of its own",
        )
    }
}

impl Bf16ProductSet {
    /// Those beside the scores.
    pub(crate) fn describe(self) -> String {
        format!(
            "V dO: {}; P dO: {}; dS Q, dS K: {}",
            self.dp.describe(),
            self.p.describe(),
            self.ds.describe()
        )
    }
}

/// The bf16 products (eq. 54), where there are kernels for them and scores are not sums of integers.
fn bf16_plan(
    call: &Backward,
    kernels: &'static Kernels,
    scores: ScoreArithmetic<'_>,
) -> Option<Bf16Plan> {
    let slices = |tensor: &Tensor| match tensor.precision {
        Precision::Bf16 => 1,
        Precision::F16 => 2,
        _ => 3,
    };
    let exact = |n: usize| [Bf16Products::X1, Bf16Products::X4, Bf16Products::X6][n - 1];
    let rounded = |n: usize| [Bf16Products::X1, Bf16Products::X3, Bf16Products::X6][n - 1];
    let problem = &call.problem;
    let [q, k, v] = [&problem.q, &problem.k, &problem.v].map(slices);
    let grad = slices(&call.grad_output);
    if !kernels.has_bf16_gradient() || !matches!(scores, ScoreArithmetic::F32) {
        return None;
    }
    Some(Bf16Plan {
        kernels: kernels.bf16.as_ref()?,
        gradient: kernels.gradient.bf16?,
        products: Bf16ProductSet {
            scores: exact(q.max(k)),
            dp: exact(v.max(grad)),
            p: rounded(grad),
            ds: rounded(q.max(k)),
        },
    })
}
