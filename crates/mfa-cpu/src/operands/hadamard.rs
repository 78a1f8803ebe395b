//! The orthonormal Hadamard rotation of a row where speed does not matter: see `mfa_quantization` (eq. 43, 44 of
//! docs/math.md).

#![forbid(unsafe_code)]

pub(crate) use mfa_kernels::rotate_row as rotate;
