//! Backward: D and dQ by query rows, dK and dV by keys, the gradients of mask and sinks by their own elements.

use std::ops::Range;

use super::score_block::{BlockCoords, RowBlock, ScoreBlock, add, dot, runs};
use super::{KEYS, ROWS, workers};
use crate::backward::{Backward, clear_spare_keys, sink};
use crate::contract::problem::Problem;
use crate::contract::sequences::{Numbering, Sequence};
use crate::runtime::memory::{Aligned, Arena, PerWorker};
use crate::runtime::pool::Pool;

/// The memory of a worker.
struct Fp64Scratch {
    q: RowBlock,
    k: RowBlock,
    v: RowBlock,
    grad: RowBlock,
    scores: ScoreBlock,
    /// P, and dS after the softcap.
    p: RowBlock,
    ds: RowBlock,
    /// Accumulators.
    dq: RowBlock,
    dk: RowBlock,
    dv: RowBlock,
}

impl Fp64Scratch {
    fn allocate(arena: &mut Arena, problem: &Problem) -> Self {
        let (d, dv) = (problem.d, problem.dv);
        Fp64Scratch {
            q: RowBlock::allocate(arena, ROWS, d),
            k: RowBlock::allocate(arena, KEYS, d),
            v: RowBlock::allocate(arena, KEYS, dv),
            grad: RowBlock::allocate(arena, ROWS, dv),
            scores: ScoreBlock::allocate(arena),
            p: RowBlock::allocate(arena, ROWS, KEYS),
            ds: RowBlock::allocate(arena, ROWS, KEYS),
            dq: RowBlock::allocate(arena, ROWS, d),
            dk: RowBlock::allocate(arena, KEYS, d),
            dv: RowBlock::allocate(arena, KEYS, dv),
        }
    }
}

/// The division of the call's memory.
struct Workspace {
    workers: PerWorker,
    /// D of `[batch, heads, rows]`, unless the caller's tensor has it.
    d: *mut f64,
    queries: *mut usize,
    keys: *mut usize,
}

// SAFETY: each worker uses its own scratch; items write the D of their own rows.
unsafe impl Sync for Workspace {}

impl Workspace {
    fn allocate(arena: &mut Arena, call: &Backward, threads: usize) -> Self {
        let problem = &call.problem;
        let [batch, heads, rows, _] = problem.q.shape;
        let kept = match call.d_values {
            None if call.needs_d() => batch.saturating_mul(heads).saturating_mul(rows),
            _ => 0,
        };
        Workspace {
            workers: PerWorker::allocate(arena, workers(problem.work(), threads), |arena| {
                Fp64Scratch::allocate(arena, problem)
            }),
            d: arena.alloc(kept),
            queries: Numbering::allocate(arena, &problem.sequences),
            keys: Numbering::allocate(arena, &problem.sequences),
        }
    }

    fn scratch(&self, worker: usize, problem: &Problem) -> Fp64Scratch {
        Fp64Scratch::allocate(&mut self.workers.part(worker), problem)
    }
}

/// Bytes of memory that the call needs beside its outputs.
pub(crate) fn workspace(call: &Backward, threads: usize) -> usize {
    let mut arena = Arena::default();
    Workspace::allocate(&mut arena, call, threads);
    arena.used()
}

/// Runs a call. `memory` holds at least [`workspace`] bytes.
pub(crate) fn run(call: &Backward, pool: &Pool, threads: usize, memory: &Aligned) {
    let problem = &call.problem;
    let sequences = &problem.sequences;
    let room = Workspace::allocate(&mut Arena::new(memory.ptr()), call, threads);
    let threads = workers(problem.work(), threads);
    let pass = Pass { call, room: &room };
    // SAFETY: laid out for these sequences, in memory that is this call's.
    let (queries, keys) = unsafe {
        (
            Numbering::new(room.queries, sequences, |sequence| {
                problem.heads.saturating_mul(sequence.nq.div_ceil(ROWS))
            }),
            Numbering::new(room.keys, sequences, |sequence| {
                problem.kv_heads.saturating_mul(sequence.nk.div_ceil(KEYS))
            }),
        )
    };
    if call.needs_d() || call.grad_query.is_some() {
        pool.run(threads, queries.total(), |worker, item| {
            let (sequence, head, rows) = queries.block(item, sequences, |s| s.nq, ROWS);
            pass.queries(&sequence, head, rows, room.scratch(worker, problem));
        });
    }
    if call.grad_key.is_some() || call.grad_value.is_some() {
        pool.run(threads, keys.total(), |worker, item| {
            let (sequence, head, rows) = keys.block(item, sequences, |s| s.nk, KEYS);
            pass.keys(&sequence, head, rows, room.scratch(worker, problem));
        });
    }
    clear_spare_keys(call, pool, threads);
    if let Some(gradient) = &call.grad_mask {
        let [batch, heads, ..] = gradient.shape;
        pool.run(threads, batch * heads, |worker, item| {
            pass.mask(item / heads, item % heads, room.scratch(worker, problem));
        });
    }
    if call.grad_sinks.is_some() {
        pool.run(threads, problem.heads, |_, head| {
            sink(call, head, |b, row| pass.d(b, head, row));
        });
    }
}

struct Pass<'a> {
    call: &'a Backward,
    room: &'a Workspace,
}

impl Pass<'_> {
    /// D of a row, less the gradient of its logsumexp.
    fn d(&self, b: usize, h: usize, row: usize) -> f64 {
        let gradient = self.call.grad_logsumexp.as_ref();
        self.stored_d(b, h, row) - gradient.map_or(0.0, |gradient| gradient.get([b, h, row, 0]))
    }

    fn stored_d(&self, b: usize, h: usize, row: usize) -> f64 {
        match &self.call.d_values {
            Some(tensor) => tensor.get([b, h, row, 0]),
            // SAFETY: a row of the problem; the array is there where D is needed.
            None => unsafe { self.saved_d(b, h, row).read() },
        }
    }

    fn saved_d(&self, b: usize, h: usize, row: usize) -> *mut f64 {
        let [_, heads, rows, _] = self.call.problem.q.shape;
        self.room.d.wrapping_add((b * heads + h) * rows + row)
    }

    fn store_d(&self, b: usize, h: usize, row: usize, x: f64) {
        match &self.call.d_values {
            Some(tensor) => tensor.set([b, h, row, 0], x),
            // SAFETY: as for `stored_d`; a row belongs to one item.
            None => unsafe { self.saved_d(b, h, row).write(x) },
        }
    }

    /// Loads the query rows of a coords and their dO.
    fn load_queries(&self, coords: &BlockCoords<'_>, scratch: &mut Fp64Scratch) {
        let (problem, sequence) = (&self.call.problem, coords.sequence);
        let at = (sequence.batch, coords.head);
        let rows = sequence.q0 + coords.rows.start..sequence.q0 + coords.rows.end;
        scratch.q.load(&problem.q, at, rows.clone());
        scratch.grad.load(&self.call.grad_output, at, rows);
    }

    /// Loads the keys and values of a coords.
    fn load_keys(&self, coords: &BlockCoords<'_>, scratch: &mut Fp64Scratch) {
        let (problem, sequence) = (&self.call.problem, coords.sequence);
        let at = (sequence.batch, coords.head / problem.group);
        let rows = sequence.k0 + coords.keys.start..sequence.k0 + coords.keys.end;
        scratch.k.load(&problem.k, at, rows.clone());
        scratch.v.load(&problem.v, at, rows);
    }

    /// P and, if D is known, P (dP - D) of a coords; without D, P dP. Of a masked key both are 0, whatever it holds.
    fn weigh(&self, coords: &BlockCoords<'_>, with_d: bool, scratch: &mut Fp64Scratch) {
        let (call, sequence) = (self.call, coords.sequence);
        (scratch.scores).compute(&call.problem, coords, &scratch.q, &scratch.k);
        for (r, i) in coords.rows.clone().enumerate() {
            let (b, h, row) = (sequence.batch, coords.head, sequence.q0 + i);
            let l = call.logsumexp.get([b, h, row, 0]);
            let d = if with_d { self.d(b, h, row) } else { 0.0 };
            for c in 0..coords.keys.len() {
                let s = scratch.scores.s.row(r)[c];
                let (mut p, mut ds) = (0.0, 0.0);
                if s != f64::NEG_INFINITY && l != f64::NEG_INFINITY {
                    p = (s - l).exp();
                    ds = p * (dot(scratch.grad.row(r), scratch.v.row(c)) - d);
                }
                scratch.p.row_mut(r)[c] = p;
                scratch.ds.row_mut(r)[c] = ds;
            }
        }
    }

    /// Calls `each` with the blocks of keys that these rows see.
    fn over_keys(&self, coords: &BlockCoords<'_>, mut each: impl FnMut(&BlockCoords<'_>)) {
        for keys in runs(coords.keys.clone(), KEYS) {
            each(&BlockCoords {
                keys,
                ..coords.clone()
            });
        }
    }

    /// D and dQ of some query rows.
    fn queries(
        &self,
        sequence: &Sequence,
        head: usize,
        rows: Range<usize>,
        mut scratch: Fp64Scratch,
    ) {
        let call = self.call;
        let (b, q0) = (sequence.batch, sequence.q0);
        let coords = BlockCoords {
            sequence,
            head,
            rows: rows.clone(),
            keys: 0..sequence.nk,
        };
        self.load_queries(&coords, &mut scratch);
        if call.needs_d() {
            let mut d = [0.0; ROWS];
            match &call.output {
                Some(output) => {
                    for (r, i) in rows.clone().enumerate() {
                        let l = call.logsumexp.get([b, head, q0 + i, 0]);
                        let o = |c: usize| output.get([b, head, q0 + i, c]);
                        if l != f64::NEG_INFINITY {
                            let grad = scratch.grad.row(r).iter().enumerate();
                            d[r] = grad.map(|(c, x)| x * o(c)).sum();
                        }
                    }
                }
                None => self.over_keys(&coords, |block| {
                    self.load_keys(block, &mut scratch);
                    self.weigh(block, false, &mut scratch);
                    for (r, d) in d.iter_mut().enumerate().take(rows.len()) {
                        *d += scratch.ds.row(r)[..block.keys.len()].iter().sum::<f64>();
                    }
                }),
            }
            for (r, i) in rows.clone().enumerate() {
                self.store_d(b, head, q0 + i, d[r]);
            }
        }
        let Some(gradient) = &call.grad_query else {
            return;
        };
        scratch.dq.clear(rows.len());
        self.over_keys(&coords, |block| {
            self.load_keys(block, &mut scratch);
            self.weigh(block, true, &mut scratch);
            for r in 0..rows.len() {
                for c in 0..block.keys.len() {
                    let ds = scratch.ds.row(r)[c] * scratch.scores.slope.row(r)[c];
                    if scratch.p.row(r)[c] != 0.0 {
                        add(scratch.dq.row_mut(r), ds, scratch.k.row(c));
                    }
                }
            }
        });
        for (r, i) in rows.enumerate() {
            for (c, x) in scratch.dq.row(r).iter().enumerate() {
                gradient.set([b, head, q0 + i, c], call.problem.options.exact_scale * x);
            }
        }
    }

    /// dK and dV of some keys.
    fn keys(
        &self,
        sequence: &Sequence,
        kv_head: usize,
        keys: Range<usize>,
        mut scratch: Fp64Scratch,
    ) {
        let (call, problem) = (self.call, &self.call.problem);
        scratch.dk.clear(keys.len());
        scratch.dv.clear(keys.len());
        for head in kv_head * problem.group..(kv_head + 1) * problem.group {
            for rows in runs(0..sequence.nq, ROWS) {
                let coords = BlockCoords {
                    sequence,
                    head,
                    rows: rows.clone(),
                    keys: keys.clone(),
                };
                self.load_queries(&coords, &mut scratch);
                self.load_keys(&coords, &mut scratch);
                self.weigh(&coords, call.grad_key.is_some(), &mut scratch);
                for r in 0..rows.len() {
                    for c in 0..keys.len() {
                        let (p, ds) = (scratch.p.row(r)[c], scratch.ds.row(r)[c]);
                        if p != 0.0 {
                            add(scratch.dv.row_mut(c), p, scratch.grad.row(r));
                            let ds = ds * scratch.scores.slope.row(r)[c];
                            add(scratch.dk.row_mut(c), ds, scratch.q.row(r));
                        }
                    }
                }
            }
        }
        for (c, j) in keys.enumerate() {
            let (b, row) = (sequence.batch, sequence.k0 + j);
            if let Some(gradient) = &call.grad_key {
                for (column, x) in scratch.dk.row(c).iter().enumerate() {
                    gradient.set([b, kv_head, row, column], problem.options.exact_scale * x);
                }
            }
            if let Some(gradient) = &call.grad_value {
                for (column, x) in scratch.dv.row(c).iter().enumerate() {
                    gradient.set([b, kv_head, row, column], *x);
                }
            }
        }
    }

    /// The gradient of a mask's batch and head: all that is broadcast from there, in order.
    fn mask(&self, b: usize, h: usize, mut scratch: Fp64Scratch) {
        let (call, problem) = (self.call, &self.call.problem);
        let Some(gradient) = &call.grad_mask else {
            return;
        };
        let shape = gradient.shape;
        for i in 0..shape[2] {
            (0..shape[3]).for_each(|j| gradient.set([b, h, i, j], 0.0));
        }
        let all = |size: usize, one: usize, broadcast: bool| match broadcast {
            true => 0..size,
            false => one..one + 1,
        };
        for index in all(problem.sequences.named, b, shape[0] == 1) {
            let sequence = problem.sequences.get(index);
            for head in all(problem.heads, h, shape[1] == 1) {
                for rows in runs(0..sequence.nq, ROWS) {
                    let coords = BlockCoords {
                        sequence: &sequence,
                        head,
                        rows: rows.clone(),
                        keys: 0..sequence.nk,
                    };
                    self.load_queries(&coords, &mut scratch);
                    self.over_keys(&coords, |block| {
                        self.load_keys(block, &mut scratch);
                        self.weigh(block, true, &mut scratch);
                        for (r, i) in rows.clone().enumerate() {
                            for (c, j) in block.keys.clone().enumerate() {
                                let i = if shape[2] == 1 { 0 } else { i };
                                let j = if shape[3] == 1 { 0 } else { j };
                                let at = [b, h, i, j];
                                gradient.set(at, gradient.get(at) + scratch.ds.row(r)[c]);
                            }
                        }
                    });
                }
            }
        }
    }
}
