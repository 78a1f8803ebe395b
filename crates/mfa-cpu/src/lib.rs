//! CPU driver of universal quantized Flash Attention.
