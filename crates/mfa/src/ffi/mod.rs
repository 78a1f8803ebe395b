//! The edge to the drivers: the only code of this crate that is `unsafe`.

#![allow(unsafe_code)]

mod buffer;
mod call;
mod context;
mod drivers;
pub mod lower;
mod merge;

pub(crate) use buffer::{BufferRef, Reserved};
pub use buffer::{MfaBuffer, ReadOnly};
pub(crate) use call::{BackwardCall, ForwardCall, dequantize, quantize};
pub use context::Context;
pub(crate) use drivers::devices_by_driver;
pub use drivers::{devices_of, drivers};
pub(crate) use merge::{MergeBackwardCall, MergeCall, PartLayouts};
