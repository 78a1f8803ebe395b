//! The orthonormal Hadamard rotation of a row where speed does not matter: see `mfa_quantization`.

#![forbid(unsafe_code)]

pub(crate) use mfa_kernels::quantize::rotate_row as rotate;
