//! Products of slices, as shares of the matrix unit's peak, and packing into slices.

use crate::support::{Aligned, Random};
use crate::{Case, Of, blocks_of, in_turn};
use mfa_kernels::bf16_split::{
    Bf16Kernels, Bf16Products, FloatRows, MAX_SLICES, PackBf16, STEP, panel_len, row_len,
};
use mfa_kernels::{BLOCK_N, Kernels, RowState, SCORE_LD};

pub(crate) fn cases(table: &'static Kernels) -> Vec<Case> {
    let Some(slices) = table.bf16 else {
        return Vec::new();
    };
    let mut cases = Vec::new();
    for d in [64, 128] {
        for terms in Bf16Products::ALL {
            cases.push(scores_bf16(table, slices, terms, d));
            cases.push(values_bf16(table, slices, terms, d));
        }
        cases.extend(packs_of_parts(slices, d));
    }
    cases.extend((1..=MAX_SLICES).map(|count| softmax_of_parts(table, slices, count)));
    cases
}

/// Values of slices: any but denormal ones, which are slow.
fn halves(n: usize) -> Aligned<u16> {
    let mut random = Random(9);
    Aligned::from_fn(n, |_| (random.float().to_bits() >> 16) as u16)
}

fn scores_bf16(t: &'static Kernels, slices: Bf16Kernels, terms: Bf16Products, d: usize) -> Case {
    let name = format!("scores of slices {terms:?} d{d}");
    product_of_parts(t, slices, terms, name, d, BLOCK_N, SCORE_LD)
}

fn values_bf16(t: &'static Kernels, slices: Bf16Kernels, terms: Bf16Products, d: usize) -> Case {
    let name = format!("values of slices {terms:?} d{d}");
    product_of_parts(t, slices, terms, name, BLOCK_N, d, d)
}

/// A strip times panels of `columns`, in sums of `length` terms; rows of the product are `ldo` apart.
fn product_of_parts(
    t: &'static Kernels,
    slices: Bf16Kernels,
    terms: Bf16Products,
    name: String,
    length: usize,
    columns: usize,
    ldo: usize,
) -> Case {
    let (row, panel) = (
        row_len(length, terms.slices_of_a()),
        panel_len(length, terms.slices_of_b(), t.nr),
    );
    let (panels, steps) = (columns / t.nr, length.div_ceil(STEP));
    let blocks = blocks_of(2 * panels * panel);
    let (a, b) = (halves(t.mr * row), halves(blocks * panels * panel));
    let mut o = Aligned::new(t.mr * ldo, 0f32);
    Case {
        name,
        // A product of bf16 counts as one of 16-bit integers: the matrix unit takes as long.
        of: Of::Dot2,
        operations: (2 * t.mr * columns * length * terms.pairs().len()) as f64,
        work: in_turn(blocks, move |block| {
            // SAFETY: a strip, a block of panels, a strip of products.
            unsafe {
                let b = b.ptr().add(block * panels * panel);
                (slices.product)(
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

fn softmax_of_parts(t: &'static Kernels, slices: Bf16Kernels, count: usize) -> Case {
    let mut random = Random(10);
    let s = Aligned::from_fn(t.mr * SCORE_LD, |_| random.float());
    let row = row_len(BLOCK_N, count);
    let mut p = Aligned::new(t.mr * row, 0u16);
    let mut statistics = [0; 4].map(|_| Aligned::new(t.mr, 0f32));
    Case {
        name: format!("softmax to {count} slices"),
        of: Of::Nothing,
        operations: (t.mr * BLOCK_N) as f64,
        work: Box::new(move || {
            let [m, l, alpha, left] = statistics.each_mut().map(|x| x.ptr_mut());
            let state = RowState { m, l, alpha, left };
            // SAFETY: a strip of scores, of P, and of statistics.
            unsafe {
                (slices.softmax)(
                    count,
                    s.ptr(),
                    t.mr,
                    BLOCK_N,
                    state,
                    0.125,
                    p.ptr_mut(),
                    row,
                )
            };
        }),
    }
}

fn packs_of_parts(slices: Bf16Kernels, d: usize) -> Vec<Case> {
    let case = |name: &str, pack: PackBf16, count: usize| {
        let mut random = Random(11);
        let rows = Aligned::from_fn(BLOCK_N * d, |_| random.float());
        let mut out = Aligned::new(BLOCK_N * row_len(d, count), 0u16);
        Case {
            name: format!("{name} {count} slices d{d}"),
            of: Of::Nothing,
            operations: (4 * BLOCK_N * d) as f64,
            work: Box::new(move || {
                // SAFETY: a block of rows, and of panels.
                unsafe {
                    pack(
                        count,
                        FloatRows::f32(rows.ptr(), d),
                        BLOCK_N,
                        d,
                        out.ptr_mut(),
                    )
                };
            }),
        }
    };
    let of = |count| {
        [
            case("pack_columns", slices.pack_columns, count),
            case("pack_panels", slices.pack_panels, count),
        ]
    };
    (1..=MAX_SLICES).flat_map(of).collect()
}
