//! Forward: online softmax over blocks of keys, a few query rows at a time.

use super::score_block::{BlockCoords, RowBlock, ScoreBlock, add, runs};
use super::{KEYS, ROWS, workers};
use crate::contract::problem::Problem;
use crate::contract::sequences::Numbering;
use crate::forward::Forward;
use crate::runtime::memory::{Aligned, Arena, PerWorker};
use crate::runtime::pool::Pool;

/// The memory of a worker.
struct Fp64Scratch {
    q: RowBlock,
    k: RowBlock,
    v: RowBlock,
    scores: ScoreBlock,
    o: RowBlock,
}

impl Fp64Scratch {
    fn allocate(arena: &mut Arena, problem: &Problem) -> Self {
        Fp64Scratch {
            q: RowBlock::allocate(arena, ROWS, problem.d),
            k: RowBlock::allocate(arena, KEYS, problem.d),
            v: RowBlock::allocate(arena, KEYS, problem.dv),
            scores: ScoreBlock::allocate(arena),
            o: RowBlock::allocate(arena, ROWS, problem.dv),
        }
    }
}

/// The scratch of workers, and the room for the numbers of items.
fn allocate(arena: &mut Arena, problem: &Problem, threads: usize) -> (PerWorker, *mut usize) {
    let scratch = PerWorker::allocate(arena, workers(problem.work(), threads), |arena| {
        Fp64Scratch::allocate(arena, problem)
    });
    (scratch, Numbering::allocate(arena, &problem.sequences))
}

/// Bytes of memory that the call needs beside its outputs.
pub(crate) fn workspace(problem: &Problem, threads: usize) -> usize {
    let mut arena = Arena::default();
    allocate(&mut arena, problem, threads);
    arena.used()
}

/// Runs a call. `memory` holds at least [`workspace`] bytes.
pub(crate) fn run(call: &Forward, pool: &Pool, threads: usize, memory: &Aligned) {
    let problem = &call.problem;
    let (scratch, room) = allocate(&mut Arena::new(memory.ptr()), problem, threads);
    // SAFETY: laid out for these sequences, in memory that is this call's.
    let items = unsafe {
        Numbering::new(room, &problem.sequences, |sequence| {
            problem.heads.saturating_mul(sequence.nq.div_ceil(ROWS))
        })
    };
    let threads = workers(problem.work(), threads);
    pool.run(threads, items.total(), |worker, item| {
        let (sequence, head, rows) = items.block(item, &problem.sequences, |s| s.nq, ROWS);
        let coords = BlockCoords {
            sequence: &sequence,
            head,
            rows,
            keys: 0..sequence.nk,
        };
        let scratch = Fp64Scratch::allocate(&mut scratch.part(worker), problem);
        tile(call, &coords, scratch);
    });
}

/// The rows of a coords on all of its keys.
fn tile(call: &Forward, coords: &BlockCoords<'_>, mut scratch: Fp64Scratch) {
    let (problem, sequence) = (&call.problem, coords.sequence);
    let (b, kv_head) = (sequence.batch, coords.head / problem.group);
    let in_tensor =
        |range: &std::ops::Range<usize>, first: usize| first + range.start..first + range.end;
    let n = coords.rows.len();
    let mut m = [f64::NEG_INFINITY; ROWS];
    let mut l = [0.0; ROWS];
    scratch.o.clear(n);
    (scratch.q).load(
        &problem.q,
        (b, coords.head),
        in_tensor(&coords.rows, sequence.q0),
    );
    for keys in runs(coords.keys.clone(), KEYS) {
        scratch
            .k
            .load(&problem.k, (b, kv_head), in_tensor(&keys, sequence.k0));
        scratch
            .v
            .load(&problem.v, (b, kv_head), in_tensor(&keys, sequence.k0));
        let block = BlockCoords {
            keys: keys.clone(),
            ..coords.clone()
        };
        scratch
            .scores
            .compute(problem, &block, &scratch.q, &scratch.k);
        for r in 0..n {
            let s = &scratch.scores.s.row(r)[..keys.len()];
            let top = s
                .iter()
                .fold(m[r], |top, x| if *x > top || x.is_nan() { *x } else { top });
            if top == f64::NEG_INFINITY {
                continue;
            }
            let alpha = (m[r] - top).exp();
            let o = scratch.o.row_mut(r);
            o.iter_mut().for_each(|x| *x *= alpha);
            l[r] *= alpha;
            m[r] = top;
            for (c, s) in s
                .iter()
                .enumerate()
                .filter(|(_, s)| **s != f64::NEG_INFINITY)
            {
                let p = (s - top).exp();
                l[r] += p;
                add(o, p, scratch.v.row(c));
            }
        }
    }
    for (r, i) in coords.rows.clone().enumerate() {
        let sinks = problem.options.sinks.as_ref();
        let sink = sinks.map_or(f64::NEG_INFINITY, |sinks| sinks.get([0, coords.head, 0, 0]));
        let top = if sink > m[r] || sink.is_nan() {
            sink
        } else {
            m[r]
        };
        let at = [b, coords.head, sequence.q0 + i];
        let (mut weight, mut all) = (0.0, 0.0);
        if top != f64::NEG_INFINITY {
            weight = (m[r] - top).exp();
            all = l[r] * weight + (sink - top).exp();
        }
        let factor = if all == 0.0 { 0.0 } else { weight / all };
        for (c, x) in scratch.o.row(r).iter().enumerate() {
            call.output.set([at[0], at[1], at[2], c], factor * x);
        }
        if let Some(logsumexp) = &call.logsumexp {
            logsumexp.set([at[0], at[1], at[2], 0], top + all.ln());
        }
    }
}
