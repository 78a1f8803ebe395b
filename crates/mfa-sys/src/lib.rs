//! The C contract of universal quantized Flash Attention, `mfa.h`, in Rust.
//!
//! - Types and constants, as the header declares them.
//! - [`Api`]: a driver's functions as a table. A *driver* is a library that exports exactly the functions of the header;
//!   the crate links to none, so it builds without C compiler and libclang.
//! - [`Driver`]: a table and its origin, linked into the program or loaded from a library.
//!   [`Drivers::find`] collects them in order of preference.
//!
//! The crate `mfa` is the safe interface. The header itself is [`HEADER`], and build scripts of dependents find its folder
//! in the variable `DEP_MFA_INCLUDE`.

#![cfg_attr(not(feature = "loader"), no_std)]

mod api;
mod bindings;
#[cfg(feature = "loader")]
mod loader;
mod structs;

pub use api::{Api, SYMBOLS};
pub use bindings::*;
#[cfg(feature = "loader")]
pub use loader::{DRIVER_VARIABLE, Driver, Drivers, LoadError, Origin, Version};

/// The text of `mfa.h`.
pub const HEADER: &str = include_str!("../include/mfa.h");
