//! Worker threads: the calling thread and its helpers, which take items in order until none is left.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Spin time before a worker parks: about the cost of waking it, so that spinning never costs more than twice what parking at
/// once would have. Measured 2026-11-22 on a virtual machine, 2 threads: waking took 0.1 ms of the 0.2 ms of a call of 1 head
/// and 512 rows.
const SPIN: Duration = Duration::from_micros(100);

/// Further attempts to start threads where one failed.
const RETRIES: usize = 4;
/// Time between attempts.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// A fixed number of workers.
pub(crate) struct Pool {
    helpers: Option<rayon::ThreadPool>,
    threads: usize,
    /// Counts the runs. A helper that spins waits for the next count.
    runs: Arc<AtomicUsize>,
}

impl Pool {
    pub(crate) fn new(threads: usize) -> Result<Self> {
        let build = |n: usize| {
            let mut retries = RETRIES;
            loop {
                let built = rayon::ThreadPoolBuilder::new()
                    .num_threads(n)
                    .thread_name(|i| format!("mfa-{i}"))
                    .build();
                match built {
                    Ok(pool) => return Ok(pool),
                    Err(_) if retries > 0 => {
                        // Threads of the failed attempt end by themselves, and keep their memory until then.
                        std::thread::sleep(RETRY_DELAY);
                        retries -= 1;
                    }
                    Err(e) => {
                        let text = format!("{n} worker threads could not be started: {e}");
                        return Err(Error::allocation(text));
                    }
                }
            }
        };
        let helpers = if threads > 1 {
            Some(build(threads - 1)?)
        } else {
            None
        };
        Ok(Pool {
            helpers,
            threads,
            runs: Arc::default(),
        })
    }

    /// Runs `work(worker, item)` for every item. Workers take items in order, one at a time, so that a worker whose CPU is
    /// shared with another process takes fewer. A worker's number is below `workers`, and no two workers share one.
    pub(crate) fn run(&self, workers: usize, items: usize, work: impl Fn(usize, usize) + Sync) {
        let next = AtomicUsize::new(0);
        let take = |worker: usize| {
            loop {
                let item = next.fetch_add(1, Ordering::Relaxed);
                if item >= items {
                    break;
                }
                work(worker, item);
            }
        };
        let workers = workers.min(items).min(self.threads);
        match &self.helpers {
            Some(helpers) if workers > 1 => {
                let running = AtomicUsize::new(workers - 1);
                let caller = processor();
                helpers.in_place_scope(|scope| {
                    let (take, running) = (&take, &running);
                    for worker in 1..workers {
                        scope.spawn(move |_| {
                            migrate_off(caller);
                            take(worker);
                            running.fetch_sub(1, Ordering::Release);
                        });
                    }
                    // Helpers stop spinning now that the queue has work; behind it they find the next spin.
                    let run = self.runs.fetch_add(1, Ordering::Release) + 1;
                    for _ in 1..workers {
                        let runs = Arc::clone(&self.runs);
                        helpers.spawn(move || spin_until(|| runs.load(Ordering::Acquire) != run));
                    }
                    take(0);
                    spin_until(|| running.load(Ordering::Acquire) == 0);
                });
            }
            _ => take(0),
        }
    }
}

/// Spins until `ready` returns true or [`SPIN`] has passed. Never yields: another process could then hold the CPU for a whole
/// time slice of milliseconds.
fn spin_until(ready: impl Fn() -> bool) {
    let start = Instant::now();
    while !ready() && start.elapsed() < SPIN {
        std::hint::spin_loop();
    }
}

/// The CPU that this thread runs on.
#[cfg(target_os = "linux")]
fn processor() -> usize {
    rustix::thread::sched_getcpu()
}

/// Migrates this thread to another CPU if it runs on `caller`, the CPU of the thread that waits for it.
///
/// Where other processes use the other CPUs, a scheduler may leave both threads on one CPU for good. Sharing a CPU with another
/// process is faster. The thread's affinity mask is changed for the migration, and restored.
#[cfg(target_os = "linux")]
fn migrate_off(caller: usize) {
    use rustix::thread::{sched_getaffinity, sched_setaffinity};
    if processor() != caller {
        return;
    }
    let Ok(allowed) = sched_getaffinity(None) else {
        return;
    };
    let mut others = allowed;
    others.unset(caller);
    // Best effort: failing only costs speed.
    if others.count() > 0 && sched_setaffinity(None, &others).is_ok() {
        let _ = sched_setaffinity(None, &allowed);
    }
}

#[cfg(not(target_os = "linux"))]
fn processor() {}

#[cfg(not(target_os = "linux"))]
fn migrate_off((): ()) {}

/// The processors this process may use, or `MFA_NUM_THREADS`.
pub(crate) fn default_threads() -> Result<usize> {
    match std::env::var("MFA_NUM_THREADS") {
        Ok(text) => match text.trim().parse::<usize>() {
            Ok(n) if (1..=MAX_THREADS).contains(&n) => Ok(n),
            _ => Err(Error::argument(format!(
                "MFA_NUM_THREADS is {text:?}; expected a number from 1 to {MAX_THREADS}"
            ))),
        },
        Err(std::env::VarError::NotUnicode(text)) => Err(Error::argument(format!(
            "MFA_NUM_THREADS is {text:?}; expected a number from 1 to {MAX_THREADS}"
        ))),
        Err(std::env::VarError::NotPresent) => Ok(std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(MAX_THREADS)),
    }
}

/// Most threads of a context: more than the CPUs of any machine, and few enough that a mistyped number starts.
pub(crate) const MAX_THREADS: usize = 1024;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Pool;

    #[test]
    fn every_item_runs_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads).unwrap();
            let counts: Vec<_> = (0..100).map(|_| AtomicUsize::new(0)).collect();
            pool.run(threads, counts.len(), |worker, item| {
                assert!(worker < threads);
                counts[item].fetch_add(1, Ordering::Relaxed);
            });
            assert!(
                counts
                    .iter()
                    .all(|count| count.load(Ordering::Relaxed) == 1)
            );
        }
    }

    #[test]
    fn runs_follow_one_another_and_outlive_a_panic() {
        let pool = Pool::new(3).unwrap();
        for round in 0..2000 {
            let sum = AtomicUsize::new(0);
            if round % 500 == 499 {
                // Long enough for helpers to park.
                std::thread::sleep(3 * super::SPIN);
            }
            if round % 100 == 7 {
                let run = std::panic::AssertUnwindSafe(|| {
                    pool.run(3, 6, |_, item| assert!(item != 4, "item 4"))
                });
                assert!(std::panic::catch_unwind(run).is_err());
            }
            pool.run(3, 6, |_, item| {
                sum.fetch_add(item, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 15);
        }
    }
}
