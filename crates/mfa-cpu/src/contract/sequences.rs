//! The sequences of a call: batch elements, or spans of rows of a packed batch (eq. 4 of docs/math.md).

use std::ops::Range;

use mfa_sys as sys;

use crate::contract::array::Access;
use crate::error::{Result, ensure};
use crate::runtime::memory::{Arena, reserve};

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

/// All sequences of a call. Batch elements that are alike take no memory, however many there are.
pub(crate) struct Sequences {
    kind: Kind,
    /// Sequences that the caller named. Rows after the last packed one are one more sequence, without keys.
    pub named: usize,
    pub bottom_right: bool,
    /// Longest of all sequences.
    pub most_q: usize,
    pub most_k: usize,
    /// The same with keys that are stored and belong to no sequence: masks have columns for them.
    pub most_stored_k: usize,
    pub total_q: usize,
    pub total_k: usize,
    /// Pairs of a query and a key, of one head.
    pub pairs: f64,
}

enum Kind {
    /// Batch elements that use all stored keys.
    Alike { count: usize, nq: usize, nk: usize },
    /// Batch elements whose numbers of keys are listed.
    Lengths {
        nq: usize,
        stored: usize,
        lengths: Vec<usize>,
    },
    /// Rows from each bound to the next; if `lengths` is there, of so many keys.
    Packed {
        q: Vec<usize>,
        k: Vec<usize>,
        lengths: Option<Vec<usize>>,
    },
}

impl Sequences {
    /// The sequences of `batch` elements of `rows` of query and key.
    pub(crate) fn new(
        raw: &sys::mfa_attention_options,
        batch: usize,
        rows: (usize, usize),
        bottom_right: bool,
    ) -> Result<Self> {
        if raw.sequence_count == 0 {
            ensure!(
                raw.cu_seqlens_q.is_null() && raw.cu_seqlens_k.is_null(),
                argument,
                "options: cu_seqlens without sequence_count; expected both or neither"
            );
            return match lengths(raw, batch, |_| rows.1)? {
                None => Ok(Self::alike(batch, rows, bottom_right)),
                Some(lengths) => Ok(Self::listed(
                    Kind::Lengths {
                        nq: rows.0,
                        stored: rows.1,
                        lengths,
                    },
                    batch,
                    bottom_right,
                )),
            };
        }
        ensure!(
            batch == 1,
            dimensions,
            "query: batch is {batch}; expected 1 with varlen (sequences lie along rows)"
        );
        Self::packed(raw, rows, bottom_right)
    }

    fn alike(batch: usize, (nq, nk): (usize, usize), bottom_right: bool) -> Self {
        Sequences {
            kind: Kind::Alike {
                count: batch,
                nq,
                nk,
            },
            named: batch,
            bottom_right,
            most_q: nq,
            most_k: nk,
            most_stored_k: nk,
            total_q: batch.saturating_mul(nq),
            total_k: batch.saturating_mul(nk),
            pairs: batch as f64 * nq as f64 * nk as f64,
        }
    }

    fn packed(
        raw: &sys::mfa_attention_options,
        rows: (usize, usize),
        bottom_right: bool,
    ) -> Result<Self> {
        let n = raw.sequence_count as usize;
        let q = (raw.cu_seqlens_q, raw.cu_seqlens_q_offset);
        let k = (raw.cu_seqlens_k, raw.cu_seqlens_k_offset);
        let mut q = bounds(n, q, rows.0, "cu_seqlens_q")?;
        let mut k = bounds(n, k, rows.1, "cu_seqlens_k")?;
        let mut lengths = lengths(raw, n, |index| k[index + 1] - k[index])?;
        if q[n] < rows.0 || k[n] < rows.1 {
            // Rows after the last sequence form one more, without keys.
            let mut some = match lengths {
                Some(lengths) => lengths,
                None => {
                    let mut all = reserve(n + 1, "sequences")?;
                    all.extend(k.windows(2).map(|pair| pair[1] - pair[0]));
                    all
                }
            };
            some.push(0);
            lengths = Some(some);
            q.push(rows.0);
            k.push(rows.1);
        }
        Ok(Self::listed(
            Kind::Packed { q, k, lengths },
            n,
            bottom_right,
        ))
    }

    fn listed(kind: Kind, named: usize, bottom_right: bool) -> Self {
        // Batch elements have rows, even in a batch of size 0.
        let (most_q, most_stored_k) = match &kind {
            Kind::Lengths { nq, stored, .. } => (*nq, *stored),
            _ => (0, 0),
        };
        let mut all = Sequences {
            kind,
            named,
            bottom_right,
            most_q,
            most_k: 0,
            most_stored_k,
            total_q: 0,
            total_k: 0,
            pairs: 0.0,
        };
        for index in 0..all.len() {
            let Sequence { nq, nk, .. } = all.get(index);
            if index < named {
                all.most_q = all.most_q.max(nq);
                all.most_k = all.most_k.max(nk);
                all.most_stored_k = all.most_stored_k.max(all.stored_keys(index));
            }
            all.total_q += nq;
            all.total_k += nk;
            all.pairs += nq as f64 * nk as f64;
        }
        all
    }

    pub(crate) fn len(&self) -> usize {
        match &self.kind {
            Kind::Alike { count, .. } => *count,
            Kind::Lengths { lengths, .. } => lengths.len(),
            Kind::Packed { q, .. } => q.len() - 1,
        }
    }

    pub(crate) fn get(&self, index: usize) -> Sequence {
        let (batch, q0, nq, k0, nk) = match &self.kind {
            Kind::Alike { nq, nk, .. } => (index, 0, *nq, 0, *nk),
            Kind::Lengths { nq, lengths, .. } => (index, 0, *nq, 0, lengths[index]),
            Kind::Packed { q, k, lengths } => {
                let stored = k[index + 1] - k[index];
                let nk = lengths.as_ref().map_or(stored, |lengths| lengths[index]);
                (0, q[index], q[index + 1] - q[index], k[index], nk)
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

    /// Rows of the key tensor that are stored for a sequence, used or not.
    fn stored_keys(&self, index: usize) -> usize {
        match &self.kind {
            Kind::Alike { nk, .. } => *nk,
            Kind::Lengths { stored, .. } => *stored,
            Kind::Packed { k, .. } => k[index + 1] - k[index],
        }
    }

    /// Rows of the key tensor that are stored for a sequence and not used.
    pub(crate) fn spare_keys(&self, index: usize) -> Range<usize> {
        let sequence = self.get(index);
        sequence.k0 + sequence.nk..sequence.k0 + self.stored_keys(index)
    }

    /// Whether there can be such rows.
    pub(crate) fn have_spare_keys(&self) -> bool {
        match &self.kind {
            Kind::Alike { .. } => false,
            Kind::Lengths { .. } => true,
            Kind::Packed { lengths, .. } => lengths.is_some(),
        }
    }

    /// Whether they are spans of rows of one batch element.
    pub(crate) fn are_packed(&self) -> bool {
        matches!(self.kind, Kind::Packed { .. })
    }

    /// Whether all sequences have the same lengths.
    pub(crate) fn are_alike(&self) -> bool {
        matches!(self.kind, Kind::Alike { .. })
    }

    /// The sequence that query row `row` of batch element `batch` belongs to.
    pub(crate) fn of_row(&self, batch: usize, row: usize) -> Option<Sequence> {
        match &self.kind {
            Kind::Alike { .. } | Kind::Lengths { .. } => Some(self.get(batch)),
            // Of several sequences that begin here, all but the last are empty.
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

    /// Bytes of the lists.
    pub(crate) fn bytes(&self) -> usize {
        let numbers = match &self.kind {
            Kind::Alike { .. } => 0,
            Kind::Lengths { lengths, .. } => lengths.capacity(),
            Kind::Packed { q, k, lengths } => {
                q.capacity() + k.capacity() + lengths.as_ref().map_or(0, Vec::capacity)
            }
        };
        numbers * size_of::<usize>()
    }
}

/// The `n + 1` bounds of packed sequences.
fn bounds(
    n: usize,
    (buffer, offset): (sys::mfa_buffer_t, u64),
    rows: usize,
    what: &str,
) -> Result<Vec<usize>> {
    let array = Access::Run.array(buffer, offset, 4 * (n as u128 + 1), 4, what)?;
    // SAFETY: `check` proved the n + 1 integers to be inside the buffer and aligned.
    let bounds = unsafe { std::slice::from_raw_parts(array.ptr.cast::<i32>(), n + 1) };
    ensure!(
        bounds[0] == 0,
        argument,
        "{what}: begins with {}; expected 0",
        bounds[0]
    );
    // Capacity for one more: see `Sequences::packed`.
    let mut out = reserve(n + 2, "sequences")?;
    for &bound in bounds {
        // The copy is checked: the caller's memory could change between two reads.
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
        end <= rows,
        argument,
        "{what}: ends with {end}; expected at most {rows}, the rows"
    );
    Ok(out)
}

/// The keys of `n` sequences, if they are given: each at most as many as are `stored`.
fn lengths(
    raw: &sys::mfa_attention_options,
    n: usize,
    stored: impl Fn(usize) -> usize,
) -> Result<Option<Vec<usize>>> {
    if raw.seqlens_k.is_null() {
        ensure!(
            raw.seqlens_k_offset == 0,
            argument,
            "seqlens_k: an offset of {} without a buffer; expected both or neither",
            raw.seqlens_k_offset
        );
        return Ok(None);
    }
    let (buffer, offset) = (raw.seqlens_k, raw.seqlens_k_offset);
    let array = Access::Run.array(buffer, offset, 4 * n as u128, 4, "seqlens_k")?;
    let mut out = reserve(n + 1, "sequences")?;
    for index in 0..n {
        // SAFETY: `check` proved the n integers to be inside the buffer and aligned.
        let length = unsafe { array.ptr.cast::<i32>().add(index).read() };
        let most = stored(index);
        ensure!(
            usize::try_from(length).is_ok_and(|length| length <= most),
            argument,
            "seqlens_k: sequence {index} has {length}; expected 0 to {most}, its rows of key"
        );
        out.push(length as usize);
    }
    Ok(Some(out))
}

/// Items of all sequences, numbered one sequence after the other.
pub(crate) struct Numbering<'a> {
    /// Items of each sequence, if all have the same number.
    each: usize,
    /// Otherwise the first item of each sequence, then the total.
    first: &'a [usize],
    total: usize,
}

impl<'a> Numbering<'a> {
    /// Takes the memory that [`Numbering::new`] needs.
    pub(crate) fn allocate(arena: &mut Arena, sequences: &Sequences) -> *mut usize {
        arena.alloc(Self::len(sequences))
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
    /// `memory` came from `allocate` for these sequences, and nobody else uses it for `'a`.
    pub(crate) unsafe fn new(
        memory: *mut usize,
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
        let first: &'a mut [usize] = unsafe { std::slice::from_raw_parts_mut(memory, n) };
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

    /// The sequence of an item, its head, and its rows. The items of a sequence are blocks of `length` of its `rows`, head by
    /// head.
    pub(crate) fn block(
        &self,
        number: usize,
        sequences: &Sequences,
        rows: impl Fn(&Sequence) -> usize,
        length: usize,
    ) -> (Sequence, usize, Range<usize>) {
        let (index, within) = self.find(number);
        let sequence = sequences.get(index);
        let rows = rows(&sequence);
        let blocks = rows.div_ceil(length);
        let start = within % blocks * length;
        let end = (start + length).min(rows);
        (sequence, within / blocks, start..end)
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
