//! Kernels of the backward pass.

use super::memory::Guarded;
use super::{Random, tables};
use crate::{BLOCK_N, SCORE_LD};

const EPSILON: f32 = f32::EPSILON / 2.0;
const NONE: f32 = f32::NEG_INFINITY;

#[test]
fn ptv_f32_matches_its_twin() {
    let mut random = Random(31);
    for (table, twin) in tables() {
        for packed in [1, 2, 5, 31, 64, 100, BLOCK_N] {
            for rows in 1..=table.mr {
                let n = 1 + random.below(packed);
                let panels = 1 + random.below(8);
                // The last row of P ends where its last element does: nothing behind it is read.
                let p = random.floats((n - 1) * SCORE_LD + rows);
                let v = random.floats(panels * packed * table.nr);
                let alpha = random.floats(rows);
                let ldo = panels * table.nr;
                let mut got = random.floats(rows * ldo);
                let old = got.to_vec();
                let mut want = got.to_vec();
                let kernels = [
                    (table.gradient.ptv_f32, &mut got[..]),
                    (twin.gradient.ptv_f32, &mut want[..]),
                ];
                for (kernel, o) in kernels {
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
                        .map(|j| (p[j * SCORE_LD + i] * column(j)).abs())
                        .sum::<f32>()
                        + (alpha[i] * old[at]).abs();
                    let bound = 2.0 * (n + 2) as f32 * EPSILON * magnitude;
                    assert!(
                        (got[at] - want[at]).abs() <= bound,
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

/// Scores of which some are masked; logsumexps of which one says that its query has no keys.
fn scores(random: &mut Random, rows: usize, n: usize) -> (Guarded<f32>, Guarded<f32>) {
    let empty = random.below(n);
    let s = Guarded::from_fn((rows - 1) * SCORE_LD + n, |_| match random.below(4) {
        0 => NONE,
        _ => 8.0 * random.float() - 8.0,
    });
    let l = Guarded::from_fn(n, |j| {
        if j == empty {
            f32::INFINITY
        } else {
            random.float()
        }
    });
    (s, l)
}

#[test]
fn softmax_gradient_matches_its_twin() {
    let mut random = Random(32);
    for (table, twin) in tables() {
        for n in [1, 2, 7, 15, 16, 17, 33, 63, 100, BLOCK_N] {
            for rows in 1..=table.mr {
                let (s, l) = scores(&mut random, rows, n);
                let (mut dp, mut d) = (random.floats(s.len()), random.floats(n));
                // Masked scores have no effect, not even NaN.
                for i in 0..rows {
                    for j in 0..n {
                        if s[i * SCORE_LD + j] == NONE {
                            dp[i * SCORE_LD + j] = f32::NAN;
                        } else if l[j] == f32::INFINITY {
                            d[j] = f32::NAN;
                        }
                    }
                }
                for with_dp in [true, false] {
                    let (mut p, mut g) = (Guarded::from_slice(&s), Guarded::from_slice(&dp));
                    let (mut p_twin, mut g_twin) = (s.to_vec(), dp.to_vec());
                    let null = std::ptr::null_mut();
                    // SAFETY: strips of `rows` x `n`, a number per query.
                    unsafe {
                        let to = if with_dp { g.as_mut_ptr() } else { null };
                        let (s, l, d) = (p.as_mut_ptr(), l.as_ptr(), d.as_ptr());
                        (table.gradient.softmax_gradient)(s, to, rows, n, l, d);
                        let to = if with_dp { g_twin.as_mut_ptr() } else { null };
                        let s = p_twin.as_mut_ptr();
                        (twin.gradient.softmax_gradient)(s, to, rows, n, l, d);
                    }
                    p.check("weights");
                    g.check("gradients");
                    for at in (0..s.len()).filter(|at| at % SCORE_LD < n) {
                        // Twice the error of exp2, which is below 2^-22, and three roundings.
                        let near = |got: f32, want: f32, size: f32| {
                            got == want || (got - want).abs() <= 12.0 * EPSILON * size
                        };
                        let size = p_twin[at] * (dp[at].abs() + d[at % SCORE_LD].abs());
                        let right = near(p[at], p_twin[at], p_twin[at])
                            && (!with_dp || near(g[at], g_twin[at], size));
                        assert!(
                            right,
                            "{}: {n}, {at}: {} {} and {} {}",
                            table.isa, p[at], g[at], p_twin[at], g_twin[at]
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn weighted_sums_match_their_twin() {
    let mut random = Random(33);
    for (table, twin) in tables() {
        for n in [1, 3, 15, 16, 17, 63, BLOCK_N] {
            for rows in 1..=table.mr {
                let (s, l) = scores(&mut random, rows, n);
                let mut dp = random.floats(s.len());
                for (dp, s) in dp.iter_mut().zip(s.iter()) {
                    *dp = if *s == NONE { f32::NAN } else { *dp };
                }
                let mut got = random.floats(n);
                let mut want = got.to_vec();
                // SAFETY: strips of `rows` x `n`, a number per query.
                unsafe {
                    let (s, dp, l) = (s.as_ptr(), dp.as_ptr(), l.as_ptr());
                    (table.gradient.weighted_sums)(s, dp, rows, n, l, got.as_mut_ptr());
                    (twin.gradient.weighted_sums)(s, dp, rows, n, l, want.as_mut_ptr());
                }
                got.check("sums");
                for (got, want) in got.iter().zip(&want) {
                    // Weights and dP are at most 2; the error of exp2 is below 4 units.
                    let bound = EPSILON * (4.0 + rows as f32) * 2.0 * (1.0 + 2.0 * rows as f32);
                    let right = (got - want).abs() <= bound;
                    assert!(right, "{}: {got} and {want}", table.isa);
                }
            }
        }
    }
}

#[test]
fn transpose_moves_every_element() {
    let mut random = Random(34);
    for (table, _) in tables() {
        for n in [1, 2, 15, 16, 17, 50] {
            for d in [1, 5, 8, 16, 31, 48] {
                let (ld, out_ld) = (d + 3, n + 5);
                let rows = random.floats((n - 1) * ld + d);
                let mut out = Guarded::new((d - 1) * out_ld + n, 7f32);
                // SAFETY: `n` rows of `d` elements, and as many columns.
                unsafe {
                    let (from, to) = (rows.as_ptr(), out.as_mut_ptr());
                    (table.gradient.transpose)(from, ld, n, d, to, out_ld);
                }
                out.check("columns");
                for at in 0..out.len() {
                    let (j, i) = (at / out_ld, at % out_ld);
                    let want = if i < n { rows[i * ld + j] } else { 7.0 };
                    assert_eq!(out[at], want, "{}: {n} x {d}, ({j}, {i})", table.isa);
                }
            }
        }
    }
}

#[test]
fn row_dots_matches_its_twin() {
    let mut random = Random(35);
    for (table, twin) in tables() {
        for (n, d) in [(1, 1), (3, 7), (2, 8), (5, 33), (32, 64), (3, 200)] {
            let (lda, ldb) = (d + random.below(3), d + random.below(3));
            let (a, b) = (
                random.floats((n - 1) * lda + d),
                random.floats((n - 1) * ldb + d),
            );
            let (mut got, mut want) = (Guarded::new(n, 0f32), vec![0f32; n]);
            for (kernel, out) in [
                (table.gradient.row_dots, got.as_mut_ptr()),
                (twin.gradient.row_dots, want.as_mut_ptr()),
            ] {
                // SAFETY: `n` rows of `d` floats.
                unsafe { kernel(a.as_ptr(), lda, b.as_ptr(), ldb, n, d, out) };
            }
            got.check("sums");
            assert!(got[..] == want[..], "{}: {n} x {d}", table.isa);
            for (i, x) in want.iter().enumerate() {
                let products =
                    (0..d).map(|c| f64::from(a[i * lda + c]) * f64::from(b[i * ldb + c]));
                let exact = products.sum::<f64>();
                assert!((f64::from(*x) - exact).abs() <= f64::from(EPSILON) * (exact.abs() + 1e-6));
            }
        }
    }
}
