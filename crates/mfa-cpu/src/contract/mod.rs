//! Legal calls: buffers, tensors, quantization, options and sequences, checked once.

pub(crate) mod array;
pub(crate) mod buffer;
pub(crate) mod options;
pub(crate) mod overlap;
pub(crate) mod precision;
pub(crate) mod problem;
mod quant_check;
pub(crate) mod quant_scheme;
pub(crate) mod sequences;
pub(crate) mod sized;
pub(crate) mod tensor;
