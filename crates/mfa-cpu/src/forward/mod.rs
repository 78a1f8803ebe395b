//! The forward pass: workers run the items of a [`Schedule`]; splits of the keys are merged in order.

mod bf16_split;
mod block_sizes;
mod check;
mod decode;
mod decode_quantized;
mod epilogue;
mod masked_keys;
mod pack;
pub(crate) mod plan;
mod prefill;
mod schedule;
mod score_mod;
mod scratch;
mod strip;

pub(crate) use check::Forward;

use crate::contract::problem::Problem;
use crate::forward::plan::{Algorithm, ForwardPlan};
use crate::operands::arithmetic::ValueArithmetic;
use crate::operands::padding::padded;
use crate::runtime::memory::{Aligned, Arena, PerWorker};
use crate::runtime::pool::Pool;
use mfa_kernels::Kernels;

use decode::Decode;
use epilogue::{Epilogue, PartialRow};
use schedule::{Schedule, WorkTile};
use score_mod::ScoreMod;
use scratch::{ForwardScratch, Prefill};

/// Floats of a row's partial result: maximum, sum, rounding remainder of the sum, and O.
fn partial_len(problem: &Problem) -> usize {
    3 + problem.dv
}

/// Bytes that the call allocates beside its outputs, at most: [`workspace`], rounded up, and lists of sequences.
pub(crate) fn allocated(problem: &Problem, plan: &ForwardPlan<'_>, kernels: &Kernels) -> usize {
    Aligned::size_for(workspace(problem, plan, kernels)).saturating_add(problem.sequences.bytes())
}

/// Bytes of memory that the call needs beside its outputs.
pub(crate) fn workspace(problem: &Problem, plan: &ForwardPlan<'_>, kernels: &Kernels) -> usize {
    let mut arena = Arena::default();
    Workspace::allocate(&mut arena, problem, plan, kernels);
    arena.used()
}

/// The memory of a call.
struct Workspace {
    workers: PerWorker,
    /// First tile of each sequence: see [`Schedule::allocate`].
    schedule: *mut usize,
    /// Partial results of all splits, `[tiles][splits][tile_rows][partial_len]`; of one split: empty.
    partials: *mut f32,
}

// SAFETY: each worker uses its own scratch, and items write disjoint partial results.
unsafe impl Sync for Workspace {}

impl Workspace {
    fn allocate(
        arena: &mut Arena,
        problem: &Problem,
        plan: &ForwardPlan<'_>,
        kernels: &Kernels,
    ) -> Self {
        let partials = if plan.splits > 1 {
            (plan.tiles)
                .saturating_mul(plan.splits)
                .saturating_mul(plan.tile_rows)
                .saturating_mul(partial_len(problem))
        } else {
            0
        };
        Workspace {
            workers: PerWorker::allocate(arena, plan.workers, |arena| {
                ForwardScratch::allocate(arena, problem, plan, kernels)
            }),
            schedule: Schedule::allocate(arena, problem),
            partials: arena.alloc(partials),
        }
    }

    /// The scratch of a worker.
    fn scratch(
        &self,
        worker: usize,
        problem: &Problem,
        plan: &ForwardPlan<'_>,
        kernels: &Kernels,
    ) -> ForwardScratch {
        ForwardScratch::allocate(&mut self.workers.part(worker), problem, plan, kernels)
    }
}

/// A call that runs.
struct ForwardRun<'a> {
    call: &'a Forward,
    plan: &'a ForwardPlan<'a>,
    kernels: &'a Kernels,
    workspace: Workspace,
    schedule: Schedule<'a>,
    score_mod: ScoreMod<'a>,
}

/// Runs a call. `memory` holds at least [`workspace`] bytes.
pub(crate) fn run(
    call: &Forward,
    plan: &ForwardPlan<'_>,
    kernels: &Kernels,
    pool: &Pool,
    memory: &Aligned,
) {
    let problem = &call.problem;
    let workspace = Workspace::allocate(&mut Arena::new(memory.ptr()), problem, plan, kernels);
    // SAFETY: allocated for this problem, in memory that this call owns.
    let schedule = unsafe { Schedule::new(problem, plan, workspace.schedule) };
    let run = ForwardRun {
        call,
        plan,
        kernels,
        workspace,
        schedule,
        score_mod: ScoreMod::new(problem, kernels),
    };
    pool.run(plan.workers, run.schedule.items(), |worker, item| {
        run.run_item(worker, item);
    });
    if plan.splits > 1 {
        pool.run(plan.workers, run.schedule.tiles(), |_, tile| {
            run.merge_splits(tile);
        });
    }
}

impl ForwardRun<'_> {
    /// Computes an item, and stores its rows: the results, or those of a split.
    fn run_item(&self, worker: usize, number: usize) {
        let (problem, plan, kernels) = (&self.call.problem, self.plan, self.kernels);
        let score_mod = &self.score_mod;
        let item = self.schedule.item(number);
        let scratch = &self.workspace.scratch(worker, problem, plan, kernels);
        // SAFETY: the scratch was allocated for this problem and plan, and workers do not share numbers.
        unsafe {
            match scratch {
                ForwardScratch::Prefill(scratch) => Prefill {
                    problem,
                    plan,
                    kernels,
                    score_mod,
                    scratch,
                }
                .run(&item),
                ForwardScratch::Decode(scratch) => {
                    Decode::new(problem, kernels, score_mod, scratch).run(&item);
                }
            }
        }
        if plan.splits == 1 {
            self.store_rows(&item, scratch);
        } else {
            self.store_partials(number, item.rows.len(), scratch);
        }
    }

    /// Writes the results of an item's rows.
    fn store_rows(&self, item: &WorkTile, scratch: &ForwardScratch) {
        let epilogue = self.epilogue(item);
        for r in 0..item.rows.len() {
            write_row(&epilogue, item, r, self.row(scratch, r));
        }
    }

    /// Keeps the rows of an item until [`ForwardRun::merge_splits`].
    fn store_partials(&self, number: usize, rows: usize, scratch: &ForwardScratch) {
        for r in 0..rows {
            let row = self.row(scratch, r);
            let out = self.partial(number, r);
            // SAFETY: the item's own partial results.
            unsafe {
                out.write(row.m);
                out.add(1).write(row.l);
                out.add(2).write(row.left);
                let o = row.o.as_ptr();
                o.copy_to_nonoverlapping(out.add(3), row.o.len());
            }
        }
    }

    /// Merges the splits of a tile in order, and writes the results.
    fn merge_splits(&self, tile: usize) {
        let first = tile * self.plan.splits;
        let item = self.schedule.item(first);
        let epilogue = self.epilogue(&item);
        for r in 0..item.rows.len() {
            let row = |split: usize| {
                let at = self.partial(first + split, r);
                // SAFETY: a partial result of this tile; all were written before the merge began.
                unsafe {
                    PartialRow {
                        m: *at,
                        l: *at.add(1),
                        left: *at.add(2),
                        o: std::slice::from_raw_parts_mut(at.add(3), self.call.problem.dv),
                    }
                }
            };
            let mut sum = row(0);
            for split in 1..self.plan.splits {
                epilogue::merge(&mut sum, &row(split));
            }
            write_row(&epilogue, &item, r, sum);
        }
    }

    /// The partial result of an item's row `r`.
    fn partial(&self, number: usize, r: usize) -> *mut f32 {
        let row = number * self.plan.tile_rows + r;
        (self.workspace.partials).wrapping_add(row * partial_len(&self.call.problem))
    }

    /// Row `r` of the item that a worker has computed.
    fn row<'s>(&self, scratch: &'s ForwardScratch, r: usize) -> PartialRow<'s> {
        let results = scratch.results();
        let dv = self.call.problem.dv;
        let ldo = padded(dv, self.kernels);
        // SAFETY: a row of the item, in the worker's scratch; one is in use at a time.
        unsafe {
            PartialRow {
                m: *results.m.add(r),
                l: *results.l.add(r),
                left: *results.left.add(r),
                o: std::slice::from_raw_parts_mut(results.o.add(r * ldo), dv),
            }
        }
    }

    /// The epilogue of an item's key/value head.
    fn epilogue(&self, item: &WorkTile) -> Epilogue<'_> {
        let v = &self.call.problem.v;
        let at = (item.rows.sequence.batch, item.rows.kv_head);
        let (v_scale, v_mean) = match (self.plan.path, self.plan.values) {
            (Algorithm::Decode, _) => decode::deferred(v, at),
            // Dequantized rows have both.
            (Algorithm::Prefill, ValueArithmetic::F32 | ValueArithmetic::Bf16(..)) => (1.0, None),
            (Algorithm::Prefill, ValueArithmetic::I16(quant) | ValueArithmetic::U8(quant)) => {
                let scale = quant.constant().map_or(1.0, |(scale, _)| scale);
                (scale, v.mean(at.0, at.1))
            }
        };
        Epilogue {
            kernels: self.kernels,
            call: self.call,
            v_scale,
            v_mean,
        }
    }
}

fn write_row(epilogue: &Epilogue<'_>, item: &WorkTile, r: usize, row: PartialRow<'_>) {
    let (head, i) = item.rows.head_and_row(r);
    let sequence = &item.rows.sequence;
    epilogue.write_row(sequence.batch, head, sequence.q0 + i, row);
}
