//! Passes over one row of scores, or of an output.

use std::f32::consts::LOG2_E;

use super::memory::Guarded;
use super::{Random, tables};
use crate::BLOCK_N;

const LENGTHS: [usize; 8] = [1, 2, 15, 16, 17, 31, 100, BLOCK_N];

#[test]
fn mask_bool_hides_where_the_mask_is_false() {
    let mut random = Random(41);
    for (table, _) in tables() {
        for n in LENGTHS {
            let mut s = random.floats(n);
            s[n / 2] = f32::NAN;
            let old = s.to_vec();
            let mask = Guarded::from_fn(n, |_| [0u8, 1, 2, 128, 255][random.below(5)]);
            // SAFETY: `n` scores, `n` bytes.
            unsafe { (table.mask_bool)(s.as_mut_ptr(), mask.as_ptr(), n) };
            s.check("scores");
            for j in 0..n {
                let want = if mask[j] == 0 {
                    f32::NEG_INFINITY
                } else {
                    old[j]
                };
                assert_eq!(
                    s[j].to_bits(),
                    want.to_bits(),
                    "{}: n {n}, key {j}",
                    table.isa
                );
            }
        }
    }
}

#[test]
fn mask_add_matches_the_formula_in_f64() {
    let mut random = Random(42);
    for (table, _) in tables() {
        for n in LENGTHS {
            let mut s = random.floats(n);
            let mut mask = random.floats(n);
            for x in mask.iter_mut().skip(1).step_by(5) {
                *x = f32::NEG_INFINITY;
            }
            for x in s.iter_mut().skip(1).step_by(10) {
                *x = f32::NAN;
            }
            let old = s.to_vec();
            // SAFETY: `n` scores, `n` elements of mask.
            unsafe { (table.mask_add)(s.as_mut_ptr(), mask.as_ptr(), n) };
            s.check("scores");
            for j in 0..n {
                if mask[j] == f32::NEG_INFINITY {
                    assert_eq!(s[j], f32::NEG_INFINITY, "{}: n {n}, key {j}", table.isa);
                } else {
                    let want = f64::from(old[j]) + f64::from(mask[j]) * f64::from(LOG2_E);
                    let bound = 4.0 * f64::from(f32::EPSILON);
                    assert!(
                        (f64::from(s[j]) - want).abs() < bound,
                        "{}: n {n}, key {j}",
                        table.isa
                    );
                }
            }
        }
    }
}

#[test]
fn softcap_matches_the_formula_in_f64() {
    let mut random = Random(43);
    for (table, _) in tables() {
        for cap in [0.5f32, 30.0, 72.0] {
            for n in LENGTHS {
                for range in [1e-6, 1e-2, 1.0, 50.0, 500.0] {
                    let mut s = Guarded::from_fn(n, |_| random.float() * range);
                    let old = s.to_vec();
                    // SAFETY: `n` scores.
                    unsafe { (table.softcap)(s.as_mut_ptr(), n, cap) };
                    s.check("scores");
                    for (x, y) in old.iter().zip(s.iter()) {
                        let want = f64::from(cap) * (f64::from(*x) / f64::from(cap)).tanh();
                        let error = (f64::from(*y) - want).abs();
                        assert!(
                            error <= 4.0 * f64::from(f32::EPSILON) * want.abs(),
                            "{}: cap {cap}, {x}: {y} and {want}",
                            table.isa
                        );
                    }
                }
            }
        }
        let specials = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0];
        let mut s = Guarded::from_slice(&specials);
        // SAFETY: five scores.
        unsafe { (table.softcap)(s.as_mut_ptr(), specials.len(), 20.0) };
        assert!(s[0].is_nan(), "{}", table.isa);
        assert_eq!(s[1..], [20.0, -20.0, 0.0, 0.0], "{}", table.isa);
    }
}

#[test]
fn alibi_matches_the_formula_in_f64() {
    let mut random = Random(44);
    for (table, _) in tables() {
        for n in LENGTHS {
            for first in [-3.0f32, 0.0, 7.0, 100_000.0] {
                let mut s = random.floats(n);
                let old = s.to_vec();
                // SAFETY: `n` scores.
                unsafe { (table.alibi)(s.as_mut_ptr(), n, 0.0625, first) };
                s.check("scores");
                for j in 0..n {
                    let want = f64::from(old[j]) - 0.0625 * (f64::from(first) - j as f64).abs();
                    let bound = f64::from(f32::EPSILON) * want.abs().max(1.0);
                    assert!(
                        (f64::from(s[j]) - want).abs() <= bound,
                        "{}: n {n}, key {j}",
                        table.isa
                    );
                }
            }
        }
    }
}

#[test]
fn scale_multiplies_every_element() {
    let mut random = Random(45);
    for (table, _) in tables() {
        for n in LENGTHS {
            let x = random.floats(n);
            let mut out = random.floats(n);
            // SAFETY: `n` floats each.
            unsafe { (table.scale)(x.as_ptr(), n, 0.3, out.as_mut_ptr()) };
            out.check("output");
            for j in 0..n {
                assert_eq!(out[j], 0.3 * x[j], "{}: n {n}, column {j}", table.isa);
            }
            let place = out.as_mut_ptr();
            // SAFETY: in place, as is allowed.
            unsafe { (table.scale)(place, n, 2.0, place) };
            for j in 0..n {
                assert_eq!(out[j], 2.0 * (0.3 * x[j]), "{}: in place", table.isa);
            }
        }
    }
}

#[test]
fn conversions_to_16_bits_round_to_nearest_even() {
    let mut random = Random(46);
    let odd = [
        0x7f80_0001,
        0xff80_0000,
        0x7f7f_ffff,
        0xffff_ffff,
        0x0000_8000,
        0x3f80_8000,
        0x0000_0001,
    ];
    for (table, _) in tables() {
        for n in LENGTHS {
            for round in 0..20 {
                let x = Guarded::from_fn(n, |j| match round {
                    0 => f32::from_bits(odd[j % odd.len()]),
                    _ => f32::from_bits(random.next() as u32),
                });
                let mut out = Guarded::new(n, 7u16);
                // SAFETY: `n` elements each.
                unsafe { (table.to_bf16)(x.as_ptr(), n, out.as_mut_ptr()) };
                out.check("output");
                for j in 0..n {
                    let want = half::bf16::from_f32(x[j]).to_bits();
                    assert_eq!(out[j], want, "{}: {:e}", table.isa, x[j]);
                }
                let mut halves = Guarded::new(n, 7u16);
                // SAFETY: `n` elements each.
                unsafe { (table.to_f16)(x.as_ptr(), n, halves.as_mut_ptr()) };
                halves.check("output");
                for j in 0..n {
                    let want = half::f16::from_f32(x[j]).to_bits();
                    assert_eq!(halves[j], want, "{}: {:e}", table.isa, x[j]);
                }
            }
        }
    }
}

/// Nothing is touched: neither memory that cannot be read, nor what is there.
#[test]
fn prefetch_takes_any_address() {
    for (table, twin) in tables() {
        let x = Guarded::new(3, 1.0f32);
        for at in [
            std::ptr::null(),
            x.as_ptr().cast(),
            x.as_ptr().wrapping_add(1 << 20).cast(),
        ] {
            for bytes in [0, 1, 64, 65, 4096] {
                // SAFETY: any address will do.
                unsafe {
                    (table.prefetch)(at, bytes);
                    (twin.prefetch)(at, bytes);
                }
            }
        }
        x.check("memory");
        assert_eq!(&x[..], [1.0; 3]);
    }
}
