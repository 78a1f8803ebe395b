//! Calls of the contract as plain values, and their only lowering to its structures: for this crate's builders and for
//! bindings to other languages. Nothing here is part of the crate's stable interface.
//!
//! A value names its buffers by handle. Its `run` is `unsafe` for the same reasons everywhere: handles must be null or live
//! buffers of the context's driver, nothing else may use the memory that a call writes, and nothing may write the memory
//! that it reads. The driver checks in every call that a tensor lies within its buffer.

mod attention;
mod merge;
mod quantize;
mod tensor;

pub use attention::{Backward, Forward, Options, Sequences};
pub use merge::{Merge, MergeBackward};
pub use quantize::{Dequantize, Quantize};
pub use tensor::{BufferPart, Quantization, Tensor, contiguous_strides};

pub use super::buffer::Reserved;
pub(super) use tensor::stride;
