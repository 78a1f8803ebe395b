//! Operands as kernels take them: dequantized rows, masks, padding, and the arithmetic of their products.

pub(crate) mod arithmetic;
pub(crate) mod dequantize;
pub(crate) mod hadamard;
pub(crate) mod mask;
pub(crate) mod padding;
pub(crate) mod row_buffer;
pub(crate) mod rows;
pub(crate) mod scales;
