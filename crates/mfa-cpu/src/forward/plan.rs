//! The plan of a forward call: a pure function of the checked call, the kernels and the number of threads.

#![forbid(unsafe_code)]

use crate::forward::block_sizes;
use crate::forward::check::Forward;
use crate::operands::arithmetic::{self, ScoreArithmetic, ScorePass, ValueArithmetic};
use mfa_kernels::{BLOCK_N, DECODE_ROWS, ForwardTuning, Kernels};

/// The loops over query rows and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// Packed tiles of many rows.
    Prefill,
    /// A few rows, streaming K and V as they are stored.
    Decode,
}

/// The plan of a call.
#[derive(Clone)]
pub(crate) struct ForwardPlan<'a> {
    pub path: Algorithm,
    pub scores: ScoreArithmetic<'a>,
    pub values: ValueArithmetic<'a>,
    /// For scores of BF16 slices.
    pub scale: ScaleSplit,
    /// Query rows of a tile.
    pub tile_rows: usize,
    /// Keys of a block.
    pub block_keys: usize,
    /// Tiles of all sequences.
    pub tiles: usize,
    /// Splits of the keys, merged in order at the end.
    pub splits: usize,
    /// Keys of a split.
    pub split_keys: usize,
    pub workers: usize,
    pub reasons: Reasons,
}

/// The factors that turn Q Kᵀ into scores in base 2; their product is softmax scale times log2 e.
#[derive(Clone, Copy)]
pub(crate) struct ScaleSplit {
    /// Factor of Q while it is packed.
    pub in_q: f32,
    /// Factor of the scores in softmax: positive.
    pub on_s: f32,
}

/// The reasons of a plan, for `explain`, which alone makes text of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reasons {
    /// Query rows of a key/value head, at most.
    pub rows: usize,
    /// Whether there was too little work to share.
    pub inline: bool,
    pub scores: &'static str,
    pub values: &'static str,
}

impl<'a> ForwardPlan<'a> {
    pub(crate) fn new(call: &'a Forward, kernels: &'a Kernels, threads: usize) -> Self {
        let problem = &call.problem;
        let tuning = &kernels.tuning.forward;
        let sequences = &problem.sequences;
        let inline = problem.work() < tuning.inline_work;
        let workers = if inline { 1 } else { threads };
        let rows = sequences.most_q.saturating_mul(problem.group);
        let streams_kv =
            rows <= DECODE_ROWS && problem.k.has_dense_rows() && problem.v.has_dense_rows();
        let path = if streams_kv {
            Algorithm::Decode
        } else {
            Algorithm::Prefill
        };
        let (scores, values, reasons) = arithmetic(call, kernels, path);

        let (block_keys, most_rows) =
            block_sizes::block_and_tile(kernels, (scores, values), (problem.d, problem.dv));
        let tile_rows = match path {
            Algorithm::Decode => DECODE_ROWS,
            Algorithm::Prefill => tile_rows(call, kernels, workers, most_rows),
        };
        let tiles = block_sizes::tile_count(problem, tile_rows);
        let (splits, split_keys) = splits(tuning, tiles, sequences.most_k, workers);
        ForwardPlan {
            path,
            scores,
            values,
            scale: scale_split(problem.options.factor(), values),
            tile_rows,
            block_keys,
            tiles,
            splits,
            split_keys,
            workers,
            reasons: Reasons {
                rows,
                inline,
                scores: reasons.0,
                values: reasons.1,
            },
        }
    }
}

/// The arithmetic of both products, and the reasons for it.
fn arithmetic<'a>(
    call: &'a Forward,
    kernels: &'a Kernels,
    path: Algorithm,
) -> (
    ScoreArithmetic<'a>,
    ValueArithmetic<'a>,
    (&'static str, &'static str),
) {
    let problem = &call.problem;
    let pass = match path {
        Algorithm::Prefill => ScorePass::Prefill,
        Algorithm::Decode => ScorePass::Decode,
    };
    let (mut scores, score_reason) = arithmetic::score_arithmetic(problem, kernels, pass);
    let (mut values, value_reason) = arithmetic::value_arithmetic(problem, kernels, pass);
    if let (Some(bf16), Algorithm::Prefill) = (&kernels.bf16, path) {
        if matches!(values, ValueArithmetic::F32) {
            let products = arithmetic::value_products(problem, call.output.precision);
            values = ValueArithmetic::Bf16(products, bf16);
        }
        if matches!(scores, ScoreArithmetic::F32) {
            scores = ScoreArithmetic::Bf16(arithmetic::score_products(problem, values), bf16);
        }
    }
    (scores, values, (score_reason, value_reason))
}

/// Q in few slices keeps its bits only if it is not multiplied, and of the softmax kernels only that of slices multiplies.
fn scale_split(factor: f32, values: ValueArithmetic<'_>) -> ScaleSplit {
    let (in_q, on_s) = match values {
        ValueArithmetic::Bf16(..) if factor != 0.0 => (factor.signum(), factor.abs()),
        _ => (factor, 1.0),
    };
    ScaleSplit { in_q, on_s }
}

/// Query rows of a prefill tile.
fn tile_rows(call: &Forward, kernels: &Kernels, workers: usize, most_rows: usize) -> usize {
    let (problem, mr, tuning) = (&call.problem, kernels.mr, &kernels.tuning.forward);
    let per_worker = match problem.options.has_diagonal() {
        _ if workers == 1 => 1,
        true => tuning.tiles_per_worker_diagonal,
        false => tuning.tiles_per_worker,
    };
    let all_rows = problem.sequences.total_q.saturating_mul(problem.heads);
    let share = all_rows.div_ceil(workers * per_worker).max(1);
    let most = share.next_multiple_of(mr).min(most_rows);
    block_sizes::equal_tiles(most, problem.sequences.most_q, problem.group, mr)
}

/// The number of splits of the keys, and the keys of one: several where tiles alone do not fill the workers.
fn splits(
    tuning: &ForwardTuning,
    tiles: usize,
    most_keys: usize,
    workers: usize,
) -> (usize, usize) {
    if tiles == 0 || tiles >= 2 * workers || most_keys < 2 * tuning.split_keys || workers == 1 {
        return (1, usize::MAX);
    }
    let wanted = (2 * workers)
        .div_ceil(tiles)
        .min(most_keys / tuning.split_keys);
    let split_keys = most_keys.div_ceil(wanted).next_multiple_of(BLOCK_N);
    (most_keys.div_ceil(split_keys), split_keys)
}
