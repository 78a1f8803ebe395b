//! Packed operands as slices.

/// `n` rows of a packed operand, each as wide as the tile. Compilers keep a tile in registers that is walked by such slices;
/// with debug assertions, which check every offset of a pointer, too.
pub(super) unsafe fn columns<'a, T, const WIDTH: usize>(
    packed: *const T,
    n: usize,
) -> &'a [[T; WIDTH]] {
    std::slice::from_raw_parts(packed.cast(), n)
}
