//! Kernels of the backward pass on slices.

use std::ptr::{null, null_mut};

use super::bf16_split::{FLOATS, stored};
use super::memory::Guarded;
use super::{Random, round_up};
use crate::bf16_split::{
    Bf16Kernels, Bf16Products, FloatRows, STEP, bf16, long_row_len, panel_len, row_len,
};
use crate::gradient::{
    Bf16Accumulator, Bf16Factors, Bf16GradientKernels, Bf16GradientStrip, Bf16Strip,
};
use crate::scalar::bf16_gradient::TABLE as TWIN;
use crate::scalar::bf16_split as twin;
use crate::{BLOCK_N, Isa, SCORE_LD};

const EPSILON: f32 = f32::EPSILON / 2.0;

fn tables() -> Vec<Bf16GradientKernels> {
    Isa::ALL
        .into_iter()
        .filter_map(Isa::table)
        .filter_map(|table| table.gradient.bf16)
        .collect()
}

/// The outputs of a [`Bf16Strip`].
struct Results {
    p: Guarded<u16>,
    ds: Guarded<u16>,
    columns: Guarded<u16>,
}

#[test]
fn softmax_gradient_matches_its_twin() {
    let mut random = Random(45);
    for table in tables() {
        for n in [STEP, 3 * STEP, BLOCK_N] {
            for (p_slices, ds_slices) in [
                (1, 1),
                (2, 2),
                (3, 3),
                (0, 1),
                (0, 3),
                (1, 0),
                (2, 0),
                (3, 0),
                (1, 3),
                (2, 1),
            ] {
                for masked in [false, true] {
                    check_gradient(&table, &mut random, n, (p_slices, ds_slices), masked);
                }
            }
        }
    }
}

fn check_gradient(
    table: &Bf16GradientKernels,
    random: &mut Random,
    n: usize,
    (p_slices, ds_slices): (usize, usize),
    masked: bool,
) {
    let len = (STEP - 1) * SCORE_LD + n;
    let s = Guarded::from_fn(len, |_| match random.below(4) {
        0 if masked => f32::NEG_INFINITY,
        _ => 8.0 * random.float() - 8.0,
    });
    let empty = random.below(n);
    let l = Guarded::from_fn(n, |j| {
        if j == empty {
            f32::INFINITY
        } else {
            random.float()
        }
    });
    let (mut dp, d, slope) = (random.floats(len), random.floats(n), random.floats(len));
    for (dp, s) in dp.iter_mut().zip(s.iter()) {
        *dp = if *s == f32::NEG_INFINITY {
            f32::NAN
        } else {
            *dp
        };
    }
    // Rows and panels with a gap behind each; of the keys, the strip is one of two steps.
    let (ldp, ldds) = (row_len(n + STEP, p_slices), row_len(n + STEP, ds_slices));
    let panel = panel_len(2 * STEP, ds_slices, STEP);
    let results = || Results {
        p: Guarded::new((STEP - 1) * ldp + row_len(n, p_slices), 0u16),
        ds: Guarded::new((STEP - 1) * ldds + row_len(n, ds_slices), 0u16),
        columns: Guarded::new((n / STEP - 1) * panel + panel / 2, 0u16),
    };
    let (mut got, mut want) = (results(), results());
    for (kernel, out) in [
        (table.softmax_gradient, &mut got),
        (TWIN.softmax_gradient, &mut want),
    ] {
        let if_wanted = |ptr: *mut u16| if ds_slices > 0 { ptr } else { null_mut() };
        let strip = Bf16Strip {
            s: s.as_ptr().cast_mut(),
            dp: dp.as_ptr().cast_mut(),
            n,
            scale: 0.75,
            l: l.as_ptr(),
            d: d.as_ptr(),
            slope: if n == STEP { null() } else { slope.as_ptr() },
            p: out.p.as_mut_ptr(),
            ldp,
            ds: if_wanted(out.ds.as_mut_ptr()),
            ldds,
            columns: if_wanted(out.columns.as_mut_ptr()),
            panel,
        };
        // SAFETY: a strip of keys by `n` queries, and room for its slices.
        unsafe { kernel(&strip, p_slices, ds_slices, masked) };
    }
    for (what, slices, distance, got, want) in [
        ("P", p_slices, STEP, &got.p, &want.p),
        ("dS", ds_slices, STEP, &got.ds, &want.ds),
        (
            "dS as B",
            ds_slices,
            STEP * STEP,
            &got.columns,
            &want.columns,
        ),
    ] {
        got.check(what);
        for at in (0..got.len()).filter(|at| slices > 0 && at / distance % slices == 0) {
            let value = |x: &[u16]| -> f32 {
                let slice = |p: usize| x.get(at + p * distance).map_or(0.0, |x| bf16(*x));
                (0..slices).map(slice).sum()
            };
            let (got, want) = (value(got), value(want));
            // Of exp2 and three roundings; and neighbours, if they are rounded to one slice or two.
            let rounding = [0.0, 512.0, 2.0, 0.0][slices] / 65536.0;
            let bound = (12.0 * EPSILON + rounding) * want.abs() + 24.0 * EPSILON;
            assert!(
                (got - want).abs() <= bound,
                "{what}: {slices} slices, {at}: {got} and {want}"
            );
        }
    }
}

/// The outputs of a strip other than P and dS as A.
#[derive(PartialEq)]
struct StripResults {
    columns: Vec<u16>,
    dv: Vec<f32>,
    dk: Vec<f32>,
}

/// Operands of a strip of keys by `n` queries, with the columns of K and V.
struct StripOperands {
    terms: [Bf16Products; 4],
    columns: [usize; 2],
    n: usize,
    /// K and V as A; Q and dO as B of scores and dP; dO and Q as B of dV and dK.
    rows: [Guarded<u16>; 2],
    queries: [Guarded<u16>; 2],
    panels: [Guarded<u16>; 2],
    l: Guarded<f32>,
    d: Guarded<f32>,
    /// Which of dV, dK, dQ are wanted.
    wanted: [bool; 3],
}

impl StripOperands {
    fn new(random: &mut Random, terms: [Bf16Products; 4], n: usize, wanted: [bool; 3]) -> Self {
        let columns = [1 + random.below(100), 1 + random.below(100)];
        let pack = twin::table::<STEP, STEP>();
        let [of_scores, of_dp, of_p, of_ds] = terms;
        let mut packed = |kernel: PackOf, slices: usize, n: usize, columns: usize, len: usize| {
            let rows = random.floats(n * columns);
            let mut out = Guarded::new(len, 0u16);
            // SAFETY: `n` rows, and room for their slices.
            unsafe {
                let rows = FloatRows::f32(rows.as_ptr(), columns);
                kernel(slices, rows, n, columns, out.as_mut_ptr())
            };
            out
        };
        let mut side = |i: usize, terms: Bf16Products, sum: Bf16Products| {
            let c = columns[i];
            let rows = STEP * row_len(c, terms.slices_of_a());
            let queries = n / STEP * panel_len(c, terms.slices_of_b(), STEP);
            let panels = c.div_ceil(STEP) * panel_len(n, sum.slices_of_b(), STEP);
            (
                packed(pack.pack_rows, terms.slices_of_a(), STEP, c, rows),
                packed(pack.pack_columns, terms.slices_of_b(), n, c, queries),
                packed(pack.pack_panels, sum.slices_of_b(), n, c, panels),
            )
        };
        let (k, q, q_panels) = side(0, of_scores, of_ds);
        let (v, grad, grad_panels) = side(1, of_dp, of_p);
        StripOperands {
            terms,
            columns,
            n,
            rows: [k, v],
            queries: [q, grad],
            panels: [grad_panels, q_panels],
            l: Guarded::from_fn(n, |_| 4.0 + random.float()),
            d: random.floats(n),
            wanted,
        }
    }

    /// Runs a kernel, or the kernels that it stands for.
    fn run(&self, kernel: impl Fn(&Bf16GradientStrip)) -> StripResults {
        let [scores, dp, of_p, of_ds] = self.terms;
        let [d, dv] = self.columns.map(|c| c.next_multiple_of(STEP));
        let (p_slices, ds_slices) = (of_p.slices_of_a(), of_ds.slices_of_a());
        let (ldp, ldds) = (
            long_row_len(self.n, p_slices),
            long_row_len(self.n, ds_slices),
        );
        let mut room = [(); 2].map(|()| Guarded::new(STEP * SCORE_LD, 0f32));
        let mut weights = [ldp, ldds].map(|ld| Guarded::new(STEP * ld, 0u16));
        let panel = panel_len(STEP, ds_slices, STEP);
        let mut columns = Guarded::new(self.n / STEP * panel, 0u16);
        let mut sums = [dv, d].map(|ld| Guarded::from_fn(STEP * ld, |at| (at % 7) as f32));
        let [s, dp_room] = room.each_mut().map(|x| x.as_mut_ptr());
        let [p, ds] = weights.each_mut().map(|x| x.as_mut_ptr());
        let outs = sums.each_mut().map(|x| x.as_mut_ptr());
        let if_wanted = |i: usize, ptr: *mut u16| if self.wanted[i] { ptr } else { null_mut() };
        let factors = |i: usize, terms| Bf16Factors {
            terms,
            columns: self.columns[i],
            a: self.rows[i].as_ptr(),
            b: self.queries[i].as_ptr(),
        };
        let sum = |i: usize, terms: Bf16Products, ld: usize| Bf16Accumulator {
            terms,
            b: self.panels[i].as_ptr(),
            panel: panel_len(self.n, terms.slices_of_b(), STEP),
            panels: ld / STEP,
            out: if self.wanted[i] { outs[i] } else { null_mut() },
            ld,
        };
        kernel(&Bf16GradientStrip {
            strip: Bf16Strip {
                s,
                dp: dp_room,
                n: self.n,
                scale: 0.25,
                l: self.l.as_ptr(),
                d: self.d.as_ptr(),
                slope: null(),
                p,
                ldp,
                ds: if_wanted(1, ds),
                ldds,
                columns: if_wanted(2, columns.as_mut_ptr()),
                panel,
            },
            scores: factors(0, scores),
            dp: factors(1, dp),
            dv: sum(0, of_p, dv),
            dk: sum(1, of_ds, d),
        });
        room.iter().for_each(|x| x.check("room"));
        weights.iter().for_each(|x| x.check("weights"));
        columns.check("columns");
        sums.iter().for_each(|x| x.check("sums"));
        let [dv, dk] = sums.map(|x| x.to_vec());
        StripResults {
            columns: columns.to_vec(),
            dv,
            dk,
        }
    }
}

type PackOf = crate::bf16_split::PackBf16;

/// The kernels of a table that its strip stands for, one after the other.
unsafe fn one_by_one(
    slices: &Bf16Kernels,
    gradient: &Bf16GradientKernels,
    call: &Bf16GradientStrip,
) {
    let strip = &call.strip;
    for (of, out) in [(&call.scores, strip.s), (&call.dp, strip.dp)] {
        let lda = row_len(of.columns, of.terms.slices_of_a());
        let panel = panel_len(of.columns, of.terms.slices_of_b(), STEP);
        let (steps, panels) = (of.columns.div_ceil(STEP), strip.n / STEP);
        (slices.product)(
            of.terms, of.a, lda, of.b, panel, steps, STEP, panels, false, out, SCORE_LD,
        );
    }
    let p_slices = if call.dv.out.is_null() {
        0
    } else {
        call.dv.terms.slices_of_a()
    };
    (gradient.softmax_gradient)(strip, p_slices, call.dk.terms.slices_of_a(), false);
    for (sum, a, lda) in [
        (&call.dv, strip.p, strip.ldp),
        (&call.dk, strip.ds, strip.ldds),
    ] {
        if !sum.out.is_null() {
            let steps = strip.n / STEP;
            (slices.product)(
                sum.terms, a, lda, sum.b, sum.panel, steps, STEP, sum.panels, true, sum.out, sum.ld,
            );
        }
    }
}

#[test]
fn strip_matches_its_kernels_one_by_one() {
    let mut random = Random(49);
    let operands = [
        [Bf16Products::X1; 4],
        [
            Bf16Products::X4,
            Bf16Products::X4,
            Bf16Products::X3,
            Bf16Products::X3,
        ],
        [Bf16Products::X6; 4],
        [
            Bf16Products::X4,
            Bf16Products::X6,
            Bf16Products::X1,
            Bf16Products::X3,
        ],
    ];
    for table in Isa::ALL.into_iter().filter_map(Isa::table) {
        let (Some(slices), Some(gradient)) = (table.bf16, table.gradient.bf16) else {
            continue;
        };
        for terms in operands {
            for n in [STEP, 3 * STEP, BLOCK_N] {
                for wanted in [[true; 3], [true, false, false], [false, true, true]] {
                    let x = StripOperands::new(&mut random, terms, n, wanted);
                    // SAFETY: operands have the sizes of their layouts.
                    let got = x.run(|call| unsafe { (gradient.strip)(call) });
                    // SAFETY: as above.
                    let same = x.run(|call| unsafe { one_by_one(&slices, &gradient, call) });
                    assert!(got == same, "{}: {terms:?}, {n}, {wanted:?}", table.isa);
                    // SAFETY: as above.
                    let want = x.run(|call| unsafe { (TWIN.strip)(call) });
                    for (what, got, want) in [("dV", &got.dv, &want.dv), ("dK", &got.dk, &want.dk)]
                    {
                        // Weights that were rounded the other way: two slices have 16 bits, one has 8.
                        let rounding = match terms[2..] {
                            [Bf16Products::X6, Bf16Products::X6] => 1e-5,
                            [Bf16Products::X3, Bf16Products::X3] => 3e-5,
                            _ => 8e-3,
                        };
                        let largest = want.iter().fold(0f32, |top, x| top.max(x.abs()));
                        let apart = got.iter().zip(want).map(|(x, y)| (x - y).abs());
                        let apart = apart.fold(0f32, f32::max);
                        assert!(
                            apart <= rounding * largest,
                            "{}: {what}, {terms:?}, {n}: {apart:e} of {largest}",
                            table.isa
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn add_transposed_matches_its_twin() {
    let mut random = Random(46);
    for table in tables() {
        for (n, d) in [(1, 1), (16, 16), (33, 80), (100, 7), (256, 64)] {
            let ld = round_up(n, 16);
            let columns = random.floats(round_up(d, 16) * ld);
            let ld_rows = d + random.below(3);
            let mut got = random.floats((n - 1) * ld_rows + d);
            let mut want = got.to_vec();
            for (kernel, rows) in [
                (table.add_transposed, got.as_mut_ptr()),
                (TWIN.add_transposed, want.as_mut_ptr()),
            ] {
                // SAFETY: rows and columns in whole groups.
                unsafe { kernel(columns.as_ptr(), ld, n, d, rows, ld_rows) };
            }
            got.check("rows");
            assert!(got[..] == want[..], "{n} x {d}");
        }
    }
}

#[test]
fn scale_rows_matches_its_twin() {
    let mut random = Random(47);
    for table in tables() {
        for (rows, n) in [(1, 1), (3, 16), (32, 100), (STEP, BLOCK_N)] {
            let mut got = random.floats((rows - 1) * SCORE_LD + n);
            let mut want = got.to_vec();
            let twins = [
                (table.scale_rows, got.as_mut_ptr()),
                (TWIN.scale_rows, want.as_mut_ptr()),
            ];
            for (kernel, s) in twins {
                // SAFETY: a strip of `rows` x `n`.
                unsafe { kernel(s, rows, n, 0.3) };
            }
            got.check("scores");
            assert!(got[..] == want[..], "{rows} x {n}");
        }
    }
}

#[test]
fn max_abs_is_the_largest_magnitude() {
    let mut random = Random(48);
    for table in tables() {
        for (n, d) in [(1, 1), (3, 16), (17, 33), (100, 64)] {
            let ld = d + random.below(3);
            let floats = random.floats((n - 1) * ld + d);
            for precision in FLOATS {
                let rows = Guarded::from_slice(&stored(&floats, precision));
                let rows = FloatRows {
                    ptr: rows.as_ptr(),
                    ld,
                    precision,
                };
                // SAFETY: `n` rows of `d` elements.
                let (got, want) =
                    unsafe { ((table.max_abs)(rows, n, d), (TWIN.max_abs)(rows, n, d)) };
                assert_eq!(got, want, "{n} x {d} {precision:?}");
            }
        }
    }
}
