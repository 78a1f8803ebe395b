//! Whether operands and options fit together, in the caller's words: arguments by the names and shapes that they were given
//! with.

use mfa::raw::sys;
use pyo3::prelude::*;

use crate::call::{axes, user_row_shape, user_shape};
use crate::dtype::Dtype;
use crate::error;
use crate::options::{Layout, Options};
use crate::view::shape_text;

/// Sizes in the contract's order: [batch, heads, rows, columns].
pub(crate) type Sizes = [u64; 4];

/// The operands of a call in the caller's terms, for messages and checks.
pub(crate) struct Operands<'a> {
    pub(crate) names: [&'static str; 3],
    pub(crate) shapes: [&'a [usize]; 3],
    pub(crate) sizes: [Sizes; 3],
    pub(crate) layout: Layout,
    pub(crate) varlen: bool,
    /// Whether one of them has a layout of its own.
    pub(crate) quantized: bool,
    /// The query's, or float32.
    pub(crate) dtype: Dtype,
}

/// Why operands don't fit together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Misfit {
    Columns,
    /// Of the key, or of the value.
    Batch(usize),
    ValueHeads,
    ValueRows,
    Heads,
}

fn misfit([q, k, v]: [Sizes; 3]) -> Option<Misfit> {
    let multiple = match k[1] {
        0 => q[1] == 0,
        heads => q[1].is_multiple_of(heads),
    };
    let rules = [
        (k[3] == q[3], Misfit::Columns),
        (k[0] == q[0], Misfit::Batch(1)),
        (v[0] == q[0], Misfit::Batch(2)),
        (v[1] == k[1], Misfit::ValueHeads),
        (v[2] == k[2], Misfit::ValueRows),
        (multiple, Misfit::Heads),
    ];
    (rules.into_iter())
        .find(|(holds, _)| !holds)
        .map(|(_, misfit)| misfit)
}

impl Operands<'_> {
    fn rank(&self) -> usize {
        self.shapes[0].len()
    }

    /// "k: shape (3, 2, 7, 16)"
    fn found(&self, index: usize) -> String {
        format!(
            "{}: shape {}",
            self.names[index],
            shape_text(self.shapes[index])
        )
    }

    /// "q with shape (2, 4, 5, 16)"
    fn like(&self, index: usize) -> String {
        format!(
            "{} with shape {}",
            self.names[index],
            shape_text(self.shapes[index])
        )
    }

    pub(crate) fn check(&self) -> PyResult<()> {
        let Some(misfit) = misfit(self.sizes) else {
            return Ok(());
        };
        let [q, k, _] = self.sizes;
        let mut text = match misfit {
            Misfit::Columns => {
                let (found, like) = (self.found(1), self.like(0));
                format!("{found}, expected {} columns as {like}", q[3])
            }
            Misfit::Batch(index) => {
                let (found, like) = (self.found(index), self.like(0));
                format!("{found}, expected batch {} as {like}", q[0])
            }
            Misfit::ValueHeads => {
                let (found, like) = (self.found(2), self.like(1));
                format!("{found}, expected {} heads as {like}", k[1])
            }
            Misfit::ValueRows => {
                let (found, like) = (self.found(2), self.like(1));
                format!("{found}, expected {} rows as {like}", k[2])
            }
            Misfit::Heads => {
                let (found, like) = (self.found(0), self.like(1));
                let (heads, key) = (q[1], k[1]);
                format!(
                    "{found} has {heads} heads, expected a multiple of the {key} key/value heads of {like}"
                )
            }
        };
        text += &self.hint(misfit);
        Err(error::dimensions(text))
    }

    /// What the caller may have meant.
    fn hint(&self, misfit: Misfit) -> String {
        if self.rank() == 3 && !self.varlen && self.layout == Layout::Bhnd {
            return match misfit {
                Misfit::Columns | Misfit::ValueRows => String::new(),
                _ => ": rank 3 is (batch, rows, columns); for heads write x[None]".into(),
            };
        }
        match self.swapped() {
            Some(sizes) if self::misfit(sizes).is_none() => {
                format!("; did you mean layout=\"{}\"?", self.layout.other().name())
            }
            _ => String::new(),
        }
    }

    /// The sizes as the other layout has them.
    fn swapped(&self) -> Option<[Sizes; 3]> {
        let axes = axes(self.rank(), self.layout.other(), self.varlen)?;
        let sizes =
            |index: usize| axes.map(|axis| axis.map_or(1, |axis| self.shapes[index][axis] as u64));
        (self.rank() > 2 && !self.quantized).then(|| [sizes(0), sizes(1), sizes(2)])
    }

    /// The cumulated lengths of packed sequences against the rows that they pack.
    pub(crate) fn check_lengths(&self, index: usize, name: &str, ends: &[i32]) -> PyResult<()> {
        let rows = self.sizes[index][2];
        let last = ends.last().copied().unwrap_or_default();
        if self.sizes[index][0] != 1 {
            return Err(error::dimensions(format!(
                "{}, expected batch 1 with {name}: sequences follow each other along the rows",
                self.found(index)
            )));
        }
        // Rows after the last sequence belong to none. A negative end is the driver's to refuse.
        if last < 0 || last as u64 <= rows {
            return Ok(());
        }
        let fits = |sizes: [Sizes; 3]| sizes[index][2] == last as u64;
        let hint = match self.swapped() {
            Some(sizes) if fits(sizes) => {
                format!("; did you mean layout=\"{}\"?", self.layout.other().name())
            }
            _ => String::new(),
        };
        Err(error::argument(format!(
            "{name}: ends with {last}, expected at most {rows}, the rows of {}{hint}",
            self.like(index)
        )))
    }

    /// Rows of query and key that each packed sequence has, or all batches alike.
    fn lengths<'l>(&self, packed: Option<[&'l [i32]; 2]>) -> Vec<[i64; 2]> {
        let of = |ends: &'l [i32], at: usize| i64::from(ends[at + 1]) - i64::from(ends[at]);
        match packed {
            Some([q, k]) => (0..q.len() - 1).map(|at| [of(q, at), of(k, at)]).collect(),
            None => vec![[self.sizes[0][2] as i64, self.sizes[1][2] as i64]],
        }
    }

    /// How many of its keys each sequence has: at most those that are stored with it.
    pub(crate) fn check_key_lengths(
        &self,
        given: &[i32],
        sequences: u64,
        packed: Option<[&[i32]; 2]>,
    ) -> PyResult<()> {
        if given.len() as u64 != sequences {
            let each = if packed.is_some() {
                "packed sequence"
            } else {
                "batch"
            };
            return Err(error::dimensions(format!(
                "seqlens_k: {} entries, expected {sequences}, one for each {each}",
                given.len()
            )));
        }
        let stored = self.lengths(packed);
        for (at, length) in given.iter().enumerate() {
            let [_, most] = stored[if packed.is_some() { at } else { 0 }];
            if !(0..=most).contains(&i64::from(*length)) {
                return Err(error::argument(format!(
                    "seqlens_k: {length} for sequence {at}, expected 0 to {most}, its rows of {}",
                    self.names[1]
                )));
            }
        }
        Ok(())
    }

    /// [batch, heads, rows of query, rows of key], or of packed sequences [sequences, heads, longest, longest].
    fn scores(&self, packed: Option<[&[i32]; 2]>) -> Sizes {
        let [q, k, _] = self.sizes;
        if packed.is_none() {
            return [q[0], q[1], q[2], k[2]];
        }
        let lengths = self.lengths(packed);
        let longest = |of: usize| lengths.iter().map(|pair| pair[of].max(0)).max();
        let [rows, keys] = [0, 1].map(|of| longest(of).unwrap_or(0) as u64);
        [lengths.len() as u64, q[1], rows, keys]
    }

    /// A mask whose sizes are `mask`, which broadcast.
    pub(crate) fn check_mask(
        &self,
        shape: &[usize],
        mask: Sizes,
        packed: Option<[&[i32]; 2]>,
    ) -> PyResult<()> {
        let scores = self.scores(packed);
        if (mask.iter().zip(scores)).all(|(size, full)| *size == 1 || *size == full) {
            return Ok(());
        }
        let shown: Vec<usize> = match packed {
            Some(_) => scores.map(|size| size as usize).to_vec(),
            None => {
                let mut shown = user_row_shape(scores, self.rank(), self.layout, false);
                shown.push(scores[3] as usize);
                shown
            }
        };
        let meaning = match packed {
            Some(_) => ": (sequences, heads, longest sequence of q, longest sequence of k)",
            None => "",
        };
        Err(error::dimensions(format!(
            "attn_mask: shape {}, expected one that broadcasts to {}{meaning}",
            shape_text(shape),
            shape_text(&shown)
        )))
    }

    /// One number for each head of the query; of slopes also for each batch or sequence.
    pub(crate) fn check_heads(&self, name: &str, shape: &[usize], sequences: u64) -> PyResult<()> {
        let heads = self.sizes[0][1];
        let slopes = name != "sinks";
        let fits = match *shape {
            [found] => found as u64 == heads,
            [batch, found] if slopes => {
                found as u64 == heads && (batch == 1 || batch as u64 == sequences)
            }
            _ => false,
        };
        if fits {
            return Ok(());
        }
        let each = match slopes {
            true => format!(" or ({sequences}, {heads})"),
            false => String::new(),
        };
        Err(error::dimensions(format!(
            "{name}: shape {}, expected ({heads},){each}: one number for each head of {}",
            shape_text(shape),
            self.like(0)
        )))
    }

    /// The alignment of the diagonal, which must be given where the lengths differ.
    pub(crate) fn alignment(
        &self,
        options: &Options<'_>,
        packed: Option<[&[i32]; 2]>,
        key_lengths: Option<&[i32]>,
    ) -> PyResult<i32> {
        if let Some(alignment) = options.alignment {
            return Ok(alignment);
        }
        let stored = self.lengths(packed);
        let lengths: Vec<[i64; 2]> = match key_lengths {
            None => stored,
            Some(given) => (given.iter().enumerate())
                .map(|(at, keys)| {
                    [
                        stored[if packed.is_some() { at } else { 0 }][0],
                        i64::from(*keys),
                    ]
                })
                .collect(),
        };
        let differing = (lengths.into_iter().enumerate())
            .find(|(_, [rows, keys])| rows != keys && *rows > 0 && *keys > 0);
        let (Some(what), Some((at, [rows, keys]))) = (options.diagonal(), differing) else {
            return Ok(sys::MFA_ALIGNMENT_TOP_LEFT);
        };
        let place = match (packed, key_lengths) {
            (None, None) => String::new(),
            _ => format!(" in sequence {at}"),
        };
        let [q, k, _] = self.names;
        Err(error::argument(format!(
            "alignment: not given with {what} and {rows} rows of {q} to {keys} of {k}{place}, expected \"bottom_right\" (the \
             last row stands at the last key: decoding; what FlashAttention >= 2.1 and MLX mean) or \"top_left\" (row i \
             stands at key i: what PyTorch's is_causal means)"
        )))
    }

    /// The shape of the result.
    pub(crate) fn output(&self) -> Vec<usize> {
        let [q, _, v] = self.sizes;
        let sizes = [q[0], q[1], q[2], v[3]];
        user_shape(sizes, self.rank(), self.layout, self.varlen)
    }
}
