//! The forward pass: items of a [`Schedule`] run by workers, splits merged in order.

mod bf16_split;
mod block_sizes;
mod check;
mod decode;
mod epilogue;
mod pack;
pub(crate) mod plan;
mod prefill;
mod schedule;
mod score_mod;

pub(crate) use check::Forward;
pub(crate) use schedule::{Schedule, count as count_tiles};

use crate::contract::problem::Problem;
use crate::error::Result;
use crate::forward::plan::{Algorithm, ForwardPlan};
use crate::operands::arithmetic::Values;
use crate::operands::padding::padded;
use crate::runtime::memory::{Aligned, Arena, PerWorker};
use crate::runtime::pool::Pool;
use mfa_kernels::Kernels;

use epilogue::{Epilogue, PartialRow};
use schedule::WorkTile;
use score_mod::ScoreMod;

enum Scratch {
    Prefill(prefill::Scratch),
    Decode(decode::Scratch),
}

impl Scratch {
    fn allocate(
        arena: &mut Arena,
        problem: &Problem,
        plan: &ForwardPlan,
        kernels: &Kernels,
    ) -> Self {
        match plan.path {
            Algorithm::Prefill => {
                Scratch::Prefill(prefill::Scratch::allocate(arena, problem, plan, kernels))
            }
            Algorithm::Decode => {
                Scratch::Decode(decode::Scratch::allocate(arena, problem, kernels))
            }
        }
    }

    /// O, maxima, sums, and what rounding left out of them.
    fn results(&self) -> (*mut f32, [*mut f32; 3]) {
        match self {
            Scratch::Prefill(s) => (s.o, [s.m, s.l, s.left]),
            Scratch::Decode(s) => (s.o, [s.m, s.l, s.left]),
        }
    }
}

/// Floats that a split leaves behind per row: maximum, sum, what rounding left out of it, and O.
fn partial_len(problem: &Problem) -> usize {
    3 + problem.dv
}

/// Bytes that the call allocates beside its outputs, at most: what [`workspace`] rounds up to, and lists of sequences.
pub(crate) fn allocated(problem: &Problem, plan: &ForwardPlan, kernels: &Kernels) -> usize {
    Aligned::size_for(workspace(problem, plan, kernels)).saturating_add(problem.sequences.bytes())
}

/// Bytes of memory that the call needs beside its outputs: each worker's scratch, then the splits' partial results.
pub(crate) fn workspace(problem: &Problem, plan: &ForwardPlan, kernels: &Kernels) -> usize {
    let mut arena = Arena::default();
    Workspace::allocate(&mut arena, problem, plan, kernels);
    arena.used()
}

/// What the call's memory is divided into.
struct Workspace {
    workers: PerWorker,
    schedule: *mut usize,
    partials: *mut f32,
}

// SAFETY: each worker uses its own scratch, and items write disjoint parts of the partial results.
unsafe impl Sync for Workspace {}

impl Workspace {
    fn allocate(
        arena: &mut Arena,
        problem: &Problem,
        plan: &ForwardPlan,
        kernels: &Kernels,
    ) -> Self {
        let partials = if plan.splits > 1 {
            let items = count_tiles(problem, plan).saturating_mul(plan.splits);
            items
                .saturating_mul(plan.tile_rows)
                .saturating_mul(partial_len(problem))
        } else {
            0
        };
        Workspace {
            workers: PerWorker::allocate(arena, plan.workers, |arena| {
                Scratch::allocate(arena, problem, plan, kernels)
            }),
            schedule: Schedule::allocate(arena, problem),
            partials: arena.alloc(partials),
        }
    }

    /// Taken through a method, so that closures capture the whole and not the bare pointer.
    fn partials(&self) -> *mut f32 {
        self.partials
    }

    /// The scratch of a worker.
    fn scratch(
        &self,
        worker: usize,
        problem: &Problem,
        plan: &ForwardPlan,
        kernels: &Kernels,
    ) -> Scratch {
        Scratch::allocate(&mut self.workers.part(worker), problem, plan, kernels)
    }
}

/// Runs a call. `memory` holds at least [`workspace`] bytes.
pub(crate) fn run(
    call: &Forward,
    plan: &ForwardPlan,
    kernels: &Kernels,
    pool: &Pool,
    memory: &Aligned,
) -> Result<()> {
    let problem = &call.problem;
    let room = Workspace::allocate(&mut Arena::new(memory.ptr()), problem, plan, kernels);
    // SAFETY: laid out for this problem, in memory that is this call's.
    let schedule = unsafe { Schedule::new(problem, plan, room.schedule) };
    let bias = ScoreMod::new(problem, kernels);
    let partial = partial_len(problem);
    let item_len = plan.tile_rows * partial;
    pool.run(plan.workers, schedule.items(), |worker, number| {
        let item = schedule.item(number);
        let scratch = &room.scratch(worker, problem, plan, kernels);
        // SAFETY: the scratch was laid out for this problem and plan, and worker numbers are not shared.
        unsafe {
            match scratch {
                Scratch::Prefill(scratch) => prefill::Tile {
                    problem,
                    plan,
                    kernels,
                    bias: &bias,
                    scratch,
                }
                .run(&item),
                Scratch::Decode(scratch) => decode::Decode {
                    problem,
                    kernels,
                    bias: &bias,
                    scratch,
                }
                .run(&item),
            }
        }
        let (o, [m, l, left]) = scratch.results();
        let ldo = padded(problem.dv, kernels);
        let epilogue = (plan.splits == 1).then(|| epilogue_of(call, plan, kernels, &item));
        for r in 0..item.rows.len() {
            // SAFETY: the item's rows of the scratch; the item's own part of the partial results.
            unsafe {
                let part = PartialRow {
                    m: *m.add(r),
                    l: *l.add(r),
                    left: *left.add(r),
                    o: std::slice::from_raw_parts_mut(o.add(r * ldo), problem.dv),
                };
                match &epilogue {
                    Some(epilogue) => write_row(epilogue, &item, r, part),
                    None => {
                        let out = room.partials().add(number * item_len + r * partial);
                        out.write(part.m);
                        out.add(1).write(part.l);
                        out.add(2).write(part.left);
                        part.o
                            .as_ptr()
                            .copy_to_nonoverlapping(out.add(3), problem.dv);
                    }
                }
            }
        }
    });

    if plan.splits > 1 {
        pool.run(plan.workers, schedule.tiles(), |_, tile| {
            let first = tile * plan.splits;
            let item = schedule.item(first);
            let epilogue = epilogue_of(call, plan, kernels, &item);
            for r in 0..item.rows.len() {
                // SAFETY: the partial results of this tile's items, all written before this second run began.
                let row = |split: usize| unsafe {
                    let at = room
                        .partials()
                        .add((first + split) * item_len + r * partial);
                    PartialRow {
                        m: *at,
                        l: *at.add(1),
                        left: *at.add(2),
                        o: std::slice::from_raw_parts_mut(at.add(3), problem.dv),
                    }
                };
                let mut sum = row(0);
                for split in 1..plan.splits {
                    epilogue::merge(&mut sum, &row(split));
                }
                write_row(&epilogue, &item, r, sum);
            }
        });
    }
    Ok(())
}

/// What the rows of an item's key/value head share at the end.
fn epilogue_of<'a>(
    call: &'a Forward,
    plan: &ForwardPlan,
    kernels: &'a Kernels,
    item: &WorkTile,
) -> Epilogue<'a> {
    let v = &call.problem.v;
    let at = (item.rows.sequence.batch, item.rows.kv_head);
    let (v_scale, v_mean) = match (plan.path, plan.values) {
        (Algorithm::Decode, _) => decode::deferred(v, at),
        // Floats had both while they were dequantized.
        (Algorithm::Prefill, Values::F32 | Values::Bf16(_)) => (1.0, None),
        (Algorithm::Prefill, _) => {
            let constant = v.quant.as_ref().and_then(|quant| quant.constant());
            (constant.map_or(1.0, |(scale, _)| scale), v.mean(at.0, at.1))
        }
    };
    Epilogue {
        kernels,
        call,
        v_scale,
        v_mean,
    }
}

fn write_row(epilogue: &Epilogue<'_>, item: &WorkTile, r: usize, part: PartialRow<'_>) {
    let (head, i) = item.rows.head_and_row(r);
    let sequence = &item.rows.sequence;
    epilogue.row(sequence.batch, head, sequence.q0 + i, part);
}
