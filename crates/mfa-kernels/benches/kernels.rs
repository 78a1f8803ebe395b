//! Every kernel that matters for speed: its time (Criterion), and its share of the peak of the instruction that it is
//! made of, measured in turns with it.
//!
//! `cargo bench -p mfa-kernels --bench kernels [-- FILTER]`; `-- --shares` prints the shares alone.

#![allow(clippy::print_stdout)]

#[path = "support/bf16_split.rs"]
mod bf16_split;
mod support;

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};

use mfa_kernels::{BLOCK_N, Kernels, P8_LD, P16_LD, RowState, SCORE_LD, ScoreScales, kernels};
use support::peak::{Peaks, peaks};
use support::{Aligned, Random, Rate};

/// The peak that a kernel's rate is compared with.
#[derive(Clone, Copy)]
enum Of {
    F32,
    Dot4,
    Dot2,
    /// No instruction bounds it alone; the rate itself is of interest.
    Nothing,
}

struct Case {
    name: String,
    of: Of,
    /// Operations (a product and a sum are two), scores, or bytes of a call.
    operations: f64,
    work: Box<dyn FnMut()>,
}

fn main() {
    let table = match kernels() {
        Ok(table) => table,
        Err(message) => {
            eprintln!("{message}");
            std::process::exit(1);
        }
    };
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filter = arguments.iter().find(|a| !a.starts_with('-'));
    let mut cases = cases(table);
    cases.retain(|case| filter.is_none_or(|f| case.name.contains(f.as_str())));
    println!("instruction set: {}", table.isa);
    if let Some(peaks) = peaks(table.isa) {
        shares(&mut cases, &peaks);
    }
    if arguments.iter().any(|a| a == "--shares" || a == "--test") {
        return;
    }
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500))
        .configure_from_args();
    for case in &mut cases {
        let mut group = criterion.benchmark_group(table.isa.name());
        group.throughput(Throughput::Elements(case.operations as u64));
        group.bench_function(&case.name, |b| b.iter(&mut case.work));
        group.finish();
    }
}

/// Peaks and kernels take turns, so that a noisy neighbour or a change of frequency meets both.
fn shares(cases: &mut [Case], peaks: &Peaks) {
    for case in cases {
        let peak = match case.of {
            Of::F32 => Some(&peaks.f32),
            Of::Dot4 => Some(&peaks.dot4),
            Of::Dot2 => Some(&peaks.dot2),
            Of::Nothing => None,
        };
        let (mut ours, mut ceiling) = (Rate::new(), Rate::new());
        for _ in 0..40 {
            ours.run(case.operations, &mut case.work);
            if let Some(peak) = peak {
                ceiling.run(peak.operations * 1000.0, || (peak.rounds)(1000));
            }
        }
        print!("{:34}{:9.1} G/s", case.name, ours.giga());
        if let Some(peak) = peak {
            let share = 100.0 * ours.giga() / ceiling.giga();
            print!("  {share:5.1} % of {} ({:.1})", peak.name, ceiling.giga());
        }
        println!();
    }
}

fn cases(table: &'static Kernels) -> Vec<Case> {
    let mut cases = Vec::new();
    for d in [64, 128] {
        for rows in [table.mr, table.mr - 1, 3, 1] {
            cases.push(qk_f32(table, d, rows));
            cases.push(pv_f32(table, d, rows));
            cases.push(qk_i8(table, d, rows, false));
            cases.push(pv_i16(table, d, rows));
            cases.push(pv_u8(table, d, rows));
        }
        cases.push(qk_i8(table, d, table.mr, true));
    }
    cases.extend(softmax(table));
    cases.extend(bf16_split::cases(table));
    for d in [64, 128] {
        cases.extend(packs(table, d));
        cases.extend(decode(table, d));
    }
    cases.extend(passes(table));
    cases
}

/// Blocks of a few hundred kilobytes in turn, so that panels come from the second-level cache.
const PANELS_BYTES: usize = 384 << 10;

/// Calls `work` with the index of a block, in turn.
fn in_turn(blocks: usize, mut work: impl FnMut(usize) + 'static) -> Box<dyn FnMut()> {
    let mut at = 0;
    Box::new(move || {
        at = (at + 1) % blocks;
        work(at);
    })
}

fn blocks_of(bytes: usize) -> usize {
    (PANELS_BYTES / bytes).max(1)
}

fn qk_f32(t: &'static Kernels, d: usize, rows: usize) -> Case {
    let mut random = Random(1);
    let q = Aligned::from_fn(t.mr * d, |_| random.float());
    let blocks = blocks_of(BLOCK_N * d * 4);
    let k = Aligned::from_fn(blocks * BLOCK_N * d, |_| random.float());
    let mut s = Aligned::new(t.mr * SCORE_LD, 0f32);
    Case {
        name: format!("qk_f32 d{d} rows{rows}"),
        of: Of::F32,
        operations: (2 * rows * BLOCK_N * d) as f64,
        work: in_turn(blocks, move |b| {
            // SAFETY: a strip, a block of panels, a strip of scores.
            unsafe {
                let k = k.ptr().add(b * BLOCK_N * d);
                (t.qk_f32)(q.ptr(), k, d, rows, BLOCK_N / t.nr, s.ptr_mut());
            }
        }),
    }
}

fn qk_i8(t: &'static Kernels, d: usize, rows: usize, scaled: bool) -> Case {
    let mut random = Random(2);
    let q = Aligned::from_fn(t.mr * d, |_| random.bits() as u8);
    let bytes = t.k_i8_bytes * BLOCK_N * d;
    let blocks = blocks_of(bytes);
    let k = Aligned::from_fn(blocks * bytes, |_| random.bits() as i8);
    let mut s = Aligned::new(t.mr * SCORE_LD, 0f32);
    let bias = Aligned::new(BLOCK_N, 1i32);
    let columns = Aligned::new(BLOCK_N, 1f32);
    let row = Aligned::new(t.mr, 1f32);
    Case {
        name: format!(
            "qk_i8 d{d} rows{rows}{}",
            if scaled { " scale+zero" } else { "" }
        ),
        of: Of::Dot4,
        operations: (2 * rows * BLOCK_N * d) as f64,
        work: in_turn(blocks, move |b| {
            let column = if scaled {
                columns.ptr()
            } else {
                std::ptr::null()
            };
            let scales = ScoreScales {
                col_bias: bias.ptr(),
                col_scale: column,
                col_zero: column,
                row_scale: row.ptr(),
                row_sum: row.ptr(),
                row_add: row.ptr(),
            };
            // SAFETY: a strip, a block of panels, a strip of scores.
            unsafe {
                let k = k.ptr().add(b * bytes);
                (t.qk_i8)(
                    q.ptr(),
                    k,
                    d / 4,
                    rows,
                    BLOCK_N / t.nr,
                    &scales,
                    s.ptr_mut(),
                );
            }
        }),
    }
}

fn pv_f32(t: &'static Kernels, d: usize, rows: usize) -> Case {
    let mut random = Random(3);
    let p = Aligned::from_fn(t.mr * SCORE_LD, |_| random.float());
    let blocks = blocks_of(BLOCK_N * d * 4);
    let v = Aligned::from_fn(blocks * BLOCK_N * d, |_| random.float());
    let alpha = Aligned::new(t.mr, 0.5f32);
    let mut o = Aligned::new(t.mr * d, 0f32);
    Case {
        name: format!("pv_f32 d{d} rows{rows}"),
        of: Of::F32,
        operations: (2 * rows * BLOCK_N * d) as f64,
        work: in_turn(blocks, move |b| {
            // SAFETY: a strip of P, a block of panels, a strip of outputs.
            unsafe {
                let v = v.ptr().add(b * BLOCK_N * d);
                (t.pv_f32)(
                    p.ptr(),
                    v,
                    BLOCK_N,
                    BLOCK_N,
                    rows,
                    d / t.nr,
                    alpha.ptr(),
                    o.ptr_mut(),
                    d,
                );
            }
        }),
    }
}

fn pv_i16(t: &'static Kernels, d: usize, rows: usize) -> Case {
    let mut random = Random(4);
    let p = Aligned::from_fn(t.mr * P16_LD, |_| random.bits() as i16);
    let blocks = blocks_of(BLOCK_N * d * 2);
    let v = Aligned::from_fn(blocks * BLOCK_N * d, |_| random.bits() as i8 as i16);
    let row = Aligned::new(t.mr, 0.5f32);
    let mut o = Aligned::new(t.mr * d, 0f32);
    Case {
        name: format!("pv_i16 d{d} rows{rows}"),
        of: Of::Dot2,
        operations: (2 * rows * BLOCK_N * d) as f64,
        work: in_turn(blocks, move |b| {
            // SAFETY: a strip of P, a block of panels, a strip of outputs.
            unsafe {
                let v = v.ptr().add(b * BLOCK_N * d);
                (t.pv_i16)(
                    p.ptr(),
                    v,
                    BLOCK_N,
                    BLOCK_N,
                    rows,
                    d / t.nr,
                    row.ptr(),
                    row.ptr(),
                    std::ptr::null(),
                    o.ptr_mut(),
                    d,
                );
            }
        }),
    }
}

fn pv_u8(t: &'static Kernels, d: usize, rows: usize) -> Case {
    let mut random = Random(5);
    let p = Aligned::from_fn(t.mr * P8_LD, |_| random.bits() as u8);
    let blocks = blocks_of(BLOCK_N * d);
    let v = Aligned::from_fn(blocks * BLOCK_N * d, |_| random.bits() as i8);
    let row = Aligned::new(t.mr, 0.5f32);
    let sums = Aligned::new(t.mr, 1i32);
    let mut o = Aligned::new(t.mr * d, 0f32);
    Case {
        name: format!("pv_u8 d{d} rows{rows}"),
        of: Of::Dot4,
        operations: (2 * rows * BLOCK_N * d) as f64,
        work: in_turn(blocks, move |b| {
            // SAFETY: a strip of P, a block of panels, a strip of outputs.
            unsafe {
                let v = v.ptr().add(b * BLOCK_N * d);
                (t.pv_u8)(
                    p.ptr(),
                    v,
                    BLOCK_N,
                    BLOCK_N,
                    rows,
                    d / t.nr,
                    row.ptr(),
                    row.ptr(),
                    sums.ptr(),
                    0,
                    o.ptr_mut(),
                    d,
                );
            }
        }),
    }
}

/// Steps of softmax; the rate is in scores.
fn softmax(t: &'static Kernels) -> Vec<Case> {
    let mut cases = Vec::new();
    for n in [BLOCK_N, BLOCK_N - 7] {
        for (name, narrow, scaled) in [
            ("softmax_f32", 0, false),
            ("softmax_i16", 1, false),
            ("softmax_i16 v_scale", 1, true),
            ("softmax_u8", 2, false),
            ("softmax_u8 v_scale", 2, true),
        ] {
            let mut random = Random(6);
            let mut s = Aligned::from_fn(t.mr * SCORE_LD, |_| 4.0 * random.float());
            let mut m = Aligned::new(t.mr, f32::NEG_INFINITY);
            let (mut l, mut alpha, mut p_scale) = (m.clone(), m.clone(), m.clone());
            let mut left = Aligned::new(t.mr, 0f32);
            let mut p_sum = Aligned::new(t.mr, 0i32);
            let mut p16 = Aligned::new(t.mr * P16_LD, 0i16);
            let mut p8 = Aligned::new(t.mr * P8_LD, 0u8);
            let v_scale = Aligned::new(BLOCK_N, 1f32);
            let work = move || {
                let state = RowState {
                    m: m.ptr_mut(),
                    l: l.ptr_mut(),
                    alpha: alpha.ptr_mut(),
                    left: left.ptr_mut(),
                };
                let v = if scaled {
                    v_scale.ptr()
                } else {
                    std::ptr::null()
                };
                let (s, scale) = (s.ptr_mut(), p_scale.ptr_mut());
                // SAFETY: a strip of scores and of P, and as many rows of everything else.
                unsafe {
                    match narrow {
                        0 => (t.softmax_f32)(s, t.mr, n, state),
                        1 => (t.softmax_i16)(s, t.mr, n, state, v, p16.ptr_mut(), scale),
                        _ => (t.softmax_u8)(
                            s,
                            t.mr,
                            n,
                            state,
                            v,
                            p8.ptr_mut(),
                            scale,
                            p_sum.ptr_mut(),
                        ),
                    }
                }
            };
            cases.push(Case {
                name: format!("{name} n{n}"),
                of: Of::Nothing,
                operations: (t.mr * n) as f64,
                work: Box::new(work),
            });
        }
    }
    cases
}

/// Packing; the rate is in elements.
fn packs(t: &'static Kernels, d: usize) -> Vec<Case> {
    let mut random = Random(7);
    let floats = move || Aligned::from_fn(BLOCK_N * d, |_| random.float());
    let mut random = Random(8);
    let bytes = move || Aligned::from_fn(BLOCK_N * d, |_| random.bits() as i8);
    let mut cases = Vec::new();
    let mut add = |name: &str, elements: usize, work: Box<dyn FnMut()>| {
        cases.push(Case {
            name: format!("{name} d{d}"),
            of: Of::Nothing,
            operations: elements as f64,
            work,
        });
    };
    let mut f = floats;
    let mut b = bytes;
    let ldo = d.next_multiple_of(t.nr);
    let (x, mut y) = (f(), Aligned::new(BLOCK_N * ldo, 0f32));
    add(
        "pack_q_f32",
        t.mr * d,
        Box::new(move || {
            // SAFETY: `mr` rows of `d`.
            unsafe { (t.pack_q_f32)(x.ptr(), d, t.mr, d, 0.5, y.ptr_mut()) }
        }),
    );
    let (x, mut y) = (f(), Aligned::new(BLOCK_N * ldo, 0f32));
    add(
        "pack_k_f32",
        BLOCK_N * d,
        Box::new(move || {
            // SAFETY: a block of rows, a block of panels.
            unsafe { (t.pack_k_f32)(x.ptr(), d, BLOCK_N, d, y.ptr_mut()) }
        }),
    );
    let (x, mut y) = (f(), Aligned::new(BLOCK_N * ldo, 0f32));
    add(
        "pack_v_f32",
        BLOCK_N * d,
        Box::new(move || {
            // SAFETY: as above.
            black_box(unsafe { (t.pack_v_f32)(x.ptr(), d, BLOCK_N, d, y.ptr_mut()) });
        }),
    );
    let (x, mut y, mut sums) = (
        b(),
        Aligned::new(BLOCK_N * ldo, 0u8),
        Aligned::new(BLOCK_N, 0i32),
    );
    add(
        "pack_q_i8",
        t.mr * d,
        Box::new(move || {
            // SAFETY: `mr` rows of `d`.
            unsafe { (t.pack_q_i8)(x.ptr(), d, t.mr, d, y.ptr_mut(), sums.ptr_mut()) }
        }),
    );
    let (x, mut y, mut sums) = (
        b(),
        Aligned::new(BLOCK_N * ldo * t.k_i8_bytes, 0i8),
        Aligned::new(BLOCK_N, 0i32),
    );
    add(
        "pack_k_i8",
        BLOCK_N * d,
        Box::new(move || {
            // SAFETY: a block of rows, a block of panels.
            unsafe { (t.pack_k_i8)(x.ptr(), d, BLOCK_N, d, y.ptr_mut(), sums.ptr_mut()) }
        }),
    );
    let (x, mut y) = (b(), Aligned::new(BLOCK_N * ldo, 0i16));
    add(
        "pack_v_i16",
        BLOCK_N * d,
        Box::new(move || {
            // SAFETY: as above.
            unsafe { (t.pack_v_i16)(x.ptr(), d, BLOCK_N, d, std::ptr::null(), y.ptr_mut()) }
        }),
    );
    let (x, mut y) = (b(), Aligned::new(BLOCK_N * ldo, 0i8));
    add(
        "pack_v_i8",
        BLOCK_N * d,
        Box::new(move || {
            // SAFETY: as above.
            unsafe { (t.pack_v_i8)(x.ptr(), d, BLOCK_N, d, y.ptr_mut()) }
        }),
    );
    for (name, kernel, bits) in [
        ("f16 to f32", t.to_f32.f16, 16),
        ("bf16 to f32", t.to_f32.bf16, 16),
        ("i8 to f32", t.to_f32.i8, 8),
        ("i4 to f32", t.to_f32.i4, 4),
    ] {
        let (x, mut y) = (
            Aligned::new(BLOCK_N * d * bits / 8, 1u8),
            Aligned::new(BLOCK_N * d, 0f32),
        );
        add(
            name,
            BLOCK_N * d,
            Box::new(move || {
                // SAFETY: a block of elements on both sides.
                unsafe { kernel(x.ptr(), BLOCK_N * d, y.ptr_mut()) }
            }),
        );
    }
    let (x, mut y) = (
        Aligned::new(BLOCK_N * d / 2, 1u8),
        Aligned::new(BLOCK_N * d, 0i8),
    );
    add(
        "unpack_i4",
        BLOCK_N * d,
        Box::new(move || {
            // SAFETY: a block of elements on both sides.
            unsafe { (t.unpack_i4)(x.ptr(), BLOCK_N * d, y.ptr_mut()) }
        }),
    );
    cases
}

/// Decode kernels on far more keys than caches hold (`memory`), and on a block; the rate is in bytes of K or V.
fn decode(t: &'static Kernels, d: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    let storages = [
        ("f32", t.dot_rows.f32, t.axpy_rows.f32, 32),
        ("f16", t.dot_rows.f16, t.axpy_rows.f16, 16),
        ("bf16", t.dot_rows.bf16, t.axpy_rows.bf16, 16),
        ("i8", t.dot_rows.i8, t.axpy_rows.i8, 8),
        ("i4", t.dot_rows.i4, t.axpy_rows.i4, 4),
    ];
    for (name, dot, axpy, bits) in storages {
        for rows in [1, 4, 8] {
            for (place, total) in [("", 1), ("memory ", 96 << 20)] {
                if rows != 4 && total > 1 {
                    continue;
                }
                let stride = d * bits / 8;
                let bytes = stride * BLOCK_N;
                let blocks = (total / bytes).max(1);
                let x = Aligned::new(blocks * bytes, 1u8);
                let q = Aligned::new(rows * d, 1f32);
                let mut s = Aligned::new(rows * SCORE_LD, 0f32);
                cases.push(Case {
                    name: format!("dot_rows {place}{name} d{d} rows{rows}"),
                    of: Of::Nothing,
                    operations: bytes as f64,
                    work: in_turn(blocks, move |b| {
                        // SAFETY: a block of keys, `rows` queries and rows of scores.
                        unsafe {
                            let k = x.ptr().add(b * bytes);
                            dot(q.ptr(), d, rows, k, stride, BLOCK_N, d, s.ptr_mut());
                        }
                    }),
                });
                let x = Aligned::new(blocks * bytes, 1u8);
                let p = Aligned::new(rows * SCORE_LD, 1f32);
                let alpha = Aligned::new(rows, 0.5f32);
                let mut o = Aligned::new(rows * d, 0f32);
                cases.push(Case {
                    name: format!("axpy_rows {place}{name} d{d} rows{rows}"),
                    of: Of::Nothing,
                    operations: bytes as f64,
                    work: in_turn(blocks, move |b| {
                        // SAFETY: a block of values, `rows` rows of weights and outputs.
                        unsafe {
                            let v = x.ptr().add(b * bytes);
                            let (p, alpha) = (p.ptr(), alpha.ptr());
                            axpy(p, rows, v, stride, BLOCK_N, d, alpha, o.ptr_mut(), d);
                        }
                    }),
                });
            }
        }
    }
    cases
}

/// Passes over rows; the rate is in scores.
fn passes(t: &'static Kernels) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: &str, mut pass: Box<dyn FnMut(*mut f32)>| {
        let mut s = Aligned::new(BLOCK_N, 0.5f32);
        cases.push(Case {
            name: name.to_owned(),
            of: Of::Nothing,
            operations: BLOCK_N as f64,
            work: Box::new(move || pass(s.ptr_mut())),
        });
    };
    let masked = Aligned::new(BLOCK_N, 1u8);
    let added = Aligned::new(BLOCK_N, 0f32);
    // SAFETY: a row of scores, and of the mask.
    add(
        "mask_bool",
        Box::new(move |s| unsafe { (t.mask_bool)(s, masked.ptr(), BLOCK_N) }),
    );
    // SAFETY: as above.
    add(
        "mask_add",
        Box::new(move |s| unsafe { (t.mask_add)(s, added.ptr(), BLOCK_N) }),
    );
    // SAFETY: a row of scores.
    add(
        "softcap",
        Box::new(move |s| unsafe { (t.softcap)(s, BLOCK_N, 50.0) }),
    );
    // SAFETY: a row of scores.
    add(
        "alibi",
        Box::new(move |s| unsafe { (t.alibi)(s, BLOCK_N, 0.5, 100.0) }),
    );
    cases
}
