//! Which part runs when: several at once, but never two of a lane.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use anyhow::{Result, anyhow};

/// Parts of one lane use the same build folder or environment, and would wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Cargo's development build.
    Cargo,
    /// The Python environment, and cargo's release build.
    Python,
    /// The Debian root and the Swift packages.
    Swift,
}

/// What has not begun, and what goes on.
struct State<T> {
    waiting: VecDeque<(usize, T)>,
    busy: Vec<Lane>,
    done: Vec<Option<Result<()>>>,
}

/// Calls `run` for every item, by `workers` threads: an item begins when its lane is free, the first in the list before
/// others. The first error is returned, when all items have ended.
pub(super) fn run<T: Send>(
    workers: usize,
    items: Vec<T>,
    lane: impl Fn(&T) -> Lane + Sync,
    run: impl Fn(T) -> Result<()> + Sync,
) -> Result<()> {
    let count = items.len();
    let state = Mutex::new(State {
        waiting: items.into_iter().enumerate().collect(),
        busy: Vec::new(),
        done: (0..count).map(|_| None).collect(),
    });
    let changed = Condvar::new();
    let work = || {
        let mut now = state.lock().unwrap_or_else(PoisonError::into_inner);
        while !now.waiting.is_empty() {
            let free = |(_, item): &(usize, T)| !now.busy.contains(&lane(item));
            let Some((index, item)) =
                (now.waiting.iter().position(free)).and_then(|at| now.waiting.remove(at))
            else {
                now = changed.wait(now).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let its = lane(&item);
            now.busy.push(its);
            drop(now);
            let ended = run(item);
            now = state.lock().unwrap_or_else(PoisonError::into_inner);
            now.busy.retain(|other| *other != its);
            now.done[index] = Some(ended);
            changed.notify_all();
        }
    };
    thread::scope(|scope| {
        for _ in 0..workers.max(1) {
            scope.spawn(work);
        }
    });
    let state = state.into_inner().unwrap_or_else(PoisonError::into_inner);
    state
        .done
        .into_iter()
        .try_for_each(|ended| ended.unwrap_or_else(|| Err(anyhow!("a part did not run"))))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn lanes_take_turns_and_run_beside_each_other() {
        let lanes = [
            Lane::Cargo,
            Lane::Cargo,
            Lane::Python,
            Lane::Cargo,
            Lane::Python,
        ];
        let running = [const { AtomicUsize::new(0) }; 2];
        let order = Mutex::new(Vec::new());
        // The first of each lane waits for the other one: they must run at the same time.
        let met = std::sync::Barrier::new(2);
        let items: Vec<_> = lanes.into_iter().enumerate().collect();
        run(
            2,
            items,
            |item| item.1,
            |(index, lane)| {
                let of = &running[usize::from(lane == Lane::Python)];
                assert_eq!(of.fetch_add(1, Ordering::SeqCst), 0);
                if index == 0 || index == 2 {
                    met.wait();
                }
                order.lock().unwrap().push(index);
                of.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            },
        )
        .unwrap();
        let order = order.into_inner().unwrap();
        let of = |wanted| -> Vec<_> {
            (order
                .iter()
                .copied()
                .filter(|index| lanes[*index] == wanted))
            .collect()
        };
        assert_eq!(of(Lane::Cargo), [0, 1, 3]);
        assert_eq!(of(Lane::Python), [2, 4]);
    }

    #[test]
    fn an_error_stops_nothing_and_is_returned() {
        let ran = AtomicUsize::new(0);
        let ended = run(
            3,
            vec![0, 1, 2, 3],
            |_| Lane::Swift,
            |item| {
                ran.fetch_add(1, Ordering::SeqCst);
                if item == 1 {
                    Err(anyhow!("one"))
                } else {
                    Ok(())
                }
            },
        );
        assert_eq!(ended.unwrap_err().to_string(), "one");
        assert_eq!(ran.into_inner(), 4);
    }
}
