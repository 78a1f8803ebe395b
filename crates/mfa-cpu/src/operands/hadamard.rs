//! The orthonormal Hadamard rotation of a row: see `mfa_quantization`.

use mfa_kernels::Kernels;

/// Rotates a row in place where speed does not matter. The bits are those of [`rotate_with`].
pub(crate) use mfa_kernels::rotate_row as rotate;

/// Rotates a row in place.
pub(crate) fn rotate_with(kernels: &Kernels, row: &mut [f32]) {
    let (n, at) = (row.len(), row.as_mut_ptr());
    // SAFETY: a row of `n` elements, in place as the kernel allows.
    unsafe { (kernels.quantize.rotate)(at, n, at) };
}
