//! The plan as text.

use std::fmt::Write;

use crate::backward::{self, Backward, Source, WhyPath};
use crate::kernels::Kernels;
use crate::plan::{Loop, Plan};
use crate::problem::{Forward, Problem};
use crate::tensor::Tensor;

fn operand(tensor: &Tensor) -> String {
    let mut text = tensor.precision.name().to_string();
    if let Some(quant) = &tensor.quant {
        let _ = write!(text, "/{}", quant.granularity.name());
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
    format!(
        "query: {} [{batch}, {heads}, {rows}, {columns}]\nkey: {} [{batch}, {}, {keys}, {columns}]\nvalue: {} [{batch}, {}, {keys}, {}]\n",
        operand(&problem.q),
        operand(&problem.k),
        problem.kv_heads,
        operand(&problem.v),
        problem.kv_heads,
        problem.dv,
    )
}

/// Lines of `key: value`; a reason follows what it explains.
pub(crate) fn forward(call: &Forward, plan: &Plan, kernels: &Kernels) -> String {
    let (problem, why) = (&call.problem, &plan.why);
    let (path, because) = match plan.path {
        Loop::Tile => (
            format!(
                "tile of {} rows, blocks of {} keys",
                plan.tile_rows, plan.block_keys
            ),
            "packing K and V pays",
        ),
        Loop::Decode => ("decode".into(), "K and V are read once, where they lie"),
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
            plan.splits, plan.split_keys, why.tiles, plan.workers
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
pub(crate) fn backward(call: &Backward, plan: &backward::Plan, kernels: &Kernels) -> String {
    let value = |key: &str| match key {
        "loop" => {
            let blocks = format!(
                "blocks of {} queries and {} keys",
                plan.block_queries, plan.block_keys
            );
            match plan.path {
                backward::Loop::Fused => format!("fused, {blocks}"),
                backward::Loop::Split => format!("split, {blocks}"),
            }
        }
        "scores" => plan
            .products
            .map_or(plan.scores.describe(), |p| p.scores.describe()),
        "products" => plan
            .products
            .map_or("FP32 products".into(), |p| p.describe()),
        "d" => match plan.d {
            Source::Nowhere => "not computed".into(),
            Source::Given => "given".into(),
            Source::Output => "from O and dO".into(),
            Source::Weights => "from P and dP".into(),
        },
        "threads" => plan.workers.to_string(),
        _ => String::new(),
    };
    let workers = plan.workers;
    let reason = |key: &str| match (key, plan.why.path) {
        ("loop", WhyPath::OnePass) => {
            "only one of the passes is needed: dQ, or dK and dV".to_string()
        }
        ("loop", WhyPath::OneWorker) => "one worker: five products are fewest".into(),
        ("loop", WhyPath::Heads { busy, count }) => format!(
            "{count} key/value heads {} {workers} workers busy",
            if busy { "keep" } else { "do not keep" }
        ),
        ("scores", _) => plan.why.scores.into(),
        ("d", _) => plan.why.d.into(),
        ("threads", _) if plan.why.inline => "too little work to share".into(),
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
