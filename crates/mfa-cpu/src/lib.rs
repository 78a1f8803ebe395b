//! CPU driver of universal quantized Flash Attention.

pub(crate) mod kernels;
