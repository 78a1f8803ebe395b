//! The backward pass: dQ, dK and dV (and those of mask and sinks) from Q, K, V, dO and the logsumexp.
//!
//! ```text
//! D_i = sum_c dO_ic O_ic = sum_j P_ij dP_ij
//! P_ij = exp(S_ij - L_i)     dP_ij = dO_i . V_j     dS_ij = P_ij (dP_ij - D_i)
//! dV_j = sum_i P_ij dO_i     dK_j = scale sum_i dS_ij Q_i     dQ_i = scale sum_j dS_ij K_j
//! ```
//!
//! Nothing is added up by two workers: an item owns what it writes, and adds in a fixed order, so that a call gives the
//! same bits every time. Where key/value heads keep the workers busy, an item is such a head (*fused*: every product is
//! done once). Otherwise dQ is computed by blocks of queries, and dK and dV by blocks of keys (*split*).

mod bias;
mod cell;
mod check;
mod finish;
mod mask;
mod overlap;
mod pack;
mod parts;
mod passes;
mod plan;
mod scratch;
mod statistics;

pub(crate) use check::Backward;
pub(crate) use plan::{Loop, Plan, Source};

use crate::kernels::Kernels;
use crate::kernels::parts::Ready;
use crate::memory::{Aligned, Arena};
use crate::pool::Pool;

use bias::Bias;
use cell::{Cells, DValues};
use passes::Blocks;
use scratch::Scratch;

/// Floats of D that the call keeps itself.
fn kept_d(call: &Backward) -> usize {
    let [batch, heads, rows, _] = call.problem.q.shape;
    if call.needs_d() && call.d_values.is_none() {
        batch * heads * rows
    } else {
        0
    }
}

/// Bytes of memory that the call needs beside its outputs: each worker's scratch, and D.
pub(crate) fn workspace(call: &Backward, plan: &Plan, kernels: &Kernels) -> usize {
    let mut worker = Arena::default();
    Scratch::lay_out(&mut worker, call, plan, kernels);
    let mut shared = Arena::default();
    shared.take::<f32>(kept_d(call));
    worker.used() * plan.workers + shared.used()
}

/// Runs a call. `memory` holds at least [`workspace`] bytes.
pub(crate) fn run(call: &Backward, plan: &Plan, kernels: &Kernels, pool: &Pool, memory: &Aligned) {
    let mut arena = Arena::new(memory.ptr());
    let scratch: Vec<_> = (0..plan.workers)
        .map(|_| Scratch::lay_out(&mut arena, call, plan, kernels))
        .collect();
    let [_, heads, rows, _] = call.problem.q.shape;
    let d = match &call.d_values {
        Some(tensor) => DValues::Tensor(tensor),
        None if call.needs_d() => DValues::Array {
            ptr: arena.take(kept_d(call)),
            heads,
            rows,
        },
        None => DValues::Nowhere,
    };
    let bias = Bias::new(&call.problem, kernels);
    let cells = |worker: usize| Cells {
        call,
        plan,
        kernels,
        bias: &bias,
        d,
        scratch: &scratch[worker],
        _ready: Ready::new(kernels),
    };
    for worker in &scratch {
        // SAFETY: a strip's ones, inside the memory that was laid out.
        unsafe { std::slice::from_raw_parts_mut(worker.ones, kernels.mr).fill(1.0) };
    }

    let queries = Blocks::new(call, plan, passes::Side::Queries);
    match plan.d {
        Source::Output => pool.run(plan.workers, statistics::items(call), |_, item| {
            statistics::from_output(call, kernels, &bias, d, item);
        }),
        Source::Weights => pool.run(plan.workers, queries.count(), |worker, item| {
            // SAFETY: the scratch was laid out for this call, and worker numbers are not shared.
            unsafe { cells(worker).d_item(&queries.item(item)) };
        }),
        Source::Given | Source::Nowhere => {}
    }
    if plan.path == Loop::Fused {
        pool.run(plan.workers, plan.heads.len(), |worker, item| {
            // SAFETY: as above.
            unsafe { cells(worker).fused_item(plan.heads[item]) };
        });
    } else {
        if call.grad_query.is_some() {
            pool.run(plan.workers, queries.count(), |worker, item| {
                // SAFETY: as above.
                unsafe { cells(worker).query_item(&queries.item(item)) };
            });
        }
        if call.grad_key.is_some() || call.grad_value.is_some() {
            let keys = Blocks::new(call, plan, passes::Side::Keys);
            pool.run(plan.workers, keys.count(), |worker, item| {
                // SAFETY: as above.
                unsafe { cells(worker).key_item(&keys.item(item)) };
            });
        }
    }
    let mask = mask::Items::new(call, plan);
    pool.run(plan.workers, mask.count(), |worker, item| {
        // SAFETY: as above.
        unsafe { cells(worker).mask_item(&mask, item) };
    });
    if call.grad_sinks.is_some() {
        pool.run(plan.workers, heads, |_, head| {
            statistics::sink(call, d, head)
        });
    }
}
