//! The forward pass: items of a [`Schedule`] run by workers, splits merged in order.

mod bias;
mod decode;
mod finish;
mod pack;
mod parts;
mod schedule;
mod tile;

pub(crate) use bias::LOG2_E;
pub(crate) use finish::{store_row, store_scaled_row};
pub(crate) use schedule::Schedule;

use crate::error::Result;
use crate::kernels::Kernels;
use crate::memory::{Aligned, Arena};
use crate::plan::{Loop, Plan, Values};
use crate::pool::Pool;
use crate::problem::{Forward, Problem};
use crate::sizes::padded;

use bias::Bias;
use finish::{Finish, Partial};
use schedule::Item;

enum Scratch {
    Tile(tile::Scratch),
    Decode(decode::Scratch),
}

impl Scratch {
    fn lay_out(arena: &mut Arena, problem: &Problem, plan: &Plan, kernels: &Kernels) -> Self {
        match plan.path {
            Loop::Tile => Scratch::Tile(tile::Scratch::lay_out(arena, problem, plan, kernels)),
            Loop::Decode => Scratch::Decode(decode::Scratch::lay_out(arena, problem, kernels)),
        }
    }

    /// O, maxima and sums.
    fn results(&self) -> (*mut f32, *mut f32, *mut f32) {
        match self {
            Scratch::Tile(s) => (s.o, s.m, s.l),
            Scratch::Decode(s) => (s.o, s.m, s.l),
        }
    }
}

// SAFETY: each worker uses its own scratch.
unsafe impl Sync for Scratch {}

/// Floats that a split leaves behind per row: O, maximum, sum.
fn partial_len(problem: &Problem) -> usize {
    problem.dv + 2
}

/// Bytes of memory that the call needs beside its outputs: each worker's scratch, then the splits' partial results.
pub(crate) fn workspace(problem: &Problem, plan: &Plan, kernels: &Kernels) -> usize {
    let mut worker = Arena::default();
    Scratch::lay_out(&mut worker, problem, plan, kernels);
    let items = Schedule::new(problem, plan).items();
    let partials = if plan.splits > 1 {
        items * plan.tile_rows * partial_len(problem) * 4
    } else {
        0
    };
    worker.used() * plan.workers + partials
}

/// Runs a call. `memory` holds at least [`workspace`] bytes.
pub(crate) fn run(
    call: &Forward,
    plan: &Plan,
    kernels: &Kernels,
    pool: &Pool,
    memory: &Aligned,
) -> Result<()> {
    let problem = &call.problem;
    let schedule = Schedule::new(problem, plan);
    let mut arena = Arena::new(memory.ptr());
    let scratch: Vec<_> = (0..plan.workers)
        .map(|_| Scratch::lay_out(&mut arena, problem, plan, kernels))
        .collect();
    let bias = Bias::new(problem, kernels);
    let partial = partial_len(problem);
    let item_len = plan.tile_rows * partial;
    let partials = if plan.splits > 1 {
        arena.take::<f32>(schedule.items() * item_len)
    } else {
        std::ptr::null_mut()
    };
    let partials = Shared(partials);

    pool.run(plan.workers, schedule.items(), |worker, number| {
        let item = schedule.item(number);
        let scratch = &scratch[worker];
        // SAFETY: the scratch was laid out for this problem and plan, and worker numbers are not shared.
        unsafe {
            match scratch {
                Scratch::Tile(scratch) => tile::Tile {
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
        let (o, m, l) = scratch.results();
        let ldo = padded(problem.dv, kernels);
        let finish = (plan.splits == 1).then(|| finish_of(call, plan, kernels, &item));
        for r in 0..item.rows.len() {
            // SAFETY: the item's rows of the scratch; the item's own part of the partial results.
            unsafe {
                let part = Partial {
                    m: *m.add(r),
                    l: *l.add(r),
                    o: std::slice::from_raw_parts_mut(o.add(r * ldo), problem.dv),
                };
                match &finish {
                    Some(finish) => write_row(finish, &item, r, part),
                    None => {
                        let out = partials.get().add(number * item_len + r * partial);
                        out.write(part.m);
                        out.add(1).write(part.l);
                        part.o
                            .as_ptr()
                            .copy_to_nonoverlapping(out.add(2), problem.dv);
                    }
                }
            }
        }
    });

    if plan.splits > 1 {
        pool.run(plan.workers, schedule.tiles(), |_, tile| {
            let first = tile * plan.splits;
            let item = schedule.item(first);
            let finish = finish_of(call, plan, kernels, &item);
            for r in 0..item.rows.len() {
                // SAFETY: the partial results of this tile's items, all written before this second run began.
                let row = |split: usize| unsafe {
                    let at = partials.get().add((first + split) * item_len + r * partial);
                    Partial {
                        m: *at,
                        l: *at.add(1),
                        o: std::slice::from_raw_parts_mut(at.add(2), problem.dv),
                    }
                };
                let mut sum = row(0);
                for split in 1..plan.splits {
                    finish::merge(&mut sum, &row(split));
                }
                write_row(&finish, &item, r, sum);
            }
        });
    }
    Ok(())
}

/// What the rows of an item's key/value head share at the end.
fn finish_of<'a>(call: &'a Forward, plan: &Plan, kernels: &'a Kernels, item: &Item) -> Finish<'a> {
    let v = &call.problem.v;
    let at = (item.rows.sequence.batch, item.rows.kv_head);
    let (v_scale, v_mean) = match (plan.path, plan.values) {
        (Loop::Decode, _) => decode::deferred(v, at),
        // Floats had both while they were expanded.
        (Loop::Tile, Values::F32 | Values::Parts(_)) => (1.0, None),
        (Loop::Tile, _) => {
            let constant = v.quant.as_ref().and_then(|quant| quant.constant());
            (constant.map_or(1.0, |(scale, _)| scale), v.mean(at.0, at.1))
        }
    };
    Finish {
        kernels,
        call,
        v_scale,
        v_mean,
    }
}

fn write_row(finish: &Finish<'_>, item: &Item, r: usize, part: Partial<'_>) {
    let (head, i) = item.rows.place(r);
    let sequence = &item.rows.sequence;
    finish.row(sequence.batch, head, sequence.q0 + i, part);
}

/// A pointer that workers share; each writes its own part.
struct Shared(*mut f32);

impl Shared {
    /// Taken through a method, so that closures capture the wrapper and not the bare pointer.
    fn get(&self) -> *mut f32 {
        self.0
    }
}

// SAFETY: items write disjoint parts.
unsafe impl Sync for Shared {}
