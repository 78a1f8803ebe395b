//! Kernels that apply scales which differ within a row of integers.

use std::ptr::null;

use super::decode::{LENGTHS, Storage, matrix, widened};
use super::memory::Guarded;
use super::{Random, tables};
use crate::quantized::{ChannelScales, GroupScales};
use crate::{BLOCK_N, DECODE_ROWS, Kernels, PerInteger, SCORE_LD};

const INTEGERS: [Storage; 2] = [Storage::I8, Storage::I4];

fn pick<F>(storage: Storage, of: &PerInteger<F>) -> &F {
    match storage {
        Storage::I4 => &of.i4,
        _ => &of.i8,
    }
}

/// Scales and zero points that end where memory does.
struct Scales {
    scale: Guarded<f32>,
    zero: Option<Guarded<f32>>,
}

impl Scales {
    fn new(random: &mut Random, n: usize) -> Self {
        let scale = Guarded::from_fn(n, |_| 0.75 + random.float() / 2.0);
        let zeros = random.below(2) == 1;
        let zero = zeros.then(|| Guarded::from_fn(n, |_| (random.below(17) as f32) - 8.0));
        Scales { scale, zero }
    }

    fn zero(&self) -> *const f32 {
        self.zero.as_ref().map_or(null(), |zero| zero.as_ptr())
    }

    fn channels(&self) -> ChannelScales {
        ChannelScales {
            scale: self.scale.as_ptr(),
            zero: self.zero(),
        }
    }

    /// The real number of a stored one.
    fn real(&self, x: f32, at: usize) -> f32 {
        (x - self.zero.as_ref().map_or(0.0, |zero| zero[at])) * self.scale[at]
    }
}

/// Rows of integers in groups of columns, and the real numbers that they stand for.
struct Rows {
    bytes: Guarded<u8>,
    stride: usize,
    scales: Scales,
    groups: GroupScales,
    real: Vec<Vec<f32>>,
}

impl Rows {
    fn new(random: &mut Random, twin: &Kernels, storage: Storage, n: usize, d: usize) -> Self {
        let group = [32, 64, 96][random.below(3)];
        let groups = d.div_ceil(group);
        let ld = [0, groups, groups + 3][random.below(3)];
        let stride = storage.bytes(d) + random.below(5);
        let bytes = matrix(random, storage, n, d, stride);
        let scales = Scales::new(random, (n - 1) * ld + groups);
        let real = (0..n)
            .map(|j| {
                let row = widened(twin, storage, &bytes[j * stride..], d);
                (row.iter().enumerate())
                    .map(|(c, x)| scales.real(*x, j * ld + c / group))
                    .collect()
            })
            .collect();
        let groups = GroupScales {
            scale: scales.scale.as_ptr(),
            zero: scales.zero(),
            ld,
            group,
        };
        Rows {
            bytes,
            stride,
            scales,
            groups,
            real,
        }
    }
}

fn keys(random: &mut Random, d: usize) -> usize {
    let most = if d > 128 { 19 } else { BLOCK_N };
    [1, 2, 7, 16, 19, 65, BLOCK_N][random.below(7)].min(most)
}

/// The sum of `terms`, and the rounding error that FP32 sums of `count` of them may have.
fn sum_and_bound(terms: impl Iterator<Item = f64> + Clone, count: usize) -> (f64, f64) {
    let magnitude: f64 = terms.clone().map(f64::abs).sum();
    let unit = f64::from(f32::EPSILON) / 2.0;
    (terms.sum(), (count + 2) as f64 * unit * magnitude)
}

fn product(a: f32, b: f32) -> f64 {
    f64::from(a) * f64::from(b)
}

#[test]
fn dot_groups_matches_its_twin() {
    let mut random = Random(51);
    for (table, twin) in tables() {
        for storage in INTEGERS {
            for (d, rows) in (LENGTHS.iter()).flat_map(|d| (1..=DECODE_ROWS).map(|r| (*d, r))) {
                let n = keys(&mut random, d);
                let k = Rows::new(&mut random, &twin, storage, n, d);
                let ldq = d + random.below(3);
                let q = random.floats((rows - 1) * ldq + d);
                let mut got = Guarded::new((rows - 1) * SCORE_LD + n, f32::NAN);
                let kernel = *pick(storage, &table.quantized.dot_groups);
                let (from, stride, out) = (k.bytes.as_ptr(), k.stride, got.as_mut_ptr());
                // SAFETY: `n` rows of `d` elements with their scales, `rows` queries, as many rows of scores.
                unsafe { kernel(q.as_ptr(), ldq, rows, from, stride, n, d, k.groups, out) };
                got.check("scores");
                for (i, j) in (0..rows).flat_map(|i| (0..n).map(move |j| (i, j))) {
                    let query = &q[i * ldq..][..d];
                    let terms = query.iter().zip(&k.real[j]).map(|(q, k)| product(*q, *k));
                    let (want, bound) = sum_and_bound(terms, d);
                    let x = got[i * SCORE_LD + j];
                    assert!(
                        (f64::from(x) - want).abs() <= bound,
                        "{}: {storage:?}, d {d}, rows {rows}, ({i}, {j}): {x} and {want}",
                        table.isa
                    );
                }
                for i in 1..rows {
                    assert!(got[i * SCORE_LD - 1].is_nan() || n == SCORE_LD);
                }
            }
        }
    }
}

#[test]
fn axpy_groups_matches_its_twin() {
    let mut random = Random(52);
    for (table, twin) in tables() {
        for storage in INTEGERS {
            for (d, rows) in (LENGTHS.iter()).flat_map(|d| (1..=DECODE_ROWS).map(|r| (*d, r))) {
                let n = keys(&mut random, d);
                let v = Rows::new(&mut random, &twin, storage, n, d);
                let ldo = d + random.below(3);
                let p = random.floats((rows - 1) * SCORE_LD + n);
                let alpha = random.floats(rows);
                let mut got = random.floats((rows - 1) * ldo + d);
                let old = got.to_vec();
                let kernel = *pick(storage, &table.quantized.axpy_groups);
                let (from, stride, out) = (v.bytes.as_ptr(), v.stride, got.as_mut_ptr());
                let (p_ptr, alpha_ptr) = (p.as_ptr(), alpha.as_ptr());
                // SAFETY: `n` rows of `d` elements with their scales, `rows` rows of weights and outputs.
                unsafe {
                    kernel(
                        p_ptr, rows, from, stride, n, d, v.groups, alpha_ptr, out, ldo,
                    )
                };
                got.check("outputs");
                for at in 0..got.len() {
                    let (i, c) = (at / ldo, at % ldo);
                    if c >= d {
                        assert_eq!(got[at], old[at], "written between rows");
                        continue;
                    }
                    let start = std::iter::once(product(alpha[i], old[at]));
                    let terms = (0..n).map(|j| product(p[i * SCORE_LD + j], v.real[j][c]));
                    let (want, bound) = sum_and_bound(start.chain(terms), n);
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

/// Bit by bit, for groups and for channels.
#[test]
fn dequantize_matches_its_twin() {
    let mut random = Random(53);
    for (table, twin) in tables() {
        for storage in INTEGERS {
            for d in LENGTHS {
                let n = keys(&mut random, d).min(20);
                let x = Rows::new(&mut random, &twin, storage, n, d);
                let channels = Scales::new(&mut random, d);
                let ld = d + random.below(3);
                let (from, stride) = (x.bytes.as_ptr(), x.stride);
                let mean = random.floats(d);
                for (by_channels, has_mean) in
                    [(false, false), (true, false), (false, true), (true, true)]
                {
                    let mean_ptr = if has_mean { mean.as_ptr() } else { null() };
                    let mut got = Guarded::new((n - 1) * ld + d, f32::NAN);
                    let out = got.as_mut_ptr();
                    // SAFETY: `n` rows of `d` elements with their scales, as many rows of floats.
                    unsafe {
                        if by_channels {
                            let kernel = *pick(storage, &table.quantized.dequantize_channels);
                            kernel(from, stride, n, d, channels.channels(), mean_ptr, out, ld);
                        } else {
                            let kernel = *pick(storage, &table.quantized.dequantize_groups);
                            kernel(from, stride, n, d, x.groups, mean_ptr, out, ld);
                        }
                    }
                    got.check("out");
                    for (at, got) in got.iter().enumerate() {
                        let (j, c) = (at / ld, at % ld);
                        let row = || widened(&twin, storage, &x.bytes[j * stride..], d);
                        let real = match c < d {
                            true if by_channels => channels.real(row()[c], c),
                            true => x.real[j][c],
                            false => f32::NAN,
                        };
                        let want = match c < d {
                            true if has_mean => real + mean[c],
                            _ => real,
                        };
                        assert_eq!(got.to_bits(), want.to_bits(), "{}: d {d}", table.isa);
                    }
                }
                assert!(x.scales.scale.iter().all(|scale| scale.is_finite()));
            }
        }
    }
}

#[test]
fn scale_columns_matches_its_twin() {
    let mut random = Random(54);
    for (table, _) in tables() {
        for (d, rows) in (LENGTHS.iter()).flat_map(|d| (1..=DECODE_ROWS).map(|r| (*d, r))) {
            let ld = d + random.below(3);
            let q = random.floats((rows - 1) * ld + d);
            let scales = Scales::new(&mut random, d);
            let mut got = Guarded::new((rows - 1) * ld + d, f32::NAN);
            let mut sums = Guarded::new(rows, f32::NAN);
            let (out, totals) = (got.as_mut_ptr(), sums.as_mut_ptr());
            let kernel = table.quantized.scale_columns;
            // SAFETY: `rows` rows of `d` floats on both sides, a scale per column, a sum per row.
            unsafe { kernel(q.as_ptr(), ld, rows, d, scales.channels(), out, totals) };
            got.check("out");
            sums.check("sums");
            for i in 0..rows {
                let folded = &got[i * ld..][..d];
                for c in 0..d {
                    assert_eq!(folded[c], q[i * ld + c] * scales.scale[c], "{}", table.isa);
                }
                let zero = |c: usize| scales.zero.as_ref().map_or(0.0, |zero| zero[c]);
                let terms = (0..d).map(|c| product(folded[c], zero(c)));
                let (want, bound) = sum_and_bound(terms, d);
                let x = f64::from(sums[i]);
                assert!((x - want).abs() <= bound, "{}: d {d}, {i}", table.isa);
            }
        }
    }
}

#[test]
fn add_channels_matches_its_twin() {
    let mut random = Random(55);
    for (table, _) in tables() {
        for (d, rows) in (LENGTHS.iter()).flat_map(|d| (1..=DECODE_ROWS).map(|r| (*d, r))) {
            let n = keys(&mut random, d);
            let ldo = d + random.below(3);
            let x = random.floats((rows - 1) * ldo + d);
            let p = random.floats((rows - 1) * SCORE_LD + n);
            let alpha = random.floats(rows);
            let scales = Scales::new(&mut random, d);
            let mut got = random.floats((rows - 1) * ldo + d);
            let old = got.to_vec();
            let kernel = table.quantized.add_channels;
            let (from, p_ptr, alpha_ptr) = (x.as_ptr(), p.as_ptr(), alpha.as_ptr());
            let (channels, out) = (scales.channels(), got.as_mut_ptr());
            // SAFETY: `rows` rows of `d` sums and outputs, and of `n` weights; a scale per column.
            unsafe { kernel(from, p_ptr, n, rows, d, channels, alpha_ptr, out, ldo) };
            got.check("outputs");
            for at in 0..got.len() {
                let (i, c) = (at / ldo, at % ldo);
                if c >= d {
                    assert_eq!(got[at], old[at], "written between rows");
                    continue;
                }
                let zero = scales.zero.as_ref().map_or(0.0, |zero| zero[c]);
                let factor = f64::from(scales.scale[c]);
                let start = [product(alpha[i], old[at]), f64::from(x[at]) * factor];
                let weights = p[i * SCORE_LD..][..n].iter();
                let zeros = weights.map(|p| -product(*p, zero) * factor);
                let (want, bound) = sum_and_bound(start.into_iter().chain(zeros), n + 2);
                assert!(
                    (f64::from(got[at]) - want).abs() <= bound,
                    "{}: d {d}, n {n}, ({i}, {c}): {} and {want}",
                    table.isa,
                    got[at]
                );
            }
        }
    }
}
