//! Exact attention on quantized operands.
