//! Worker threads: the calling thread and as many helpers as asked for, taking items in order until none is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// How long a thread looks for its next work before it sleeps: about what waking it costs, which on a virtual machine is
/// as much as half a short call. So looking never costs more than twice what sleeping at once would have.
const LOOK: Duration = Duration::from_micros(100);

/// How often, and after what time, threads are tried again that could not be started.
const TURNS: usize = 4;
const TURN: Duration = Duration::from_millis(100);

/// A fixed number of workers.
pub(crate) struct Pool {
    helpers: Option<rayon::ThreadPool>,
    threads: usize,
    /// Counts the runs, so that helpers that look for work see the next one.
    runs: Arc<AtomicUsize>,
}

impl Pool {
    pub(crate) fn new(threads: usize) -> Result<Self> {
        let build = |n: usize| {
            let mut turns = TURNS;
            loop {
                let built = rayon::ThreadPoolBuilder::new()
                    .num_threads(n)
                    .thread_name(|i| format!("mfa-{i}"))
                    .build();
                match built {
                    Ok(pool) => return Ok(pool),
                    Err(_) if turns > 0 => {
                        // Those that an earlier attempt did start end by themselves, and have their memory until then.
                        std::thread::sleep(TURN);
                        turns -= 1;
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

    /// Runs `work(worker, item)` for every item. Items are handed out in order, one at a time: a worker that is slowed
    /// down by a busy neighbour just takes fewer. The worker's number is below `workers` and owns its scratch memory.
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
                            leave(caller);
                            take(worker);
                            running.fetch_sub(1, Ordering::Release);
                        });
                    }
                    // Only now, with work in the queue, do helpers stop looking; and they find the next look behind it.
                    let run = self.runs.fetch_add(1, Ordering::Release) + 1;
                    for _ in 1..workers {
                        let runs = Arc::clone(&self.runs);
                        helpers.spawn(move || look(|| runs.load(Ordering::Acquire) != run));
                    }
                    take(0);
                    look(|| running.load(Ordering::Acquire) == 0);
                });
            }
            _ => take(0),
        }
    }
}

/// Waits for `there`, or until it would be better to sleep. It does not yield: a busy neighbour would keep the processor
/// for milliseconds, many short calls long.
fn look(there: impl Fn() -> bool) {
    let start = Instant::now();
    while !there() && start.elapsed() < LOOK {
        std::hint::spin_loop();
    }
}

/// The number of the processor that this thread runs on.
#[cfg(target_os = "linux")]
fn processor() -> usize {
    rustix::thread::sched_getcpu()
}

/// Goes to another processor if this thread is on `caller`, which a scheduler may do to it for good where a busy neighbour
/// has the others: it shares with the neighbour then, and no longer with the thread that waits for it.
#[cfg(target_os = "linux")]
fn leave(caller: usize) {
    use rustix::thread::{sched_getaffinity, sched_setaffinity};
    if processor() != caller {
        return;
    }
    let Ok(allowed) = sched_getaffinity(None) else {
        return;
    };
    let mut others = allowed;
    others.unset(caller);
    // Staying is slower and as right, so errors are of no interest.
    if others.count() > 0 && sched_setaffinity(None, &others).is_ok() {
        let _ = sched_setaffinity(None, &allowed);
    }
}

#[cfg(not(target_os = "linux"))]
fn processor() {}

#[cfg(not(target_os = "linux"))]
fn leave((): ()) {}

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

/// More than any machine has; keeps a mistyped number from starting threads without end.
pub(crate) const MAX_THREADS: usize = 1024;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Pool;

    #[test]
    fn every_item_runs_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads).unwrap();
            let seen: Vec<_> = (0..100).map(|_| AtomicUsize::new(0)).collect();
            pool.run(threads, seen.len(), |worker, item| {
                assert!(worker < threads);
                seen[item].fetch_add(1, Ordering::Relaxed);
            });
            assert!(seen.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn runs_follow_one_another_and_outlive_a_panic() {
        let pool = Pool::new(3).unwrap();
        for round in 0..2000 {
            let sum = AtomicUsize::new(0);
            if round % 500 == 499 {
                // Long enough for helpers to fall asleep.
                std::thread::sleep(3 * super::LOOK);
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
