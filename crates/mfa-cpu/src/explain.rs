//! The plan as text.

use std::fmt::Write;

use crate::kernels::Kernels;
use crate::plan::{Loop, Plan, Scores, Values};
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
    let problem = &call.problem;
    let value = |key: &str| match key {
        "loop" => match plan.path {
            Loop::Tile => format!(
                "tile of {} rows, blocks of {} keys",
                plan.tile_rows, plan.block_keys
            ),
            Loop::Decode => "decode".into(),
        },
        "scores" => match plan.scores {
            Scores::F32 => "FP32 products".into(),
            Scores::I8 => "INT8 products, INT32 sums".into(),
        },
        "values" => match plan.values {
            Values::F32 => "FP32 products".into(),
            Values::I16 => "16-bit products, INT32 sums".into(),
            Values::U8 => "8-bit products, INT32 sums".into(),
        },
        "threads" => plan.workers.to_string(),
        "splits" => format!("{} of {} keys", plan.splits, plan.split_keys),
        _ => String::new(),
    };
    let mut text = format!("operation: forward\ndevice: CPU\nisa: {}\n", kernels.isa);
    text += &problem_lines(problem);
    let reasoned = |key: &str| plan.reasons.iter().find(|(name, _)| *name == key);
    for key in ["loop", "scores", "values", "threads", "splits"] {
        let reason = reasoned(key);
        if key == "splits" && reason.is_none() {
            continue;
        }
        let _ = write!(text, "{key}: {}", value(key));
        if let Some((_, reason)) = reason {
            let _ = write!(text, " ({reason})");
        }
        text.push('\n');
    }
    let _ = writeln!(
        text,
        "workspace: {} bytes",
        crate::forward::workspace(problem, plan, kernels)
    );
    text
}
