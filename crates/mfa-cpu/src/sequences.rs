//! The sequences of a call: batch elements, or runs of rows of a packed batch.

use mfa_sys as sys;

use crate::error::{Error, Result, ensure};
use crate::memory::Arena;
use crate::problem::Options;
use crate::tensor::Array;

/// One sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sequence {
    /// Batch index of the operands.
    pub batch: usize,
    /// Batch index of the mask.
    pub index: usize,
    pub q0: usize,
    pub nq: usize,
    pub k0: usize,
    pub nk: usize,
    /// Key position of query row 0.
    pub shift: i64,
}

impl Sequence {
    /// The keys `lo..hi` that causality and window leave visible to query row `i`. Both ends grow with `i`.
    pub(crate) fn visible(&self, options: &Options, i: usize) -> (usize, usize) {
        let (at, nk) = (i as i64 + self.shift, self.nk as i64);
        let mut lo = 0;
        let mut hi = nk;
        if options.causal {
            hi = hi.min(at.saturating_add(1));
        }
        if let Some(right) = options.right {
            hi = hi.min(at.saturating_add(right).saturating_add(1));
        }
        if let Some(left) = options.left {
            lo = lo.max(at.saturating_sub(left));
        }
        let hi = hi.clamp(0, nk);
        (lo.clamp(0, hi) as usize, hi as usize)
    }
}

/// All sequences of a call. Batch elements that are alike take no memory, however many there are.
pub(crate) struct Sequences {
    kind: Kind,
    bottom_right: bool,
    /// Of all sequences.
    pub most_q: usize,
    pub most_k: usize,
    pub total_q: usize,
    pub total_k: usize,
    /// Pairs of a query and a key, over one head.
    pub pairs: f64,
}

enum Kind {
    /// Batch elements of the same lengths.
    Alike { count: usize, nq: usize, nk: usize },
    /// Runs of rows, from one bound to the next.
    Packed { q: Vec<usize>, k: Vec<usize> },
}

impl Sequences {
    pub(crate) fn dense(batch: usize, nq: usize, nk: usize, bottom_right: bool) -> Self {
        Sequences {
            kind: Kind::Alike {
                count: batch,
                nq,
                nk,
            },
            bottom_right,
            most_q: nq,
            most_k: nk,
            total_q: batch.saturating_mul(nq),
            total_k: batch.saturating_mul(nk),
            pairs: batch as f64 * nq as f64 * nk as f64,
        }
    }

    /// Packed sequences of `rows` of query and key.
    pub(crate) fn packed(
        raw: &sys::mfa_attention_options,
        rows: (usize, usize),
        bottom_right: bool,
    ) -> Result<Self> {
        let n = raw.sequence_count as usize;
        let q = bounds(
            n,
            (raw.cu_seqlens_q, raw.cu_seqlens_q_offset),
            rows.0,
            "cu_seqlens_q",
        )?;
        let k = bounds(
            n,
            (raw.cu_seqlens_k, raw.cu_seqlens_k_offset),
            rows.1,
            "cu_seqlens_k",
        )?;
        let mut all = Sequences {
            kind: Kind::Packed { q, k },
            bottom_right,
            most_q: 0,
            most_k: 0,
            total_q: rows.0,
            total_k: rows.1,
            pairs: 0.0,
        };
        for index in 0..n {
            let sequence = all.get(index);
            all.most_q = all.most_q.max(sequence.nq);
            all.most_k = all.most_k.max(sequence.nk);
            all.pairs += sequence.nq as f64 * sequence.nk as f64;
        }
        Ok(all)
    }

    pub(crate) fn len(&self) -> usize {
        match &self.kind {
            Kind::Alike { count, .. } => *count,
            Kind::Packed { q, .. } => q.len() - 1,
        }
    }

    pub(crate) fn get(&self, index: usize) -> Sequence {
        let (batch, q0, nq, k0, nk) = match &self.kind {
            Kind::Alike { nq, nk, .. } => (index, 0, *nq, 0, *nk),
            Kind::Packed { q, k } => {
                let (nq, nk) = (q[index + 1] - q[index], k[index + 1] - k[index]);
                (0, q[index], nq, k[index], nk)
            }
        };
        Sequence {
            batch,
            index,
            q0,
            nq,
            k0,
            nk,
            shift: if self.bottom_right {
                nk as i64 - nq as i64
            } else {
                0
            },
        }
    }

    /// Whether all sequences have the same lengths.
    pub(crate) fn are_alike(&self) -> bool {
        matches!(self.kind, Kind::Alike { .. })
    }

    /// The sequence that query row `row` of batch element `batch` belongs to.
    pub(crate) fn of_row(&self, batch: usize, row: usize) -> Option<Sequence> {
        match &self.kind {
            Kind::Alike { .. } => Some(self.get(batch)),
            // The last of those that begin here: the others are empty.
            Kind::Packed { q, .. } => {
                let index = q.partition_point(|&first| first <= row).checked_sub(1)?;
                (index + 1 < q.len()).then(|| self.get(index))
            }
        }
    }

    /// The sum of `f` over all sequences.
    pub(crate) fn sum(&self, f: impl Fn(&Sequence) -> usize) -> usize {
        if self.are_alike() {
            return match self.len() {
                0 => 0,
                n => n.saturating_mul(f(&self.get(0))),
            };
        }
        (0..self.len())
            .map(|index| f(&self.get(index)))
            .fold(0, usize::saturating_add)
    }

    /// Bytes of the lists behind packed sequences.
    pub(crate) fn bytes(&self) -> usize {
        match &self.kind {
            Kind::Alike { .. } => 0,
            Kind::Packed { q, k } => (q.capacity() + k.capacity()) * size_of::<usize>(),
        }
    }
}

/// The `n + 1` bounds of packed sequences.
fn bounds(
    n: usize,
    (buffer, offset): (sys::mfa_buffer_t, u64),
    rows: usize,
    what: &str,
) -> Result<Vec<usize>> {
    let array = Array::check(buffer, offset, 4 * (n as u128 + 1), 4, what)?;
    // SAFETY: `check` proved the n + 1 integers to be inside the buffer and aligned.
    let bounds = unsafe { std::slice::from_raw_parts(array.ptr.cast::<i32>(), n + 1) };
    ensure!(
        bounds[0] == 0,
        argument,
        "{what}: begins with {}; expected 0",
        bounds[0]
    );
    let mut out = reserve(n + 1)?;
    for &bound in bounds {
        // What was copied is checked, not what is read again.
        let last = out.last().copied().unwrap_or(0);
        ensure!(
            bound >= 0 && bound as usize >= last,
            argument,
            "{what}: falls from {last} to {bound}; expected never to fall"
        );
        out.push(bound as usize);
    }
    let end = out[n];
    ensure!(
        end == rows,
        argument,
        "{what}: ends with {end}; expected {rows}, the rows"
    );
    Ok(out)
}

/// An empty list with room for `count`, or the refusal where an absurd count does not fit memory.
pub(crate) fn reserve<T>(count: usize) -> Result<Vec<T>> {
    let mut out = Vec::new();
    out.try_reserve_exact(count)
        .map_err(|_| Error::allocation(format!("no memory for {count} sequences")))?;
    Ok(out)
}

/// Items of all sequences, numbered one sequence after the other.
pub(crate) struct Numbering<'a> {
    /// Items of each sequence, where all have the same number.
    each: usize,
    /// The first item of each sequence, and the total, where they have not.
    first: &'a [usize],
    total: usize,
}

impl<'a> Numbering<'a> {
    /// Takes the room that [`Numbering::new`] needs.
    pub(crate) fn lay_out(arena: &mut Arena, sequences: &Sequences) -> *mut usize {
        arena.take(Self::len(sequences))
    }

    fn len(sequences: &Sequences) -> usize {
        if sequences.are_alike() {
            0
        } else {
            sequences.len() + 1
        }
    }

    /// Numbers `items` of each sequence.
    ///
    /// # Safety
    /// `room` is what `lay_out` gave for these sequences, in memory that nobody else uses for `'a`.
    pub(crate) unsafe fn new(
        room: *mut usize,
        sequences: &Sequences,
        items: impl Fn(&Sequence) -> usize,
    ) -> Self {
        let n = Self::len(sequences);
        if n == 0 {
            let each = match sequences.len() {
                0 => 0,
                _ => items(&sequences.get(0)),
            };
            return Numbering {
                each,
                first: &[],
                total: each.saturating_mul(sequences.len()),
            };
        }
        // SAFETY: by this function's contract.
        let first: &'a mut [usize] = unsafe { std::slice::from_raw_parts_mut(room, n) };
        let mut total = 0;
        first[0] = 0;
        for index in 0..n - 1 {
            total += items(&sequences.get(index));
            first[index + 1] = total;
        }
        Numbering {
            each: 0,
            first,
            total,
        }
    }

    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// The sequence of an item, and its number among the items of that sequence.
    pub(crate) fn find(&self, number: usize) -> (usize, usize) {
        if self.first.is_empty() {
            return (number / self.each, number % self.each);
        }
        let index = self.first.partition_point(|&first| first <= number) - 1;
        (index, number - self.first[index])
    }
}
