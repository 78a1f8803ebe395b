//! The plan as text.

use std::fmt::Write;

use crate::backward::{self, AlgorithmReason, Backward, DSource};
use crate::contract::problem::Problem;
use crate::contract::quant_scheme::{Granularity, Params};
use crate::contract::tensor::Tensor;
use crate::forward::Forward;
use crate::forward::plan::{Algorithm, ForwardPlan};
use crate::operands::dequantize::ScaleLayout;
use mfa_kernels::Kernels;
use mfa_kernels::Precision;

fn operand(tensor: &Tensor) -> String {
    let mut text = tensor.precision.name().to_string();
    if let Some(quant) = &tensor.quant {
        let _ = write!(text, "/{}", quant.granularity.name());
        match quant.granularity {
            Granularity::Row if matches!(tensor.scale_layout(), ScaleLayout::WithinRow) => {
                let _ = write!(text, " of {} columns", quant.group);
            }
            Granularity::Block | Granularity::Channel => {
                let _ = write!(text, " of {} rows", quant.block_rows);
            }
            _ => {}
        }
        if let Params::Strided { half: true, .. } = quant.params {
            text += "+FP16 scales";
        }
        if quant.has_zeros() {
            text += "+zero points";
        }
        if quant.mean.is_some() {
            text += "+mean";
        }
        if quant.rotated {
            text += "+rotated";
        }
    }
    text
}

fn problem_lines(problem: &Problem) -> String {
    let [batch, heads, rows, columns] = problem.q.shape;
    let keys = problem.k.shape[2];
    let operands = format!(
        "query: {} [{batch}, {heads}, {rows}, {columns}]\nkey: {} [{batch}, {}, {keys}, {columns}]\nvalue: {} [{batch}, {}, {keys}, {}]\n",
        operand(&problem.q),
        operand(&problem.k),
        problem.kv_heads,
        operand(&problem.v),
        problem.kv_heads,
        problem.dv,
    );
    operands + &meaning(problem)
}

/// What the scores become before their softmax, and which keys a row sees: a line for each option that is set.
fn meaning(problem: &Problem) -> String {
    let (options, sequences) = (&problem.options, &problem.sequences);
    let mut text = format!("scale: {}\n", options.scale);
    if options.softcap > 0.0 {
        let _ = writeln!(text, "softcap: {}", options.softcap);
    }
    if !sequences.are_alike() {
        let _ = writeln!(
            text,
            "sequences: {}{}, of at most {} queries and {} keys",
            sequences.named,
            if sequences.are_packed() {
                " packed"
            } else {
                ""
            },
            sequences.most_q,
            sequences.most_k,
        );
    }
    let limit = |width: Option<i64>| width.map_or("any".into(), |width| width.to_string());
    if options.left.is_some() || options.right.is_some() {
        let (left, right) = (limit(options.left), limit(options.right));
        let _ = writeln!(
            text,
            "window: {left} keys before the diagonal, {right} after it"
        );
    }
    if options.has_diagonal() || options.alibi.is_some() {
        let alignment = if sequences.bottom_right {
            "bottom right"
        } else {
            "top left"
        };
        let _ = write!(text, "diagonal: {alignment}");
        if options.causal {
            text += ", causal";
        }
        // Of the first sequence that has any.
        let sequence = (0..sequences.named.min(64))
            .map(|index| sequences.get(index))
            .find(|sequence| sequence.nq > 0);
        if let Some(sequence) = sequence {
            let seen = |row: usize| match options.key_range(&sequence, row) {
                (lo, hi) if lo < hi => format!("row {row} sees keys {lo} to {}", hi - 1),
                _ => format!("row {row} sees no key"),
            };
            let _ = write!(text, "; {}", seen(0));
            if sequence.nq > 1 {
                let _ = write!(text, ", {}", seen(sequence.nq - 1));
            }
            let _ = write!(text, ", of {}", sequence.nk);
        }
        text.push('\n');
    }
    if let Some(mask) = &options.mask {
        let what = if mask.precision == Precision::Bool {
            "true attends"
        } else {
            "added"
        };
        let _ = writeln!(text, "mask: {} ({what})", mask.precision.name());
    }
    for (tensor, name) in [(&options.alibi, "alibi"), (&options.sinks, "sinks")] {
        if let Some(tensor) = tensor {
            let _ = writeln!(text, "{name}: {}", tensor.precision.name());
        }
    }
    text
}

/// Lines of `key: value`; a reason follows what it explains.
pub(crate) fn forward(call: &Forward, plan: &ForwardPlan<'_>, kernels: &Kernels) -> String {
    let (problem, why) = (&call.problem, &plan.reasons);
    let (path, because) = match plan.path {
        Algorithm::Prefill => (
            format!(
                "tile of {} rows, blocks of {} keys",
                plan.tile_rows, plan.block_keys
            ),
            "packing K and V pays",
        ),
        Algorithm::Decode => ("decode".into(), "K and V are read once, where they lie"),
    };
    let (scores, values) = (plan.scores.describe(), plan.values.describe());
    let mut text = format!("operation: forward\ndevice: CPU\nisa: {}\n", kernels.isa);
    text += &problem_lines(problem);
    let _ = writeln!(
        text,
        "loop: {path} ({} rows per key/value head: {because})",
        why.rows
    );
    let _ = writeln!(text, "scores: {scores} ({})", why.scores);
    let _ = writeln!(text, "values: {values} ({})", why.values);
    let _ = write!(text, "threads: {}", plan.workers);
    text += if why.inline {
        " (too little work to share)\n"
    } else {
        "\n"
    };
    if plan.splits > 1 {
        let _ = writeln!(
            text,
            "splits: {} of {} keys ({} tiles do not fill {} workers)",
            plan.splits, plan.split_keys, plan.tiles, plan.workers
        );
    }
    let _ = writeln!(
        text,
        "workspace: {} bytes",
        crate::forward::allocated(problem, plan, kernels)
    );
    text
}

/// The same for a backward call.
pub(crate) fn backward(
    call: &Backward,
    plan: &backward::BackwardPlan<'_>,
    kernels: &Kernels,
) -> String {
    let value = |key: &str| match key {
        "loop" => {
            let blocks = format!(
                "blocks of {} queries and {} keys",
                plan.block_queries, plan.block_keys
            );
            match plan.path {
                backward::Algorithm::Fused => format!("fused, {blocks}"),
                backward::Algorithm::Split => format!("split, {blocks}"),
            }
        }
        "scores" => plan.bf16.map_or(plan.scores.describe(), |bf16| {
            bf16.products.scores.describe()
        }),
        "products" => plan
            .bf16
            .map_or("FP32 products".into(), |bf16| bf16.products.describe()),
        "d" => match plan.d {
            DSource::Nowhere => "not computed".into(),
            DSource::Given => "given".into(),
            DSource::Output => "from O and dO".into(),
            DSource::Weights => "from P and dP".into(),
        },
        "threads" => plan.workers.to_string(),
        _ => String::new(),
    };
    let workers = plan.workers;
    let reason = |key: &str| match (key, plan.reasons.path) {
        ("loop", AlgorithmReason::OnePass) => {
            "only one of the passes is needed: dQ, or dK and dV".to_string()
        }
        ("loop", AlgorithmReason::OneWorker) => "one worker: five products are fewest".into(),
        ("loop", AlgorithmReason::Heads { busy, count }) => format!(
            "{count} key/value heads {} {workers} workers busy",
            if busy { "keep" } else { "do not keep" }
        ),
        ("scores", _) => plan.reasons.scores.into(),
        ("d", _) => plan.reasons.d.into(),
        ("threads", _) if plan.reasons.inline => "too little work to share".into(),
        _ => String::new(),
    };
    let mut text = format!("operation: backward\ndevice: CPU\nisa: {}\n", kernels.isa);
    text += &problem_lines(&call.problem);
    for key in ["loop", "scores", "products", "d", "threads"] {
        let _ = write!(text, "{key}: {}", value(key));
        let reason = reason(key);
        if !reason.is_empty() {
            let _ = write!(text, " ({reason})");
        }
        text.push('\n');
    }
    let _ = writeln!(
        text,
        "workspace: {} bytes",
        backward::allocated(call, plan, kernels)
    );
    text
}

/// The same for a call on FP64 operands.
pub(crate) fn fp64(operation: &str, problem: &Problem, workers: usize, bytes: usize) -> String {
    format!(
        "operation: {operation}\ndevice: CPU\n{}loop: plain tiles (FP64 operands: exact, and slow)\nscores: FP64 products\n\
         values: FP64 products\nthreads: {workers}\nworkspace: {bytes} bytes\n",
        problem_lines(problem)
    )
}
