//! Rows to integers and back: the same bits as the twin, and the formulas of the contract.

use std::ptr::null;

use super::memory::Guarded;
use super::{Random, tables};
use crate::quantized::{ChannelScales, GroupScales};
use crate::{Kernels, Precision, RowScales, ScaleRule};

const LENGTHS: [usize; 21] = [
    1, 2, 3, 4, 6, 7, 8, 12, 15, 16, 17, 31, 32, 48, 64, 80, 96, 128, 130, 256, 512,
];
const SPECIALS: [f32; 8] = [
    0.0,
    -0.0,
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::MAX,
    1e-45,
    -1e-40,
];

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Numbers of many magnitudes; with `specials`, NaN and infinities among them.
fn numbers(random: &mut Random, n: usize, specials: bool) -> Guarded<f32> {
    Guarded::from_fn(n, |_| match random.below(12) {
        0 if specials => SPECIALS[random.below(SPECIALS.len())],
        1 => random.float() * 1e-30,
        2 => random.float() * 1e30,
        3 => 0.0,
        _ => random.float() * 3.0,
    })
}

/// Groups that divide rows of `n`: one for all, one for each column, and those between that the contract has.
fn groups(n: usize) -> impl Iterator<Item = usize> {
    [n, 1, 32, 64].into_iter()
}

/// Dequantizes a row by the kernels of channels, where each column has a scale, or of groups.
unsafe fn dequantize(
    kernels: &Kernels,
    precision: Precision,
    row: *const u8,
    n: usize,
    scales: &RowScales,
    out: *mut f32,
) {
    let (table, RowScales { group, scale, zero }) = (&kernels.quantized, *scales);
    // SAFETY: by the caller, as for the kernels.
    unsafe {
        if group == 1 {
            let scales = ChannelScales { scale, zero };
            let kernel = table.dequantize_channels.of(precision);
            kernel(row, n, 1, n, scales, null(), out, n);
        } else {
            let group = group.next_multiple_of(32);
            let scales = GroupScales {
                scale,
                zero,
                ld: 0,
                group,
            };
            let kernel = table.dequantize_groups.of(precision);
            kernel(row, n, 1, n, scales, null(), out, n);
        }
    }
}

#[test]
fn extremes_are_those_of_the_twin() {
    let mut random = Random(71);
    for (table, twin) in tables() {
        for n in LENGTHS {
            for group in groups(n) {
                for round in 0..6 {
                    let x = numbers(&mut random, n, round > 2);
                    let count = n.div_ceil(group);
                    let run = |kernels: &Kernels| {
                        let mut min = Guarded::from_fn(count, |g| 0.0 - 0.25 * (g % 2) as f32);
                        let mut max = Guarded::from_fn(count, |g| 0.5 * (g % 3) as f32);
                        let (at, low, high) = (x.as_ptr(), min.as_mut_ptr(), max.as_mut_ptr());
                        // SAFETY: `n` elements, and a range for each group.
                        let finite =
                            unsafe { (kernels.quantize.extremes)(at, n, group, low, high) };
                        min.check("minima");
                        max.check("maxima");
                        (bits(&min), bits(&max), finite)
                    };
                    let found = run(table);
                    assert_eq!(found, run(&twin), "{}: {n} in groups of {group}", table.isa);
                    let finite = x.iter().all(|x| x.is_finite());
                    for kernels in [table, &twin] {
                        // SAFETY: `n` elements.
                        let found = unsafe { (kernels.quantize.is_finite)(x.as_ptr(), n) };
                        assert_eq!(found, finite, "{}: {n}", table.isa);
                    }
                    assert_eq!(found.2, finite, "{}: {n}", table.isa);
                }
            }
        }
    }
}

#[test]
fn extremes_and_sums_of_columns_are_those_of_the_twin() {
    let mut random = Random(72);
    for (table, twin) in tables() {
        for n in LENGTHS {
            for rows in [0, 1, 3, 4, 5, 8, 9, 17, 64] {
                let ld = n + random.below(3);
                let size = if rows == 0 { 0 } else { (rows - 1) * ld + n };
                let x = numbers(&mut random, size, true);
                let run = |kernels: &Kernels| {
                    let (mut min, mut max) = (Guarded::new(n, -0.5f32), Guarded::new(n, 0.0f32));
                    let mut sums = Guarded::new(n, 0.25f64);
                    let (at, low, high) = (x.as_ptr(), min.as_mut_ptr(), max.as_mut_ptr());
                    // SAFETY: `rows` rows of `n` elements, and a range and a sum for each column.
                    unsafe {
                        (kernels.quantize.column_extremes)(at, ld, rows, n, low, high);
                        (kernels.quantize.column_sums)(at, ld, rows, n, sums.as_mut_ptr());
                    }
                    min.check("minima");
                    max.check("maxima");
                    sums.check("sums");
                    // NaN has many bits.
                    let sums = sums
                        .iter()
                        .map(|x| if x.is_nan() { 1 } else { x.to_bits() });
                    (bits(&min), bits(&max), sums.collect::<Vec<_>>())
                };
                assert_eq!(run(table), run(&twin), "{}: {rows} x {n}", table.isa);
            }
        }
    }
}

#[test]
fn rotations_and_sums_of_rows_are_those_of_the_twin() {
    let mut random = Random(73);
    for (table, twin) in tables() {
        for n in LENGTHS {
            let (x, y) = (random.floats(n), numbers(&mut random, n, false));
            let run = |kernels: &Kernels, sign: f32| {
                let (mut rotated, mut sum) = (Guarded::new(n, 7.0f32), Guarded::new(n, 7.0f32));
                let (at, to) = (x.as_ptr(), sum.as_mut_ptr());
                // SAFETY: `n` elements each.
                unsafe {
                    (kernels.quantize.rotate)(at, n, rotated.as_mut_ptr());
                    (kernels.quantize.add_row)(at, y.as_ptr(), sign, n, to);
                }
                rotated.check("rotated");
                sum.check("sum");
                let out_of_place = (bits(&rotated), bits(&sum));
                let (mut rotated, mut sum) = (Guarded::from_slice(&x), Guarded::from_slice(&x));
                let (in_place, to) = (rotated.as_mut_ptr(), sum.as_mut_ptr());
                // SAFETY: in place, as is allowed.
                unsafe {
                    (kernels.quantize.rotate)(in_place, n, in_place);
                    (kernels.quantize.add_row)(to, y.as_ptr(), sign, n, to);
                }
                assert_eq!(out_of_place, (bits(&rotated), bits(&sum)), "in place: {n}");
                out_of_place
            };
            for sign in [1.0, -1.0] {
                assert_eq!(run(table, sign), run(&twin, sign), "{}: {n}", table.isa);
            }
        }
    }
}

#[test]
fn a_rotation_is_its_own_inverse_and_keeps_the_norm() {
    for (table, _) in tables() {
        for n in LENGTHS {
            let row: Vec<f32> = (0..n).map(|i| ((i * 37 % 23) as f32) - 11.0).collect();
            let (mut rotated, mut again) = (row.clone(), row.clone());
            // SAFETY: `n` elements each.
            unsafe {
                (table.quantize.rotate)(row.as_ptr(), n, rotated.as_mut_ptr());
                (table.quantize.rotate)(rotated.as_ptr(), n, again.as_mut_ptr());
            }
            let norm = |x: &[f32]| x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
            let difference = (norm(&row) - norm(&rotated)).abs();
            assert!(difference <= 1e-5 * norm(&row), "{}: {n}", table.isa);
            assert!(n % 2 == 1 || row != rotated, "{}: {n} must move", table.isa);
            for (a, b) in row.iter().zip(&again) {
                assert!((a - b).abs() < 1e-4, "{}: {n}: {a} {b}", table.isa);
            }
        }
    }
}

/// Scales and zero points of `n` columns in groups.
fn scales(random: &mut Random, n: usize, group: usize, low: f32) -> [Guarded<f32>; 2] {
    let count = n.div_ceil(group);
    let scale = Guarded::from_fn(count, |_| match random.below(8) {
        0 => 1e-45,
        1 => -0.3,
        2 => 1e38,
        _ => 0.01 + random.float().abs(),
    });
    let zero = Guarded::from_fn(count, |_| {
        if low < -100.0 || low == -8.0 {
            low + random.below((-2.0 * low) as usize) as f32
        } else {
            0.0
        }
    });
    [scale, zero]
}

#[test]
fn integers_are_those_of_the_twin() {
    let mut random = Random(74);
    for (table, twin) in tables() {
        for n in LENGTHS {
            for group in groups(n) {
                for (low, high) in [(-127.0, 127.0), (-128.0, 127.0), (-7.0, 7.0), (-8.0, 7.0)] {
                    let x = numbers(&mut random, n, true);
                    let [scale, zero] = scales(&mut random, n, group, low);
                    let scales = RowScales {
                        group,
                        scale: scale.as_ptr(),
                        zero: zero.as_ptr(),
                    };
                    let run = |kernels: &Kernels| {
                        let (mut codes, mut packed) = (Guarded::new(n, 99i8), vec![0u8; n / 2]);
                        let (at, to) = (x.as_ptr(), codes.as_mut_ptr());
                        // SAFETY: `n` elements each, and a scale for each group.
                        unsafe { (kernels.quantize.round)(at, n, &scales, low, high, to) };
                        codes.check("integers");
                        let mut out = Guarded::from_slice(&packed);
                        // SAFETY: an even number of integers, two to a byte.
                        unsafe { (kernels.quantize.pack_i4)(to, n & !1, out.as_mut_ptr()) };
                        out.check("pairs");
                        packed.copy_from_slice(&out);
                        let mut real = [vec![0.0f32; n], vec![0.0; n & !1]];
                        let [a, b] = &mut real;
                        // SAFETY: the integers that were just written, and as many floats.
                        unsafe {
                            let codes = to.cast_const().cast();
                            dequantize(kernels, Precision::I8, codes, n, &scales, a.as_mut_ptr());
                            let (at, n) = (out.as_ptr(), n & !1);
                            dequantize(kernels, Precision::I4, at, n, &scales, b.as_mut_ptr());
                        }
                        (codes.to_vec(), packed, real.map(|x| bits(&x)))
                    };
                    let found = run(table);
                    assert_eq!(found, run(&twin), "{}: {n} in {group}s", table.isa);
                    for (c, code) in found.0.iter().enumerate() {
                        let (s, z) = (scale[c / group], zero[c / group]);
                        let q = (f64::from(x[c]) / f64::from(s)).round_ties_even() + f64::from(z);
                        let want = q.clamp(f64::from(low), f64::from(high)) as i8;
                        // The quotient is rounded to FP32 first.
                        let near = f64::from(*code) - f64::from(want);
                        assert!(near.abs() <= 1.0, "{}: {} / {s} + {z}", table.isa, x[c]);
                    }
                }
            }
        }
    }
}

fn parameters(kernels: &Kernels, min: &[f32], max: &[f32], rule: &ScaleRule) -> [Vec<f32>; 2] {
    let n = min.len();
    let (min, max) = (Guarded::from_slice(min), Guarded::from_slice(max));
    let (mut scale, mut zero) = (Guarded::new(n, 7.0f32), Guarded::new(n, 7.0f32));
    let (scales, zeros) = (scale.as_mut_ptr(), zero.as_mut_ptr());
    // SAFETY: `n` numbers each.
    unsafe {
        (kernels.quantize.parameters)(min.as_ptr(), max.as_ptr(), n, rule, scales, zeros);
    }
    scale.check("scales");
    zero.check("zero points");
    [scale.to_vec(), zero.to_vec()]
}

#[test]
fn parameters_are_those_of_the_twin() {
    let mut random = Random(77);
    for (table, twin) in tables() {
        for n in LENGTHS {
            for round in 0..8 {
                let magnitude = [1.0, 1e-5, 1e-7, 1e-38, 1e30, 3e38, 1e-44, 6e4][round];
                let min: Vec<f32> = (0..n)
                    .map(|_| (random.float() * magnitude).min(0.0))
                    .collect();
                let max: Vec<f32> = (0..n)
                    .map(|_| (random.float() * magnitude).max(0.0))
                    .collect();
                for precision in [Precision::I8, Precision::I4] {
                    for flags in 0..4 {
                        let rule = ScaleRule::new(precision, flags & 1 == 1, flags & 2 == 2);
                        let found = parameters(table, &min, &max, &rule);
                        let want = parameters(&twin, &min, &max, &rule);
                        for (found, want) in found.iter().zip(&want) {
                            assert_eq!(bits(found), bits(want), "{}: {rule:?}", table.isa);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn parameters_follow_the_contract() {
    for (table, _) in tables() {
        let one = |min: f32, max: f32, rule: &ScaleRule| {
            let [scale, zero] = parameters(table, &[min], &[max], rule);
            (scale[0], zero[0])
        };
        let int8 = |asymmetric, half| ScaleRule::new(Precision::I8, asymmetric, half);
        let symmetric = one(-2.0, 6.0, &int8(false, false));
        assert_eq!(symmetric, ((6.0 / 127.0) as f32, 0.0));
        let asymmetric = one(-2.0, 6.0, &int8(true, false));
        assert_eq!(asymmetric, ((8.0 / 255.0) as f32, -64.0));
        for asymmetric in [false, true] {
            let rule = ScaleRule::new(Precision::I4, asymmetric, true);
            assert_eq!(one(0.0, 0.0, &rule), (1.0, 0.0));
        }
        assert_eq!(one(0.0, 1e-30, &int8(false, true)).0, 2f32.powi(-24));
        for smallest in [1e-45, 1e-37] {
            // Never subnormal.
            assert_eq!(one(0.0, smallest, &int8(false, false)).0, f32::MIN_POSITIVE);
            assert_eq!(one(0.0, smallest, &int8(true, false)).0, f32::MIN_POSITIVE);
        }
        assert!(one(-3e38, 3e38, &int8(true, false)).0.is_finite());
        // Ties of FP16: 2049 and 2051 halves of its spacing.
        let tie = |n: f32| one(0.0, 127.0 * n / 2048.0, &int8(false, true)).0;
        assert_eq!((tie(2049.0), tie(2051.0)), (1.0, 2052.0 / 2048.0));
    }
}

#[test]
fn rounding_breaks_ties_to_even_and_clamps() {
    let x = [0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 300.0, -300.0, 3.4e38];
    let (scale, zeros) = (1.0, [0.0, -8.0]);
    for (table, _) in tables() {
        let round = |zero: &f32, low, high| {
            let scales = RowScales {
                group: 9,
                scale: &raw const scale,
                zero,
            };
            let mut out = [0i8; 9];
            // SAFETY: nine elements each, of one group.
            unsafe {
                (table.quantize.round)(x.as_ptr(), 9, &scales, low, high, out.as_mut_ptr());
            }
            out
        };
        let symmetric = round(&zeros[0], -127.0, 127.0);
        assert_eq!(symmetric, [0, 2, 2, 0, -2, 126, 127, -127, 127]);
        let asymmetric = round(&zeros[1], -8.0, 7.0);
        assert_eq!(asymmetric, [-8, -6, -6, -8, -8, 7, 7, -8, 7]);
    }
}

#[test]
fn rows_are_dequantized_up_to_the_end_of_memory() {
    let mut random = Random(75);
    for (table, twin) in tables() {
        for n in LENGTHS {
            for group in groups(n) {
                let [scale, zero] = scales(&mut random, n, group, -128.0);
                let scales = RowScales {
                    group,
                    scale: scale.as_ptr(),
                    zero: zero.as_ptr(),
                };
                let row = Guarded::from_fn(n, |_| random.next() as u8);
                for int4 in [false, true] {
                    let count = if int4 { n & !1 } else { n };
                    let row = Guarded::from_slice(&row[..if int4 { n / 2 } else { n }]);
                    let run = |kernels: &Kernels| {
                        let mut out = Guarded::new(count, 7.0f32);
                        let precision = if int4 { Precision::I4 } else { Precision::I8 };
                        let (at, to) = (row.as_ptr(), out.as_mut_ptr());
                        // SAFETY: `count` stored integers, and as many floats.
                        unsafe { dequantize(kernels, precision, at, count, &scales, to) };
                        out.check("row");
                        bits(&out)
                    };
                    assert_eq!(run(table), run(&twin), "{}: {n} in {group}s", table.isa);
                }
            }
        }
    }
}

#[test]
fn errors_are_those_of_the_twin() {
    let mut random = Random(76);
    for (table, twin) in tables() {
        for n in LENGTHS {
            for _ in 0..5 {
                let x = numbers(&mut random, n, false);
                let y = Guarded::from_fn(n, |c| x[c] * (1.0 + 1e-3 * random.float()));
                // SAFETY: `n` elements each.
                let run = |kernels: &Kernels| unsafe {
                    (kernels.quantize.measure)(x.as_ptr(), y.as_ptr(), n)
                };
                let found = run(table);
                assert_eq!(found, run(&twin), "{}: {n}", table.isa);
                let difference = |c: usize| f64::from(x[c]) - f64::from(y[c]);
                let squares: f64 = (0..n).map(|c| difference(c) * difference(c)).sum();
                let sources: f64 = (0..n).map(|c| f64::from(y[c]) * f64::from(y[c])).sum();
                let max_abs = (0..n).map(|c| difference(c).abs()).fold(0.0, f64::max);
                assert!((found.squares - squares).abs() <= 1e-13 * squares);
                assert!((found.source_squares - sources).abs() <= 1e-13 * sources);
                assert_eq!(found.max_abs, max_abs);
            }
        }
    }
}
