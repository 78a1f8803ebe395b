//! Gradients of the driver: against plain formulas, which are held against finite differences; the same bits every run;
//! memory that grows with the length and not with its square; the entries for training; refusals.
#![allow(clippy::unwrap_used, clippy::panic)]

mod case;
mod differences;
#[cfg(target_os = "linux")]
mod memory;
mod parity;
mod refusals;
mod run;
mod runs;
mod specials;
mod training;
