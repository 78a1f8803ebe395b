//! Kernels that read operands as the caller stored them.

use half::{bf16, f16};

use super::memory::Guarded;
use super::{Random, tables};
use crate::{AxpyRows, BLOCK_N, DECODE_ROWS, DotRows, Kernels, PerPrecision, SCORE_LD, ToF32};

pub(super) const LENGTHS: [usize; 18] = [
    1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 64, 65, 80, 96, 127, 128, 512,
];

#[derive(Clone, Copy, Debug)]
pub(super) enum Storage {
    F32,
    F16,
    BF16,
    I8,
    I4,
}

use Storage::{BF16, F16, F32, I4, I8};

impl Storage {
    const ALL: [Storage; 5] = [F32, F16, BF16, I8, I4];

    pub(super) fn bytes(self, n: usize) -> usize {
        match self {
            F32 => 4 * n,
            F16 | BF16 => 2 * n,
            I8 => n,
            I4 => n.div_ceil(2),
        }
    }

    fn pick<F>(self, of: &PerPrecision<F>) -> &F {
        match self {
            F32 => &of.f32,
            F16 => &of.f16,
            BF16 => &of.bf16,
            I8 => &of.i8,
            I4 => &of.i4,
        }
    }

    /// `n` random elements as bytes.
    fn row(self, random: &mut Random, n: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..n {
            let x = random.float();
            match self {
                F32 => bytes.extend(x.to_ne_bytes()),
                F16 => bytes.extend(f16::from_f32(x).to_ne_bytes()),
                BF16 => bytes.extend(bf16::from_f32(x).to_ne_bytes()),
                I8 | I4 => bytes.push(random.next() as u8),
            }
        }
        bytes.truncate(self.bytes(n));
        bytes
    }
}

/// Rows `stride` apart, which begin at any address, and end where memory does.
pub(super) fn matrix(
    random: &mut Random,
    storage: Storage,
    n: usize,
    d: usize,
    stride: usize,
) -> Guarded<u8> {
    let row = storage.bytes(d);
    let mut bytes = vec![0xff; (n - 1) * stride + row];
    for j in 0..n {
        bytes[j * stride..][..row].copy_from_slice(&storage.row(random, d));
    }
    Guarded::from_slice(&bytes)
}

/// The scalar twin reads elements one by one; the elements as f32, through it.
pub(super) fn widened(twin: &Kernels, storage: Storage, row: &[u8], d: usize) -> Vec<f32> {
    let mut out = vec![0.0; d];
    // SAFETY: `row` holds `d` elements.
    unsafe { (storage.pick(&twin.to_f32))(row.as_ptr(), d, out.as_mut_ptr()) };
    out
}

#[test]
fn widen_matches_its_twin() {
    let mut random = Random(31);
    for (table, twin) in tables() {
        for storage in Storage::ALL {
            for n in LENGTHS {
                let x = Guarded::from_slice(&storage.row(&mut random, n));
                let mut got = Guarded::new(n, f32::NAN);
                let kernel: ToF32 = *storage.pick(&table.to_f32);
                // SAFETY: `n` elements on both sides.
                unsafe { kernel(x.as_ptr(), n, got.as_mut_ptr()) };
                got.check("out");
                assert_eq!(
                    &got[..],
                    widened(&twin, storage, &x, n),
                    "{}: {storage:?}, {n}",
                    table.isa
                );
            }
        }
    }
}

/// All 16-bit floats, NaN and infinities and subnormal ones among them, and all bytes and nibbles.
#[test]
fn widen_is_exact_for_every_value() {
    for (table, _) in tables() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        let bytes: Vec<u8> = all.iter().flat_map(|x| x.to_ne_bytes()).collect();
        let mut out = vec![0f32; all.len()];
        // SAFETY: 65536 elements on both sides.
        unsafe { (table.to_f32.f16)(bytes.as_ptr(), all.len(), out.as_mut_ptr()) };
        for (bits, x) in all.iter().zip(&out) {
            let want = f16::from_bits(*bits).to_f32();
            assert!(
                *x == want || (x.is_nan() && want.is_nan()),
                "{}: {bits:x}",
                table.isa
            );
        }
        // SAFETY: 65536 elements on both sides.
        unsafe { (table.to_f32.bf16)(bytes.as_ptr(), all.len(), out.as_mut_ptr()) };
        for (bits, x) in all.iter().zip(&out) {
            let want = f32::from_bits(u32::from(*bits) << 16);
            assert!(
                *x == want || (x.is_nan() && want.is_nan()),
                "{}: {bits:x}",
                table.isa
            );
        }
        let bytes: Vec<u8> = (0..=255).collect();
        let (mut wide, mut narrow) = (vec![0f32; 512], vec![0i8; 512]);
        // SAFETY: 256 elements of a byte, then 512 of half a byte.
        unsafe {
            (table.to_f32.i8)(bytes.as_ptr(), 256, wide.as_mut_ptr());
            assert!(
                (0..256).all(|i| wide[i] == f32::from(bytes[i] as i8)),
                "{}",
                table.isa
            );
            (table.to_f32.i4)(bytes.as_ptr(), 512, wide.as_mut_ptr());
            (table.unpack_i4)(bytes.as_ptr(), 512, narrow.as_mut_ptr());
        }
        for i in 0..512 {
            let nibble = i32::from(bytes[i / 2] >> (4 * (i % 2)) & 15);
            let want = if nibble > 7 { nibble - 16 } else { nibble };
            assert_eq!(
                (wide[i], i32::from(narrow[i])),
                (want as f32, want),
                "{}",
                table.isa
            );
        }
    }
}

#[test]
fn unpack_i4_stays_inside() {
    let mut random = Random(32);
    for (table, _) in tables() {
        for n in [2, 4, 6, 30, 62, 64, 66, 128, 510] {
            let x = Guarded::from_slice(&I4.row(&mut random, n));
            let mut out = Guarded::new(n, 99i8);
            // SAFETY: `n` elements on both sides.
            unsafe { (table.unpack_i4)(x.as_ptr(), n, out.as_mut_ptr()) };
            out.check("out");
            assert!(
                out.iter().all(|x| (-8..8).contains(x)),
                "{}: {n}",
                table.isa
            );
        }
    }
}

#[test]
fn dot_rows_matches_its_twin() {
    let mut random = Random(33);
    for (table, twin) in tables() {
        for storage in Storage::ALL {
            for d in LENGTHS {
                for rows in 1..=DECODE_ROWS {
                    let n = [1, 2, 7, 16, 19, BLOCK_N][random.below(6)].min(if d > 128 {
                        19
                    } else {
                        BLOCK_N
                    });
                    let stride = storage.bytes(d) + random.below(5);
                    let ldq = d + random.below(3);
                    let k = matrix(&mut random, storage, n, d, stride);
                    let q = random.floats((rows - 1) * ldq + d);
                    let mut got = Guarded::new((rows - 1) * SCORE_LD + n, f32::NAN);
                    let kernel: DotRows = *storage.pick(&table.dot_rows);
                    // SAFETY: `n` rows of `d` elements, `rows` queries, as many rows of scores.
                    unsafe {
                        kernel(
                            q.as_ptr(),
                            ldq,
                            rows,
                            k.as_ptr(),
                            stride,
                            n,
                            d,
                            got.as_mut_ptr(),
                        );
                    }
                    got.check("scores");
                    for j in 0..n {
                        let key = widened(&twin, storage, &k[j * stride..], d);
                        for i in 0..rows {
                            let query = &q[i * ldq..][..d];
                            let terms = || {
                                query
                                    .iter()
                                    .zip(&key)
                                    .map(|(q, k)| f64::from(*q) * f64::from(*k))
                            };
                            let want: f64 = terms().sum();
                            let magnitude: f64 = terms().map(f64::abs).sum();
                            let bound = (d + 2) as f64 * f64::from(f32::EPSILON) / 2.0 * magnitude;
                            let x = f64::from(got[i * SCORE_LD + j]);
                            assert!(
                                (x - want).abs() <= bound,
                                "{}: {storage:?}, d {d}, rows {rows}, ({i}, {j}): {x} and {want}",
                                table.isa
                            );
                        }
                        for i in 1..rows {
                            assert!(got[i * SCORE_LD - 1].is_nan(), "written between rows");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn axpy_rows_matches_its_twin() {
    let mut random = Random(34);
    for (table, twin) in tables() {
        for storage in Storage::ALL {
            for d in LENGTHS {
                for rows in 1..=DECODE_ROWS {
                    let n = [1, 2, 7, 16, 19, BLOCK_N][random.below(6)].min(if d > 128 {
                        19
                    } else {
                        BLOCK_N
                    });
                    let stride = storage.bytes(d) + random.below(5);
                    let ldo = d + random.below(3);
                    let v = matrix(&mut random, storage, n, d, stride);
                    let p = random.floats((rows - 1) * SCORE_LD + n);
                    let alpha = random.floats(rows);
                    let mut got = random.floats((rows - 1) * ldo + d);
                    let old = got.to_vec();
                    let kernel: AxpyRows = *storage.pick(&table.axpy_rows);
                    // SAFETY: `n` rows of `d` elements, `rows` rows of weights and outputs.
                    unsafe {
                        kernel(
                            p.as_ptr(),
                            rows,
                            v.as_ptr(),
                            stride,
                            n,
                            d,
                            alpha.as_ptr(),
                            got.as_mut_ptr(),
                            ldo,
                        );
                    }
                    got.check("outputs");
                    let values: Vec<Vec<f32>> = (0..n)
                        .map(|j| widened(&twin, storage, &v[j * stride..], d))
                        .collect();
                    for at in 0..got.len() {
                        let (i, c) = (at / ldo, at % ldo);
                        if c >= d {
                            assert_eq!(got[at], old[at], "written between rows");
                            continue;
                        }
                        let terms = || {
                            (0..n).map(|j| f64::from(p[i * SCORE_LD + j]) * f64::from(values[j][c]))
                        };
                        let start = f64::from(alpha[i]) * f64::from(old[at]);
                        let want = start + terms().sum::<f64>();
                        let magnitude = start.abs() + terms().map(f64::abs).sum::<f64>();
                        let bound = (n + 2) as f64 * f64::from(f32::EPSILON) / 2.0 * magnitude;
                        assert!(
                            (f64::from(got[at]) - want).abs() <= bound,
                            "{}: {storage:?}, d {d}, rows {rows}, ({i}, {c}): {} and {want}",
                            table.isa,
                            got[at]
                        );
                    }
                }
            }
        }
    }
}
