//! Products of parts, as shares of the unit's peak, and what is done to have parts.

use crate::bf16_split::{
    FloatRows, MAX_PARTS, PackParts, PartKernels, STEP, Terms, panel_len, row_len,
};
use crate::{KB, Kernels, RowState, SCORE_LD};
use crate::support::{Aligned, Random};
use crate::{Case, Of, blocks_of, in_turn};

pub(crate) fn cases(table: &'static Kernels) -> Vec<Case> {
    let Some(parts) = table.parts else {
        return Vec::new();
    };
    let mut cases = Vec::new();
    for d in [64, 128] {
        for terms in Terms::ALL {
            cases.push(scores_of_parts(table, parts, terms, d));
            cases.push(values_of_parts(table, parts, terms, d));
        }
        cases.extend(packs_of_parts(parts, d));
    }
    cases.extend((1..=MAX_PARTS).map(|count| softmax_of_parts(table, parts, count)));
    cases
}

/// What parts are made of: their values do not matter, but denormal ones would.
fn halves(n: usize) -> Aligned<u16> {
    let mut random = Random(9);
    Aligned::from_fn(n, |_| (random.float().to_bits() >> 16) as u16)
}

fn scores_of_parts(t: &'static Kernels, parts: PartKernels, terms: Terms, d: usize) -> Case {
    let name = format!("scores of parts {terms:?} d{d}");
    product_of_parts(t, parts, terms, name, d, KB, SCORE_LD)
}

fn values_of_parts(t: &'static Kernels, parts: PartKernels, terms: Terms, d: usize) -> Case {
    let name = format!("values of parts {terms:?} d{d}");
    product_of_parts(t, parts, terms, name, KB, d, d)
}

/// A strip times panels of `columns`, in sums of `length` terms; rows of the product are `ldo` apart.
fn product_of_parts(
    t: &'static Kernels,
    parts: PartKernels,
    terms: Terms,
    name: String,
    length: usize,
    columns: usize,
    ldo: usize,
) -> Case {
    let (row, panel) = (
        row_len(length, terms.parts_of_a()),
        panel_len(length, terms.parts_of_b(), t.nr),
    );
    let (panels, steps) = (columns / t.nr, length.div_ceil(STEP));
    let blocks = blocks_of(2 * panels * panel);
    let (a, b) = (halves(t.mr * row), halves(blocks * panels * panel));
    let mut o = Aligned::new(t.mr * ldo, 0f32);
    Case {
        name,
        // A product of bf16 counts as one of 16-bit integers: the unit takes as long.
        of: Of::Dot2,
        operations: (2 * t.mr * columns * length * terms.pairs().len()) as f64,
        work: in_turn(blocks, move |block| {
            // SAFETY: a strip, a block of panels, a strip of products.
            unsafe {
                let b = b.ptr().add(block * panels * panel);
                (parts.product)(
                    terms,
                    a.ptr(),
                    row,
                    b,
                    panel,
                    steps,
                    t.mr,
                    panels,
                    false,
                    o.ptr_mut(),
                    ldo,
                );
            }
        }),
    }
}

fn softmax_of_parts(t: &'static Kernels, parts: PartKernels, count: usize) -> Case {
    let mut random = Random(10);
    let s = Aligned::from_fn(t.mr * SCORE_LD, |_| random.float());
    let row = row_len(KB, count);
    let mut p = Aligned::new(t.mr * row, 0u16);
    let mut statistics = [0; 4].map(|_| Aligned::new(t.mr, 0f32));
    Case {
        name: format!("softmax to {count} parts"),
        of: Of::Nothing,
        operations: (t.mr * KB) as f64,
        work: Box::new(move || {
            let [m, l, alpha, left] = statistics.each_mut().map(|x| x.ptr_mut());
            let state = RowState { m, l, alpha, left };
            // SAFETY: a strip of scores, of P, and of statistics.
            unsafe { (parts.softmax)(count, s.ptr(), t.mr, KB, state, 0.125, p.ptr_mut(), row) };
        }),
    }
}

fn packs_of_parts(parts: PartKernels, d: usize) -> Vec<Case> {
    let case = |name: &str, pack: PackParts, count: usize| {
        let mut random = Random(11);
        let rows = Aligned::from_fn(KB * d, |_| random.float());
        let mut out = Aligned::new(KB * row_len(d, count), 0u16);
        Case {
            name: format!("{name} {count} parts d{d}"),
            of: Of::Nothing,
            operations: (4 * KB * d) as f64,
            work: Box::new(move || {
                // SAFETY: a block of rows, and of panels.
                unsafe { pack(count, FloatRows::f32(rows.ptr(), d), KB, d, out.ptr_mut()) };
            }),
        }
    };
    let of = |count| {
        [
            case("pack_columns", parts.pack_columns, count),
            case("pack_panels", parts.pack_panels, count),
        ]
    };
    (1..=MAX_PARTS).flat_map(of).collect()
}
