//! What the Rust tests share: the float64 reference of attention, the error rule, random numbers, and sessions over the C
//! contract.
//!
//! [`Problem`] evaluates the plain formulas in an [`Arithmetic`]; [`rule`] compares a driver with them. NumPy's
//! `tests/conformance/reference` is the specification and the other, independent oracle.
#![allow(clippy::unwrap_used, clippy::panic)] // A library of tests: what is wrong ends the test.

mod arithmetic;
mod array;
mod backward;
mod forward;
mod operand;
mod problem;
mod random;
pub mod rule;
mod session;
mod tensor;

pub use arithmetic::Arithmetic;
pub use array::{Array, indices};
pub use backward::{Given, Gradients};
pub use forward::Forward;
pub use operand::{Operand, hadamard};
pub use problem::{Mask, Problem, Sequence};
pub use random::{Random, mix};
pub use session::Session;
pub use tensor::{Layout, bits, contiguous, decode, elements, encode};
