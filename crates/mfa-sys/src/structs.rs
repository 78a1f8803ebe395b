//! Constructors: everything zero, which is the contract's default, and `struct_size` filled in.

use core::mem::{size_of, zeroed};

use crate::bindings::*;

macro_rules! sized {
    ($($name:ident)*) => {$(
        impl $name {
            /// All defaults, with `struct_size` set.
            #[must_use]
            pub const fn new() -> Self {
                // SAFETY: integers, floats and raw pointers: all zero is a value of each.
                let mut new: Self = unsafe { zeroed() };
                // At most a few hundred bytes.
                new.struct_size = size_of::<Self>() as u32;
                new
            }
        }
    )*};
}

sized!(mfa_quantization mfa_attention_options mfa_forward_desc mfa_backward_desc mfa_quantize_desc);
sized!(mfa_merge_desc mfa_merge_backward_desc);

impl mfa_tensor {
    /// A tensor that is not there.
    // SAFETY: integers and raw pointers: all zero is a value of each.
    pub const ABSENT: Self = unsafe { zeroed() };
}
