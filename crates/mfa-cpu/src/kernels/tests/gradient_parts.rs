//! Kernels of the backward pass on parts.

use std::ptr::{null, null_mut};

use super::memory::Guarded;
use super::{Random, round_up};
use crate::kernels::gradient::{GradientParts, PartsStrip};
use crate::kernels::parts::{STEP, bf16, panel_len, row_len};
use crate::kernels::scalar::gradient_parts::TABLE as TWIN;
use crate::kernels::{Isa, KB, SCORE_LD};

const EPSILON: f32 = f32::EPSILON / 2.0;

fn tables() -> Vec<GradientParts> {
    Isa::ALL
        .into_iter()
        .filter_map(Isa::table)
        .filter_map(|table| table.gradient.parts)
        .collect()
}

/// What [`PartsStrip`] writes.
struct Results {
    p: Guarded<u16>,
    ds: Guarded<u16>,
    columns: Guarded<u16>,
}

#[test]
fn softmax_gradient() {
    let mut random = Random(45);
    for table in tables() {
        for n in [STEP, 3 * STEP, KB] {
            for (p_parts, ds_parts) in [
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
                    check_gradient(&table, &mut random, n, (p_parts, ds_parts), masked);
                }
            }
        }
    }
}

fn check_gradient(
    table: &GradientParts,
    random: &mut Random,
    n: usize,
    (p_parts, ds_parts): (usize, usize),
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
    let (ldp, ldds) = (row_len(n + STEP, p_parts), row_len(n + STEP, ds_parts));
    let panel = panel_len(2 * STEP, ds_parts, STEP);
    let results = || Results {
        p: Guarded::new((STEP - 1) * ldp + row_len(n, p_parts), 0u16),
        ds: Guarded::new((STEP - 1) * ldds + row_len(n, ds_parts), 0u16),
        columns: Guarded::new((n / STEP - 1) * panel + panel / 2, 0u16),
    };
    let (mut got, mut want) = (results(), results());
    for (kernel, out) in [
        (table.softmax_gradient, &mut got),
        (TWIN.softmax_gradient, &mut want),
    ] {
        let if_wanted = |ptr: *mut u16| if ds_parts > 0 { ptr } else { null_mut() };
        let strip = PartsStrip {
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
        // SAFETY: a strip of keys by `n` queries, and room for its parts.
        unsafe { kernel(&strip, p_parts, ds_parts, masked) };
    }
    for (what, parts, distance, got, want) in [
        ("P", p_parts, STEP, &got.p, &want.p),
        ("dS", ds_parts, STEP, &got.ds, &want.ds),
        (
            "dS as B",
            ds_parts,
            STEP * STEP,
            &got.columns,
            &want.columns,
        ),
    ] {
        got.check(what);
        for at in (0..got.len()).filter(|at| parts > 0 && at / distance % parts == 0) {
            let value = |x: &[u16]| -> f32 {
                let part = |p: usize| x.get(at + p * distance).map_or(0.0, |x| bf16(*x));
                (0..parts).map(part).sum()
            };
            let (got, want) = (value(got), value(want));
            // Of exp2 and three roundings; and neighbours, if they are rounded to one part or two.
            let rounding = [0.0, 512.0, 2.0, 0.0][parts] / 65536.0;
            let bound = (12.0 * EPSILON + rounding) * want.abs() + 24.0 * EPSILON;
            assert!(
                (got - want).abs() <= bound,
                "{what}: {parts} parts, {at}: {got} and {want}"
            );
        }
    }
}

#[test]
fn add_transposed() {
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
fn scale_rows() {
    let mut random = Random(47);
    for table in tables() {
        for (rows, n) in [(1, 1), (3, 16), (32, 100), (STEP, KB)] {
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
fn largest() {
    let mut random = Random(48);
    for table in tables() {
        for (n, d) in [(1, 1), (3, 16), (17, 33), (100, 64)] {
            let ld = d + random.below(3);
            let rows = random.floats((n - 1) * ld + d);
            // SAFETY: `n` rows of `d` elements.
            let (got, want) = unsafe {
                (
                    (table.largest)(rows.as_ptr(), ld, n, d),
                    (TWIN.largest)(rows.as_ptr(), ld, n, d),
                )
            };
            assert_eq!(got, want, "{n} x {d}");
        }
    }
}
