//! The ceilings of this machine: peaks of arithmetic, steps of softmax, bandwidth; with one thread and with all.
//!
//! `cargo xtask ceilings [-- --json]`, or `cargo bench -p mfa-kernels --bench ceilings`.

#![allow(clippy::print_stdout)]

mod support;

use std::sync::Barrier;
use std::time::{Duration, Instant};

use mfa_kernels::{BLOCK_N, Isa, Kernels, P8_LD, P16_LD, RowState, SCORE_LD, kernels};
use support::peak::{Peak, peaks};
use support::{Aligned, Random};

/// Bytes that a thread reads from its second-level cache, and from memory.
const L2: usize = 512 << 10;
const DRAM: usize = 256 << 20;
const RUNS: usize = 25;

/// Work of one thread, which owns its memory.
type Work = Box<dyn FnMut() + Send>;

struct Ceiling {
    name: String,
    unit: &'static str,
    /// Rate by number of threads: 1, and all.
    rates: Vec<(usize, f64)>,
}

fn main() {
    let json = std::env::args().any(|a| a == "--json");
    let table = match kernels() {
        Ok(table) => table,
        Err(message) => {
            eprintln!("{message}");
            std::process::exit(1);
        }
    };
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let threads: Vec<usize> = if all > 1 { vec![1, all] } else { vec![1] };
    let ceilings = measure(table, &threads);
    if json {
        print_json(table.isa, &ceilings);
    } else {
        print_table(table.isa, &ceilings);
    }
}

fn measure(table: &'static Kernels, threads: &[usize]) -> Vec<Ceiling> {
    let mut ceilings = Vec::new();
    let mut add = |name: &str, unit, operations: f64, work: &dyn Fn() -> Work| {
        let rates = threads
            .iter()
            .map(|&n| (n, rate(n, operations, work) / 1e9))
            .collect();
        ceilings.push(Ceiling {
            name: name.to_owned(),
            unit,
            rates,
        });
    };
    if let Some(peaks) = peaks(table.isa) {
        for Peak {
            name,
            unit,
            operations,
            rounds,
        } in [peaks.f32, peaks.dot4, peaks.dot2]
            .into_iter()
            .chain(peaks.bf16)
        {
            add(name, unit, operations * 1000.0, &|| {
                Box::new(move || rounds(1000))
            });
        }
        for (name, bytes) in [("read from L2", L2), ("read from memory", DRAM)] {
            add(name, "GB/s", bytes as f64, &|| {
                let memory = Aligned::new(bytes, 1u8);
                // SAFETY: all of it is readable, and its size is a multiple of 256.
                Box::new(move || unsafe { (peaks.read)(memory.ptr(), bytes) })
            });
        }
    }
    let scores = (table.mr * BLOCK_N) as f64;
    for (name, kind) in [
        ("softmax step to f32 (exp, in place)", P::F32),
        ("softmax step to i16", P::I16),
        ("softmax step to u8", P::U8),
    ] {
        add(name, "G/s", scores, &|| step(table, kind));
    }
    ceilings
}

#[derive(Clone, Copy)]
enum P {
    F32,
    I16,
    U8,
}

/// A strip of scores, over and over.
fn step(table: &'static Kernels, kind: P) -> Work {
    let mut random = Random(1);
    let mr = table.mr;
    let mut s = Aligned::from_fn(mr * SCORE_LD, |_| 4.0 * random.float());
    let mut m = Aligned::new(mr, f32::NEG_INFINITY);
    let (mut l, mut alpha, mut p_scale) = (m.clone(), m.clone(), m.clone());
    let mut left = Aligned::new(mr, 0f32);
    let mut p_sum = Aligned::new(mr, 0i32);
    let mut p16 = Aligned::new(mr * P16_LD, 0i16);
    let mut p8 = Aligned::new(mr * P8_LD, 0u8);
    Box::new(move || {
        let state = RowState {
            m: m.ptr_mut(),
            l: l.ptr_mut(),
            alpha: alpha.ptr_mut(),
            left: left.ptr_mut(),
        };
        let v = std::ptr::null();
        // SAFETY: a strip of scores and of P, and as many rows of everything else.
        unsafe {
            match kind {
                P::F32 => (table.softmax_f32)(s.ptr_mut(), mr, BLOCK_N, state),
                P::I16 => (table.softmax_i16)(
                    s.ptr_mut(),
                    mr,
                    BLOCK_N,
                    state,
                    v,
                    p16.ptr_mut(),
                    p_scale.ptr_mut(),
                ),
                P::U8 => (table.softmax_u8)(
                    s.ptr_mut(),
                    mr,
                    BLOCK_N,
                    state,
                    v,
                    p8.ptr_mut(),
                    p_scale.ptr_mut(),
                    p_sum.ptr_mut(),
                ),
            }
        }
    })
}

/// Operations per second of `threads` together, the best of several short runs.
fn rate(threads: usize, operations: f64, work: &dyn Fn() -> Work) -> f64 {
    let works: Vec<Work> = (0..threads).map(|_| work()).collect();
    let barrier = Barrier::new(threads);
    std::thread::scope(|scope| {
        let handles: Vec<_> = works
            .into_iter()
            .map(|mut work| {
                let barrier = &barrier;
                scope.spawn(move || -> Vec<f64> {
                    work();
                    (0..RUNS)
                        .map(|_| {
                            barrier.wait();
                            let start = Instant::now();
                            let mut done = 0.0;
                            while start.elapsed() < Duration::from_millis(4) {
                                work();
                                done += operations;
                            }
                            done / start.elapsed().as_secs_f64()
                        })
                        .collect()
                })
            })
            .collect();
        let rates: Vec<Vec<f64>> = handles.into_iter().filter_map(|h| h.join().ok()).collect();
        (0..RUNS)
            .map(|run| rates.iter().map(|r| r[run]).sum())
            .fold(0.0, f64::max)
    })
}

fn print_table(isa: Isa, ceilings: &[Ceiling]) {
    println!("instruction set: {isa}");
    for Ceiling { name, unit, rates } in ceilings {
        print!("{name:38}");
        for (threads, rate) in rates {
            print!("{rate:10.1} {unit} with {threads}");
        }
        println!();
    }
}

fn print_json(isa: Isa, ceilings: &[Ceiling]) {
    let entries: Vec<String> = ceilings
        .iter()
        .map(|Ceiling { name, unit, rates }| {
            let rates: Vec<String> = rates
                .iter()
                .map(|(threads, rate)| format!("\"{threads}\": {rate:.3}"))
                .collect();
            format!(
                "    {{\"name\": \"{name}\", \"unit\": \"{unit}\", \"by_threads\": {{{}}}}}",
                rates.join(", ")
            )
        })
        .collect();
    println!(
        "{{\n  \"isa\": \"{isa}\",\n  \"ceilings\": [\n{}\n  ]\n}}",
        entries.join(",\n")
    );
}
