//! Exact attention on operands that are stored in FP32, FP16, BF16, INT8 or INT4, forward and backward: safe Rust over the
//! contract `mfa.h`.
//!
//! ```
//! use mfa::{Attention, Granularity, MfaContext, Quantizer, TensorView};
//!
//! let context = MfaContext::new()?;
//! let data: Vec<f32> = (0..4 * 32 * 64).map(|i| (i as f32 * 0.37).sin()).collect();
//! let query = TensorView::from_slice(&context, &data, [1, 4, 32, 64])?;
//! let int8 = Quantizer::int8().granularity(Granularity::Row);
//! let (key, value) = (int8.quantize(&context, &query)?, int8.quantize(&context, &query)?);
//!
//! let output = Attention::new(&context).causal(true).forward(&query, &key.view(), &value.view())?;
//! assert_eq!(output.shape(), [1, 4, 32, 64]);
//! # Ok::<(), mfa::MfaError>(())
//! ```
//!
//! - [`MfaContext`] is a device, ready to compute: the best one, or one of [`devices`].
//! - [`MfaBuffer`] is memory: its own, or borrowed from a slice without a copy. [`TensorView`] and [`TensorViewMut`] see it
//!   as `[batch, heads, rows, columns]`; [`Tensor`] and [`QuantizedTensor`] own it.
//! - [`Attention`] says what to compute; [`Quantizer`] how to round.
//! - [`merge`] joins attention over parts of the keys.
//! - [`MfaError`] has one variant per status of the contract, with the driver's message.
//!
//! Tensors are checked against their memory in every call, by the driver. Using this crate takes no `unsafe`; its own is in
//! one module. Bindings to other languages find handles and function tables in [`raw`].

#![deny(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../GUIDE.md")]
struct Guide;

mod attention;
mod backward;
mod context;
mod device;
mod devices;
mod element;
mod error;
mod ffi;
mod forward;
mod gradient_args;
mod layout;
mod merge;
mod quantization;
mod quantized;
mod tensor;
mod view;

pub use attention::{Alignment, Attention, Compute};
pub use backward::Gradients;
pub use context::MfaContext;
pub use device::{Device, DeviceKind};
pub use devices::devices;
pub use element::{Element, Precision};
pub use error::{MfaError, Result};
pub use ffi::{MfaBuffer, ReadOnly};
pub use forward::Forward;
pub use gradient_args::{BackwardInputs, BackwardOutputs, DValues};
pub use layout::Shape;
pub use merge::{Part, merge, merge_backward, merge_into};
pub use quantization::{BufferSlice, Granularity, Quantization};
pub use quantized::{QuantizationError, QuantizedParts, QuantizedTensor, Quantizer};
pub use tensor::Tensor;
pub use view::{TensorView, TensorViewMut};

/// Handles and function tables: for bindings to other languages.
pub mod raw {
    #[doc(hidden)]
    pub use crate::ffi::lower;
    pub use crate::ffi::{Context, devices_of, drivers};
    pub use mfa_sys as sys;
}
