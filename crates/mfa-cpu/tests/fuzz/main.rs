//! Random calls of every entry of `mfa.h`, most of them nearly legal, on memory that ends at forbidden pages.
//!
//! No call crashes, takes a second of processor time, returns a status that is not documented, or a failure without a
//! message; a refused call has changed nothing, a successful one its results only; what is surely legal succeeds, what is
//! surely illegal is refused. Calls are named by seeds, and made in child processes: a crash names its seed.
//!
//! `MFA_FUZZ_CALLS=10000000` makes more calls, `MFA_FUZZ_FIRST=…` begins with another seed, `MFA_FUZZ_SHOW=1` with
//! `MFA_FUZZ_CHILD=file:seed:end` prints the calls of seeds. `MFA_DRIVER` names another driver.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // Tests; what they found is printed.
#![allow(clippy::needless_update)] // Structs of the contract grow.

mod arena;
mod fixed;
mod general;
mod grammar;
mod lives;
mod mutate;
mod parent;
mod progress;
mod random;
mod tensors;
mod world;

use std::path::Path;

use mfa_sys as sys;

use grammar::Kind;
use world::World;

/// Tells a child process what to do: the file it shares with its parent, its first seed, and the seed after its last.
const CHILD: &str = "MFA_FUZZ_CHILD";

/// Memory that a child may have: what needs more is refused, and does not take the machine's.
const MEMORY: u64 = 4 << 30;

fn driver() -> sys::Api {
    match std::env::var_os(sys::DRIVER_VARIABLE) {
        // SAFETY: the person who names a driver answers for it.
        Some(path) => *Box::leak(Box::new(unsafe { sys::Driver::open(path) }.unwrap())).api(),
        None => mfa_cpu::api(),
    }
}

fn one_seed(world: &mut World, seed: u64) {
    world.begin(seed);
    match world.random.below(22) {
        0..7 => world.general(Kind::Forward),
        7..12 => world.general(Kind::Backward),
        12..15 => world.general(Kind::Quantize),
        15 => world.general(Kind::Dequantize),
        16 => world.general(Kind::Merge),
        17 => world.general(Kind::MergeBackward),
        18 | 19 => world.fixed(),
        _ => world.lives(),
    }
    world.end();
}

/// What a child does: calls, until its seeds are over. Its lines are what `parent` reads.
fn child(work: &str) {
    let mut words = work.rsplitn(3, ':');
    let mut number = || words.next().unwrap().parse::<u64>().unwrap();
    let (end, first) = (number(), number());
    progress::open(Path::new(words.next().unwrap()));
    #[cfg(target_os = "linux")]
    // SAFETY: a limit on this process.
    unsafe {
        let limit = libc::rlimit {
            rlim_cur: MEMORY,
            rlim_max: MEMORY,
        };
        assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &limit), 0);
    }
    let mut world = World::new(driver());
    for seed in first..end {
        progress::at(seed);
        one_seed(&mut world, seed);
        for violation in &world.violations {
            println!("violation {seed} {}", violation.replace('\n', " "));
        }
    }
    for (entry, count) in &world.counts {
        println!("count {entry} {} {}", count.calls, count.successes);
    }
}

#[test]
fn every_entry_keeps_the_contract() {
    match std::env::var(CHILD) {
        Ok(work) => child(&work),
        Err(_) => parent::run(),
    }
}
