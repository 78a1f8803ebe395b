//! A context: its kernels, worker threads, scratch memory and the record of forward calls.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::error::{Error, Result, ensure};
use crate::runtime::fork;
use crate::runtime::memory::Aligned;
use crate::runtime::pool::{self, MAX_THREADS, Pool};
use crate::runtime::record::Record;
use mfa_kernels::{self as kernels, Kernels};

pub(crate) struct Context {
    pub kernels: &'static Kernels,
    /// Locked during a call: calls on one context run one after another.
    state: Mutex<State>,
    /// Not in the state, so that a buffer can be destroyed during a call.
    records: Mutex<Vec<Record>>,
    /// Bits of the seconds that the last operation took.
    latency: AtomicU64,
    /// See [`fork::generation`].
    generation: usize,
}

/// The state that a running call owns.
pub(crate) struct State {
    threads: usize,
    pool: Option<Pool>,
    memory: Option<Aligned>,
}

impl Context {
    pub(crate) fn new() -> Result<Self> {
        let kernels = kernels::kernels().map_err(Error::argument)?;
        let state = State {
            threads: pool::default_threads()?,
            pool: None,
            memory: None,
        };
        Ok(Context {
            kernels,
            state: Mutex::new(state),
            records: Mutex::default(),
            latency: AtomicU64::new(0),
            generation: fork::generation(),
        })
    }

    /// Whether it was made in this process: a child of a fork has no worker threads of its parent.
    pub(crate) fn is_of_this_process(&self) -> bool {
        self.generation == fork::generation()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn records(&self) -> MutexGuard<'_, Vec<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn latency(&self) -> f64 {
        f64::from_bits(self.latency.load(Ordering::Relaxed))
    }

    /// Runs `work` as the context's only call, and records its time.
    pub(crate) fn timed<T>(&self, work: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let mut state = self.lock();
        let start = Instant::now();
        let result = work(&mut state);
        self.latency
            .store(start.elapsed().as_secs_f64().to_bits(), Ordering::Relaxed);
        result
    }
}

impl Context {
    /// Runs `work` on all workers, with the `bytes` of memory that so many workers need.
    pub(crate) fn on_workers<T>(
        &self,
        bytes: impl FnOnce(usize) -> usize,
        work: impl FnOnce(&Pool, usize, &Aligned) -> T,
    ) -> Result<T> {
        self.timed(|state| {
            let threads = state.threads();
            let (pool, memory) = state.resources(bytes(threads))?;
            Ok(work(pool, threads, memory))
        })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if !self.is_of_this_process() {
            let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
            // Dropping it would wait for threads that this process does not have.
            std::mem::forget(state.pool.take());
        }
    }
}

impl State {
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Sets the number of workers; 0: the default.
    pub(crate) fn set_threads(&mut self, threads: usize) -> Result<()> {
        ensure!(
            threads <= MAX_THREADS,
            argument,
            "threads is {threads}; expected 0 (the default) to {MAX_THREADS}"
        );
        let threads = if threads == 0 {
            pool::default_threads()?
        } else {
            threads
        };
        if threads != self.threads {
            self.threads = threads;
            self.pool = None;
        }
        Ok(())
    }

    /// The workers, and scratch memory of at least `bytes`, kept from call to call.
    pub(crate) fn resources(&mut self, bytes: usize) -> Result<(&Pool, &Aligned)> {
        if self
            .memory
            .as_ref()
            .is_none_or(|memory| memory.len() < bytes)
        {
            self.memory = None;
            self.memory = Some(Aligned::new(bytes)?);
        }
        if self.pool.is_none() {
            self.pool = Some(Pool::new(self.threads)?);
        }
        match (&self.pool, &self.memory) {
            (Some(pool), Some(memory)) => Ok((pool, memory)),
            _ => Err(Error::allocation("no worker threads")),
        }
    }
}
