//! Code that the benches share: rates, memory, and the peaks of this machine.

#![allow(dead_code)]

pub(crate) mod peak;

use std::time::{Duration, Instant};

pub(crate) use mfa_testing::Random;

/// Operations per second, the best of several short runs: what else the machine does can only take away.
pub(crate) struct Rate {
    best: f64,
}

impl Rate {
    pub(crate) fn new() -> Self {
        Rate { best: 0.0 }
    }

    /// One run of about two milliseconds of `work`, which does `operations` each time.
    pub(crate) fn run(&mut self, operations: f64, mut work: impl FnMut()) {
        let mut repeats = 1u32;
        loop {
            let start = Instant::now();
            for _ in 0..repeats {
                work();
            }
            let elapsed = start.elapsed();
            if elapsed >= Duration::from_millis(1) {
                let rate = operations * f64::from(repeats) / elapsed.as_secs_f64();
                self.best = self.best.max(rate);
                return;
            }
            repeats *= 2;
        }
    }

    /// In units of 10^9 per second.
    pub(crate) fn giga(&self) -> f64 {
        self.best / 1e9
    }
}

/// Memory on a boundary of 64 bytes.
#[derive(Clone)]
pub(crate) struct Aligned<T> {
    memory: Vec<T>,
    skip: usize,
    len: usize,
}

impl<T: Copy> Aligned<T> {
    pub(crate) fn from_fn(len: usize, f: impl FnMut(usize) -> T) -> Self {
        let slack = 64 / size_of::<T>();
        let mut f = f;
        let mut memory: Vec<T> = (0..len + slack)
            .map(|i| f(i.min(len.saturating_sub(1))))
            .collect();
        let skip = memory.as_ptr().align_offset(64);
        for i in 0..len {
            memory[skip + i] = f(i);
        }
        Aligned { memory, skip, len }
    }

    pub(crate) fn new(len: usize, fill: T) -> Self {
        Self::from_fn(len, |_| fill)
    }

    pub(crate) fn ptr(&self) -> *const T {
        self.memory[self.skip..][..self.len].as_ptr()
    }

    pub(crate) fn ptr_mut(&mut self) -> *mut T {
        self.memory[self.skip..][..self.len].as_mut_ptr()
    }
}
