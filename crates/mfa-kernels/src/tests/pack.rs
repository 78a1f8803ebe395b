//! Packing: equal to the twin, byte for byte.

use super::memory::Guarded;
use super::{Random, round_up, tables};
use crate::BLOCK_N;
use crate::IntegerLayout;

const DEPTHS: [usize; 15] = [1, 2, 3, 4, 5, 15, 16, 17, 31, 33, 63, 64, 65, 128, 512];

/// `n` rows of `d`, `ld` apart: the last one ends where memory does.
fn rows_of<T: Copy>(n: usize, d: usize, ld: usize, f: impl FnMut(usize) -> T) -> Guarded<T> {
    Guarded::from_fn(if n == 0 { 0 } else { (n - 1) * ld + d }, f)
}

#[test]
fn pack_q_matches_its_twin() {
    let mut random = Random(21);
    for (table, twin) in tables() {
        for d in DEPTHS {
            for n in 1..=table.mr {
                let ld = d + random.below(3);
                let x = rows_of(n, d, ld, |_| random.float());
                let mut got = Guarded::new(d * table.mr, f32::NAN);
                let mut want = got.to_vec();
                // SAFETY: operands have the sizes of their layouts.
                unsafe {
                    (table.pack_q_f32)(x.as_ptr(), ld, n, d, 0.3, got.as_mut_ptr());
                    (twin.pack_q_f32)(x.as_ptr(), ld, n, d, 0.3, want.as_mut_ptr());
                }
                got.check("q");
                assert_eq!(&got[..], &want[..], "{}: {n} x {d}", table.isa);

                let x = rows_of(n, d, ld, |_| random.next() as i8);
                let mut got = Guarded::new(round_up(d, 4) * table.mr, 1u8);
                let mut want = got.to_vec();
                let (mut sums, mut want_sums) = (Guarded::new(n, -1i32), vec![-1; n]);
                // SAFETY: operands have the sizes of their layouts.
                unsafe {
                    (table.pack_q_i8)(x.as_ptr(), ld, n, d, got.as_mut_ptr(), sums.as_mut_ptr());
                    (twin.pack_q_i8)(
                        x.as_ptr(),
                        ld,
                        n,
                        d,
                        want.as_mut_ptr(),
                        want_sums.as_mut_ptr(),
                    );
                }
                got.check("q");
                sums.check("sums");
                if table.integer_layout == IntegerLayout::Pairs {
                    assert_eq!(&got[..], &want[..], "{}: {n} x {d}", table.isa);
                }
                assert_eq!(&sums[..], &want_sums[..], "{}: {n} x {d}", table.isa);
            }
        }
    }
}

#[test]
fn pack_k_matches_its_twin() {
    let mut random = Random(22);
    for (table, twin) in tables() {
        for d in DEPTHS {
            for n in [1, 2, 15, 16, 17, 31, 32, 33, 100, BLOCK_N] {
                let ld = d + random.below(3);
                let keys = round_up(n, table.nr);
                let x = rows_of(n, d, ld, |_| random.float());
                let mut got = Guarded::new(keys * d, f32::NAN);
                let mut want = got.to_vec();
                // SAFETY: operands have the sizes of their layouts.
                unsafe {
                    (table.pack_k_f32)(x.as_ptr(), ld, n, d, got.as_mut_ptr());
                    (twin.pack_k_f32)(x.as_ptr(), ld, n, d, want.as_mut_ptr());
                }
                got.check("k");
                assert_eq!(&got[..], &want[..], "{}: {n} x {d}", table.isa);

                let x = rows_of(n, d, ld, |_| random.next() as i8);
                let size = keys * round_up(d, 4);
                let mut got = Guarded::new(size * table.k_i8_bytes, 1i8);
                let mut want = vec![1i8; size];
                let (mut sums, mut want_sums) = (Guarded::new(keys, -1i32), vec![-1; keys]);
                // SAFETY: operands have the sizes of their layouts.
                unsafe {
                    (table.pack_k_i8)(x.as_ptr(), ld, n, d, got.as_mut_ptr(), sums.as_mut_ptr());
                    (twin.pack_k_i8)(
                        x.as_ptr(),
                        ld,
                        n,
                        d,
                        want.as_mut_ptr(),
                        want_sums.as_mut_ptr(),
                    );
                }
                got.check("k");
                sums.check("sums");
                if table.k_i8_bytes == 2 {
                    want = widened_k(&want, table.nr, d.div_ceil(4));
                }
                assert_eq!(&got[..], &want[..], "{}: {n} x {d}", table.isa);
                assert_eq!(&sums[..], &want_sums[..], "{}: {n} x {d}", table.isa);
            }
        }
    }
}

/// The bytes of `[panels][2][d4][nr][2]` i16, from `[panels][d4][nr][4]` i8.
fn widened_k(k: &[i8], nr: usize, d4: usize) -> Vec<i8> {
    let mut out = Vec::new();
    for panel in k.chunks(d4 * nr * 4) {
        for half in 0..2 {
            for group in panel.chunks(4) {
                for x in [group[half], group[half + 2]] {
                    out.extend(i16::from(x).to_ne_bytes().map(|byte| byte as i8));
                }
            }
        }
    }
    out
}

#[test]
fn pack_v_matches_its_twin() {
    let mut random = Random(23);
    for (table, twin) in tables() {
        for d in DEPTHS {
            for n in [1, 2, 3, 4, 5, 6, 7, 33, 100, BLOCK_N] {
                let ld = d + random.below(3);
                let columns = round_up(d, table.nr);
                let mut x = rows_of(n, d, ld, |_| random.float());
                for special in [None, Some(f32::NAN), Some(f32::NEG_INFINITY)] {
                    if let Some(special) = special {
                        x[random.below(n) * ld + random.below(d)] = special;
                    }
                    let mut got = Guarded::new(columns * n, f32::NAN);
                    let mut want = got.to_vec();
                    // SAFETY: operands have the sizes of their layouts.
                    let finite = unsafe {
                        (twin.pack_v_f32)(x.as_ptr(), ld, n, d, want.as_mut_ptr());
                        (table.pack_v_f32)(x.as_ptr(), ld, n, d, got.as_mut_ptr())
                    };
                    got.check("v");
                    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&got), bits(&want), "{}: {n} x {d}", table.isa);
                    assert_eq!(finite, special.is_none(), "{}: {n} x {d}", table.isa);
                }

                let x = rows_of(n, d, ld, |_| random.next() as i8);
                let zeros = Guarded::from_fn(n, |_| random.below(256) as i32 - 128);
                for zero in [std::ptr::null(), zeros.as_ptr()] {
                    let mut got = Guarded::new(columns * round_up(n, 4), 1i16);
                    let mut want = got.to_vec();
                    // SAFETY: operands have the sizes of their layouts.
                    unsafe {
                        (table.pack_v_i16)(x.as_ptr(), ld, n, d, zero, got.as_mut_ptr());
                        (twin.pack_v_i16)(x.as_ptr(), ld, n, d, zero, want.as_mut_ptr());
                    }
                    got.check("v");
                    if table.integer_layout == IntegerLayout::Pairs {
                        assert_eq!(&got[..], &want[..], "{}: {n} x {d}", table.isa);
                    }
                }

                let mut got = Guarded::new(columns * round_up(n, 4), 1i8);
                let mut want = got.to_vec();
                // SAFETY: operands have the sizes of their layouts.
                unsafe {
                    (table.pack_v_i8)(x.as_ptr(), ld, n, d, got.as_mut_ptr());
                    (twin.pack_v_i8)(x.as_ptr(), ld, n, d, want.as_mut_ptr());
                }
                got.check("v");
                assert_eq!(&got[..], &want[..], "{}: {n} x {d}", table.isa);
            }
        }
    }
}
