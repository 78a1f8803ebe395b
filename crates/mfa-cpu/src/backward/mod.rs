//! The backward pass: dQ, dK and dV (and those of mask and sinks) from Q, K, V, dO and the logsumexp (eq. 22 to 31 of
//! docs/math.md).
//!
//! ```text
//! D_i = sum_c dO_ic O_ic = sum_j P_ij dP_ij
//! P_ij = exp(S_ij - L_i)     dP_ij = dO_i . V_j     dS_ij = P_ij (dP_ij - D_i)
//! dV_j = sum_i P_ij dO_i     dK_j = scale sum_i dS_ij Q_i     dQ_i = scale sum_j dS_ij K_j
//! ```
//!
//! No two workers add to the same sum: an item owns its outputs, and adds in a fixed order, so that a call gives the
//! same bits every time. Where key/value heads keep the workers busy, an item is such a head (*fused*: every product is
//! done once). Otherwise dQ is computed by blocks of queries, and dK and dV by blocks of keys (*split*).

mod bf16_split;
mod block;
mod block_pair;
mod check;
mod epilogue;
mod mask_gradient;
mod pack;
mod pack_bf16;
mod passes;
mod plan;
mod products;
mod row_statistics;
mod score_mod;
mod scratch;

pub(crate) use check::Backward;
pub(crate) use epilogue::clear_spare_keys;
pub(crate) use plan::{Algorithm, AlgorithmReason, BackwardPlan, Bf16Plan, DSource};
pub(crate) use row_statistics::sink;

use crate::runtime::memory::{Aligned, Arena, PerWorker};
use crate::runtime::pool::Pool;
use mfa_kernels::Kernels;
use mfa_kernels::TileConfigGuard;

use block::DValues;
use block_pair::BlockPair;
use passes::Blocks;
use score_mod::TransposedScoreMod;
use scratch::BackwardScratch;

/// Floats of D that the call keeps itself.
fn saved_d(call: &Backward) -> usize {
    let [batch, heads, rows, _] = call.problem.q.shape;
    if call.needs_d() && call.d_values.is_none() {
        batch.saturating_mul(heads).saturating_mul(rows)
    } else {
        0
    }
}

/// Bytes that the call allocates beside its outputs, at most: [`workspace`] rounded up, and lists of sequences.
pub(crate) fn allocated(call: &Backward, plan: &BackwardPlan, kernels: &Kernels) -> usize {
    Aligned::size_for(workspace(call, plan, kernels))
        .saturating_add(call.problem.sequences.bytes())
        .saturating_add(plan.heads.bytes())
}

/// Bytes of memory that the call needs beside its outputs: each worker's scratch, and D.
pub(crate) fn workspace(call: &Backward, plan: &BackwardPlan, kernels: &Kernels) -> usize {
    let mut arena = Arena::default();
    Workspace::allocate(&mut arena, call, plan, kernels);
    arena.used()
}

/// The division of the call's memory.
struct Workspace {
    workers: PerWorker,
    d: *mut f32,
    queries: *mut usize,
    keys: *mut usize,
}

// SAFETY: each worker uses its own scratch.
unsafe impl Sync for Workspace {}

impl Workspace {
    fn allocate(
        arena: &mut Arena,
        call: &Backward,
        plan: &BackwardPlan,
        kernels: &Kernels,
    ) -> Self {
        Workspace {
            workers: PerWorker::allocate(arena, plan.workers, |arena| {
                BackwardScratch::allocate(arena, call, plan, kernels)
            }),
            d: arena.alloc(saved_d(call)),
            queries: Blocks::allocate(arena, call),
            keys: Blocks::allocate(arena, call),
        }
    }

    /// The scratch of a worker.
    fn scratch(
        &self,
        worker: usize,
        call: &Backward,
        plan: &BackwardPlan,
        kernels: &Kernels,
    ) -> BackwardScratch {
        BackwardScratch::allocate(&mut self.workers.part(worker), call, plan, kernels)
    }
}

/// Runs a call. `memory` holds at least [`workspace`] bytes.
pub(crate) fn run(
    call: &Backward,
    plan: &BackwardPlan,
    kernels: &Kernels,
    pool: &Pool,
    memory: &Aligned,
) {
    let workspace = Workspace::allocate(&mut Arena::new(memory.ptr()), call, plan, kernels);
    let [_, heads, rows, _] = call.problem.q.shape;
    let d = match &call.d_values {
        Some(tensor) => DValues::Tensor(tensor),
        None if call.needs_d() => DValues::Array {
            ptr: workspace.d,
            heads,
            rows,
        },
        None => DValues::Nowhere,
    };
    let score_mod = TransposedScoreMod::new(&call.problem, kernels);
    let pair = |worker: usize| BlockPair {
        call,
        plan,
        kernels,
        score_mod: &score_mod,
        d,
        scratch: workspace.scratch(worker, call, plan, kernels),
        _tile_config: TileConfigGuard::new(kernels),
    };
    for worker in 0..plan.workers {
        let ones = workspace.scratch(worker, call, plan, kernels).ones;
        // SAFETY: a strip's ones, inside the memory that was laid out.
        unsafe { std::slice::from_raw_parts_mut(ones, kernels.mr).fill(1.0) };
    }

    // SAFETY: laid out for this call, in memory that is its own.
    let queries = unsafe { Blocks::new(call, plan, passes::Axis::Query, workspace.queries) };
    match (plan.d, &call.output) {
        (DSource::Output, Some(output)) => {
            pool.run(plan.workers, row_statistics::items(call), |worker, item| {
                let row_buffers = workspace.scratch(worker, call, plan, kernels).row_buffers;
                let operands = (call, output);
                row_statistics::from_output(operands, kernels, &score_mod, d, row_buffers, item);
            });
        }
        (DSource::Weights, _) => pool.run(plan.workers, queries.count(), |worker, item| {
            // SAFETY: the scratch was laid out for this call, and worker numbers are not shared.
            unsafe { pair(worker).d_item(&queries.item(item)) };
        }),
        _ => {}
    }
    match (plan.path, &call.grad_query) {
        (Algorithm::Fused, Some(gradient)) => {
            pool.run(plan.workers, plan.heads.count(), |worker, item| {
                // SAFETY: as above.
                unsafe { pair(worker).fused_item(gradient, plan.heads.get(item)) };
            });
        }
        (_, gradient) => {
            if let Some(gradient) = gradient {
                pool.run(plan.workers, queries.count(), |worker, item| {
                    // SAFETY: as above.
                    unsafe { pair(worker).query_item(gradient, &queries.item(item)) };
                });
            }
            if call.grad_key.is_some() || call.grad_value.is_some() {
                // SAFETY: as above.
                let keys = unsafe { Blocks::new(call, plan, passes::Axis::Key, workspace.keys) };
                pool.run(plan.workers, keys.count(), |worker, item| {
                    // SAFETY: as above.
                    unsafe { pair(worker).key_item(&keys.item(item)) };
                });
            }
        }
    }
    clear_spare_keys(call, pool, plan.workers);
    if let Some(gradient) = &call.grad_mask {
        let mask = mask_gradient::MaskItems::new(gradient, plan);
        pool.run(plan.workers, mask.count(), |worker, item| {
            // SAFETY: as above.
            unsafe { pair(worker).mask_item(&mask, item) };
        });
    }
    if call.grad_sinks.is_some() {
        pool.run(plan.workers, heads, |_, head| {
            sink(call, head, |b, row| f64::from(d.rest(call, b, head, row)));
        });
    }
}
