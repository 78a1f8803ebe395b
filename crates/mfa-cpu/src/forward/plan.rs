//! From a checked call to how it will run: a pure function of the problem, the kernels and the number of threads.

use crate::contract::problem::Problem;
use crate::contract::quant_scheme::Granularity;
use crate::forward::block_sizes;
use crate::forward::check::Forward;
use crate::operands::arithmetic::{Scores, Values};
use mfa_kernels::Precision;
use mfa_kernels::bf16_split::Bf16Products;
use mfa_kernels::{BLOCK_N, DECODE_ROWS, Kernels};

/// How the query rows meet the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// Packed tiles of many rows.
    Prefill,
    /// A few rows, streaming K and V as they are stored.
    Decode,
}

/// How a call runs.
#[derive(Clone, Debug)]
pub(crate) struct ForwardPlan {
    pub path: Algorithm,
    pub scores: Scores,
    pub values: Values,
    /// Query rows of a tile.
    pub tile_rows: usize,
    /// Keys of a block.
    pub block_keys: usize,
    /// Pieces that the keys are cut into, merged in order at the end.
    pub splits: usize,
    pub split_keys: usize,
    pub workers: usize,
    pub reasons: Reasons,
}

/// What the plan was made from, for `explain`; text is made only there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reasons {
    /// Most query rows of a key/value head.
    pub rows: usize,
    /// Whether there was too little work to share.
    pub inline: bool,
    pub scores: &'static str,
    pub values: &'static str,
    pub tiles: usize,
}

/// Below this many multiply-adds a second thread costs more than it brings.
const INLINE_WORK: f64 = 4e5;
/// Tiles per worker, so that a slow worker can be relieved.
const TILES_PER_WORKER: usize = 2;
const TILES_PER_WORKER_DIAGONAL: usize = 4;
/// Fewest keys of a split.
const SPLIT_KEYS: usize = 1024;

impl ForwardPlan {
    pub(crate) fn new(call: &Forward, kernels: &Kernels, threads: usize) -> Self {
        let problem = &call.problem;
        let inline = problem.work() < INLINE_WORK;
        let workers = if inline { 1 } else { threads };
        let sequences = &problem.sequences;
        let most_queries = sequences.most_q;
        let rows = most_queries.saturating_mul(problem.group);
        let most_keys = sequences.most_k;
        let path =
            if rows <= DECODE_ROWS && problem.k.has_dense_rows() && problem.v.has_dense_rows() {
                Algorithm::Decode
            } else {
                Algorithm::Prefill
            };
        let (mut scores, scores_why) = scores(problem, kernels, path);
        let (mut values, values_why) = values(problem, kernels, path);
        if kernels.bf16.is_some() && path == Algorithm::Prefill {
            if values == Values::F32 {
                values = Values::Bf16(terms_of_values(problem, call.output.precision));
            }
            if scores == Scores::F32 {
                scores = Scores::Bf16(terms_of_scores(problem, values));
            }
        }

        let (block_keys, most_rows) =
            block_sizes::block_and_tile(kernels, (scores, values), (problem.d, problem.dv));
        let mr = kernels.mr;
        let tile_rows = match path {
            Algorithm::Decode => DECODE_ROWS,
            Algorithm::Prefill => {
                let per_worker = match problem.options.has_diagonal() {
                    _ if workers == 1 => 1,
                    true => TILES_PER_WORKER_DIAGONAL,
                    false => TILES_PER_WORKER,
                };
                let all_rows = sequences.total_q.saturating_mul(problem.heads);
                let share = all_rows.div_ceil(workers * per_worker).max(1);
                let most = share.next_multiple_of(mr).min(most_rows);
                block_sizes::equal_tiles(most, most_queries, problem.group, mr)
            }
        };
        let mut plan = ForwardPlan {
            path,
            scores,
            values,
            tile_rows,
            block_keys,
            splits: 1,
            split_keys: usize::MAX,
            workers,
            reasons: Reasons {
                rows,
                inline,
                scores: scores_why,
                values: values_why,
                tiles: 0,
            },
        };
        let tiles = crate::forward::count_tiles(problem, &plan);
        plan.reasons.tiles = tiles;
        if tiles > 0 && tiles < 2 * workers && most_keys >= 2 * SPLIT_KEYS && workers > 1 {
            let wanted = (2 * workers).div_ceil(tiles).min(most_keys / SPLIT_KEYS);
            plan.split_keys = most_keys.div_ceil(wanted).next_multiple_of(BLOCK_N);
            plan.splits = most_keys.div_ceil(plan.split_keys);
        }
        plan
    }
}

/// Products of parts that lose nothing that FP32 products keep.
fn terms_of_scores(problem: &Problem, values: Values) -> Bf16Products {
    // Other steps of softmax take scores in base 2: the factor goes into Q, which has all the bits of an FP32 then.
    if !matches!(values, Values::Bf16(_)) {
        return Bf16Products::X6;
    }
    match (problem.q.precision, problem.k.precision) {
        (Precision::Bf16, Precision::Bf16) => Bf16Products::X1,
        (Precision::F16, Precision::Bf16) => Bf16Products::X2x1,
        (Precision::F32, Precision::Bf16) => Bf16Products::X3x1,
        (Precision::Bf16 | Precision::F16, Precision::F16) => Bf16Products::X4,
        _ => Bf16Products::X6,
    }
}

/// P is rounded as V is; to 16 bits beside a BF16, if more than 8 of them can be seen in the output.
fn terms_of_values(problem: &Problem, output: Precision) -> Bf16Products {
    match (problem.v.precision, output) {
        (Precision::Bf16, Precision::Bf16) => Bf16Products::X1,
        (Precision::Bf16, _) => Bf16Products::X2x1,
        (Precision::F16, _) => Bf16Products::X3,
        _ => Bf16Products::X6,
    }
}

fn scores(problem: &Problem, kernels: &Kernels, path: Algorithm) -> (Scores, &'static str) {
    let (q, k) = (&problem.q, &problem.k);
    let (Some(q_quant), Some(k_quant)) = (&q.quant, &k.quant) else {
        return (Scores::F32, "Q or K is not quantized");
    };
    if path == Algorithm::Decode {
        return (
            Scores::F32,
            "few rows: memory is the limit, integers are widened in registers",
        );
    }
    if !kernels.int8 {
        return (Scores::F32, "this instruction set has no fast INT8 product");
    }
    if q.has_scales_within_rows() || k.has_scales_within_rows() {
        return (
            Scores::F32,
            "scales within a row: products cannot be summed as integers",
        );
    }
    if q_quant.rotated != k_quant.rotated {
        return (Scores::F32, "only one of Q and K is rotated");
    }
    if q_quant.mean.is_some() {
        return (Scores::F32, "Q has a mean");
    }
    if q_quant.has_zeros() && q_quant.granularity != Granularity::Tensor {
        return (Scores::F32, "zero points of Q differ by row");
    }
    (
        Scores::I8,
        "Q and K are integers with row scales: exact INT32 sums",
    )
}

fn values(problem: &Problem, kernels: &Kernels, path: Algorithm) -> (Values, &'static str) {
    let v = &problem.v;
    let Some(quant) = &v.quant else {
        return (Values::F32, "V is not quantized");
    };
    if path == Algorithm::Decode {
        return (
            Values::F32,
            "few rows: memory is the limit, integers are widened in registers",
        );
    }
    if !kernels.int8_values {
        return (
            Values::F32,
            "this instruction set has no fast integer product",
        );
    }
    if v.has_scales_within_rows() {
        return (Values::F32, "scales of V within a row");
    }
    let tensor_zero = !quant.has_zeros() || quant.granularity == Granularity::Tensor;
    if problem.options.fast && tensor_zero && matches!(v.precision, Precision::I4 | Precision::I8) {
        return (Values::U8, "fast mode: P to 8 bits");
    }
    (Values::I16, "exact mode: P to 15 bits, INT32 sums")
}
