//! Plans as text, for `mfa_explain`.

#![forbid(unsafe_code)]

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
            Granularity::Row if matches!(tensor.scale_layout(), ScaleLayout::WithinRow(_)) => {
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
    operands + &option_lines(problem)
}

/// The options that are set, a line each: score modifications, and the keys that rows attend to.
fn option_lines(problem: &Problem) -> String {
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
            let keys = |row: usize| match options.key_range(&sequence, row) {
                (lo, hi) if lo < hi => format!("row {row} sees keys {lo} to {}", hi - 1),
                _ => format!("row {row} sees no key"),
            };
            let _ = write!(text, "; {}", keys(0));
            if sequence.nq > 1 {
                let _ = write!(text, ", {}", keys(sequence.nq - 1));
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

/// A line of a plan: `key: value (reason)`.
struct Line {
    key: &'static str,
    value: String,
    /// Empty: none.
    reason: String,
}

fn line(key: &'static str, value: impl Into<String>, reason: impl Into<String>) -> Line {
    Line {
        key,
        value: value.into(),
        reason: reason.into(),
    }
}

/// The reason for the number of threads.
fn inline_reason(inline: bool) -> &'static str {
    if inline {
        "too little work to share"
    } else {
        ""
    }
}

/// The text of a plan.
fn render(
    operation: &str,
    problem: &Problem,
    kernels: &Kernels,
    lines: &[Line],
    bytes: usize,
) -> String {
    let mut text = format!(
        "operation: {operation}\ndevice: CPU\nisa: {}\n",
        kernels.isa
    );
    text += &problem_lines(problem);
    for Line { key, value, reason } in lines {
        let _ = match reason.is_empty() {
            true => writeln!(text, "{key}: {value}"),
            false => writeln!(text, "{key}: {value} ({reason})"),
        };
    }
    let _ = writeln!(text, "workspace: {bytes} bytes");
    text
}

/// The plan of a forward call.
pub(crate) fn forward(call: &Forward, plan: &ForwardPlan<'_>, kernels: &Kernels) -> String {
    let reasons = &plan.reasons;
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
    let rows = format!("{} rows per key/value head: {because}", reasons.rows);
    let mut lines = vec![
        line("loop", path, rows),
        line("scores", plan.scores.describe(), reasons.scores),
        line("values", plan.values.describe(), reasons.values),
        line(
            "threads",
            plan.workers.to_string(),
            inline_reason(reasons.inline),
        ),
    ];
    if plan.splits > 1 {
        let (tiles, workers) = (plan.tiles, plan.workers);
        lines.push(line(
            "splits",
            format!("{} of {} keys", plan.splits, plan.split_keys),
            format!("{tiles} tiles do not fill {workers} workers"),
        ));
    }
    let bytes = crate::forward::allocated(&call.problem, plan, kernels);
    render("forward", &call.problem, kernels, &lines, bytes)
}

/// The plan of a backward call.
pub(crate) fn backward(
    call: &Backward,
    plan: &backward::BackwardPlan<'_>,
    kernels: &Kernels,
) -> String {
    let (reasons, workers) = (&plan.reasons, plan.workers);
    let path = match plan.path {
        backward::Algorithm::Fused => "fused",
        backward::Algorithm::Split => "split",
    };
    let path_reason = match reasons.path {
        AlgorithmReason::OnePass => {
            "only one of the passes is needed: dQ, or dK and dV".to_string()
        }
        AlgorithmReason::OneWorker => "one worker: five products are fewest".into(),
        AlgorithmReason::Heads { busy, count } => format!(
            "{count} key/value heads {} {workers} workers busy",
            if busy { "keep" } else { "do not keep" }
        ),
    };
    let (scores, products) = match plan.bf16 {
        Some(backward::Bf16Plan { products, .. }) => {
            (products.scores.describe(), products.describe())
        }
        None => (plan.scores.describe(), "FP32 products".into()),
    };
    let d = match plan.d {
        DSource::Nowhere => "not computed",
        DSource::Given => "given",
        DSource::Output => "from O and dO",
        DSource::Weights => "from P and dP",
    };
    let blocks = format!(
        "{path}, blocks of {} queries and {} keys",
        plan.block_queries, plan.block_keys
    );
    let lines = [
        line("loop", blocks, path_reason),
        line("scores", scores, reasons.scores),
        line("products", products, ""),
        line("d", d, reasons.d),
        line(
            "threads",
            workers.to_string(),
            inline_reason(reasons.inline),
        ),
    ];
    let bytes = backward::allocated(call, plan, kernels);
    render("backward", &call.problem, kernels, &lines, bytes)
}

/// The plan of a call on FP64 operands.
pub(crate) fn fp64(operation: &str, problem: &Problem, workers: usize, bytes: usize) -> String {
    format!(
        "operation: {operation}\ndevice: CPU\n{}loop: plain tiles (FP64 operands: exact, and slow)\nscores: FP64 products\n\
         values: FP64 products\nthreads: {workers}\nworkspace: {bytes} bytes\n",
        problem_lines(problem)
    )
}
