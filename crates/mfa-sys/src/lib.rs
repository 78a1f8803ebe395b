//! The C contract of universal quantized Flash Attention.
