//! Score and output tiles.

use super::memory::Guarded;
use super::{Random, put_p16, round_up, tables, tables_with_and_without_guard};
use crate::TileConfigGuard;
use crate::{BLOCK_N, Kernels, P8_LD, P16_LD, SCORE_LD, ScoreScales};

const EPSILON: f32 = f32::EPSILON / 2.0;

/// Sums of `terms` products in two orders differ by at most this.
fn bound(terms: usize, magnitude: f32) -> f32 {
    2.0 * (terms + 2) as f32 * EPSILON * magnitude
}

#[test]
fn qk_f32_matches_its_twin() {
    let mut random = Random(1);
    for (table, twin) in tables() {
        for d in [1, 2, 3, 7, 16, 63, 64, 65, 128, 255, 512] {
            for rows in 1..=table.mr {
                let panels = 1 + random.below(BLOCK_N / table.nr);
                let q = random.floats(d * table.mr);
                let k = random.floats(panels * d * table.nr);
                let mut got = Guarded::new(table.mr * SCORE_LD, 7f32);
                let mut want = got.to_vec();
                // SAFETY: operands have the sizes of their layouts.
                unsafe {
                    (table.qk_f32)(q.as_ptr(), k.as_ptr(), d, rows, panels, got.as_mut_ptr());
                    (twin.qk_f32)(q.as_ptr(), k.as_ptr(), d, rows, panels, want.as_mut_ptr());
                }
                got.check("scores");
                assert!(
                    got[rows * SCORE_LD..].iter().all(|x| *x == 7.0),
                    "{}: rows {rows}",
                    table.isa
                );
                for i in 0..rows {
                    for j in 0..SCORE_LD {
                        let at = i * SCORE_LD + j;
                        if j >= panels * table.nr {
                            assert_eq!(got[at], 7.0, "{}: row {i}, key {j} was written", table.isa);
                            continue;
                        }
                        let (panel, lane) = (j / table.nr, j % table.nr);
                        let magnitude: f32 = (0..d)
                            .map(|c| {
                                (q[c * table.mr + i] * k[(panel * d + c) * table.nr + lane]).abs()
                            })
                            .sum();
                        let difference = (got[at] - want[at]).abs();
                        assert!(
                            difference <= bound(d, magnitude),
                            "{}: d {d}, rows {rows}, ({i}, {j}): {} and {}",
                            table.isa,
                            got[at],
                            want[at]
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn pv_f32_matches_its_twin() {
    let mut random = Random(2);
    for (table, twin) in tables() {
        for packed in [1, 2, 5, 31, 64, 100, BLOCK_N] {
            for rows in 1..=table.mr {
                let n = 1 + random.below(packed);
                let panels = 1 + random.below(8);
                let mut p = random.floats(table.mr * SCORE_LD);
                for i in 0..table.mr {
                    p[i * SCORE_LD + n..(i + 1) * SCORE_LD].fill(f32::NAN);
                }
                let v = random.floats(panels * packed * table.nr);
                let alpha = random.floats(rows);
                let ldo = panels * table.nr;
                let mut got = random.floats(rows * ldo);
                let old = got.to_vec();
                let mut want = got.to_vec();
                for (kernel, o) in [(table.pv_f32, &mut got[..]), (twin.pv_f32, &mut want[..])] {
                    // SAFETY: operands have the sizes of their layouts.
                    unsafe {
                        kernel(
                            p.as_ptr(),
                            v.as_ptr(),
                            packed,
                            n,
                            rows,
                            panels,
                            alpha.as_ptr(),
                            o.as_mut_ptr(),
                            ldo,
                        );
                    }
                }
                got.check("outputs");
                for at in 0..rows * ldo {
                    let (i, c) = (at / ldo, at % ldo);
                    let column =
                        |j: usize| v[(c / table.nr * packed + j) * table.nr + c % table.nr];
                    let magnitude: f32 = (0..n)
                        .map(|j| (p[i * SCORE_LD + j] * column(j)).abs())
                        .sum::<f32>()
                        + (alpha[i] * old[at]).abs();
                    let difference = (got[at] - want[at]).abs();
                    assert!(
                        difference <= bound(n, magnitude),
                        "{}: n {n} of {packed}, ({i}, {c}): {} and {}",
                        table.isa,
                        got[at],
                        want[at]
                    );
                }
            }
        }
    }
}

/// The INT8 operands of a score tile, and what turns its sums into scores.
pub(super) struct Int8 {
    d: usize,
    /// Rows of `d`.
    q: Guarded<i8>,
    k: Guarded<i8>,
    col_bias: Guarded<i32>,
    col_scale: Guarded<f32>,
    col_zero: Guarded<f32>,
    row_scale: Guarded<f32>,
    row_sum: Guarded<f32>,
    row_add: Guarded<f32>,
}

impl Int8 {
    pub(super) fn new(random: &mut Random, d: usize, rows: usize, keys: usize) -> Self {
        Int8 {
            d,
            q: random.bytes(rows * d),
            k: random.bytes(keys * d),
            col_bias: Guarded::from_fn(keys, |_| random.below(200_000) as i32 - 100_000),
            col_scale: random.floats(keys),
            col_zero: Guarded::from_fn(keys, |_| random.below(256) as f32 - 128.0),
            row_scale: random.floats(rows),
            row_sum: Guarded::from_fn(rows, |_| random.below(20_000) as f32 - 10_000.0),
            row_add: random.floats(rows),
        }
    }

    pub(super) fn scales(&self, scale: bool, zero: bool) -> ScoreScales {
        let null = std::ptr::null();
        ScoreScales {
            col_bias: self.col_bias.as_ptr(),
            col_scale: if scale { self.col_scale.as_ptr() } else { null },
            col_zero: if zero { self.col_zero.as_ptr() } else { null },
            row_scale: self.row_scale.as_ptr(),
            row_sum: if zero { self.row_sum.as_ptr() } else { null },
            row_add: self.row_add.as_ptr(),
        }
    }

    /// Packs the operands and runs the kernel of `table`.
    pub(super) fn run(&self, table: &Kernels, rows: usize, scales: &ScoreScales) -> Guarded<f32> {
        let (d, d4) = (self.d, self.d.div_ceil(4));
        let keys = self.k.len() / d;
        let mut q = Guarded::new(4 * d4 * table.mr, 1u8);
        let mut k = Guarded::new(4 * d4 * keys * table.k_i8_bytes, 1i8);
        let mut sums = Guarded::new(keys.max(rows), 0i32);
        let mut s = Guarded::new(table.mr * SCORE_LD, 7f32);
        // SAFETY: operands have the sizes of their layouts.
        unsafe {
            let sums = sums.as_mut_ptr();
            (table.pack_q_i8)(self.q.as_ptr(), d, rows, d, q.as_mut_ptr(), sums);
            (table.pack_k_i8)(self.k.as_ptr(), d, keys, d, k.as_mut_ptr(), sums);
            let panels = keys / table.nr;
            (table.qk_i8)(
                q.as_ptr(),
                k.as_ptr(),
                d4,
                rows,
                panels,
                scales,
                s.as_mut_ptr(),
            );
        }
        s.check("scores");
        s
    }

    /// The integer that the kernel turns into a score.
    fn raw(&self, table: &Kernels, i: usize, j: usize) -> i32 {
        let (q, k) = (
            &self.q[i * self.d..][..self.d],
            &self.k[j * self.d..][..self.d],
        );
        let product = |(q, k): (&i8, &i8)| (i32::from(*q) + table.q_offset) * i32::from(*k);
        q.iter().zip(k).map(product).sum::<i32>() + self.col_bias[j]
    }
}

#[test]
fn qk_i8_matches_its_twin() {
    let mut random = Random(3);
    for (table, twin) in tables() {
        for d in [1, 4, 7, 12, 63, 64, 65, 68, 80, 128, 511, 512] {
            for rows in 1..=table.mr {
                let keys = table.nr * (1 + random.below(BLOCK_N / table.nr));
                let x = Int8::new(&mut random, d, rows, keys);
                for (scale, zero) in [(false, false), (true, false), (false, true), (true, true)] {
                    let scales = x.scales(scale, zero);
                    let (got, want) = (x.run(table, rows, &scales), x.run(&twin, rows, &scales));
                    for at in 0..rows * SCORE_LD {
                        let (i, j) = (at / SCORE_LD, at % SCORE_LD);
                        if j >= keys {
                            assert_eq!(got[at], 7.0, "{}: row {i}, key {j} was written", table.isa);
                            continue;
                        }
                        // The integers are exact; five roundings follow, on a sum of at most this magnitude.
                        let raw = 255.0 * 128.0 * d as f32 + 2e6;
                        let bound = 10.0 * EPSILON * (raw * x.row_scale[i].abs() + 1.0);
                        assert!(
                            (got[at] - want[at]).abs() <= bound,
                            "{}: d {d}, ({i}, {j}), {scale} {zero}: {} and {}",
                            table.isa,
                            got[at],
                            want[at]
                        );
                    }
                }
            }
        }
    }
}

/// Sums of extreme bytes, where an intermediate of 16 bits would saturate, and of any bytes, exact to the last bit, with
/// and without a bias.
#[test]
fn qk_i8_is_exact() {
    let mut random = Random(4);
    for (table, kept) in tables_with_and_without_guard() {
        let _tile_config = kept.then(|| TileConfigGuard::new(table));
        for d in [1, 4, 20, 64, 65, 127, 128, 320, 512] {
            for extreme in [
                None,
                Some((127, -128)),
                Some((127, 127)),
                Some((-128, -128)),
            ] {
                let mut x = Int8::new(&mut random, d, table.mr, 3 * table.nr);
                if let Some((q, k)) = extreme {
                    x.q.fill(q);
                    x.k.fill(k);
                }
                x.row_scale.fill(1.0);
                x.row_add.fill(0.0);
                for biased in [true, false] {
                    if !biased {
                        x.col_bias.fill(0);
                    }
                    let got = x.run(table, table.mr, &x.scales(false, false));
                    for i in 0..table.mr {
                        for j in 0..3 * table.nr {
                            let want = x.raw(table, i, j) as f32;
                            assert_eq!(
                                got[i * SCORE_LD + j],
                                want,
                                "{}: d {d}, ({i}, {j})",
                                table.isa
                            );
                        }
                    }
                }
            }
        }
    }
}

/// Without an old output and with scales of 1 the outputs are the integer sums, rounded to f32 once.
#[test]
fn pv_i16_is_exact() {
    let mut random = Random(5);
    for (table, kept) in tables_with_and_without_guard() {
        let _tile_config = kept.then(|| TileConfigGuard::new(table));
        for packed in [1, 2, 3, 64, 66, 101, 192, BLOCK_N] {
            for rows in 1..=table.mr {
                let extreme = rows == 2;
                let n = if extreme {
                    packed
                } else {
                    1 + random.below(packed)
                };
                let d = 1 + random.below(4 * table.nr);
                let mut p = Guarded::new(table.mr * P16_LD, 0i16);
                let mut weights = vec![32767; rows * n];
                let mut x = Guarded::new(packed * d, 127i8);
                let mut zeros = Guarded::new(packed, -128i32);
                if !extreme {
                    weights.fill_with(|| random.next() as i16);
                    x.fill_with(|| random.next() as i8);
                    zeros.fill_with(|| random.below(256) as i32 - 128);
                }
                for (at, w) in weights.iter().enumerate() {
                    put_p16(table, &mut p, at / n, at % n, *w);
                }
                let ldo = round_up(d, table.nr);
                for zero in [None, Some(&zeros[..])] {
                    let mut v = Guarded::new(ldo * round_up(packed, 4), -1i16);
                    let (alpha, p_scale) = (Guarded::new(rows, 0f32), Guarded::new(rows, 1f32));
                    let mut o = random.floats(rows * ldo);
                    // SAFETY: operands have the sizes of their layouts.
                    unsafe {
                        let zero = zero.map_or(std::ptr::null(), <[i32]>::as_ptr);
                        (table.pack_v_i16)(x.as_ptr(), d, packed, d, zero, v.as_mut_ptr());
                        (table.pv_i16)(
                            p.as_ptr(),
                            v.as_ptr(),
                            packed,
                            n,
                            rows,
                            ldo / table.nr,
                            alpha.as_ptr(),
                            p_scale.as_ptr(),
                            std::ptr::null(),
                            o.as_mut_ptr(),
                            ldo,
                        );
                    }
                    v.check("v");
                    o.check("outputs");
                    for at in (0..rows * ldo).filter(|at| at % ldo < d) {
                        let (i, c) = (at / ldo, at % ldo);
                        let term = |j: usize| {
                            let v = i64::from(x[j * d + c]) - i64::from(zero.map_or(0, |z| z[j]));
                            i64::from(weights[i * n + j]) * v
                        };
                        let want = (0..n).map(term).sum::<i64>() as f32;
                        assert_eq!(
                            o[at], want,
                            "{}: n {n} of {packed}, d {d}, ({i}, {c})",
                            table.isa
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn pv_u8_is_exact() {
    let mut random = Random(6);
    for (table, kept) in tables_with_and_without_guard() {
        let _tile_config = kept.then(|| TileConfigGuard::new(table));
        for packed in [1, 3, 4, 6, 64, 101, BLOCK_N] {
            for rows in 1..=table.mr {
                let extreme = rows == 2;
                let n = if extreme {
                    packed
                } else {
                    1 + random.below(packed)
                };
                let panels = 1 + random.below(4);
                let mut p = Guarded::new(table.mr * P8_LD, 0u8);
                let mut p_sum = Guarded::new(rows, 0i32);
                for i in 0..table.mr {
                    for j in 0..n {
                        let x = if extreme { 255 } else { random.next() as u8 };
                        p[i * P8_LD + j] = x;
                        if i < rows {
                            p_sum[i] += i32::from(x);
                        }
                    }
                }
                let quarter = packed.div_ceil(4);
                let v = Guarded::from_fn(panels * quarter * table.nr * 4, |_| {
                    if extreme { -128 } else { random.next() as i8 }
                });
                let zero = random.below(256) as i32 - 128;
                let ldo = panels * table.nr;
                let (alpha, p_scale) = (Guarded::new(table.mr, 0f32), Guarded::new(table.mr, 1f32));
                let mut o = random.floats(rows * ldo);
                // SAFETY: operands have the sizes of their layouts.
                unsafe {
                    (table.pv_u8)(
                        p.as_ptr(),
                        v.as_ptr(),
                        packed,
                        n,
                        rows,
                        panels,
                        alpha.as_ptr(),
                        p_scale.as_ptr(),
                        p_sum.as_ptr(),
                        zero,
                        o.as_mut_ptr(),
                        ldo,
                    );
                }
                o.check("outputs");
                for at in 0..rows * ldo {
                    let (i, c) = (at / ldo, at % ldo);
                    let want: i32 = (0..n)
                        .map(|j| {
                            let group = (c / table.nr * quarter + j / 4) * table.nr + c % table.nr;
                            i32::from(p[i * P8_LD + j]) * (i32::from(v[group * 4 + j % 4]) - zero)
                        })
                        .sum();
                    assert_eq!(
                        o[at], want as f32,
                        "{}: n {n} of {packed}, ({i}, {c})",
                        table.isa
                    );
                }
            }
        }
    }
}

/// The factors of the sums and of the old outputs.
#[test]
fn scales_of_integer_pv_match_the_twin() {
    let mut random = Random(7);
    for (table, twin) in tables() {
        let (n, rows, panels) = (37, table.mr, 2);
        let ldo = panels * table.nr;
        let weights = Guarded::from_fn(rows * n, |_| random.next() as i16);
        let p8 = Guarded::from_fn(rows * P8_LD, |at| {
            if at % P8_LD < n {
                random.next() as u8
            } else {
                0
            }
        });
        let x = random.bytes(n * ldo);
        let v8 = random.bytes(panels * table.nr * round_up(n, 4));
        let p_sum = Guarded::from_fn(rows, |_| random.below(9000) as i32);
        let (alpha, scale, columns) =
            (random.floats(rows), random.floats(rows), random.floats(ldo));
        let start = random.floats(rows * ldo);
        for column in [std::ptr::null(), columns.as_ptr()] {
            let run = |table: &Kernels| {
                let (mut a, mut b) = (Guarded::from_slice(&start), Guarded::from_slice(&start));
                let mut p16 = Guarded::new(rows * P16_LD, 0i16);
                for (at, x) in weights.iter().enumerate() {
                    put_p16(table, &mut p16, at / n, at % n, *x);
                }
                let mut v16 = Guarded::new(ldo * round_up(n, 4), 0i16);
                // SAFETY: operands have the sizes of their layouts.
                unsafe {
                    let null = std::ptr::null();
                    (table.pack_v_i16)(x.as_ptr(), ldo, n, ldo, null, v16.as_mut_ptr());
                    (table.pv_i16)(
                        p16.as_ptr(),
                        v16.as_ptr(),
                        n,
                        n,
                        rows,
                        panels,
                        alpha.as_ptr(),
                        scale.as_ptr(),
                        column,
                        a.as_mut_ptr(),
                        ldo,
                    );
                    (table.pv_u8)(
                        p8.as_ptr(),
                        v8.as_ptr(),
                        n,
                        n,
                        rows,
                        panels,
                        alpha.as_ptr(),
                        scale.as_ptr(),
                        p_sum.as_ptr(),
                        5,
                        b.as_mut_ptr(),
                        ldo,
                    );
                }
                (a, b)
            };
            let (got, want) = (run(table), run(&twin));
            for (got, want) in [(got.0, want.0), (got.1, want.1)] {
                for (at, (got, want)) in got.iter().zip(want.iter()).enumerate() {
                    // Four roundings on each side, none on more than the two terms' magnitudes.
                    let magnitude = want.abs() + 2.0 * start[at].abs();
                    assert!(
                        (got - want).abs() <= 8.0 * EPSILON * magnitude,
                        "{}: {got} and {want}",
                        table.isa
                    );
                }
            }
        }
    }
}

/// NaN and infinities in an operand reach the scores that use them, and no other.
#[test]
fn specials_stay_in_their_place() {
    let mut random = Random(8);
    for (table, _) in tables() {
        let d = 24;
        for x in [f32::NAN, f32::INFINITY] {
            let mut q = random.floats(d * table.mr);
            let mut k = random.floats(d * table.nr);
            q[5 * table.mr + 1] = x;
            k[7 * table.nr + 3] = x;
            let mut s = Guarded::new(table.mr * SCORE_LD, 0f32);
            // SAFETY: operands have the sizes of their layouts.
            unsafe { (table.qk_f32)(q.as_ptr(), k.as_ptr(), d, table.mr, 1, s.as_mut_ptr()) };
            for i in 0..table.mr {
                for j in 0..table.nr {
                    let special = i == 1 || j == 3;
                    assert_eq!(
                        !s[i * SCORE_LD + j].is_finite(),
                        special,
                        "{}: ({i}, {j})",
                        table.isa
                    );
                }
            }
        }
    }
}
