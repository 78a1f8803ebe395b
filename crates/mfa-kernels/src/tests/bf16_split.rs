//! Splitting into slices, and products of them.

use super::memory::Guarded;
use super::tiles::Int8;
use super::{Random, tables};
use crate::Precision;
use crate::bf16_split::{
    Bf16Kernels, Bf16Products, FloatRows, MAX_SLICES, PackBf16, STEP, bf16, exact_dot,
    long_row_len, panel_len, restore, row_len,
};
use crate::scalar::{self, bf16_split as twin};
use crate::{BLOCK_N, Kernels, RowState, SCORE_LD, TileConfigGuard};

/// Tables with products of slices, and their twins.
fn bf16_tables() -> Vec<(&'static Kernels, Bf16Kernels, Bf16Kernels)> {
    tables()
        .into_iter()
        .filter_map(|(table, twin)| Some((table, table.bf16?, twin.bf16?)))
        .chain([(&scalar::TABLE, twin::table::<4, 8>(), twin::table::<4, 8>())])
        .collect()
}

/// Strip and panel of a table's slices.
fn tile(table: &Kernels) -> (usize, usize) {
    (table.mr, table.nr)
}

/// Floats of all kinds.
fn non_finite(random: &mut Random) -> f32 {
    match random.below(12) {
        0 => f32::NAN,
        1 => f32::from_bits(0xffff_ffff),
        2 => f32::from_bits(0x7f80_0001),
        3 => f32::INFINITY,
        4 => f32::NEG_INFINITY,
        5 => f32::MAX,
        6 => -f32::MAX,
        7 => f32::from_bits(0x7f7f_8000),
        8 => f32::from_bits(1 + random.below(1 << 23) as u32),
        9 => -0.0,
        _ => random.float(),
    }
}

#[test]
fn three_slices_are_the_float() {
    let mut random = Random(70);
    let sum = |x: f32, slices: usize| {
        let split = twin::split(x, slices);
        split.iter().rev().map(|p| bf16(*p)).sum::<f32>()
    };
    for _ in 0..100_000 {
        // Of any exponent that leaves the third slice normal.
        let bits = random.next() as u32;
        let x = f32::from_bits(bits & 0x807f_ffff | (24 + bits % 231) << 23);
        assert_eq!(sum(x, 3), x, "{x:e}");
        let x = f32::from_bits(x.to_bits() & !0x1fff);
        assert_eq!(sum(x, 2), x, "{x:e}: 11 bits");
        let x = f32::from_bits(x.to_bits() & !0xffff);
        assert_eq!(sum(x, 1), x, "{x:e}: 8 bits");
    }
    for x in [f32::MAX, -f32::MAX, f32::from_bits(0x7f7f_8000), 0.0, 1.0] {
        assert_eq!(sum(x, 3), x);
    }
    for x in [
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::from_bits(0x7f80_0001),
    ] {
        let split = twin::split(x, 3);
        assert!(bf16(split[0]).is_nan() == x.is_nan() && !bf16(split[0]).is_finite());
        assert_eq!(split[1..], [0, 0]);
    }
}

/// The ways to store floats.
pub(super) const FLOATS: [Precision; 3] = [Precision::F32, Precision::F16, Precision::Bf16];

/// The bytes of floats.
pub(super) fn stored(floats: &[f32], precision: Precision) -> Vec<u8> {
    match precision {
        Precision::F16 => (floats.iter())
            .flat_map(|x| half::f16::from_f32(*x).to_ne_bytes())
            .collect(),
        Precision::Bf16 => (floats.iter())
            .flat_map(|x| half::bf16::from_f32(*x).to_ne_bytes())
            .collect(),
        _ => floats.iter().flat_map(|x| x.to_ne_bytes()).collect(),
    }
}

#[test]
fn packing_matches_its_twin() {
    let mut random = Random(71);
    for (table, ours, theirs) in bf16_tables() {
        let (mr, nr) = tile(table);
        // Kernel, twin, most rows, most columns, elements of the result.
        type Size = fn(usize, usize, usize, usize, usize) -> usize;
        let a_rows: Size = |_, d, slices, mr, _| mr * row_len(d, slices);
        let a_columns: Size = |n, _, slices, mr, _| mr * long_row_len(n, slices);
        let b_rows: Size = |n, d, slices, _, nr| n.div_ceil(nr) * panel_len(d, slices, nr);
        let b_columns: Size = |n, d, slices, _, nr| d.div_ceil(nr) * panel_len(n, slices, nr);
        let cases: [(&str, PackBf16, PackBf16, usize, usize, Size); 4] = [
            ("rows", ours.pack_rows, theirs.pack_rows, mr, 150, a_rows),
            (
                "transposed",
                ours.pack_transposed,
                theirs.pack_transposed,
                150,
                mr,
                a_columns,
            ),
            (
                "columns",
                ours.pack_columns,
                theirs.pack_columns,
                150,
                150,
                b_rows,
            ),
            (
                "panels",
                ours.pack_panels,
                theirs.pack_panels,
                150,
                150,
                b_columns,
            ),
        ];
        for (name, kernel, other, most_rows, most_columns, size) in cases {
            for round in 0..60 {
                let (n, d) = (1 + random.below(most_rows), 1 + random.below(most_columns));
                let slices = 1 + random.below(MAX_SLICES);
                let ld = d + random.below(3);
                let len = (n - 1) * ld + d;
                let share = [0, 0, 50, 1][round % 4];
                let precision = FLOATS[round / 4 % 3];
                let floats: Vec<f32> = (0..len)
                    .map(|_| match share > 0 && random.below(share) == 0 {
                        true => non_finite(&mut random),
                        false => random.float(),
                    })
                    .collect();
                let bytes = stored(&floats, precision);
                let rows = Guarded::from_slice(&bytes);
                let rows = FloatRows {
                    ptr: rows.as_ptr(),
                    ld,
                    precision,
                };
                let len = size(n, d, slices, mr, nr);
                let mut got = Guarded::new(len, 7u16);
                let mut want = Guarded::new(len, 7u16);
                // SAFETY: operands have the sizes of their layouts.
                let (a, b) = unsafe {
                    (
                        kernel(slices, rows, n, d, got.as_mut_ptr()),
                        other(slices, rows, n, d, want.as_mut_ptr()),
                    )
                };
                got.check(name);
                let at = (0..len).find(|&i| got[i] != want[i]);
                assert_eq!(at, None, "{}: {name} {n} x {d}, {slices} slices", table.isa);
                // SAFETY: one of the rows' elements.
                let is_finite = |i, c| unsafe { twin::float(&rows, i, c) }.is_finite();
                let finite = (0..n).all(|i| (0..d).all(|c| is_finite(i, c)));
                assert_eq!((a, b), (finite, finite), "{}: {name}", table.isa);
            }
        }
    }
}

/// Operands of a product in the precision that `terms` are for.
struct Operands {
    a: Vec<f32>,
    b: Vec<f32>,
    packed_a: Guarded<u16>,
    packed_b: Guarded<u16>,
}

impl Operands {
    /// `mr` rows and `columns` columns of `d` terms.
    fn new(
        random: &mut Random,
        slices: &Bf16Kernels,
        terms: Bf16Products,
        shape: [usize; 4],
    ) -> Self {
        let [mr, nr, columns, d] = shape;
        let (of_a, of_b) = (terms.slices_of_a(), terms.slices_of_b());
        let mut floats = |n: usize, slices: usize| -> Vec<f32> {
            let mask = [!0, 0xffff_0000, 0xffff_e000, !0][slices];
            (0..n)
                .map(|_| f32::from_bits(random.float().to_bits() & mask))
                .collect()
        };
        let (a, b) = (floats(mr * d, of_a), floats(columns * d, of_b));
        let mut packed_a = Guarded::new(mr * row_len(d, of_a), 0u16);
        let mut packed_b = Guarded::new(columns.div_ceil(nr) * panel_len(d, of_b, nr), 0u16);
        // SAFETY: operands have the sizes of their layouts.
        unsafe {
            assert!((slices.pack_rows)(
                of_a,
                FloatRows::f32(a.as_ptr(), d),
                mr,
                d,
                packed_a.as_mut_ptr()
            ));
            let out = packed_b.as_mut_ptr();
            assert!((slices.pack_columns)(
                of_b,
                FloatRows::f32(b.as_ptr(), d),
                columns,
                d,
                out
            ));
        }
        Operands {
            a,
            b,
            packed_a,
            packed_b,
        }
    }
}

#[test]
fn products_match_their_twins() {
    let mut random = Random(72);
    for (table, ours, theirs) in bf16_tables() {
        let (mr, nr) = tile(table);
        for (terms, kept) in Bf16Products::ALL
            .into_iter()
            .zip([false, true].into_iter().cycle())
        {
            let _tile_config = kept.then(|| TileConfigGuard::new(table));
            for d in [1, 16, 31, 32, 33, 64, 96, 128, 200, 256] {
                for rows in [1, mr.min(16), mr.min(17), mr] {
                    let panels = 1 + random.below(5);
                    let columns = panels * nr - random.below(nr);
                    let x = Operands::new(&mut random, &ours, terms, [mr, nr, columns, d]);
                    let ldo = panels * nr + 16 * random.below(2);
                    let old = random.floats(mr * ldo);
                    let (mut got, mut want) = (Guarded::from_slice(&old), old.to_vec());
                    let add = random.below(2) == 1;
                    let steps = d.div_ceil(STEP);
                    let (of_a, of_b) = (terms.slices_of_a(), terms.slices_of_b());
                    let (lda, panel) = (row_len(d, of_a), panel_len(d, of_b, nr));
                    for (kernel, o) in [
                        (ours.product, &mut got[..]),
                        (theirs.product, &mut want[..]),
                    ] {
                        let (a, b) = (x.packed_a.as_ptr(), x.packed_b.as_ptr());
                        let o = o.as_mut_ptr();
                        // SAFETY: operands have the sizes of their layouts.
                        unsafe {
                            kernel(terms, a, lda, b, panel, steps, rows, panels, add, o, ldo)
                        };
                    }
                    got.check("product");
                    for at in 0..mr * ldo {
                        let (i, c) = (at / ldo, at % ldo);
                        let written = i < if rows <= 16 { 16 } else { mr } && c < panels * nr;
                        if !written {
                            assert_eq!(got[at], old[at], "{}: ({i}, {c}) was written", table.isa);
                            continue;
                        }
                        let before = if add { f64::from(old[at]) } else { 0.0 };
                        let (mut exact, mut magnitude) = (before, before.abs());
                        if c < columns {
                            for t in 0..d {
                                let product = f64::from(x.a[i * d + t]) * f64::from(x.b[c * d + t]);
                                exact += product;
                                magnitude += product.abs();
                            }
                        }
                        // Each step of a product of slices is added once; within it the error is smaller.
                        let roundings = (steps * terms.pairs().len() + 32) as f64;
                        let lost = match terms {
                            Bf16Products::X3 => 2f64.powi(-15),
                            Bf16Products::X6 => 2f64.powi(-22),
                            _ => 0.0,
                        };
                        let bound = (roundings * 2f64.powi(-24) + lost) * magnitude;
                        for (x, who) in [(got[at], "kernel"), (want[at], "twin")] {
                            let error = (f64::from(x) - exact).abs();
                            assert!(
                                error <= bound,
                                "{}: {terms:?}, d {d}, rows {rows}, ({i}, {c}): {who} is off by {error:e}",
                                table.isa
                            );
                        }
                    }
                }
            }
        }
    }
}

/// A kernel that needs another tile configuration restores the one that the next kernel expects.
#[test]
fn a_held_tile_configuration_stays_loaded() {
    let mut random = Random(75);
    for (table, ours, _) in bf16_tables() {
        let ((mr, nr), d) = (tile(table), 2 * STEP);
        let x = Operands::new(&mut random, &ours, Bf16Products::X3, [mr, nr, nr, d]);
        let product = || {
            let mut o = vec![0f32; mr * nr];
            let (a, b) = (x.packed_a.as_ptr(), x.packed_b.as_ptr());
            let (lda, panel, out) = (row_len(d, 2), panel_len(d, 2, nr), o.as_mut_ptr());
            // SAFETY: operands have the sizes of their layouts.
            unsafe { (ours.product)(Bf16Products::X3, a, lda, b, panel, 2, mr, 1, false, out, nr) };
            o
        };
        let want = product();
        let _tile_config = TileConfigGuard::new(table);
        for d in [4, 20, 64, 68] {
            let integers = Int8::new(&mut random, d, mr, nr);
            integers.run(table, mr, &integers.scales(true, true));
            assert!(product() == want, "{}: after d {d}", table.isa);
        }
    }
}

/// The claim on which FP32 attention rests: six products of slices are at least as good as FP32 products.
#[test]
fn six_products_are_as_good_as_fp32() {
    let mut random = Random(73);
    for (table, ours, _) in bf16_tables() {
        let (mr, nr) = tile(table);
        for d in [32, 64, 128, 256] {
            let columns = 8 * nr;
            let x = Operands::new(&mut random, &ours, Bf16Products::X6, [mr, nr, columns, d]);
            let mut o = Guarded::new(mr * columns, 0f32);
            let (a, b) = (x.packed_a.as_ptr(), x.packed_b.as_ptr());
            let (lda, panel) = (row_len(d, 3), panel_len(d, 3, nr));
            // SAFETY: operands have the sizes of their layouts.
            unsafe {
                let steps = d.div_ceil(STEP);
                let out = o.as_mut_ptr();
                (ours.product)(
                    Bf16Products::X6,
                    a,
                    lda,
                    b,
                    panel,
                    steps,
                    mr,
                    8,
                    false,
                    out,
                    columns,
                );
            }
            let (mut slices, mut plain) = (0f64, 0f64);
            for at in 0..mr * columns {
                let (i, c) = (at / columns, at % columns);
                let (mut exact, mut sum) = (0f64, 0f32);
                for t in 0..d {
                    let (a, b) = (x.a[i * d + t], x.b[c * d + t]);
                    exact += f64::from(a) * f64::from(b);
                    sum = a.mul_add(b, sum);
                }
                slices += (f64::from(o[at]) - exact).powi(2);
                plain += (f64::from(sum) - exact).powi(2);
            }
            assert!(
                slices <= plain,
                "{}: d {d}: {slices:e}, FP32 {plain:e}",
                table.isa
            );
        }
    }
}

#[test]
fn exact_dot_and_restore_give_the_floats_back() {
    let mut random = Random(74);
    for (table, ours, _) in bf16_tables() {
        let (mr, nr) = tile(table);
        let (columns, d) = (2 * nr + 3, 77);
        let x = Operands::new(&mut random, &ours, Bf16Products::X6, [mr, nr, columns, d]);
        for c in 0..columns {
            for t in 0..d {
                // SAFETY: a term of a column.
                let back = unsafe { restore(x.packed_b.as_ptr(), t, c, d, 3, nr) };
                assert_eq!(back, x.b[c * d + t]);
            }
            let row = mr - 1;
            let want: f32 = (0..d).fold(0.0, |sum, t| sum + x.a[row * d + t] * x.b[c * d + t]);
            // SAFETY: a row and a column.
            let dot = unsafe {
                let a = x.packed_a.as_ptr().add(row * row_len(d, 3));
                exact_dot(a, x.packed_b.as_ptr(), c, d, Bf16Products::X6, nr)
            };
            assert_eq!(dot, want);
        }
    }
}

#[test]
fn weights_in_slices_match_the_twin() {
    let mut random = Random(75);
    for (table, ours, theirs) in bf16_tables() {
        let (mr, _) = tile(table);
        for round in 0..200 {
            let (rows, n) = (1 + random.below(mr), 1 + random.below(BLOCK_N));
            let slices = 1 + random.below(MAX_SLICES);
            let scale = 0.01 + random.float().abs();
            let mut s = Guarded::from_fn(mr * SCORE_LD, |_| 30.0 * random.float());
            if round % 3 == 0 {
                for _ in 0..rows * n / 2 {
                    s[random.below(rows) * SCORE_LD + random.below(n)] = f32::NEG_INFINITY;
                }
                s[..n].fill(f32::NEG_INFINITY);
            }
            if round % 5 == 0 {
                s[(rows - 1) * SCORE_LD + random.below(n)] = f32::NAN;
            }
            let ldp = row_len(n, slices);
            let m = Guarded::from_fn(rows, |i| {
                if i % 2 == 0 {
                    f32::NEG_INFINITY
                } else {
                    20.0 * random.float()
                }
            });
            let l = Guarded::from_fn(rows, |i| {
                if m[i] == f32::NEG_INFINITY {
                    0.0
                } else {
                    1.0 + random.float().abs()
                }
            });
            let before = s.to_vec();
            let run = |kernels: &Bf16Kernels| {
                let mut p = Guarded::new(rows * ldp, 7u16);
                let (mut m, mut l) = (Guarded::from_slice(&m), Guarded::from_slice(&l));
                let mut alpha = Guarded::new(rows, 7f32);
                let state = RowState {
                    m: m.as_mut_ptr(),
                    l: l.as_mut_ptr(),
                    alpha: alpha.as_mut_ptr(),
                    left: std::ptr::null_mut(),
                };
                // SAFETY: operands have the sizes of their layouts.
                unsafe {
                    (kernels.softmax)(
                        slices,
                        s.as_ptr(),
                        rows,
                        n,
                        state,
                        scale,
                        p.as_mut_ptr(),
                        ldp,
                    )
                };
                for (x, name) in [(&m, "m"), (&l, "l"), (&alpha, "alpha")] {
                    x.check(name);
                }
                p.check("P");
                (p, m, l, alpha)
            };
            let (got, want) = (run(&ours), run(&theirs));
            let bits = |x: &[f32]| -> Vec<u32> { x.iter().map(|x| x.to_bits()).collect() };
            assert_eq!(
                bits(&s),
                bits(&before),
                "{}: scores were written",
                table.isa
            );
            let close = |a: f32, b: f32, bound: f32| {
                (a.is_nan() && b.is_nan()) || (a - b).abs() <= bound || a == b
            };
            // Weights that differ by an error of exp2 may round to neighbours.
            let rounding = [0.0, 2f32.powi(-7), 2f32.powi(-15), 0.0][slices];
            for i in 0..rows {
                assert!(
                    close(got.1[i], want.1[i], 1e-5),
                    "{}: m {} and {}",
                    table.isa,
                    got.1[i],
                    want.1[i]
                );
                assert!(
                    close(got.2[i], want.2[i], 1e-4 * want.2[i].abs()),
                    "{}: l {} and {}",
                    table.isa,
                    got.2[i],
                    want.2[i]
                );
                assert!(close(got.3[i], want.3[i], 1e-4), "{}: alpha", table.isa);
                if want.2[i].is_nan() {
                    continue; // P may be anything: the sum spoils the row.
                }
                for t in 0..n.next_multiple_of(STEP) {
                    let weight = |p: &Guarded<u16>| {
                        let first = i * ldp + t / STEP * slices * STEP + t % 16 * 2 + t % STEP / 16;
                        (0..slices)
                            .rev()
                            .map(|slice| bf16(p[first + slice * STEP]))
                            .sum::<f32>()
                    };
                    let (a, b) = (weight(&got.0), weight(&want.0));
                    assert!(
                        close(a, b, (1e-5 + rounding) * b),
                        "{}: P {a} and {b}",
                        table.isa
                    );
                    assert!(t < n || a == 0.0, "{}: padding", table.isa);
                }
            }
        }
    }
}

#[test]
fn rescale_matches_its_twin() {
    let mut random = Random(76);
    for (table, ours, theirs) in bf16_tables() {
        let (mr, nr) = tile(table);
        let (rows, columns) = (mr - 1, 3 * nr);
        let old = random.floats(mr * columns);
        let alpha = Guarded::from_fn(rows, |i| if i % 2 == 0 { 1.0 } else { random.float() });
        let run = |kernels: &Bf16Kernels| {
            let mut o = Guarded::from_slice(&old);
            // SAFETY: operands have the sizes of their layouts.
            unsafe { (kernels.rescale)(alpha.as_ptr(), rows, columns, o.as_mut_ptr(), columns) };
            o.check("O");
            o.to_vec()
        };
        assert_eq!(run(&ours), run(&theirs), "{}", table.isa);
    }
}
