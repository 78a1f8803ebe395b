//! Worker threads: the calling thread and as many helpers as asked for, taking items in order until none is left.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result};

/// A fixed number of workers.
pub(crate) struct Pool {
    helpers: Option<rayon::ThreadPool>,
    threads: usize,
}

impl Pool {
    pub(crate) fn new(threads: usize) -> Result<Self> {
        let build = |n: usize| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(n)
                .thread_name(|i| format!("mfa-{i}"))
                .build()
                .map_err(|e| {
                    Error::allocation(format!("{n} worker threads could not be started: {e}"))
                })
        };
        let helpers = if threads > 1 {
            Some(build(threads - 1)?)
        } else {
            None
        };
        Ok(Pool { helpers, threads })
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
            Some(helpers) if workers > 1 => helpers.in_place_scope(|scope| {
                let take = &take;
                for worker in 1..workers {
                    scope.spawn(move |_| take(worker));
                }
                take(0);
            }),
            _ => take(0),
        }
    }
}

/// The processors this process may use, or `MFA_NUM_THREADS`.
pub(crate) fn default_threads() -> Result<usize> {
    match std::env::var("MFA_NUM_THREADS") {
        Ok(text) => match text.trim().parse::<usize>() {
            Ok(n) if (1..=MAX_THREADS).contains(&n) => Ok(n),
            _ => Err(Error::argument(format!(
                "MFA_NUM_THREADS is {text:?}; expected a number from 1 to {MAX_THREADS}"
            ))),
        },
        Err(_) => Ok(std::thread::available_parallelism()
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
}
