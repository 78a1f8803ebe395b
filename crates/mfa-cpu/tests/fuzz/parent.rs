//! Child processes: starts them, counts what they did, and finds out which seed ended them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mfa_sys as sys;

use crate::world::Count;
use crate::{CHILD, progress};

/// Calls of a run, if nothing else is asked for.
const CALLS: u64 = 100_000;
/// Seeds of a child.
const SEEDS: u64 = 2_000;
/// A seed makes this many calls or more, on average.
const CALLS_OF_A_SEED: f64 = 1.25;
/// Seconds without a new seed after which a child has hung.
const PATIENCE: Duration = Duration::from_secs(30);
/// Failures after which it is enough.
const ENOUGH: usize = 40;

#[derive(Default)]
struct Found {
    counts: BTreeMap<String, Count>,
    failures: Vec<String>,
}

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => default,
    }
}

pub(crate) fn run() {
    // A driver that cannot be loaded is said once.
    let _ = crate::driver();
    // Where the suite repeats its tests (another instruction set, another driver), some of the calls will do.
    let repeated = ["MFA_CPU_ISA", sys::DRIVER_VARIABLE]
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    let calls = number("MFA_FUZZ_CALLS", if repeated { CALLS / 5 } else { CALLS });
    let first = number("MFA_FUZZ_FIRST", 0);
    let end = first + (calls as f64 / CALLS_OF_A_SEED) as u64;
    let next = AtomicU64::new(first);
    let found = Mutex::new(Found::default());
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for worker in 0..workers {
            let (next, found) = (&next, &found);
            scope.spawn(move || {
                let shared =
                    std::env::temp_dir().join(format!("mfa-fuzz-{}-{worker}", std::process::id()));
                loop {
                    let from = next.fetch_add(SEEDS, Ordering::Relaxed);
                    let enough = found.lock().unwrap().failures.len() >= ENOUGH;
                    if from >= end || enough {
                        break;
                    }
                    range(&shared, from, (from + SEEDS).min(end), found);
                }
                let _ = std::fs::remove_file(shared);
            });
        }
    });
    let found = found.into_inner().unwrap();
    report(&found, calls);
}

/// Runs seeds in child processes: another one from the seed after each that ended one.
fn range(shared: &Path, mut from: u64, end: u64, found: &Mutex<Found>) {
    while from < end {
        let work = format!("{}:{from}:{end}", shared.display());
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            "every_entry_keeps_the_contract",
            "--nocapture",
            "--test-threads=1",
        ]);
        command
            .env(CHILD, work)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let (mut out, mut err) = (
            process.stdout.take().unwrap(),
            process.stderr.take().unwrap(),
        );
        let (ended, text, last) = thread::scope(|scope| {
            let text = scope.spawn(move || {
                let mut text = Vec::new();
                let _ = out.read_to_end(&mut text);
                String::from_utf8_lossy(&text).into_owned()
            });
            let last = scope.spawn(move || {
                let mut text = Vec::new();
                let _ = err.read_to_end(&mut text);
                String::from_utf8_lossy(&text).into_owned()
            });
            let ended = wait(&mut process, shared);
            (ended, text.join().unwrap(), last.join().unwrap())
        });
        let mut found = found.lock().unwrap();
        for line in text.lines() {
            found.line(line);
        }
        let (seed, entry) = progress::read(shared);
        let how = match ended {
            Some(status) if status.success() => return,
            Some(status) => format!("{status}"),
            None => format!("no end after {} s", PATIENCE.as_secs()),
        };
        let last: Vec<&str> = last.lines().filter(|line| !line.is_empty()).collect();
        let last = last[last.len().saturating_sub(3)..].join(" | ");
        found
            .failures
            .push(format!("seed {seed}: {entry}: {how}: {last}"));
        if found.failures.len() >= ENOUGH {
            return;
        }
        from = seed.max(from) + 1;
    }
}

/// Waits for a child; `None` where it had to be killed, because it no longer came on.
fn wait(process: &mut std::process::Child, shared: &Path) -> Option<ExitStatus> {
    let (mut seed, mut since) = (0, Instant::now());
    loop {
        if let Some(status) = process.try_wait().unwrap() {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(20));
        let now = progress::read(shared).0;
        if now != seed {
            (seed, since) = (now, Instant::now());
        }
        if since.elapsed() > PATIENCE {
            let _ = process.kill();
            let _ = process.wait();
            return None;
        }
    }
}

impl Found {
    fn line(&mut self, line: &str) {
        // The test harness writes the beginning of a line.
        if let Some(at) = line.find("violation ") {
            self.failures
                .push(format!("seed {}", &line[at + "violation ".len()..]));
        } else if let Some(at) = line.find("count mfa_") {
            let words: Vec<&str> = line[at..].split(' ').collect();
            let count = self.counts.entry(words[1].to_owned()).or_default();
            count.calls += words[2].parse::<u64>().unwrap();
            count.successes += words[3].parse::<u64>().unwrap();
        }
    }
}

fn report(found: &Found, wanted: u64) {
    let mut table = String::new();
    let (mut calls, mut successes) = (0, 0);
    for (entry, count) in &found.counts {
        let _ = writeln!(
            table,
            "{entry:<40} {:>9} calls {:>9} succeeded",
            count.calls, count.successes
        );
        calls += count.calls;
        successes += count.successes;
    }
    println!(
        "{table}{calls} calls, {successes} succeeded, {} failures",
        found.failures.len()
    );
    let shown = found.failures.join("\n");
    assert!(
        found.failures.is_empty(),
        "{} failures:\n{shown}",
        found.failures.len()
    );
    assert!(calls >= wanted, "{calls} calls; expected {wanted}");
    for symbol in sys::SYMBOLS
        .iter()
        .filter(|name| **name != "mfa_buffer_from_mtl")
    {
        let count = found.counts.get(*symbol).copied().unwrap_or_default();
        // The system has no number for the processor.
        let refuses = *symbol == "mfa_device_registry_id" && count.calls > 0;
        assert!(
            refuses || count.successes > 0,
            "{symbol}: {} calls, none succeeded",
            count.calls
        );
    }
}
